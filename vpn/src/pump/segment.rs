//! Where the device is a TAP: frames go by what a switch has learned, and every member of the layer is called until it answers or
//! calls itself. Who comes later calls who was there before, so a call that comes to nothing is repeated ever more seldom.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use frames::{TunPort, Written};

use super::{Core, Happening, Peer, member};
use crate::config::Config;
use crate::counters::Dropped;
use crate::flow::{FlowPort, Handle};
use crate::prefix::{Owner, PeerId};
use crate::session::Way;
use crate::switch::{Head, Refused, Switch, To};

/// An Ethernet segment.
pub(super) struct Segment {
    pub(super) switch: Switch,
    calls: HashMap<PeerId, Call>,
    /// No sooner than this is anybody called.
    soonest: Instant,
}

/// When a member is called.
#[derive(Debug, Clone, Copy)]
struct Call {
    at: Instant,
    pause: Duration,
}

impl Segment {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            switch: Switch::new(now),
            calls: HashMap::new(),
            soonest: now,
        }
    }

    /// A member is called from now on, if it isn't yet.
    pub(super) fn call(&mut self, id: PeerId, now: Instant) {
        self.calls.entry(id).or_insert(Call {
            at: now,
            pause: PAUSE.0,
        });
    }

    /// When the next member that has no flow is to be called.
    pub(super) fn deadline<F>(&self, peers: &[Peer<F>]) -> Option<Instant> {
        let calls = self.calls.iter();
        let alone = calls.filter(|(id, _)| {
            let peer = peers.get(id.0 as usize);
            peer.is_some_and(|peer| peer.session.is_alone())
        });
        alone.map(|(_, call)| call.at.max(self.soonest)).min()
    }
}

impl<F: FlowPort> Core<F> {
    /// Makes the segment, at first, and its members, what the configuration says.
    pub(super) fn configure_segment(&mut self, config: &Config, now: Instant) {
        // The layer's process knows pairs of IP only, but frames wait there too.
        if self.segment.is_none() {
            self.handle = Some(Handle::of_frames());
        }
        let numbers = &self.numbers;
        let segment = self.segment.get_or_insert_with(|| Segment::new(now));
        for id in numbers.values() {
            segment.call(*id, now);
        }
        let own = config.mac.map(|mac| (mac, Owner::Me));
        let others = config.members.iter().filter_map(|(name, member)| {
            let id = numbers.get(name)?;
            Some((member.mac?, Owner::Peer(*id)))
        });
        segment.switch.set_fixed(own.into_iter().chain(others));
    }

    /// Sends a frame of the host to whom it is for.
    pub(super) fn bridge(&mut self, frame: &[u8], now: Instant) {
        let Some(segment) = &mut self.segment else {
            return;
        };
        match segment.switch.from_host(now, frame) {
            Ok(To::Peer(id)) if self.has_flow(id) => self.send_frame(id, frame, now),
            Ok(To::Peer(_)) => self.counters.drop(Dropped::FlowDown),
            Ok(To::All) => self.flood(frame, now),
            Err(why) => self.counters.drop(why.into()),
        }
    }

    fn flood(&mut self, frame: &[u8], now: Instant) {
        let all = self.numbers.values().copied();
        let there: Vec<PeerId> = all.filter(|id| self.has_flow(*id)).collect();
        let Some(segment) = self.segment.as_mut().filter(|_| !there.is_empty()) else {
            return self.counters.drop(Dropped::NobodyThere);
        };
        let group = Head::parse(frame).is_ok_and(|head| head.to.is_group());
        if !segment.switch.may_flood(now, group, there.len()) {
            return self.counters.drop(Dropped::FloodLimited);
        }
        self.counters.flooded += 1;
        for id in there {
            self.send_frame(id, frame, now);
        }
    }

    fn has_flow(&self, id: PeerId) -> bool {
        let peer = self.peers.get(id.0 as usize);
        peer.is_some_and(|peer| peer.session.sending().is_some())
    }

    fn send_frame(&mut self, id: PeerId, frame: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        // Flows of a segment are never idle, so one that is there is sent on.
        let Way::Send(side) = peer.session.way(now) else {
            return self.counters.drop(Dropped::FlowDown);
        };
        let mtu = peer.session.flow(side).map_or(0, FlowPort::mtu);
        if frame.len() > mtu as usize {
            return self.counters.drop(Dropped::TooBig);
        }
        self.append(id, frame, now);
    }

    /// Writes the frames of the record that was just received, all but those that the member may not send.
    pub(super) fn deliver_frames<T: TunPort>(&mut self, tun: &mut T, id: PeerId, now: Instant) {
        let Some(segment) = &mut self.segment else {
            return;
        };
        let counters = &mut self.counters;
        let written: Written = tun.write(&self.inbound, |frame| {
            let judged = segment.switch.from_peer(now, member(id), frame);
            judged.map_err(|why| counters.drop(why.into())).is_ok()
        });
        self.received(id, written, now);
    }

    /// Nothing that was learned of a member holds once it has no flow; and it is called again.
    pub(super) fn left(&mut self, id: PeerId, now: Instant) {
        let gone = !self.has_flow(member(id));
        if let Some(segment) = self.segment.as_mut().filter(|_| gone) {
            segment.switch.forget(member(id));
            if !self.peers[member(id).0 as usize].member {
                segment.calls.remove(&member(id));
            } else if let Some(call) = segment.calls.get_mut(&member(id)) {
                (call.at, call.pause) = (now + PAUSE.0, PAUSE.0);
            }
        }
    }

    /// Calls the members whose time has come, some at once.
    pub(super) fn call_members(&mut self, now: Instant) {
        let Some(segment) = &mut self.segment else {
            return;
        };
        let members = self.peers.iter().filter(|p| p.member);
        let under_way = members.filter(|p| p.session.is_dialling());
        let mut free = CALLS.saturating_sub(under_way.count());
        let due = segment.calls.iter().filter(|(_, call)| call.at <= now);
        let mut due: Vec<(Instant, PeerId)> = due.map(|(id, call)| (call.at, *id)).collect();
        // Who has waited longest comes first: those that never answer must not take the turns of all others.
        due.sort_unstable();
        for (_, id) in due {
            let call = segment.calls.get_mut(&id);
            let Some((call, peer)) = call.zip(self.peers.get_mut(id.0 as usize)) else {
                continue;
            };
            if !peer.session.is_alone() {
                continue;
            }
            if free == 0 {
                segment.soonest = now + LATER;
                break;
            }
            if peer.session.call(now) {
                free -= 1;
                call.at = now + call.pause;
                call.pause = (call.pause * 2).min(PAUSE.1);
                self.happened.push(Happening::Dial(id));
            } else {
                call.at = now + PAUSE.0;
            }
        }
    }
}

impl From<Refused> for Dropped {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Short => Self::ShortFrame,
            Refused::Source => Self::BadSource,
            Refused::Control => Self::BridgeControl,
            Refused::Stolen => Self::StolenSource,
            Refused::Elsewhere => Self::Elsewhere,
        }
    }
}

/// Between two calls of a member that doesn't answer, at first and at last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Members that are called at once, and how long the others wait then.
const CALLS: usize = 16;
const LATER: Duration = Duration::from_millis(100);
