//! How two neighbours come to hold the same: each says what it holds, and gets what it lacks. It must not change anything.

use std::collections::BTreeMap;
use std::time::Instant;

use prost::Message;
use proto::Addr;
use proto::wire::{self, SignedRecord};

use super::super::record::Version;
use super::Lsdb;
use super::store::Stored;

impl Lsdb {
    /// What we hold, for a neighbour whose link came up; several messages of at most 64 KiB.
    pub fn digests(&self) -> Vec<wire::Digest> {
        let members = self.store.sorted(Addr(0), Addr(u64::MAX));
        let mut parts: Vec<_> = members.chunks(DIGEST_MEMBERS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let bounds = |i: usize| {
            let first = if i == 0 { 0 } else { parts[i][0].0.0 };
            // The parts lie without gaps, so that what nobody has is known to be missing too.
            let end = if i == last {
                u64::MAX
            } else {
                parts[i + 1][0].0.0 - 1
            };
            (first, end)
        };
        let digest = |i: usize| {
            let held = parts[i]
                .iter()
                .flat_map(|(_, slot)| self.store.records(*slot));
            let (first, last) = bounds(i);
            wire::Digest {
                versions: held.map(version).collect(),
                first,
                last,
            }
        };
        (0..parts.len()).map(digest).collect()
    }

    /// What the neighbour that sent this digest lacks, in messages of at most 64 KiB.
    pub fn missing(&self, now: Instant, digest: &wire::Digest) -> Vec<wire::Records> {
        let theirs: BTreeMap<(u64, u32), Version> = digest
            .versions
            .iter()
            .map(|v| {
                let version = Version {
                    incarnation: v.incarnation,
                    counter: v.counter,
                };
                ((v.origin, v.kind), version)
            })
            .collect();
        let ours = self.store.sorted(Addr(digest.first), Addr(digest.last));
        let ours = ours.iter().flat_map(|(_, slot)| self.store.records(*slot));
        let newer = ours.filter(|stored| {
            let parsed = &stored.record.parsed;
            theirs
                .get(&(parsed.origin.0, parsed.kind.to_wire()))
                .is_none_or(|version| *version < parsed.version)
        });
        packed(newer.map(|stored| self.store.aged(now, stored)))
    }
}

fn version(stored: &Stored) -> wire::Version {
    let parsed = &stored.record.parsed;
    wire::Version {
        origin: parsed.origin.0,
        kind: parsed.kind.to_wire(),
        incarnation: parsed.version.incarnation,
        counter: parsed.version.counter,
    }
}

/// As few messages as hold all records.
fn packed(records: impl Iterator<Item = SignedRecord>) -> Vec<wire::Records> {
    let (mut messages, mut room) = (Vec::new(), 0);
    for record in records {
        let len = record.encoded_len() + RECORD_FRAME;
        if messages.is_empty() || len > room {
            messages.push(wire::Records::default());
            room = MESSAGE;
        }
        room = room.saturating_sub(len);
        if let Some(last) = messages.last_mut() {
            last.records.push(record);
        }
    }
    messages
}

/// The most bytes of records in a message, less the message's own frame.
const MESSAGE: usize = 65_536 - 16;
/// Tag and length of a record in a message.
const RECORD_FRAME: usize = 5;
/// Members in a digest: five records each, of at most 40 bytes.
const DIGEST_MEMBERS: usize = 320;
