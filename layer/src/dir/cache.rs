//! What others have answered, remembered for a while. It must not be told on to anybody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::Addr;

use super::NameHash;
use super::entry::{Entry, Version};

/// Names that were found.
#[derive(Default)]
pub(super) struct Cache(BTreeMap<NameHash, Found>);

struct Found {
    by: BTreeMap<Addr, Version>,
    until: Instant,
}

impl Cache {
    /// Remembers what an entry says; it is true.
    pub(super) fn learn(&mut self, now: Instant, entry: &Entry) {
        if entry.withdrawn {
            return self.gone(entry);
        }
        self.make_room(now, &entry.hash);
        let found = self.0.entry(entry.hash).or_insert_with(|| Found {
            by: BTreeMap::new(),
            until: now + TTL,
        });
        if found.until <= now {
            found.by.clear();
        }
        if found.by.is_empty() {
            found.until = now + TTL;
        }
        let known = found.by.entry(entry.origin).or_insert(entry.version);
        *known = entry.version.max(*known);
    }

    /// An entry was withdrawn.
    pub(super) fn gone(&mut self, entry: &Entry) {
        if let Some(found) = self.0.get_mut(&entry.hash) {
            let older = found.by.get(&entry.origin) <= Some(&entry.version);
            if older {
                found.by.remove(&entry.origin);
            }
        }
    }

    /// A member serves a name no longer, by its own word.
    pub(super) fn forget(&mut self, hash: &NameHash, origin: Addr) {
        if let Some(found) = self.0.get_mut(hash) {
            found.by.remove(&origin);
        }
    }

    /// A member serves nothing any longer.
    pub(super) fn expel(&mut self, origin: Addr) {
        for found in self.0.values_mut() {
            found.by.remove(&origin);
        }
    }

    /// What is known of a name is not enough: it is asked for anew.
    pub(super) fn drop_name(&mut self, hash: &NameHash) {
        self.0.remove(hash);
    }

    /// Who serves a name.
    pub(super) fn get(&self, now: Instant, hash: &NameHash) -> impl Iterator<Item = Addr> {
        let found = self.0.get(hash).filter(|found| found.until > now);
        found.into_iter().flat_map(|f| f.by.keys().copied())
    }

    /// All that is remembered.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = (&NameHash, Addr)> {
        let young = self.0.iter().filter(move |(_, found)| found.until > now);
        young.flat_map(|(hash, found)| found.by.keys().map(move |addr| (hash, *addr)))
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.0
            .retain(|_, found| found.until > now && !found.by.is_empty());
    }

    fn make_room(&mut self, now: Instant, hash: &NameHash) {
        if self.0.len() < MAX_NAMES || self.0.contains_key(hash) {
            return;
        }
        self.sweep(now);
        if self.0.len() >= MAX_NAMES {
            let first = self.0.iter().min_by_key(|(_, found)| found.until);
            if let Some(first) = first.map(|(hash, _)| *hash) {
                self.0.remove(&first);
            }
        }
    }
}

/// How long an answer is remembered.
pub(super) const TTL: Duration = Duration::from_secs(60);
const MAX_NAMES: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hash: u64, origin: u64, counter: u64, withdrawn: bool) -> Entry {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&hash.to_be_bytes());
        Entry {
            hash: bytes,
            origin: Addr(origin),
            version: Version {
                incarnation: 1,
                counter,
            },
            life: Duration::from_secs(1800),
            withdrawn,
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn an_answer_lasts_a_minute_unless_it_is_taken_back() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (one, other) = (entry(1, 1, 5, false), entry(1, 2, 5, false));
        cache.learn(now, &one);
        cache.learn(now + TTL / 2, &other);
        let get = |cache: &Cache, at| cache.get(at, &one.hash).collect::<Vec<_>>();
        assert_eq!(get(&cache, now + TTL / 2), [Addr(1), Addr(2)]);
        cache.gone(&entry(1, 1, 4, true));
        assert_eq!(get(&cache, now).len(), 2, "it was withdrawn before");
        cache.gone(&entry(1, 1, 6, true));
        assert_eq!(get(&cache, now), [Addr(2)]);
        assert!(get(&cache, now + TTL).is_empty());
        cache.learn(now + TTL, &one);
        assert_eq!(get(&cache, now + TTL), [Addr(1)], "the other is too old");
        cache.forget(&one.hash, Addr(1));
        cache.sweep(now + TTL);
        assert!(cache.0.is_empty());
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn the_oldest_answer_goes_for_the_newest() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for i in 0..MAX_NAMES as u64 + 10 {
            cache.learn(now + Duration::from_millis(i), &entry(i, 1, 1, false));
        }
        assert_eq!(cache.0.len(), MAX_NAMES);
        assert_eq!(cache.get(now, &entry(9, 1, 1, false).hash).count(), 0);
        assert_eq!(cache.get(now, &entry(10, 1, 1, false).hash).count(), 1);
    }
}
