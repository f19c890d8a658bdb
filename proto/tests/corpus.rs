//! What the fuzzer found worth keeping of records and messages, and cheap changes of it, on a stable compiler (`fuzz/`).

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

#[path = "../../fuzz/src/commands.rs"]
mod commands;
#[path = "../../fuzz/src/messages.rs"]
mod messages;
#[path = "../../fuzz/src/record.rs"]
mod record;
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/src/script.rs"]
mod script;

replay::replays! {
    record(4000): no_record_of_a_data_socket_breaks_its_reader;
    messages(4000): no_message_of_irmd_or_of_a_member_breaks_its_reader;
}
