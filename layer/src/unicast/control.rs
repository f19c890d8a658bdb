//! The flows under FRCT, which are all but the raw ones: whose turn it is to send, and what their users hear.

use std::time::Duration;

use proto::ipcp::Event;
use proto::{Addr, Batch, EndpointId, FlowId, Reason};

use super::Unicast;
use super::dt::Path;
use super::envelope::Envelope;
use super::out::Class;
use super::pdu::CONGESTION;
use super::transfer::{Ending, Transfer};
use crate::{FlowAsk, Now, Output};

/// What became of a flow's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has nothing that may go now.
    Done,
    /// It may have more.
    More,
    /// There is no way, or no key, to send anything.
    Waits,
    /// The lower flow takes nothing now.
    Blocked,
    /// What was to go could not be sent, for a reason that was counted.
    Failed,
}

/// What users do.
impl Unicast {
    /// Takes what the user of a flow wrote.
    pub(super) fn controlled_write(&mut self, now: Now, endpoint: EndpointId, batch: Batch) {
        let Some(flow) = self.flows.get_mut(endpoint) else {
            return;
        };
        let id = flow.id;
        if let Some(transfer) = &mut flow.transfer {
            flow.tx_bytes += transfer.write(now.mono, batch, &mut self.stats);
            if let Some(pause) = transfer.pause() {
                self.out.push_back(Output::UpperPause(id, pause));
            }
        }
        self.flows.make_ready(endpoint);
    }

    /// The user of a flow writes nothing more.
    pub(super) fn upper_shut(&mut self, id: FlowId) {
        let Some(endpoint) = self.flows.endpoint(id) else {
            return;
        };
        if let Some(transfer) = self.transfer(endpoint) {
            transfer.shut();
        }
        self.flows.make_ready(endpoint);
    }

    /// The user of a flow doesn't read, or reads again.
    pub(super) fn upper_full(&mut self, now: Now, id: FlowId, full: bool) {
        let Some(endpoint) = self.flows.endpoint(id) else {
            return;
        };
        if let Some(transfer) = self.transfer(endpoint) {
            transfer.set_full(now.mono, full);
            self.upper_ready.insert(endpoint);
        }
    }

    /// The user of a flow is gone: says whether what it wrote is still to arrive.
    pub(super) fn carries_on(&mut self, now: Now, endpoint: EndpointId, reason: &Reason) -> bool {
        let Some(transfer) = self.transfer(endpoint) else {
            return false;
        };
        if transfer.ending().is_some() {
            return false;
        }
        transfer.left(now.mono, reason);
        if transfer.over(now.mono).is_some() {
            return false;
        }
        self.flows.make_ready(endpoint);
        true
    }

    /// A flow has been ended: says whether its user has yet to take what arrived.
    pub(super) fn keeps_for_user(
        &mut self,
        now: Now,
        endpoint: EndpointId,
        reason: &Reason,
    ) -> bool {
        let Some(transfer) = self.transfer(endpoint) else {
            return false;
        };
        if let Some(Ending::Own { reason, .. }) = transfer.ending() {
            let reason = reason.clone();
            self.forget_flow(endpoint, &reason);
            return true;
        }
        let keeps = transfer.ended_by_peer(now.mono, reason);
        if keeps {
            self.upper_ready.insert(endpoint);
            self.flows.make_ready(endpoint);
        }
        keeps
    }

    fn transfer(&mut self, endpoint: EndpointId) -> Option<&mut Transfer> {
        self.flows.get_mut(endpoint)?.transfer.as_deref_mut()
    }
}

/// What comes in.
impl Unicast {
    /// Takes the payload of a PDU.
    pub(super) fn controlled_arrived(
        &mut self,
        now: Now,
        endpoint: EndpointId,
        payload: &[u8],
        flags: u8,
    ) {
        let Some(transfer) = self.transfer(endpoint) else {
            return;
        };
        let taken = transfer.receive(now.mono, payload, flags & CONGESTION != 0);
        if transfer.has_news() {
            self.upper_ready.insert(endpoint);
        }
        if let Err(reason) = taken {
            self.stats.count(reason);
        }
        self.flows.make_ready(endpoint);
    }

    /// The next of what users are to hear.
    pub(super) fn upper_output(&mut self) -> Option<Output<FlowId, FlowAsk>> {
        while let Some(endpoint) = self.upper_ready.pop_first() {
            let Some(flow) = self.flows.get_mut(endpoint) else {
                continue;
            };
            let id = flow.id;
            let Some(transfer) = &mut flow.transfer else {
                match flow.rx.take() {
                    Some(batch) => return Some(Output::Upper(id, batch)),
                    None => continue,
                }
            };
            if matches!(transfer.ending(), Some(Ending::Own { .. })) {
                // Nobody is left to read it, but the other side must not wait for room.
                while let Some(batch) = transfer.read() {
                    self.stats.add("drop.upper_gone", batch.count() as u64);
                }
                self.flows.make_ready(endpoint);
            } else if let Some(batch) = transfer.record() {
                flow.rx_bytes += (batch.bytes().len() - 2 * batch.count()) as u64;
                self.upper_ready.insert(endpoint);
                self.flows.make_ready(endpoint);
                return Some(Output::Upper(id, batch));
            } else if transfer.tells_end() {
                self.upper_ready.insert(endpoint);
                return Some(Output::UpperShut(id));
            } else {
                self.flows.make_ready(endpoint);
            }
        }
        None
    }
}

/// What goes out.
impl Unicast {
    /// Lets the flow whose turn it is send, of the urgent ones or of all; `false` if there is none.
    pub(super) fn control_next(&mut self, urgent: bool) -> bool {
        let Some(now) = self.now else { return false };
        let Some(endpoint) = self.flows.next_ready(urgent) else {
            return false;
        };
        let turn = self.send_some(now, endpoint);
        self.settle(now, endpoint, turn);
        self.pump_rounds(now);
        true
    }

    /// Sends as much of a flow as one turn allows.
    fn send_some(&mut self, now: Now, endpoint: EndpointId) -> Turn {
        let Some((src, peer, path)) = self.way_of(endpoint) else {
            return Turn::Waits;
        };
        self.stir(now, path.lower);
        if !path.direct && !self.seals_for(now, endpoint) {
            return Turn::Waits;
        }
        let payload = self.payload_by(peer, path.direct);
        let link = self.links.get_mut(&path.lower);
        let (Some(flow), Some(link)) = (self.flows.get_mut(endpoint), link) else {
            return Turn::Waits;
        };
        if !link.can_seal() {
            return Turn::Waits;
        }
        // What others may overtake waits here, what overtakes them in the queue of the link.
        if !link.tx.is_open() && !flow.urgent() {
            return Turn::Blocked;
        }
        let (class, way) = (Class::Data(flow.lot(now, src)), flow.way(src));
        let Some(transfer) = &mut flow.transfer else {
            return Turn::Done;
        };
        transfer.set_payload(payload);
        flow.tx_bytes += transfer.feed(now.mono, &mut self.stats);
        let sessions = self.peers.get(&peer).map(|peer| &peer.sessions);
        let Some(mut envelope) = Envelope::new(path, way, &mut flow.ends, sessions) else {
            return Turn::Waits;
        };
        for _ in 0..TURN {
            let next = |pdu: &mut [u8]| transfer.poll(now.mono, pdu).unwrap_or(0);
            match envelope.fill(now, link, class, payload as usize, next) {
                Ok(true) => {}
                Ok(false) => return Turn::Done,
                Err(reason) => {
                    self.stats.count(reason);
                    return Turn::Failed;
                }
            }
        }
        Turn::More
    }

    /// From whom to whom the PDUs of a flow go, and on what way now.
    pub(super) fn way_of(&self, endpoint: EndpointId) -> Option<(Addr, Addr, Path)> {
        let flow = self.flows.get(endpoint)?;
        let me = self.me.as_ref()?.address;
        let path = self.path_between(me, flow.peer, flow.remote)?;
        Some((me, flow.peer, path))
    }

    /// Draws the conclusions of a turn: pauses, ends, the next look.
    fn settle(&mut self, now: Now, endpoint: EndpointId, turn: Turn) {
        self.flows.widen(endpoint);
        let Some(flow) = self.flows.get_mut(endpoint) else {
            return;
        };
        let id = flow.id;
        let Some(transfer) = flow.transfer.as_deref_mut() else {
            return;
        };
        transfer.count(&mut self.stats);
        flow.tx_bytes += transfer.feed(now.mono, &mut self.stats);
        if let Some(pause) = transfer.pause() {
            self.out.push_back(Output::UpperPause(id, pause));
        }
        if transfer.has_news() {
            self.upper_ready.insert(endpoint);
        }
        if let Some(reason) = transfer.over(now.mono) {
            // The user was gone, and now its SDUs have arrived or never will.
            self.say_dealloc(now, endpoint, &reason);
            return self.forget_flow(endpoint, &reason);
        }
        if let Some(reason) = transfer.drained(now.mono) {
            self.close_flow(endpoint, reason.clone());
            let down = Event::FlowDown(id, reason);
            return self.out.push_back(Output::Control(down));
        }
        let waits = matches!(turn, Turn::Waits | Turn::Blocked);
        if waits {
            transfer.waits(now.mono);
        }
        let served = !matches!(transfer.ending(), Some(Ending::Peers { .. }));
        if let Some(failure) = transfer.failure().filter(|_| served) {
            let reason = Reason::from(failure);
            self.say_dealloc(now, endpoint, &reason);
            return self.flow_down(now, endpoint, reason);
        }
        let at = transfer.deadline(waits);
        if turn == Turn::Blocked {
            self.flows.block(endpoint);
        }
        match (turn, at) {
            (Turn::More, _) => self.flows.make_ready(endpoint),
            (Turn::Failed, _) => self.flows.timers.set(endpoint, now.mono + AGAIN),
            (_, Some(at)) => self.flows.timers.set(endpoint, at.max(now.mono + LEAST)),
            (_, None) => self.flows.timers.clear(endpoint),
        }
    }
}

/// PDUs of one flow before others get their turn: a train.
const TURN: usize = Batch::TRAIN_PACKETS;
/// When a flow tries again that could not send for a reason that may pass.
const AGAIN: Duration = Duration::from_millis(10);
/// The shortest sleep.
const LEAST: Duration = Duration::from_micros(50);
