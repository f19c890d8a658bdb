//! What the fuzzer found worth keeping of IP packets and of frames, and cheap changes of it, on a stable compiler (`fuzz/`).

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

#[path = "../../fuzz/src/packet.rs"]
mod packet;
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/src/script.rs"]
mod script;
#[path = "../../fuzz/src/switch.rs"]
mod switch;

replay::replays! {
    packet(4000): no_ip_packet_breaks_the_vpn;
    switch(4000): no_frame_breaks_the_switch;
}
