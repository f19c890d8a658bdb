//! What waits: flows that irmd wants, requests that it has not answered, ends that nobody has acknowledged. Each is found by what
//! asks for it, without a walk over all. It must not know what is asked or answered.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::ipcp::RequestId;
use proto::{Addr, EndpointId, FlowId};
use rustc_hash::FxHashMap;

use super::by_peer::Tally;
use super::closing::Closing;
use super::cube::Cube;
use super::flow::{Incoming, Outgoing};
use crate::Timers;

/// Flows that irmd wants, by their end here.
#[derive(Default)]
pub(super) struct Wanted {
    all: BTreeMap<EndpointId, Outgoing>,
    ids: BTreeMap<FlowId, EndpointId>,
}

/// Flows that other members want, and irmd has not answered yet.
#[derive(Default)]
pub(super) struct Requests {
    all: BTreeMap<RequestId, Incoming>,
    ends: BTreeMap<(Addr, EndpointId), RequestId>,
    counts: FxHashMap<Addr, usize>,
    tally: Tally,
    timers: Timers<RequestId>,
}

/// Ends of other members that were told of the end of their flow and have not said so yet.
#[derive(Default)]
pub(super) struct Told {
    all: BTreeMap<(Addr, EndpointId), Closing>,
    timers: Timers<(Addr, EndpointId)>,
}

impl Wanted {
    pub(super) fn insert(&mut self, endpoint: EndpointId, outgoing: Outgoing) {
        self.ids.insert(outgoing.ask.flow, endpoint);
        self.all.insert(endpoint, outgoing);
    }

    pub(super) fn remove(&mut self, endpoint: &EndpointId) -> Option<Outgoing> {
        let outgoing = self.all.remove(endpoint)?;
        self.ids.remove(&outgoing.ask.flow);
        Some(outgoing)
    }

    pub(super) fn get(&self, endpoint: &EndpointId) -> Option<&Outgoing> {
        self.all.get(endpoint)
    }

    pub(super) fn get_mut(&mut self, endpoint: &EndpointId) -> Option<&mut Outgoing> {
        self.all.get_mut(endpoint)
    }

    /// The end here of a flow by irmd's number.
    pub(super) fn endpoint(&self, id: FlowId) -> Option<EndpointId> {
        self.ids.get(&id).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&EndpointId, &Outgoing)> {
        self.all.iter()
    }

    /// The ends for which that member was asked, and has not answered.
    pub(super) fn asked(&self, peer: Addr) -> Vec<EndpointId> {
        let asked = self.all.iter().filter(|(_, o)| o.asked == Some(peer));
        asked.map(|(endpoint, _)| *endpoint).collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &EndpointId> {
        self.all.keys()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Outgoing> {
        self.all.values()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl Requests {
    pub(super) fn insert(&mut self, id: RequestId, incoming: Incoming) {
        let peer = incoming.peer;
        self.ends.insert((peer, incoming.remote), id);
        *self.counts.entry(peer).or_default() += 1;
        self.tally.add(incoming.cube(), peer);
        self.timers.set(id, incoming.deadline);
        self.all.insert(id, incoming);
    }

    pub(super) fn remove(&mut self, id: &RequestId) -> Option<Incoming> {
        let incoming = self.all.remove(id)?;
        let peer = incoming.peer;
        self.ends.remove(&(peer, incoming.remote));
        if let Some(n) = self.counts.get_mut(&peer) {
            *n -= 1;
            if *n == 0 {
                self.counts.remove(&peer);
            }
        }
        self.tally.take(incoming.cube(), peer);
        self.timers.clear(*id);
        Some(incoming)
    }

    /// Whether a member waits for the answer to what it has asked for with that end of its own.
    pub(super) fn has(&self, peer: Addr, remote: EndpointId) -> bool {
        self.ends.contains_key(&(peer, remote))
    }

    /// How many of one member wait.
    pub(super) fn count(&self, peer: Addr) -> usize {
        self.counts.get(&peer).copied().unwrap_or_default()
    }

    /// How many there are of one cube with each member.
    pub(super) fn of(&self, cube: Cube) -> impl Iterator<Item = (Addr, usize)> {
        self.tally.of(cube)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestId, &Incoming)> {
        self.all.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Forgets those of one member that are so.
    pub(super) fn forget(&mut self, peer: Addr, so: impl Fn(&Incoming) -> bool) {
        let all = (peer, EndpointId(0))..=(peer, EndpointId(u64::MAX));
        let ids: Vec<_> = self.ends.range(all).map(|(_, id)| *id).collect();
        for id in ids {
            if self.all.get(&id).is_some_and(&so) {
                self.remove(&id);
            }
        }
    }

    /// Forgets those whose callers wait no longer.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(id) = self.timers.due(now) {
            self.remove(&id);
        }
    }

    /// When the first of them is that of nobody any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Told {
    pub(super) fn insert(&mut self, peer: Addr, remote: EndpointId, closing: Closing) {
        self.timers.set((peer, remote), closing.until);
        self.all.insert((peer, remote), closing);
    }

    pub(super) fn remove(&mut self, peer: Addr, remote: EndpointId) {
        self.timers.clear((peer, remote));
        self.all.remove(&(peer, remote));
    }

    pub(super) fn has(&self, peer: Addr, remote: EndpointId) -> bool {
        self.all.contains_key(&(peer, remote))
    }

    /// Those of one member.
    pub(super) fn of(&self, peer: Addr) -> impl Iterator<Item = (EndpointId, &Closing)> {
        let all = (peer, EndpointId(0))..=(peer, EndpointId(u64::MAX));
        self.all.range(all).map(|(key, closing)| (key.1, closing))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Forgets those of one member.
    pub(super) fn forget(&mut self, peer: Addr) {
        let ends: Vec<_> = self.of(peer).map(|(remote, _)| remote).collect();
        for remote in ends {
            self.remove(peer, remote);
        }
    }

    /// Forgets those that have been told for long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(key) = self.timers.due(now) {
            self.all.remove(&key);
        }
    }

    /// When the first of them is forgotten.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }
}
