//! Who owns an address: longest prefix first, certificates before the administrator's routes.

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

    proptest! {
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
