//! What the fuzzer found worth keeping of a shim's wire, and cheap changes of it, on a stable compiler (`fuzz/`).

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the whole of it is a test: what fails may panic"
)]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    reason = "the targets are a crate of their own to the fuzzer, and this crate uses a part of what they share"
)]

#[path = "../../fuzz/src/commands.rs"]
mod commands;
#[path = "../../fuzz/src/member.rs"]
mod member;
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/src/script.rs"]
mod script;
#[path = "../../fuzz/src/shim.rs"]
mod shim;

replay::replays! {
    shim(4000): no_datagram_breaks_a_shim;
}
