//! What irmd tells a VPN to be, parsed once: addresses, members, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::ipcp::OffloadMode;
use proto::irm::{VpnConfig, VpnTraffic};
use proto::{Code, Label, Reason};

use crate::filter::{Both, Rules};
use crate::switch::Mac;
use crate::traffic::Traffic;
use crate::ways::{Names, Offered, Ways};

/// A configuration that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The layer that carries the VPN.
    pub layer: Label,
    /// This host's member name.
    pub me: Label,
    /// The addresses of the device.
    pub addresses: Vec<IpNet>,
    /// What this host may send from: the prefixes of its certificate.
    pub own: Vec<IpNet>,
    /// The other members.
    pub members: BTreeMap<Label, Member>,
    /// The administrator's routes; one to this host itself lets it send from there, as a router does.
    pub routes: Vec<Route>,
    /// Whether the device gives and takes super-packets.
    pub offload: OffloadMode,
    /// The networks behind this host that it forwards to for others.
    pub offers: Vec<IpNet>,
    /// What others offer, and what becomes of it.
    pub offered: Vec<Offered>,
    /// The member by which all else goes out.
    pub exit: Option<Label>,
    /// Whether names are answered, and who is told so.
    pub names: Names,
    /// How packets are carried.
    pub traffic: Traffic,
    /// Ethernet frames instead of packets: no address of IP means anything then.
    pub tap: bool,
    /// The address that the device has on an Ethernet segment.
    pub mac: Option<Mac>,
    /// Members that the policy keeps out of the segment: what they may send is said of packets, and frames can't be judged so.
    pub kept_out: BTreeSet<Label>,
}

/// Another member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The prefixes of its certificate.
    pub prefixes: Vec<IpNet>,
    /// Whether it is a neighbour in the layer.
    pub neighbour: bool,
    /// What may pass between this host and it.
    pub filter: Both,
    /// The address that its device has on an Ethernet segment.
    pub mac: Option<Mac>,
}

/// A network behind a member that no certificate speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub prefix: IpNet,
    /// The member.
    pub member: Label,
}

/// By what right the VPN takes the packets to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The member's certificate grants it.
    Certified(Label),
    /// The administrator said so.
    ByHand(Label),
    /// The member offers it, and it was taken.
    Offered(Label),
}

impl Claim {
    /// The claim to `net`, in words.
    pub fn describe(&self, net: &IpNet) -> String {
        match self {
            Self::Certified(member) => format!("the prefix {net} of {member}"),
            Self::ByHand(member) => format!("the route {net}={member}"),
            Self::Offered(member) => format!("the network {net} behind {member}"),
        }
    }
}

impl Config {
    /// What is taken of what others offer.
    pub fn taken(&self) -> impl Iterator<Item = &Offered> {
        self.offered.iter().filter(|o| o.taken)
    }

    /// The default routes that the exit offers, in the families that the device speaks.
    pub fn ways_out(&self) -> impl Iterator<Item = IpNet> {
        let out = self.taken().filter(|o| o.net.prefix_len() == 0);
        out.map(|o| o.net).filter(|net| self.speaks(net.addr()))
    }

    /// The networks to which this host forwards for others: offered, or routed to itself by hand.
    pub fn behind(&self) -> Vec<IpNet> {
        let by_hand = self.routes.iter().filter(|r| r.member == self.me);
        let by_hand = by_hand.map(|r| r.prefix);
        self.offers.iter().copied().chain(by_hand).collect()
    }

    /// Whether the device has an address of this one's family.
    pub fn speaks(&self, address: IpAddr) -> bool {
        self.address_like(address).is_some()
    }

    /// The device's first address of the family of `address`.
    pub fn address_like(&self, address: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(IpNet::addr)
            .find(|own| own.is_ipv4() == address.is_ipv4())
    }

    /// The networks that the kernel is to send to the device, and by what right; of several the strongest.
    pub fn kernel_routes(&self) -> BTreeMap<IpNet, Claim> {
        let certified = self.members.iter().flat_map(|(name, member)| {
            let claim = |net| (net, Claim::Certified(name.clone()));
            member.prefixes.iter().map(IpNet::trunc).map(claim)
        });
        let by_hand = self
            .routes
            .iter()
            .filter(|r| r.member != self.me)
            .map(|r| (r.prefix, Claim::ByHand(r.member.clone())));
        let offered = self
            .taken()
            .filter(|o| o.net.prefix_len() > 0)
            .map(|o| (o.net, Claim::Offered(o.member.clone())));
        let mut routes = BTreeMap::new();
        for (net, claim) in certified.chain(by_hand).chain(offered) {
            let mut own = self.own.iter().map(IpNet::trunc).chain(self.offers.clone());
            if self.speaks(net.addr()) && !own.any(|own| own == net) {
                routes.entry(net).or_insert(claim);
            }
        }
        routes
    }
}

impl TryFrom<VpnConfig> for Config {
    type Error = Reason;

    fn try_from(wire: VpnConfig) -> Result<Self, Reason> {
        let wire = match wire.tap {
            true => without_ip(wire),
            false => wire,
        };
        let (layer, me) = (Label::new(wire.layer)?, Label::new(wire.member)?);
        let own = prefixes("own_prefixes", &wire.own_prefixes)?;
        let neighbours: BTreeSet<String> = wire
            .members
            .iter()
            .filter(|m| m.name == me.as_str())
            .flat_map(|m| m.neighbours.iter().cloned())
            .collect();
        let (mut members, mut offered) = (BTreeMap::new(), Vec::new());
        let (mut mac, mut kept_out) = (None, BTreeSet::new());
        let filters: Vec<Rules> = wire.filters.into_iter().map(Rules::from).collect();
        // One that isn't there allows nothing.
        let filter = |number: u32| match number {
            0 => None,
            n => Some(filters.get(n as usize - 1).cloned().unwrap_or_default()),
        };
        for m in wire.members {
            let member = Member {
                prefixes: prefixes("prefixes of a member", &m.prefixes)?,
                neighbour: neighbours.contains(&m.name),
                filter: Both {
                    sends: filter(m.sends),
                    takes: filter(m.takes),
                },
                mac: (wire.tap && m.address != 0).then(|| Mac::of_member(m.address)),
            };
            let name = Label::new(m.name)?;
            let all = m.offers.into_iter();
            offered.extend(all.map(|o| (name.clone(), m.reachable, o)));
            if name == me {
                mac = member.mac;
            } else if wire.tap && !member.filter.allows_all() {
                kept_out.insert(name);
            } else {
                members.insert(name, member);
            }
        }
        let routes = wire
            .routes
            .iter()
            .map(|text| route(text))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = match wire.tap {
            true if wire.address.is_empty() => Vec::new(),
            true => vec![parse_address(&wire.address)?],
            false => addresses(&wire.address, &own)?,
        };
        let ways = Ways::parse(wire.ways.unwrap_or_default())?;
        let offered = ways.judge(&me, offered);
        Ok(Self {
            layer,
            me,
            addresses,
            own,
            members,
            routes,
            offload: offload(&wire.offload_tun)?,
            offers: ways.offers,
            offered,
            exit: ways.exit,
            names: ways.names,
            traffic: wire.traffic.unwrap_or_default().into(),
            tap: wire.tap,
            mac,
            kept_out,
        })
    }
}

/// What a segment has no use for: its addresses are those that its hosts give themselves, its flows stay for floods.
fn without_ip(mut wire: VpnConfig) -> VpnConfig {
    for member in &mut wire.members {
        member.prefixes.clear();
        member.offers.clear();
    }
    VpnConfig {
        own_prefixes: Vec::new(),
        routes: Vec::new(),
        offload_tun: OffloadMode::Off.to_string(),
        ways: None,
        traffic: Some(VpnTraffic {
            keep_mss: true,
            idle_ms: Some(0),
            one_class: true,
        }),
        ..wire
    }
}

fn offload(mode: &str) -> Result<OffloadMode, Reason> {
    match mode {
        "" => Ok(OffloadMode::default()),
        mode => mode
            .parse()
            .map_err(|why: String| Reason::new(Code::Usage, why)),
    }
}

/// The address that was asked for, or the first usable one of each prefix.
fn addresses(asked: &str, own: &[IpNet]) -> Result<Vec<IpNet>, Reason> {
    let listed = || {
        own.iter()
            .map(IpNet::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if asked.is_empty() {
        return match own {
            [] => Err(Reason::new(
                Code::Denied,
                "this member's certificate grants no prefix, so it has no address; invite it with --prefix",
            )),
            _ => Ok(own.iter().map(first_address).collect()),
        };
    }
    let address = parse_address(asked)?;
    if !own.iter().any(|net| net.contains(&address.addr())) {
        let why = format!(
            "the address {} lies in none of this member's prefixes ({})",
            address.addr(),
            listed()
        );
        return Err(Reason::new(Code::Denied, why));
    }
    Ok(vec![address])
}

fn parse_address(asked: &str) -> Result<IpNet, Reason> {
    let alone = |_| asked.parse::<IpAddr>().map(IpNet::from);
    asked.parse::<IpNet>().or_else(alone).map_err(|_| {
        Reason::new(
            Code::Usage,
            format!("{asked:?} is no address; use ADDR/LEN as in 10.7.0.1/24"),
        )
    })
}

/// As it stands, where a prefix names a host; else the first host of the network. The device gets it alone: a route to the
/// rest of the own prefix would send to the device what can't leave it.
pub(crate) fn first_address(prefix: &IpNet) -> IpNet {
    let named = prefix.addr() != prefix.network();
    let alone = match prefix {
        _ if named => prefix.addr(),
        IpNet::V4(net) => net.hosts().next().unwrap_or_else(|| net.network()).into(),
        IpNet::V6(net) if net.prefix_len() < 127 => {
            (u128::from(net.network()) + 1).to_be_bytes().into()
        }
        IpNet::V6(net) => net.network().into(),
    };
    match alone {
        IpAddr::V4(a) => Ipv4Net::from(a).into(),
        IpAddr::V6(a) => Ipv6Net::from(a).into(),
    }
}

fn route(text: &str) -> Result<Route, Reason> {
    let bad = |why: &str| {
        Reason::new(
            Code::Usage,
            format!("the route {text:?}: {why}; use CIDR=MEMBER as in 192.168.7.0/24=b"),
        )
    };
    let (prefix, member) = text
        .split_once('=')
        .ok_or_else(|| bad("it names no member"))?;
    let prefix: IpNet = prefix.parse().map_err(|_| bad("it names no network"))?;
    let member = Label::new(member).map_err(|e| bad(&e.to_string()))?;
    if prefix.prefix_len() == 0 {
        return Err(bad(
            "a default route would swallow the packets that carry the VPN itself; name the networks",
        ));
    }
    Ok(Route {
        prefix: prefix.trunc(),
        member,
    })
}

pub(crate) fn prefixes(field: &str, texts: &[String]) -> Result<Vec<IpNet>, Reason> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            Reason::new(
                Code::Usage,
                format!("malformed message: {field}: {text:?} is no prefix"),
            )
        })
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::irm::{self, PassRule};

    fn wire() -> VpnConfig {
        let member = |name: &str, prefix: &str, neighbours: &[&str]| irm::Member {
            name: name.into(),
            prefixes: vec![prefix.into()],
            neighbours: neighbours.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        };
        VpnConfig {
            layer: "ovl".into(),
            member: "a".into(),
            own_prefixes: vec!["10.7.0.1/32".into(), "fd07::/64".into()],
            members: vec![
                member("a", "10.7.0.1/32", &["b"]),
                member("b", "10.7.0.2/32", &["a", "c"]),
                member("c", "10.7.3.0/24", &["b"]),
            ],
            routes: vec!["192.168.7.0/24=c".into(), "172.16.0.0/12=a".into()],
            ..Default::default()
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_the_first_of_each_own_prefix() {
        let config = Config::try_from(wire()).unwrap();
        assert_eq!(config.addresses, nets(&["10.7.0.1/32", "fd07::1/128"]));
        assert_eq!(
            first_address(&"10.9.0.0/24".parse().unwrap()).to_string(),
            "10.9.0.1/32"
        );
        assert_eq!(
            first_address(&"10.9.0.5/24".parse().unwrap()).to_string(),
            "10.9.0.5/32"
        );
        assert_eq!(
            first_address(&"10.9.0.4/31".parse().unwrap()).to_string(),
            "10.9.0.4/32"
        );
        assert_eq!(
            first_address(&"fd00::4/128".parse().unwrap()).to_string(),
            "fd00::4/128"
        );
    }

    #[test]
    fn an_address_must_lie_in_an_own_prefix() {
        let ask = |address: &str| {
            Config::try_from(VpnConfig {
                address: address.into(),
                ..wire()
            })
        };
        assert_eq!(
            ask("10.7.0.1/24").unwrap().addresses,
            nets(&["10.7.0.1/24"])
        );
        assert_eq!(ask("fd07::9").unwrap().addresses, nets(&["fd07::9/128"]));
        assert_eq!(ask("10.7.0.2/24").unwrap_err().code, Code::Denied);
        assert_eq!(ask("10.7.0.x").unwrap_err().code, Code::Usage);
        let none = VpnConfig {
            own_prefixes: vec![],
            ..wire()
        };
        assert!(
            Config::try_from(none)
                .unwrap_err()
                .text
                .contains("--prefix")
        );
    }

    #[test]
    fn the_kernel_routes_what_others_own_in_families_that_the_device_speaks() {
        let mut config = Config::try_from(wire()).unwrap();
        let routes: Vec<_> = config
            .kernel_routes()
            .keys()
            .map(IpNet::to_string)
            .collect();
        assert_eq!(routes, ["10.7.0.2/32", "10.7.3.0/24", "192.168.7.0/24"]);
        assert!(
            config.members[&Label::new("b").unwrap()].neighbour
                && !config.members[&Label::new("c").unwrap()].neighbour
        );
        config.addresses = nets(&["fd07::1/128"]);
        assert!(config.kernel_routes().is_empty());
    }

    #[test]
    fn routes_that_make_no_sense_are_refused_with_the_reason() {
        for (text, why) in [
            ("10.0.0.0/8", "no member"),
            ("x=b", "no network"),
            ("10.0.0.0/8=B", "a-z"),
            ("0.0.0.0/0=b", "default route"),
        ] {
            let refused = Config::try_from(VpnConfig {
                routes: vec![text.into()],
                ..wire()
            })
            .unwrap_err();
            assert!(
                refused.code == Code::Usage && refused.text.contains(why),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_segment_has_no_addresses_but_those_that_were_asked_for_and_nobody_of_whom_rules_speak() {
        let asked = |address: &str, rules: &[PassRule]| {
            let mut wire = VpnConfig {
                tap: true,
                address: address.into(),
                filters: vec![irm::Filter {
                    rules: rules.to_vec(),
                }],
                ..wire()
            };
            for (n, member) in (1..).zip(&mut wire.members) {
                member.address = n << 60;
            }
            (wire.members[2].sends, wire.members[2].takes) = (1, 1);
            Config::try_from(wire).unwrap()
        };
        let rule = |allow, protocol| PassRule {
            allow,
            protocol,
            low: 0,
            high: 65_535,
        };
        let some = asked("", &[rule(true, 6)]);
        assert!(some.addresses.is_empty() && some.kernel_routes().is_empty());
        assert_eq!((some.traffic.idle, some.own.len()), (None, 0));
        assert_eq!(some.mac.unwrap().to_string(), "12:00:00:00:00:00");
        let (b, c) = (Label::new("b").unwrap(), Label::new("c").unwrap());
        assert_eq!(some.kept_out, [c.clone()].into());
        assert_eq!(some.members.keys().collect::<Vec<_>>(), [&b]);
        assert_eq!(some.members[&b].mac, Some(Mac::of_member(2 << 60)));
        for rules in [vec![], vec![rule(false, 6), rule(true, 0)]] {
            assert_eq!(asked("", &rules).kept_out.len(), 1);
        }
        let all = asked("192.168.9.1/24", &[rule(true, 0)]);
        assert!(all.members.contains_key(&c) && all.kept_out.is_empty());
        assert_eq!(all.addresses, nets(&["192.168.9.1/24"]));
    }
}
