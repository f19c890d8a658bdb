//! Which address is behind which port. Bounded in all and for each port, so that one that makes addresses up harms itself alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::{Head, Mac, Switch};
use crate::prefix::Owner;

/// An address in its VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u16, Mac);

#[derive(Debug)]
pub(super) struct Table {
    all: HashMap<Key, Place>,
    /// How many of them each port has.
    shares: HashMap<Owner, usize>,
    /// When those that are too old are to be thrown away.
    sweep: Instant,
    /// What was not learned for lack of room.
    pub(super) overflows: u64,
    /// What was learned anew from another port.
    pub(super) moves: u64,
}

#[derive(Debug)]
struct Place {
    port: Owner,
    seen: Instant,
    /// When it was heard on this host's side last.
    here: Option<Instant>,
}

impl Key {
    pub(super) fn from(head: &Head) -> Self {
        Self(head.vlan, head.from)
    }

    pub(super) fn to(head: &Head) -> Self {
        Self(head.vlan, head.to)
    }
}

impl Place {
    fn lives(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < Switch::AGE
    }
}

impl Table {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: HashMap::new(),
            shares: HashMap::new(),
            sweep: now + SWEEP,
            overflows: 0,
            moves: 0,
        }
    }

    /// Who has an address, as far as is known.
    pub(super) fn find(&self, now: Instant, key: Key) -> Option<Owner> {
        let place = self.all.get(&key).filter(|place| place.lives(now))?;
        Some(place.port)
    }

    /// Whether this host's side has used an address a moment ago.
    pub(super) fn heard_here(&self, now: Instant, key: Key) -> bool {
        self.all.get(&key).is_some_and(|place| {
            let since = now.saturating_duration_since(place.seen);
            place.port == Owner::Me && since < Switch::HOLD
        })
    }

    /// Whether this host's side has used an address within the time that addresses are remembered.
    pub(super) fn was_here(&self, now: Instant, key: Key) -> bool {
        let here = self.all.get(&key).and_then(|place| place.here);
        here.is_some_and(|at| now.saturating_duration_since(at) < Switch::AGE)
    }

    /// Somebody behind the port has used an address.
    pub(super) fn learn(&mut self, now: Instant, key: Key, port: Owner) {
        if now >= self.sweep {
            self.sweep(now);
        }
        let full = self.all.len() >= Switch::MOST;
        let share = self.shares.entry(port).or_default();
        let room = *share < Switch::SHARE;
        let here = (port == Owner::Me).then_some(now);
        let place = |before: Option<Instant>| Place {
            port,
            seen: now,
            here: here.or(before),
        };
        match self.all.entry(key) {
            Entry::Occupied(mut entry) if entry.get().port == port => {
                let before = entry.get().here;
                entry.insert(place(before));
            }
            Entry::Occupied(mut entry) if room => {
                *share += 1;
                self.moves += 1;
                let before = entry.get().here;
                let before = entry.insert(place(before));
                self.leave(before.port);
            }
            // It is no longer where it was, that much is known.
            Entry::Occupied(entry) => {
                let before = entry.remove();
                self.leave(before.port);
                self.overflows += 1;
            }
            Entry::Vacant(entry) if room && !full => {
                *share += 1;
                entry.insert(place(None));
            }
            Entry::Vacant(_) => self.overflows += 1,
        }
    }

    pub(super) fn forget(&mut self, port: Owner) {
        if self.shares.remove(&port).is_some() {
            self.all.retain(|_, place| place.port != port);
        }
    }

    pub(super) fn known(&self, now: Instant) -> HashMap<Owner, usize> {
        let mut known = HashMap::new();
        for place in self.all.values().filter(|place| place.lives(now)) {
            *known.entry(place.port).or_default() += 1;
        }
        known
    }

    fn leave(&mut self, port: Owner) {
        if let Some(share) = self.shares.get_mut(&port) {
            *share -= 1;
        }
    }

    fn sweep(&mut self, now: Instant) {
        let shares = &mut self.shares;
        self.all.retain(|_, place| {
            let lives = place.lives(now);
            if !lives && let Some(share) = shares.get_mut(&place.port) {
                *share -= 1;
            }
            lives
        });
        self.shares.retain(|_, share| *share > 0);
        self.sweep = now + SWEEP;
    }
}

/// Between two looks at all of it.
const SWEEP: Duration = Duration::from_secs(15);
