//! Hosts, cables and a virtual clock: inputs go to machines in the order of their time, outputs are carried out.

mod wires;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use proto::ipcp::{Answer, Command, Event, FlowRequest};
use proto::{Addr, Batch, Code, FlowId, Label, Reason};

use super::acts::Act;
use super::agenda::{Agenda, Due};
use super::chance::Chance;
use super::expelled::{Expelled, WordOut};
use super::host::{Host, What};
use super::ledger::Ledger;
use super::net::Net;
use super::programs::Usage;
use super::scenario::Load;
use super::story::{COMMAND, DELIVER, EVENT, Story, TELL, TIMEOUT, WRITE};
use crate::crypt::Seeded;
use crate::route::Pool;
use crate::{FlowAsk, FlowTell, Input, Ipcp, Now, Output, Unicast, UnixTime};

/// All there is.
pub(super) struct World {
    pub(super) layer: Label,
    pub(super) hosts: Vec<Host>,
    pub(super) net: Net,
    pub(super) ledger: Ledger,
    pub(super) story: Story,
    /// For what the network does.
    pub(super) chance: Chance,
    /// What keys and ids are drawn from.
    _keys: Seeded,
    pub(super) elapsed: Duration,
    pub(super) counts: Counts,
    /// The first thing that went wrong; nothing happens after it.
    pub(super) failure: Option<String>,
    /// Members that were revoked, and how soon everybody must know it.
    pub(super) expelled: Vec<Expelled>,
    pub(super) word_out: WordOut,
    /// What a scenario wants of programs.
    pub(super) loads: Vec<Load>,
    /// How long a flow may take that must stand since the network is quiet.
    pub(super) patience: Duration,
    /// Where all machines share the records that one of them has believed.
    pub(super) pool: Option<Pool>,
    /// What the certificates of members say who are prepared; `None`: nothing.
    pub(super) granted: Option<fn(usize) -> Vec<IpNet>>,
    /// An invitation for who is no host here.
    pub(super) url: Option<String>,
    /// What came to a host that stands for others, which are not simulated.
    pub(super) sent: Vec<(FlowId, Vec<u8>)>,
    outside: Option<usize>,
    start: Instant,
    agenda: Agenda,
    /// Hosts by the names of their members.
    index: BTreeMap<Label, usize>,
}

/// How often what was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows that were asked for.
    pub asked: u64,
    /// Flows that stood.
    pub allocated: u64,
    /// Cables that were cut.
    pub cuts: u64,
    /// Machines that crashed and started again.
    pub crashes: u64,
    /// Lower flows that died.
    pub deaths: u64,
    /// Partitions of the whole layer.
    pub partitions: u64,
    /// Disks that were lost.
    pub disks: u64,
    /// Times that a member began to lie.
    pub lies: u64,
    /// Members that were revoked.
    pub expelled: u64,
}

impl World {
    pub(super) fn new(layer: Label, hosts: Vec<Host>, net: Net, story: Story, seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "somewhere the virtual clock must begin; only differences count"
        )]
        let start = Instant::now();
        let index = hosts.iter().enumerate();
        let index = index.map(|(i, h)| (h.name.clone(), i)).collect();
        Self {
            layer,
            hosts,
            net,
            ledger: Ledger::default(),
            story,
            chance: Chance::new(seed, 1),
            _keys: Seeded::new(Chance::new(seed, 3).seed()),
            elapsed: Duration::ZERO,
            counts: Counts::default(),
            failure: None,
            expelled: Vec::new(),
            word_out: WordOut {
                within: WordOut::PROMISED,
                quiet: true,
            },
            loads: Vec::new(),
            patience: Duration::ZERO,
            pool: None,
            granted: None,
            url: None,
            sent: Vec::new(),
            outside: None,
            start,
            agenda: Agenda::default(),
            index,
        }
    }

    /// One host more, which is not simulated: what comes to it waits in `sent`.
    pub(super) fn outside(&mut self, name: Label) -> usize {
        let at = self.hosts.len();
        self.hosts.push(Host::new(name, Addr(0), 0));
        self.outside = Some(at);
        at
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.failure.is_none() && self.step(end) {}
        if self.failure.is_none() {
            self.elapsed = end;
            self.check_patience();
        }
    }

    /// Does the next thing that is due until `end`; `false` if there is none.
    fn step(&mut self, end: Duration) -> bool {
        let hosts = &self.hosts;
        let current = |host: usize, at| hosts[host].alarm == Some(at) && hosts[host].alive();
        let timer = self.agenda.alarm(current).map(|(at, host)| {
            let at = at.saturating_duration_since(self.start);
            (at.max(self.elapsed), host)
        });
        let event = self.agenda.next();
        match (timer, event) {
            (Some((at, host)), event) if at <= end && event.is_none_or(|e| at < e) => {
                self.elapsed = at;
                self.story.mark(at, host, TIMEOUT, &[]);
                self.input(host, Input::Timeout);
                let next = self.hosts[host].alarm;
                if next.is_some_and(|next| next <= self.start + at) {
                    self.fail(format!("m{host} asks for a time-out that has come already"));
                }
                true
            }
            (_, Some(at)) if at <= end => {
                self.elapsed = at;
                if let Some(due) = self.agenda.pop() {
                    self.due(due);
                }
                true
            }
            _ => false,
        }
    }

    fn due(&mut self, due: Due) {
        match due {
            Due::Packet(end, bytes) => self.arrive(end, &bytes),
            Due::Tell(host, life, tell) => {
                if self.hosts[host].life == life {
                    self.story.mark(self.elapsed, host, TELL, &[]);
                    self.input(host, Input::Tell(*tell));
                } else if let FlowTell::Up { lower, .. } = *tell {
                    self.net.remove((host, lower));
                }
            }
            Due::Act(act) => self.act(*act),
        }
    }

    /// The host whose member has that name.
    pub(super) fn host_of(&self, member: &str) -> Option<usize> {
        Label::new(member)
            .ok()
            .and_then(|m| self.index.get(&m).copied())
    }

    /// Gives a host's member another name; nobody answers to the old one any more.
    pub(super) fn rename(&mut self, host: usize, name: Label, address: Addr) {
        self.index.remove(&self.hosts[host].name);
        self.index.insert(name.clone(), host);
        self.hosts[host].name = name;
        self.hosts[host].address = address;
    }

    /// The first failure is the one that counts.
    pub(super) fn fail(&mut self, what: impl Into<String>) {
        self.failure.get_or_insert_with(|| what.into());
    }

    /// Does something later.
    pub(super) fn later(&mut self, after: Duration, act: Act) {
        self.agenda
            .push(self.elapsed + after, Due::Act(Box::new(act)));
    }

    pub(super) fn tell(&mut self, after: Duration, host: usize, tell: FlowTell) {
        let due = Due::Tell(host, self.hosts[host].life, Box::new(tell));
        self.agenda.push(self.elapsed + after, due);
    }

    /// Gives a command to the machine of a host.
    pub(super) fn command(&mut self, host: usize, what: What, command: Command) {
        if !self.hosts[host].alive() || self.failure.is_some() {
            return;
        }
        let until = self.elapsed + What::patience(&command);
        let id = self.hosts[host].note(what, until);
        if what != What::Status {
            let text = format!("{command:?}");
            let word = text
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or_default();
            self.story
                .tell(self.elapsed, host, host, format!("{word} {what:?}"));
        }
        self.story.mark(self.elapsed, host, COMMAND, &[]);
        self.input(host, Input::Control(id, command));
    }

    /// A program writes.
    pub(super) fn write(&mut self, host: usize, flow: FlowId, batch: Batch) {
        self.story.mark(self.elapsed, host, WRITE, batch.bytes());
        self.input(host, Input::Upper(flow, batch));
    }

    /// A program closes its flow, or dies.
    pub(super) fn leave(&mut self, host: usize, flow: FlowId) {
        if self.hosts[host].open.remove(&flow).is_some() {
            self.hosts[host].left.insert(flow);
            let tag = self.hosts[host].flows.remove(&flow);
            let tag = tag.map_or(0, |(tag, _)| tag);
            self.input(host, Input::UpperGone(flow, last_word(tag)));
        }
    }

    /// Starts the machine of a host from its files.
    pub(super) fn boot(&mut self, host: usize) {
        let seed = self.chance.seed();
        // Every second one leaves its seals to others, which must change nothing.
        let leaves = host % 2 == 1;
        let host = &mut self.hosts[host];
        host.life += 1;
        host.alarm = None;
        let mut machine = Unicast::new(host.name.clone(), seed, host.files.clone());
        if let Some(pool) = &self.pool {
            machine.share_records(pool.clone());
        }
        machine.leave_seals(leaves);
        host.machine = Some(machine);
    }

    /// The time at a host.
    pub(super) fn now(&self, host: usize) -> Now {
        Now {
            mono: self.start + self.elapsed,
            wall: UnixTime(self.hosts[host].clock(EPOCH + self.elapsed)),
        }
    }

    fn input(&mut self, host: usize, input: Input<FlowId, FlowTell>) {
        let now = self.now(host);
        let exited = self.hosts[host].exited;
        let Some(machine) = self.hosts[host].machine.as_mut().filter(|_| !exited) else {
            return;
        };
        machine.handle(now, input);
        self.drain(host);
    }

    /// Carries out what the machine of a host wants.
    pub(super) fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].machine.as_mut().and_then(Ipcp::poll) {
            self.output(host, output);
        }
        self.seal(host);
        let alarm = self.hosts[host].machine.as_ref().and_then(Ipcp::deadline);
        if self.hosts[host].alarm != alarm {
            self.hosts[host].alarm = alarm;
            self.agenda.wake(host, alarm);
        }
    }

    /// Puts the seals on that a machine has left, the last one first, and lets all go in their order.
    fn seal(&mut self, host: usize) {
        let left = std::mem::take(&mut self.hosts[host].unsealed);
        let sealed = left.into_iter().rev().map(|(to, left)| (to, left.seal()));
        let mut sealed: Vec<_> = sealed.collect();
        while let Some((lower, batch)) = sealed.pop() {
            self.carry(host, lower, &batch);
        }
    }

    fn output(&mut self, host: usize, output: Output<FlowId, FlowAsk>) {
        match output {
            Output::Control(event) => self.event(host, event),
            Output::Upper(flow, batch) => self.deliver(host, flow, &batch),
            Output::UpperMtu(flow, mtu) => match self.hosts[host].open.get_mut(&flow) {
                Some(known) => {
                    if std::mem::replace(known, mtu) > mtu {
                        self.hosts[host].shrunk.insert(flow);
                    }
                }
                None => self.fail(format!(
                    "m{host} tells an MTU of flow {flow}, which is not open"
                )),
            },
            // Programs of the simulator write seldom enough that waiting costs them nothing.
            Output::UpperPause(..) => {}
            Output::UpperShut(flow) => {
                if !self.hosts[host].open.contains_key(&flow) {
                    self.fail(format!("m{host} shuts flow {flow}, which is not open"));
                }
            }
            Output::UpperOpen(flow, _, allocated) => {
                if self.hosts[host].open.insert(flow, allocated.mtu).is_some() {
                    self.fail(format!("m{host} opens flow {flow} twice"));
                }
            }
            Output::UpperClose(flow, reason) => {
                self.check_close(host, flow, &reason);
                if self.hosts[host].open.remove(&flow).is_none() {
                    self.fail(format!("m{host} closes flow {flow}, which is not open"));
                }
                self.hosts[host].flows.remove(&flow);
            }
            Output::Unsealed(lower, unsealed) => self.hosts[host].unsealed.push((lower, unsealed)),
            Output::Lower(lower, batch) => {
                self.seal(host);
                self.carry(host, lower, &batch);
            }
            Output::Ask(FlowAsk::Dial {
                dial, dst, over, ..
            }) => self.dial(host, dial, dst.as_str(), over),
            Output::Ask(FlowAsk::Hangup(lower)) => self.hangup((host, lower)),
            Output::Save(file, bytes) if bytes.is_empty() => {
                drop(self.hosts[host].files.remove(file))
            }
            Output::Save(file, bytes) => {
                drop(self.hosts[host].files.insert(file.to_owned(), bytes))
            }
            Output::Exit => self.hosts[host].exited = true,
        }
    }
}

/// What machines say to irmd and to programs.
impl World {
    /// A user hears the very reason that the other gave, be it good or not. If it is one, and nothing is said of a loss, a reliable
    /// flow has delivered all that was written.
    fn check_close(&mut self, host: usize, flow: FlowId, reason: &Reason) {
        let Some((tag, side)) = self.hosts[host].flows.get(&flow).copied() else {
            return;
        };
        let said = |tag| last_word(tag) == *reason;
        if said(tag + 1) {
            self.fail(format!(
                "m{host}: flow {tag} ended as no user said: {reason}"
            ));
        }
        if !said(tag) {
            return;
        }
        let missing = self.ledger.missing_at(tag, side);
        if missing > 0 && self.ledger.get(tag).is_some_and(|f| f.qos.reliable) {
            self.fail(format!(
                "m{host}: flow {tag} was closed in good order, and lost {missing} SDUs"
            ));
        }
    }

    fn event(&mut self, host: usize, event: Event) {
        match event {
            Event::Done(id, answer) => match self.hosts[host].pending.remove(&id) {
                Some(pending) => self.answered(host, pending.what, answer),
                None => self.fail(format!(
                    "m{host} answers command {id}, which waits for nothing"
                )),
            },
            Event::FlowRequest(request) => self.request(host, &request),
            Event::FlowDown(flow, reason) => {
                self.hosts[host].flows.remove(&flow);
                self.story.tell(
                    self.elapsed,
                    host,
                    host,
                    format!("flow {flow} down: {reason}"),
                );
            }
            Event::State(state, detail) => self.story.tell(
                self.elapsed,
                host,
                host,
                format!("{} {detail}", state.word()),
            ),
            Event::Notice(notice) => self.story.tell(self.elapsed, host, host, notice.text),
            Event::Members => {}
        }
        self.story.mark(self.elapsed, host, EVENT, &[]);
    }

    fn answered(&mut self, host: usize, what: What, answer: Result<Answer, Reason>) {
        if let Err(reason) = &answer {
            self.story.tell(
                self.elapsed,
                host,
                host,
                format!("{what:?} failed: {reason}"),
            );
        }
        if self.hosts[host].ghost && answer.is_err() && !matches!(what, What::Allocate(_)) {
            return;
        }
        match (what, answer) {
            (What::Status, Ok(Answer::Status(status))) => self.hosts[host].status = Some(status),
            (What::Invite(joiner), Ok(Answer::Invitation(url))) => self.invited(joiner, &url),
            (What::Url, Ok(Answer::Invitation(url))) => self.url = Some(url.to_string()),
            (What::Join, Ok(_)) if self.hosts[host].ghost => {}
            (What::Join, Ok(_)) => self.joined(host),
            (What::Connect(to), Err(_)) => {
                self.later(Duration::from_millis(500), Act::Connect(host, to))
            }
            (What::Allocate(tag), Ok(_)) => self.allocated(host, tag),
            (What::Allocate(tag), Err(reason)) => {
                self.hosts[host].flows.retain(|_, (t, _)| *t != tag);
                if self.usage(tag) == Usage::Probe {
                    self.fail(format!(
                        "m{host} could not allocate a flow in a quiet network: {reason}"
                    ));
                }
            }
            (What::Connect(_) | What::Must | What::Other, Ok(_)) | (What::Other, Err(_)) => {}
            (what, answer) => self.fail(format!("m{host} answers {what:?} with {answer:?}")),
        }
    }

    /// Irmd hears of a request; the caller's name says which flow it is.
    fn request(&mut self, host: usize, request: &FlowRequest) {
        let source = request
            .peer
            .name
            .as_ref()
            .and_then(|n| n.as_str().strip_prefix("src-")?.parse().ok());
        let Some((tag, flow)) = source.and_then(|tag| Some((tag, self.ledger.get(tag)?))) else {
            return self.fail(format!(
                "m{host} has a flow request that nobody made: {request:?}"
            ));
        };
        let from = flow.ends[0].filter(|(from, life, _)| self.hosts[*from].life == *life);
        // Who is down may have another name already, of which the request knows nothing.
        let named = from.filter(|(from, ..)| self.hosts[*from].alive());
        let caller = named.map(|(from, ..)| self.hosts[from].name.clone());
        if request.peer.member.is_some() && caller.is_some() && request.peer.member != caller {
            return self.fail(format!(
                "m{host} thinks that flow {tag} comes from {:?}, not from {caller:?}",
                request.peer.member
            ));
        }
        if flow.qos != request.qos || !self.hosts[host].names.contains(&request.name) {
            return self.fail(format!(
                "m{host} has another request than was made: {request:?}"
            ));
        }
        let after = if flow.usage == Usage::Probe {
            Duration::from_millis(1)
        } else {
            self.chance.millis(0, 50)
        };
        if let Some((from, ..)) = from {
            self.may_meet("a request", from, host);
        }
        let life = self.hosts[host].life;
        self.later(
            after,
            Act::Respond {
                host,
                life,
                request: request.request,
                tag,
            },
        );
    }

    fn deliver(&mut self, host: usize, flow: FlowId, batch: &Batch) {
        for sdu in batch.iter() {
            self.story.mark(self.elapsed, host, DELIVER, sdu);
        }
        if self.hosts[host].left.contains(&flow) {
            return;
        }
        let Some((tag, side)) = self.hosts[host]
            .flows
            .get(&flow)
            .copied()
            .filter(|_| self.hosts[host].open.contains_key(&flow))
        else {
            return self.fail(format!(
                "m{host} gives SDUs for flow {flow}, which is not open"
            ));
        };
        let ends = self.ledger.get(tag).map(|f| f.ends);
        if let Some((from, ..)) = ends.and_then(|ends| ends[1 - side]) {
            self.may_meet("an SDU", from, host);
        }
        for sdu in batch.iter() {
            if let Err(what) = self.ledger.arrive(tag, side, sdu) {
                self.fail(format!("m{host}, flow {flow}: {what}"));
            }
        }
    }

    /// No command may wait for longer than it said.
    fn check_patience(&mut self) {
        let late = |host: &Host| {
            host.pending
                .values()
                .find(|p| p.until < self.elapsed)
                .map(|p| (host.name.clone(), p.what))
        };
        if let Some((name, what)) = self.hosts.iter().filter(|h| h.alive()).find_map(late) {
            self.fail(format!("{name} never answered {what:?}"));
        }
    }
}

/// The wall clock of a host without skew, at the beginning.
pub(super) const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// What the programs at both ends of a flow say when they leave: one half closes, the other dies.
fn last_word(tag: u32) -> Reason {
    match tag % 2 {
        0 => Reason::new(Code::Closed, "the program closed the flow"),
        _ => Reason::new(Code::Unreachable, "the program died"),
    }
}
