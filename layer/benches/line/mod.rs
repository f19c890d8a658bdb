//! Two or three members in a line, and what is between them: nothing. Their clock moves only as far as is asked.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use layer::{FlowAsk, FlowTell, Input, Ipcp, Now, Output, Unicast, UnixTime, Via};
use proto::ipcp::{
    Allocate, Answer, Bootstrap, Command, CommandId, Enroll, Entry, Event, Invite, Respond, User,
};
use proto::{Code, FlowId, Framing, Label, Name, QosSpec, Reason};

/// Members 0, 1 and maybe 2, of which each reaches the next; 1 is the issuer.
pub(crate) struct Line {
    pub(crate) members: Vec<Unicast>,
    pub(crate) elapsed: Duration,
    pub(crate) answers: BTreeMap<(usize, CommandId), Result<Answer, Reason>>,
    /// Flows that the first has asked for and the last has accepted.
    pub(crate) stand: Vec<FlowId>,
    start: Instant,
    queue: VecDeque<(usize, Input<FlowId, FlowTell>)>,
    /// The members at the ends of lower flows, which have the same number at both.
    ends: BTreeMap<FlowId, [usize; 2]>,
    last: u64,
}

impl Line {
    /// All of them joined, with `served` registered at the last, to which the first has an association.
    pub(crate) fn new(count: usize) -> Self {
        let member = |at: usize| Unicast::new(label(NAMES[at]), [at as u8; 32], BTreeMap::new());
        #[expect(
            clippy::disallowed_methods,
            reason = "a bench is no part of the machine; it needs a beginning of time"
        )]
        let start = Instant::now();
        let mut line = Self {
            members: (0..count).map(member).collect(),
            elapsed: Duration::ZERO,
            answers: BTreeMap::new(),
            stand: Vec::new(),
            start,
            queue: VecDeque::new(),
            ends: BTreeMap::new(),
            last: 0,
        };
        line.found();
        for at in [0, 2].into_iter().filter(|at| *at < count) {
            line.join(at);
        }
        let served = Name::new("served").expect("a name");
        line.command(count - 1, Command::Register(served));
        line.wait(Duration::from_secs(2));
        // The first one of all finds the name and makes the association.
        line.ask(QosSpec::RAW);
        line.wait(Duration::from_secs(1));
        assert_eq!(line.stand.len(), 1, "no flow");
        line.end_all();
        line
    }

    /// The first member asks for a flow to `served`.
    pub(crate) fn ask(&mut self, qos: QosSpec) {
        self.last += 1;
        let ask = Allocate {
            flow: FlowId(self.last),
            name: Name::new("served").expect("a name"),
            source: None,
            qos,
            peer: None,
            user: USER,
            timeout_ms: 5_000,
            at: Vec::new(),
        };
        self.input(0, Input::Control(self.last, Command::Allocate(ask)));
    }

    /// The first member's users leave.
    pub(crate) fn end_all(&mut self) {
        for flow in std::mem::take(&mut self.stand) {
            let reason = Reason::new(Code::Closed, "done");
            self.command(0, Command::Dealloc(flow, reason));
        }
        self.settle();
        self.answers.clear();
    }

    /// The time, as an argument.
    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.start + self.elapsed,
            wall: UnixTime(Duration::from_secs(1_800_000_000) + self.elapsed),
        }
    }

    /// All that follows at once.
    pub(crate) fn settle(&mut self) {
        while let Some((at, input)) = self.queue.pop_front() {
            self.input(at, input);
        }
        // Acknowledgements that wait for more to acknowledge.
        for at in 0..self.members.len() {
            let due = self.members[at].deadline();
            if due.is_some_and(|due| due <= self.start + self.elapsed) {
                self.input(at, Input::Timeout);
            }
        }
        if !self.queue.is_empty() {
            self.settle();
        }
    }

    fn found(&mut self) {
        let bootstrap = Bootstrap {
            layer: label("ovl"),
            over: self.over(1),
            prefixes: Vec::new(),
            pools: Some(Vec::new()),
            cert_life: None,
            passphrase: None,
            shim_udp: None,
        };
        self.command(1, Command::Bootstrap(bootstrap));
    }

    fn join(&mut self, at: usize) {
        let invite = Invite {
            member: Some(label(NAMES[at])),
            prefixes: Vec::new(),
            expires_ms: 600_000,
            uses: 1,
            hints: Vec::new(),
            groups: Vec::new(),
        };
        let id = self.command(1, Command::Invite(invite));
        let Some(Ok(Answer::Invitation(url))) = self.answers.remove(&(1, id)) else {
            panic!("no invitation")
        };
        let enroll = Enroll {
            entry: Entry::Invitation(url),
            over: self.over(at),
            timeout_ms: 10_000,
        };
        let id = self.command(at, Command::Enroll(enroll));
        self.wait(Duration::from_secs(3));
        let joined = self.answers.remove(&(at, id));
        assert!(matches!(joined, Some(Ok(_))), "{joined:?}");
    }

    /// The lower layers of a member: that to the one before, that to the one behind.
    fn over(&self, at: usize) -> Vec<Label> {
        let links = at.saturating_sub(1)..=at.min(self.members.len() - 2);
        links.map(|link| label(NETS[link])).collect()
    }

    fn command(&mut self, at: usize, command: Command) -> CommandId {
        self.last += 1;
        let id = self.last;
        self.input(at, Input::Control(id, command));
        self.settle();
        id
    }

    fn input(&mut self, at: usize, input: Input<FlowId, FlowTell>) {
        let now = self.now();
        self.members[at].handle(now, input);
        while let Some(output) = self.members[at].poll() {
            self.output(at, output);
        }
    }

    fn output(&mut self, at: usize, output: Output<FlowId, FlowAsk>) {
        match output {
            Output::Lower(lower, batch) => {
                let to = self.other(at, lower);
                self.queue.push_back((to, Input::Lower(lower, batch)));
            }
            Output::Control(Event::Done(id, answer)) => {
                if let Ok(Answer::Allocated(_)) = &answer
                    && at == 0
                {
                    self.stand.push(FlowId(id));
                }
                self.answers.insert((at, id), answer);
            }
            Output::Control(Event::FlowRequest(request)) => {
                self.last += 1;
                let respond = Respond {
                    request: request.request,
                    verdict: Ok((FlowId(self.last), USER)),
                };
                let accept = Input::Control(self.last, Command::Respond(respond));
                self.queue.push_back((at, accept));
            }
            Output::Ask(FlowAsk::Dial {
                dial, dst, over, ..
            }) => self.dial(at, dial, dst.as_str(), over),
            Output::Ask(FlowAsk::Hangup(lower)) => {
                let reason = Reason::new(Code::Closed, "hung up");
                let down = Input::Tell(FlowTell::Down(lower, reason));
                let to = self.other(at, lower);
                self.queue.push_back((to, down));
            }
            Output::Control(
                Event::FlowDown(..) | Event::State(..) | Event::Notice(_) | Event::Members,
            )
            | Output::Unsealed(..)
            | Output::Upper(..)
            | Output::UpperPause(..)
            | Output::UpperShut(_)
            | Output::UpperMtu(..)
            | Output::UpperOpen(..)
            | Output::UpperClose(..)
            | Output::Save(..)
            | Output::Exit => {}
        }
    }

    /// A lower flow, if the two have a lower layer in common.
    fn dial(&mut self, at: usize, dial: u64, dst: &str, over: Label) {
        let link = NETS.iter().position(|net| *net == over.as_str());
        let ends = link.map(|link| [link, link + 1]);
        let to = ends.and_then(|ends| ends.into_iter().find(|end| NAMES[*end] == dst));
        let (Some(ends), Some(to)) = (ends, to) else {
            let reason = Reason::new(Code::NotFound, "not in this layer");
            let failed = Input::Tell(FlowTell::DialFailed(dial, reason));
            return self.queue.push_back((at, failed));
        };
        self.last += 1;
        let lower = FlowId(self.last);
        self.ends.insert(lower, ends);
        let up = |via, over| {
            Input::Tell(FlowTell::Up {
                lower,
                over,
                mtu: 1500,
                framing: Framing::Train,
                via,
            })
        };
        let accepted = up(Via::Accepted(None), over.clone());
        self.queue.push_back((to, accepted));
        self.queue.push_back((at, up(Via::Dialled(dial), over)));
    }

    fn other(&self, at: usize, lower: FlowId) -> usize {
        let ends = self
            .ends
            .get(&lower)
            .expect("a lower flow that was dialled");
        ends[0] + ends[1] - at
    }

    fn wait(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.elapsed < end {
            self.settle();
            let due = self.members.iter().filter_map(Ipcp::deadline).min();
            let due = due.map_or(end, |at| at.saturating_duration_since(self.start));
            self.elapsed = due.clamp(self.elapsed, end);
            if due <= end {
                for at in 0..self.members.len() {
                    self.input(at, Input::Timeout);
                }
            }
        }
    }
}

fn label(text: &str) -> Label {
    Label::new(text).expect("small letters")
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Between the first two, and the last two.
const NETS: [&str; 2] = ["net-ab", "net-bc"];
const USER: User = User {
    uid: 1000,
    ipcp: false,
};
