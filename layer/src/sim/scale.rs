//! Layers of thousands, over cables that do no harm: how long they take, what they send and what they keep. Much is checked
//! of the whole here, and little of each: that is what seeds are for.

use std::time::Duration;

use super::Failure;
use super::acts::Act;
use super::chance::Chance;
use super::host::{Host, What};
use super::label;
use super::net::{Cable, Net};
use super::story::Story;
use super::topology::Topology;
use super::world::World;
use crate::Unicast;
use crate::crypt::address;
use crate::route::Pool;

/// A large layer.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// How many members.
    pub members: usize,
    /// How they are connected.
    pub topology: Topology,
    /// The cables that each new host brings, where the topology leaves that open.
    pub links: usize,
    /// Everything else follows from it.
    pub seed: u64,
}

/// What a phase of a run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The virtual time from its beginning until all agreed.
    pub lasted: Duration,
    /// Packets that all members together sent, and their bytes.
    pub packets: u64,
    /// The bytes of these packets.
    pub bytes: u64,
    /// Over all events so far.
    pub hash: u64,
}

/// Runs a layer from nothing: all join, each through any neighbour that is in, until everybody knows a way to everybody.
/// `seen` hears of each phase when it has ended.
pub fn grow(scale: &Scale, seen: &mut dyn FnMut(&Phase)) -> Result<(), Box<Failure>> {
    let mut large = Large::new(scale);
    large.world.bootstrap();
    let hosts: Vec<usize> = (1..scale.members).collect();
    for some in hosts.chunks(AT_ONCE) {
        for host in some {
            let after = large.chance.millis(0, 1000);
            large.world.later(after, Act::Enrol(*host));
        }
        large.until("all are members", Duration::from_secs(600), |world| {
            some.iter().all(|host| world.hosts[*host].member)
        });
    }
    large.phase("joined", seen);
    let edges = large.world.net.edges();
    for (a, b) in edges {
        let after = large.chance.millis(0, 1000);
        large.world.later(after, Act::Connect(a, b));
    }
    large.world.run(Duration::from_millis(1100));
    large.until("all are connected", Duration::from_secs(120), |world| {
        let waits = |h: &Host| {
            h.pending
                .values()
                .any(|p| matches!(p.what, What::Connect(_)))
        };
        !world.hosts.iter().any(waits)
    });
    large.agree();
    large.phase("connected", seen);
    large.world.run(IDLE);
    large.agree();
    large.phase("idle", seen);
    large.outcome()
}

/// Runs a layer that stands already: cables are cut, and then others join. `seen` hears of each phase when it has ended.
pub fn stand(
    scale: &Scale,
    cuts: usize,
    joins: usize,
    seen: &mut dyn FnMut(&Phase),
) -> Result<(), Box<Failure>> {
    let whole = Scale {
        members: scale.members + joins,
        ..*scale
    };
    let mut large = Large::new(&whole);
    if let Err(reason) = large.world.prepare(scale.members, &mut large.chance) {
        large.world.fail(reason.to_string());
    }
    large.phase("loaded", seen);
    large.world.run(Duration::from_secs(5));
    large.agree();
    large.phase("idle 5 s", seen);
    let mut edges = large.world.net.edges();
    edges.retain(|(_, b)| *b < scale.members);
    large.chance.shuffle(&mut edges);
    for (a, b) in edges.into_iter().take(cuts) {
        let after = large.chance.millis(0, 5000);
        large.world.later(after, Act::Cable(a, b, false));
    }
    large.world.run(Duration::from_secs(5));
    large.agree();
    large.phase("cut", seen);
    for host in scale.members..whole.members {
        let after = large.chance.millis(0, 5000);
        large.world.later(after, Act::Enrol(host));
    }
    large.until("all have joined", Duration::from_secs(120), |world| {
        world.hosts.iter().all(|h| h.member)
    });
    for (a, b) in large.world.net.edges() {
        let up = large.world.net.cable(a, b).is_some_and(Cable::works);
        if up && b >= scale.members {
            let after = large.chance.millis(0, 1000);
            large.world.later(after, Act::Connect(b, a));
        }
    }
    large.world.run(Duration::from_secs(1));
    large.agree();
    large.phase("joined", seen);
    large.outcome()
}

pub(super) struct Large {
    pub(super) world: World,
    pub(super) chance: Chance,
    since: (Duration, u64, u64),
}

impl Large {
    pub(super) fn new(scale: &Scale) -> Self {
        let mut chance = Chance::new(scale.seed, 0);
        let layer = label("scale".to_owned());
        let edges = scale
            .topology
            .edges(scale.members, Some(scale.links), &mut chance);
        let cable = |edge| (edge, Cable::clean(chance.millis(1, 10), 1472));
        let cables = edges.into_iter().map(cable).collect();
        let host = |i| {
            let name = label(format!("m{i}"));
            let address = address(&layer, &name);
            Host::new(name, address, 0)
        };
        let hosts = (0..scale.members).map(host).collect();
        let mut net = Net::new(scale.members, cables);
        net.quiet = true;
        let story = Story::new(None);
        let mut world = World::new(layer, hosts, net, story, scale.seed);
        let addresses = world.hosts.iter().map(|host| host.address);
        world.pool = Some(Pool::of(addresses));
        Self {
            world,
            chance,
            since: (Duration::ZERO, 0, 0),
        }
    }

    /// Ends a phase.
    fn phase(&mut self, name: &'static str, seen: &mut dyn FnMut(&Phase)) {
        let (at, packets, bytes) = (
            self.world.elapsed,
            self.world.net.carried,
            self.world.net.bytes,
        );
        let phase = Phase {
            name,
            lasted: at - self.since.0,
            packets: packets - self.since.1,
            bytes: bytes - self.since.2,
            hash: self.world.story.hash(),
        };
        self.since = (at, packets, bytes);
        if self.world.failure.is_none() {
            seen(&phase);
        }
    }

    /// Lets time pass until everybody that runs has a link over each of its cables, holds the same records, and has a way to
    /// everybody who can be reached; those that are cut off don't count.
    fn agree(&mut self) {
        let reach = self.world.reach(0);
        self.until("everybody knows ways to everybody", PATIENCE, |world| {
            let machine = |i: &usize| world.hosts[*i].machine.as_ref();
            let linked = |i: &usize| {
                let works = |n: &usize| world.net.cable(*i, *n).is_some_and(Cable::works);
                let near = world.net.neighbours(*i).into_iter();
                let near = near.filter(|n| works(n) && world.hosts[*n].alive());
                machine(i).is_some_and(|m| m.neighbours() == near.count())
            };
            let mut knowledge = reach.iter().filter_map(machine).map(Unicast::knowledge);
            let ways = |i: &usize| machine(i).is_some_and(|m| m.reachable() + 1 == reach.len());
            // What costs least comes first: of thousands somebody is likely not to be ready.
            reach.iter().all(linked)
                && knowledge
                    .next()
                    .is_some_and(|first| knowledge.all(|k| k == first))
                && reach.iter().all(ways)
        });
    }

    fn until(&mut self, what: &str, patience: Duration, holds: impl Fn(&World) -> bool) {
        let until = self.world.elapsed + patience;
        while self.world.failure.is_none() && !holds(&self.world) {
            if self.world.elapsed >= until {
                let secs = patience.as_secs();
                self.world.fail(format!("not within {secs} s: {what}"));
            }
            self.world.run(STEP);
        }
    }

    fn outcome(self) -> Result<(), Box<Failure>> {
        match self.world.failure {
            None => Ok(()),
            Some(what) => Err(Box::new(Failure {
                at: self.world.elapsed,
                what,
                hash: self.world.story.hash(),
                mermaid: String::new(),
            })),
        }
    }
}

/// Members that join within one second: no more invitations than these can be open.
const AT_ONCE: usize = 1024;
/// How long an idle layer is watched.
const IDLE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether all agree.
const STEP: Duration = Duration::from_millis(50);
