//! A few machines on one virtual clock, over a lower network that connects whoever dials whom by name.

mod asked;
mod certified;
mod chaos;
mod clash;
mod clock;
mod costs;
mod decrees;
mod ending;
mod enrolment;
mod flows;
mod forgotten;
mod hostile;
mod intruder;
mod law;
mod limits;
mod meddler;
mod mischief;
mod model;
mod mtus;
mod names;
mod offers;
mod pools;
mod queues;
mod rates;
mod rekeys;
mod reliable;
mod renewal;
mod reroute;
mod revoked;
mod rollover;
mod routes;
mod sealing;
mod shortcuts;
mod skewed;
mod unsealed;
mod versions;
mod whole;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::ipcp::{Answer, Bootstrap, Command, CommandId, Enroll, Entry, Event, Invite};
use proto::{Batch, Code, FlowId, Framing, Label, Reason};
use zeroize::Zeroizing;

use super::Unicast;
use crate::{FlowAsk, FlowTell, Input, Ipcp, Now, Output, UnixTime, Via};

type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;
type In = Input<FlowId, FlowTell>;

/// Machines by name, the links between them, and all that they have said.
pub(super) struct Net {
    nodes: BTreeMap<&'static str, Node>,
    start: Instant,
    elapsed: Duration,
    /// Inputs that are due, by time, then in the order of their making.
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    inputs: BTreeMap<u64, (&'static str, In)>,
    serial: u64,
    /// The other end of each lower flow.
    wires: BTreeMap<(&'static str, FlowId), (&'static str, FlowId)>,
    /// When, from whom, to whom and how much, of every packet.
    pub(super) trace: Vec<(Duration, &'static str, &'static str, usize)>,
    /// From whom, to whom and in which class, how many packets.
    pub(super) classes: BTreeMap<(&'static str, &'static str, u8), usize>,
    /// Every file that a machine has ever written.
    pub(super) written: Vec<(&'static str, Vec<u8>)>,
    cut: BTreeSet<(&'static str, &'static str)>,
    /// The lower layer of each flow, and the layers that carry nothing.
    overs: BTreeMap<FlowId, Label>,
    pub(super) dark: BTreeSet<Label>,
    /// May change or drop (empty) each PDU on its way.
    pub(super) tamper: Option<Tamper>,
    /// How batches on lower flows lie, and their largest packet.
    pub(super) framing: Framing,
    pub(super) mtu: u32,
    /// By how much more a packet may be late than the one after it.
    pub(super) jitter: Duration,
    /// How much longer packets take from one member to another.
    pub(super) slow: BTreeMap<(&'static str, &'static str), Duration>,
    /// How long what comes to a member has waited in its kernel.
    pub(super) waits: BTreeMap<&'static str, Duration>,
    /// Machines whose wall clock is ahead by so many seconds.
    pub(super) ahead: BTreeMap<&'static str, i64>,
    /// Who has dialled whom, and where.
    pub(super) dialled: Vec<(&'static str, String, Vec<SocketAddr>)>,
}

type Tamper = Box<dyn FnMut(&'static str, &'static str, &mut Vec<u8>)>;

pub(super) struct Node {
    pub(super) machine: Unicast,
    pub(super) files: Files,
    pub(super) answers: BTreeMap<CommandId, Result<Answer, Reason>>,
    pub(super) events: Vec<Event>,
    pub(super) received: BTreeMap<FlowId, Vec<Vec<u8>>>,
    pub(super) open: BTreeSet<FlowId>,
    pub(super) closed: BTreeMap<FlowId, Reason>,
    pub(super) mtus: BTreeMap<FlowId, u32>,
    /// Flows whose users are left unread, and whose other side writes nothing more.
    pub(super) paused: BTreeSet<FlowId>,
    pub(super) shut: BTreeSet<FlowId>,
    pub(super) exited: bool,
    commands: CommandId,
}

impl Net {
    pub(super) fn new(names: &[&'static str]) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "somewhere the virtual clock must begin"
        )]
        let start = Instant::now();
        let mut net = Self {
            nodes: BTreeMap::new(),
            start,
            elapsed: Duration::ZERO,
            queue: BinaryHeap::new(),
            inputs: BTreeMap::new(),
            serial: 1,
            wires: BTreeMap::new(),
            trace: Vec::new(),
            classes: BTreeMap::new(),
            written: Vec::new(),
            cut: BTreeSet::new(),
            overs: BTreeMap::new(),
            dark: BTreeSet::new(),
            tamper: None,
            framing: Framing::Train,
            mtu: MTU,
            jitter: Duration::ZERO,
            slow: BTreeMap::new(),
            waits: BTreeMap::new(),
            ahead: BTreeMap::new(),
            dialled: Vec::new(),
        };
        for name in names {
            net.boot(name, Files::new());
        }
        net
    }

    /// Starts a machine; one of that name that ran before is gone, and its links with it.
    pub(super) fn boot(&mut self, name: &'static str, files: Files) {
        self.boot_as(name, name, files);
    }

    /// The same for a machine that takes itself for another.
    pub(super) fn boot_as(&mut self, name: &'static str, member: &str, files: Files) {
        self.serial += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.serial.to_be_bytes());
        let machine = Unicast::new(label(member), seed, files.clone());
        let gone: Vec<_> = self
            .wires
            .keys()
            .filter(|(n, _)| *n == name)
            .copied()
            .collect();
        for end in gone {
            self.hangup(end.0, end.1);
        }
        let node = Node {
            machine,
            files,
            answers: BTreeMap::new(),
            events: Vec::new(),
            received: BTreeMap::new(),
            open: BTreeSet::new(),
            closed: BTreeMap::new(),
            mtus: BTreeMap::new(),
            paused: BTreeSet::new(),
            shut: BTreeSet::new(),
            exited: false,
            commands: 0,
        };
        self.nodes.insert(name, node);
    }

    pub(super) fn now(&self) -> Now {
        Now {
            mono: self.start + self.elapsed,
            wall: UnixTime(Duration::from_secs(1_800_000_000) + self.elapsed),
        }
    }

    pub(super) fn node(&mut self, name: &'static str) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    /// Severs two machines: what is sent between them is lost without a sound, and dials fail.
    pub(super) fn cut(&mut self, a: &'static str, b: &'static str) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(super) fn mend(&mut self, a: &'static str, b: &'static str) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
    }

    pub(super) fn command(&mut self, name: &'static str, command: Command) -> CommandId {
        let node = self.node(name);
        node.commands += 1;
        let id = node.commands;
        self.input(name, Input::Control(id, command));
        id
    }

    /// Commands, and waits for the answer.
    pub(super) fn ask(&mut self, name: &'static str, command: Command) -> Result<Answer, Reason> {
        let id = self.command(name, command);
        for _ in 0..4000 {
            if let Some(answer) = self.node(name).answers.remove(&id) {
                return answer;
            }
            self.run(Duration::from_millis(10));
        }
        panic!("{name} never answered");
    }

    /// Lets a machine have an input now.
    pub(super) fn input(&mut self, name: &'static str, input: In) {
        let mut now = self.now();
        if let Some(ahead) = self.ahead.get(name) {
            let secs = now.wall.secs().saturating_add_signed(*ahead);
            now.wall = UnixTime(Duration::from_secs(secs));
        }
        let Some(node) = self.nodes.get_mut(name).filter(|n| !n.exited) else {
            return;
        };
        node.machine.handle(now, input);
        while let Some(output) = self.node(name).machine.poll() {
            self.output(name, output);
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        loop {
            let timers = self
                .nodes
                .iter()
                .filter(|(_, n)| !n.exited)
                .filter_map(|(name, n)| Some((n.machine.deadline()?, *name)));
            let timer = timers.min().map(|(at, name)| {
                (
                    at.saturating_duration_since(self.start).max(self.elapsed),
                    name,
                )
            });
            let packet = self.queue.peek().map(|Reverse((at, _))| *at);
            match (timer, packet) {
                (Some((at, name)), packet) if at <= end && packet.is_none_or(|p| at < p) => {
                    self.elapsed = at;
                    self.input(name, Input::Timeout);
                    let next = self.node(name).machine.deadline();
                    assert!(
                        next.is_none_or(|next| next > self.start + at),
                        "{name} asks for a time-out that has come already"
                    );
                }
                (_, Some(at)) if at <= end => {
                    self.elapsed = at;
                    let Some(Reverse((_, serial))) = self.queue.pop() else {
                        unreachable!()
                    };
                    let (name, input) = self.inputs.remove(&serial).unwrap();
                    self.input(name, input);
                }
                _ => break,
            }
        }
        self.elapsed = end;
    }

    pub(super) fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    fn later(&mut self, name: &'static str, input: In) {
        self.after(Duration::ZERO, name, input);
    }

    fn after(&mut self, wait: Duration, name: &'static str, input: In) {
        self.serial += 1;
        self.queue
            .push(Reverse((self.elapsed + LATENCY + wait, self.serial)));
        self.inputs.insert(self.serial, (name, input));
    }

    fn output(&mut self, name: &'static str, output: Output<FlowId, FlowAsk>) {
        let node = self.nodes.get_mut(name).unwrap();
        match output {
            Output::Control(Event::Done(id, answer)) => drop(node.answers.insert(id, answer)),
            Output::Control(event) => node.events.push(event),
            Output::Upper(flow, batch) => {
                assert!(
                    node.open.contains(&flow),
                    "{name}: an SDU for flow {flow}, which is not open"
                );
                node.received
                    .entry(flow)
                    .or_default()
                    .extend(batch.iter().map(<[u8]>::to_vec));
            }
            Output::UpperMtu(flow, mtu) => drop(node.mtus.insert(flow, mtu)),
            Output::UpperPause(flow, pause) => {
                if pause {
                    node.paused.insert(flow);
                } else {
                    node.paused.remove(&flow);
                }
            }
            Output::UpperShut(flow) => {
                assert!(node.shut.insert(flow), "{name}: flow {flow} was shut twice")
            }
            Output::UpperOpen(flow, _, allocated) => {
                assert!(node.open.insert(flow));
                node.mtus.insert(flow, allocated.mtu);
            }
            Output::UpperClose(flow, reason) => {
                assert!(node.open.remove(&flow));
                node.closed.insert(flow, reason);
            }
            Output::Lower(lower, batch) => self.carry(name, lower, &batch),
            Output::Unsealed(lower, unsealed) => self.carry(name, lower, &unsealed.seal()),
            Output::Ask(FlowAsk::Dial {
                dial,
                dst,
                over,
                at,
            }) => {
                self.dialled.push((name, dst.to_string(), at));
                self.dial(name, dial, dst.as_str(), over)
            }
            Output::Ask(FlowAsk::Hangup(lower)) => self.hangup(name, lower),
            Output::Save(file, bytes) if bytes.is_empty() => drop(node.files.remove(file)),
            Output::Save(file, bytes) => {
                self.written.push((name, bytes.to_vec()));
                node.files.insert(file.to_owned(), bytes);
            }
            Output::Exit => node.exited = true,
        }
    }

    fn carry(&mut self, name: &'static str, lower: FlowId, batch: &Batch) {
        let Some((to, at)) = self.wires.get(&(name, lower)).copied() else {
            return;
        };
        if self.cut.contains(&(name, to)) || self.dark.contains(&self.overs[&lower]) {
            return;
        }
        for pdu in batch.iter() {
            assert!(batch.framing() == self.framing);
            assert!(
                pdu.len() <= self.mtu as usize,
                "{name} sent {} bytes",
                pdu.len()
            );
            let mut pdu = pdu.to_vec();
            self.trace.push((self.elapsed, name, to, pdu.len()));
            *self.classes.entry((name, to, batch.dscp())).or_default() += 1;
            if let Some(tamper) = &mut self.tamper {
                tamper(name, to, &mut pdu);
            }
            if !pdu.is_empty() {
                // Some order or other, the same in each run.
                let share = (self.serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u32;
                let longer = self.slow.get(&(name, to)).copied();
                let late = self.jitter * share / 32 + longer.unwrap_or_default();
                let mut batch = train(&pdu);
                batch.set_waited(self.waits.get(to).copied().unwrap_or_default());
                self.after(late, to, Input::Lower(at, batch));
            }
        }
    }

    fn dial(&mut self, name: &'static str, dial: u64, dst: &str, over: Label) {
        let to = self
            .nodes
            .iter()
            .find(|(n, node)| **n == dst && !node.exited)
            .map(|(n, _)| *n);
        let dark = self.dark.contains(&over);
        let Some(to) = to.filter(|to| !dark && !self.cut.contains(&(name, *to))) else {
            let reason = Reason::new(Code::Unreachable, format!("{dst} is not there"));
            return self.later(name, Input::Tell(FlowTell::DialFailed(dial, reason)));
        };
        self.serial += 2;
        let (here, there) = (FlowId(self.serial), FlowId(self.serial - 1));
        self.wires.insert((name, here), (to, there));
        self.wires.insert((to, there), (name, here));
        self.overs
            .extend([(here, over.clone()), (there, over.clone())]);
        let (mtu, framing) = (self.mtu, self.framing);
        let up = |lower, via, over| FlowTell::Up {
            lower,
            over,
            mtu,
            framing,
            via,
        };
        self.later(
            to,
            Input::Tell(up(
                there,
                Via::Accepted(Some(label(name).to_name())),
                over.clone(),
            )),
        );
        self.later(name, Input::Tell(up(here, Via::Dialled(dial), over)));
    }

    fn hangup(&mut self, name: &'static str, lower: FlowId) {
        let Some((to, at)) = self.wires.remove(&(name, lower)) else {
            return;
        };
        self.wires.remove(&(to, at));
        if !self.cut.contains(&(name, to)) {
            self.later(
                to,
                Input::Tell(FlowTell::Down(at, Reason::new(Code::Closed, "hung up"))),
            );
        }
    }
}

/// A layer `ovl` that `first` begins, over the one lower layer there is.
pub(super) fn bootstrap(net: &mut Net, first: &'static str) {
    bootstrap_under(net, first, None);
}

/// The same, with the root's key under a passphrase.
pub(super) fn bootstrap_under(net: &mut Net, first: &'static str, passphrase: Option<Vec<u8>>) {
    let ask = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: None,
        passphrase,
        shim_udp: None,
    };
    let answer = net.ask(first, Command::Bootstrap(ask));
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
}

/// An invitation of the issuer for one member.
pub(super) fn invite(
    net: &mut Net,
    issuer: &'static str,
    member: &'static str,
) -> Result<String, Reason> {
    let ask = Invite {
        member: Some(label(member)),
        prefixes: Vec::new(),
        expires_ms: 600_000,
        uses: 1,
        hints: Vec::new(),
        groups: Vec::new(),
    };
    match net.ask(issuer, Command::Invite(ask))? {
        Answer::Invitation(url) => Ok(url),
        other @ (Answer::Ok
        | Answer::Exported(_)
        | Answer::Allocated(_)
        | Answer::Status(_)
        | Answer::Configured(_)
        | Answer::Policy(_)) => {
            panic!("{other:?}")
        }
    }
}

pub(super) fn enroll(net: &mut Net, member: &'static str, url: String) -> Result<Answer, Reason> {
    net.ask(
        member,
        Command::Enroll(Enroll {
            entry: Entry::Invitation(url),
            over: vec![label("net")],
            timeout_ms: 10_000,
        }),
    )
}

/// Lets a member join by an invitation of the issuer.
pub(super) fn join(net: &mut Net, issuer: &'static str, member: &'static str) {
    let url = invite(net, issuer, member).unwrap();
    let answer = enroll(net, member, url);
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
}

pub(super) fn status(net: &mut Net, name: &'static str) -> proto::irm::IpcpStatus {
    match net.ask(name, Command::Status) {
        Ok(Answer::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

/// The last word of a user that closes its flow.
pub(super) fn left() -> Reason {
    Reason::new(Code::Closed, "the user closed the flow")
}

/// What is said of one that had none.
pub(super) fn died() -> Reason {
    Reason::new(Code::Unreachable, "the user died")
}

pub(super) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(super) fn train(pdu: &[u8]) -> Batch {
    let mut batch = Batch::new(Framing::Train);
    batch.push(pdu.len()).unwrap().copy_from_slice(pdu);
    batch
}

pub(super) const LATENCY: Duration = Duration::from_millis(2);
pub(super) const MTU: u32 = 1472;
