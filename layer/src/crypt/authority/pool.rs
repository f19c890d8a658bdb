//! Addresses for members that are let in without a prefix: the next free one of each of the layer's pools. It must not give one
//! that anybody has, may have by an open invitation, or had with a certificate that has not ended.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::{Code, Label, Reason};

use super::Authority;
use crate::UnixTime;
use crate::crypt::cert::issuer_prefixes;
use crate::crypt::sha256;

/// What addresses are taken from.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// The layer's pools, or the parts of them that this issuer was given.
    pub(super) from: Vec<IpNet>,
    /// The parts that other issuers were given.
    pub(super) elsewhere: Vec<IpNet>,
    /// What members had that are out, as long as their certificates are in time.
    pub(super) held: Vec<Held>,
}

/// Prefixes of a member that is out, and the second of Unix time at which its certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) prefixes: Vec<IpNet>,
    pub(super) until: u64,
}

impl Pools {
    /// Those that were asked for; `None`: those that follow from the key of the layer's root.
    pub(super) fn new(asked: Option<&[IpNet]>, root: &[u8; 32]) -> Result<Self, Reason> {
        let from = match asked {
            Some(asked) => checked(asked)?,
            None => by_default(root),
        };
        Ok(Self {
            from,
            ..Self::default()
        })
    }
}

impl Authority {
    /// What addresses are given from here.
    pub fn pools(&self) -> &[IpNet] {
        &self.pools.from
    }

    /// Learns from which parts of the pools each member issues, this one, called `own`, among them.
    pub fn share_pools(&mut self, own: &Label, parts: &[(Label, Vec<IpNet>)]) {
        let of = |is: bool| {
            let parts = parts
                .iter()
                .filter(move |(member, _)| (member == own) == is);
            parts
                .flat_map(|(_, prefixes)| prefixes.iter().copied())
                .collect()
        };
        self.pools.elsewhere = of(false);
        if !self.is_root() {
            self.pools.from = of(true);
        }
    }

    /// The part of each pool from which a member is to issue: one that nobody issues from, nor has an address in.
    pub fn part(&self, parts: &[(Label, Vec<IpNet>)], now: UnixTime) -> Vec<IpNet> {
        let given = parts.iter().flat_map(|(_, prefixes)| prefixes);
        let mut taken: Vec<IpNet> = given.copied().collect();
        taken.extend(self.taken(now));
        let free = |part: &IpNet| !taken.iter().any(|t| t.contains(part) || part.contains(t));
        let part = |pool: &IpNet| {
            let len = pool.prefix_len() + PART;
            // What is given here goes up from below.
            let upper = pool.subnets(len).ok()?.skip(1 << (PART - 1));
            let upper: Vec<IpNet> = upper.collect();
            let large = pool.max_prefix_len() - len >= LEAST_PART;
            upper.into_iter().rev().find(free).filter(|_| large)
        };
        self.pools.from.iter().filter_map(part).collect()
    }

    /// One address of each pool.
    pub(super) fn addresses(&self, now: UnixTime) -> Result<Vec<IpNet>, Reason> {
        let mut taken: Vec<(IpAddr, IpAddr)> = self.taken(now).iter().map(ends).collect();
        taken.extend(self.pools.elsewhere.iter().map(ends));
        taken.sort_unstable();
        let own = issuer_prefixes(self.root.der());
        let within = |pool: &&IpNet| {
            own.as_ref()
                .is_none_or(|own| own.iter().any(|own| own.contains(*pool)))
        };
        let pools = self.pools.from.iter().filter(within);
        let next = |pool: &IpNet| {
            next_free(pool, &taken).map(IpNet::from).ok_or_else(|| {
                let text = format!(
                    "the pool {pool} of {} has no free address; invite with --prefix, or revoke members that are gone",
                    self.layer
                );
                Reason::new(Code::Busy, text)
            })
        };
        pools.map(next).collect()
    }

    /// The part of another issuer in which a prefix lies.
    pub(super) fn part_of_another(&self, prefix: &IpNet) -> Option<&IpNet> {
        let mut parts = self.pools.elsewhere.iter();
        parts.find(|part| part.contains(prefix) || prefix.contains(*part))
    }

    /// Notes what a member has that is out now.
    pub(super) fn hold_back(&mut self, prefixes: Vec<IpNet>, until: UnixTime) {
        if !prefixes.is_empty() && !self.pools.from.is_empty() {
            let until = until.secs();
            self.pools.held.push(Held { prefixes, until });
        }
    }

    /// Gives back what members had whose certificates have ended.
    pub(super) fn give_back(&mut self, now: UnixTime) {
        self.pools.held.retain(|held| now.secs() < held.until);
    }

    /// What is not free.
    fn taken(&self, now: UnixTime) -> Vec<IpNet> {
        let members = self.members.values().flat_map(|m| &m.grant.prefixes);
        let open = self.open(now).flat_map(|(_, open)| &open.grant.prefixes);
        let held = self.pools.held.iter().filter(|h| now.secs() < h.until);
        let held = held.flat_map(|h| &h.prefixes);
        members.chain(open).chain(held).copied().collect()
    }
}

/// Pools that make sense: hosts fit in, and none overlaps another.
fn checked(asked: &[IpNet]) -> Result<Vec<IpNet>, Reason> {
    let mut pools: Vec<IpNet> = Vec::new();
    for pool in asked.iter().map(IpNet::trunc) {
        let least = if pool.addr().is_ipv4() { 8 } else { 16 };
        if !(least..=pool.max_prefix_len() - 2).contains(&pool.prefix_len()) {
            let text = format!("{pool} is no pool: give a network of /{least} to /30 (IPv6: /126)");
            return Err(Reason::new(Code::Usage, text));
        }
        if let Some(other) = pools
            .iter()
            .find(|o| o.contains(&pool) || pool.contains(*o))
        {
            let text = format!("the pools {other} and {pool} overlap; give each address once");
            return Err(Reason::new(Code::Usage, text));
        }
        pools.push(pool);
    }
    if pools.len() > MOST {
        let text = "a layer has at most 8 pools; give fewer, larger ones";
        return Err(Reason::new(Code::Usage, text));
    }
    Ok(pools)
}

/// A unique local /64, and a /18 of 10.128.0.0 to 10.223.255.255, whose second octets home routers and container networks seldom
/// have; both other for each layer.
fn by_default(root: &[u8; 32]) -> Vec<IpNet> {
    let hash = sha256(&[b"strata pool v1", root]);
    let mut v6 = [0; 16];
    v6[0] = 0xfd;
    v6[1..8].copy_from_slice(&hash[..7]);
    let v4 = Ipv4Addr::new(10, 128 + hash[7] % 96, hash[8] & 0xc0, 0);
    let v6 = Ipv6Net::new(v6.into(), 64).map(IpNet::V6);
    let v4 = Ipv4Net::new(v4, 18).map(IpNet::V4);
    v4.into_iter().chain(v6).collect()
}

fn ends(net: &IpNet) -> (IpAddr, IpAddr) {
    (net.network(), net.broadcast())
}

/// The lowest address of a host in a pool that lies in none of these ranges, which are sorted.
fn next_free(pool: &IpNet, taken: &[(IpAddr, IpAddr)]) -> Option<IpAddr> {
    let mut next = after(pool.network())?;
    let last = match pool {
        IpNet::V4(pool) => IpAddr::V4(Ipv4Addr::from_bits(pool.broadcast().to_bits() - 1)),
        IpNet::V6(pool) => IpAddr::V6(pool.broadcast()),
    };
    let alike = |(first, _): &&(IpAddr, IpAddr)| first.is_ipv4() == pool.addr().is_ipv4();
    for (first, end) in taken.iter().filter(alike) {
        if *first > next {
            break;
        }
        if *end >= next {
            next = after(*end)?;
        }
    }
    (next <= last).then_some(next)
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip
            .to_bits()
            .checked_add(1)
            .map(|b| Ipv4Addr::from_bits(b).into()),
        IpAddr::V6(ip) => ip
            .to_bits()
            .checked_add(1)
            .map(|b| Ipv6Addr::from_bits(b).into()),
    }
}

/// A part is the 32nd part of a pool, and half of a pool may be given away so: as many parts as members may issue.
const PART: u8 = 5;
/// Smaller ones, by the bits of a host, are not worth it.
const LEAST_PART: u8 = 3;
const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::Joiner;
    use crate::crypt::fixtures::{LIFE, NOW, at, invite, invited, label};
    use proptest::prelude::*;
    use proto::wire;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn pooled(pools: &[&str]) -> (Authority, crate::crypt::Identity) {
        let pools = nets(pools);
        Authority::create_for(&label("ovl"), &label("a"), &[], Some(&pools), None, at(NOW)).unwrap()
    }

    fn asks(authority: &mut Authority, name: &str, prefixes: &[&str]) -> Joiner {
        let ask = invite(Some(name), prefixes, 1);
        invited(authority, &ask).start(&label(name)).unwrap()
    }

    fn answer(
        authority: &mut Authority,
        joiner: &Joiner,
        secs: u64,
    ) -> Result<wire::EnrolReply, Reason> {
        authority.redeem(&joiner.request(&[7; 32]), &[7; 32], at(secs))
    }

    /// Lets a member in, and gives its prefixes.
    fn enrol(authority: &mut Authority, name: &str, secs: u64) -> Vec<String> {
        let joiner = asks(authority, name, &[]);
        let reply = answer(authority, &joiner, secs).unwrap();
        let cert = crate::crypt::MemberCert::parse(&reply.certificate).unwrap();
        cert.prefixes().iter().map(IpNet::to_string).collect()
    }

    #[test]
    fn the_first_member_has_the_first_addresses_and_each_other_the_next_ones() {
        let (mut authority, a) = pooled(&["10.7.0.0/24", "fd07::/64"]);
        assert_eq!(a.cert().prefixes(), nets(&["10.7.0.1/32", "fd07::1/128"]));
        assert_eq!(
            enrol(&mut authority, "b", NOW),
            ["10.7.0.2/32", "fd07::2/128"]
        );
        let joiner = asks(&mut authority, "x", &["10.7.0.4/30"]);
        assert_eq!(
            enrol(&mut authority, "c", NOW),
            ["10.7.0.3/32", "fd07::3/128"]
        );
        assert_eq!(
            enrol(&mut authority, "d", NOW),
            ["10.7.0.8/32", "fd07::4/128"]
        );
        // What an open invitation grants is as good as given, and a prefix that is asked for is the only one.
        let reply = answer(&mut authority, &joiner, NOW).unwrap();
        let cert = crate::crypt::MemberCert::parse(&reply.certificate).unwrap();
        assert_eq!(cert.prefixes(), nets(&["10.7.0.4/30"]));
    }

    #[test]
    fn the_same_request_has_the_same_address_again_also_after_a_restart() {
        let (mut authority, _) = pooled(&["10.7.0.0/24"]);
        let joiner = asks(&mut authority, "b", &[]);
        let first = answer(&mut authority, &joiner, NOW).unwrap();
        let mut again = Authority::from_bytes(&authority.to_bytes()).unwrap();
        assert_eq!(answer(&mut again, &joiner, NOW + 9).unwrap(), first);
        assert_eq!(enrol(&mut again, "c", NOW), ["10.7.0.3/32"]);
        assert_eq!(again.pools(), nets(&["10.7.0.0/24"]));
    }

    #[test]
    fn an_address_is_given_back_when_the_certificate_of_who_is_out_has_ended() {
        let (mut authority, _) = pooled(&["10.7.0.0/24"]);
        enrol(&mut authority, "b", NOW);
        authority.release(&label("b"));
        assert_eq!(enrol(&mut authority, "c", NOW), ["10.7.0.3/32"]);
        let mut authority = Authority::from_bytes(&authority.to_bytes()).unwrap();
        assert_eq!(enrol(&mut authority, "d", NOW + 500), ["10.7.0.4/32"]);
        let joiner = asks(&mut authority, "e", &[]);
        // Invitations are made at another time than that at which they are used.
        let reply = answer(&mut authority, &joiner, NOW + 501);
        assert!(reply.is_ok(), "{reply:?}");
        authority.forget_old(at(NOW + LIFE + 1));
        let next = authority.addresses(at(NOW + LIFE + 1)).unwrap();
        assert_eq!(next, nets(&["10.7.0.2/32"]));
    }

    #[test]
    fn a_pool_without_a_free_address_says_so() {
        let (mut authority, _) = pooled(&["10.7.0.0/30"]);
        let late = asks(&mut authority, "late", &[]);
        assert_eq!(enrol(&mut authority, "b", NOW), ["10.7.0.2/32"]);
        let refused = answer(&mut authority, &late, NOW).unwrap_err();
        assert!(
            refused.code == Code::Busy && refused.text.contains("10.7.0.0/30"),
            "{refused}"
        );
        let refused = authority.invite(&invite(Some("c"), &[], 1), &label("a"), &[], at(NOW));
        assert_eq!(refused.unwrap_err().code, Code::Busy);
    }

    #[test]
    fn those_that_issue_have_parts_of_their_own_and_never_give_what_another_gives() {
        let (mut root, _) = pooled(&["10.7.0.0/24", "fd07::/64"]);
        let part = root.part(&[], at(NOW));
        assert_eq!(part, nets(&["10.7.0.248/29", "fd07:0:0:0:f800::/69"]));
        let parts = [(label("b"), part.clone())];
        assert_ne!(root.part(&parts, at(NOW)), part);
        root.share_pools(&label("a"), &parts);
        // Not by hand either.
        let ask = invite(Some("x"), &["10.7.0.250/32"], 1);
        let refused = root.invite(&ask, &label("a"), &[], at(NOW)).unwrap_err();
        assert_eq!(refused.code, Code::Conflict, "{refused}");
        // All that the root has left is given, and none of it lies in the part.
        let all: Vec<String> = (0..246)
            .map(|n| enrol(&mut root, &format!("m{n}"), NOW)[0].clone())
            .collect();
        assert_eq!(all.last().map(String::as_str), Some("10.7.0.247/32"));
        assert!(root.addresses(at(NOW)).is_err());
    }

    #[test]
    fn a_small_pool_is_not_cut() {
        let (root, _) = pooled(&["10.7.0.0/25"]);
        assert_eq!(root.part(&[], at(NOW)), []);
    }

    #[test]
    fn the_default_is_other_for_each_layer_and_of_both_families() {
        let one = by_default(&[1; 32]);
        assert_eq!(one, by_default(&[1; 32]));
        assert_ne!(one, by_default(&[2; 32]));
        assert_eq!(one, nets(DEFAULT));
        assert!(checked(&one).is_ok());
    }

    #[test]
    fn pools_that_make_no_sense_are_refused() {
        for bad in [
            &["10.0.0.0/31"][..],
            &["0.0.0.0/0"],
            &["fd00::/127"],
            &["10.0.0.0/16", "10.0.1.0/24"],
        ] {
            assert_eq!(
                checked(&nets(bad)).unwrap_err().code,
                Code::Usage,
                "{bad:?}"
            );
        }
        assert!(checked(&nets(&["10.0.0.0/24"])).is_ok());
    }

    proptest! {
        #[test]
        fn the_next_address_is_the_lowest_that_nobody_has(taken in prop::collection::vec((1_u8..30, 28_u8..=32), 0..12)) {
            let pool: IpNet = "10.7.0.0/27".parse().unwrap();
            let nets: Vec<IpNet> = taken.iter().map(|(host, len)| IpNet::new(Ipv4Addr::new(10, 7, 0, *host).into(), *len).unwrap().trunc()).collect();
            let mut ranges: Vec<_> = nets.iter().map(ends).collect();
            ranges.sort_unstable();
            let mut hosts = (1_u8..31).map(|host| IpAddr::from(Ipv4Addr::new(10, 7, 0, host)));
            let lowest = hosts.find(|ip| !nets.iter().any(|net| net.contains(ip)));
            prop_assert_eq!(next_free(&pool, &ranges), lowest);
        }
    }

    /// The pools of a layer whose root's key has the SHA-256 32 × 01: a line of docs/protocol.md.
    const DEFAULT: &[&str] = &["10.146.128.0/18", "fd21:4ef7:ff42:4864::/64"];
}
