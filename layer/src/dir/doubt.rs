//! Entries of members that were out of reach: they may have been withdrawn where this member could not hear it. It must not
//! doubt what nobody was cut off from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::Addr;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::NameHash;
use super::entry::Version;
use super::store::Store;

/// Whom to ask whether it still serves a name.
#[derive(Default)]
pub(super) struct Doubts {
    open: BTreeSet<(Addr, NameHash)>,
    /// With what was kept when it was asked.
    asked: BTreeMap<u64, (Addr, NameHash, Version)>,
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

    /// Whom to ask now, under which id, for what. What is not kept any more needs no question.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        store: &Store,
        chance: &mut ChaCha20Rng,
    ) -> Vec<(Addr, u64, NameHash)> {
        if self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let some = std::iter::from_fn(|| self.open.pop_first()).take(BURST);
        let some: Vec<_> = some.collect();
        let mut questions = Vec::new();
        for (of, hash) in some {
            let Some(version) = store.version(&hash, of) else {
                continue;
            };
            if self.asked.len() >= MAX_ASKED {
                self.asked.pop_first();
            }
            let id = chance.next_u64();
            self.asked.insert(id, (of, hash, version));
            questions.push((of, id, hash));
        }
        self.next = (!self.open.is_empty()).then_some(now + PAUSE);
        questions
    }

    /// A member answers that question; gives the name, and what was kept of it.
    pub(super) fn answered(&mut self, from: Addr, id: u64) -> Option<(NameHash, Version)> {
        self.asked.get(&id).filter(|(of, ..)| *of == from)?;
        self.asked
            .remove(&id)
            .map(|(_, hash, version)| (hash, version))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

/// Questions at once, and the pause before the next.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);
const MAX_ASKED: usize = 4_096;
