//! A wire between machines, with a virtual clock and no socket: what the machine asks is carried out at once.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use layer::{Input, Ipcp, Now, Output, UnixTime};
use proto::ipcp::{Allocate, Bootstrap, Command, Event, FlowRequest, Host, Respond, ShimUdp, User};
use proto::{Batch, FlowId, Framing, Label, Name, QosSpec, Reason};
use shim_udp::{Ask, Reading, Shim, SocketKey, Tell};

pub(crate) const PORT: u16 = ShimUdp::PORT;
pub(crate) const TIMEOUT_MS: u64 = 10_000;
const MTU: u32 = 1472;

/// One datagram on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

struct Socket {
    local: SocketAddr,
    remote: Option<SocketAddr>,
    reading: Reading,
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    handed_over: bool,
}

/// One host: a shim and its sockets.
pub(crate) struct Host1 {
    pub(crate) shim: Shim,
    pub(crate) ip: IpAddr,
    sockets: BTreeMap<SocketKey, Socket>,
    next_port: u16,
    pub(crate) listening: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) sdus: Vec<(FlowId, Vec<u8>)>,
    pub(crate) opened: Vec<FlowId>,
    pub(crate) closed: Vec<(FlowId, Reason)>,
    pub(crate) mtus: Vec<(FlowId, u32)>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) exited: bool,
}

/// Hosts, and the datagrams between them.
pub(crate) struct Wire {
    pub(crate) now: Now,
    pub(crate) start: Instant,
    pub(crate) hosts: Vec<Host1>,
    flying: VecDeque<Datagram>,
    /// All that was sent, in order.
    pub(crate) seen: Vec<(Duration, Datagram)>,
    /// Which datagrams get lost.
    pub(crate) lose: Box<dyn FnMut(&Datagram) -> bool>,
}

impl Wire {
    #[allow(
        clippy::disallowed_methods,
        reason = "a time to count from; which one doesn't matter"
    )]
    pub(crate) fn new(ips: &[&str]) -> Self {
        let start = Instant::now();
        let now = Now {
            mono: start,
            wall: UnixTime(Duration::from_secs(1_800_000_000)),
        };
        let hosts = ips.iter().enumerate().map(|(i, ip)| Host1 {
            shim: Shim::new([i as u8 + 1; 32]),
            ip: ip.parse().unwrap(),
            sockets: BTreeMap::new(),
            next_port: 40_000,
            listening: false,
            events: Vec::new(),
            sdus: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            mtus: Vec::new(),
            asks: Vec::new(),
            exited: false,
        });
        let hosts = hosts.collect();
        Self {
            now,
            start,
            hosts,
            flying: VecDeque::new(),
            seen: Vec::new(),
            lose: Box::new(|_| false),
        }
    }

    /// Two hosts that are bootstrapped; the second has registered `srv`, the first knows where that is.
    pub(crate) fn pair() -> Self {
        let mut wire = Self::new(&["10.0.0.1", "10.0.0.2"]);
        wire.bootstrap(0, &["srv=10.0.0.2"]);
        wire.bootstrap(1, &[]);
        wire.control(1, 2, Command::Register(name("srv")));
        wire
    }

    pub(crate) fn config(&self, host: usize, hosts: &[&str]) -> Bootstrap {
        let hosts = hosts.iter().map(|h| h.parse::<Host>().unwrap()).collect();
        let shim_udp = ShimUdp {
            ip: self.hosts[host].ip.into(),
            port: PORT,
            hosts,
            dns: None,
            flow_ports: None,
            offload: vec![],
        };
        Bootstrap {
            layer: Label::new("w1").unwrap(),
            over: vec![],
            prefixes: vec![],
            pools: Some(Vec::new()),
            cert_life: None,
            passphrase: None,
            shim_udp: Some(shim_udp),
        }
    }

    pub(crate) fn bootstrap(&mut self, host: usize, hosts: &[&str]) {
        self.hosts[host].listening = true;
        let config = self.config(host, hosts);
        self.control(host, 1, Command::Bootstrap(config));
    }

    pub(crate) fn allocate(&mut self, host: usize, id: u64, to: &str, user: User) {
        let flow = FlowId(id);
        let (qos, timeout_ms) = (QosSpec::RAW, TIMEOUT_MS);
        let allocate = Allocate {
            flow,
            name: name(to),
            source: None,
            qos,
            peer: None,
            user,
            timeout_ms,
            at: Vec::new(),
        };
        self.control(host, id, Command::Allocate(allocate));
    }

    pub(crate) fn accept(&mut self, host: usize, request: u64, flow: u64, user: User) {
        let respond = Respond {
            request,
            verdict: Ok((FlowId(flow), user)),
        };
        self.control(host, 1_000_000 + request, Command::Respond(respond));
    }

    pub(crate) fn control(&mut self, host: usize, id: u64, command: Command) {
        self.input(host, Input::Control(id, command));
    }

    pub(crate) fn write(&mut self, host: usize, flow: u64, sdus: &[&[u8]]) {
        let mut record = Batch::new(Framing::Record);
        for sdu in sdus {
            record.push(sdu.len()).unwrap().copy_from_slice(sdu);
        }
        self.input(host, Input::Upper(FlowId(flow), record));
    }

    pub(crate) fn input(&mut self, host: usize, input: Input<SocketKey, Tell>) {
        self.hosts[host].shim.handle(self.now, input);
        self.drain(host);
        self.deliver();
    }

    /// A datagram from nowhere in particular.
    pub(crate) fn inject(&mut self, from: &str, to: SocketAddr, bytes: &[u8]) {
        self.flying.push_back(Datagram {
            from: from.parse().unwrap(),
            to,
            bytes: bytes.to_vec(),
        });
        self.deliver();
    }

    pub(crate) fn request(&mut self, from: &str, bytes: &[u8]) {
        let to = SocketAddr::new(self.hosts[1].ip, PORT);
        self.inject(from, to, bytes);
    }

    /// Lets time pass, with every deadline on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        loop {
            let next = self.hosts.iter().filter_map(|h| h.shim.deadline()).min();
            match next.filter(|at| *at <= end) {
                Some(at) => {
                    self.now.mono = at.max(self.now.mono);
                    for host in 0..self.hosts.len() {
                        if self.hosts[host]
                            .shim
                            .deadline()
                            .is_some_and(|d| d <= self.now.mono)
                        {
                            self.input(host, Input::Timeout);
                        }
                    }
                }
                None => break,
            }
        }
        self.now.mono = end;
    }

    /// What was sent to this address, in order.
    pub(crate) fn sent_to(&self, to: &str) -> Vec<Datagram> {
        let to: SocketAddr = to.parse().unwrap();
        self.seen
            .iter()
            .filter(|(_, d)| d.to == to)
            .map(|(_, d)| d.clone())
            .collect()
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].shim.poll() {
            let h = &mut self.hosts[host];
            match output {
                Output::Control(event) => h.events.push(event),
                Output::Upper(flow, batch) => {
                    h.sdus.extend(batch.iter().map(|sdu| (flow, sdu.to_vec())))
                }
                Output::UpperMtu(flow, mtu) => h.mtus.push((flow, mtu)),
                Output::UpperPause(flow, _) | Output::UpperShut(flow) => {
                    panic!("flow {flow} is raw, and was paused or shut")
                }
                Output::UpperOpen(flow, ..) => h.opened.push(flow),
                Output::UpperClose(flow, reason) => h.closed.push((flow, reason)),
                Output::Lower(key, batch) => {
                    for sdu in batch.iter() {
                        self.send(host, key, None, sdu.to_vec());
                    }
                }
                Output::Unsealed(..) => panic!("a shim seals nothing"),
                Output::Ask(ask) => self.carry_out(host, ask),
                Output::Save(..) => panic!("a shim keeps nothing"),
                Output::Exit => h.exited = true,
            }
        }
    }

    fn carry_out(&mut self, host: usize, ask: Ask) {
        self.hosts[host].asks.push(ask.clone());
        let h = &mut self.hosts[host];
        match ask {
            Ask::Listen(_) if h.listening => self.told(host, Tell::Listening),
            Ask::Listen(_) => self.told(
                host,
                Tell::NotListening(shim_udp::Unbound::NoAddress, "no such address".into()),
            ),
            Ask::Open(open) => {
                h.next_port = h.next_port.wrapping_add(1).max(1024);
                let local = SocketAddr::new(open.ip, h.next_port);
                let socket = Socket {
                    local,
                    remote: open.connect,
                    reading: Reading::Off,
                    queue: VecDeque::new(),
                    handed_over: false,
                };
                assert!(
                    h.sockets.insert(open.key, socket).is_none(),
                    "a key was used twice"
                );
                self.told(
                    host,
                    Tell::Opened(open.key, if open.connect.is_some() { MTU } else { 0 }),
                );
            }
            Ask::Connect(key, to) => {
                let socket = h.sockets.get_mut(&key).unwrap();
                socket.remote = Some(to);
                socket.queue.retain(|(from, _)| *from == to);
                self.told(host, Tell::Opened(key, MTU));
            }
            Ask::Send(key, to, bytes) => self.send(host, key, to, bytes),
            Ask::Read(key, reading) => {
                if let Some(socket) = h.sockets.get_mut(&key) {
                    assert!(!socket.handed_over, "a socket that was handed over is read");
                    socket.reading = reading;
                    self.offer(host, key);
                }
            }
            Ask::Skip(key) => {
                h.sockets.get_mut(&key).unwrap().queue.pop_front();
            }
            Ask::Mtu(key) => self.told(host, Tell::Mtu(key, MTU)),
            Ask::Close(key) => {
                h.sockets.remove(&key);
            }
            Ask::HandOver(key, _) => {
                let socket = h.sockets.get_mut(&key).unwrap();
                assert_eq!(
                    socket.reading,
                    Reading::Off,
                    "a socket is read while it is handed over"
                );
                socket.handed_over = true;
            }
            Ask::Follow(_) | Ask::Resolve(..) | Ask::Offload(_) => {}
        }
    }

    fn told(&mut self, host: usize, tell: Tell) {
        self.hosts[host].shim.handle(self.now, Input::Tell(tell));
    }

    fn send(&mut self, host: usize, key: SocketKey, to: Option<SocketAddr>, bytes: Vec<u8>) {
        let Some(socket) = self.hosts[host].sockets.get(&key) else {
            return;
        };
        let to = to
            .or(socket.remote)
            .expect("an unconnected socket needs an address");
        let datagram = Datagram {
            from: socket.local,
            to,
            bytes,
        };
        self.seen
            .push((self.now.mono - self.start, datagram.clone()));
        if !(self.lose)(&datagram) {
            self.flying.push_back(datagram);
        }
    }

    fn deliver(&mut self) {
        while let Some(d) = self.flying.pop_front() {
            let Some(host) = self.hosts.iter().position(|h| h.ip == d.to.ip()) else {
                continue;
            };
            if d.to.port() == PORT {
                self.told(host, Tell::Request(d.from, d.bytes));
                self.drain(host);
                continue;
            }
            let sockets = &mut self.hosts[host].sockets;
            let fits = |s: &Socket| s.local == d.to && s.remote.is_none_or(|r| r == d.from);
            let found = sockets.iter_mut().find(|(_, s)| fits(s)).map(|(key, s)| {
                s.queue.push_back((d.from, d.bytes.clone()));
                *key
            });
            match found {
                Some(key) => self.offer(host, key),
                None => self.unreachable(&d),
            }
            self.drain(host);
        }
    }

    /// Who sent to a closed port hears of it.
    fn unreachable(&mut self, d: &Datagram) {
        let Some(host) = self.hosts.iter().position(|h| h.ip == d.from.ip()) else {
            return;
        };
        let fits = |s: &Socket| s.local == d.from && s.remote == Some(d.to);
        if let Some(key) = self.hosts[host]
            .sockets
            .iter()
            .find(|(_, s)| fits(s))
            .map(|(key, _)| *key)
        {
            self.told(host, Tell::Unreachable(key));
            self.drain(host);
        }
    }

    fn offer(&mut self, host: usize, key: SocketKey) {
        loop {
            let Some(socket) = self.hosts[host].sockets.get_mut(&key) else {
                return;
            };
            let tell = match (socket.reading, socket.queue.front().cloned()) {
                (Reading::Off, _) | (_, None) => return,
                (Reading::Front, Some((from, bytes))) => Input::Tell(Tell::Front(key, from, bytes)),
                (Reading::Datagrams, Some((from, bytes))) => {
                    socket.queue.pop_front();
                    Input::Tell(Tell::Datagram(key, from, bytes))
                }
                (Reading::Trains, Some((_, bytes))) => {
                    socket.queue.pop_front();
                    if bytes.is_empty() {
                        Input::Tell(Tell::Empty(key))
                    } else {
                        let mut train = Batch::new(Framing::Train);
                        train.push(bytes.len()).unwrap().copy_from_slice(&bytes);
                        Input::Lower(key, train)
                    }
                }
            };
            self.hosts[host].shim.handle(self.now, tell);
            self.drain(host);
        }
    }
}

impl Host1 {
    /// The answer to a command.
    pub(crate) fn answer(&self, id: u64) -> Option<&Result<proto::ipcp::Answer, Reason>> {
        self.events.iter().find_map(|e| match e {
            Event::Done(done, answer) if *done == id => Some(answer),
            _ => None,
        })
    }

    pub(crate) fn requests(&self) -> Vec<&FlowRequest> {
        let requests = self.events.iter().filter_map(|e| {
            if let Event::FlowRequest(r) = e {
                Some(r)
            } else {
                None
            }
        });
        requests.collect()
    }

    pub(crate) fn downs(&self) -> Vec<(FlowId, &Reason)> {
        self.events
            .iter()
            .filter_map(|e| {
                if let Event::FlowDown(f, r) = e {
                    Some((*f, r))
                } else {
                    None
                }
            })
            .collect()
    }

    /// What waits in the kernel for the flow's user, of the one socket that is handed over.
    pub(crate) fn waiting(&self) -> Vec<Vec<u8>> {
        let sockets = self.sockets.values().filter(|s| s.handed_over);
        sockets
            .flat_map(|s| s.queue.iter().map(|(_, bytes)| bytes.clone()))
            .collect()
    }

    pub(crate) fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    /// The local address of the newest socket.
    pub(crate) fn newest(&self) -> SocketAddr {
        self.sockets.values().next_back().unwrap().local
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn program() -> User {
    User {
        uid: 1000,
        ipcp: false,
    }
}

pub(crate) fn ipcp() -> User {
    User { uid: 0, ipcp: true }
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
