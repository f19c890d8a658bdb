//! How two neighbours come to hold the same: each says what it holds, and gets what it lacks. It must not change anything.

use std::collections::BTreeMap;
use std::time::Instant;

use prost::Message;
use proto::Addr;
use proto::wire::{self, SignedRecord};

use super::super::record::{Kind, Version};
use super::Lsdb;
use super::store::Stored;
use super::sums::Sums;

impl Lsdb {
    /// All that we hold, in few bytes: for a neighbour whose link came up, and now and then.
    pub fn summary(&self) -> wire::Summary {
        let bits = Sums::bits(self.store.len());
        wire::Summary {
            bits,
            sums: self.sums.coarse(bits),
        }
    }

    /// What we hold where a neighbour holds something else. Nothing if it has far fewer members than we: then it finds
    /// out by our summary what it lacks, and asks for that. `None` if it isn't a summary.
    pub fn differing(&self, theirs: &wire::Summary) -> Option<Vec<wire::Digest>> {
        let bits = Some(theirs.bits).filter(|bits| *bits <= Sums::BITS)?;
        if theirs.sums.len() != 1 << bits {
            return None;
        }
        if bits + COARSE < Sums::bits(self.store.len()) {
            return Some(Vec::new());
        }
        let ours = self.sums.coarse(bits);
        let differ = |i: &usize| ours[*i] != theirs.sums[*i];
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for i in (0..ours.len()).filter(differ) {
            let (first, last) = Sums::range(i as u64, bits);
            match ranges.last_mut() {
                Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
                _ => ranges.push((first, last)),
            }
        }
        let digests = ranges
            .into_iter()
            .flat_map(|(first, last)| self.digests(Addr(first), Addr(last)));
        Some(digests.collect())
    }

    /// What we hold of the origins that a neighbour says something newer of: it answers with that.
    pub fn lacking(&self, theirs: &wire::Digest) -> Vec<wire::Digest> {
        let newer = theirs.versions.iter().filter(|v| {
            let held = Kind::from_wire(v.kind).and_then(|k| self.store.get(Addr(v.origin), k));
            held.is_none_or(|held| held.version() < version_of(v))
        });
        let mut origins: Vec<u64> = newer.map(|v| v.origin).collect();
        origins.dedup();
        if origins.len() > FEW {
            return self.digests(Addr(theirs.first), Addr(theirs.last));
        }
        origins
            .into_iter()
            .flat_map(|origin| self.digests(Addr(origin), Addr(origin)))
            .collect()
    }

    /// What we hold of the origins from `first` to `last`, both included; in several messages of at most 64 KiB.
    pub fn digests(&self, from: Addr, to: Addr) -> Vec<wire::Digest> {
        let members = self.store.sorted(from, to);
        let mut parts: Vec<_> = members.chunks(DIGEST_MEMBERS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let bounds = |i: usize| {
            let first = if i == 0 { from.0 } else { parts[i][0].0.0 };
            // The parts lie without gaps, so that what nobody has is known to be missing too.
            let end = if i == last {
                to.0
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
            .map(|v| ((v.origin, v.kind), version_of(v)))
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

fn version_of(said: &wire::Version) -> Version {
    Version {
        incarnation: said.incarnation,
        counter: said.counter,
    }
}

/// As few messages as hold all records, of at most 64 KiB each.
pub(crate) fn packed(records: impl Iterator<Item = SignedRecord>) -> Vec<wire::Records> {
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
/// So many origins are asked for one by one.
const FEW: usize = 16;
/// A summary that is so many bits coarser than ours is of a neighbour that has yet to learn.
const COARSE: u32 = 2;
