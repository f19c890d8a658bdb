//! The UDP shim: requests, echoes and all else that its sockets may tell, in any order.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use layer::{Input, Ipcp, Now, Output};
use prost::Message;
use proto::ipcp::{Bootstrap, Command, Event, Respond, ShimUdp, User};
use proto::{Batch, FlowId, Framing, Name, irm};
use shim_udp::{Ask, Shim, SocketKey, Tell, Unbound};

use super::commands::{commands, gone, label, upper};
use super::member::Layer;
use super::script::{Script, write};

struct World {
    shim: Shim,
    after: Duration,
    /// Flow requests that nobody has answered.
    requests: VecDeque<u64>,
}

impl World {
    fn now(&self) -> Now {
        Layer::get().at(self.after)
    }

    /// One input, drained; what sockets would answer at once is answered.
    fn input(&mut self, input: Input<SocketKey, Tell>) {
        let mut inputs = VecDeque::from([input]);
        let mut steps = 0;
        while let Some(input) = inputs.pop_front() {
            steps += 1;
            assert!(steps < 10_000, "one input never ends");
            self.shim.handle(self.now(), input);
            while let Some(output) = self.shim.poll() {
                match output {
                    Output::Ask(Ask::Listen(_)) => inputs.push_back(Input::Tell(Tell::Listening)),
                    Output::Ask(Ask::Open(open)) => {
                        let mtu = if open.connect.is_some() { 1472 } else { 0 };
                        inputs.push_back(Input::Tell(Tell::Opened(open.key, mtu)));
                    }
                    Output::Ask(Ask::Connect(key, _)) => {
                        inputs.push_back(Input::Tell(Tell::Opened(key, 1472)));
                    }
                    Output::Control(Event::FlowRequest(ask)) => {
                        self.requests.push_back(ask.request)
                    }
                    Output::Exit => return,
                    _ => {}
                }
            }
        }
        let (unconfirmed, all) = self.shim.sockets();
        assert!(
            unconfirmed <= all && unconfirmed <= 4096,
            "{unconfirmed} unconfirmed of {all}"
        );
    }

    fn command(&mut self, command: Command) {
        self.input(Input::Control(1, command));
    }

    fn timeout(&mut self) {
        let Some(due) = self.shim.deadline() else {
            return;
        };
        self.after = self.after.max(due.saturating_duration_since(beginning()));
        self.input(Input::Timeout);
    }

    fn act(&mut self, act: u8, script: &mut Script<'_>) {
        let key = SocketKey((act >> 5).into());
        let from = SocketAddr::from(([192, 0, 2, 1 + (act >> 7)], 4000));
        match act & 15 {
            0 => self.input(Input::Tell(Tell::Request(from, script.bytes().to_vec()))),
            1 => self.input(Input::Tell(Tell::Datagram(
                key,
                from,
                script.bytes().to_vec(),
            ))),
            2 => self.input(Input::Tell(Tell::Front(key, from, script.bytes().to_vec()))),
            3 => self.input(Input::Tell(Tell::Empty(key))),
            4 => self.input(Input::Tell(Tell::Unreachable(key))),
            5 => self.input(Input::Tell(Tell::NotSent(key, "no".into()))),
            6 => self.input(Input::Tell(Tell::Mtu(key, script.short().into()))),
            7 => {
                let ips = script
                    .bytes()
                    .iter()
                    .map(|b| IpAddr::from([192, 0, 2, *b]))
                    .collect();
                self.input(Input::Tell(Tell::Resolved(key, ips)));
            }
            8 => self.input(Input::Tell(Tell::NotOpened(key, "no".into()))),
            9 => {
                let decoded = irm::IpcpCommand::decode(script.bytes()).map(Command::from_message);
                if let Ok(Ok(Some(command))) = decoded {
                    self.command(command);
                }
            }
            10 => self.input(Input::Upper(FlowId(key.0), upper(script.bytes()))),
            11 => self.input(Input::UpperGone(FlowId(key.0), gone())),
            12 => {
                let bytes = script.bytes();
                let mut batch = Batch::new(Framing::Train);
                batch.space()[..bytes.len()].copy_from_slice(bytes);
                batch.set_train(bytes.len(), 700);
                self.input(Input::Lower(key, batch));
            }
            13 => {
                let Some(request) = self.requests.pop_front() else {
                    return;
                };
                let user = User {
                    uid: 0,
                    ipcp: act & 16 != 0,
                };
                let verdict = Ok((FlowId(request), user));
                self.command(Command::Respond(Respond { request, verdict }));
            }
            14 => self.after += Duration::from_millis(script.short().into()),
            _ if act & 16 == 0 => self.timeout(),
            _ => self.input(Input::Tell(Tell::NotListening(Unbound::InUse, "no".into()))),
        }
    }
}

/// A list of acts on a shim that serves `echo`.
pub fn run(bytes: &[u8]) {
    let mut world = World {
        shim: Shim::new([3; 32]),
        after: Duration::ZERO,
        requests: VecDeque::new(),
    };
    let own = ShimUdp {
        ip: IpAddr::from(Ipv4Addr::LOCALHOST).into(),
        port: 3435,
        hosts: vec!["echo=192.0.2.1".parse().unwrap()],
        dns: None,
        flow_ports: None,
        offload: vec![],
    };
    world.command(Command::Bootstrap(Bootstrap {
        layer: label("udp"),
        over: vec![],
        prefixes: vec![],
        pools: Some(Vec::new()),
        cert_life: None,
        passphrase: None,
        shim_udp: Some(own),
    }));
    world.command(Command::Register(Name::new("echo").unwrap()));
    let mut script = Script(bytes);
    for _ in 0..256 {
        let Some(act) = script.act() else { break };
        world.act(act, &mut script);
    }
}

/// A client that is served, floods, an allocation that is answered, and each command.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let act = |act: u8, bytes: &[u8]| {
        let mut out = Vec::new();
        write(&mut out, &[act], bytes);
        out
    };
    let served = [
        act(0, b"echo"),
        act(0x22, b""),
        vec![13],
        act(0x2c, b"first"),
        act(0x2a, &[0, 2, b'h', b'i']),
        vec![0x24],
    ];
    let mut out = vec![
        ("served", served.concat()),
        (
            "served-by-process",
            [
                act(0, b"echo"),
                act(0x22, b"sdu"),
                vec![29, 14, 0xff, 0xff, 15, 15],
            ]
            .concat(),
        ),
        ("unknown", act(0, b"nobody")),
        ("no-name", act(0, &[0xff; 300])),
        (
            "again",
            [
                act(0, b"echo"),
                act(0, b"echo"),
                act(0x40, b"echo"),
                vec![15, 15],
            ]
            .concat(),
        ),
        ("rebound", vec![31, 15, 15]),
    ];
    for (name, command) in commands() {
        let asked = act(9, &command.into_message(5).encode_to_vec());
        let echoed = [act(0x21, b"echo"), vec![15, 0x24, 15]].concat();
        out.push((name, [asked, echoed].concat()));
    }
    out
}

fn beginning() -> Instant {
    Layer::get().at(Duration::ZERO).mono
}
