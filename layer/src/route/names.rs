//! Members by number: graphs of thousands of members fit into little memory if they are counted 0, 1, 2 and so on. It must
//! not know what a member says.

use proto::Addr;

/// The number of a member in one database; given anew once the member is forgotten.
pub(super) type Slot = u32;

/// The addresses of members by their numbers, and the numbers by the addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    addrs: Vec<Addr>,
    /// Open addressing with linear probing over a power of two of places; [`EMPTY`] where there is nobody.
    table: Vec<Slot>,
    /// Numbers of forgotten members.
    free: Vec<Slot>,
    /// How many were forgotten so far.
    forgotten: u64,
}

impl Names {
    /// The number of a member.
    pub(super) fn find(&self, addr: Addr) -> Option<Slot> {
        if self.table.is_empty() {
            return None;
        }
        let mut place = self.home(addr);
        loop {
            let slot = self.table[place];
            if slot == EMPTY {
                return None;
            }
            if self.addrs[slot as usize] == addr {
                return Some(slot);
            }
            place = self.after(place);
        }
    }

    /// Numbers a member, if it has no number yet.
    pub(super) fn add(&mut self, addr: Addr) -> Slot {
        if let Some(slot) = self.find(addr) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or(self.addrs.len() as Slot);
        match self.addrs.get_mut(slot as usize) {
            Some(free) => *free = addr,
            None => {
                room(&mut self.addrs, slot as usize + 1);
                self.addrs.push(addr);
            }
        }
        if (self.len() + 1) * 4 > self.table.len() * 3 {
            self.rehash();
        } else {
            self.put(addr, slot);
        }
        slot
    }

    /// Forgets a member; its number may be given to another.
    pub(super) fn remove(&mut self, addr: Addr) {
        let Some(slot) = self.find(addr) else { return };
        self.free.push(slot);
        self.forgotten += 1;
        let mut hole = self.home(addr);
        while self.table[hole] != slot {
            hole = self.after(hole);
        }
        self.table[hole] = EMPTY;
        // Whoever stands behind the hole and would be looked for across it moves into it.
        let mut place = self.after(hole);
        while self.table[place] != EMPTY {
            let home = self.home(self.addrs[self.table[place] as usize]);
            let mask = self.table.len() - 1;
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.table.swap(hole, place);
                hole = place;
            }
            place = self.after(place);
        }
    }

    /// The address that a number stands for; that of a forgotten member until the number is given to another.
    pub(super) fn addr(&self, slot: Slot) -> Addr {
        self.addrs[slot as usize]
    }

    /// One more than the highest number.
    pub(super) fn slots(&self) -> usize {
        self.addrs.len()
    }

    /// How many members have a number.
    pub(super) fn len(&self) -> usize {
        self.addrs.len() - self.free.len()
    }

    /// As long as this is the same, numbers stand for the same members as before.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn rehash(&mut self) {
        let places = ((self.len() + 1) * 3 / 2).next_power_of_two().max(8);
        self.table = vec![EMPTY; places];
        let free: rustc_hash::FxHashSet<Slot> = self.free.iter().copied().collect();
        for slot in 0..self.addrs.len() as Slot {
            if !free.contains(&slot) {
                self.put(self.addrs[slot as usize], slot);
            }
        }
    }

    fn put(&mut self, addr: Addr, slot: Slot) {
        let mut place = self.home(addr);
        while self.table[place] != EMPTY {
            place = self.after(place);
        }
        self.table[place] = slot;
    }

    fn home(&self, addr: Addr) -> usize {
        let mixed = addr.0.wrapping_mul(GOLDEN);
        (mixed >> 32) as usize & (self.table.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.table.len() - 1)
    }
}

/// Makes room for as many and an eighth more, where `Vec` would double.
pub(crate) fn room<T>(list: &mut Vec<T>, len: usize) {
    if len > list.capacity() {
        list.reserve_exact(len - list.len() + (len / 8).max(8));
    }
}

const EMPTY: Slot = Slot::MAX;
/// 2⁶⁴ divided by the golden ratio (Knuth, TAOCP 3, §6.4): spreads addresses that lie close together.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_whom_it_has_and_nobody_else(acts in prop::collection::vec((any::<bool>(), 0u64..64), 0..400)) {
            let (mut names, mut model) = (Names::default(), BTreeMap::new());
            for (add, addr) in acts {
                // Close together, so that they get into each other's way.
                let addr = Addr(addr << 40);
                if add {
                    let slot = names.add(addr);
                    prop_assert_eq!(*model.entry(addr).or_insert(slot), slot);
                } else {
                    names.remove(addr);
                    model.remove(&addr);
                }
                prop_assert_eq!(names.len(), model.len());
                for a in (0..64).map(|a| Addr(a << 40)) {
                    prop_assert_eq!(names.find(a), model.get(&a).copied());
                    prop_assert!(names.find(a).is_none_or(|slot| names.addr(slot) == a));
                }
            }
        }
    }
}
