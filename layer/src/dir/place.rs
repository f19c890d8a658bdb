//! Where an entry belongs: at the members whose addresses are nearest to the name by XOR (Maymounkov and Mazières,
//! "Kademlia", 2002). It must not know what an entry is.

use proto::Addr;

use super::NameHash;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
