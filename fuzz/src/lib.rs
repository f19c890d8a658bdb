//! One function for each wire that a stranger can write to: bytes in, and whatever must never happen panics.
//!
//! This crate must not do IO, and must not know what it is fed by: `fuzz_targets` gives it to libFuzzer, and
//! `tests/tests/corpus.rs` replays the seeds and cheap changes of them on a stable compiler.

pub mod certificate;
pub mod channel;
pub mod handshake;
pub mod invitation;
pub mod lsdb;
mod member;
pub mod messages;
pub mod packet;
pub mod pdu;
pub mod prefixes;
pub mod record;
mod script;
pub mod shim;
pub mod unicast;

/// One wire.
pub struct Target {
    /// The name of its corpus and of its program.
    pub name: &'static str,
    /// Reads bytes; panics if something is wrong.
    pub run: fn(&[u8]),
    /// Where to begin: file names and bytes, the same on every call.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// How many changed inputs a test can afford.
    pub changes: usize,
}

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target {
        name: "record",
        run: record::run,
        seeds: record::seeds,
        changes: 4000,
    },
    Target {
        name: "messages",
        run: messages::run,
        seeds: messages::seeds,
        changes: 4000,
    },
    Target {
        name: "pdu",
        run: pdu::run,
        seeds: pdu::seeds,
        changes: 4000,
    },
    Target {
        name: "channel",
        run: channel::run,
        seeds: channel::seeds,
        changes: 2000,
    },
    Target {
        name: "handshake",
        run: handshake::run,
        seeds: handshake::seeds,
        changes: 600,
    },
    Target {
        name: "certificate",
        run: certificate::run,
        seeds: certificate::seeds,
        changes: 2000,
    },
    Target {
        name: "prefixes",
        run: prefixes::run,
        seeds: prefixes::seeds,
        changes: 4000,
    },
    Target {
        name: "invitation",
        run: invitation::run,
        seeds: invitation::seeds,
        changes: 4000,
    },
    Target {
        name: "lsdb",
        run: lsdb::run,
        seeds: lsdb::seeds,
        changes: 1000,
    },
    Target {
        name: "shim",
        run: shim::run,
        seeds: shim::seeds,
        changes: 4000,
    },
    Target {
        name: "unicast",
        run: unicast::run,
        seeds: unicast::seeds,
        changes: 500,
    },
    Target {
        name: "packet",
        run: packet::run,
        seeds: packet::seeds,
        changes: 4000,
    },
];
