//! How much a neighbour, and an originator behind it, may ask of this member. It must not know what is asked.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::Addr;

use crate::tokens::{Rate, Used};

/// What they have used. Who said something is known by the link that it came over; an originator, which is a known member, only
/// by what it signed, so it has a share behind each neighbour: who forges in its name spends only what comes from there.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) most: Most,
    neighbours: BTreeMap<Addr, Used>,
    origins: BTreeMap<(Addr, Addr), Used>,
    relayed: BTreeMap<Addr, Used>,
}

/// What each neighbour may have looked at, each originator behind one, and what each neighbour may have handed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) neighbour: Rate,
    pub(crate) origin: Rate,
    pub(crate) relayed: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            most: Most {
                neighbour: NEIGHBOUR,
                origin: ORIGIN,
                relayed: NEIGHBOUR,
            },
            neighbours: BTreeMap::new(),
            origins: BTreeMap::new(),
            relayed: BTreeMap::new(),
        }
    }
}

impl Rates {
    /// Whether a neighbour may have `n` things looked at.
    pub(super) fn neighbour(&mut self, now: Instant, via: Addr, n: u32) -> bool {
        let used = self.neighbours.entry(via).or_default();
        used.take_all(now, n, self.most.neighbour)
    }

    /// Whether a neighbour may have one more message handed on.
    pub(super) fn relays(&mut self, now: Instant, via: Addr) -> bool {
        let used = self.relayed.entry(via).or_default();
        used.take(now, self.most.relayed)
    }

    /// Whether a signature of an originator that came over a neighbour may be looked at.
    pub(super) fn origin(&mut self, now: Instant, via: Addr, origin: Addr) -> bool {
        if self.origins.len() >= MAX_ORIGINS && !self.origins.contains_key(&(via, origin)) {
            return false;
        }
        let used = self.origins.entry((via, origin)).or_default();
        used.take(now, self.most.origin)
    }

    /// Forgets those that have asked nothing for a while.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.neighbours.retain(|_, used| used.is_used(now));
        self.relayed.retain(|_, used| used.is_used(now));
        self.origins.retain(|_, used| used.is_used(now));
    }
}

const NEIGHBOUR: Rate = Rate {
    burst: 16_384,
    per_second: 4_000,
};
/// A member registers all its names at once when it starts, and again when a member near them does.
const ORIGIN: Rate = Rate {
    burst: 8_192,
    per_second: 200,
};
const MAX_ORIGINS: usize = 32_768;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn who_asks_too_much_takes_nothing_from_others_and_is_heard_again_later() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let heard = (0..100_000).filter(|_| rates.neighbour(now, Addr(1), 1));
        assert_eq!(heard.count(), NEIGHBOUR.burst as usize);
        assert!(rates.neighbour(now, Addr(2), 1));
        let later = now + Duration::from_secs(1);
        let heard = (0..100_000).filter(|_| rates.neighbour(later, Addr(1), 1));
        assert_eq!(heard.count(), 4_000);
        let heard = (0..100_000).filter(|_| rates.origin(now, Addr(1), Addr(3)));
        assert_eq!(heard.count(), ORIGIN.burst as usize);
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
