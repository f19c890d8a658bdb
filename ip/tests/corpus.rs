//! What the fuzzer found worth keeping of frames of a device, and cheap changes of it, on a stable compiler (`fuzz/`).

#![allow(
    clippy::unwrap_used,
    reason = "the whole of it is a test: what fails may panic"
)]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    reason = "the targets are a crate of their own to the fuzzer, and this crate uses a part of what they share"
)]

#[path = "../../fuzz/src/offload.rs"]
mod offload;
#[path = "../../fuzz/replay.rs"]
mod replay;

replay::replays! {
    offload(20000): no_frame_breaks_the_cutting;
}
