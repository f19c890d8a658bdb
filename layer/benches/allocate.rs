//! What a flow costs two members that have an association, both of them on one core: request, acceptance, answer, and the end on
//! both sides. `taskset -c 1 cargo bench -p layer --bench allocate`; the inverse is flows a second. Processes and sockets around
//! them are in `lab-bench allocate`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use divan::Bencher;
use layer::{FlowAsk, FlowTell, Input, Ipcp, Now, Output, Unicast, UnixTime, Via};
use proto::ipcp::{
    Allocate, Answer, Bootstrap, Command, CommandId, Enroll, Entry, Event, Invite, Respond, User,
};
use proto::{Code, FlowId, Framing, Label, Name, QosSpec, Reason};

fn main() {
    divan::main();
}

#[divan::bench]
fn raw(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    bencher.bench_local(|| pair.flow(QosSpec::RAW));
}

#[divan::bench]
fn data(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    bencher.bench_local(|| pair.flow(QosSpec::DATA));
}

/// One more, while so many stand with the same member.
#[divan::bench(args = [10, 1_000, 10_000])]
fn raw_beside(bencher: Bencher<'_, '_>, standing: usize) {
    let mut pair = Pair::new();
    pair.stand_by(standing);
    bencher.bench_local(|| pair.flow(QosSpec::RAW));
}

/// 64 that are asked for before the first is answered.
#[divan::bench]
fn raw_64_at_once(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    bencher
        .counter(divan::counter::ItemsCount::new(64usize))
        .bench_local(|| {
            for _ in 0..64 {
                pair.ask(QosSpec::RAW);
            }
            pair.settle();
            assert_eq!(pair.stand.len(), 64);
            pair.end_all();
        });
}

/// Two members and what is between them: nothing. Their clock moves only as far as their limits on requests want.
struct Pair {
    members: [Unicast; 2],
    start: Instant,
    elapsed: Duration,
    queue: VecDeque<(usize, Input<FlowId, FlowTell>)>,
    answers: BTreeMap<(usize, CommandId), Result<Answer, Reason>>,
    /// Flows that the second has been asked for and has accepted.
    stand: Vec<FlowId>,
    last: u64,
}

impl Pair {
    fn new() -> Self {
        let member = |name: &str| {
            let label = Label::new(name).expect("small letters");
            Unicast::new(label, [name.len() as u8; 32], BTreeMap::new())
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a bench is no part of the machine; it needs a beginning of time"
        )]
        let start = Instant::now();
        let mut pair = Self {
            members: [member("a"), member("bb")],
            start,
            elapsed: Duration::ZERO,
            queue: VecDeque::new(),
            answers: BTreeMap::new(),
            stand: Vec::new(),
            last: 0,
        };
        pair.join();
        let served = Name::new("served").expect("a name");
        pair.command(1, Command::Register(served));
        pair.wait(Duration::from_secs(2));
        // The first one of all finds the name and makes the association.
        pair.ask(QosSpec::RAW);
        pair.wait(Duration::from_secs(1));
        assert_eq!(pair.stand.len(), 1, "no flow");
        pair.end_all();
        pair
    }

    fn join(&mut self) {
        let label = |text| Label::new(text).expect("small letters");
        let over = vec![label("net")];
        let bootstrap = Bootstrap {
            layer: label("ovl"),
            over: over.clone(),
            prefixes: Vec::new(),
            pools: Some(Vec::new()),
            cert_life: None,
            passphrase: None,
            shim_udp: None,
        };
        self.command(1, Command::Bootstrap(bootstrap));
        let invite = Invite {
            member: Some(label("a")),
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
            over,
            timeout_ms: 10_000,
        };
        let id = self.command(0, Command::Enroll(enroll));
        self.wait(Duration::from_secs(3));
        let joined = self.answers.remove(&(0, id));
        assert!(matches!(joined, Some(Ok(_))), "{joined:?}");
    }

    /// One flow, from the request to its end on both sides.
    fn flow(&mut self, qos: QosSpec) {
        self.ask(qos);
        self.settle();
        assert_eq!(self.stand.len(), 1);
        self.end_all();
    }

    /// Flows that nobody ends.
    fn stand_by(&mut self, count: usize) {
        for _ in 0..count {
            self.ask(QosSpec::RAW);
            self.settle();
        }
        assert_eq!(std::mem::take(&mut self.stand).len(), count);
        self.answers.clear();
    }

    fn ask(&mut self, qos: QosSpec) {
        self.last += 1;
        self.elapsed += STEP;
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
    fn end_all(&mut self) {
        for flow in std::mem::take(&mut self.stand) {
            let reason = Reason::new(Code::Closed, "done");
            self.command(0, Command::Dealloc(flow, reason));
        }
        self.settle();
        self.answers.clear();
    }

    fn command(&mut self, at: usize, command: Command) -> CommandId {
        self.last += 1;
        let id = self.last;
        self.input(at, Input::Control(id, command));
        self.settle();
        id
    }

    fn input(&mut self, at: usize, input: Input<FlowId, FlowTell>) {
        let now = Now {
            mono: self.start + self.elapsed,
            wall: UnixTime(Duration::from_secs(1_800_000_000) + self.elapsed),
        };
        self.members[at].handle(now, input);
        while let Some(output) = self.members[at].poll() {
            self.output(at, output);
        }
    }

    fn output(&mut self, at: usize, output: Output<FlowId, FlowAsk>) {
        let to = 1 - at;
        match output {
            // A lower flow has the same number at both ends.
            Output::Lower(lower, batch) => {
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
            Output::Ask(FlowAsk::Dial { dial, over, .. }) => {
                self.last += 1;
                let up = |via, over| {
                    Input::Tell(FlowTell::Up {
                        lower: FlowId(self.last),
                        over,
                        mtu: 1472,
                        framing: Framing::Train,
                        via,
                    })
                };
                let accepted = up(Via::Accepted(None), over.clone());
                let dialled = up(Via::Dialled(dial), over);
                self.queue.push_back((to, accepted));
                self.queue.push_back((at, dialled));
            }
            Output::Ask(FlowAsk::Hangup(lower)) => {
                let reason = Reason::new(Code::Closed, "hung up");
                let down = Input::Tell(FlowTell::Down(lower, reason));
                self.queue.push_back((to, down));
            }
            Output::Control(Event::FlowDown(..) | Event::State(..) | Event::Notice(_))
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

    /// All that follows at once.
    fn settle(&mut self) {
        while let Some((at, input)) = self.queue.pop_front() {
            self.input(at, input);
        }
        // Acknowledgements that wait for more to acknowledge.
        for at in [0, 1] {
            let due = self.members[at].deadline();
            if due.is_some_and(|due| due <= self.start + self.elapsed) {
                self.input(at, Input::Timeout);
            }
        }
        if !self.queue.is_empty() {
            self.settle();
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.elapsed < end {
            self.settle();
            let due = self.members.iter().filter_map(Ipcp::deadline).min();
            let due = due.map_or(end, |at| at.saturating_duration_since(self.start));
            self.elapsed = due.clamp(self.elapsed, end);
            if due <= end {
                self.input(0, Input::Timeout);
                self.input(1, Input::Timeout);
            }
        }
    }
}

const USER: User = User {
    uid: 1000,
    ipcp: false,
};
/// Between two requests, so that they stay below what a member takes of another.
const STEP: Duration = Duration::from_micros(150);
