//! With how many members something is shared, who of them gives way, and whom an unknown key makes doubtful. What is shared with
//! one is in `peer`; it must not agree on keys itself.

use std::collections::BTreeSet;

use proto::Addr;
use rand_core::RngCore;

use super::Unicast;
use super::peer::{IDLE, Peer, frame_size};
use crate::Now;

impl Unicast {
    /// Whether somebody is known to be a member now: its record is held, or it is a neighbour.
    pub(super) fn knows_member(&self, address: Addr) -> bool {
        let me = self.me.as_ref();
        me.is_some_and(|me| me.routing.member(address).is_some())
            || self.adjacent.contains_key(&address)
    }

    /// What is kept of a member; `None` if too many are kept, or its record is gone, as that of somebody who was revoked:
    /// nothing begins anew with such a one, whatever is left over here that wants it.
    pub(super) fn peer(&mut self, now: Now, address: Addr) -> Option<&mut Peer> {
        if !self.peers.contains_key(&address) && !self.knows_member(address) {
            self.stats.count("drop.unknown_member");
            return None;
        }
        self.peer_shown(now, address)
    }

    /// What is kept of a member that has shown its certificate just now; `None` if too many are kept.
    pub(super) fn peer_shown(&mut self, now: Now, address: Addr) -> Option<&mut Peer> {
        let (me, way) = self
            .me
            .as_ref()
            .map(|me| (me.address, me.routing.way(address)))?;
        if !self.peers.contains_key(&address) {
            self.make_room()?;
            let stream = self.rng.next_u32();
            let mut peer = Peer::new(me, address, stream, now.mono);
            peer.way = way;
            let frame = frame_size(self.path_mtu(address));
            peer.channel.set_frame_size(frame);
            self.peers.insert(address, peer);
        }
        let peer = self.peers.get_mut(&address)?;
        peer.used = now.mono;
        Some(peer)
    }

    /// Makes room for one more. Who has shown no certificate goes first, since anybody may have begun that in its name; then
    /// who was not spoken with for longest. `None`: all that are kept are needed.
    fn make_room(&mut self) -> Option<()> {
        if self.peers.len() < self.bounds.peers {
            return Some(());
        }
        let asked = self.asked();
        let free = |(address, peer): &(&Addr, &Peer)| {
            !self.needs(&asked, **address) && peer.channel.is_idle()
        };
        let idle = self.peers.iter().filter(free);
        let goes = idle.min_by_key(|(_, peer)| (peer.cert.is_some(), peer.used));
        let Some(goes) = goes.map(|(address, _)| *address) else {
            self.stats.count("drop.too_many_peers");
            return None;
        };
        self.peers.remove(&goes);
        self.stats.count("peer.displaced");
        Some(())
    }

    /// Members that were asked for a flow.
    fn asked(&self) -> BTreeSet<Addr> {
        let outgoing = self.flows.outgoing.values();
        outgoing.filter_map(|o| o.asked).collect()
    }

    /// Whether there is a link or a flow with a member, or either side waits for the other to answer.
    fn needs(&self, asked: &BTreeSet<Addr>, address: Addr) -> bool {
        self.adjacent.contains_key(&address)
            || asked.contains(&address)
            || self.flows.concerns(address)
    }

    /// Forgets keys that may no longer be used, and members with whom nothing was shared for long.
    pub(super) fn tick_peers(&mut self, now: Now) {
        let idle = |peer: &Peer| now.mono.saturating_duration_since(peer.used) >= IDLE;
        let idle = self.peers.iter().filter(|(_, peer)| idle(peer));
        let idle: Vec<Addr> = idle.map(|(address, _)| *address).collect();
        if !idle.is_empty() {
            let asked = self.asked();
            let gone = idle.iter().filter(|a| !self.needs(&asked, **a));
            for address in gone.copied().collect::<Vec<_>>() {
                self.peers.remove(&address);
            }
        }
        for (address, peer) in &mut self.peers {
            if !peer.sessions.expire(now.mono) {
                continue;
            }
            peer.ends.expire(&peer.sessions);
            for endpoint in self.flows.with(*address) {
                if let Some(flow) = self.flows.get_mut(endpoint) {
                    flow.ends.expire(&peer.sessions);
                }
            }
        }
    }

    /// A member seals with keys that this one does not have, maybe since it has restarted: they agree on fresh ones. The neighbour
    /// `via` has brought it, and may have made it up.
    pub(super) fn no_session(&mut self, now: Now, via: Option<Addr>, from: Addr) {
        let me = self.me.as_ref();
        let known = me.is_some_and(|me| me.routing.member(from).is_some());
        let peer = self.peers.get(&from);
        // Whoever still is heard has the keys, and with whom a handshake runs will.
        let needless = peer.is_some_and(|p| p.is_well(now.mono) || !p.may_begin(now.mono));
        let Some(via) = via.filter(|_| known && !needless) else {
            return self.stats.count("drop.no_session");
        };
        if let Err(reason) = self.gate.lost(now.mono, via) {
            return self.stats.count(reason);
        }
        self.stats.count("drop.no_session");
        self.wants_session.insert(from);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.estranged = true;
        }
    }
}
