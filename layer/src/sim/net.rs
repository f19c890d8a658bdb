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
    /// The other ends of the cables of each host.
    beside: Vec<Vec<usize>>,
    /// The ends at each host.
    wires: Vec<BTreeMap<FlowId, Wire>>,
    /// Ends that are gone, and who sent there.
    gone: BTreeMap<End, End>,
    /// No loss, no duplicates, no reordering and no attacker from now on.
    pub(super) quiet: bool,
    pub(super) attacker: Attacker,
    pub(super) carried: u64,
    pub(super) bytes: u64,
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
    /// Nothing gets through: from the lower to the higher number, and back.
    pub(super) deaf: [bool; 2],
    /// Per thousand: from the lower to the higher number, and back.
    pub(super) loss: [u32; 2],
    /// Per thousand, as all that follow.
    pub(super) doubled: u32,
    pub(super) attacked: u32,
    /// A bit is turned.
    pub(super) corrupted: u32,
    /// Takes twice the time.
    pub(super) reordered: u32,
}

impl Cable {
    /// One that does nothing to packets.
    pub(super) fn clean(delay: Duration, mtu: u32) -> Self {
        Self {
            up: true,
            mtu,
            delay,
            jitter: Duration::ZERO,
            deaf: [false; 2],
            loss: [0; 2],
            doubled: 0,
            attacked: 0,
            corrupted: 0,
            reordered: 0,
        }
    }

    /// Whether packets get through both ways.
    pub(super) fn works(&self) -> bool {
        self.up && self.deaf == [false; 2]
    }
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
    pub(super) fn new(hosts: usize, cables: BTreeMap<(usize, usize), Cable>) -> Self {
        let mut beside = vec![Vec::new(); hosts];
        for (a, b) in cables.keys() {
            beside[*a].push(*b);
            beside[*b].push(*a);
        }
        beside.iter_mut().for_each(|b| b.sort_unstable());
        Self {
            cables,
            beside,
            wires: vec![BTreeMap::new(); hosts],
            gone: BTreeMap::new(),
            quiet: false,
            attacker: Attacker::default(),
            carried: 0,
            bytes: 0,
            flows: 1 << 32,
        }
    }

    /// One cable more, from the lower to the higher number.
    pub(super) fn add(&mut self, (a, b): (usize, usize), cable: Cable) {
        let hosts = self.wires.len().max(b + 1);
        self.wires.resize(hosts, BTreeMap::new());
        self.beside.resize(hosts, Vec::new());
        self.beside[a].push(b);
        self.beside[b].push(a);
        self.cables.insert((a, b), cable);
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
        self.beside[host].clone()
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
        self.wires[a].insert(at_a, wire((b, at_b)));
        self.wires[b].insert(at_b, wire((a, at_a)));
        (at_a, at_b)
    }

    fn wire(&self, end: End) -> Option<&Wire> {
        self.wires[end.0].get(&end.1)
    }

    pub(super) fn other_end(&self, end: End) -> Option<End> {
        self.wire(end).map(|w| w.other)
    }

    pub(super) fn framing(&self, end: End) -> Option<Framing> {
        self.wire(end).map(|w| w.framing)
    }

    /// Takes one end away; the other finds out by itself.
    pub(super) fn remove(&mut self, end: End) -> Option<End> {
        let other = self.wires[end.0].remove(&end.1)?.other;
        if self.wire(other).is_some() {
            self.gone.insert(end, other);
        } else {
            self.gone.remove(&other);
        }
        Some(other)
    }

    /// The end that still sends to one that is gone.
    pub(super) fn sender_to(&self, gone: End) -> Option<End> {
        let standing = || self.other_end(gone).filter(|o| self.wire(*o).is_some());
        self.gone.get(&gone).copied().or_else(standing)
    }

    /// The ends at a host, or of one cable.
    pub(super) fn ends(&self, host: usize, at: Option<usize>) -> Vec<End> {
        let of = |wire: &Wire| at.is_none_or(|at| wire.other.0 == at);
        let all = self.wires[host].iter().filter(|(_, wire)| of(wire));
        all.map(|(lower, _)| (host, *lower)).collect()
    }

    pub(super) fn all_ends(&self) -> Vec<End> {
        (0..self.wires.len())
            .flat_map(|host| self.ends(host, None))
            .collect()
    }

    /// What becomes of a packet that is sent now: nothing, one that arrives, or several.
    pub(super) fn carry(
        &mut self,
        now: Duration,
        from: End,
        pdu: &[u8],
        chance: &mut Chance,
    ) -> Vec<Flight> {
        let Some(wire) = self.wires[from.0].get_mut(&from.1) else {
            return Vec::new();
        };
        let to = wire.other;
        let (key, way) = (
            (from.0.min(to.0), from.0.max(to.0)),
            usize::from(from.0 > to.0),
        );
        let passes = |c: &&Cable| c.up && !c.deaf[way] && pdu.len() <= c.mtu as usize;
        let Some(cable) = self.cables.get(&key).filter(passes) else {
            return Vec::new();
        };
        self.carried += 1;
        self.bytes += pdu.len() as u64;
        if self.quiet {
            wire.last = wire.last.max(now + cable.delay);
            return vec![(wire.last, to, pdu.to_vec())];
        }
        let mut flights = Vec::new();
        let copies = usize::from(!chance.permille(cable.loss[way]))
            + usize::from(chance.permille(cable.doubled));
        for _ in 0..copies {
            let jitter = chance.millis(0, u64::try_from(cable.jitter.as_millis()).unwrap_or(0));
            let mut at = now + cable.delay + jitter;
            let mut bytes = pdu.to_vec();
            if cable.reordered > 0 && chance.permille(cable.reordered) {
                at += cable.delay;
            }
            if cable.corrupted > 0 && chance.permille(cable.corrupted) {
                let bit = chance.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            flights.push((at, to, bytes));
        }
        if chance.permille(cable.attacked) {
            let evil = self.attacker.strike(to, pdu, chance);
            flights.push((now + cable.delay, to, evil));
        }
        self.attacker.watch(to, pdu, chance);
        flights
    }
}
