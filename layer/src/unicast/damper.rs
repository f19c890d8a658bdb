//! How often a record is sent on: whoever signs ever new ones must not keep the whole layer busy. It must not hold records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::Addr;

/// Which record: its originator and its kind.
pub(super) type Key = (Addr, u32);

/// A bucket of tokens for each record that was sent on lately.
#[derive(Default)]
pub(super) struct Damper {
    /// When the bucket will be full again.
    full: BTreeMap<Key, Instant>,
    /// What must wait; the newest version is sent when its time comes.
    held: BTreeSet<Key>,
    /// When it was last looked which buckets are full again.
    swept: Option<Instant>,
}

impl Damper {
    /// Whether a record may be sent on now. If not, it is due later.
    pub(super) fn passes(&mut self, now: Instant, key: Key) -> bool {
        let full = self.full.entry(key).or_insert(now);
        let passes = !self.held.contains(&key) && earliest(*full) <= now;
        if passes {
            *full = (*full).max(now) + EVERY;
        } else {
            self.held.insert(key);
        }
        passes
    }

    /// The records whose time has come, each once.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        let time = |key: &&Key| self.full.get(key).is_none_or(|full| earliest(*full) <= now);
        let due: Vec<Key> = self.held.iter().filter(time).copied().collect();
        for key in &due {
            self.held.remove(key);
            if let Some(full) = self.full.get_mut(key) {
                *full = (*full).max(now) + EVERY;
            }
        }
        if self.swept.is_none_or(|at| at + EVERY <= now) {
            self.swept = Some(now);
            self.full
                .retain(|key, full| *full > now || self.held.contains(key));
        }
        due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let times = self.held.iter().filter_map(|key| self.full.get(key));
        times.map(|full| earliest(*full)).min()
    }
}

/// When there is a token, in a bucket that will be full then.
fn earliest(full: Instant) -> Instant {
    full.checked_sub(EVERY * (BURST - 1)).unwrap_or(full)
}

/// The time between two versions of one record, in the long run.
const EVERY: Duration = Duration::from_millis(100);
/// Versions that go at once after a time without any: names are registered one by one.
const BURST: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn a_burst_passes_at_once_and_what_follows_in_measured_steps() {
        let (mut damper, start) = (Damper::default(), Instant::now() + Duration::from_secs(60));
        let (one, other) = ((Addr(1), 1), (Addr(1), 2));
        let passed = (0..100).filter(|_| damper.passes(start, one)).count();
        assert_eq!(passed, 20);
        assert!(damper.passes(start, other), "each has a bucket of its own");
        assert_eq!(damper.deadline(), Some(start + EVERY));
        assert!(damper.due(start).is_empty());
        for step in 1..5 {
            let now = start + EVERY * step;
            assert_eq!(damper.due(now), [one]);
            assert!(damper.due(now).is_empty() && damper.deadline().is_none());
            assert!(!damper.passes(now, one));
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(damper.due(later), [one]);
        assert!(damper.due(later + EVERY).is_empty());
        assert!(damper.full.is_empty(), "nothing is kept of a quiet record");
    }
}
