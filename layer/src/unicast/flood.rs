//! Routing and directory between neighbours: signed records over the link channels.

use proto::{Addr, FlowId, wire};

use super::Unicast;
use crate::Now;

impl Unicast {
    pub(super) fn publish_links(&mut self, now: Now, _links: Vec<wire::LinkState>, _lost: bool) {
        self.flows_rerouted(now);
    }

    pub(super) fn publish_names(&mut self, _now: Now, _hashes: Vec<[u8; 32]>) {}

    pub(super) fn take_digest(&mut self, _now: Now, _lower: FlowId, _digest: &wire::Digest) {}

    pub(super) fn take_records(&mut self, _now: Now, _lower: FlowId, _records: wire::Records) {}

    pub(super) fn status_members(&self) -> Vec<proto::irm::Member> {
        Vec::new()
    }

    pub(super) fn status_routes(&self) -> Vec<proto::irm::Route> {
        Vec::new()
    }

    pub(super) fn status_directory(&self) -> Vec<proto::irm::Entry> {
        Vec::new()
    }

    pub(super) fn tick_routing(&mut self, _now: Now) {}

    /// The largest PDU that gets all the way to a member.
    pub(super) fn path_mtu(&self, dst: Addr) -> u32 {
        let routed = self.me.as_ref().and_then(|me| me.routing.mtu(dst));
        let adjacent = || self.adjacent.get(&dst).and_then(|l| self.links.get(l)).map(super::link::Link::mtu);
        routed.or_else(adjacent).unwrap_or(super::link::SAFE_MTU)
    }

    /// The name of a member, or its address as long as that is all that is known of it.
    pub(super) fn member_name(&self, address: Addr) -> String {
        let cert = self.peers.get(&address).and_then(|p| p.cert.as_ref());
        cert.map_or_else(|| address.to_string(), |cert| cert.member().to_string())
    }
}
