//! The flows of this member: tables only, the procedures are in `fa`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proto::ipcp::{Allocate, CommandId, RequestId};
use proto::wire::FlowReply;
use proto::{Addr, Batch, EndpointId, FlowId, Name, QosSpec, Reason};
use rustc_hash::FxHashMap;

use super::by_peer::ByPeer;
use super::cube::Cube;
use super::envelope::Way;
use super::memory::Memory;
use super::out::Lot;
use super::pdu::Routed;
use super::peer::Ends;
use super::transfer::Transfer;
use super::waiting::{Requests, Told, Wanted};
use crate::{Now, Timers};

/// A flow that stands.
pub(super) struct Flow {
    pub(super) id: FlowId,
    pub(super) local: EndpointId,
    pub(super) remote: EndpointId,
    pub(super) peer: Addr,
    /// The life of the peer in which it agreed to the flow.
    pub(super) peer_life: u64,
    pub(super) qos: QosSpec,
    /// The name that it was allocated to.
    pub(super) name: Name,
    /// How the other program calls itself, or is called.
    pub(super) peer_name: Option<Name>,
    pub(super) incoming: bool,
    pub(super) uid: u32,
    pub(super) mtu: u32,
    pub(super) ends: Ends,
    /// The record that arriving SDUs are put into.
    pub(super) rx: Option<Batch>,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    /// Of any flow but a raw one.
    pub(super) transfer: Option<Box<Transfer>>,
    /// What was written to a raw flow while a session was being made.
    waiting: VecDeque<Batch>,
}

/// A flow that irmd wants.
pub(super) struct Outgoing {
    pub(super) command: CommandId,
    pub(super) ask: Allocate,
    pub(super) deadline: Instant,
    /// Until when the name may still turn up in the directory.
    pub(super) resolve_until: Instant,
    /// That was prolonged once, since some that keep the name have not answered.
    pub(super) prolonged: bool,
    /// When the directory may be asked again.
    pub(super) again: Option<Instant>,
    /// All that would keep the name have said that nobody serves it.
    pub(super) denied: bool,
    /// Who was asked and has not answered yet.
    pub(super) asked: Option<Addr>,
    pub(super) tried: Vec<Addr>,
    pub(super) last: Option<Reason>,
    pub(super) early: Early,
}

/// PDUs that came before the answer that makes them a flow's: the other side may write once it has accepted, and the
/// answer may be lost and sent again meanwhile.
#[derive(Default)]
pub(super) struct Early {
    pdus: Vec<EarlyPdu>,
    bytes: usize,
}

/// One of them, as it came.
pub(super) enum EarlyPdu {
    /// The payload, from a neighbour.
    Direct(Vec<u8>),
    /// Sealed end to end: its key follows from both endpoints, and one of them is in the answer.
    Routed(Routed, Vec<u8>),
}

impl Outgoing {
    /// Whether it has waited for the directory for long enough.
    pub(super) fn wants_a_look(&self, now: Instant) -> bool {
        self.resolve_until <= now || self.again.is_some_and(|at| at <= now)
    }

    /// Nobody is asked any longer; what whoever was has sent belongs to nothing.
    pub(super) fn unask(&mut self) {
        self.asked = None;
        self.early = Early::default();
    }
}

impl Early {
    /// Keeps a PDU; the error is the reason of the drop.
    fn keep(&mut self, pdu: EarlyPdu) -> Result<(), &'static str> {
        let (EarlyPdu::Direct(bytes) | EarlyPdu::Routed(_, bytes)) = &pdu;
        let cost = bytes.len() + EARLY_OVERHEAD;
        if self.bytes + cost > MAX_EARLY {
            return Err("drop.early");
        }
        self.bytes += cost;
        self.pdus.push(pdu);
        Ok(())
    }

    /// What was kept, in the order in which it came.
    pub(super) fn into_pdus(self) -> Vec<EarlyPdu> {
        self.pdus
    }
}

/// A flow that another member wants, and irmd has not answered yet.
pub(super) struct Incoming {
    pub(super) peer: Addr,
    pub(super) peer_life: u64,
    pub(super) remote: EndpointId,
    pub(super) name: Name,
    pub(super) source: Option<Name>,
    pub(super) qos: QosSpec,
    pub(super) deadline: Instant,
}

impl Incoming {
    /// The QoS cube that is to serve it.
    pub(super) fn cube(&self) -> Cube {
        Cube::of(&self.qos)
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Flows {
    table: FxHashMap<EndpointId, Flow>,
    ids: BTreeMap<FlowId, EndpointId>,
    by_peer: ByPeer,
    /// Those whose other end can't be reached, and until when it may be so.
    lost: Timers<EndpointId>,
    pub(super) outgoing: Wanted,
    pub(super) incoming: Requests,
    pub(super) closing: Told,
    pub(super) requests: RequestId,
    /// Flows under control whose turn it is to send, the first first: those with priority, and the others.
    urgent: VecDeque<EndpointId>,
    ready: VecDeque<EndpointId>,
    /// Those of them whose lower flow takes nothing now.
    blocked: Vec<EndpointId>,
    /// What they may keep.
    pub(super) memory: Memory,
    /// When those under control want a look.
    pub(super) timers: Timers<EndpointId>,
}

impl Flow {
    /// One that another member asked for and irmd accepted.
    pub(super) fn accepted(id: FlowId, local: EndpointId, uid: u32, asked: Incoming) -> Self {
        let (ends, peer) = ((local, asked.remote), (asked.peer, asked.peer_life));
        Self {
            peer_name: asked.source,
            incoming: true,
            uid,
            ..Self::new(id, ends, peer, asked.qos, asked.name)
        }
    }

    /// How long its other end may be out of reach.
    pub(super) fn bears(&self) -> Duration {
        UNREACHABLE.max(Duration::from_millis(self.qos.timeout_ms.into()))
    }

    /// One that a member has granted; the other program is called by the name that was asked for.
    pub(super) fn granted(
        local: EndpointId,
        from: Addr,
        reply: &FlowReply,
        ask: &Allocate,
    ) -> Self {
        let ends = (local, EndpointId(reply.endpoint));
        let peer = (from, reply.incarnation);
        Self {
            peer_name: Some(ask.name.clone()),
            uid: ask.user.uid,
            ..Self::new(ask.flow, ends, peer, ask.qos, ask.name.clone())
        }
    }

    fn new(
        id: FlowId,
        (local, remote): (EndpointId, EndpointId),
        (peer, peer_life): (Addr, u64),
        qos: QosSpec,
        name: Name,
    ) -> Self {
        Self {
            id,
            local,
            remote,
            peer,
            peer_life,
            qos,
            name,
            peer_name: None,
            incoming: false,
            uid: 0,
            mtu: 0,
            ends: Ends::new(local, remote),
            rx: None,
            rx_bytes: 0,
            tx_bytes: 0,
            transfer: None,
            waiting: VecDeque::new(),
        }
    }

    /// The QoS cube that serves it.
    pub(super) fn cube(&self) -> Cube {
        Cube::of(&self.qos)
    }

    /// What decides when a packet of it that is written now is sent; `member` is this one.
    pub(super) fn lot(&self, now: Now, member: Addr) -> Lot {
        Lot {
            cube: self.cube(),
            member,
            own: self.local,
            now: now.mono,
            max_delay_ms: self.qos.max_delay_ms,
        }
    }

    /// From whom to whom its payloads go; `member` is this one.
    pub(super) fn way(&self, member: Addr) -> Way {
        Way {
            src: member,
            dst: self.peer,
            cube: self.cube() as u8,
            endpoint: self.remote,
        }
    }

    /// Whether its packets go before those of others.
    pub(super) fn urgent(&self) -> bool {
        self.qos.priority > 0
    }

    /// Keeps a few records until they can be sealed. Says whether there was room.
    pub(super) fn hold(&mut self, batch: Batch) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(batch);
        }
        room
    }

    /// What was kept.
    pub(super) fn held(&mut self) -> VecDeque<Batch> {
        std::mem::take(&mut self.waiting)
    }
}

impl Flows {
    pub(super) fn endpoint(&self, id: FlowId) -> Option<EndpointId> {
        self.ids.get(&id).copied()
    }

    pub(super) fn get(&self, endpoint: EndpointId) -> Option<&Flow> {
        self.table.get(&endpoint)
    }

    pub(super) fn get_mut(&mut self, endpoint: EndpointId) -> Option<&mut Flow> {
        self.table.get_mut(&endpoint)
    }

    /// Keeps a PDU for an endpoint that is no flow's yet, if it comes from the member that was asked for one.
    pub(super) fn keep_early(
        &mut self,
        endpoint: EndpointId,
        from: Addr,
        pdu: impl FnOnce() -> EarlyPdu,
    ) -> Result<(), &'static str> {
        match self.outgoing.get_mut(&endpoint) {
            Some(outgoing) if outgoing.asked == Some(from) => outgoing.early.keep(pdu()),
            Some(_) => Err("drop.foreign_flow"),
            None => Err("drop.unknown_endpoint"),
        }
    }

    /// In the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.ids.values().filter_map(|e| self.table.get(e))
    }

    /// The flows with one member.
    pub(super) fn with(&self, peer: Addr) -> Vec<EndpointId> {
        self.by_peer.with(peer).collect()
    }

    /// The flows that stand, by whom they are with.
    pub(super) fn by_peer(&self) -> &ByPeer {
        &self.by_peer
    }

    /// The flow that a member has asked for with that end of its own.
    pub(super) fn asked_by(&self, peer: Addr, remote: EndpointId) -> Option<&Flow> {
        self.table.get(&self.by_peer.asked(peer, remote)?)
    }

    /// Whether anything here is with that member, or waits for it, or it for this one.
    pub(super) fn concerns(&self, peer: Addr) -> bool {
        self.by_peer.count(peer) + self.incoming.count(peer) > 0
            || self.closing.of(peer).next().is_some()
    }

    /// The other end of a flow can't be reached.
    pub(super) fn lose(&mut self, now: Instant, endpoint: EndpointId) {
        if self.lost.get(endpoint).is_none()
            && let Some(flow) = self.table.get(&endpoint)
        {
            self.lost.set(endpoint, now + flow.bears());
        }
    }

    /// It can. Says whether that is news.
    pub(super) fn find(&mut self, endpoint: EndpointId) -> bool {
        let lost = self.lost.get(endpoint).is_some();
        self.lost.clear(endpoint);
        lost
    }

    /// A flow whose other end could not be reached for too long.
    pub(super) fn lost(&mut self, now: Instant) -> Option<EndpointId> {
        self.lost.due(now)
    }

    pub(super) fn all(&self) -> Vec<EndpointId> {
        self.ids.values().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn insert(&mut self, flow: Flow) {
        self.ids.insert(flow.id, flow.local);
        self.by_peer.insert(&flow);
        self.table.insert(flow.local, flow);
    }

    /// A flow under control may have something to send.
    pub(super) fn make_ready(&mut self, endpoint: EndpointId) {
        let Some(flow) = self.table.get_mut(&endpoint) else {
            return;
        };
        let urgent = flow.urgent();
        if let Some(transfer) = &mut flow.transfer
            && !std::mem::replace(&mut transfer.queued, true)
        {
            let queue = if urgent {
                &mut self.urgent
            } else {
                &mut self.ready
            };
            queue.push_back(endpoint);
        }
    }

    /// A flow has to wait with its turn until its lower flow takes packets.
    pub(super) fn block(&mut self, endpoint: EndpointId) {
        let flow = self.table.get_mut(&endpoint);
        if let Some(transfer) = flow.and_then(|f| f.transfer.as_mut())
            && !std::mem::replace(&mut transfer.queued, true)
        {
            self.blocked.push(endpoint);
        }
    }

    /// A lower flow takes packets again: whoever waits for one has another look.
    pub(super) fn unblock(&mut self) -> usize {
        let count = self.blocked.len();
        self.ready.extend(self.blocked.drain(..));
        count
    }

    /// Lets a flow keep as much as its path takes, as long as there is memory.
    pub(super) fn widen(&mut self, endpoint: EndpointId) {
        if let Some(flow) = self.table.get_mut(&endpoint)
            && let Some(transfer) = &mut flow.transfer
        {
            let (held, wanted) = transfer.buffers();
            if wanted != held {
                transfer.widen(self.memory.grow(flow.peer, held, wanted));
            }
        }
    }

    /// The flow under control whose turn it is to send.
    pub(super) fn next_ready(&mut self, urgent: bool) -> Option<EndpointId> {
        loop {
            let others = || (!urgent).then(|| self.ready.pop_front()).flatten();
            let endpoint = self.urgent.pop_front().or_else(others)?;
            let flow = self.table.get_mut(&endpoint);
            if let Some(transfer) = flow.and_then(|f| f.transfer.as_mut()) {
                transfer.queued = false;
                return Some(endpoint);
            }
        }
    }

    pub(super) fn remove(&mut self, endpoint: EndpointId) -> Option<Flow> {
        let flow = self.table.remove(&endpoint)?;
        self.timers.clear(endpoint);
        self.lost.clear(endpoint);
        self.ids.remove(&flow.id);
        self.by_peer.remove(&flow);
        if let Some(transfer) = &flow.transfer {
            self.memory.give_back(flow.peer, transfer.buffers().0);
        }
        Some(flow)
    }

    /// Whether irmd's number of a flow, or an endpoint, is taken.
    pub(super) fn has_id(&self, id: FlowId) -> bool {
        self.ids.contains_key(&id) || self.outgoing.endpoint(id).is_some()
    }

    pub(super) fn has_endpoint(&self, endpoint: EndpointId) -> bool {
        self.table.contains_key(&endpoint) || self.outgoing.get(&endpoint).is_some()
    }

    /// When something here has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let outgoing = self.outgoing.values().map(|o| {
            if o.asked.is_none() {
                let again = o.again.unwrap_or(o.deadline);
                again.min(o.resolve_until).min(o.deadline)
            } else {
                o.deadline
            }
        });
        outgoing
            .chain(self.incoming.deadline())
            .chain(self.closing.deadline())
            .chain(self.lost.deadline())
            .min()
    }
}

/// How long the other end of a flow may be unreachable, unless its QoS bears more.
const UNREACHABLE: Duration = Duration::from_secs(30);
/// Records that a flow keeps while a session is being made, of at most 64 KiB each.
const MAX_WAITING: usize = 4;
/// Bytes kept for one allocation until it is answered, and what each PDU counts besides its own.
const MAX_EARLY: usize = 64 << 10;
const EARLY_OVERHEAD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(qos: QosSpec) -> Flow {
        let name = Name::new("server").unwrap();
        let (local, remote) = (EndpointId(1), EndpointId(2));
        Flow::new(FlowId(1), (local, remote), (Addr(3), 1), qos, name)
    }

    #[test]
    fn what_comes_before_the_answer_is_bounded() {
        let mut early = Early::default();
        let kept = (0..100_000)
            .take_while(|_| early.keep(EarlyPdu::Direct(Vec::new())).is_ok())
            .count();
        assert_eq!(kept, MAX_EARLY / EARLY_OVERHEAD);
        assert_eq!(early.keep(EarlyPdu::Direct(vec![1])), Err("drop.early"));
        assert_eq!(early.into_pdus().len(), kept);
    }

    #[test]
    fn what_waits_for_a_session_is_bounded() {
        let mut flow = flow(QosSpec::RAW);
        let kept = (0..100)
            .filter(|_| flow.hold(Batch::of(b"x").unwrap()))
            .count();
        assert_eq!(
            (kept, flow.held().len(), flow.held().len()),
            (MAX_WAITING, MAX_WAITING, 0)
        );
    }
}
