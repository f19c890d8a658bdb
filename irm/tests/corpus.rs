//! What the fuzzer found worth keeping of SOCKS, and cheap changes of it, on a stable compiler (`fuzz/`).

#![allow(
    clippy::unwrap_used,
    reason = "the whole of it is a test: what fails may panic"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the targets are a crate of their own to the fuzzer, and the proxy writes what no target reads"
)]

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/src/socks.rs"]
mod socks;

replay::replays! {
    socks(4000): no_client_of_the_proxy_breaks_it_or_reaches_an_address;
}
