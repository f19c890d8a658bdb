//! Routing and directory between neighbours: signed records over the link channels.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use prost::Message;
use proto::wire::{self, SignedRecord, message::Body};
use proto::{Addr, FlowId, irm};
use rand_core::RngCore;
use zeroize::Zeroizing;

use super::Unicast;
use super::damper::Key;
use super::link::{Link, SAFE_MTU};
use super::pdu::{DIRECT_OVERHEAD, ROUTED_OVERHEAD};
use crate::Now;
use crate::crypt::MemberCert;
use crate::route::{Inserted, LinkState, Lsdb, packed};

/// Our own records.
impl Unicast {
    /// Tells the layer which neighbours this member has. `moved`: to somebody the way is another, and what went there must
    /// go so now; `lost`: these have none any more.
    pub(super) fn publish_links(
        &mut self,
        now: Now,
        links: Vec<LinkState>,
        moved: bool,
        lost: &[Addr],
    ) {
        let Some(me) = &mut self.me else { return };
        if !lost.is_empty() {
            me.routing.repair(now.mono, lost);
        }
        let before = me.routing.lsdb.member(me.address);
        let known = before.is_some_and(|cert| cert.der() == me.identity.cert().der());
        let said = me.routing.lsdb.links(me.address).iter();
        let others = said
            .map(|l| l.neighbour)
            .ne(links.iter().map(|l| l.neighbour));
        let mut record = me.routing.lsdb.set_links(now, &me.identity, links);
        record.iter_mut().filter(|_| known).for_each(bare);
        self.flood(now, record.into_iter().collect(), None);
        self.rerouted(now, moved);
        if others {
            self.members_changed();
        }
    }

    /// Finds the routes anew if anything has changed, and lets the flows know.
    fn rerouted(&mut self, now: Now, at_once: bool) {
        let Some(me) = &mut self.me else { return };
        (self.way, self.share) = (None, None);
        if me.routing.refresh(now.mono, at_once) || at_once {
            let moves = me.routing.moves();
            let others = moves.as_ref().is_none_or(|m| !m.is_empty());
            self.stats.count("routes.found");
            // Neighbours know names, too: one may have come though it could be reached before.
            let beside = me.dir.is_beside(self.adjacent.keys().copied());
            if others || !beside {
                self.directory_rerouted(now, moves);
                self.members_changed();
            }
            self.flows_rerouted(now);
        }
    }

    /// Sends records to all neighbours but the one that they came from. What changes too often goes later. Those without a
    /// certificate are sent without.
    pub(super) fn flood(&mut self, now: Now, records: Vec<SignedRecord>, from: Option<Addr>) {
        let news = records.iter();
        let news = news.filter_map(|r| Some((key(r)?, !r.certificate.is_empty())));
        self.flood_newest(now, news.collect(), from);
    }

    /// The same of records that are held here: each with whether its certificate goes with it.
    fn flood_newest(&mut self, now: Now, mut news: Vec<(Key, bool)>, from: Option<Addr>) {
        news.retain(|(key, _)| {
            let passes = self.damper.passes(now.mono, *key);
            if !passes {
                self.stats.count("record.delayed");
            }
            passes
        });
        if !news.is_empty() {
            self.spread(now, &news, from);
        }
    }

    /// Sends the newest versions of the records whose time has come.
    fn flood_delayed(&mut self, now: Now) {
        let due = self.damper.due(now.mono);
        let due: Vec<_> = due.into_iter().map(|key| (key, false)).collect();
        self.spread(now, &due, None);
    }

    fn spread(&mut self, now: Now, news: &[(Key, bool)], from: Option<Addr>) {
        let to = self
            .adjacent
            .iter()
            .filter(|(peer, _)| Some(**peer) != from);
        for (_, lower) in to {
            for (key, whole) in news {
                self.outbox.put(now.mono, *lower, *key, *whole);
            }
        }
        self.send_news(now);
    }

    /// Says over each link what is due there.
    fn send_news(&mut self, now: Now) {
        for (lower, keys) in self.outbox.due(now.mono) {
            let Some(me) = &self.me else { return };
            let lsdb = &me.routing.lsdb;
            let newest = |((origin, kind), whole): (Key, bool)| {
                if whole {
                    lsdb.record(now.mono, origin, kind)
                } else {
                    lsdb.bare_record(now.mono, origin, kind)
                }
            };
            for records in packed(keys.into_iter().filter_map(newest)) {
                self.tell_link(lower, Body::Records(records));
            }
        }
    }
}

/// The records of others.
impl Unicast {
    /// A neighbour says in short what it holds: where that is something else, it hears what is held here.
    pub(super) fn take_summary(&mut self, lower: FlowId, summary: &wire::Summary) {
        let Some(me) = &self.me else { return };
        match me.routing.lsdb.differing(summary) {
            Some(digests) => {
                for digest in digests {
                    self.tell_link(lower, Body::Digest(digest));
                }
            }
            None => self.stats.count("drop.malformed_message"),
        }
    }

    /// A neighbour says what it holds: it gets what it lacks, and is asked for what is lacking here. Of very much it gets
    /// the rest when it has taken this, by the next summary.
    pub(super) fn take_digest(&mut self, now: Now, lower: FlowId, digest: &wire::Digest) {
        let Some(me) = &self.me else { return };
        let mut missing = me.routing.lsdb.missing(now.mono, digest);
        let lacking = me.routing.lsdb.lacking(digest);
        let more = missing.len() > MOST_AT_ONCE;
        missing.truncate(MOST_AT_ONCE);
        for records in missing {
            self.tell_link(lower, Body::Records(records));
        }
        for digest in lacking {
            self.tell_link(lower, Body::Digest(digest));
        }
        if let Some(link) = self.links.get_mut(&lower).filter(|_| more) {
            link.owes_digest = true;
        }
    }

    pub(super) fn take_records(&mut self, now: Now, lower: FlowId, records: wire::Records) {
        let from = self.links.get(&lower).and_then(Link::peer);
        let (mut news, mut back, mut own) = (Vec::new(), Vec::new(), Vec::new());
        let (mut unclear, mut regrouped, mut changed) = (BTreeSet::new(), false, false);
        let (Some(me), Some(link)) = (&mut self.me, self.links.get_mut(&lower)) else {
            return;
        };
        let incarnation = me.routing.lsdb.incarnation();
        for record in records.records {
            if !link.records.take(now.mono, self.bounds.records) {
                self.stats.count("drop.too_many_records");
                continue;
            }
            let (key, came_bare) = (key(&record), record.certificate.is_empty());
            // What came without a certificate is of the one that is known.
            let before = key.filter(|_| !came_bare);
            let before = before.and_then(|(origin, _)| me.routing.lsdb.member(origin));
            let known = before.map_or(came_bare, |cert| cert.der() == record.certificate);
            let groups = before.filter(|_| !known).map(|cert| cert.groups().to_vec());
            let offered = offers(&me.routing.lsdb, key);
            match me.routing.lsdb.insert(now, &me.identity, record) {
                Ok(Inserted::New(_)) => {
                    let cert = || key.and_then(|(origin, _)| me.routing.lsdb.member(origin));
                    let same = |cert: &MemberCert| groups.as_deref() == Some(cert.groups());
                    regrouped |= groups.is_some() && !cert().is_some_and(same);
                    changed |= !known || offered != offers(&me.routing.lsdb, key);
                    news.extend(key.map(|key| (key, !known)));
                }
                Ok(Inserted::Known) => {
                    self.stats.count("record.known");
                    key.into_iter().for_each(|key| self.outbox.has(lower, key));
                }
                Ok(Inserted::Stale(newer)) => back.push(newer),
                Ok(Inserted::OwnFromBefore(newer)) => own.extend(newer),
                Err(error) => {
                    self.stats.count(error.word());
                    unclear.extend(key.filter(|_| came_bare).map(|(origin, _)| origin));
                }
            }
        }
        // What can't be judged without the certificate is asked for with it.
        let digests = |origin| me.routing.lsdb.digests(origin, origin);
        let asked: Vec<_> = unclear.into_iter().flat_map(digests).collect();
        let raised = me.routing.lsdb.incarnation();
        let reborn = me.routing.lsdb.take_reborn();
        if raised != incarnation {
            self.save_incarnation(raised);
        }
        if !back.is_empty() {
            self.tell_link(lower, Body::Records(wire::Records { records: back }));
        }
        for digest in asked {
            self.tell_link(lower, Body::Digest(digest));
        }
        self.stats.add("record.new", news.len() as u64);
        let any = !news.is_empty() || !own.is_empty();
        self.flood_newest(now, news, from);
        self.flood(now, own, None);
        for (member, life) in reborn {
            self.member_reborn(now, member, life);
        }
        if regrouped {
            self.groups_changed(now);
        }
        if any {
            self.rerouted(now, false);
        }
        if changed {
            self.members_changed();
        }
        self.part_with_doubles(now);
    }

    fn save_incarnation(&mut self, life: u64) {
        let line = format!("{life}\n").into_bytes();
        self.save("incarnation", Zeroizing::new(line));
    }

    /// A member runs anew: what was agreed with its earlier life is void.
    fn member_reborn(&mut self, now: Now, member: Addr, life: u64) {
        self.stats.count("member.restarted");
        let adjacent = self.adjacent.contains_key(&member);
        if let Some(peer) = self.peers.get_mut(&member) {
            peer.reborn(now.mono, adjacent);
        }
        if let Some(me) = &mut self.me {
            me.dir.reborn(now.mono, member, life);
        }
        self.peer_restarted(now, member, Some(life));
        self.ask_again(now, member, false);
    }
}

/// What happens by itself.
impl Unicast {
    pub(super) fn tick_routing(&mut self, now: Now) {
        if self.hold.deadline().is_some_and(|at| at <= now.mono) {
            self.links_changed(now);
        }
        self.flood_delayed(now);
        self.send_news(now);
        let Some(me) = &mut self.me else { return };
        let before = me.routing.lsdb.count();
        let mut records = me.routing.lsdb.tick(now, &me.identity);
        let forgotten = me.routing.lsdb.count() != before;
        records.iter_mut().for_each(bare);
        self.flood(now, records, None);
        if forgotten {
            self.members_changed();
        }
        self.rerouted(now, false);
    }

    /// Says what this member holds to one that is owed it.
    pub(super) fn pump_digest(&mut self, now: Now, lower: FlowId) {
        let link = self.links.get(&lower);
        if link.is_some_and(|link| link.is_owed_digest(now.mono)) {
            self.say_digest(now, lower);
        }
    }

    /// Says what this member holds, at the start of an adjacency and now and then.
    pub(super) fn say_digest(&mut self, now: Now, lower: FlowId) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 10_000));
        let (Some(me), Some(link)) = (&self.me, self.links.get_mut(&lower)) else {
            return;
        };
        link.owes_digest = false;
        link.next_digest = now.mono + DIGEST + jitter;
        let summary = me.routing.lsdb.summary();
        // Who may be believed comes before what they say.
        self.say_decree_digest(lower);
        self.tell_link(lower, Body::Summary(summary));
    }
}

/// What others ask of it.
impl Unicast {
    /// The largest PDU that gets all the way to a member.
    pub(super) fn path_mtu(&self, dst: Addr) -> u32 {
        let routed = self.me.as_ref().and_then(|me| me.routing.mtu(dst));
        let adjacent = || {
            self.adjacent
                .get(&dst)
                .and_then(|l| self.links.get(l))
                .map(Link::mtu)
        };
        routed.or_else(adjacent).unwrap_or(SAFE_MTU)
    }

    /// The largest flow payload that reaches a member as things stand: a neighbour's needs no seal of its own. When the
    /// route changes, so does this, and the users of the flows are told.
    pub(super) fn payload_mtu(&self, dst: Addr) -> u32 {
        let direct = self.path(dst).is_some_and(|path| path.direct);
        self.payload_by(dst, direct)
    }

    /// The same on a way that is known to be direct or not.
    pub(super) fn payload_by(&self, dst: Addr, direct: bool) -> u32 {
        let overhead = if direct {
            DIRECT_OVERHEAD
        } else {
            ROUTED_OVERHEAD
        };
        self.path_mtu(dst).saturating_sub(overhead as u32)
    }

    /// The name of a member, or its address as long as that is all that is known of it.
    pub(super) fn member_name(&self, address: Addr) -> String {
        let known = self.me.as_ref().and_then(|me| me.routing.member(address));
        let cert = known.or_else(|| self.peers.get(&address).and_then(|p| p.cert.as_ref()));
        cert.map_or_else(|| address.to_string(), |cert| cert.member().to_string())
    }

    pub(super) fn status_members(&self) -> Vec<irm::Member> {
        let Some(me) = &self.me else {
            return Vec::new();
        };
        let lsdb = &me.routing.lsdb;
        let member = |cert: &MemberCert| irm::Member {
            name: cert.member().to_string(),
            address: cert.address().0,
            neighbours: lsdb
                .links(cert.address())
                .iter()
                .map(|l| self.member_name(l.neighbour))
                .collect(),
            cert_expires: cert.not_after().secs(),
            prefixes: cert.prefixes().iter().map(ToString::to_string).collect(),
            reachable: cert.address() == me.address || self.path(cert.address()).is_some(),
            groups: cert.groups().iter().map(ToString::to_string).collect(),
            issuer: cert.issuer(),
            serial: cert.serial(),
            offers: self.status_offers(cert),
            sends: 0,
            takes: 0,
        };
        let mut members: Vec<_> = lsdb.members().map(member).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    pub(super) fn status_routes(&self) -> Vec<irm::Route> {
        let Some(me) = &self.me else {
            return Vec::new();
        };
        let spares = me.routing.spares();
        let link = |via: Addr| self.links.get(self.adjacent.get(&via)?);
        let ways = me.routing.ways().map(|(address, hop)| irm::Route {
            next_hops: me
                .routing
                .fib
                .ways(address)
                .map(|via| self.member_name(via))
                .collect(),
            alternate: spares
                .get(&address)
                .map(|via| self.member_name(*via))
                .unwrap_or_default(),
            rtt_us: link(hop.via).map_or(0, |l| l.rtt_us().into()),
            loss_permille: link(hop.via).map_or(0, Link::loss_permille),

            member: self.member_name(address),
            address: address.0,
            next_hop: self.member_name(hop.via),
            cost: u32::try_from(hop.cost).unwrap_or(u32::MAX),
            mtu: hop.mtu,
            hops: hop.hops,
        });
        ways.collect()
    }
}

/// The networks that the originator of a record offers.
fn offers(lsdb: &Lsdb, key: Option<Key>) -> Option<Vec<IpNet>> {
    Some(lsdb.offers(key?.0).to_vec())
}

/// Which record it is.
fn key(record: &SignedRecord) -> Option<Key> {
    let head = Head::decode(record.body.as_slice()).ok()?;
    Some((Addr(head.origin), head.kind))
}

/// Leaves out what the neighbours know.
fn bare(record: &mut SignedRecord) {
    record.certificate.clear();
    record.intermediates.clear();
}

/// The beginning of a `Record`; the rest of it is passed over.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint64, tag = "1")]
    origin: u64,
    #[prost(uint32, tag = "2")]
    kind: u32,
}

/// Messages of at most 64 KiB that answer one digest.
const MOST_AT_ONCE: usize = 16;
/// The time between summaries on a link, to which up to a third is added by chance.
pub(super) const DIGEST: Duration = Duration::from_secs(30);
