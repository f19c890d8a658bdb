//! The lower network: cables between hosts, flows over cables, and what happens to packets on them.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{FlowId, Framing};

use super::attack::Attacker;
use super::chance::Chance;

/// One end of a lower flow: the host, and what it calls the flow.
pub(super) type End = (usize, FlowId);

/// All cables and all lower flows.
pub(super) struct Net {
    cables: BTreeMap<(usize, usize), Cable>,
    wires: BTreeMap<End, Wire>,
    /// No loss, no duplicates, no reordering and no attacker from now on.
    pub(super) quiet: bool,
    pub(super) attacker: Attacker,
    pub(super) carried: u64,
    flows: u64,
}

/// What connects two hosts.
#[derive(Debug, Clone)]
pub(super) struct Cable {
    pub(super) up: bool,
    pub(super) mtu: u32,
    /// One way.
    pub(super) delay: Duration,
    /// Packets overtake each other within this time.
    pub(super) jitter: Duration,
    /// Per thousand.
    pub(super) loss: u32,
    pub(super) doubled: u32,
    pub(super) attacked: u32,
}

#[derive(Debug, Clone)]
struct Wire {
    other: End,
    framing: Framing,
    /// When the last packet arrives that was sent in order.
    last: Duration,
}

/// A packet on its way: when it arrives, where, and what.
pub(super) type Flight = (Duration, End, Vec<u8>);

impl Net {
    pub(super) fn new(cables: BTreeMap<(usize, usize), Cable>) -> Self {
        let (wires, attacker) = (BTreeMap::new(), Attacker::default());
        Self {
            cables,
            wires,
            quiet: false,
            attacker,
            carried: 0,
            flows: 1 << 32,
        }
    }

    /// The pairs of hosts that have a cable, cut or not.
    pub(super) fn edges(&self) -> Vec<(usize, usize)> {
        self.cables.keys().copied().collect()
    }

    pub(super) fn cable(&self, a: usize, b: usize) -> Option<&Cable> {
        self.cables.get(&(a.min(b), a.max(b)))
    }

    pub(super) fn cable_mut(&mut self, a: usize, b: usize) -> Option<&mut Cable> {
        self.cables.get_mut(&(a.min(b), a.max(b)))
    }

    /// Hosts at the other ends of a host's cables.
    pub(super) fn neighbours(&self, host: usize) -> Vec<usize> {
        let other = |(a, b): &(usize, usize)| {
            if *a == host {
                Some(*b)
            } else {
                (*b == host).then_some(*a)
            }
        };
        self.cables.keys().filter_map(other).collect()
    }

    /// Makes a lower flow between two hosts; gives the name that each has for it.
    pub(super) fn connect(&mut self, a: usize, b: usize, framing: Framing) -> (FlowId, FlowId) {
        self.flows += 2;
        let (at_a, at_b) = (FlowId(self.flows), FlowId(self.flows + 1));
        let wire = |other| Wire {
            other,
            framing,
            last: Duration::ZERO,
        };
        self.wires.insert((a, at_a), wire((b, at_b)));
        self.wires.insert((b, at_b), wire((a, at_a)));
        (at_a, at_b)
    }

    pub(super) fn other_end(&self, end: End) -> Option<End> {
        self.wires.get(&end).map(|w| w.other)
    }

    pub(super) fn framing(&self, end: End) -> Option<Framing> {
        self.wires.get(&end).map(|w| w.framing)
    }

    /// Takes one end away; the other finds out by itself.
    pub(super) fn remove(&mut self, end: End) -> Option<End> {
        self.wires.remove(&end).map(|w| w.other)
    }

    /// The ends at a host, or of one cable.
    pub(super) fn ends(&self, host: usize, at: Option<usize>) -> Vec<End> {
        let of = |(end, wire): (&End, &Wire)| {
            (end.0 == host && at.is_none_or(|at| wire.other.0 == at)).then_some(*end)
        };
        self.wires.iter().filter_map(of).collect()
    }

    pub(super) fn all_ends(&self) -> Vec<End> {
        self.wires.keys().copied().collect()
    }

    /// What becomes of a packet that is sent now: nothing, one that arrives, or several.
    pub(super) fn carry(
        &mut self,
        now: Duration,
        from: End,
        pdu: &[u8],
        chance: &mut Chance,
    ) -> Vec<Flight> {
        let Some(wire) = self.wires.get_mut(&from) else {
            return Vec::new();
        };
        let to = wire.other;
        let key = (from.0.min(to.0), from.0.max(to.0));
        let Some(cable) = self
            .cables
            .get(&key)
            .filter(|c| c.up && pdu.len() <= c.mtu as usize)
        else {
            return Vec::new();
        };
        self.carried += 1;
        if self.quiet {
            wire.last = wire.last.max(now + cable.delay);
            return vec![(wire.last, to, pdu.to_vec())];
        }
        let mut flights = Vec::new();
        let copies =
            usize::from(!chance.permille(cable.loss)) + usize::from(chance.permille(cable.doubled));
        for _ in 0..copies {
            let jitter = chance.millis(0, u64::try_from(cable.jitter.as_millis()).unwrap_or(0));
            flights.push((now + cable.delay + jitter, to, pdu.to_vec()));
        }
        if chance.permille(cable.attacked) {
            flights.push((now + cable.delay, to, self.attacker.strike(to, pdu, chance)));
        }
        self.attacker.watch(to, pdu, chance);
        flights
    }
}
