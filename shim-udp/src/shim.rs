//! The machine of the UDP shim: what to do with a request, an echo, a silence. No socket, no clock, no chance.

mod control;
mod counters;
mod dial;
mod flow;
mod limits;
mod serve;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use layer::{Input, Ipcp, Now, Output, Timers};
use proto::ipcp::{Allocated, Answer, CommandId, Event, RequestId, ShimUdp, State};
use proto::record::Peer;
use proto::{Code, FlowId, Label, Name, Reason};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use counters::Counters;
use dial::Dial;
use flow::Flow;
use limits::{Source, Unconfirmed};
use serve::Asked;
pub use words::{Ask, Open, Reading, SocketKey, Tell, Unbound};

/// One shim: the member of a UDP layer on this host.
#[derive(Debug)]
pub struct Shim {
    config: Option<Config>,
    state: State,
    /// Why it waits, for people.
    detail: String,
    /// When to try again to bind the request socket.
    retry_at: Option<Instant>,
    names: BTreeSet<Name>,
    conns: BTreeMap<SocketKey, Conn>,
    flows: BTreeMap<FlowId, SocketKey>,
    requests: BTreeMap<RequestId, SocketKey>,
    /// The latest socket for a client's address, port and wanted name.
    repeats: BTreeMap<(SocketAddr, Name), SocketKey>,
    /// How many confirmed flows a source has.
    known: BTreeMap<Source, usize>,
    unconfirmed: Unconfirmed,
    timers: Timers<SocketKey>,
    counters: Counters,
    /// When people were last told of a limit.
    told: BTreeMap<&'static str, Instant>,
    last_key: u64,
    last_request: RequestId,
    rng: ChaCha8Rng,
    out: VecDeque<Output<SocketKey, Ask>>,
}

/// What bootstrap said.
#[derive(Debug)]
struct Config {
    layer: Label,
    /// As it was given, to tell a repetition from a contradiction.
    given: ShimUdp,
    /// The address that it has, or had last.
    ip: Option<IpAddr>,
    /// Where flows are asked for, as irmd was told last.
    bound: Option<SocketAddr>,
    hosts: BTreeMap<Name, SocketAddr>,
    offload: Vec<proto::ipcp::Offload>,
}

/// One socket, by what has become of it.
#[derive(Debug)]
enum Conn {
    /// Ours, waiting for an echo.
    Dialling(Dial),
    /// A client's, echoed, and not heard of since.
    Unconfirmed(Asked),
    /// A client's that was heard of; irmd has to say yes or no.
    Pending(Asked, RequestId),
    /// A flow.
    Up(Flow),
}

impl Shim {
    /// A shim that waits for bootstrap. `seed` is all its chance: jitter, ports, and who is evicted.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            config: None,
            state: State::Waiting,
            detail: String::new(),
            retry_at: None,
            names: BTreeSet::new(),
            conns: BTreeMap::new(),
            flows: BTreeMap::new(),
            requests: BTreeMap::new(),
            repeats: BTreeMap::new(),
            known: BTreeMap::new(),
            unconfirmed: Unconfirmed::new(Unconfirmed::ALL),
            timers: Timers::default(),
            counters: Counters::default(),
            told: BTreeMap::new(),
            last_key: 0,
            last_request: 0,
            rng: ChaCha8Rng::from_seed(seed),
            out: VecDeque::new(),
        }
    }

    /// How often something happened, by its word in [`proto::irm::IpcpStatus::counters`].
    pub fn counter(&self, what: &str) -> u64 {
        self.counters
            .iter()
            .find(|(word, _)| *word == what)
            .map_or(0, |(_, n)| n)
    }

    /// How many sockets the machine holds besides the request socket: unconfirmed ones, and all.
    pub fn sockets(&self) -> (usize, usize) {
        (self.unconfirmed.len(), self.conns.len())
    }

    fn tell(&mut self, now: Now, tell: Tell) {
        match tell {
            Tell::Listening => self.listening(),
            Tell::NotListening(why, text) => self.not_listening(now, why, &text),
            Tell::Place(found) => self.placed(now, found),
            Tell::Request(from, bytes) => self.request(now, from, &bytes),
            Tell::Opened(key, mtu) => match self.conns.get(&key) {
                Some(Conn::Dialling(_)) => self.dial_opened(now, key, mtu),
                Some(Conn::Unconfirmed(_)) => self.asked_opened(key, mtu),
                Some(Conn::Pending(..) | Conn::Up(_)) | None => {}
            },
            Tell::NotOpened(key, text) => self.not_opened(key, &text),
            Tell::Datagram(key, from, bytes) => self.echo(key, from, &bytes),
            Tell::Front(key, from, bytes) => self.front(now, key, from, &bytes),
            Tell::Empty(key) => self.empty(now, key),
            Tell::Unreachable(key) => self.unreachable(key),
            Tell::NotSent(key, text) => self.not_sent(key, text),
            Tell::Mtu(key, mtu) => self.mtu(key, mtu),
            Tell::Resolved(key, ips) => self.resolved(now, key, &ips),
            Tell::NotResolved(key, text) => self.not_resolved(key, &text),
        }
    }

    fn timeout(&mut self, now: Now) {
        if self.retry_at.is_some_and(|at| at <= now.mono) {
            self.listen();
        }
        while let Some(key) = self.timers.due(now.mono) {
            match self.conns.get(&key) {
                Some(Conn::Dialling(_)) => self.dial_due(now, key),
                Some(Conn::Unconfirmed(_)) => {
                    self.counters.count(counters::UNCONFIRMED);
                    self.drop_conn(key);
                }
                Some(Conn::Pending(..)) => {
                    self.counters.count(counters::UNANSWERED);
                    self.drop_conn(key);
                }
                Some(Conn::Up(_)) => self.flow_due(now, key),
                None => {}
            }
        }
    }

    fn not_opened(&mut self, key: SocketKey, text: &str) {
        match self.conns.get(&key) {
            Some(Conn::Dialling(dial)) => {
                let text = format!("no socket for the flow to {}: {text}", dial.name());
                self.fail_dial(key, Reason::new(Code::Busy, text));
            }
            Some(Conn::Unconfirmed(_)) => {
                self.counters.count(counters::NO_SOCKET);
                self.drop_conn(key);
            }
            Some(Conn::Up(_)) => {
                let text = format!("the flow's socket failed: {text}");
                self.end_flow(key, Reason::new(Code::Failed, text));
            }
            Some(Conn::Pending(..)) => {
                self.drop_conn(key);
            }
            None => {}
        }
    }

    fn unreachable(&mut self, key: SocketKey) {
        match self.conns.get(&key) {
            // Not confirmed, and its client is gone: nobody needs to hear of it.
            Some(Conn::Unconfirmed(_)) => {
                self.drop_conn(key);
            }
            Some(Conn::Up(flow)) => {
                let reason = flow.unreachable();
                self.end_flow(key, reason);
            }
            Some(Conn::Dialling(_) | Conn::Pending(..)) | None => {}
        }
    }

    /// Ends a flow and tells both its user and irmd.
    fn end_flow(&mut self, key: SocketKey, reason: Reason) {
        if let Some(id) = self.drop_conn(key) {
            self.out.push_back(Output::UpperClose(id, reason.clone()));
            self.event(Event::FlowDown(id, reason));
        }
    }

    /// Forgets a socket and all that is known of it; gives the flow that it was.
    fn drop_conn(&mut self, key: SocketKey) -> Option<FlowId> {
        let conn = self.conns.remove(&key)?;
        self.timers.clear(key);
        self.unconfirmed.remove(key);
        self.ask(Ask::Close(key));
        match conn {
            Conn::Dialling(dial) => {
                self.flows.remove(&dial.flow());
                None
            }
            Conn::Unconfirmed(asked) => {
                self.forget_repeat(key, &asked);
                None
            }
            Conn::Pending(asked, request) => {
                self.requests.remove(&request);
                self.forget_repeat(key, &asked);
                self.forget_source(asked.from());
                None
            }
            Conn::Up(flow) => {
                self.flows.remove(&flow.id());
                if let Some(asked) = flow.asked() {
                    self.forget_repeat(key, asked);
                }
                self.forget_source(flow.remote());
                Some(flow.id())
            }
        }
    }

    /// The peer has a confirmed flow.
    fn remember_source(&mut self, at: SocketAddr) {
        *self.known.entry(Source::of(at.ip())).or_default() += 1;
    }

    fn forget_source(&mut self, at: SocketAddr) {
        let source = Source::of(at.ip());
        if let Some(count) = self.known.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.known.remove(&source);
            }
        }
    }

    fn open(&mut self, key: SocketKey, connect: Option<SocketAddr>) {
        let Some((config, ip)) = self.config.as_ref().and_then(|c| Some((c, c.ip?))) else {
            return;
        };
        let ports = config.given.flow_ports.map(|(lo, hi)| {
            let size = u32::from(hi - lo) + 1;
            // Below size, which is at most 65536.
            (lo, hi, lo + (self.rng.next_u32() % size) as u16)
        });
        self.ask(Ask::Open(Open {
            key,
            ip,
            ports,
            connect,
        }));
    }

    fn new_key(&mut self) -> SocketKey {
        self.last_key += 1;
        SocketKey(self.last_key)
    }

    /// What stands, as irmd and the user see it. A shim authenticates nobody, so the peer has no member.
    fn allocated(&self, name: Option<Name>, mtu: u32, qos: proto::QosSpec) -> Allocated {
        let layer = self.config.as_ref().map(|c| c.layer.clone());
        Allocated {
            mtu,
            qos,
            peer: Peer {
                name,
                layer,
                member: None,
            },
            token: None,
        }
    }

    fn ask(&mut self, ask: Ask) {
        self.out.push_back(Output::Ask(ask));
    }

    fn event(&mut self, event: Event) {
        self.out.push_back(Output::Control(event));
    }

    fn done(&mut self, id: CommandId, answer: Result<Answer, Reason>) {
        self.event(Event::Done(id, answer));
    }

    /// A time between `base` and twice that.
    fn jitter(&mut self, base: Duration) -> Duration {
        base + base * (self.rng.next_u32() >> 16) / (1 << 16)
    }
}

impl Ipcp for Shim {
    type Lower = SocketKey;
    type Ask = Ask;
    type Tell = Tell;

    fn handle(&mut self, now: Now, input: Input<SocketKey, Tell>) {
        match input {
            Input::Control(id, command) => self.command(now, id, command),
            Input::Upper(flow, batch) => self.upper(now, flow, &batch),
            Input::UpperGone(flow, reason) => self.upper_gone(flow, reason),
            // Its flows are raw: what a user doesn't take in time is dropped, and none can be half closed.
            Input::UpperShut(_) | Input::UpperFull(_) | Input::UpperRoom(_) => {}
            Input::Lower(key, batch) => self.lower(now, key, &batch),
            Input::Tell(tell) => self.tell(now, tell),
            Input::Timeout => self.timeout(now),
        }
    }

    fn poll(&mut self) -> Option<Output<SocketKey, Ask>> {
        self.out.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        self.retry_at
            .into_iter()
            .chain(self.timers.deadline())
            .min()
    }
}
