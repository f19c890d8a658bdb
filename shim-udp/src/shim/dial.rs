//! The client's side: from irmd's `Allocate` to the echo.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use layer::Now;
use proto::ipcp::{Allocate, Answer, CommandId, User};
use proto::{Code, FlowId, Name, QosSpec, Reason};

use super::flow::Flow;
use super::serve::same;
use super::{Ask, Conn, Reading, Shim, SocketKey, counters};

/// A flow that is being asked for.
#[derive(Debug)]
pub(super) struct Dial {
    command: CommandId,
    flow: FlowId,
    name: Name,
    user: User,
    qos: QosSpec,
    /// Where the name's shim may be; none while it is looked up.
    targets: Vec<SocketAddr>,
    started: Instant,
    deadline: Instant,
    /// How many requests were sent.
    sent: u32,
    back_off: Duration,
    /// The server's socket, once its echo has come.
    echoed: Option<SocketAddr>,
    /// What went wrong last, for the message if nothing better comes.
    trouble: Option<String>,
}

impl Dial {
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn flow(&self) -> FlowId {
        self.flow
    }
}

impl Shim {
    pub(super) fn allocate(&mut self, now: Now, id: CommandId, a: Allocate) {
        if let Some(reason) = self.cannot_allocate(&a) {
            return self.done(id, Err(reason));
        }
        let told = self.places(&a);
        let dns = self
            .config
            .as_ref()
            .and_then(|c| c.given.dns)
            .filter(|_| is_host_name(a.name.as_str()));
        if told.is_empty() && dns.is_none() {
            let text = format!(
                "the shim knows no host for {}; tell it with 'irm ipcp set SHIM --host {}=ADDR', or bootstrap it with --dns for host names",
                a.name, a.name
            );
            return self.done(id, Err(Reason::new(Code::NotFound, text)));
        }
        let key = self.new_key();
        let timeout = Duration::from_millis(a.timeout_ms.clamp(1, LONGEST_MS));
        let dial = Dial {
            command: id,
            flow: a.flow,
            name: a.name.clone(),
            user: a.user,
            // UDP keeps no order. Who asks for it gets the flow and is told in the Welcome what it is.
            qos: QosSpec {
                ordered: false,
                ..a.qos
            },
            targets: Vec::new(),
            started: now.mono,
            deadline: now.mono + timeout,
            sent: 0,
            back_off: FIRST_BACK_OFF,
            echoed: None,
            trouble: None,
        };
        self.timers.set(key, dial.deadline);
        self.flows.insert(a.flow, key);
        self.conns.insert(key, Conn::Dialling(dial));
        match dns {
            _ if !told.is_empty() => self.dial(key, told),
            Some(dns) => {
                let own = self.config.as_ref().and_then(|c| c.ip);
                self.ask(Ask::Resolve(key, a.name, dns, own));
            }
            None => {}
        }
    }

    /// Where the name's host is, by the table; else where the caller says that it may be.
    fn places(&self, a: &Allocate) -> Vec<SocketAddr> {
        let Some(config) = &self.config else {
            return Vec::new();
        };
        if let Some(at) = config.hosts.get(&a.name) {
            return vec![*at];
        }
        let v4 = config.is_ipv4();
        let alike = |at: &&SocketAddr| at.is_ipv4() == v4 && at.port() != 0;
        let told = a.at.iter().filter(alike).copied();
        told.take(MOST_TARGETS).collect()
    }

    pub(super) fn resolved(&mut self, _now: Now, key: SocketKey, ips: &[IpAddr]) {
        let Some(config) = &self.config else { return };
        // One layer has one request port; only a table says otherwise.
        let (v4, port) = (config.is_ipv4(), config.given.port);
        let mut targets: Vec<_> = ips
            .iter()
            .filter(|ip| ip.is_ipv4() == v4)
            .map(|ip| SocketAddr::new(*ip, port))
            .collect();
        targets.truncate(MOST_TARGETS);
        if targets.is_empty() {
            let family = if v4 { "IPv4" } else { "IPv6" };
            self.not_resolved(
                key,
                &format!("it has no {family} address, as this shim has"),
            );
        } else {
            self.dial(key, targets);
        }
    }

    pub(super) fn not_resolved(&mut self, key: SocketKey, text: &str) {
        if let Some(Conn::Dialling(dial)) = self.conns.get(&key) {
            let text = format!(
                "no address for {}: {text}; tell it with 'irm ipcp set SHIM --host {}=ADDR'",
                dial.name, dial.name
            );
            self.fail_dial(key, Reason::new(Code::NotFound, text));
        }
    }

    /// The socket is open: ask. Or it is connected: the flow stands.
    pub(super) fn dial_opened(&mut self, now: Now, key: SocketKey, mtu: u32) {
        match self.conns.get(&key) {
            Some(Conn::Dialling(dial)) if dial.echoed.is_some() => self.dialled(now, key, mtu),
            Some(_) => {
                self.ask(Ask::Read(key, Reading::Datagrams));
                self.dial_due(now, key);
            }
            None => {}
        }
    }

    /// A datagram came to the socket that waits for an echo.
    pub(super) fn echo(&mut self, key: SocketKey, from: SocketAddr, bytes: &[u8]) {
        let Some(Conn::Dialling(dial)) = self.conns.get_mut(&key) else {
            return;
        };
        if dial.echoed.is_some() {
            return;
        }
        // The request port echoes nothing: a flow to it would be requests.
        if !dial.targets.iter().any(|t| t.ip() == from.ip())
            || dial.targets.iter().any(|t| same(*t, from))
            || from.port() == 0
        {
            return self.counters.count(counters::ECHO_SOURCE);
        }
        if bytes != dial.name.as_str().as_bytes() {
            return self.counters.count(counters::ECHO_PAYLOAD);
        }
        dial.echoed = Some(from);
        self.ask(Ask::Read(key, Reading::Off));
        self.ask(Ask::Connect(key, from));
    }

    /// Asks again, or gives up.
    pub(super) fn dial_due(&mut self, now: Now, key: SocketKey) {
        let Some(Conn::Dialling(dial)) = self.conns.get(&key) else {
            return;
        };
        if now.mono >= dial.deadline {
            let reason = self.why_no_echo(dial);
            return self.fail_dial(key, reason);
        }
        if dial.targets.is_empty() || dial.echoed.is_some() {
            let at = dial.deadline;
            return self.timers.set(key, at);
        }
        let back_off = dial.back_off;
        let wait = self.jitter(back_off);
        let Some(Conn::Dialling(dial)) = self.conns.get_mut(&key) else {
            return;
        };
        let to = dial.targets[dial.sent as usize % dial.targets.len()];
        dial.sent += 1;
        dial.back_off = (dial.back_off * 2).min(LONGEST_BACK_OFF);
        let (at, bytes) = (
            (now.mono + wait).min(dial.deadline),
            dial.name.as_str().as_bytes().to_vec(),
        );
        self.timers.set(key, at);
        self.counters.count(counters::REQUESTS_SENT);
        self.ask(Ask::Send(key, Some(to), bytes));
    }

    /// A request could not leave; it is tried again, for a link may come up.
    pub(super) fn not_sent(&mut self, key: SocketKey, text: String) {
        self.counters.count(counters::NOT_SENT);
        if let Some(Conn::Dialling(dial)) = self.conns.get_mut(&key) {
            dial.trouble = Some(text);
        }
    }

    pub(super) fn fail_dial(&mut self, key: SocketKey, reason: Reason) {
        let Some(Conn::Dialling(dial)) = self.conns.get(&key) else {
            return;
        };
        let command = dial.command;
        self.drop_conn(key);
        self.done(command, Err(reason));
    }

    fn dial(&mut self, key: SocketKey, targets: Vec<SocketAddr>) {
        if let Some(Conn::Dialling(dial)) = self.conns.get_mut(&key) {
            dial.targets = targets;
            self.open(key, None);
        }
    }

    fn dialled(&mut self, now: Now, key: SocketKey, mtu: u32) {
        let Some(Conn::Dialling(dial)) = self.conns.remove(&key) else {
            return;
        };
        let Some(remote) = dial.echoed else { return };
        self.remember_source(remote);
        let allocated = self.allocated(Some(dial.name.clone()), mtu, dial.qos);
        let flow = Flow::dialled(
            dial.flow,
            dial.user,
            (remote, mtu),
            dial.name,
            dial.sent,
            dial.qos,
            now.mono,
        );
        self.conns.insert(key, Conn::Up(flow));
        self.start_flow(now, key, allocated.clone());
        self.done(dial.command, Ok(Answer::Allocated(allocated)));
    }

    fn cannot_allocate(&self, a: &Allocate) -> Option<Reason> {
        if let Some(reason) = self.not_up() {
            return Some(reason);
        }
        if self.flows.contains_key(&a.flow) {
            return Some(Reason::new(
                Code::Conflict,
                format!("flow {} exists already", a.flow),
            ));
        }
        if let Some(member) = &a.peer {
            let text = format!(
                "a UDP shim authenticates nobody, so it can't promise that the peer is {member}; use a unicast layer"
            );
            return Some(Reason::new(Code::Denied, text));
        }
        if a.qos.reliable {
            let text = format!(
                "UDP may lose what it carries, so the shim can't grant {}; use --qos raw or a unicast layer",
                a.qos
            );
            return Some(Reason::new(Code::QosNotGranted, text));
        }
        None
    }

    fn why_no_echo(&self, dial: &Dial) -> Reason {
        let secs = (dial.deadline - dial.started).as_secs_f32();
        let Some(target) = dial.targets.first() else {
            return Reason::new(
                Code::TimedOut,
                format!(
                    "the name server gave no address for {} within {secs} s",
                    dial.name
                ),
            );
        };
        let ports = self.config.as_ref().and_then(|c| c.given.flow_ports);
        let ports = ports.map_or_else(
            || "any port (or set --flow-ports LO-HI)".to_owned(),
            |(lo, hi)| format!("ports {lo}-{hi}"),
        );
        let trouble = dial
            .trouble
            .as_ref()
            .map(|t| format!(" (last error: {t})"))
            .unwrap_or_default();
        let text = format!(
            "no echo for {} from {target} within {secs} s after {} requests{trouble}; is irmd running there with the name registered? \
             A firewall or NAT on the way must let UDP in from {}, any source port, to {ports} here: the echo comes from a new port",
            dial.name,
            dial.sent,
            target.ip()
        );
        Reason::new(Code::TimedOut, text)
    }
}

/// Whether a name can be asked of the DNS (RFC 1123, 2.1); others never leave the host.
fn is_host_name(name: &str) -> bool {
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (1..=63).contains(&l.len()) && inner && !l.starts_with('-') && !l.ends_with('-')
    };
    name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

/// The first wait for an echo is between this and twice that; each next one twice as long.
const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
/// The waits grow no longer than between this and twice that.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(250);
/// The longest that a caller may wait.
const LONGEST_MS: u64 = 3_600_000;
/// Of a host with more addresses only so many are tried.
const MOST_TARGETS: usize = 8;
