//! The flows of this host: a pure table. Time is an argument; what to do about an expired flow is the caller's.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::irm::FlowInfo;
use proto::record::Peer;
use proto::{FlowId, Label, Name, QosSpec};

use crate::session::SessionId;

/// All flows that irmd knows of.
#[derive(Debug)]
pub(crate) struct Flows {
    incarnation: u32,
    counter: u32,
    table: BTreeMap<FlowId, Flow>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flow {
    /// The name that was asked for.
    pub(crate) name: Name,
    /// What is asked or granted.
    pub(crate) qos: QosSpec,
    /// The other end.
    pub(crate) peer: Peer,
    /// Who may join it.
    pub(crate) uid: u32,
    /// Somebody else asked for it.
    pub(crate) incoming: bool,
    /// Who carries it.
    pub(crate) carrier: Carrier,
    /// How far it is.
    pub(crate) phase: Phase,
    /// What its ends counted last.
    pub(crate) counters: Counters,
}

/// Who carries a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// The two programs themselves; this session accepted it.
    Direct(SessionId),
    /// An IPC process of this name, in this layer.
    Ipcp(Label, Label),
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Somebody has to answer until then.
    Pending(Instant),
    /// It stands.
    Allocated,
}

/// What a direct flow's acceptor counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// Bytes that the acceptor received.
    pub(crate) rx: u64,
    /// Bytes that it sent.
    pub(crate) tx: u64,
    /// Which request for counters this answers.
    pub(crate) round: u64,
}

impl Flows {
    /// An empty table; `incarnation` is one that no daemon on this state directory has used.
    pub(crate) fn new(incarnation: u32) -> Self {
        Self {
            incarnation,
            counter: 0,
            table: BTreeMap::new(),
        }
    }

    /// Adds a flow under an id that was never used; `None` when this incarnation has given out all of its 2^32.
    pub(crate) fn add(&mut self, flow: Flow) -> Option<FlowId> {
        self.counter = self.counter.checked_add(1)?;
        let id = FlowId(u64::from(self.incarnation) << 32 | u64::from(self.counter));
        self.table.insert(id, flow);
        Some(id)
    }

    /// Takes over a flow that somebody has from before; false if no daemon can have given it out, or another has it. The word
    /// of an IPC process, which irmd has started, counts more than that of a program.
    pub(crate) fn adopt(&mut self, id: FlowId, flow: Flow) -> bool {
        let first = 1 << 32;
        let newest = u64::from(self.incarnation) << 32 | u64::from(self.counter);
        let carrier = self.table.get(&id).map(|f| &f.carrier);
        let free = match (carrier, &flow.carrier) {
            (None, _) | (Some(Carrier::Direct(_)), Carrier::Ipcp(..)) => true,
            (Some(_), _) => false,
        };
        let taken = free && (first..=newest).contains(&id.0);
        if taken {
            self.table.insert(id, flow);
        }
        taken
    }

    /// Looks one up.
    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.table.get(&id)
    }

    /// Marks a flow as standing; false if it is gone.
    pub(crate) fn allocated(&mut self, id: FlowId, peer: Peer, qos: QosSpec) -> bool {
        let Some(flow) = self.table.get_mut(&id) else {
            return false;
        };
        (flow.phase, flow.peer, flow.qos) = (Phase::Allocated, peer, qos);
        true
    }

    /// Takes a flow out.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.table.remove(&id)
    }

    /// Takes out what this predicate names.
    pub(crate) fn remove_if(&mut self, mut gone: impl FnMut(&Flow) -> bool) -> Vec<(FlowId, Flow)> {
        self.table.extract_if(.., |_, flow| gone(flow)).collect()
    }

    /// Takes out what nobody answered in time.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(FlowId, Flow)> {
        self.remove_if(|flow| matches!(flow.phase, Phase::Pending(deadline) if deadline <= now))
    }

    /// Keeps what the acceptor of a direct flow counted.
    pub(crate) fn count(&mut self, id: FlowId, from: SessionId, counters: Counters) {
        if let Some(flow) = self.table.get_mut(&id)
            && flow.carrier == Carrier::Direct(from)
        {
            flow.counters = counters;
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.table.iter().map(|(id, flow)| (*id, flow))
    }
}

impl Flow {
    /// As the administrator sees it.
    pub(crate) fn info(&self, id: FlowId) -> FlowInfo {
        let layer = match &self.carrier {
            Carrier::Direct(_) => String::new(),
            Carrier::Ipcp(_, layer) => layer.to_string(),
        };
        let state = match self.phase {
            Phase::Pending(_) => "pending",
            Phase::Allocated => "allocated",
        };
        FlowInfo {
            id: id.0,
            name: self.name.to_string(),
            layer,
            state: state.to_owned(),
            qos: Some(self.qos.into()),
            peer: Some(self.peer.clone().into()),
            rx_bytes: self.counters.rx,
            tx_bytes: self.counters.tx,
            uid: self.uid,
            incoming: self.incoming,
            ..FlowInfo::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn flow(phase: Phase) -> Flow {
        Flow {
            name: Name::new("n").unwrap(),
            qos: QosSpec::BEST,
            peer: Peer::default(),
            uid: 1,
            incoming: false,
            carrier: Carrier::Direct(SessionId([1; 16])),
            phase,
            counters: Counters::default(),
        }
    }

    proptest! {
        #[test]
        fn no_id_is_used_twice_also_not_by_the_next_incarnation(first in 0u32..u32::MAX, n in 1usize..50) {
            let mut ids = BTreeSet::new();
            for incarnation in [first, first + 1] {
                let mut flows = Flows::new(incarnation);
                for _ in 0..n {
                    let id = flows.add(flow(Phase::Allocated)).unwrap();
                    flows.remove(id);
                    prop_assert!(ids.insert(id));
                }
            }
        }

        #[test]
        fn exactly_the_pending_flows_whose_deadline_passed_expire(after in prop::collection::vec(prop::option::of(0u64..100), 0..30), at in 0u64..100) {
            let t0 = Instant::now();
            let ms = |n| t0 + Duration::from_millis(n);
            let mut flows = Flows::new(1);
            for a in &after {
                flows.add(flow(a.map_or(Phase::Allocated, |a| Phase::Pending(ms(a))))).unwrap();
            }
            let gone = flows.expire(ms(at)).len();
            prop_assert_eq!(gone, after.iter().flatten().filter(|a| **a <= at).count());
            prop_assert_eq!(flows.iter().count(), after.len() - gone);
        }
    }

    #[test]
    fn an_exhausted_incarnation_gives_no_more_ids() {
        let mut flows = Flows {
            incarnation: 1,
            counter: u32::MAX - 1,
            table: BTreeMap::new(),
        };
        assert!(flows.add(flow(Phase::Allocated)).is_some());
        assert!(flows.add(flow(Phase::Allocated)).is_none());
    }

    #[test]
    fn a_flow_from_before_is_taken_over_once_and_one_of_the_future_never() {
        let ipcp = || Flow {
            carrier: Carrier::Ipcp(Label::new("a").unwrap(), Label::new("l").unwrap()),
            ..flow(Phase::Allocated)
        };
        let mut flows = Flows::new(2);
        let own = flows.add(flow(Phase::Allocated)).unwrap();
        for never in [0, 7, own.0 + 1, 3 << 32, u64::MAX] {
            assert!(!flows.adopt(FlowId(never), flow(Phase::Allocated)));
            assert!(!flows.adopt(FlowId(never), ipcp()));
        }
        let before = FlowId(1 << 32 | 5);
        assert!(flows.adopt(before, flow(Phase::Allocated)));
        assert!(!flows.adopt(before, flow(Phase::Allocated)));
        // A program claimed what an IPC process carries.
        assert!(flows.adopt(before, ipcp()) && !flows.adopt(before, ipcp()));
        assert!(!flows.adopt(before, flow(Phase::Allocated)));
        flows.remove(own);
        assert!(flows.adopt(own, flow(Phase::Allocated)));
    }

    #[test]
    fn only_the_acceptor_counts_for_a_direct_flow() {
        let mut flows = Flows::new(1);
        let id = flows.add(flow(Phase::Allocated)).unwrap();
        let counters = Counters {
            rx: 5,
            tx: 6,
            round: 1,
        };
        flows.count(id, SessionId([2; 16]), counters);
        assert_eq!(flows.get(id).unwrap().counters, Counters::default());
        flows.count(id, SessionId([1; 16]), counters);
        assert_eq!(flows.get(id).unwrap().info(id).rx_bytes, 5);
    }
}
