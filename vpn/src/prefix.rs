//! Who owns an address: longest prefix first, certificates before the administrator's routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

/// Who an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// This host.
    Me,
    /// Another member.
    Peer(PeerId),
}

/// One other member, as long as this process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// Two tables: what certificates grant, and, for what no certificate speaks of, the administrator's own routes.
/// So a route never takes an address away from the member that is certified for it.
#[derive(Debug, Default)]
pub struct Owners {
    certified: Table,
    routed: Table,
}

impl Owners {
    /// Enters a prefix that a certificate grants. Of two owners of the very same prefix the first stays:
    /// the authority grants no prefix twice, so the second is a mistake or a lie.
    pub fn certify(&mut self, prefix: IpNet, owner: Owner) {
        self.certified.insert(prefix, owner);
    }

    /// Enters a route of the administrator.
    pub fn route(&mut self, prefix: IpNet, owner: Owner) {
        self.routed.insert(prefix, owner);
    }

    /// The owner of an address.
    pub fn of(&self, address: IpAddr) -> Option<Owner> {
        self.certified
            .longest(address)
            .or_else(|| self.routed.longest(address))
    }
}

/// Whose addresses may have another owner by other tables than by these.
#[derive(Debug, PartialEq, Eq)]
pub enum Touched {
    /// Anybody's.
    All,
    /// These owners'.
    Some(BTreeSet<Owner>),
}

impl Touched {
    /// Whether a packet between this host and another member may be another's now.
    pub fn has(&self, id: PeerId) -> bool {
        match self {
            Self::All => true,
            Self::Some(owners) => owners.contains(&Owner::Me) || owners.contains(&Owner::Peer(id)),
        }
    }
}

impl Owners {
    /// Whose addresses may have another owner in `next`; those of all others have the same one.
    pub fn touched(&self, next: &Self) -> Touched {
        let tables = [
            (&self.certified, &next.certified),
            (&self.routed, &next.routed),
        ];
        let changed = tables.into_iter().flat_map(|(old, new)| {
            let gone = old.nets().filter(|entry| !new.has(entry));
            gone.chain(new.nets().filter(|entry| !old.has(entry)))
        });
        let changed: Vec<Net> = changed.take(MANY + 1).map(|(net, _)| net).collect();
        if changed.len() > MANY {
            return Touched::All;
        }
        if changed.is_empty() {
            return Touched::Some(BTreeSet::new());
        }
        // An address whose owner changes lies in a prefix that was changed, and in one that its owner had.
        let before = self.certified.nets().chain(self.routed.nets());
        let near = before.filter(|(net, _)| changed.iter().any(|other| net.overlaps(other)));
        Touched::Some(near.map(|(_, owner)| owner).collect())
    }
}

/// A prefix as the tables hold it.
#[derive(Debug, Clone, Copy)]
struct Net {
    bits: u128,
    len: u8,
    width: u8,
}

impl Net {
    fn overlaps(&self, other: &Self) -> bool {
        let host = self.width - self.len.min(other.len);
        self.width == other.width && masked(self.bits ^ other.bits, host) == 0
    }
}

/// Prefixes by family and length; a look-up costs one hash for each length that occurs.
#[derive(Debug, Default)]
struct Table {
    v4: Vec<(u8, FxHashMap<u128, Owner>)>,
    v6: Vec<(u8, FxHashMap<u128, Owner>)>,
}

impl Table {
    fn insert(&mut self, prefix: IpNet, owner: Owner) {
        let (bits, width) = bits(prefix.network());
        let lengths = if width == 32 {
            &mut self.v4
        } else {
            &mut self.v6
        };
        // Longest first.
        let at = match lengths.binary_search_by(|(len, _)| prefix.prefix_len().cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                lengths.insert(at, (prefix.prefix_len(), FxHashMap::default()));
                at
            }
        };
        lengths[at].1.entry(bits).or_insert(owner);
    }

    fn nets(&self) -> impl Iterator<Item = (Net, Owner)> {
        let all = |lengths, width| {
            let lengths: &Vec<(u8, FxHashMap<u128, Owner>)> = lengths;
            lengths.iter().flat_map(move |(len, owners)| {
                let net = move |(bits, owner): (&u128, &Owner)| {
                    let (bits, len) = (*bits, *len);
                    (Net { bits, len, width }, *owner)
                };
                owners.iter().map(net)
            })
        };
        all(&self.v4, 32).chain(all(&self.v6, 128))
    }

    fn has(&self, (net, owner): &(Net, Owner)) -> bool {
        let lengths = if net.width == 32 { &self.v4 } else { &self.v6 };
        let same = lengths.iter().find(|(len, _)| *len == net.len);
        same.is_some_and(|(_, owners)| owners.get(&net.bits) == Some(owner))
    }

    fn longest(&self, address: IpAddr) -> Option<Owner> {
        let (bits, width) = bits(address);
        let lengths = if width == 32 { &self.v4 } else { &self.v6 };
        lengths
            .iter()
            .find_map(|(len, owners)| owners.get(&masked(bits, width - len)).copied())
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
        IpAddr::V6(a) => (a.to_bits(), 128),
    }
}

/// `bits` without its last `host` bits.
fn masked(bits: u128, host: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(host)).unwrap_or(0) & bits
}

/// When more prefixes have changed, it isn't looked whose they were.
const MANY: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn nets() -> impl Strategy<Value = IpNet> {
        // Few bits of variety, so that prefixes nest and collide.
        let v4 = (0u32..64, 0u8..=32)
            .prop_map(|(b, len)| IpNet::new(Ipv4Addr::from_bits(b << 26 | b).into(), len).unwrap());
        let v6 = (0u128..64, 0u8..=128).prop_map(|(b, len)| {
            IpNet::new(Ipv6Addr::from_bits(b << 122 | b).into(), len).unwrap()
        });
        prop_oneof![v4, v6]
    }

    fn naive(entries: &[(IpNet, Owner)], address: IpAddr) -> Option<Owner> {
        let mut best: Option<(u8, Owner)> = None;
        for (net, owner) in entries {
            if net.contains(&address) && best.is_none_or(|(len, _)| net.prefix_len() > len) {
                best = Some((net.prefix_len(), *owner));
            }
        }
        best.map(|(_, owner)| owner)
    }

    /// Tables of so many owners, of whom the first is this host.
    fn owners(entries: &[(IpNet, u32, bool)]) -> Owners {
        let mut owners = Owners::default();
        for (net, number, routed) in entries {
            let owner = match number {
                0 => Owner::Me,
                n => Owner::Peer(PeerId(*n)),
            };
            match routed {
                true => owners.route(*net, owner),
                false => owners.certify(*net, owner),
            }
        }
        owners
    }

    proptest! {
        #[test]
        fn who_is_not_touched_has_all_his_addresses_still(
            same in prop::collection::vec((nets(), 0u32..6, any::<bool>()), 0..20),
            gone in prop::collection::vec((nets(), 0u32..6, any::<bool>()), 0..3),
            new in prop::collection::vec((nets(), 0u32..6, any::<bool>()), 0..3),
            asked in prop::collection::vec(nets(), 1..80),
        ) {
            let before = owners(&[same.clone(), gone].concat());
            let after = owners(&[new, same.clone()].concat());
            let touched = before.touched(&after);
            for net in asked.iter().chain(same.iter().map(|(net, ..)| net)) {
                let address = net.addr();
                let (was, is) = (before.of(address), after.of(address));
                if let Some(owner) = was && was != is {
                    let Touched::Some(all) = &touched else { continue };
                    prop_assert!(all.contains(&owner), "{address}: {was:?} {is:?} {touched:?}");
                }
            }
        }

        #[test]
        fn the_table_agrees_with_a_search_through_all(
            nets in prop::collection::vec(nets(), 0..40),
            routes in prop::collection::vec(nets(), 0..10),
            asked in prop::collection::vec(nets(), 1..40),
        ) {
            let number = |nets: Vec<IpNet>, from: u32| -> Vec<(IpNet, Owner)> {
                nets.into_iter().zip(from..).map(|(n, i)| (n, Owner::Peer(PeerId(i)))).collect()
            };
            let (certified, routed) = (number(nets, 0), number(routes, 1000));
            let mut owners = Owners::default();
            certified.iter().for_each(|(n, o)| owners.certify(*n, *o));
            routed.iter().for_each(|(n, o)| owners.route(*n, *o));
            for net in asked {
                let address = net.addr();
                let expected = naive(&certified, address).or_else(|| naive(&routed, address));
                prop_assert_eq!(owners.of(address), expected);
            }
        }
    }

    #[test]
    fn who_is_far_from_what_has_changed_is_not_touched() {
        let entry = |net: &str, owner| (net.parse::<IpNet>().unwrap(), owner, false);
        let mut all = vec![
            entry("10.0.0.1/32", 0),
            entry("10.1.0.0/16", 1),
            entry("10.2.0.0/16", 2),
        ];
        let before = owners(&all);
        let none = Touched::Some(BTreeSet::new());
        assert_eq!(before.touched(&owners(&all)), none);
        all.push(entry("10.3.0.0/16", 3));
        assert_eq!(before.touched(&owners(&all)), none);
        all.push(entry("10.2.7.0/24", 3));
        let touched = before.touched(&owners(&all));
        assert_eq!(touched, Touched::Some([Owner::Peer(PeerId(2))].into()));
        assert!(touched.has(PeerId(2)) && !touched.has(PeerId(1)));
        all.push(entry("10.0.0.1/32", 0));
        all.remove(0);
        assert_eq!(before.touched(&owners(&all)), touched);
        all.pop();
        assert!(
            before.touched(&owners(&all)).has(PeerId(1)),
            "an own address"
        );
        all.extend(
            (0..=MANY as u32)
                .map(|n| (Ipv4Addr::from_bits(n << 8).into(), 3, false))
                .map(|(a, n, r): (IpAddr, u32, bool)| (a.into(), n, r)),
        );
        assert_eq!(before.touched(&owners(&all)), Touched::All);
    }

    #[test]
    fn a_route_never_beats_a_certificate() {
        let mut owners = Owners::default();
        owners.certify("10.0.0.0/24".parse().unwrap(), Owner::Me);
        owners.route("10.0.0.7/32".parse().unwrap(), Owner::Peer(PeerId(1)));
        owners.route("0.0.0.0/0".parse().unwrap(), Owner::Peer(PeerId(2)));
        assert_eq!(owners.of("10.0.0.7".parse().unwrap()), Some(Owner::Me));
        assert_eq!(
            owners.of("10.0.1.7".parse().unwrap()),
            Some(Owner::Peer(PeerId(2)))
        );
        assert_eq!(owners.of("fd00::1".parse().unwrap()), None);
    }
}
