//! Data transfer: every packet's way through the machine. SDUs become PDUs, PDUs become SDUs or go on to the next member.

use proto::{Addr, Batch, EndpointId, FlowId};

use super::Unicast;
use super::cube::Cube;
use super::envelope::{Envelope, Way};
use super::flow::EarlyPdu;
use super::link::Phase;
use super::out::{Class, Lot};
use super::pdu::{self, Direct, Inner, Kind, Routed};
use super::session::drop_reason;
use super::whole::{DIRECT, Lies, ROUTED, SEALED, Whole};
use crate::Now;

/// The first step of the way to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) lower: FlowId,
    /// The neighbour at the end of this link is the member itself: a PDU needs no seal of its own.
    pub(super) direct: bool,
}

/// Who sealed a PDU for a link.
#[derive(Debug, Clone, Copy)]
struct Sealer {
    session: u32,
    /// `None`: one side has no certificate.
    peer: Option<Addr>,
}

/// What the packets of the batch at hand have said of their link so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// One was authentic.
    heard: bool,
    /// And one was somebody's traffic.
    traffic: bool,
}

/// Towards the network.
impl Unicast {
    /// The way that control takes to a member, if there is one.
    pub(super) fn path(&self, dst: Addr) -> Option<Path> {
        let me = self.me.as_ref()?;
        self.path_of(dst, me.routing.flow_hash(me.address, dst, EndpointId(0)))
    }

    /// The way that the packets of one flow take to a member.
    fn path_of(&self, dst: Addr, flow: u64) -> Option<Path> {
        let me = self.me.as_ref()?;
        let via = me.routing.next_hop(dst, flow);
        // A neighbour that is not yet in the forwarding table is reached all the same.
        via.filter(|via| self.adjacent.contains_key(via))
            .or_else(|| self.adjacent.contains_key(&dst).then_some(dst))
            .and_then(|via| {
                Some(Path {
                    lower: *self.adjacent.get(&via)?,
                    direct: via == dst,
                })
            })
    }

    /// The way that what one member sends to an end at another takes from here.
    pub(super) fn path_between(&self, src: Addr, dst: Addr, endpoint: EndpointId) -> Option<Path> {
        let me = self.me.as_ref()?;
        self.path_of(dst, me.routing.flow_hash(src, dst, endpoint))
    }

    /// Takes what the user of a flow wrote.
    pub(super) fn upper(&mut self, now: Now, id: FlowId, batch: Batch) {
        let Some(flow) = self.flows.endpoint(id).and_then(|e| self.flows.get(e)) else {
            return self.stats.count("drop.unknown_flow");
        };
        let (endpoint, peer, remote) = (flow.local, flow.peer, flow.remote);
        if flow.transfer.is_some() {
            return self.controlled_write(now, endpoint, batch);
        }
        let me = self.me.as_ref().map(|me| me.address);
        let Some(path) = me.and_then(|me| self.path_between(me, peer, remote)) else {
            return self.stats.add("drop.no_route", batch.count() as u64);
        };
        self.stir(now, path.lower);
        if path.direct || self.seals_for(now, endpoint) {
            self.upper_raw(now, endpoint, path, batch);
        } else if let Some(flow) = self.flows.get_mut(endpoint)
            && !flow.hold(batch)
        {
            self.stats.count("drop.no_session");
        }
    }

    /// Packets of flows go over a link: it must be alive.
    pub(super) fn stir(&mut self, now: Now, lower: FlowId) {
        if self
            .links
            .get_mut(&lower)
            .is_some_and(|link| link.stir(now.mono))
        {
            self.pump = true;
        }
    }

    /// Whether payloads of a flow can be sealed end to end now. Fresh keys are asked for where they are due.
    pub(super) fn seals_for(&mut self, now: Now, endpoint: EndpointId) -> bool {
        let Some(flow) = self.flows.get(endpoint) else {
            return false;
        };
        let sessions = self.peers.get(&flow.peer).map(|p| &p.sessions);
        if sessions.is_none_or(|s| s.wants_fresh(now.mono) || flow.ends.worn(now.mono, s)) {
            self.wants_session.insert(flow.peer);
        }
        sessions.is_some_and(|s| s.usable(now.mono))
    }

    fn upper_raw(&mut self, now: Now, endpoint: EndpointId, path: Path, mut batch: Batch) {
        let (Some(me), Some(flow), Some(link)) = (
            &self.me,
            self.flows.get_mut(endpoint),
            self.links.get_mut(&path.lower),
        ) else {
            return;
        };
        let class = Class::Data(flow.lot(now, me.address));
        let (way, mtu) = (flow.way(me.address), flow.mtu as usize);
        let sessions = self.peers.get(&flow.peer).map(|peer| &peer.sessions);
        let Some(mut envelope) = Envelope::new(path, way, &mut flow.ends, sessions) else {
            return;
        };
        if batch.margin() == envelope.margin() && link.takes_batch(class, &batch, mtu) {
            let bytes = batch.payload() as u64;
            match envelope.wrap(now, &mut batch) {
                Ok(()) => {
                    flow.tx_bytes += bytes;
                    link.send_batch(class, batch);
                }
                Err(reason) => self.stats.add(reason, batch.count() as u64),
            }
            return;
        }
        for sdu in batch.iter() {
            let sent = match sdu.len() <= mtu {
                true => envelope.send(now, link, class, sdu),
                false => Err("drop.too_big"),
            };
            match sent {
                Ok(()) => flow.tx_bytes += sdu.len() as u64,
                Err(reason) => self.stats.count(reason),
            }
        }
    }

    /// Sends a frame of the peer channel. Says whether there was a way to send it.
    pub(super) fn send_peer_frame(&mut self, now: Now, address: Addr, frame: &[u8]) -> bool {
        let Some(path) = self.path(address) else {
            return false;
        };
        self.stir(now, path.lower);
        let (Some(me), Some(link), Some(peer)) = (
            &self.me,
            self.links.get_mut(&path.lower),
            self.peers.get_mut(&address),
        ) else {
            return false;
        };
        let way = Way {
            src: me.address,
            dst: address,
            cube: 0,
            endpoint: EndpointId(0),
        };
        let envelope = Envelope::new(path, way, &mut peer.ends, Some(&peer.sessions));
        let sent = envelope
            .ok_or("drop.no_session")
            .and_then(|mut e| e.send(now, link, Class::Control, frame));
        if let Err(reason) = sent {
            self.stats.count(reason);
        }
        sent.is_ok()
    }
}

/// From the network.
impl Unicast {
    /// Takes what came on a lower flow.
    pub(super) fn lower(&mut self, now: Now, lower: FlowId, mut batch: Batch) {
        let Some(link) = self.links.get_mut(&lower) else {
            return self.stats.add("drop.unknown_lower", batch.count() as u64);
        };
        link.rx_bytes += batch.bytes().len() as u64;
        self.mark = link.arrivals.late(now.mono, batch.waited());
        if link.peer().is_some() {
            self.gate.waited(now.mono, batch.waited());
        }
        // Of all packets of a batch the time is one, and of most the way.
        (self.way, self.signs) = (None, Signs::default());
        let (mut whole, mut end) = (Whole::default(), 0);
        while let Some(place) = batch.place_behind(end) {
            end = place.end;
            let pdu = &mut batch.bytes_mut()[place.clone()];
            let lies = match Kind::of(pdu) {
                Some(Kind::Sealed) => self.sealed(now, lower, pdu).and_then(|sealer| {
                    let body = SEALED.within(place.clone());
                    // It may end the flow of those before it.
                    if whole.holds() && !pdu::is_flows(&batch.bytes()[body.clone()]) {
                        self.part(&batch, &mut whole);
                    }
                    self.body(now, lower, sealer, &mut batch.bytes_mut()[body])
                }),
                Some(Kind::Handshake) => {
                    self.link_handshake(now, lower, None, pdu);
                    None
                }
                None => {
                    self.stats.count("drop.unknown_kind");
                    None
                }
            };
            if !whole.takes(lies) {
                self.part(&batch, &mut whole);
                if let Some(lies) = lies {
                    self.copy(lies, &batch.bytes()[place]);
                }
            }
        }
        self.go_whole(batch, &whole);
    }

    /// Opens a PDU where it lies, and says who sealed it.
    fn sealed(&mut self, now: Now, lower: FlowId, pdu: &mut [u8]) -> Option<Sealer> {
        let link = self.links.again(&lower)?;
        let opened = match link.open(pdu) {
            Ok(opened) => opened,
            Err(reason) => {
                self.stats.count(reason);
                return None;
            }
        };
        let sealer = Sealer {
            session: opened.session,
            peer: opened.peer,
        };
        let voiced = !std::mem::replace(&mut self.signs.heard, true) && link.heard(now.mono);
        let traffic =
            pdu::is_traffic(opened.body) && !std::mem::replace(&mut self.signs.traffic, true);
        if traffic && link.stir(now.mono) {
            self.pump = true;
        }
        let moved = traffic && link.carries(now.mono);
        if voiced {
            self.links_changed(now);
        }
        if moved {
            self.follow(now, lower);
        }
        if opened.first {
            self.pump = true;
            self.link_confirmed(now, lower, opened.session);
        }
        #[cfg(any(test, feature = "hostile"))]
        self.meddler_saw(opened.body);
        Some(sealer)
    }

    /// Takes what was opened. Says where it goes if it goes there as it lies.
    fn body(&mut self, now: Now, lower: FlowId, by: Sealer, body: &mut [u8]) -> Option<Lies> {
        let phase = self.links.get(&lower).map(|link| link.phase);
        let Some(inner) = Inner::parse(body) else {
            self.stats.count("drop.malformed");
            return None;
        };
        match (phase, inner) {
            (Some(Phase::Up(peer) | Phase::Leaving(peer, _) | Phase::Retired(peer, _)), inner)
                if by.peer == Some(peer) =>
            {
                return self.inside(now, lower, peer, inner);
            }
            (Some(Phase::Joining), Inner::LinkChannel(frame)) if by.peer.is_none() => {
                self.joining_frame(now, lower, by.session, frame)
            }
            // Whoever has shown no certificate is heard on enrolment only.
            _ => self.stats.count("drop.not_a_member"),
        }
        None
    }

    fn inside(
        &mut self,
        now: Now,
        lower: FlowId,
        peer: Addr,
        mut inner: Inner<'_>,
    ) -> Option<Lies> {
        if self.mark && inner.mark_congestion(|cube| Cube::numbered(cube).reacts()) {
            self.mark = false;
            self.stats.count("congestion.marked_arriving");
        }
        match inner {
            Inner::Direct(
                Direct {
                    endpoint: EndpointId(0),
                    ..
                },
                frame,
            ) => self.peer_frame(now, peer, frame),
            Inner::Direct(header, payload) => {
                let raw = self.deliver(now, header.endpoint, peer, payload, header.flags);
                return raw.then_some(Lies::Up(header.endpoint, DIRECT));
            }
            Inner::Routed(header, body)
                if self.me.as_ref().is_some_and(|me| me.address == header.dst) =>
            {
                let raw = self.arrived(now, Some(peer), header, &mut body[Routed::LEN..]);
                return raw.then_some(Lies::Up(header.endpoint, ROUTED));
            }
            Inner::Routed(header, body) => return self.forward(now, peer, header, body),
            Inner::LinkChannel(frame) => self.link_frame(now, lower, frame),
            Inner::Hello(hello) => self.hello(now, lower, &hello),
            Inner::RoutedHandshake(header, bytes) => {
                self.routed_handshake(now, peer, header, bytes)
            }
            Inner::Probe(kind, size, len) => self.probe(now, lower, kind, size, len),
            Inner::LinkHandshake(bytes) => self.link_handshake(now, lower, Some(peer), bytes),
        }
        None
    }

    /// Takes a PDU that was sealed end to end for this member, from the neighbour `via` unless it was kept for a while. `true`: it
    /// is for a raw flow and lies open, without the tag behind it.
    pub(super) fn arrived(
        &mut self,
        now: Now,
        via: Option<Addr>,
        header: Routed,
        sealed: &mut [u8],
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&header.src) else {
            self.no_session(now, via, header.src);
            return false;
        };
        let ends = match header.endpoint {
            EndpointId(0) => &mut peer.ends,
            endpoint => match self.flows.get_mut(endpoint) {
                Some(flow) if flow.peer == header.src => &mut flow.ends,
                Some(_) => {
                    self.stats.count("drop.foreign_flow");
                    return false;
                }
                None => {
                    let pdu = || EarlyPdu::Routed(header, sealed.to_vec());
                    if let Err(reason) = self.flows.keep_early(endpoint, header.src, pdu) {
                        self.stats.count(reason);
                    }
                    return false;
                }
            },
        };
        let Some(key) = ends.opener(now.mono, header.session, &peer.sessions) else {
            self.no_session(now, via, header.src);
            return false;
        };
        let payload = match key.open_with(&header.aad(), header.counter, sealed) {
            Ok(payload) => payload,
            Err(error) => {
                self.stats.count(drop_reason(error));
                return false;
            }
        };
        peer.heard = Some(now.mono);
        if peer.sessions.confirm(header.session) {
            self.pump = true;
        }
        match header.endpoint {
            EndpointId(0) => {
                self.peer_frame(now, header.src, payload);
                false
            }
            endpoint => self.deliver(now, endpoint, header.src, payload, header.flags),
        }
    }

    /// Gives the payload of a PDU to its flow. `true`: the flow is raw, and the payload is to go up as it is.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        endpoint: EndpointId,
        from: Addr,
        payload: &[u8],
        flags: u8,
    ) -> bool {
        let reason = match self.flows.get_mut(endpoint) {
            None => {
                let pdu = || EarlyPdu::Direct(payload.to_vec());
                self.flows.keep_early(endpoint, from, pdu).err()
            }
            Some(flow) if flow.peer != from => Some("drop.foreign_flow"),
            Some(flow) if flow.transfer.is_some() => {
                self.controlled_arrived(now, endpoint, payload, flags);
                None
            }
            Some(_) if payload.is_empty() || payload.len() > Batch::MAX_PACKET => {
                Some("drop.malformed")
            }
            Some(_) => return true,
        };
        if let Some(reason) = reason {
            self.stats.count(reason);
        }
        false
    }

    /// Makes a PDU of others ready to go on, as it is but for its TTL, and says where.
    fn forward(&mut self, now: Now, from: Addr, header: Routed, body: &mut [u8]) -> Option<Lies> {
        if header.ttl <= 1 {
            self.stats.count("drop.ttl");
            return None;
        }
        // Packets come in trains to one end: its way is looked up once.
        let key = (header.src, header.dst, header.endpoint);
        let path = match self.way {
            Some((known, path)) if known == key => path,
            _ => {
                let Some(path) = self.path_between(key.0, key.1, key.2) else {
                    self.stats.count("drop.no_route");
                    return None;
                };
                self.way = Some((key, path));
                self.stir(now, path.lower);
                path
            }
        };
        #[cfg(test)]
        self.seen.push(body.to_vec());
        Routed::set_ttl(body, header.ttl - 1);
        let cube = match header.endpoint {
            EndpointId(0) => Cube::Signal,
            _ => Cube::numbered(header.cube),
        };
        let class = self.transit(now, cube, header.src, from);
        #[cfg(any(test, feature = "hostile"))]
        if self.meddler_forwards(class, &header, body) {
            return None;
        }
        Some(Lies::On(path.lower, class))
    }

    /// Where a PDU of others waits that came from the neighbour `from`.
    pub(super) fn transit(&mut self, now: Now, cube: Cube, src: Addr, from: Addr) -> Class {
        Class::Data(Lot {
            cube,
            member: self.share_of(src, from),
            own: EndpointId(0),
            now: now.mono,
            max_delay_ms: 0,
        })
    }

    /// Whose share of a queue a PDU uses: its source's, if the way there leads over the neighbour that brought it, else that
    /// neighbour's, so that nobody gets more by naming others.
    fn share_of(&mut self, src: Addr, from: Addr) -> Addr {
        match self.share {
            Some((known, by, member)) if (known, by) == (src, from) => member,
            _ => {
                let leads = |me: &super::Member| me.routing.leads_over(src, from);
                let leads = self.me.as_ref().is_some_and(leads);
                let member = if leads { src } else { from };
                self.share = Some((src, from, member));
                member
            }
        }
    }
}
