//! Entries of members that were out of reach: they may have been withdrawn where this member could not hear it. It must not
//! doubt what nobody was cut off from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::Addr;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::NameHash;

/// Whom to ask whether it still serves a name.
#[derive(Default)]
pub(super) struct Doubts {
    open: BTreeSet<(Addr, NameHash)>,
    asked: BTreeMap<u64, (Addr, NameHash)>,
    next: Option<Instant>,
}

impl Doubts {
    /// Doubts these entries.
    pub(super) fn add(&mut self, now: Instant, entries: impl Iterator<Item = (Addr, NameHash)>) {
        self.open.extend(entries);
        if !self.open.is_empty() {
            self.next.get_or_insert(now);
        }
    }

    /// Whom to ask now, under which id, for what.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        chance: &mut ChaCha20Rng,
    ) -> Vec<(Addr, u64, NameHash)> {
        if self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let some = std::iter::from_fn(|| self.open.pop_first()).take(BURST);
        let some: Vec<_> = some
            .map(|(of, hash)| (of, chance.next_u64(), hash))
            .collect();
        for (of, id, hash) in &some {
            if self.asked.len() >= MAX_ASKED {
                self.asked.pop_first();
            }
            self.asked.insert(*id, (*of, *hash));
        }
        self.next = (!self.open.is_empty()).then_some(now + PAUSE);
        some
    }

    /// A member answers that question; gives the name.
    pub(super) fn answered(&mut self, from: Addr, id: u64) -> Option<NameHash> {
        self.asked.get(&id).filter(|(of, _)| *of == from)?;
        self.asked.remove(&id).map(|(_, hash)| hash)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

/// Questions at once, and the pause before the next.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);
const MAX_ASKED: usize = 4_096;
