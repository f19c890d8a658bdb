//! Scenarios as files (TOML): which hosts, what their cables do, what goes wrong when, what programs want, and what must
//! hold in the end. docs/simulation.md has every key.

mod file;
mod value;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::QosSpec;

use super::acts::Act;
use super::chance::Chance;
use super::net::Cable;
use super::programs::Usage;
use super::topology::{Edges, Topology};
pub use file::ScenarioError;

/// From … to, both included.
pub(super) type Times = (Duration, Duration);

/// What a file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What it is for, in a sentence.
    pub description: String,
    /// How many hosts.
    pub members: usize,
    /// How they are connected.
    pub topology: Topology,
    pub(super) links: Option<usize>,
    pub(super) cable: Cables,
    /// How often the network is disturbed, and becomes quiet again.
    pub(super) rounds: usize,
    /// How long each time.
    pub(super) lasts: Duration,
    pub(super) faults: Vec<Fault>,
    pub(super) loads: Vec<Load>,
    pub(super) bounds: Bounds,
}

/// What every cable is drawn from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cables {
    pub(super) mtus: Vec<u32>,
    pub(super) delay: Times,
    pub(super) jitter: Duration,
    /// Per thousand, as all that follow; from the lower to the higher number, and back.
    pub(super) loss: [u32; 2],
    pub(super) doubled: u32,
    pub(super) attacked: u32,
    pub(super) corrupted: u32,
    pub(super) reordered: u32,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) when: When,
    pub(super) lasts: Times,
    /// Which host; `None`: any.
    pub(super) member: Option<usize>,
    /// Which cable; `None`: any.
    pub(super) cable: Option<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// After the beginning of each round.
    At(Duration),
    /// So often in a round.
    Times(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Crash,
    DiskLoss,
    Cut,
    OneWay,
    Partition,
    /// By so many milliseconds.
    Clock(i64),
    Lie,
    /// So long for each packet.
    Slow(Duration),
    /// Of a lower flow.
    Death,
    Mtu(u32),
    /// Of the host's name.
    Withdraw,
    /// Revocation.
    Expel,
    /// All but one of those that keep the host's name crash.
    Keepers,
}

/// Flows that programs want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) qos: QosSpec,
    /// So many in each round, begun within its first half.
    pub(super) flows: usize,
    pub(super) from: Option<usize>,
    pub(super) to: Option<usize>,
    /// What each side writes.
    pub(super) sdus: usize,
    pub(super) pause: Times,
    pub(super) size: (usize, usize),
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    /// Within this all agree once the network is quiet.
    pub(super) convergence: Duration,
    /// Within this everybody who can be reached knows who was revoked.
    pub(super) revoked: Duration,
    /// Of a thousand flows that were asked for, so many stand.
    pub(super) allocated: u32,
    /// Of a thousand SDUs that were written, so many arrive.
    pub(super) delivered: u32,
}

impl Scenario {
    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        file::parse(text)
    }

    /// How its hosts are connected.
    pub(super) fn cables(&self, chance: &mut Chance) -> BTreeMap<(usize, usize), Cable> {
        let edges = self.edges(chance);
        let of = &self.cable;
        let cable = |chance: &mut Chance| Cable {
            jitter: of.jitter,
            loss: of.loss,
            doubled: of.doubled,
            attacked: of.attacked,
            corrupted: of.corrupted,
            reordered: of.reordered,
            ..Cable::clean(chance.time(of.delay), chance.pick(&of.mtus).unwrap_or(1400))
        };
        edges
            .into_iter()
            .map(|edge| (edge, cable(chance)))
            .collect()
    }

    fn edges(&self, chance: &mut Chance) -> Edges {
        self.topology.edges(self.members, self.links, chance)
    }

    /// What happens in a round: each act with its time.
    pub(super) fn acts(
        &self,
        edges: &[(usize, usize)],
        chance: &mut Chance,
    ) -> Vec<(Duration, Act)> {
        let mut acts = Vec::new();
        for (i, load) in self.loads.iter().enumerate() {
            for _ in 0..load.flows {
                let from = load.from.unwrap_or_else(|| chance.below(self.members));
                let other = (from + 1 + chance.below(self.members - 1)) % self.members;
                let to = load.to.unwrap_or(other);
                let usage = Usage::Load(i);
                let at = chance.time((Duration::ZERO, self.lasts / 2));
                acts.push((at, Act::Open { from, to, usage }));
            }
        }
        for fault in &self.faults {
            let often = if let When::Times(often) = fault.when {
                often
            } else {
                1
            };
            for _ in 0..often {
                let at = match fault.when {
                    When::At(at) => at,
                    When::Times(_) => chance.time((Duration::ZERO, self.lasts)),
                };
                acts.extend(fault.acts(at, self.members, edges, chance));
            }
        }
        acts
    }
}

impl Fault {
    /// Its beginning and its end.
    fn acts(
        &self,
        at: Duration,
        members: usize,
        edges: &[(usize, usize)],
        chance: &mut Chance,
    ) -> Vec<(Duration, Act)> {
        let back = at + chance.time(self.lasts);
        let any = chance.below(members);
        let host = self.member.unwrap_or(any);
        let drawn = chance.pick(edges).unwrap_or((0, 0));
        let (a, b) = self.cable.unwrap_or(drawn);
        let pair = |begin, end| vec![(at, begin), (back, end)];
        match self.kind {
            Kind::Crash => pair(Act::Crash(host), Act::Restart(host)),
            Kind::DiskLoss => pair(Act::DiskLoss(host), Act::Restart(host)),
            Kind::Cut => pair(Act::Cable(a, b, false), Act::Cable(a, b, true)),
            Kind::OneWay => {
                let (a, b) = if chance.permille(500) { (a, b) } else { (b, a) };
                pair(Act::OneWay(a, b, true), Act::OneWay(a, b, false))
            }
            Kind::Partition => pair(Act::Partition(host, false), Act::Partition(host, true)),
            Kind::Clock(by) => pair(Act::Clock(host, by), Act::Clock(host, -by)),
            Kind::Expel => pair(Act::Expel(host), Act::Restart(host)),
            Kind::Keepers => vec![(at, Act::Keepers(host, back - at))],
            Kind::Lie => pair(Act::Lie(host, true), Act::Lie(host, false)),
            Kind::Slow(each) => pair(Act::Slow(host, each), Act::Slow(host, Duration::ZERO)),
            Kind::Death => vec![(at, Act::Death)],
            Kind::Mtu(mtu) => vec![(at, Act::Mtu(a, b, mtu))],
            Kind::Withdraw => pair(Act::Register(host, false), Act::Register(host, true)),
        }
    }
}
