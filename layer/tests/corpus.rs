//! What the fuzzer found worth keeping of a layer's wires, and cheap changes of it, on a stable compiler (`fuzz/`).

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

#[path = "../../fuzz/src/certificate.rs"]
mod certificate;
#[path = "../../fuzz/src/channel.rs"]
mod channel;
#[path = "../../fuzz/src/commands.rs"]
mod commands;
#[path = "../../fuzz/src/directory.rs"]
mod directory;
#[path = "../../fuzz/src/frct.rs"]
mod frct;
#[path = "../../fuzz/src/handshake.rs"]
mod handshake;
#[path = "../../fuzz/src/invitation.rs"]
mod invitation;
#[path = "../../fuzz/src/lsdb.rs"]
mod lsdb;
#[path = "../../fuzz/src/member.rs"]
mod member;
#[path = "../../fuzz/src/pdu.rs"]
mod pdu;
#[path = "../../fuzz/src/policy.rs"]
mod policy;
#[path = "../../fuzz/src/prefixes.rs"]
mod prefixes;
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/src/script.rs"]
mod script;
#[path = "../../fuzz/src/unicast.rs"]
mod unicast;

replay::replays! {
    pdu(4000): no_header_of_a_pdu_breaks_its_reader;
    channel(2000): no_frame_breaks_a_channel;
    frct(3000): no_pdu_or_schedule_breaks_a_flow;
    handshake(600): no_pdu_breaks_a_handshake_or_lends_a_name;
    certificate(2000): no_change_of_a_certificate_is_believed;
    prefixes(4000): a_prefix_extension_has_one_encoding;
    invitation(4000): no_change_of_an_invitation_is_taken;
    directory(500): no_message_makes_a_member_find_whom_nobody_named;
    policy(4000): no_text_breaks_a_policy_or_divides_those_who_judge_by_it;
    lsdb(1000): no_record_of_a_neighbour_breaks_the_database;
    unicast(500): no_input_breaks_a_member;
}
