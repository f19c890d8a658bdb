//! How much a neighbour, and an originator behind it, may ask of this member. It must not know what is asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::Addr;

/// Buckets of tokens. An originator is one that is known. Who said something is known by the link that it came over; an originator only by what it signed,
/// so it has a bucket behind each neighbour: who forges in its name spends only what comes from there.
#[derive(Debug, Default)]
pub(super) struct Rates {
    neighbours: BTreeMap<Addr, Bucket>,
    origins: BTreeMap<(Addr, Addr), Bucket>,
    relayed: BTreeMap<Addr, Bucket>,
}

/// When it would be full, if nothing more were taken.
#[derive(Debug, Clone, Copy)]
struct Bucket(Instant);

impl Rates {
    /// Whether a neighbour may have `n` things looked at.
    pub(super) fn neighbour(&mut self, now: Instant, via: Addr, n: u32) -> bool {
        let bucket = self.neighbours.entry(via).or_insert(Bucket(now));
        bucket.take(now, NEIGHBOUR_EVERY * n, NEIGHBOUR_EVERY * NEIGHBOUR_BURST)
    }

    /// Whether a neighbour may have one more message handed on.
    pub(super) fn relays(&mut self, now: Instant, via: Addr) -> bool {
        let bucket = self.relayed.entry(via).or_insert(Bucket(now));
        bucket.take(now, NEIGHBOUR_EVERY, NEIGHBOUR_EVERY * NEIGHBOUR_BURST)
    }

    /// Whether a signature of an originator that came over a neighbour may be looked at.
    pub(super) fn origin(&mut self, now: Instant, via: Addr, origin: Addr) -> bool {
        if self.origins.len() >= MAX_ORIGINS && !self.origins.contains_key(&(via, origin)) {
            return false;
        }
        let bucket = self.origins.entry((via, origin)).or_insert(Bucket(now));
        bucket.take(now, ORIGIN_EVERY, ORIGIN_EVERY * ORIGIN_BURST)
    }

    /// Forgets those that have asked nothing for a while.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.neighbours.retain(|_, bucket| bucket.0 > now);
        self.relayed.retain(|_, bucket| bucket.0 > now);
        self.origins.retain(|_, bucket| bucket.0 > now);
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, what: Duration, most: Duration) -> bool {
        let full = self.0.max(now) + what;
        let there = full.saturating_duration_since(now) <= most;
        if there {
            self.0 = full;
        }
        there
    }
}

const NEIGHBOUR_EVERY: Duration = Duration::from_micros(250);
const NEIGHBOUR_BURST: u32 = 16_384;
const ORIGIN_EVERY: Duration = Duration::from_millis(5);
/// A member registers all its names at once when it starts, and again when a member near them does.
const ORIGIN_BURST: u32 = 8_192;
const MAX_ORIGINS: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn who_asks_too_much_takes_nothing_from_others_and_is_heard_again_later() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let heard = (0..100_000).filter(|_| rates.neighbour(now, Addr(1), 1));
        assert_eq!(heard.count(), NEIGHBOUR_BURST as usize);
        assert!(rates.neighbour(now, Addr(2), 1));
        let later = now + Duration::from_secs(1);
        let heard = (0..100_000).filter(|_| rates.neighbour(later, Addr(1), 1));
        assert_eq!(heard.count(), 4_000);
        let heard = (0..100_000).filter(|_| rates.origin(now, Addr(1), Addr(3)));
        assert_eq!(heard.count(), ORIGIN_BURST as usize);
        assert!(
            rates.origin(now, Addr(2), Addr(3)),
            "the forger sits elsewhere"
        );
        rates.sweep(now + Duration::from_secs(100));
        assert!(rates.neighbours.is_empty() && rates.origins.is_empty());
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn many_originators_take_a_bounded_room() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let heard = (0..100_000).filter(|i| rates.origin(now, Addr(1), Addr(*i)));
        assert_eq!(heard.count(), MAX_ORIGINS);
        let later = now + Duration::from_secs(1);
        rates.sweep(later);
        assert!(rates.origin(later, Addr(1), Addr(200_000)));
    }
}
