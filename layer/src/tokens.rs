//! Buckets of tokens: how often something may happen. It must not know what.

use std::time::{Duration, Instant};

/// So many at once, and so many in each second afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// What somebody has used of a [`Rate`], as the time at which it may be used whole again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used(Option<Instant>);

impl Used {
    /// Uses one. Says whether there was one.
    pub(crate) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        self.take_all(now, 1, rate)
    }

    /// Uses `n`, or none if there are fewer. Says whether there were so many.
    pub(crate) fn take_all(&mut self, now: Instant, n: u32, rate: Rate) -> bool {
        let one = Duration::from_secs(1) / rate.per_second;
        let full = self.0.unwrap_or(now).max(now) + one * n;
        let there = full.saturating_duration_since(now) <= one * rate.burst;
        if there {
            self.0 = Some(full);
        }
        there
    }

    /// Whether some of it is used: if not, nothing is lost when it is forgotten.
    pub(crate) fn is_used(&self, now: Instant) -> bool {
        self.0.is_some_and(|full| full > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn a_burst_is_followed_by_as_many_as_grow() {
        let (mut used, now) = (Used::default(), Instant::now());
        let rate = Rate {
            burst: 20,
            per_second: 10,
        };
        assert!(!used.is_used(now) && !used.take_all(now, 21, rate) && !used.is_used(now));
        assert!(used.take_all(now, 19, rate) && used.take(now, rate));
        assert!(!used.take(now, rate));
        let later = now + Duration::from_millis(500);
        assert_eq!((0..20).filter(|_| used.take(later, rate)).count(), 5);
        assert!(used.is_used(later) && !used.is_used(now + Duration::from_secs(3)));
    }
}
