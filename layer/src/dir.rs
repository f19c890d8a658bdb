//! The directory: which members offer flows to a name. It is replicated to all members, out of their signed records; it
//! must not hold an entry that its member didn't sign.

use std::collections::BTreeSet;

use proto::Addr;

use crate::route::Fib;

/// Name hashes and the members that serve them.
#[derive(Debug, Default)]
pub struct Directory {
    /// Hash, member and the kind of record that says so: while names move between records, one may stand in two.
    entries: BTreeSet<(NameHash, Addr, u32)>,
}

/// SHA-256(layer ‖ 0 ‖ name).
pub type NameHash = [u8; 32];

impl Directory {
    /// The members that serve a name and can be reached: the nearest first, among equals the lowest address; never
    /// ourselves, since the table knows no way to us.
    pub fn resolve(&self, fib: &Fib, hash: &NameHash) -> Vec<Addr> {
        let mut found: Vec<_> = self
            .holders(hash)
            .filter_map(|addr| Some((fib.next_hop(addr)?.cost, addr)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, addr)| addr).collect()
    }

    /// The members that say that they serve a name, reachable or not.
    pub fn holders(&self, hash: &NameHash) -> impl Iterator<Item = Addr> {
        let mut last = None;
        let entries = self
            .entries
            .range((*hash, Addr(0), 0)..=(*hash, Addr(u64::MAX), u32::MAX));
        entries
            .map(|(_, addr, _)| *addr)
            .filter(move |addr| last.replace(*addr) != Some(*addr))
    }

    /// All entries, in the order of the hashes.
    pub fn iter(&self) -> impl Iterator<Item = (&NameHash, Addr)> {
        let mut last = None;
        let entries = self.entries.iter().map(|(hash, addr, _)| (hash, *addr));
        entries.filter(move |entry| last.replace(*entry) != Some(*entry))
    }

    pub(crate) fn add(&mut self, addr: Addr, kind: u32, hashes: &[NameHash]) {
        self.entries
            .extend(hashes.iter().map(|hash| (*hash, addr, kind)));
    }

    pub(crate) fn remove(&mut self, addr: Addr, kind: u32, hashes: &[NameHash]) {
        for hash in hashes {
            self.entries.remove(&(*hash, addr, kind));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Drawn, LinkState};

    #[test]
    fn the_nearest_member_comes_first_and_an_unreachable_one_never() {
        let link = |to, cost| LinkState {
            neighbour: Addr(to),
            cost,
            mtu: 1400,
        };
        let (one, two, three) = ([link(2, 9), link(3, 1)], [link(1, 9)], [link(1, 1)]);
        let graph = Drawn::new([
            (Addr(1), one.to_vec()),
            (Addr(2), two.to_vec()),
            (Addr(3), three.to_vec()),
            (Addr(4), vec![]),
        ]);
        let mut dir = Directory::default();
        for member in 1..=4 {
            dir.add(Addr(member), 2, &[[7; 32]]);
        }
        dir.add(Addr(2), 3, &[[8; 32]]);
        let (_, fib) = graph.routes(Addr(1));
        assert_eq!(dir.resolve(&fib, &[7; 32]), [Addr(3), Addr(2)]);
        dir.remove(Addr(3), 2, &[[7; 32]]);
        assert_eq!(dir.resolve(&fib, &[7; 32]), [Addr(2)]);
        assert_eq!(dir.resolve(&fib, &[8; 32]), [Addr(2)]);
        assert!(dir.resolve(&fib, &[9; 32]).is_empty());
    }
}
