//! How many unconfirmed requests there may be, and which one makes room.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

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
/// decides whose request survives.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    shares: [Share; 2],
    per_source: BTreeMap<Source, usize>,
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
}

impl Unconfirmed {
    /// Of one source at once.
    pub(super) const PER_SOURCE: usize = 64;
    /// Of all sources at once.
    pub(super) const ALL: usize = 1024;

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
            of: BTreeMap::new(),
        }
    }

    pub(super) fn admit(
        &mut self,
        key: SocketKey,
        source: Source,
        known: bool,
        rng: &mut impl RngCore,
    ) -> Room {
        let count = self.per_source.entry(source).or_default();
        if *count >= Self::PER_SOURCE {
            return Room::SourceFull;
        }
        *count += 1;
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

    #[test]
    fn one_source_gets_64_and_no_more() {
        let (mut all, mut rng) = (Unconfirmed::new(1024), ChaCha8Rng::seed_from_u64(1));
        for n in 0..64 {
            assert_eq!(
                all.admit(SocketKey(n), source(1), false, &mut rng),
                Room::For(None)
            );
        }
        assert_eq!(
            all.admit(SocketKey(64), source(1), false, &mut rng),
            Room::SourceFull
        );
        assert!(all.remove(SocketKey(7)));
        assert_eq!(
            all.admit(SocketKey(65), source(1), false, &mut rng),
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
        let (mut all, mut rng) = (Unconfirmed::new(1024), ChaCha8Rng::seed_from_u64(2));
        all.admit(SocketKey(0), source(1), true, &mut rng);
        for n in 1..10_000 {
            let room = all.admit(SocketKey(n), source(n as u32 + 1), false, &mut rng);
            assert!(!matches!(room, Room::For(Some(SocketKey(0)))));
        }
        assert!(all.len() <= Unconfirmed::ALL && all.remove(SocketKey(0)));
    }
}
