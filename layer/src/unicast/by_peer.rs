//! The flows that stand, found by whom they are with: what others may ask for a thousand times a second is answered without a walk
//! over all. It must not keep the flows themselves.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Addr, EndpointId, FlowId};

use super::cube::Cube;
use super::flow::Flow;

/// The same flows as in the table, in other orders.
#[derive(Debug, Default)]
pub(super) struct ByPeer {
    peers: BTreeMap<Addr, BTreeMap<FlowId, EndpointId>>,
    /// Those that others have asked for, by the other end.
    asked: BTreeSet<(Addr, EndpointId, EndpointId)>,
    tally: Tally,
}

/// How many flows of each cube there are with each member.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<(Cube, Addr), usize>);

impl ByPeer {
    pub(super) fn insert(&mut self, flow: &Flow) {
        let with = self.peers.entry(flow.peer).or_default();
        with.insert(flow.id, flow.local);
        if flow.incoming {
            self.asked.insert((flow.peer, flow.remote, flow.local));
        }
        self.tally.add(flow.cube(), flow.peer);
    }

    pub(super) fn remove(&mut self, flow: &Flow) {
        if let Some(with) = self.peers.get_mut(&flow.peer) {
            with.remove(&flow.id);
            if with.is_empty() {
                self.peers.remove(&flow.peer);
            }
        }
        self.asked.remove(&(flow.peer, flow.remote, flow.local));
        self.tally.take(flow.cube(), flow.peer);
    }

    /// The flows with one member, in the order of their ids.
    pub(super) fn with(&self, peer: Addr) -> impl Iterator<Item = EndpointId> {
        let with = self.peers.get(&peer);
        with.into_iter().flat_map(|with| with.values().copied())
    }

    /// The members that any are with.
    pub(super) fn members(&self) -> impl Iterator<Item = Addr> {
        self.peers.keys().copied()
    }

    /// How many there are with one member.
    pub(super) fn count(&self, peer: Addr) -> usize {
        self.peers.get(&peer).map_or(0, BTreeMap::len)
    }

    /// The flow that a member has asked for with that end of its own.
    pub(super) fn asked(&self, peer: Addr, remote: EndpointId) -> Option<EndpointId> {
        let all = (peer, remote, EndpointId(0))..=(peer, remote, EndpointId(u64::MAX));
        self.asked.range(all).next().map(|(.., local)| *local)
    }

    /// How many there are of one cube with each member.
    pub(super) fn of(&self, cube: Cube) -> impl Iterator<Item = (Addr, usize)> {
        self.tally.of(cube)
    }
}

impl Tally {
    pub(super) fn add(&mut self, cube: Cube, peer: Addr) {
        *self.0.entry((cube, peer)).or_default() += 1;
    }

    pub(super) fn take(&mut self, cube: Cube, peer: Addr) {
        if let Some(n) = self.0.get_mut(&(cube, peer)) {
            *n -= 1;
            if *n == 0 {
                self.0.remove(&(cube, peer));
            }
        }
    }

    /// How many there are of one cube with each member.
    pub(super) fn of(&self, cube: Cube) -> impl Iterator<Item = (Addr, usize)> {
        let all = (cube, Addr(0))..=(cube, Addr(u64::MAX));
        self.0.range(all).map(|((_, peer), n)| (*peer, *n))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proto::{Name, QosSpec};

    use super::super::flow::{Flows, Incoming};
    use super::*;

    /// What happens to the tables: of a few members, ends and cubes, so that much of it meets.
    #[derive(Debug, Clone)]
    enum Step {
        Asked(u64, u64, usize, u64),
        Answered(usize),
        Ended(usize),
        Lost(usize),
        Found(usize),
        Forgotten(u64),
        Later(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let asked = (0..4u64, 0..12u64, 0..QOS.len(), 0..40u64);
        prop_oneof![
            6 => asked.prop_map(|(peer, end, qos, wait)| Step::Asked(peer, end, qos, wait)),
            4 => any::<usize>().prop_map(Step::Answered),
            2 => any::<usize>().prop_map(Step::Ended),
            2 => any::<usize>().prop_map(Step::Lost),
            1 => any::<usize>().prop_map(Step::Found),
            1 => (0..4u64).prop_map(Step::Forgotten),
            1 => (0..20u64).prop_map(Step::Later),
        ]
    }

    const QOS: [QosSpec; 4] = [QosSpec::RAW, QosSpec::DATA, QosSpec::VIDEO, QosSpec::VOICE];

    fn take(flows: &mut Flows, now: Instant, serial: u64, step: &Step) {
        let pick = |all: Vec<EndpointId>, i: usize| all.get(i % all.len().max(1)).copied();
        match *step {
            Step::Asked(peer, end, qos, wait) => {
                let (peer, remote) = (Addr(peer), EndpointId(end));
                if flows.incoming.has(peer, remote) || flows.asked_by(peer, remote).is_some() {
                    return;
                }
                let incoming = Incoming {
                    peer,
                    peer_life: 1,
                    remote,
                    name: Name::new("server").unwrap(),
                    source: None,
                    qos: QOS[qos],
                    deadline: now + Duration::from_secs(wait),
                };
                flows.incoming.insert(serial, incoming);
            }
            Step::Answered(i) => {
                let ids: Vec<_> = flows.incoming.iter().map(|(id, _)| *id).collect();
                let asked = ids.get(i % ids.len().max(1));
                if let Some(asked) = asked.and_then(|id| flows.incoming.remove(id)) {
                    let (id, local) = (FlowId(serial), EndpointId(serial * 7));
                    flows.insert(Flow::accepted(id, local, 0, asked));
                }
            }
            Step::Ended(i) => drop(pick(flows.all(), i).map(|e| flows.remove(e))),
            Step::Lost(i) => drop(pick(flows.all(), i).map(|e| flows.lose(now, e))),
            Step::Found(i) => drop(pick(flows.all(), i).map(|e| flows.find(e))),
            Step::Forgotten(peer) => flows.incoming.forget(Addr(peer), |_| true),
            Step::Later(_) => {
                flows.incoming.expire(now);
                while let Some(endpoint) = flows.lost(now) {
                    flows.remove(endpoint);
                }
            }
        }
    }

    /// What the orders say is what a walk over all says.
    fn agrees(flows: &Flows) {
        for peer in (0..4).map(Addr) {
            let with: Vec<_> = flows.iter().filter(|f| f.peer == peer).collect();
            let ends: Vec<_> = with.iter().map(|f| f.local).collect();
            assert_eq!(flows.with(peer), ends);
            assert_eq!(flows.by_peer().count(peer), ends.len());
            let waits: Vec<_> = flows
                .incoming
                .iter()
                .filter(|(_, i)| i.peer == peer)
                .collect();
            assert_eq!(flows.incoming.count(peer), waits.len());
            assert_eq!(flows.concerns(peer), ends.len() + waits.len() > 0);
            for remote in (0..12).map(EndpointId) {
                let asked = with.iter().find(|f| f.remote == remote).map(|f| f.local);
                assert_eq!(flows.asked_by(peer, remote).map(|f| f.local), asked);
                let waits = waits.iter().any(|(_, i)| i.remote == remote);
                assert_eq!(flows.incoming.has(peer, remote), waits);
            }
            for cube in Cube::ALL {
                let of = |tally: Vec<(Addr, usize)>| {
                    let mut own = tally.into_iter().filter(|(of, _)| *of == peer);
                    own.next().map_or(0, |(_, n)| n)
                };
                let stand = with.iter().filter(|f| f.cube() == cube).count();
                assert_eq!(of(flows.by_peer().of(cube).collect()), stand);
                let wait = waits.iter().filter(|(_, i)| i.cube() == cube).count();
                assert_eq!(of(flows.incoming.of(cube).collect()), wait);
            }
        }
        let deadline = flows.incoming.iter().map(|(_, i)| i.deadline).min();
        assert_eq!(flows.incoming.deadline(), deadline);
    }

    proptest! {
        #[test]
        #[expect(clippy::disallowed_methods, reason = "a test needs some beginning of time")]
        fn whatever_happens_to_flows_they_are_found_as_by_a_walk_over_all(
            steps in prop::collection::vec(step(), 1..120)
        ) {
            let (mut flows, mut now) = (Flows::default(), Instant::now());
            for (serial, step) in (1..).zip(&steps) {
                if let Step::Later(seconds) = step {
                    now += Duration::from_secs(*seconds);
                }
                take(&mut flows, now, serial, step);
                agrees(&flows);
            }
        }
    }
}
