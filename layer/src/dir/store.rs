//! What this member keeps for others, and who asked for it. It must not keep an entry that its originator didn't sign.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proto::Addr;
use proto::wire::SignedName;

use super::NameHash;
use super::entry::{Entry, EntryError, Held, Version};

/// Entries of other members.
pub(super) struct Store {
    /// How many each originator may have.
    pub(super) most: usize,
    entries: BTreeMap<(NameHash, Addr), Held>,
    /// How many each originator has.
    shares: BTreeMap<Addr, usize>,
    /// How many each has of those that are not for this member to keep: see [`Held::guest`].
    guests: BTreeMap<Addr, usize>,
    /// Who asked for a name lately, the latest last.
    askers: BTreeMap<NameHash, VecDeque<(Addr, Instant)>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            most: MAX_PER_ORIGIN,
            entries: BTreeMap::new(),
            shares: BTreeMap::new(),
            guests: BTreeMap::new(),
            askers: BTreeMap::new(),
        }
    }
}

/// What became of an entry that was not refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is news.
    New,
    /// It is kept already.
    Known,
}

impl Store {
    /// Whether an entry would be kept, as far as that can be told without looking at its signature.
    pub(super) fn would_keep(
        &mut self,
        now: Instant,
        entry: &Entry,
        signed: &SignedName,
        guest: bool,
    ) -> Result<Kept, EntryError> {
        let key = (entry.hash, entry.origin);
        if let Some(held) = self.entries.get_mut(&key) {
            if held.is(signed) {
                // The age isn't signed: one who makes an entry old can't have it forgotten while others say otherwise.
                let new = Held::new(now, *entry, signed.clone());
                held.signed_at = held.signed_at.max(new.signed_at);
                held.taken = now;
                return Ok(Kept::Known);
            }
            if entry.version <= held.entry.version {
                return Err(EntryError::Stale);
            }
            return Ok(Kept::New);
        }
        let share = self.shares.get(&entry.origin).copied().unwrap_or_default();
        if guest && !self.room_for_guest(entry.origin) {
            return Err(EntryError::Full);
        }
        let of_name = self.of(&entry.hash).count();
        if share >= self.most || of_name >= MAX_PER_NAME || self.entries.len() >= MAX_ENTRIES {
            return Err(EntryError::Full);
        }
        Ok(Kept::New)
    }

    /// Keeps an entry whose signature is true and which [`Store::would_keep`] let pass.
    pub(super) fn keep(&mut self, held: Held) {
        let key = (held.entry.hash, held.entry.origin);
        let guest = held.guest;
        let before = self.entries.insert(key, held);
        if before.is_none() {
            *self.shares.entry(key.1).or_default() += 1;
        }
        if guest {
            *self.guests.entry(key.1).or_default() += 1;
        }
        if before.is_some_and(|held| held.guest) {
            less(&mut self.guests, key.1);
        }
    }

    /// What is known of a name that somebody serves.
    pub(super) fn alive(&self, now: Instant, hash: &NameHash) -> impl Iterator<Item = &Held> {
        self.of(hash).filter(move |held| held.lives(now))
    }

    /// Whether there is an entry of that member for that name, withdrawn or not.
    pub(super) fn has(&self, hash: &NameHash, origin: Addr) -> bool {
        self.entries.contains_key(&(*hash, origin))
    }

    /// Which entry of that member for that name there is, withdrawn or not.
    pub(super) fn version(&self, hash: &NameHash, origin: Addr) -> Option<Version> {
        let held = self.entries.get(&(*hash, origin))?;
        Some(held.entry.version)
    }

    /// Notes that a member asked for a name.
    pub(super) fn asked(&mut self, now: Instant, hash: NameHash, by: Addr) {
        if self.askers.len() >= MAX_ASKED && !self.askers.contains_key(&hash) {
            return;
        }
        let askers = self.askers.entry(hash).or_default();
        askers.retain(|(addr, at)| *addr != by && now.saturating_duration_since(*at) < ASKED);
        if askers.len() >= MAX_ASKERS {
            askers.pop_front();
        }
        askers.push_back((by, now));
    }

    /// Who asked for a name lately; they are told once.
    pub(super) fn take_askers(&mut self, now: Instant, hash: &NameHash) -> Vec<Addr> {
        let askers = self.askers.remove(hash).unwrap_or_default();
        let lately = |(_, at): &(Addr, Instant)| now.saturating_duration_since(*at) < ASKED;
        let lately = askers.into_iter().filter(lately);
        lately.map(|(addr, _)| addr).collect()
    }

    /// Its originator says that it serves the name no longer.
    pub(super) fn forget(&mut self, hash: &NameHash, origin: Addr) {
        if let Some(held) = self.entries.remove(&(*hash, origin)) {
            less(&mut self.shares, origin);
            if held.guest {
                less(&mut self.guests, origin);
            }
        }
    }

    /// Forgets what nobody renewed, and what `keep` says no to.
    pub(super) fn sweep(&mut self, now: Instant, keep: impl Fn(&Entry) -> bool) {
        self.sweep_held(now, |held| keep(&held.entry));
    }

    /// The same, by how they are held.
    pub(super) fn sweep_held(&mut self, now: Instant, keep: impl Fn(&Held) -> bool) {
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, held)| held.is_over(now) || !keep(held))
            .map(|(key, _)| *key)
            .collect();
        for (hash, origin) in gone {
            self.forget(&hash, origin);
        }
        for askers in self.askers.values_mut() {
            askers.retain(|(_, at)| now.saturating_duration_since(*at) < ASKED);
        }
        self.askers.retain(|_, askers| !askers.is_empty());
    }

    /// What certain originators have said.
    pub(super) fn by(&self, origins: &BTreeSet<Addr>) -> impl Iterator<Item = (Addr, NameHash)> {
        let keys = self.entries.keys().filter(|key| origins.contains(&key.1));
        keys.map(|(hash, origin)| (*origin, *hash))
    }

    /// All entries of names that somebody serves.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = &Entry> {
        let alive = self.entries.values().filter(move |held| held.lives(now));
        alive.map(|held| &held.entry)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn of(&self, hash: &NameHash) -> impl Iterator<Item = &Held> {
        let range = (*hash, Addr(0))..=(*hash, Addr(u64::MAX));
        self.entries.range(range).map(|(_, held)| held)
    }

    fn room_for_guest(&self, origin: Addr) -> bool {
        let own = self.guests.get(&origin).copied().unwrap_or_default();
        own < MAX_GUESTS_PER_ORIGIN && self.guests.values().sum::<usize>() < MAX_GUESTS
    }
}

fn less(counts: &mut BTreeMap<Addr, usize>, origin: Addr) {
    if let Some(count) = counts.get_mut(&origin) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&origin);
        }
    }
}

/// Entries in all, of one originator, and of one name.
pub(super) const MAX_ENTRIES: usize = 65_536;
pub(super) const MAX_PER_ORIGIN: usize = 4_096;
pub(super) const MAX_PER_NAME: usize = 1_024;
/// Those of neighbours that are not for this member to keep, in all and of one.
const MAX_GUESTS: usize = 16_384;
pub(super) const MAX_GUESTS_PER_ORIGIN: usize = 1_024;
/// How long a member that asked is told of changes: as long as it may remember the answer.
const ASKED: Duration = super::cache::TTL;
const MAX_ASKED: usize = 4_096;
const MAX_ASKERS: usize = 64;
