//! One deadline a socket, the earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::words::SocketKey;

/// The deadlines. Setting one replaces the socket's former one.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<SocketKey, Instant>,
    queue: BTreeSet<(Instant, SocketKey)>,
}

impl Timers {
    pub(super) fn set(&mut self, key: SocketKey, at: Instant) {
        self.clear(key);
        self.at.insert(key, at);
        self.queue.insert((at, key));
    }

    pub(super) fn clear(&mut self, key: SocketKey) {
        if let Some(at) = self.at.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    /// Takes the earliest deadline that has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<SocketKey> {
        let (at, key) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}
