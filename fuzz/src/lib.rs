//! One function for each wire that a stranger can write to: bytes in, and whatever must never happen panics.
//!
//! This crate must not do IO, and must not know what it is fed by: `fuzz_targets` gives it to libFuzzer, and
//! `tests/corpus.rs` of the crate that owns the wire replays the seeds and cheap changes of them on a stable compiler
//! (`replay.rs`). So a module uses no other than `commands` and `script`, and what needs a member `member`.

pub mod certificate;
pub mod channel;
mod commands;
pub mod frct;
pub mod directory;
pub mod handshake;
pub mod invitation;
pub mod lsdb;
mod member;
pub mod messages;
pub mod offload;
pub mod packet;
pub mod pdu;
pub mod policy;
pub mod prefixes;
pub mod record;
mod script;
pub mod shim;
pub mod socks;
pub mod switch;
pub mod unicast;
