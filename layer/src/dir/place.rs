//! Where an entry belongs: at the members whose addresses are nearest to the name by XOR (Maymounkov and Mazières,
//! "Kademlia", 2002). It must not know what an entry is.

use proto::Addr;

use super::{KEEPERS, NameHash};
use crate::route::room;

/// The members that a directory knows of.
pub(super) struct Members {
    /// Those that can be reached, and this one; sorted.
    all: Vec<Addr>,
    /// Those at the other end of a link; sorted.
    beside: Vec<Addr>,
}

impl Members {
    pub(super) fn new(me: Addr) -> Self {
        Self {
            all: vec![me],
            beside: Vec::new(),
        }
    }

    /// Takes note of others. Gives those that could not be reached before, or `None` if all is as it was.
    pub(super) fn set(&mut self, mut all: Vec<Addr>, beside: Vec<Addr>) -> Option<Vec<Addr>> {
        all.sort_unstable();
        all.dedup();
        let beside = tidied(&all, beside);
        if (&all, &beside) == (&self.all, &self.beside) {
            return None;
        }
        let back = all.iter().copied();
        let back = back.filter(|addr| self.all.binary_search(addr).is_err());
        let back = back.collect();
        *self = Self { all, beside };
        Some(back)
    }

    /// The same, where only these come and go: a few of thousands.
    pub(super) fn change(
        &mut self,
        mut come: Vec<Addr>,
        gone: &[Addr],
        beside: Vec<Addr>,
    ) -> Option<Vec<Addr>> {
        let mut other = false;
        for addr in gone {
            if let Ok(at) = self.all.binary_search(addr) {
                self.all.remove(at);
                other = true;
            }
        }
        come.retain(|addr| match self.all.binary_search(addr) {
            Ok(_) => false,
            Err(at) => {
                let len = self.all.len() + 1;
                room(&mut self.all, len);
                self.all.insert(at, *addr);
                true
            }
        });
        let beside = tidied(&self.all, beside);
        other |= !come.is_empty() || beside != self.beside;
        self.beside = beside;
        other.then_some(come)
    }

    /// The members nearest to a name, at most `k` of them.
    pub(super) fn keepers(&self, hash: &NameHash, k: usize) -> Vec<Addr> {
        nearest(&self.all, hash, k)
    }

    /// Whether a member is at the other end of a link.
    pub(super) fn is_beside(&self, member: Addr) -> bool {
        self.beside.binary_search(&member).is_ok()
    }

    /// Whether all of these, sorted, that can be reached are known to be at the other end of a link, and nobody else is.
    pub(super) fn are_beside(&self, these: impl Iterator<Item = Addr>) -> bool {
        let known = these.filter(|addr| self.all.binary_search(addr).is_ok());
        known.eq(self.beside.iter().copied())
    }

    /// Whether a keeper of a name is a neighbour, or this member: then nobody is asked or told sooner than it.
    pub(super) fn has_keeper_beside(&self, me: Addr, hash: &NameHash) -> bool {
        let keepers = self.keepers(hash, KEEPERS);
        keepers.iter().any(|k| *k == me || self.is_beside(*k))
    }

    /// The neighbours that are told and asked of a name besides its keepers: of very many, those on which two of their
    /// neighbours agree.
    pub(super) fn beside(&self, hash: &NameHash) -> Vec<Addr> {
        nearest(&self.beside, hash, BESIDE)
    }
}

/// Those of some members that are among all, sorted.
fn tidied(all: &[Addr], mut some: Vec<Addr>) -> Vec<Addr> {
    some.retain(|addr| all.binary_search(addr).is_ok());
    some.sort_unstable();
    some.dedup();
    some
}

/// The members nearest to a name, at most `k` of them, the nearest first; `members` are sorted.
pub fn nearest(members: &[Addr], hash: &NameHash, k: usize) -> Vec<Addr> {
    let mut found = Vec::with_capacity(k);
    collect(members, key(hash), 63, k, &mut found);
    found
}

/// Where a name lies among the addresses.
fn key(hash: &NameHash) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// Goes down the tree that the bits of sorted addresses are, the side of the key first.
fn collect(members: &[Addr], key: u64, bit: u32, k: usize, found: &mut Vec<Addr>) {
    if found.len() >= k {
        return;
    }
    if let [only] = members {
        return found.push(*only);
    }
    if members.is_empty() {
        return;
    }
    let (zeros, ones) = members.split_at(members.partition_point(|a| a.0 >> bit & 1 == 0));
    let (near, far) = if key >> bit & 1 == 0 {
        (zeros, ones)
    } else {
        (ones, zeros)
    };
    // Equal addresses would have no bit left that tells them apart; there are none in a layer.
    let Some(bit) = bit.checked_sub(1) else {
        return found.extend(near.iter().chain(far).take(k - found.len()));
    };
    collect(near, key, bit, k, found);
    collect(far, key, bit, k, found);
}

/// The most neighbours that are told or asked of one name.
const BESIDE: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of docs/protocol.md.
    #[test]
    fn the_distance_of_members_from_a_name_is_that_of_the_protocol() {
        let layer = proto::Label::new("home").unwrap();
        let address = |name: &str| crate::crypt::address(&layer, &proto::Label::new(name).unwrap());
        let hash = crate::crypt::name_hash(&layer, &proto::Name::new("echo").unwrap());
        let mut members = ["alice", "bob", "carol", "dave"].map(address);
        members.sort();
        let near = nearest(&members, &hash, 3);
        assert_eq!(near, ["carol", "alice", "dave"].map(address));
    }

    proptest! {
        #[test]
        fn the_nearest_are_those_that_sorting_all_would_give(
            members in proptest::collection::btree_set(any::<u64>(), 0..200), hash: [u8; 32], k in 0usize..12,
        ) {
            let members: Vec<_> = members.into_iter().map(Addr).collect();
            let mut all = members.clone();
            all.sort_by_key(|a| a.0 ^ key(&hash));
            all.truncate(k);
            prop_assert_eq!(nearest(&members, &hash, k), all);
        }

        #[test]
        fn a_few_that_come_and_go_leave_what_telling_all_anew_would(
            before in proptest::collection::btree_set(0u64..40, 0..30),
            after in proptest::collection::btree_set(0u64..40, 0..30),
            beside in proptest::collection::vec((0u64..40).prop_map(Addr), 0..6),
        ) {
            let addrs = |of: &std::collections::BTreeSet<u64>| of.iter().copied().map(Addr).collect::<Vec<_>>();
            let (mut whole, mut part) = (Members::new(Addr(99)), Members::new(Addr(99)));
            whole.set(addrs(&before), Vec::new());
            part.set(addrs(&before), Vec::new());
            let come = after.difference(&before).copied().map(Addr).collect();
            let gone: Vec<_> = before.difference(&after).copied().map(Addr).collect();
            let told = whole.set(addrs(&after), beside.clone());
            prop_assert_eq!(part.change(come, &gone, beside), told);
            prop_assert_eq!((part.all, part.beside), (whole.all, whole.beside));
        }

        #[test]
        fn members_that_differ_in_the_last_bits_only_are_told_apart(
            low in proptest::collection::btree_set(0u64..16, 0..16), hash: [u8; 32],
        ) {
            let members: Vec<_> = low.into_iter().map(|low| Addr(key(&hash) & !15 | low)).collect();
            let mut all = members.clone();
            all.sort_by_key(|a| a.0 ^ key(&hash));
            all.truncate(4);
            prop_assert_eq!(nearest(&members, &hash, 4), all);
        }
    }
}
