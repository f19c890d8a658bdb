//! A whole member of a layer: commands, packets, what the lower network tells, and time, in any order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use layer::{FlowAsk, FlowTell, Input, Ipcp, Now, Output, Unicast, Via};
use prost::Message;
use proto::ipcp::{Answer, Command, Enroll, Entry, Event, Respond, User};
use proto::{Batch, FlowId, Framing, Name, irm};

use super::commands::{commands, gone, label, upper};
use super::member::Layer;
use super::script::{Script, edited, write};

/// Two machines, and the way between their lower flows of the same id.
struct World {
    ends: [Unicast; 2],
    after: Duration,
    /// On its way: to whom, over which flow, what.
    way: VecDeque<(usize, FlowId, Vec<u8>)>,
    requests: VecDeque<(usize, u64)>,
    invitation: Option<String>,
    configured: [bool; 2],
}

impl World {
    fn new() -> Self {
        let machine = |name, seed| Unicast::new(label(name), [seed; 32], BTreeMap::new());
        Self {
            ends: [machine("a", 1), machine("b", 2)],
            after: Duration::ZERO,
            way: VecDeque::new(),
            requests: VecDeque::new(),
            invitation: None,
            configured: [false; 2],
        }
    }

    fn now(&self) -> Now {
        Layer::get().at(self.after)
    }

    /// One input, drained; a dial reaches the other machine at once.
    fn input(&mut self, end: usize, input: Input<FlowId, FlowTell>) {
        let mut inputs = VecDeque::from([(end, input)]);
        let mut steps = 0;
        while let Some((end, input)) = inputs.pop_front() {
            let now = self.now();
            self.ends[end].handle(now, input);
            while let Some(output) = self.ends[end].poll() {
                steps += 1;
                assert!(steps < 10_000, "one input never ends");
                match output {
                    Output::Lower(flow, batch) => {
                        let packets = batch.iter().map(|p| (1 - end, flow, p.to_vec()));
                        self.way.extend(packets);
                    }
                    Output::Ask(FlowAsk::Dial { dial, .. }) => {
                        let up = |via| Input::Tell(up(FlowId(dial), 1400, via));
                        inputs.push_back((end, up(Via::Dialled(dial))));
                        inputs.push_back((1 - end, up(Via::Accepted(None))));
                    }
                    Output::Control(event) => self.event(end, event),
                    _ => {}
                }
            }
        }
        self.way.truncate(1024);
    }

    fn event(&mut self, end: usize, event: Event) {
        match event {
            Event::FlowRequest(ask) => self.requests.push_back((end, ask.request)),
            Event::Done(_, Ok(Answer::Invitation(url))) => self.invitation = Some(url),
            Event::Done(_, Ok(Answer::Configured(_))) => self.configured[end] = true,
            _ => {}
        }
    }

    fn deliver(&mut self, edits: &[u8]) {
        if let Some((end, flow, packet)) = self.way.pop_front() {
            self.lower(end, flow, &edited(&packet, edits));
        }
    }

    fn lower(&mut self, end: usize, flow: FlowId, packet: &[u8]) {
        let mut batch = Batch::new(Framing::Train);
        if let Some(room) = batch.push(packet.len()) {
            room.copy_from_slice(packet);
            self.input(end, Input::Lower(flow, batch));
        }
    }

    /// Lets all that is on its way arrive, and a tenth of a second pass.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.deliver(&[]);
        }
        self.after += Duration::from_millis(100);
        for end in 0..2 {
            for _ in 0..100 {
                let now = self.now().mono;
                if self.ends[end].deadline().is_none_or(|at| at > now) {
                    break;
                }
                self.input(end, Input::Timeout);
            }
            let now = self.now().mono;
            let due = self.ends[end].deadline().is_some_and(|at| at <= now);
            assert!(!due, "a deadline stays due however often it is met");
        }
    }

    /// Makes `a` the first member, and `b` another if that is wanted.
    fn prepare(&mut self, both: bool) {
        let [(_, bootstrap), (_, invite), ..] = commands();
        self.input(0, Input::Control(1, bootstrap));
        if !both {
            return;
        }
        self.input(0, Input::Control(2, invite));
        let entry = Entry::Invitation(self.invitation.clone().unwrap());
        let enroll = Enroll {
            entry,
            over: vec![label("udp")],
            timeout_ms: 10_000,
        };
        self.input(1, Input::Control(1, Command::Enroll(enroll)));
        for _ in 0..30 {
            if self.configured[1] {
                break;
            }
            self.settle();
        }
        assert!(self.configured[1], "b is no member");
        let name = Name::new("echo").unwrap();
        self.input(0, Input::Control(3, Command::Register(name)));
        self.settle();
        self.settle();
    }

    fn act(&mut self, act: u8, script: &mut Script<'_>) {
        let (end, flow) = (usize::from(act >> 7), FlowId((act >> 4 & 7).into()));
        match act & 15 {
            0 => self.deliver(script.bytes()),
            1 => self.lower(end, flow, script.bytes()),
            2 => {
                let decoded = irm::IpcpCommand::decode(script.bytes()).map(Command::from_message);
                if let Ok(Ok(Some(command))) = decoded {
                    self.input(end, Input::Control(9, command));
                }
            }
            3 => {
                let mtu = script.short().into();
                let name = Name::from_bytes(script.bytes()).ok();
                self.input(end, Input::Tell(up(flow, mtu, Via::Accepted(name))));
            }
            4 => self.input(end, Input::Tell(FlowTell::Down(flow, gone()))),
            5 => self.input(end, Input::Tell(FlowTell::Mtu(flow, script.short().into()))),
            6 => self.input(end, Input::Tell(FlowTell::DialFailed(flow.0, gone()))),
            7 => self.input(end, Input::Upper(flow, upper(script.bytes()))),
            8 => self.input(end, Input::UpperGone(flow, gone())),
            9 => drop(self.way.pop_front()),
            10 => {
                let Some((end, request)) = self.requests.pop_front() else {
                    return;
                };
                let verdict = Ok((
                    flow,
                    User {
                        uid: 0,
                        ipcp: false,
                    },
                ));
                let respond = Command::Respond(Respond { request, verdict });
                self.input(end, Input::Control(8, respond));
            }
            11 => self.after += Duration::from_millis(script.short().into()),
            12 => self.input(end, Input::Timeout),
            _ => self.settle(),
        }
    }
}

/// The first byte tells how to begin: with strangers, with one member, or with two that are neighbours. A list of acts
/// follows.
pub fn run(bytes: &[u8]) {
    let mut world = World::new();
    let mut script = Script(bytes);
    match script.byte() % 3 {
        0 => {}
        begin => world.prepare(begin == 2),
    }
    for _ in 0..64 {
        let Some(act) = script.act() else { break };
        world.act(act, &mut script);
    }
}

/// Each command to two members, a flow with SDUs, and packets that are made up, changed and lost.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let act = |act: u8, bytes: &[u8]| {
        let mut out = Vec::new();
        write(&mut out, &[act], bytes);
        out
    };
    let command = |command: Command| act(0x82, &command.into_message(5).encode_to_vec());
    let all = commands();
    let allocate = all
        .iter()
        .find(|(name, _)| *name == "allocate")
        .unwrap()
        .1
        .clone();
    let flow = [
        vec![2],
        command(allocate),
        vec![15, 0x1a, 15],
        act(0xf7, &[0, 2, b'h', b'i']),
        vec![15, 0xf8, 15],
    ];
    let hello = |edits: &[u8]| [vec![2, 11, 1, 0, 12, 0x8c], act(0, edits), vec![15, 15]].concat();
    let made_up = |first: u8| {
        let pdu = [&[first, 0, 0, 0, 0, 0, 0, 1, 0, 0][..], &[5; 40]].concat();
        [
            vec![1, 0x13, 5, 120, 0, 0],
            act(0x11, &pdu),
            vec![15, 0x14, 15],
        ]
        .concat()
    };
    let mut out = vec![
        ("flow", flow.concat()),
        ("changed", hello(&[3, 0, 20, 1])),
        ("cut", hello(&[0, 0, 15, 0])),
        ("lost", vec![2, 11, 1, 0, 12, 0x8c, 9, 9, 15, 15]),
        ("made-up-handshake", made_up(0x11)),
        ("made-up-sealed", made_up(0x12)),
    ];
    out.extend(
        all.into_iter()
            .map(|(name, asked)| (name, [vec![2], command(asked), vec![15]].concat())),
    );
    out
}

fn up(lower: FlowId, mtu: u32, via: Via) -> FlowTell {
    FlowTell::Up {
        lower,
        over: label("udp"),
        mtu,
        framing: Framing::Train,
        via,
    }
}
