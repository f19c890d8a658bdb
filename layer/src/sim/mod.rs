//! The simulator: many machines, a virtual clock, one seed. It must not touch a clock, a thread or the machine's insides:
//! it sees what irmd, programs and the lower network see.
//!
//! | file | holds |
//! |---|---|
//! | `plan` | what will happen, drawn from the seed |
//! | `acts` | what administrators, programs and bad luck do |
//! | `world` | the queue of what is due, inputs and outputs of machines |
//! | `host` | one machine, its files, its irmd |
//! | `net`, `attack` | cables, lower flows, loss, and somebody who sends what he likes |
//! | `ledger` | every SDU, to be checked byte for byte |
//! | `check` | what must hold once quiet, and at the end |
//! | `story` | a hash of all events, a trace, a picture |

mod acts;
mod attack;
mod chance;
mod check;
mod host;
mod ledger;
mod net;
mod plan;
mod story;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Code, Label, Reason};

use crate::crypt::address;
use acts::Act;
use chance::Chance;
use host::{Host, What};
use net::Net;
pub use plan::Scenario;
use story::Story;
pub use world::Counts;
use world::World;

/// What to simulate. The same options give the same run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// How the hosts are connected; `None`: drawn.
    pub scenario: Option<Scenario>,
    /// How many there are, 2 to 64; `None`: drawn from 3 to 12.
    pub members: Option<usize>,
    /// Gets every event as a line.
    pub trace: Option<fn(&str)>,
}

/// What came of a run in which everything held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How the hosts were connected.
    pub scenario: Scenario,
    /// How many there were.
    pub members: usize,
    /// Over the order, time, kind and size of all events.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// What was done.
    pub counts: Counts,
    /// SDUs that were written and that arrived.
    pub sdus: (u64, u64),
    /// Packets that were sent, and those that the attacker made.
    pub packets: (u64, u64),
    /// How long all took to agree each time that the network had become quiet.
    pub convergence: Vec<Duration>,
    /// The virtual time of the run.
    pub lasted: Duration,
}

/// The first thing that did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When, in virtual time.
    pub at: Duration,
    /// What.
    pub what: String,
    /// What led to it, as a mermaid sequence diagram.
    pub mermaid: String,
}

/// Runs one seed.
pub fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let mut plan = Chance::new(options.seed, 0);
    let scenario = Scenario::draw(&mut plan);
    let scenario = options.scenario.unwrap_or(scenario);
    let members = plan.between(3, 12);
    let members = options.members.unwrap_or(members).clamp(2, 64);
    let mut run = Run {
        world: world(options, scenario, members, &mut plan),
        plan,
        convergence: Vec::new(),
    };
    run.build();
    for round in 0..run.plan.between(1, 3) {
        run.chaos(round);
        run.settle(false);
    }
    run.settle(true);
    run.end();
    run.outcome(scenario)
}

struct Run {
    world: World,
    plan: Chance,
    convergence: Vec<Duration>,
}

impl Run {
    /// All join, each through a neighbour, over cables as bad as they are.
    fn build(&mut self) {
        let n = self.world.hosts.len();
        self.world.bootstrap();
        for host in 1..n {
            let after = self.plan.millis(0, 3000);
            self.world.later(after, Act::Enrol(host));
        }
        self.until("all have joined", Duration::from_secs(600), |world| {
            world.hosts.iter().all(|h| h.member)
        });
        let mut edges = self.world.net.edges();
        self.plan.shuffle(&mut edges);
        for (a, b) in edges {
            let (a, b) = if self.plan.permille(500) {
                (a, b)
            } else {
                (b, a)
            };
            self.world
                .later(self.plan.millis(0, 500), Act::Connect(a, b));
        }
        let connected = |world: &World| {
            !world
                .hosts
                .iter()
                .flat_map(|h| h.pending.values())
                .any(|p| matches!(p.what, What::Connect(_)))
        };
        self.world.run(Duration::from_millis(1100));
        self.until("all have connected", Duration::from_secs(60), connected);
    }

    fn chaos(&mut self, round: usize) {
        let time = self.plan.millis(4000, 12_000);
        let edges = self.world.net.edges();
        self.world.net.quiet = false;
        let acts = plan::chaos(&edges, self.world.hosts.len(), time, &mut self.plan);
        self.world
            .story
            .tell(self.world.elapsed, 0, 0, format!("chaos {round} begins"));
        for (at, act) in acts {
            self.world.later(at, act);
        }
        self.world.run(time);
    }

    /// The network becomes quiet, with all cables mended or with some cut: all must agree soon, and flows must work.
    fn settle(&mut self, mended: bool) {
        // What chaos has begun it also ends.
        self.world.run(LONGEST_FAULT);
        self.world.net.quiet = true;
        for host in 0..self.world.hosts.len() {
            self.world.restart(host);
        }
        for (a, b) in self.world.net.edges() {
            let cut = !mended && self.plan.permille(150);
            self.world.set_cable(a, b, !cut);
        }
        self.world.story.tell(self.world.elapsed, 0, 0, "quiet");
        let since = self.world.elapsed;
        self.converge();
        self.convergence.push(self.world.elapsed - since);
        let ttl = self.world.total(TTL);
        self.probe();
        if self.world.total(TTL) != ttl {
            self.world
                .fail("packets have gone in circles in a quiet network");
        }
        if let Err(what) = self.world.agree() {
            self.world
                .fail(format!("all agreed, and no longer do: {what}"));
        }
    }

    fn converge(&mut self) {
        let until = self.world.elapsed + CONVERGENCE;
        while self.world.failure.is_none() {
            match self.world.agree() {
                Ok(()) => return,
                Err(what) if self.world.elapsed >= until => {
                    self.world.fail(format!(
                        "no agreement {} s after the network became quiet: {what}",
                        CONVERGENCE.as_secs()
                    ));
                }
                Err(_) => self.world.run(Duration::from_millis(50)),
            }
        }
    }

    /// A few flows that must work.
    fn probe(&mut self) {
        let first = self.world.ledger.count();
        let before = self.world.drops();
        for _ in 0..4 {
            let from = self.plan.below(self.world.hosts.len());
            let reach: Vec<_> = self
                .world
                .reach(from)
                .into_iter()
                .filter(|to| *to != from)
                .collect();
            let Some(to) = self.plan.pick(&reach) else {
                continue;
            };
            if acts::name_of(to).is_some_and(|name| self.world.hosts[to].names.contains(&name)) {
                self.world.act(Act::Open {
                    from,
                    to,
                    probe: true,
                });
            }
        }
        self.world.run(Duration::from_secs(3));
        let tags = first..self.world.ledger.count();
        let mut drops = self.world.drops();
        for (what, n) in &mut drops {
            *n -= before.get(what).copied().unwrap_or_default().min(*n);
        }
        drops.retain(|_, n| *n > 0);
        let told = drops.clone();
        for tag in tags.clone().filter_map(|tag| u32::try_from(tag).ok()) {
            let missing = self.world.ledger.missing(tag);
            let lost = missing - self.excused(tag, missing, &mut drops);
            let ends = [0, 1].map(|side| self.world.end(tag, side));
            if lost > 0 || ends.contains(&None) {
                self.world.fail(format!(
                    "flow {tag} lost {missing} SDUs in a quiet network, or did not stand; what was dropped \
                     meanwhile: {told:?}"
                ));
            }
            let (side, program) = (self.plan.below(2), self.plan.permille(500));
            self.world.act(Act::Close { tag, side, program });
        }
        self.world.run(Duration::from_secs(2));
        let open = tags
            .filter_map(|tag| u32::try_from(tag).ok())
            .find(|t| (0..2).any(|side| self.world.end(*t, side).is_some()));
        if let Some(tag) = open {
            self.world.fail(format!(
                "flow {tag} was closed at one end, and the other still stands"
            ));
        }
    }

    /// How many of the missing SDUs of a flow are explained by drops that a new way explains (a measured cost changed, and
    /// agreement on ways doesn't end that): where it is shorter, what was sent on the longer one comes too late for an
    /// ordered flow; where it is narrower, what was sent before the writer heard of that no longer fits. Takes these drops off.
    fn excused(&self, tag: u32, missing: u64, drops: &mut BTreeMap<String, u64>) -> u64 {
        let mut take = |what: &str, most: u64| {
            let left = drops.get_mut(what);
            left.map_or(0, |left| {
                let taken = most.min(*left);
                *left -= taken;
                taken
            })
        };
        let ordered = self.world.ledger.get(tag).is_some_and(|f| f.qos.ordered);
        let late = if ordered {
            take("drop.late", self.world.ledger.overtaken(tag))
        } else {
            0
        };
        let shrank = (0..2).any(|side| {
            let end = self.world.end(tag, side);
            end.is_some_and(|(host, flow)| self.world.hosts[host].shrunk.contains(&flow))
        });
        let big = if shrank {
            take("drop.too_big", missing.saturating_sub(late))
        } else {
            0
        };
        late + big
    }

    /// All is taken back, then all machines end.
    fn end(&mut self) {
        // The longest that a flow may outlive its other end.
        self.world.run(Duration::from_secs(35));
        self.expect(|world| world.check_halves());
        for host in 0..self.world.hosts.len() {
            let flows: Vec<_> = self.world.hosts[host].open.keys().copied().collect();
            for flow in flows {
                let reason = Reason::new(Code::Closed, "the end");
                self.world.command(
                    host,
                    What::Must,
                    proto::ipcp::Command::Dealloc(flow, reason),
                );
            }
            self.world.act(Act::Register(host, false));
        }
        self.world.run(Duration::from_secs(12));
        self.expect(World::check_leftovers);
        for host in 0..self.world.hosts.len() {
            self.world
                .command(host, What::Must, proto::ipcp::Command::Shutdown);
        }
        self.until("all have ended", Duration::from_secs(5), |world| {
            world.hosts.iter().all(|h| h.exited)
        });
    }

    fn expect(&mut self, check: impl Fn(&mut World) -> Result<(), String>) {
        if self.world.failure.is_none()
            && let Err(what) = check(&mut self.world)
        {
            self.world.fail(what);
        }
    }

    /// Lets time pass until something holds.
    fn until(&mut self, what: &str, patience: Duration, holds: impl Fn(&World) -> bool) {
        let until = self.world.elapsed + patience;
        while self.world.failure.is_none() && !holds(&self.world) {
            if self.world.elapsed >= until {
                self.world
                    .fail(format!("not within {} s: {what}", patience.as_secs()));
            }
            self.world.run(Duration::from_millis(100));
        }
    }

    fn outcome(self, scenario: Scenario) -> Result<Report, Box<Failure>> {
        let Self {
            world, convergence, ..
        } = self;
        let members = world.hosts.len();
        if let Some(what) = world.failure {
            let mermaid = world.story.mermaid(members, &what);
            return Err(Box::new(Failure {
                at: world.elapsed,
                what,
                mermaid,
            }));
        }
        Ok(Report {
            scenario,
            members,
            hash: world.story.hash(),
            events: world.story.events(),
            counts: world.counts,
            sdus: (world.ledger.written, world.ledger.delivered),
            packets: (world.net.carried, world.net.attacker.strikes),
            convergence,
            lasted: world.elapsed,
        })
    }
}

fn world(options: &Options, scenario: Scenario, members: usize, plan: &mut Chance) -> World {
    let layer = label("sim".to_owned());
    let host = |i: usize, plan: &mut Chance| {
        let name = label(format!("m{i}"));
        let address = address(&layer, &name);
        Host::new(name, address, plan.millis(0, 300_000))
    };
    let hosts = (0..members).map(|i| host(i, plan)).collect();
    let net = Net::new(plan::cables(scenario, members, plan));
    World::new(
        layer,
        hosts,
        net,
        Story::new(options.trace),
        Chance::new(options.seed, 1),
    )
}

fn label(text: String) -> Label {
    #[expect(
        clippy::expect_used,
        reason = "the names of the simulator are letters and digits"
    )]
    Label::new(text).expect("a label of letters and digits")
}

/// Within this all must agree once the network is quiet: a handshake that was begun in bad times may take that long to be
/// given up, and its link is dialled again after that.
const CONVERGENCE: Duration = Duration::from_secs(25);
/// Faults end at most that long after the chaos in which they began.
const LONGEST_FAULT: Duration = Duration::from_millis(6000);
const TTL: &str = "drop.ttl";
