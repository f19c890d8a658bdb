//! The first fragments that a filter has let pass, so that later ones may, which have no ports. It must not judge.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::prefix::PeerId;

/// At most [`Fragments::MOST`] of all peers. When they are too many, one goes of the peer that has the most, its oldest: who floods
/// takes no place from who has less than a fair share.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// When each is forgotten.
    passed: HashMap<Cut, Turn>,
    /// Those of each peer that has any, by when they are forgotten.
    held: HashMap<PeerId, BTreeMap<Turn, Cut>>,
    /// Tells those of one moment from each other.
    count: u64,
}

/// A packet that was cut: the peer, its ends and its number. The keys of a hash of these are drawn at random: peers choose them.
pub(super) type Cut = (PeerId, IpAddr, IpAddr, u32);

type Turn = (Instant, u64);

impl Fragments {
    /// The most of all peers.
    pub(super) const MOST: usize = 1024;

    /// The first fragment of a packet has passed, so the others may.
    pub(super) fn begin(&mut self, now: Instant, cut: Cut) {
        self.remove(&cut);
        if self.passed.len() >= Self::MOST
            && let Some(oldest) = self.dispensable(now, cut.0)
        {
            self.remove(&oldest);
        }
        self.count += 1;
        let turn = (now + REASSEMBLY, self.count);
        self.passed.insert(cut, turn);
        self.held.entry(cut.0).or_default().insert(turn, cut);
    }

    /// Whether it has.
    pub(super) fn has(&self, now: Instant, cut: &Cut) -> bool {
        self.passed.get(cut).is_some_and(|(until, _)| *until > now)
    }

    /// Keeps none of a peer.
    pub(super) fn forget(&mut self, id: PeerId) {
        for cut in self.held.remove(&id).unwrap_or_default().values() {
            self.passed.remove(cut);
        }
    }

    /// What goes for one of this peer: what is forgotten anyhow, or else the oldest of who has the most, which is this peer as soon as
    /// nobody has more.
    fn dispensable(&self, now: Instant, id: PeerId) -> Option<Cut> {
        let of_each = self.held.iter().filter_map(|(peer, all)| {
            let (turn, cut) = all.first_key_value()?;
            Some(((turn.0 <= now, all.len(), *peer == id), *cut))
        });
        let most = of_each.max_by_key(|(weight, _)| *weight);
        most.map(|(_, cut)| cut)
    }

    fn remove(&mut self, cut: &Cut) {
        let Some(turn) = self.passed.remove(cut) else {
            return;
        };
        if let Some(all) = self.held.get_mut(&cut.0) {
            all.remove(&turn);
            if all.is_empty() {
                self.held.remove(&cut.0);
            }
        }
    }
}

/// How long a host waits for the rest of a packet.
const REASSEMBLY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn cut(peer: u32, number: u32) -> Cut {
        let end = IpAddr::from(Ipv4Addr::LOCALHOST);
        (PeerId(peer), end, end, number)
    }

    /// As many as there are, each in one place of its peer.
    fn check(all: &Fragments) {
        assert!(all.passed.len() <= Fragments::MOST);
        assert_eq!(
            all.held.values().map(BTreeMap::len).sum::<usize>(),
            all.passed.len()
        );
        assert!(all.held.values().all(|held| !held.is_empty()));
        for (cut, turn) in &all.passed {
            assert_eq!(all.held[&cut.0][turn], *cut);
        }
    }

    #[test]
    fn what_is_over_goes_first_and_what_a_peer_had_goes_with_it() {
        let (mut all, now) = (Fragments::default(), Instant::now());
        for n in 0..Fragments::MOST as u32 / 2 {
            all.begin(now, cut(1, n));
        }
        let later = now + REASSEMBLY;
        for n in 0..Fragments::MOST as u32 {
            all.begin(later, cut(2, n));
        }
        check(&all);
        assert!(all.has(later, &cut(2, 0)));
        assert_eq!(all.held.len(), 1);
        all.forget(PeerId(2));
        check(&all);
        assert!(all.passed.is_empty());
    }

    proptest! {
        /// Peers begin packets in any order, some far more than others: the newest of each, as many as a fair share, are kept.
        #[test]
        fn each_peer_keeps_its_newest_as_many_as_a_fair_share(peers in 2u32..8, order in prop::collection::vec((0u32..1 << 20, 1usize..900), 1..12)) {
            let (mut all, now) = (Fragments::default(), Instant::now());
            let share = Fragments::MOST / peers as usize;
            let mut numbers = 0;
            let mut under_way = vec![VecDeque::new(); peers as usize];
            for (who, burst) in order {
                let peer = who % peers;
                for _ in 0..burst {
                    numbers += 1;
                    all.begin(now, cut(peer, numbers));
                    under_way[peer as usize].push_back(numbers);
                    if under_way[peer as usize].len() > share {
                        under_way[peer as usize].pop_front();
                    }
                }
                for (peer, numbers) in under_way.iter().enumerate() {
                    for number in numbers {
                        prop_assert!(all.has(now, &cut(peer as u32, *number)), "{peer} {number}");
                    }
                }
            }
            check(&all);
        }
    }
}
