//! Where packets go: the forwarding table. It is never changed, only replaced whole.

use std::sync::Arc;

use proto::Addr;

use super::names::{Names, Slot};
use super::spf::{Label, Sets};

/// The ways to every member that can be reached. A copy costs nothing: the tables behind it are shared.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    names: Arc<Names>,
    labels: Arc<Vec<Label>>,
    sets: Arc<Sets>,
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

impl Fib {
    pub(super) fn new(names: Arc<Names>, labels: Arc<Vec<Label>>, sets: Arc<Sets>) -> Self {
        Self {
            names,
            labels,
            sets,
        }
    }

    /// The way to a member; `None`: it can't be reached, or is ourselves.
    pub fn next_hop(&self, dst: Addr) -> Option<Hop> {
        self.hop(self.names.find(dst)?)
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

impl PartialEq for Fib {
    /// The same ways, whatever the numbers are that members have.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
            && self
                .iter()
                .all(|(dst, _)| self.ways(dst).eq(other.ways(dst)))
    }
}
