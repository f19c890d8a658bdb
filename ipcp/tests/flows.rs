//! A machine over flows: the process below is a real one, and so are the sockets.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, in its helpers too"
)]
#![allow(dead_code, reason = "each test program uses its part of the helpers")]

mod daemon;
mod mirror;
mod probe;

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;

use daemon::{Attached, Daemon, Listening, within};
use ipcp::udp::UdpPort;
use ipcp::{Config, FlowLower};
use layer::{FlowTell, Via};
use libflow::{Code, FlowId, Framing, QosSpec, Reason, Secret};
use mirror::{Mirror, Nothing};
use probe::{Heard, IT_IS_ME, Probe};
use proto::ipcp::{Allocate, Answer, Command, Event, Settings, User};
use proto::irm as pb;
use rustix::net::sockopt;
use tokio::sync::mpsc;

/// A daemon, a mirror below and a probe over it.
struct Stack {
    daemon: Daemon,
    below: Attached,
    probe: Attached,
    heard: mpsc::UnboundedReceiver<Heard>,
    _dir: tempfile::TempDir,
}

fn config(dir: &Path, name: &str) -> Config {
    Config {
        name: name.parse().unwrap(),
        kind: "unicast",
        run_dir: dir.join("run"),
        state_dir: dir.join(name),
        secret: Secret::from([9; 32]),
    }
}

async fn start(socket: Option<UdpSocket>) -> Stack {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let mut daemon = Daemon::start(&dir.path().join("run"));
    let below = config(dir.path(), "mirror");
    tokio::spawn(ipcp::run(Mirror::new(0), Nothing(socket), below));
    let below = daemon.attached().await;
    let (machine, heard) = Probe::new();
    let over = config(dir.path(), "probe");
    tokio::spawn(ipcp::run(machine, FlowLower::new(&over), over));
    let probe = daemon.attached().await;
    Stack {
        daemon,
        below,
        probe,
        heard,
        _dir: dir,
    }
}

impl Stack {
    async fn heard(&mut self) -> Heard {
        within(self.heard.recv()).await.unwrap()
    }

    /// Does irmd's part in a dial: asks the process below for a flow and says where it is.
    async fn broker(&mut self, flow: u64) {
        let (request, reply) = self.daemon.allocation().await;
        assert_eq!(
            (request.name.as_str(), request.layer.as_str()),
            ("far", "mirrors")
        );
        assert_eq!(
            (request.source.as_str(), request.qos),
            ("probe", Some(QosSpec::RAW.into()))
        );
        let end = self.allocate_below(flow).await;
        reply.send(Ok(end)).unwrap();
    }

    /// Does irmd's part in a flow to the process' own name.
    async fn accept(&mut self, flow: u64) -> Listening {
        let mut listening = self.daemon.listening().await;
        let listen = &listening.listen;
        assert_eq!((listen.name.as_str(), listen.layers.len()), ("probe", 0));
        let ready = self.allocate_below(flow).await;
        let offer = offer(&listening, flow, false);
        listening.commands.send(offer).await.unwrap();
        assert!(within(listening.answers.recv()).await.unwrap().accept);
        let ready = say(pb::program_command::Command::Ready(ready));
        listening.commands.send(ready).await.unwrap();
        let Heard::Tell(FlowTell::Up {
            lower,
            via: Via::Accepted(_),
            ..
        }) = self.heard().await
        else {
            panic!("the flow did not come up");
        };
        assert_eq!(lower, FlowId(flow));
        listening
    }

    /// What the probe's process says of itself.
    async fn status(&mut self) -> pb::IpcpStatus {
        let asked = self.probe.ask(Command::Status).await;
        loop {
            if let Event::Done(id, Ok(Answer::Status(status))) = self.probe.event().await
                && id == asked
            {
                return *status;
            }
        }
    }

    async fn allocate_below(&mut self, flow: u64) -> pb::FlowEnd {
        let user = User {
            uid: rustix::process::getuid().as_raw(),
            ipcp: true,
        };
        let allocate = Allocate {
            flow: FlowId(flow),
            name: "far".parse().unwrap(),
            source: None,
            qos: QosSpec::RAW,
            peer: None,
            user,
            timeout_ms: 1000,
            at: Vec::new(),
        };
        self.below.ask(Command::Allocate(allocate)).await;
        let Event::Done(_, Ok(Answer::Allocated(allocated))) = self.below.event().await else {
            panic!("not allocated");
        };
        let (socket, token) = (
            self.below.hello.data_socket.clone(),
            allocated.token.unwrap(),
        );
        pb::FlowEnd {
            flow,
            socket,
            token: token.0.to_vec(),
        }
    }
}

#[tokio::test]
async fn a_dialled_flow_stands_carries_packets_and_ends_with_the_process_below() {
    let mut stack = start(None).await;
    stack
        .probe
        .ask(Command::Connect("far".parse().unwrap(), None))
        .await;
    stack.broker(7).await;
    let Heard::Tell(FlowTell::Up {
        lower,
        over,
        mtu,
        framing,
        via,
    }) = stack.heard().await
    else {
        panic!("the flow did not come up");
    };
    assert_eq!((lower, over.as_str(), mtu), (FlowId(7), "mirrors", 9000));
    assert_eq!((framing, via), (Framing::Record, Via::Dialled(1)));
    stack
        .probe
        .ask(Command::Register("first".parse().unwrap()))
        .await;
    assert_eq!(
        stack.heard().await,
        Heard::Packets(FlowId(7), vec![b"first".to_vec(); 3])
    );
    stack
        .below
        .ask(Command::Dealloc(
            FlowId(7),
            Reason::new(Code::Denied, "policy"),
        ))
        .await;
    let down = FlowTell::Down(FlowId(7), Reason::new(Code::Denied, "policy"));
    assert_eq!(stack.heard().await, Heard::Tell(down));
}

#[tokio::test]
async fn a_dial_that_is_refused_says_why() {
    let mut stack = start(None).await;
    stack
        .probe
        .ask(Command::Connect("far".parse().unwrap(), None))
        .await;
    let (_, reply) = stack.daemon.allocation().await;
    let why = Reason::new(Code::NotFound, "nobody there");
    reply.send(Err(why.clone())).unwrap();
    assert_eq!(
        stack.heard().await,
        Heard::Tell(FlowTell::DialFailed(1, why))
    );
}

#[tokio::test]
async fn a_flow_that_is_hung_up_is_given_back_below() {
    let mut stack = start(None).await;
    stack
        .probe
        .ask(Command::Connect("far".parse().unwrap(), None))
        .await;
    stack.broker(8).await;
    assert!(matches!(
        stack.heard().await,
        Heard::Tell(FlowTell::Up { .. })
    ));
    stack
        .probe
        .ask(Command::Disconnect("far".parse().unwrap()))
        .await;
    let Event::FlowDown(FlowId(8), _) = stack.below.event().await else {
        panic!("the process below did not hear of it");
    };
}

#[tokio::test]
async fn flows_to_the_own_name_are_accepted_and_programs_of_the_host_are_not() {
    let mut stack = start(None).await;
    let mut listening = stack.accept(9).await;
    let offer = offer(&listening, 10, true);
    listening.commands.send(offer).await.unwrap();
    assert!(!within(listening.answers.recv()).await.unwrap().accept);
}

/// A flow to the probe's own name, from a program of this host or not.
fn offer(
    listening: &Listening,
    flow: u64,
    direct: bool,
) -> Result<pb::ProgramCommand, tonic::Status> {
    say(pb::program_command::Command::Offer(pb::FlowOffer {
        flow,
        listener: listening.listen.id,
        name: "probe".into(),
        peer: Some(pb::Peer {
            name: "far".into(),
            layer: "mirrors".into(),
            member: String::new(),
        }),
        qos: Some(QosSpec::RAW.into()),
        mtu: 9000,
        deadline_ms: 5000,
        direct,
        token: vec![1; 16],
        uid: 0,
    }))
}

fn say(command: pb::program_command::Command) -> Result<pb::ProgramCommand, tonic::Status> {
    let command = Some(command);
    Ok(pb::ProgramCommand { command })
}

#[tokio::test]
async fn little_waits_in_a_flow_that_was_accepted_until_it_is_known_whose_it_is() {
    let (far, near) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    let room = |socket: &UdpSocket| sockopt::socket_recv_buffer_size(socket).unwrap();
    let looks = near.try_clone().unwrap();
    // As the process below hands it over.
    ipcp::udp::widen(&near);
    let wide = room(&near);
    sockopt::set_socket_recv_buffer_size(&far, UdpPort::NARROW).unwrap();
    let narrow = room(&far);
    let mut stack = start(Some(near)).await;
    stack.accept(9).await;
    for said in [b"a stranger".as_slice(), IT_IS_ME, b"a neighbour"] {
        assert_eq!(room(&looks), narrow, "{said:?}");
        far.send(said).unwrap();
        let heard = Heard::Packets(FlowId(9), vec![said.to_vec()]);
        assert_eq!(stack.heard().await, heard);
    }
    assert_eq!(room(&looks), wide);
}

/// A stack with a dialled flow, 7, whose socket was handed over, and the far end of that.
async fn handed_over() -> (Stack, tokio::net::UdpSocket) {
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    far.set_nonblocking(true).unwrap();
    let far = tokio::net::UdpSocket::from_std(far).unwrap();
    let mut stack = start(Some(near)).await;
    stack
        .probe
        .ask(Command::Connect("far".parse().unwrap(), None))
        .await;
    stack.broker(7).await;
    let Heard::Tell(FlowTell::Up { framing, mtu, .. }) = stack.heard().await else {
        panic!("the flow did not come up");
    };
    assert_eq!((framing, mtu), (Framing::Train, 9000));
    (stack, far)
}

#[tokio::test]
async fn switches_of_the_process_below_hold_for_the_socket_that_it_has_handed_over() {
    let (mut stack, far) = handed_over().await;
    // What is said, the sockets with GSO and with GRO after that, and the trains that went.
    for (said, gso, gro, trains) in [
        (&[][..], "1", "1", 1),
        (&["mirrors=gso=off"], "0", "1", 1),
        (&["mirrors=gso=off", "mirrors=gro=off"], "0", "0", 1),
        (&["elsewhere=gso=off", "mirrors=gro=off"], "1", "0", 2),
        (&[], "1", "1", 3),
    ] {
        let below = said.iter().map(|s| s.parse().unwrap()).collect();
        let settings = Settings {
            below: Some(below),
            ..Settings::default()
        };
        stack.probe.ask(Command::Set(settings)).await;
        stack
            .probe
            .ask(Command::Register("train".parse().unwrap()))
            .await;
        for _ in 0..3 {
            assert_eq!(within(far.recv(&mut [0; 100])).await.unwrap(), 5);
        }
        let status = stack.status().await;
        let shown = |key: &str| status.settings[key].clone();
        assert_eq!(
            (&*shown("offload.gso"), &*shown("offload.gro")),
            ("auto", "auto")
        );
        assert_eq!(shown("offload.kernel"), "gso,gro");
        assert_eq!(shown("lower.udp_sockets"), "1");
        assert_eq!(shown("offload.gso_sockets"), gso, "{said:?}");
        assert_eq!(shown("offload.gro_sockets"), gro, "{said:?}");
        assert_eq!(status.counters["udp.gso_trains"], trains, "{said:?}");
    }
    // A train comes.
    let stride = nix::sys::socket::ControlMessage::UdpGsoSegments(&5);
    let three = [std::io::IoSlice::new(b"one  two  three")];
    let flags = nix::sys::socket::MsgFlags::empty();
    nix::sys::socket::sendmsg::<()>(far.as_raw_fd(), &three, &[stride], flags, None).unwrap();
    let packets = [b"one  ", b"two  ", b"three"].map(|p| p.to_vec());
    let heard = Heard::Packets(FlowId(7), packets.to_vec());
    assert_eq!(stack.heard().await, heard);
    assert_eq!(stack.status().await.counters["udp.gro_trains"], 1);
}

#[tokio::test]
async fn a_socket_that_is_handed_over_carries_trains_and_its_end_is_noticed() {
    let (mut stack, far) = handed_over().await;
    stack
        .probe
        .ask(Command::Register("train".parse().unwrap()))
        .await;
    let mut buf = [0; 100];
    for _ in 0..3 {
        assert_eq!(within(far.recv(&mut buf)).await.unwrap(), 5);
        assert_eq!(&buf[..5], b"train");
    }
    far.send(b"").await.unwrap();
    far.send(b"back").await.unwrap();
    assert_eq!(
        stack.heard().await,
        Heard::Packets(FlowId(7), vec![b"back".to_vec()])
    );
    drop(far);
    stack
        .probe
        .ask(Command::Register("into the void".parse().unwrap()))
        .await;
    let Heard::Tell(FlowTell::Down(FlowId(7), reason)) = stack.heard().await else {
        panic!("nobody noticed");
    };
    assert_eq!(reason.code, Code::Unreachable);
    // The process below is told, so that it can let go of its own descriptor.
    let Event::FlowDown(FlowId(7), _) = stack.below.event().await else {
        panic!("the process below did not hear of it");
    };
}
