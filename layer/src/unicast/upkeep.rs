//! What happens to flows by themselves: routes and names change, members restart, time passes.

use proto::{Addr, Code, Reason};

use super::Unicast;
use super::flow::Outgoing;
use super::peer::frame_size;
use super::transfer::{Ending, sdu_mtu};
use crate::{Now, Output};

impl Unicast {
    /// Names may have turned up, or members that have them.
    pub(super) fn names_changed(&mut self, now: Now) {
        let waiting: Vec<_> = self
            .flows
            .outgoing
            .iter()
            .filter(|(_, o)| o.asked.is_none())
            .map(|(e, _)| *e)
            .collect();
        for endpoint in waiting {
            self.ask_next(now, endpoint);
        }
    }

    /// Who was asked can't be reached any longer; another that has the name is asked in its place, if there is one.
    fn ask_another(&mut self, now: Now) {
        let Some(me) = &self.me else { return };
        let lost = |o: &Outgoing| {
            let asked = o.asked.filter(|peer| self.path(*peer).is_none());
            let another = |a: &Addr| !o.tried.contains(a);
            let free = asked.is_some() && o.ask.peer.is_none();
            free && me.resolve(now, &o.ask.name).iter().any(another)
        };
        let outgoing = self.flows.outgoing.iter();
        let lost: Vec<_> = outgoing.filter(|(_, o)| lost(o)).map(|(e, _)| *e).collect();
        for endpoint in lost {
            let text = "there is no way to the member that was asked any longer";
            self.was_refused(now, endpoint, Reason::new(Code::Unreachable, text));
        }
    }

    /// The routes have changed.
    pub(super) fn flows_rerouted(&mut self, now: Now) {
        self.names_changed(now);
        self.ask_another(now);
        self.flows.unblock();
        if let Some(me) = &self.me {
            for (address, peer) in &mut self.peers {
                let way = me.routing.way(*address);
                let before = std::mem::replace(&mut peer.way, way);
                if let Some(mtu) = me.routing.mtu(*address) {
                    peer.channel.set_frame_size(frame_size(mtu));
                }
                if way != before {
                    peer.channel.forget_rtt();
                }
                if way.is_some() && before.is_none() {
                    peer.channel.resume(now.mono);
                    let running = peer.handshakes.iter_mut();
                    running.for_each(|r| r.handshake.resume(now.mono));
                    self.pump = true;
                }
            }
        }
        for endpoint in self.flows.all() {
            let Some(peer) = self.flows.get(endpoint).map(|f| f.peer) else {
                continue;
            };
            let path = self.way_of(endpoint).map(|(_, _, path)| path);
            let payload = self.payload_mtu(peer);
            let me = self.me.as_ref();
            let cost = me.and_then(|me| Some(me.routing.way(peer)?.1));
            let Some(path) = path else {
                self.flows.lose(now.mono, endpoint);
                continue;
            };
            let back = self.flows.find(endpoint);
            let Some(flow) = self.flows.get_mut(endpoint) else {
                continue;
            };
            if let Some(transfer) = &mut flow.transfer {
                transfer.set_way((path.lower, cost.unwrap_or(0)), back);
            }
            let ending = flow.transfer.as_ref().and_then(|t| t.ending());
            let left = matches!(ending, Some(Ending::Own { .. }));
            let mtu = sdu_mtu(&flow.qos, payload);
            if mtu != flow.mtu {
                flow.mtu = mtu;
                if !left {
                    self.out.push_back(Output::UpperMtu(flow.id, mtu));
                }
            }
            self.flows.make_ready(endpoint);
        }
    }

    /// PDUs can be sealed to a member: what waited for that goes now.
    pub(super) fn session_ready(&mut self, now: Now, peer: Addr) {
        self.pump = true;
        for endpoint in self.flows.with(peer) {
            let Some(flow) = self.flows.get_mut(endpoint) else {
                continue;
            };
            let (id, held) = (flow.id, flow.held());
            for batch in held {
                self.upper(now, id, batch);
            }
            self.flows.make_ready(endpoint);
        }
    }

    /// No session with a member could be made.
    pub(super) fn peer_failed(&mut self, now: Now, peer: Addr, reason: &Reason) {
        if !self
            .peers
            .get(&peer)
            .is_some_and(|p| p.sessions.usable(now.mono))
        {
            self.peer_silent(now, peer, reason);
        }
    }

    /// A member acknowledges nothing: what it was asked is asked of another.
    pub(super) fn peer_silent(&mut self, now: Now, peer: Addr, reason: &Reason) {
        let text = format!("member {} can't be asked: {reason}", self.member_name(peer));
        for endpoint in self.flows.outgoing.asked(peer) {
            self.was_refused(now, endpoint, Reason::new(Code::Unreachable, text.clone()));
        }
    }

    /// Nothing more can be said about the flows with a member, and what was said last may be lost: they end.
    pub(super) fn flows_mute(&mut self, now: Now, peer: Addr) {
        let text = format!(
            "member {} acknowledges nothing any more",
            self.member_name(peer)
        );
        self.say_deallocs_again(now, peer);
        for endpoint in self.flows.with(peer) {
            let reason = Reason::new(Code::Unreachable, text.clone());
            self.say_dealloc(now, endpoint, &reason);
            self.flow_down(now, endpoint, reason);
        }
    }

    /// A member has forgotten all that was agreed with it, or with its lives before `life`.
    pub(super) fn peer_restarted(&mut self, now: Now, peer: Addr, life: Option<u64>) {
        let void = |of: u64| life.is_none_or(|life| of < life);
        let member = self.member_name(peer);
        for endpoint in self.flows.with(peer) {
            if !self.flows.get(endpoint).is_some_and(|f| void(f.peer_life)) {
                continue;
            }
            let text = format!("member {member} has restarted; allocate the flow again");
            self.flow_down(now, endpoint, Reason::new(Code::Unreachable, text));
        }
        self.flows.incoming.forget(peer, |i| void(i.peer_life));
        if life.is_some() {
            self.flows.closing.forget(peer);
        }
    }

    /// What a member was asked, it may never have heard, or has forgotten. Where `anew`, it has forgotten for sure, and an
    /// answer to what it was asked before may still be on its way, with an end that is gone: it is asked from another end.
    /// Otherwise it may have heard and said yes: what it says to that end still counts.
    pub(super) fn ask_again(&mut self, now: Now, peer: Addr, anew: bool) {
        for before in self.flows.outgoing.asked(peer) {
            let endpoint = if anew { self.new_endpoint() } else { before };
            if let Some(mut outgoing) = self.flows.outgoing.remove(&before) {
                outgoing.unask();
                outgoing.tried.retain(|a| *a != peer);
                outgoing.resolve_until =
                    self.resolve_until(now, &outgoing.ask.name, outgoing.deadline);
                self.flows.outgoing.insert(endpoint, outgoing);
            }
            if anew {
                self.ask_next(now, endpoint);
            } else {
                self.ask_member(now, endpoint, peer);
            }
        }
    }

    /// Ends what has waited for too long.
    pub(super) fn tick_flows(&mut self, now: Now) {
        let due: Vec<_> = self
            .flows
            .outgoing
            .iter()
            .filter(|(_, o)| o.deadline <= now.mono)
            .map(|(e, o)| (*e, o.asked))
            .collect();
        for (endpoint, asked) in due {
            let text = match asked {
                Some(peer) => format!(
                    "member {} did not answer the flow request in time; is the program that serves the name alive?",
                    self.member_name(peer)
                ),
                None => "the name did not turn up in time; register it first".to_owned(),
            };
            self.allocation_failed(endpoint, Reason::new(Code::TimedOut, text));
        }
        let waiting: Vec<_> = self
            .flows
            .outgoing
            .iter()
            .filter(|(_, o)| o.asked.is_none() && o.wants_a_look(now.mono))
            .map(|(e, _)| *e)
            .collect();
        for endpoint in waiting {
            self.ask_next(now, endpoint);
        }
        self.flows.incoming.expire(now.mono);
        self.flows.closing.expire(now.mono);
        while let Some(endpoint) = self.flows.lost(now.mono) {
            let Some(flow) = self.flows.get(endpoint) else {
                continue;
            };
            let text = format!(
                "member {} was unreachable for {} s",
                self.member_name(flow.peer),
                flow.bears().as_secs()
            );
            let reason = Reason::new(Code::Unreachable, text);
            // The other side may have had a way now and then, and wait no such time.
            self.say_dealloc(now, endpoint, &reason);
            self.flow_down(now, endpoint, reason);
        }
    }

    /// Ends all flows in good order.
    pub(super) fn close_all_flows(&mut self, now: Now) {
        for endpoint in self.flows.all() {
            let reason = Reason::new(
                Code::Closed,
                "the IPC process at the other end was shut down",
            );
            self.say_dealloc(now, endpoint, &reason);
            self.close_flow(
                endpoint,
                Reason::new(Code::Closed, "the IPC process of this flow was shut down"),
            );
        }
        let pending: Vec<_> = self.flows.outgoing.keys().copied().collect();
        for endpoint in pending {
            self.allocation_failed(
                endpoint,
                Reason::new(Code::Failed, "the IPC process was shut down"),
            );
        }
    }
}
