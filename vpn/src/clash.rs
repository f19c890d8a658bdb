//! Whether what a VPN wants to have is had by the host already. It must not look itself, nor change anything.
//!
//! The rule: the VPN takes nothing from a network that the host is attached to. A network of the host that is as large as
//! the VPN's or smaller keeps its packets, which is said; one that is larger would lose some, so the VPN's is left out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// A network that the host reaches by another device than that of the VPN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The network; of an own address, with its host part.
    pub net: IpNet,
    /// The device.
    pub dev: String,
    /// How it is reached.
    pub way: Way,
}

/// How the host reaches a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It has an address in it.
    Address,
    /// It is attached to it; other VPNs look so too.
    Link,
    /// By a router.
    Router,
}

/// What is to be done about one wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody else has it.
    Free,
    /// It can be had, and a person should know this.
    Told(String),
    /// It can't be had, for this reason.
    Refused(String),
}

/// All networks of the other devices, by prefix.
#[derive(Debug, Default)]
pub struct Networks {
    known: BTreeMap<IpNet, Network>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Networks {
    /// Enters one. Default routes, link-local and multicast clash with nothing.
    pub fn add(&mut self, network: Network) {
        let key = network.net.trunc();
        if !counts(&key) || self.known.len() >= MOST {
            return;
        }
        if network.way == Way::Address {
            self.addresses
                .insert(network.net.addr(), network.dev.clone());
        }
        let first = self.known.get(&key);
        if first.is_none_or(|first| network.way < first.way) {
            self.known.insert(key, network);
        }
    }

    /// Judges a route to `net`, which `whose` describes.
    pub fn route(&self, net: &IpNet, whose: &str) -> Verdict {
        let net = net.trunc();
        if let Some(same) = self.known.get(&net) {
            let why = format!(
                "{whose} is {} of this host too, which keeps its packets",
                same.describe()
            );
            return Verdict::Refused(why);
        }
        if let Some(around) = self.around(&net) {
            return match around.way {
                Way::Address | Way::Link => Verdict::Refused(format!(
                    "{whose} lies in {} of this host and would take packets from it, so it is left out; renumber one of the two",
                    around.describe()
                )),
                Way::Router => Verdict::Told(format!(
                    "{whose} lies in {} of this host, and takes its packets from there",
                    around.describe()
                )),
            };
        }
        match self.within(&net).next() {
            Some(inner) => Verdict::Told(format!(
                "{whose} overlaps {} of this host, which keeps its packets",
                inner.describe()
            )),
            None => Verdict::Free,
        }
    }

    /// Judges an address of the device that this member is certified for by `own`. A router may well have an address in
    /// the network behind it that its certificate names.
    pub fn address(&self, address: IpAddr, own: &IpNet) -> Verdict {
        let host = IpNet::from(address);
        let own_lan = |net: &IpNet| own.prefix_len() < own.max_prefix_len() && own.contains(net);
        let around = self.known.get(&host).or_else(|| self.around(&host));
        let Some(around) = around.filter(|n| n.way != Way::Router && !own_lan(&n.net.trunc()))
        else {
            return Verdict::Free;
        };
        let what = match self.addresses.get(&address) {
            Some(dev) => format!("is an address of {dev} of this host too"),
            None => format!(
                "lies in {} of this host, where another host may have it",
                around.describe()
            ),
        };
        Verdict::Refused(format!(
            "the VPN's address {address} {what}; renumber one of the two, or choose another with --address"
        ))
    }

    /// The smallest network that `net` is a part of.
    fn around(&self, net: &IpNet) -> Option<&Network> {
        let lengths = (1..net.prefix_len()).rev();
        lengths
            .filter_map(|len| IpNet::new(net.addr(), len).ok())
            .find_map(|wider| self.known.get(&wider.trunc()))
    }

    /// The networks that are parts of `net`.
    fn within<'a>(&'a self, net: &'a IpNet) -> impl Iterator<Item = &'a Network> {
        let last = IpNet::from(net.broadcast());
        self.known
            .range(*net..=last)
            .map(|(_, network)| network)
            .filter(|network| network.net.trunc() != *net && net.contains(&network.net))
    }
}

impl Network {
    fn describe(&self) -> String {
        match self.dev.as_str() {
            "" => format!("the network {}", self.net.trunc()),
            dev => format!("the network {} of {dev}", self.net.trunc()),
        }
    }
}

fn counts(net: &IpNet) -> bool {
    let local = match net {
        IpNet::V4(n) => n.addr().is_link_local() || n.addr().is_multicast(),
        IpNet::V6(n) => n.addr().is_unicast_link_local() || n.addr().is_multicast(),
    };
    net.prefix_len() > 0 && !local
}

/// The most networks that are compared: a host with the Internet's whole table is not searched through.
const MOST: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(networks: &[(&str, &str, Way)]) -> Networks {
        let mut all = Networks::default();
        for (net, dev, way) in networks {
            all.add(Network {
                net: net.parse().unwrap(),
                dev: (*dev).to_owned(),
                way: *way,
            });
        }
        all
    }

    fn usual() -> Networks {
        host(&[
            ("192.168.1.7/24", "eth0", Way::Address),
            ("192.168.1.0/24", "eth0", Way::Link),
            ("0.0.0.0/0", "eth0", Way::Router),
            ("10.0.0.0/8", "eth0", Way::Router),
            ("10.9.0.2/32", "vpn-one", Way::Link),
            ("fd00:1::7/64", "eth0", Way::Address),
            ("fe80::1/64", "eth0", Way::Address),
        ])
    }

    fn said(verdict: Verdict) -> (char, String) {
        match verdict {
            Verdict::Free => ('f', String::new()),
            Verdict::Told(text) => ('t', text),
            Verdict::Refused(text) => ('r', text),
        }
    }

    #[test]
    fn a_route_takes_nothing_from_a_network_that_the_host_is_attached_to_and_both_are_named() {
        let host = usual();
        for (net, verdict, other) in [
            ("172.16.0.0/12", 'f', ""),
            ("192.168.1.9/32", 'r', "192.168.1.0/24 of eth0"),
            ("192.168.1.0/24", 'r', "192.168.1.0/24 of eth0"),
            ("192.168.0.0/16", 't', "192.168.1.0/24 of eth0"),
            ("10.7.0.0/16", 't', "10.0.0.0/8 of eth0"),
            ("10.9.0.2/32", 'r', "10.9.0.2/32 of vpn-one"),
            ("fd00:1::9/128", 'r', "fd00:1::/64 of eth0"),
            ("fd00:2::/64", 'f', ""),
        ] {
            let whose = format!("the prefix {net} of b");
            let (letter, text) = said(host.route(&net.parse().unwrap(), &whose));
            assert_eq!(letter, verdict, "{net}: {text}");
            assert!(text.contains(other), "{net}: {text}");
            assert!(letter == 'f' || text.starts_with(&whose), "{text}");
        }
    }

    #[test]
    fn an_address_is_refused_where_it_is_another_s_but_a_router_has_one_in_its_own_network() {
        let host = usual();
        let judge = |address: &str, own: &str| {
            said(host.address(address.parse().unwrap(), &own.parse().unwrap()))
        };
        assert_eq!(judge("10.7.0.1", "10.7.0.1/32").0, 'f');
        let (letter, text) = judge("192.168.1.7", "192.168.1.7/32");
        assert!(letter == 'r' && text.contains("address of eth0"), "{text}");
        let (letter, text) = judge("192.168.1.8", "192.168.1.8/32");
        assert!(
            letter == 'r' && text.contains("192.168.1.0/24 of eth0"),
            "{text}"
        );
        assert_eq!(judge("192.168.1.1", "192.168.1.0/24").0, 'f');
        assert_eq!(judge("192.168.1.7", "192.168.0.0/16").0, 'f');
        assert_eq!(judge("10.9.0.2", "10.9.0.2/32").0, 'r');
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_search_through_all(
            nets in prop::collection::vec((0u32..32, 1u8..=32), 0..30), asked in (0u32..32, 1u8..=32)
        ) {
            let net = |(bits, len): (u32, u8)| {
                IpNet::new(std::net::Ipv4Addr::from_bits(bits << 3 | bits << 20).into(), len).unwrap().trunc()
            };
            let mut host = Networks::default();
            for one in &nets {
                host.add(Network { net: net(*one), dev: "eth0".to_owned(), way: Way::Link });
            }
            let asked = net(asked);
            let all: Vec<IpNet> = nets.into_iter().map(net).collect();
            let expected = if all.iter().any(|n| n.contains(&asked)) {
                'r'
            } else if all.iter().any(|n| asked.contains(n)) {
                't'
            } else {
                'f'
            };
            prop_assert_eq!(said(host.route(&asked, "it")).0, expected);
        }
    }
}
