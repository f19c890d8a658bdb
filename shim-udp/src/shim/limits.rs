//! How many unconfirmed requests there may be, and which one makes room.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::words::SocketKey;

/// What counts as one source: an IPv4 address, or an IPv6 /64, which one host can have for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// The unconfirmed requests of a shim: at most [`Unconfirmed::PER_SOURCE`] of one source, in two shares, one for sources
/// that have a confirmed flow. A full share gives up one of its own at random, so that neither a flood nor its pattern
/// decides whose request survives. Strangers also get no more than [`Unconfirmed::A_SECOND`] new sockets a second, since
/// each costs ten system calls, which live flows need more.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    shares: [Share; 2],
    per_source: BTreeMap<Source, usize>,
    /// When strangers will have used up what a second allows.
    used_until: Option<Instant>,
    /// Of each request: its share, its place in that, and its source.
    of: BTreeMap<SocketKey, (usize, usize, Source)>,
}

#[derive(Debug, Default)]
struct Share {
    most: usize,
    keys: Vec<SocketKey>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It was taken in; this older one has to go for it.
    For(Option<SocketKey>),
    /// Its source has enough.
    SourceFull,
    /// There are too many of strangers in this second.
    Flooded,
}

impl Unconfirmed {
    /// Of one source at once.
    pub(super) const PER_SOURCE: usize = 64;
    /// Of all sources at once.
    pub(super) const ALL: usize = 1024;
    /// Of strangers in a second; a quarter of that may come at once.
    pub(super) const A_SECOND: u32 = 4096;

    /// Room for `most` requests, a quarter of it for sources with a confirmed flow.
    pub(super) fn new(most: usize) -> Self {
        let most = most.clamp(2, Self::ALL);
        let known = (most / 4).max(1);
        let share = |most| Share {
            most,
            keys: Vec::new(),
        };
        Self {
            shares: [share(most - known), share(known)],
            per_source: BTreeMap::new(),
            used_until: None,
            of: BTreeMap::new(),
        }
    }

    pub(super) fn admit(
        &mut self,
        now: Instant,
        key: SocketKey,
        (source, known): (Source, bool),
        rng: &mut impl RngCore,
    ) -> Room {
        if self
            .per_source
            .get(&source)
            .is_some_and(|count| *count >= Self::PER_SOURCE)
        {
            return Room::SourceFull;
        }
        if !known && !self.within_a_second(now) {
            return Room::Flooded;
        }
        *self.per_source.entry(source).or_default() += 1;
        let which = usize::from(known);
        let share = &mut self.shares[which];
        let evicted = (share.keys.len() >= share.most)
            .then(|| share.keys[rng.next_u32() as usize % share.keys.len()]);
        self.of.insert(key, (which, share.keys.len(), source));
        share.keys.push(key);
        if let Some(old) = evicted {
            self.remove(old);
        }
        Room::For(evicted)
    }

    /// Whether a stranger may have a socket now, which is then counted.
    fn within_a_second(&mut self, now: Instant) -> bool {
        let from = self.used_until.map_or(now, |until| until.max(now));
        let free = from < now + Duration::from_millis(250);
        if free {
            self.used_until = Some(from + Duration::from_secs(1) / Self::A_SECOND);
        }
        free
    }

    /// Takes a request out, because it was confirmed or is over; whether it was there.
    pub(super) fn remove(&mut self, key: SocketKey) -> bool {
        let Some((which, place, source)) = self.of.remove(&key) else {
            return false;
        };
        let keys = &mut self.shares[which].keys;
        keys.swap_remove(place);
        if let Some(moved) = keys.get(place).and_then(|k| self.of.get_mut(k)) {
            moved.1 = place;
        }
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
        true
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    fn source(n: u32) -> Source {
        Source::of(IpAddr::V4(n.into()))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a time to count from; which one doesn't matter"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_source_gets_64_and_no_more() {
        let (mut all, mut rng, now) = (
            Unconfirmed::new(1024),
            ChaCha8Rng::seed_from_u64(1),
            start(),
        );
        let one = (source(1), false);
        for n in 0..64 {
            assert_eq!(all.admit(now, SocketKey(n), one, &mut rng), Room::For(None));
        }
        assert_eq!(
            all.admit(now, SocketKey(64), one, &mut rng),
            Room::SourceFull
        );
        assert!(all.remove(SocketKey(7)));
        assert_eq!(
            all.admit(now, SocketKey(65), one, &mut rng),
            Room::For(None)
        );
    }

    #[test]
    fn addresses_of_one_v6_network_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn strangers_never_evict_those_who_are_known() {
        let (mut all, mut rng, now) = (
            Unconfirmed::new(1024),
            ChaCha8Rng::seed_from_u64(2),
            start(),
        );
        all.admit(now, SocketKey(0), (source(1), true), &mut rng);
        for n in 1..10_000 {
            let then = now + Duration::from_millis(1) * n;
            let room = all.admit(then, SocketKey(n.into()), (source(n + 1), false), &mut rng);
            assert!(matches!(room, Room::For(evicted) if evicted != Some(SocketKey(0))));
        }
        assert!(all.len() <= Unconfirmed::ALL && all.remove(SocketKey(0)));
    }

    #[test]
    fn strangers_get_so_many_sockets_a_second_and_the_known_any_number() {
        let (mut all, mut rng, now) = (
            Unconfirmed::new(1024),
            ChaCha8Rng::seed_from_u64(3),
            start(),
        );
        let mut taken = 0;
        for n in 0..40_000_u32 {
            let then = now + Duration::from_micros(50) * n;
            taken += u32::from(
                all.admit(then, SocketKey(n.into()), (source(n), false), &mut rng) != Room::Flooded,
            );
        }
        // In 2 s, and a quarter of a second's worth at once.
        assert!(
            (2 * 4096..=2 * 4096 + 1100).contains(&taken),
            "{taken} were taken"
        );
        let end = now + Duration::from_secs(2);
        assert!(all.admit(end, SocketKey(50_000), (source(9), true), &mut rng) != Room::Flooded);
    }
}
