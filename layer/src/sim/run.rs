//! One run: all join, the network is disturbed and becomes quiet, again and again, and everything is taken back.

use std::time::Duration;

use proto::{Code, Reason};

use super::acts::Act;
use super::chance::Chance;
use super::expelled::WordOut;
use super::host::{Host, What};
use super::net::Net;
use super::scenario::Scenario;
use super::story::{Story, Told};
use super::topology::Topology;
use super::world::World;
use super::{Failure, Report, label, plan};
use crate::crypt::address;
use crate::route::Pool;

/// Who says what happens.
#[derive(Clone, Copy)]
pub(super) enum Script<'a> {
    Drawn {
        topology: Topology,
        members: usize,
        /// Members are revoked, too.
        revokes: bool,
    },
    Told(&'a Scenario),
}

pub(super) struct Run<'a> {
    script: Script<'a>,
    pub(super) world: World,
    pub(super) plan: Chance,
    /// For what was added to what is drawn, so that a seed goes on being the run that it was.
    added: Chance,
    convergence: Vec<Duration>,
}

impl Script<'_> {
    fn topology(&self) -> Topology {
        match self {
            Script::Drawn { topology, .. } => *topology,
            Script::Told(scenario) => scenario.topology,
        }
    }

    fn members(&self) -> usize {
        match self {
            Script::Drawn { members, .. } => *members,
            Script::Told(scenario) => scenario.members,
        }
    }

    /// How long after a round what began in it has ended for sure.
    fn longest_fault(&self) -> Duration {
        match self {
            Script::Drawn { .. } => LONGEST_FAULT,
            Script::Told(scenario) => {
                let longest = scenario.faults.iter().map(|fault| fault.lasts.1).max();
                longest.unwrap_or_default() + Duration::from_millis(1)
            }
        }
    }

    fn convergence(&self) -> Duration {
        match self {
            Script::Drawn { .. } => CONVERGENCE,
            Script::Told(scenario) => scenario.bounds.convergence,
        }
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        script: Script<'a>,
        seed: u64,
        trace: Option<fn(&Told<'_>)>,
        mut plan: Chance,
    ) -> Self {
        Self {
            script,
            world: world(script, seed, trace, &mut plan),
            plan,
            added: Chance::new(seed, 2),
            convergence: Vec::new(),
        }
    }

    pub(super) fn play(mut self) -> Result<Report, Box<Failure>> {
        self.build();
        let rounds = match self.script {
            Script::Drawn { .. } => self.plan.between(1, 3),
            Script::Told(scenario) => scenario.rounds,
        };
        for round in 0..rounds {
            self.chaos(round);
            self.settle(false);
        }
        self.settle(true);
        self.end();
        self.keeps_bounds();
        self.outcome()
    }
}

impl Run<'_> {
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
        let edges = self.world.net.edges();
        self.world.net.quiet = false;
        let (time, acts) = match self.script {
            Script::Told(scenario) => (scenario.lasts, scenario.acts(&edges, &mut self.plan)),
            Script::Drawn {
                members, revokes, ..
            } => {
                let time = self.plan.millis(4000, 12_000);
                let mut acts = plan::chaos(&edges, members, time, &mut self.plan);
                if revokes {
                    acts.extend(plan::expulsion(members, time, &mut self.added));
                }
                (time, acts)
            }
        };
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
        self.world.run(self.script.longest_fault());
        self.world.net.quiet = true;
        for host in 0..self.world.hosts.len() {
            self.world.return_of(host);
        }
        // Who is joining needs a way to the authority through a door that the invitation names: nothing else can be expected.
        let joining = self.world.hosts.iter().any(|h| !h.member);
        for (a, b) in self.world.net.edges() {
            let cut = !mended && self.plan.permille(150);
            self.world.set_cable(a, b, joining || !cut);
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
        let patience = self.script.convergence();
        let until = self.world.elapsed + patience;
        while self.world.failure.is_none() {
            let over = self.world.elapsed >= until;
            if !over && !self.world.may_agree() {
                self.world.run(Duration::from_millis(50));
                continue;
            }
            match self.world.agree() {
                Ok(()) => return,
                Err(what) if over => {
                    self.world.fail(format!(
                        "no agreement {} s after the network became quiet: {what}",
                        patience.as_secs()
                    ));
                }
                Err(_) => self.world.run(Duration::from_millis(250)),
            }
        }
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
        self.windows_close();
        let told = matches!(self.script, Script::Told(_));
        if told || self.added.permille(250) {
            // Keys live for 180 s, and what was withdrawn for 120 s; it is looked for both every 30 s.
            self.world.run(Duration::from_secs(220));
            self.windows_close();
            self.expect(|world| world.check_forgotten());
        }
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

    /// Each host has a moment soon in which nothing is left over: it always has something to say now and then.
    fn windows_close(&mut self) {
        let until = self.world.elapsed + SOON;
        let mut open: Vec<usize> = (0..self.world.hosts.len()).collect();
        while self.world.failure.is_none() {
            open.retain(|host| self.world.check_windows(*host).is_err());
            let Some(host) = open.first() else { return };
            if self.world.elapsed >= until
                && let Err(what) = self.world.check_windows(*host)
            {
                return self.world.fail(what);
            }
            self.world.run(Duration::from_millis(50));
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

    /// What a scenario promises of all its flows together.
    fn keeps_bounds(&mut self) {
        let Script::Told(scenario) = self.script else {
            return;
        };
        let (world, bounds) = (&mut self.world, scenario.bounds);
        let (counts, ledger) = (world.counts, &world.ledger);
        let parts = [
            (
                "flows that were asked for stood",
                counts.allocated,
                counts.asked,
                bounds.allocated,
            ),
            (
                "SDUs arrived",
                ledger.delivered,
                ledger.written,
                bounds.delivered,
            ),
        ];
        for (what, of, all, least) in parts {
            if of * 1000 < all * u64::from(least) {
                let least = f64::from(least) / 10.0;
                world.fail(format!(
                    "only {of} of {all} {what}; {least} % are the least"
                ));
            }
        }
    }

    fn outcome(self) -> Result<Report, Box<Failure>> {
        let Self {
            world,
            convergence,
            script,
            ..
        } = self;
        let members = world.hosts.len();
        if let Some(what) = world.failure {
            let mermaid = world.story.mermaid(members, &what);
            return Err(Box::new(Failure {
                at: world.elapsed,
                what,
                hash: world.story.hash(),
                mermaid,
            }));
        }
        Ok(Report {
            topology: script.topology(),
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

fn world(script: Script<'_>, seed: u64, trace: Option<fn(&Told<'_>)>, plan: &mut Chance) -> World {
    let layer = label("sim".to_owned());
    let members = script.members();
    let host = |i: usize, plan: &mut Chance| {
        let name = label(format!("m{i}"));
        let address = address(&layer, &name);
        let skew = i64::try_from(plan.between(0, 300_000)).unwrap_or(0);
        Host::new(name, address, skew)
    };
    let hosts = (0..members).map(|i| host(i, plan)).collect();
    let cables = match script {
        Script::Drawn { topology, .. } => plan::cables(topology, members, plan),
        Script::Told(scenario) => scenario.cables(plan),
    };
    let (net, story) = (Net::new(members, cables), Story::new(trace));
    let mut world = World::new(layer, hosts, net, story, seed);
    world.pool = Some(Pool::default());
    if let Script::Told(scenario) = script {
        world.loads.clone_from(&scenario.loads);
        world.word_out = WordOut {
            within: scenario.bounds.revoked,
            quiet: false,
        };
    }
    world
}

/// Within this all must agree once the network is quiet: a handshake that was begun in bad times may take that long to be
/// given up, and its link is dialled again after that; a neighbour that is dead is noticed after 35 s if nothing is sent to it.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Drawn faults end at most that long after the chaos in which they began.
const LONGEST_FAULT: Duration = Duration::from_millis(6000);
const SOON: Duration = Duration::from_secs(10);
const TTL: &str = "drop.ttl";
