//! One deadline a key, the earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The deadlines. Setting one replaces the key's former one; one that was cleared wakes nobody.
#[derive(Debug)]
pub struct Timers<K> {
    at: BTreeMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    /// Sets the deadline of a key.
    pub fn set(&mut self, key: K, at: Instant) {
        self.clear(key);
        self.at.insert(key, at);
        self.queue.insert((at, key));
    }

    /// Forgets the deadline of a key, if there is one.
    pub fn clear(&mut self, key: K) {
        if let Some(at) = self.at.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    /// The deadline of a key, if there is one.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.at.get(&key).copied()
    }

    /// Takes the earliest deadline that has come.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }

    /// The earliest.
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            at: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }
}
