//! A shim with its sockets, driven by the test in place of the runtime.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use layer::{Input, Ipcp, Now, Output, UnixTime};
use proto::ipcp::{
    Allocate, Answer, Bootstrap, Command, Event, FlowRequest, Respond, ShimUdp, State, User,
};
use proto::{Batch, FlowId, Framing, Label, Name, QosSpec, Reason};
use shim_udp::sockets::{Heard, Sockets};
use shim_udp::{Shim, SocketKey, Tell};
use tokio::sync::mpsc;

pub(crate) struct Host {
    pub(crate) shim: Shim,
    pub(crate) sockets: Sockets,
    pub(crate) at: SocketAddr,
    pub(crate) events: Vec<Event>,
    pub(crate) sdus: Vec<Vec<u8>>,
    pub(crate) handed: Vec<OwnedFd>,
    answers: mpsc::Receiver<Tell>,
}

impl Host {
    /// A shim that is bootstrapped on a free port of `ip` and has registered `srv`.
    pub(crate) async fn up(ip: &str, hosts: &[String]) -> Self {
        let at = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
        let mut host = Self::bootstrapped(at, hosts, None).await;
        host.until("the shim is up", |h| h.state() == Some(State::Up))
            .await;
        host.control(2, Command::Register(Name::new("srv").unwrap()));
        host
    }

    pub(crate) async fn bootstrapped(
        at: SocketAddr,
        hosts: &[String],
        flow_ports: Option<(u16, u16)>,
    ) -> Self {
        let hosts = hosts.iter().map(|h| h.parse().unwrap()).collect();
        let shim_udp = ShimUdp {
            ip: at.ip().into(),
            port: at.port(),
            hosts,
            dns: None,
            flow_ports,
            offload: vec![],
        };
        Self::with(at, shim_udp).await
    }

    pub(crate) async fn with(at: SocketAddr, shim_udp: ShimUdp) -> Self {
        let (shim, mut sockets) = (Shim::new([at.port() as u8; 32]), Sockets::new().unwrap());
        let (answer_to, answers) = mpsc::channel(16);
        sockets.answer_to(answer_to);
        let mut host = Self {
            shim,
            sockets,
            at,
            events: vec![],
            sdus: vec![],
            handed: vec![],
            answers,
        };
        let layer = Label::new("w1").unwrap();
        host.control(
            1,
            Command::Bootstrap(Bootstrap {
                layer,
                over: vec![],
                prefixes: vec![],
                pools: Some(Vec::new()),
                cert_life: None,
                passphrase: None,
                shim_udp: Some(shim_udp),
            }),
        );
        host
    }

    pub(crate) fn control(&mut self, id: u64, command: Command) {
        self.input(Input::Control(id, command));
    }

    pub(crate) fn allocate(&mut self, id: u64, to: &str, user: User, timeout_ms: u64) {
        let (flow, name) = (FlowId(id), Name::new(to).unwrap());
        let allocate = Allocate {
            flow,
            name,
            source: None,
            qos: QosSpec::RAW,
            peer: None,
            user,
            timeout_ms,
            at: Vec::new(),
        };
        self.control(id, Command::Allocate(allocate));
    }

    pub(crate) fn accept(&mut self, request: u64, flow: u64, user: User) {
        self.control(
            1_000_000 + request,
            Command::Respond(Respond {
                request,
                verdict: Ok((FlowId(flow), user)),
            }),
        );
    }

    pub(crate) fn refuse(&mut self, request: u64) {
        let verdict = Err(Reason::new(proto::Code::Refused, "no"));
        self.control(
            1_000_000 + request,
            Command::Respond(Respond { request, verdict }),
        );
    }

    pub(crate) fn write(&mut self, flow: u64, sdus: &[&[u8]]) {
        let mut record = Batch::new(Framing::Record);
        for sdu in sdus {
            record.push(sdu.len()).unwrap().copy_from_slice(sdu);
        }
        self.input(Input::Upper(FlowId(flow), record));
    }

    pub(crate) fn input(&mut self, input: Input<SocketKey, Tell>) {
        self.shim.handle(now(), input);
        while let Some(output) = self.shim.poll() {
            match output {
                Output::Control(event) => self.events.push(event),
                Output::Upper(_, batch) => self.sdus.extend(batch.iter().map(<[u8]>::to_vec)),
                Output::Lower(key, batch) => {
                    self.sockets.send(key, batch);
                }
                Output::Ask(ask) => self.sockets.carry_out(ask),
                Output::UpperOpen(flow, user, _) if user.ipcp => {
                    let socket = self.sockets.handed_over(flow).unwrap();
                    self.handed.push(socket.try_clone_to_owned().unwrap());
                }
                _ => {}
            }
        }
    }

    /// Runs until that holds, at most 10 s.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            assert!(Instant::now() < end, "in vain: {what}; {:?}", self.events);
            self.step().await;
        }
    }

    /// Runs for a while.
    pub(crate) async fn during(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step().await;
        }
    }

    /// What there is to do now, or nothing for a moment.
    pub(crate) async fn step(&mut self) {
        for _ in 0..1000 {
            if self.shim.deadline().is_some_and(|at| at <= Instant::now()) {
                self.input(Input::Timeout);
            }
            let heard = match self.answers.try_recv() {
                Ok(tell) => Some(Heard::Tell(tell)),
                Err(_) => self.sockets.hear().unwrap(),
            };
            let Some(heard) = heard else {
                return tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let input = match heard {
                Heard::Tell(tell) => Input::Tell(tell),
                Heard::Train(key, batch) => Input::Lower(key, batch),
            };
            self.input(input);
        }
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.events.iter().rev().find_map(|e| {
            if let Event::State(s, _) = e {
                Some(*s)
            } else {
                None
            }
        })
    }

    pub(crate) fn answer(&self, id: u64) -> Option<&Result<Answer, Reason>> {
        self.events.iter().find_map(|e| match e {
            Event::Done(done, answer) if *done == id => Some(answer),
            _ => None,
        })
    }

    pub(crate) fn allocated(&self, id: u64) -> Option<u32> {
        match self.answer(id) {
            Some(Ok(Answer::Allocated(a))) => Some(a.mtu),
            _ => None,
        }
    }

    pub(crate) fn requests(&self) -> Vec<&FlowRequest> {
        self.events
            .iter()
            .filter_map(|e| {
                if let Event::FlowRequest(r) = e {
                    Some(r)
                } else {
                    None
                }
            })
            .collect()
    }

    pub(crate) fn down(&self, flow: u64) -> Option<&Reason> {
        self.events.iter().find_map(|e| match e {
            Event::FlowDown(id, reason) if id.0 == flow => Some(reason),
            _ => None,
        })
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.at.ip()
    }
}

/// Both run until that holds.
pub(crate) async fn both(
    a: &mut Host,
    b: &mut Host,
    what: &str,
    holds: impl Fn(&Host, &Host) -> bool,
) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds(a, b) {
        assert!(
            Instant::now() < end,
            "in vain: {what}; {:?}; {:?}",
            a.events,
            b.events
        );
        a.step().await;
        b.step().await;
    }
}

/// A bare socket that waits at most 5 s.
pub(crate) fn bare(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

pub(crate) fn program() -> User {
    User {
        uid: 0,
        ipcp: false,
    }
}

pub(crate) fn ipcp() -> User {
    User { uid: 0, ipcp: true }
}

fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: UnixTime(Duration::from_secs(1_800_000_000)),
    }
}
