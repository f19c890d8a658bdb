//! Ends of flows: by irmd, by their users, by the other side; and how the other side surely hears of them. It must not know how
//! flows begin.

use std::time::{Duration, Instant};

use proto::ipcp::{Answer, CommandId, Event};
use proto::wire::{self, message::Body};
use proto::{Addr, Code, EndpointId, FlowId, Reason};

use super::Unicast;
use super::limits::MAX_FLOWS;
use crate::{Now, Output};

/// The end of a flow that was said to a member, which hasn't acknowledged it.
pub(super) struct Closing {
    reason: Reason,
    /// Forgotten then.
    pub(super) until: Instant,
}

/// What happens here.
impl Unicast {
    /// Ends a flow because irmd says so.
    pub(super) fn dealloc(&mut self, now: Now, command: CommandId, id: FlowId, reason: Reason) {
        if let Some(endpoint) = self.flows.outgoing.endpoint(id) {
            self.allocation_failed(endpoint, reason);
        } else if let Some(endpoint) = self.flows.endpoint(id) {
            self.say_dealloc(now, endpoint, &reason);
            self.close_flow(endpoint, reason);
        }
        // A flow that is gone already is what was asked for.
        self.done(command, Ok(Answer::Ok));
    }

    /// The user of a flow closed it or died.
    pub(super) fn upper_gone(&mut self, now: Now, id: FlowId, reason: Reason) {
        let Some(endpoint) = self.flows.endpoint(id) else {
            return;
        };
        if self.carries_on(now, endpoint, &reason) {
            return;
        }
        self.say_dealloc(now, endpoint, &reason);
        self.forget_flow(endpoint, &reason);
    }

    /// A flow whose user is gone is over.
    pub(super) fn forget_flow(&mut self, endpoint: EndpointId, said: &Reason) {
        let Some(flow) = self.flows.remove(endpoint) else {
            return;
        };
        if let Some(mut transfer) = flow.transfer {
            transfer.count(&mut self.stats);
        }
        let text = if said.code == Code::Closed {
            "closed by its user".to_owned()
        } else {
            format!("ended by its user; the other side hears: {said}")
        };
        let reason = Reason::new(said.code, text);
        self.out
            .push_back(Output::Control(Event::FlowDown(flow.id, reason)));
    }

    /// Takes a flow away from its user, after all that has arrived for it, and tells irmd.
    pub(super) fn flow_down(&mut self, now: Now, endpoint: EndpointId, reason: Reason) {
        if self.keeps_for_user(now, endpoint, &reason) {
            return;
        }
        if let Some(id) = self.close_flow(endpoint, reason.clone()) {
            self.out
                .push_back(Output::Control(Event::FlowDown(id, reason)));
        }
    }

    /// Takes a flow away from its user, after all that has arrived for it.
    pub(super) fn close_flow(&mut self, endpoint: EndpointId, reason: Reason) -> Option<FlowId> {
        let flow = self.flows.remove(endpoint)?;
        let id = flow.id;
        let mut last: Vec<_> = Vec::new();
        self.uppers.retain_mut(|(of, batch)| {
            let other = *of != id;
            if !other {
                last.push(std::mem::replace(
                    batch,
                    proto::Batch::new(proto::Framing::Record),
                ));
            }
            other
        });
        last.extend(flow.rx);
        last.extend(flow.transfer.into_iter().flat_map(|mut transfer| {
            transfer.count(&mut self.stats);
            std::iter::from_fn(move || transfer.read())
        }));
        self.out
            .extend(last.into_iter().map(|batch| Output::Upper(id, batch)));
        self.out.push_back(Output::UpperClose(id, reason));
        Some(id)
    }
}

/// What other members say.
impl Unicast {
    pub(super) fn flow_dealloc(&mut self, now: Now, from: Addr, dealloc: wire::FlowDealloc) {
        let endpoint = EndpointId(dealloc.endpoint);
        if self.flows.get(endpoint).is_some_and(|f| f.peer == from) {
            let reason = Reason::new(Code::from_wire(dealloc.code), dealloc.text);
            self.flow_down(now, endpoint, reason);
        }
        self.tell_peer(
            now,
            from,
            Body::FlowDeallocAck(wire::FlowDeallocAck {
                endpoint: endpoint.0,
            }),
        );
    }

    pub(super) fn flow_dealloc_ack(&mut self, from: Addr, ack: &wire::FlowDeallocAck) {
        self.flows.closing.remove(from, EndpointId(ack.endpoint));
    }
}

/// What is said to them.
impl Unicast {
    pub(super) fn say_dealloc(&mut self, now: Now, endpoint: EndpointId, reason: &Reason) {
        let Some(flow) = self.flows.get(endpoint) else {
            return;
        };
        let (peer, remote) = (flow.peer, flow.remote);
        self.end_remote(now, peer, remote, reason);
    }

    /// Tells a member that an end of its own is that of no flow any longer, until it says that it heard so.
    pub(super) fn end_remote(&mut self, now: Now, peer: Addr, remote: EndpointId, reason: &Reason) {
        if self.tell_dealloc(now, peer, remote, reason) && self.flows.closing.len() < MAX_FLOWS {
            let closing = Closing {
                reason: reason.clone(),
                until: now.mono + CLOSING,
            };
            self.flows.closing.insert(peer, remote, closing);
        }
    }

    fn tell_dealloc(&mut self, now: Now, peer: Addr, remote: EndpointId, reason: &Reason) -> bool {
        let dealloc = wire::FlowDealloc {
            endpoint: remote.0,
            code: reason.code as u32,
            text: reason.text.clone(),
        };
        self.tell_peer(now, peer, Body::FlowDealloc(dealloc))
    }

    /// What was said to a member of the ends of flows may be lost: says again what it has not acknowledged, lest it keep
    /// its end for ever.
    pub(super) fn say_deallocs_again(&mut self, now: Now, peer: Addr) {
        let ends = self.flows.closing.of(peer);
        let ends: Vec<_> = ends.map(|(end, c)| (end, c.reason.clone())).collect();
        for (remote, reason) in ends {
            self.tell_dealloc(now, peer, remote, &reason);
        }
    }
}

/// How long the end of a flow may remain unacknowledged before it is forgotten here.
const CLOSING: Duration = Duration::from_secs(120);
