//! Where packets go: the forwarding table. It is never changed, only replaced whole.

use proto::Addr;
use rustc_hash::FxHashMap;

/// The way to every member that can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fib {
    hops: FxHashMap<Addr, Hop>,
    order: Vec<Addr>,
}

/// The way to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The neighbour to send to.
    pub via: Addr,
    /// The sum of the costs of the links.
    pub cost: u64,
    /// The largest PDU in bytes that every link on every equally good way carries.
    pub mtu: u32,
    /// The number of links.
    pub hops: u32,
}

impl Fib {
    pub(super) fn new(mut ways: Vec<(Addr, Hop)>) -> Self {
        ways.sort_unstable_by_key(|(dst, _)| *dst);
        Self {
            order: ways.iter().map(|(dst, _)| *dst).collect(),
            hops: ways.into_iter().collect(),
        }
    }

    /// The way to a member; `None`: it can't be reached, or is ourselves.
    pub fn next_hop(&self, dst: Addr) -> Option<&Hop> {
        self.hops.get(&dst)
    }

    /// All ways, in the order of the destinations' addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, &Hop)> {
        self.order
            .iter()
            .filter_map(|dst| Some((*dst, self.hops.get(dst)?)))
    }

    /// How many members can be reached.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nobody can be reached.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
