//! Where packets go: the forwarding table. It is never changed, only replaced whole.

use std::sync::Arc;

use proto::Addr;
use rustc_hash::FxHashMap;

use super::names::{Names, Slot};
use super::spf::{Label, Sets};

/// The ways to every member that can be reached. A copy costs nothing: the tables behind it are shared.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    names: Arc<Names>,
    labels: Arc<Vec<Label>>,
    sets: Arc<Sets>,
    /// Members that are reached over another neighbour for now.
    repairs: Arc<FxHashMap<Addr, Repair>>,
}

/// The way to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The neighbour to send to; of several that are equally good the one with the lowest address.
    pub via: Addr,
    /// The sum of the costs of the links.
    pub cost: u64,
    /// The largest PDU in bytes that every link on every equally good way carries.
    pub mtu: u32,
    /// The number of links; of equally good ways the fewest.
    pub hops: u32,
}

/// The way to one member for as long as the loss of a neighbour is not known to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// The neighbour to send to.
    pub via: Addr,
    /// The largest PDU in bytes that every link on its ways carries.
    pub mtu: u32,
}

impl Fib {
    pub(super) fn new(names: Arc<Names>, labels: Arc<Vec<Label>>, sets: Arc<Sets>) -> Self {
        Self {
            names,
            labels,
            sets,
            repairs: Arc::default(),
        }
    }

    /// The same ways, but to some members over another neighbour, which holds until others know what has happened.
    pub fn repaired(self, repairs: Arc<FxHashMap<Addr, Repair>>) -> Self {
        Self { repairs, ..self }
    }

    /// The neighbour to send the packets of one flow to, of several that lead on equally well: the same as long as it is
    /// one of them (rendezvous hashing). A neighbour is always sent to directly if that is among the best ways.
    pub fn pick(&self, dst: Addr, flow: u64) -> Option<Addr> {
        if let Some(repair) = self.repairs.get(&dst) {
            return Some(repair.via);
        }
        let mut ways = self.ways(dst);
        if ways.len() < 2 {
            return ways.next();
        }
        let weight = |way: &Addr| (*way == dst, mixed(flow ^ way.0));
        ways.max_by_key(weight)
    }

    /// The way to a member; `None`: it can't be reached, or is ourselves. While packets go round a lost neighbour, no larger
    /// ones are promised than get through there.
    pub fn next_hop(&self, dst: Addr) -> Option<Hop> {
        let hop = self.hop(self.names.find(dst)?)?;
        let round = self.repairs.get(&dst).map_or(hop.mtu, |r| r.mtu);
        Some(Hop {
            mtu: hop.mtu.min(round),
            ..hop
        })
    }

    /// The neighbours over which a member is reached equally well, the lowest address first; none: it can't be reached,
    /// or is ourselves.
    pub fn ways(&self, dst: Addr) -> impl ExactSizeIterator<Item = Addr> {
        let label = self.names.find(dst).and_then(|slot| self.label(slot));
        let set = label.map_or(&[][..], |label| self.sets.get(label.set));
        set.iter().map(|slot| self.names.addr(*slot))
    }

    /// All ways, in the order of the destinations' addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, Hop)> {
        let slots = 0..self.labels.len() as Slot;
        let mut all: Vec<_> = slots
            .filter_map(|slot| Some((self.names.addr(slot), self.hop(slot)?)))
            .collect();
        all.sort_unstable_by_key(|(dst, _)| *dst);
        all.into_iter()
    }

    /// How many members can be reached.
    pub fn len(&self) -> usize {
        self.labels.iter().filter(|label| label.is_way()).count()
    }

    /// Whether nobody can be reached.
    pub fn is_empty(&self) -> bool {
        !self.labels.iter().any(Label::is_way)
    }

    fn label(&self, slot: Slot) -> Option<&Label> {
        self.labels
            .get(slot as usize)
            .filter(|label| label.is_way())
    }

    fn hop(&self, slot: Slot) -> Option<Hop> {
        let label = self.label(slot)?;
        let via = self.names.addr(*self.sets.get(label.set).first()?);
        Some(Hop {
            via,
            cost: label.cost.into(),
            mtu: label.mtu.into(),
            hops: label.hops.into(),
        })
    }
}

/// A number from which every bit of another can be told no longer (the finisher of SplitMix64).
pub(super) fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl PartialEq for Fib {
    /// The same ways, whatever the numbers are that members have.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
            && self
                .iter()
                .all(|(dst, _)| self.ways(dst).eq(other.ways(dst)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::route::{Drawn, LinkState};

    fn link(to: u64) -> LinkState {
        LinkState {
            neighbour: Addr(to),
            cost: 1,
            mtu: 1400,
        }
    }

    /// 1 reaches 9 over each of 2 to 5.
    fn fan(middle: &[u64]) -> Fib {
        let ends = [1, 9].map(|end| (Addr(end), middle.iter().map(|m| link(*m)).collect()));
        let inner = middle.iter().map(|m| (Addr(*m), vec![link(1), link(9)]));
        Drawn::new(ends.into_iter().chain(inner)).routes(Addr(1)).1
    }

    #[test]
    fn flows_are_spread_over_equal_ways_and_each_keeps_its_way_when_another_goes() {
        let (four, three) = (fan(&[2, 3, 4, 5]), fan(&[2, 4, 5]));
        let mut counts: BTreeMap<Addr, u32> = BTreeMap::new();
        for flow in 0..4000 {
            let way = four.pick(Addr(9), flow).unwrap();
            *counts.entry(way).or_default() += 1;
            if way != Addr(3) {
                assert_eq!(
                    three.pick(Addr(9), flow),
                    Some(way),
                    "a flow moved for nothing"
                );
            }
        }
        assert!(
            counts.len() == 4 && counts.values().all(|n| (800..1200).contains(n)),
            "{counts:?}"
        );
        assert_eq!(four.pick(Addr(4), 7), Some(Addr(4)));
    }

    #[test]
    fn a_repair_goes_before_the_way_that_it_replaces() {
        let repair = Repair {
            via: Addr(5),
            mtu: 1200,
        };
        let repairs = FxHashMap::from_iter([(Addr(9), repair)]);
        let fib = fan(&[2]).repaired(Arc::new(repairs));
        let mtu = |dst| fib.next_hop(Addr(dst)).map(|hop| hop.mtu);
        assert_eq!([mtu(9), mtu(2)], [Some(1200), Some(1400)]);
        assert_eq!(fib.pick(Addr(9), 1), Some(Addr(5)));
        assert_eq!(fib.pick(Addr(2), 1), Some(Addr(2)));
    }
}
