//! The flow allocator: requests, answers and ends of flows, spoken over the peer channel.

use std::time::Duration;

use proto::ipcp::{
    Allocate, Allocated, Answer, CommandId, Congestion, Event, FlowRequest, Respond, User,
};
use proto::record::Peer as PeerOf;
use proto::wire::{self, message::Body};
use proto::{Addr, Code, EndpointId, Name, QosSpec, Reason};
use rand_core::RngCore;

use super::Unicast;
use super::cube::grant;
use super::flow::{Early, EarlyPdu, Flow, Incoming, Outgoing};
use super::pdu::TAG_LEN;
use super::transfer::{Transfer, controlled, sdu_mtu};
use crate::dir::NameHash;
use crate::frct::{Controller, Params};
use crate::policy::Act;
use crate::{Now, Output};

/// What irmd asks.
impl Unicast {
    pub(super) fn allocate(&mut self, now: Now, command: CommandId, ask: Allocate) {
        if let Err(reason) = self.may_allocate(&ask) {
            return self.done(command, Err(reason));
        }
        let deadline = now.mono + Duration::from_millis(ask.timeout_ms).min(MAX_WAIT);
        let endpoint = self.new_endpoint();
        let outgoing = Outgoing {
            resolve_until: self.resolve_until(now, &ask.name, deadline),
            command,
            ask,
            deadline,
            again: None,
            prolonged: false,
            denied: false,
            asked: None,
            tried: Vec::new(),
            last: None,
            early: Early::default(),
        };
        self.flows.outgoing.insert(endpoint, outgoing);
        self.ask_next(now, endpoint);
    }

    fn may_allocate(&mut self, ask: &Allocate) -> Result<(), Reason> {
        let Some(me) = &self.me else {
            return Err(self.not_a_member());
        };
        grant(&ask.qos)?;
        me.judge(Act::Allocate, &ask.name, me.address)?;
        let fail = |code, text: String| Err(Reason::new(code, text));
        if self.flows.has_id(ask.flow) {
            return fail(
                Code::Conflict,
                format!("flow {} exists already; use another id", ask.flow),
            );
        }
        let full = [
            (
                self.flows.outgoing.len() >= self.bounds.asking,
                "limit.asking",
            ),
            (self.flows.len() >= self.bounds.flows, "limit.flows"),
        ];
        if let Some((_, limit)) = full.iter().find(|(full, _)| *full) {
            self.stats.count(limit);
            return fail(
                Code::Busy,
                format!(
                    "{} has as many flows as it can carry; try later",
                    me.label()
                ),
            );
        }
        Ok(())
    }

    /// Asks the nearest member that has the name and was not asked yet.
    pub(super) fn ask_next(&mut self, now: Now, endpoint: EndpointId) {
        let Some(outgoing) = self
            .flows
            .outgoing
            .get(&endpoint)
            .filter(|o| o.asked.is_none())
        else {
            return;
        };
        let Some(me) = &self.me else { return };
        let found = me.resolve(now, &outgoing.ask.name);
        let pinned = outgoing
            .ask
            .peer
            .as_ref()
            .map(|member| me.address_of(member));
        let next = found.iter().copied().find(|a| {
            *a != me.address
                && !outgoing.tried.contains(a)
                && pinned.is_none_or(|pinned| pinned == *a)
                && me.judge_server(&outgoing.ask.name, *a).is_ok()
        });
        if let Some(peer) = next {
            return self.ask_member(now, endpoint, peer);
        }
        let settled = outgoing.denied && (outgoing.prolonged || me.has_name(&outgoing.ask.name));
        let unheard = !outgoing.denied && outgoing.tried.is_empty() && found.is_empty();
        let over = now.mono >= outgoing.resolve_until;
        if settled || over && (!unheard || outgoing.prolonged) {
            let reason = self.not_found(outgoing, &found);
            return self.allocation_failed(endpoint, reason);
        }
        if let Some(outgoing) = self.flows.outgoing.get_mut(&endpoint).filter(|_| over) {
            outgoing.prolonged = true;
            outgoing.resolve_until = outgoing.deadline.min(now.mono + UNHEARD);
        }
        self.look_for(now, endpoint, pinned, !found.is_empty());
    }

    /// Asks this member.
    pub(super) fn ask_member(&mut self, now: Now, endpoint: EndpointId, peer: Addr) {
        let (Some(me), Some(outgoing)) = (&self.me, self.flows.outgoing.get_mut(&endpoint)) else {
            return;
        };
        outgoing.asked = Some(peer);
        outgoing.tried.push(peer);
        let qos = outgoing.ask.qos;
        let request = wire::FlowRequest {
            source_endpoint: endpoint.0,
            name: outgoing.ask.name.to_string(),
            source_name: outgoing
                .ask
                .source
                .as_ref()
                .map(Name::to_string)
                .unwrap_or_default(),
            qos: Some(outgoing.ask.qos.into()),
            incarnation: me.routing.lsdb.incarnation(),
            timeout_ms: u64::try_from(
                outgoing
                    .deadline
                    .saturating_duration_since(now.mono)
                    .as_millis(),
            )
            .unwrap_or(u64::MAX),
        };
        if let Err(reason) = self.admit(&qos, peer, Some(endpoint)) {
            return self.allocation_failed(endpoint, reason);
        }
        if !self.tell_peer(now, peer, Body::FlowRequest(request)) {
            let reason = Reason::new(
                Code::Busy,
                "too much waits to be said to the member that has the name; try later",
            );
            self.allocation_failed(endpoint, reason);
        }
    }

    /// Asks the directory; `known`: those whom it names are not enough.
    fn look_for(&mut self, now: Now, endpoint: EndpointId, pinned: Option<Addr>, known: bool) {
        let Some(outgoing) = self.flows.outgoing.get_mut(&endpoint) else {
            return;
        };
        if outgoing.again.is_some_and(|at| at > now.mono) {
            return;
        }
        outgoing.again = Some(now.mono + LOOK_AGAIN);
        let (name, until) = (outgoing.ask.name.clone(), outgoing.resolve_until);
        let fresh = known || !outgoing.tried.is_empty();
        if !self.look_up(now, &name, pinned, fresh, until) {
            let text = "too many names are looked up here at once; try later";
            self.allocation_failed(endpoint, Reason::new(Code::Busy, text));
        }
    }

    /// The directory has an answer for those who wait for a name: somebody serves it, or all deny that.
    pub(super) fn looked_up(&mut self, now: Now, hash: &NameHash, denied: bool) {
        let Some(me) = &self.me else { return };
        let waits = |o: &Outgoing| o.asked.is_none() && me.hash(&o.ask.name) == *hash;
        let outgoing = self.flows.outgoing.iter();
        let waiting: Vec<_> = outgoing
            .filter(|(_, o)| waits(o))
            .map(|(e, _)| *e)
            .collect();
        for endpoint in waiting {
            if let Some(outgoing) = self.flows.outgoing.get_mut(&endpoint) {
                outgoing.denied |= denied;
            }
            self.ask_next(now, endpoint);
        }
    }

    /// Why nobody is left to be asked.
    fn not_found(&self, outgoing: &Outgoing, found: &[Addr]) -> Reason {
        if let Some(last) = &outgoing.last {
            return last.clone();
        }
        let name = &outgoing.ask.name;
        let Some(me) = &self.me else {
            return self.not_a_member();
        };
        let judged = found.iter().map(|a| me.judge_server(name, *a));
        if let Some(denied) = judged.filter_map(Result::err).next() {
            return denied;
        }
        let layer = me.layer();
        match (&outgoing.ask.peer, found) {
            (_, []) if me.has_name(name) => Reason::new(
                Code::NotFound,
                format!(
                    "{name} is registered in {layer} at this very member only; leave the layer out for a local flow"
                ),
            ),
            (Some(pin), [_, ..]) => Reason::new(
                Code::Denied,
                format!(
                    "{name} is registered in {layer}, but not at member {pin}, the only one allowed; check --peer"
                ),
            ),
            _ => Reason::new(
                Code::NotFound,
                format!(
                    "{name} is not registered in {layer} at any member that can be reached; register it, or look at `irm layer members {layer}`"
                ),
            ),
        }
    }

    pub(super) fn respond(&mut self, now: Now, command: CommandId, respond: Respond) {
        let Some(incoming) = self.flows.incoming.remove(&respond.request) else {
            let text = format!(
                "flow request {} is gone: it was answered, or its caller waits no longer",
                respond.request
            );
            return self.done(command, Err(Reason::new(Code::NotFound, text)));
        };
        match respond.verdict {
            Ok((id, _)) if self.flows.has_id(id) => {
                let reason = Reason::new(
                    Code::Conflict,
                    format!("flow {id} exists already; use another id"),
                );
                self.refuse(now, incoming.peer, incoming.remote, &reason);
                self.done(command, Err(reason));
            }
            Ok((id, user)) => {
                let local = self.new_endpoint();
                let reply = self.yes(incoming.remote, local, incoming.qos);
                if !self.tell_peer(now, incoming.peer, Body::FlowReply(reply)) {
                    let text = "too much waits to be said to the member that asked; the flow was not accepted";
                    return self.done(command, Err(Reason::new(Code::Busy, text)));
                }
                let flow = Flow::accepted(id, local, user.uid, incoming);
                self.open_flow(now, command, user, flow);
            }
            Err(reason) => {
                self.refuse(now, incoming.peer, incoming.remote, &reason);
                self.done(command, Ok(Answer::Ok));
            }
        }
    }
}

/// What other members say.
impl Unicast {
    pub(super) fn flow_request(&mut self, now: Now, from: Addr, request: wire::FlowRequest) {
        let remote = EndpointId(request.source_endpoint);
        // What has ended here was answered before that, in the same channel; its caller has not said yet that it heard so.
        if self.flows.closing.has(from, remote) {
            return self.stats.count("drop.repeated_request");
        }
        // Asked again, maybe since the answer was lost with a session.
        if let Some(flow) = self.flows.asked_by(from, remote) {
            let reply = self.yes(remote, flow.local, flow.qos);
            self.tell_peer(now, from, Body::FlowReply(reply));
            return;
        }
        if self.flows.incoming.has(from, remote) {
            return;
        }
        match self.check_request(now, from, request) {
            Ok((request, incoming)) => {
                self.flows.incoming.insert(request.request, incoming);
                self.out
                    .push_back(Output::Control(Event::FlowRequest(request)));
            }
            Err(reason) => self.refuse(now, from, remote, &reason),
        }
    }

    /// Refuses a request if that member, or all together, ask for too much.
    fn has_room(&mut self, now: Now, from: Addr) -> Result<(), Reason> {
        let (asked, bounds) = (&self.flows.incoming, &self.bounds);
        let carried = self.flows.by_peer().count(from);
        let peer = self.peers.get_mut(&from);
        let often = peer.is_some_and(|p| !p.requests.take(now.mono, bounds.requests_member));
        let full = [
            (often, "limit.requests_member"),
            (
                asked.count(from) >= bounds.pending_member,
                "limit.pending_member",
            ),
            (carried >= bounds.flows_member, "limit.flows_member"),
            (asked.len() >= bounds.pending, "limit.pending"),
            (self.flows.len() >= bounds.flows, "limit.flows"),
        ];
        let Some((_, limit)) = full.iter().find(|(full, _)| *full) else {
            return Ok(());
        };
        self.stats.count(limit);
        let text = format!(
            "{} has as many flows as it can carry or answer; try later",
            self.name
        );
        Err(Reason::new(Code::Busy, text))
    }

    fn check_request(
        &mut self,
        now: Now,
        from: Addr,
        request: wire::FlowRequest,
    ) -> Result<(FlowRequest, Incoming), Reason> {
        let Some(me) = &self.me else {
            return Err(self.not_a_member());
        };
        let name = Name::new(request.name)?;
        let source = if request.source_name.is_empty() {
            None
        } else {
            Some(Name::new(request.source_name)?)
        };
        let qos: QosSpec = request.qos.unwrap_or_default().try_into()?;
        // Before anything is said of the name: who may not ask for it learns nothing of it.
        self.judge_flow(&name, from, me.address)?;
        if !me.has_name(&name) {
            let text = format!(
                "{name} is no longer registered at {}; try again",
                me.label()
            );
            return Err(Reason::new(Code::NotFound, text));
        }
        grant(&qos)?;
        self.has_room(now, from)?;
        self.admit(&qos, from, None)?;
        let mtu = sdu_mtu(&qos, self.payload_mtu(from));
        let peer = self.peer_of(from, source.clone());
        self.flows.requests += 1;
        let timeout = Duration::from_millis(request.timeout_ms).min(MAX_WAIT);
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let event = FlowRequest {
            request: self.flows.requests,
            name: name.clone(),
            peer,
            qos,
            mtu,
            timeout_ms,
        };
        let remote = EndpointId(request.source_endpoint);
        Ok((
            event,
            Incoming {
                peer: from,
                peer_life: request.incarnation,
                remote,
                name,
                source,
                qos,
                deadline: now.mono + timeout,
            },
        ))
    }

    pub(super) fn flow_reply(&mut self, now: Now, from: Addr, reply: wire::FlowReply) {
        let endpoint = EndpointId(reply.source_endpoint);
        let life = self.me.as_ref().and_then(|me| me.routing.life(from));
        if reply.code == 0 && life.is_some_and(|life| reply.incarnation < life) {
            // Of an earlier life, whose ends are gone; the present one was asked again.
            return self.stats.count("drop.late_answer");
        }
        let asked = self
            .flows
            .outgoing
            .get(&endpoint)
            .is_some_and(|o| o.asked == Some(from));
        if !asked {
            // Nobody waits any longer: the other side must not keep an end of nothing.
            let stands = self
                .flows
                .get(endpoint)
                .is_some_and(|f| f.peer == from && f.remote.0 == reply.endpoint);
            if reply.code == 0 && !stands {
                let reason = Reason::new(Code::TimedOut, "the caller waits no longer");
                self.end_remote(now, from, EndpointId(reply.endpoint), &reason);
            }
            return;
        }
        if reply.code != 0 {
            let reason = Reason::new(Code::from_wire(reply.code), reply.text);
            return self.was_refused(now, endpoint, reason);
        }
        let Some(outgoing) = self.flows.outgoing.remove(&endpoint) else {
            return;
        };
        let flow = Flow::granted(endpoint, from, &reply, &outgoing.ask);
        self.open_flow(now, outgoing.command, outgoing.ask.user, flow);
        for pdu in outgoing.early.into_pdus() {
            let (raw, payload) = match pdu {
                EarlyPdu::Direct(payload) => {
                    (self.deliver(now, endpoint, from, &payload, 0), payload)
                }
                EarlyPdu::Routed(header, mut sealed) => {
                    let raw = self.arrived(now, None, header, &mut sealed);
                    sealed.truncate(sealed.len().saturating_sub(TAG_LEN));
                    (raw, sealed)
                }
            };
            if raw {
                self.copy_up(endpoint, &payload);
            }
        }
    }

    /// A member said no: another that has the name may still say yes if it was only out of date.
    pub(super) fn was_refused(&mut self, now: Now, endpoint: EndpointId, reason: Reason) {
        if !matches!(reason.code, Code::NotFound | Code::Unreachable) {
            return self.allocation_failed(endpoint, reason);
        }
        let known = self.flows.outgoing.get(&endpoint);
        let until = known.map(|o| self.resolve_until(now, &o.ask.name, o.deadline));
        if let Some((outgoing, until)) = self.flows.outgoing.get_mut(&endpoint).zip(until) {
            let (asked, name) = (outgoing.asked, outgoing.ask.name.clone());
            outgoing.unask();
            if reason.code == Code::Unreachable {
                // That took long: what is remembered of the name may be too old.
                outgoing.resolve_until = until;
            } else if let (Some(me), Some(asked)) = (&mut self.me, asked) {
                me.dir.refused_by(now.mono, &me.hash(&name), asked);
                self.pump = true;
            }
            outgoing.last = Some(reason);
        }
        self.ask_next(now, endpoint);
    }
}

/// What these have in common.
impl Unicast {
    fn open_flow(&mut self, now: Now, command: CommandId, user: User, mut flow: Flow) {
        let payload = self.payload_mtu(flow.peer);
        let mtu = sdu_mtu(&flow.qos, payload);
        flow.mtu = mtu;
        if controlled(&flow.qos) {
            let mut params = Params::new(flow.qos, payload as usize, self.rng.next_u32());
            let rtt_us = self.rtt_us(flow.peer);
            if rtt_us > 0 {
                params.rtt = Duration::from_micros(rtt_us);
            }
            params.controller = match self.congestion {
                Congestion::Cubic => Controller::Cubic,
                Congestion::Bbr => Controller::Bbr,
            };
            let buffers = self.flows.memory.begin(flow.peer);
            (params.send_buffer, params.receive_buffer) = (buffers.send, buffers.receive);
            flow.transfer = Some(Box::new(Transfer::new(now.mono, params)));
        }
        let peer = self.peer_of(flow.peer, flow.peer_name.clone());
        let allocated = Allocated {
            mtu,
            qos: flow.qos,
            peer,
            token: None,
        };
        self.out
            .push_back(Output::UpperOpen(flow.id, user, allocated.clone()));
        self.done(command, Ok(Answer::Allocated(allocated)));
        let (endpoint, member, asked) = (flow.local, flow.peer, !flow.incoming);
        self.flows.insert(flow);
        self.shortcut_for(now, member, asked);
        // Its time-out runs from now on, whether anybody writes or not.
        self.flows.make_ready(endpoint);
    }

    /// The answer that accepts a flow.
    fn yes(&self, remote: EndpointId, local: EndpointId, qos: QosSpec) -> wire::FlowReply {
        let life = self
            .me
            .as_ref()
            .map_or(0, |me| me.routing.lsdb.incarnation());
        wire::FlowReply {
            source_endpoint: remote.0,
            endpoint: local.0,
            qos: Some(qos.into()),
            incarnation: life,
            ..wire::FlowReply::default()
        }
    }

    pub(super) fn refuse(&mut self, now: Now, peer: Addr, remote: EndpointId, reason: &Reason) {
        let (code, text) = (reason.code as u32, reason.text.clone());
        let reply = wire::FlowReply {
            source_endpoint: remote.0,
            code,
            text,
            ..wire::FlowReply::default()
        };
        self.tell_peer(now, peer, Body::FlowReply(reply));
    }

    pub(super) fn allocation_failed(&mut self, endpoint: EndpointId, reason: Reason) {
        if let Some(outgoing) = self.flows.outgoing.remove(&endpoint) {
            self.done(outgoing.command, Err(reason));
        }
    }

    fn peer_of(&self, peer: Addr, name: Option<Name>) -> PeerOf {
        let layer = self.me.as_ref().map(|me| me.layer().clone());
        let member = self
            .peers
            .get(&peer)
            .and_then(|p| p.cert.as_ref())
            .map(|cert| cert.member().clone());
        PeerOf {
            name,
            layer,
            member,
        }
    }

    pub(super) fn new_endpoint(&mut self) -> EndpointId {
        loop {
            let endpoint = EndpointId(self.rng.next_u64());
            if endpoint.0 != 0 && !self.flows.has_endpoint(endpoint) {
                return endpoint;
            }
        }
    }
}

/// How much longer a name may take to turn up while some that keep it have not answered: they may be behind links that lose much.
const UNHEARD: Duration = Duration::from_secs(5);
/// The pause before the directory is asked for the same name again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The longest that an allocation waits, whatever was asked.
const MAX_WAIT: Duration = Duration::from_secs(300);
