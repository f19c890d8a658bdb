//! A flow that stands: its records and trains, its keep-alives, its end.
//!
//! The flow of an IPC process is handed over: of it the shim keeps only the first keep-alives and the path's MTU.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use layer::{Now, Output};
use proto::ipcp::{Allocated, Event, User};
use proto::irm::FlowInfo;
use proto::record::Peer;
use proto::{Batch, Code, FlowId, Framing, Name, QosSpec, Reason};

use super::serve::Asked;
use super::{Ask, Conn, Reading, Shim, SocketKey, counters};

/// A flow that stands.
#[derive(Debug)]
pub(super) struct Flow {
    id: FlowId,
    user: User,
    qos: QosSpec,
    remote: SocketAddr,
    mtu: u32,
    role: Role,
    born: Instant,
    /// When anything was sent, heard, and when an SDU went either way.
    sent: Instant,
    heard: Instant,
    used: Instant,
    ever_heard: bool,
    /// The peer sends keep-alives, so that its silence means something.
    ever_empty: bool,
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Debug)]
enum Role {
    Client {
        name: Name,
        /// Echoes that may still come, since so many requests more than one were sent.
        late_echoes: u32,
        /// How many of [`CONFIRM_AGAIN`] were sent.
        confirmed: usize,
    },
    Server(Asked),
}

impl Flow {
    pub(super) fn accepted(id: FlowId, user: User, asked: Asked, mtu: u32, now: Instant) -> Self {
        Self {
            ever_heard: true,
            ..Self::new(
                id,
                user,
                asked.from(),
                Role::Server(asked),
                QosSpec::RAW,
                mtu,
                now,
            )
        }
    }

    /// The flow of a client that sent so many requests.
    pub(super) fn dialled(
        id: FlowId,
        user: User,
        at: (SocketAddr, u32),
        name: Name,
        requests: u32,
        qos: QosSpec,
        now: Instant,
    ) -> Self {
        let role = Role::Client {
            name,
            late_echoes: requests.saturating_sub(1),
            confirmed: 0,
        };
        Self::new(id, user, at.0, role, qos, at.1, now)
    }

    fn new(
        id: FlowId,
        user: User,
        remote: SocketAddr,
        role: Role,
        qos: QosSpec,
        mtu: u32,
        now: Instant,
    ) -> Self {
        let (ever_heard, ever_empty, rx_bytes, tx_bytes) = (false, false, 0, 0);
        Self {
            id,
            user,
            qos,
            remote,
            mtu,
            role,
            born: now,
            sent: now,
            heard: now,
            used: now,
            ever_heard,
            ever_empty,
            rx_bytes,
            tx_bytes,
        }
    }

    pub(super) fn id(&self) -> FlowId {
        self.id
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The request that it came from, if it came from afar.
    pub(super) fn asked(&self) -> Option<&Asked> {
        match &self.role {
            Role::Server(asked) => Some(asked),
            Role::Client { .. } => None,
        }
    }

    /// Why the peer's port may be unreachable.
    pub(super) fn unreachable(&self) -> Reason {
        if self.ever_heard {
            Reason::new(
                Code::Closed,
                "the peer closed the flow or died: its port is unreachable",
            )
        } else {
            Reason::new(
                Code::Refused,
                "the other side refused the flow: its port is unreachable",
            )
        }
    }

    pub(super) fn info(&self, layer: &str) -> FlowInfo {
        let name = match &self.role {
            Role::Client { name, .. } => name,
            Role::Server(asked) => asked.name(),
        };
        FlowInfo {
            id: self.id.0,
            name: name.to_string(),
            layer: layer.to_owned(),
            state: "allocated".to_owned(),
            qos: Some(self.qos.into()),
            peer: Some(
                Peer {
                    layer: layer.parse().ok(),
                    ..Peer::default()
                }
                .into(),
            ),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            uid: self.user.uid,
            mtu: self.mtu,
            incoming: matches!(self.role, Role::Server(_)),
            ..FlowInfo::default()
        }
    }

    /// Whether this SDU is an echo that was on its way when the first one came.
    fn is_late_echo(&mut self, now: Instant, sdu: &[u8]) -> bool {
        match &mut self.role {
            Role::Client {
                name, late_echoes, ..
            } if *late_echoes > 0
                && now < self.born + LATE_ECHOES_FOR
                && sdu == name.as_str().as_bytes() =>
            {
                *late_echoes -= 1;
                true
            }
            Role::Client { .. } | Role::Server(_) => false,
        }
    }

    /// When the client confirms again, unless it has heard something.
    fn confirm_at(&self) -> Option<Instant> {
        match &self.role {
            Role::Client { confirmed, .. } if !self.ever_heard => CONFIRM_AGAIN
                .get(*confirmed)
                .map(|after| self.born + *after),
            Role::Client { .. } | Role::Server(_) => None,
        }
    }

    fn silence_at(&self) -> Option<Instant> {
        (!self.user.ipcp && self.ever_empty).then(|| self.heard + SILENCE)
    }

    /// When it has been of no use for too long; the user may have asked for less than the layer's own bound.
    fn idle_at(&self) -> Option<Instant> {
        let idle = match self.qos.timeout_ms {
            0 => IDLE,
            ms => Duration::from_millis(ms.into()),
        };
        match self.qos.timeout_ms {
            _ if self.user.ipcp => None,
            0 if self.ever_empty => None,
            0 => Some(self.used + idle),
            _ => Some(self.heard + idle),
        }
    }

    fn wake(&self, now: Instant) -> Instant {
        let keep_alive = (!self.user.ipcp).then(|| self.sent + KEEP_ALIVE);
        let all = [
            self.confirm_at(),
            self.silence_at(),
            self.idle_at(),
            keep_alive,
        ];
        all.into_iter()
            .flatten()
            .fold(now + LOOK_AT_MTU, Instant::min)
    }
}

impl Shim {
    /// Opens the data end of a new flow and sets it going.
    pub(super) fn start_flow(&mut self, now: Now, key: SocketKey, allocated: Allocated) {
        let Some(Conn::Up(flow)) = self.conns.get(&key) else {
            return;
        };
        let (id, user, wake) = (flow.id, flow.user, flow.wake(now.mono));
        if user.ipcp {
            // First, so that the socket is there for the Welcome.
            self.ask(Ask::HandOver(key, id));
        }
        self.out.push_back(Output::UpperOpen(id, user, allocated));
        let Some(Conn::Up(flow)) = self.conns.get(&key) else {
            return;
        };
        if matches!(flow.role, Role::Client { .. }) {
            self.ask(Ask::Send(key, None, Vec::new()));
        }
        self.timers.set(key, wake);
        if !user.ipcp {
            self.ask(Ask::Read(key, Reading::Trains));
        }
    }

    /// The user wrote SDUs.
    pub(super) fn upper(&mut self, now: Now, id: FlowId, record: &Batch) {
        let Some(key) = self.flows.get(&id).copied() else {
            return self.counters.count(counters::NO_FLOW);
        };
        let Some(Conn::Up(flow)) = self.conns.get_mut(&key) else {
            return self.counters.count(counters::NO_FLOW);
        };
        (flow.sent, flow.used) = (now.mono, now.mono);
        let mut train = Batch::new(Framing::Train);
        for sdu in record.iter() {
            if sdu.len() > flow.mtu as usize {
                self.counters.count(counters::TOO_BIG);
                continue;
            }
            flow.tx_bytes += sdu.len() as u64;
            if !train.fits(sdu.len()) {
                let full = std::mem::replace(&mut train, Batch::new(Framing::Train));
                self.out.push_back(Output::Lower(key, full));
            }
            if let Some(room) = train.push(sdu.len()) {
                room.copy_from_slice(sdu);
            }
        }
        if !train.is_empty() {
            self.out.push_back(Output::Lower(key, train));
        }
    }

    /// SDUs came from the peer.
    pub(super) fn lower(&mut self, now: Now, key: SocketKey, train: &Batch) {
        let Some(Conn::Up(flow)) = self.conns.get_mut(&key) else {
            return self.counters.count(counters::NO_FLOW);
        };
        let id = flow.id;
        let mut record = Batch::new(Framing::Record);
        for sdu in train.iter() {
            if flow.is_late_echo(now.mono, sdu) {
                self.counters.count(counters::LATE_ECHO);
                continue;
            }
            (flow.heard, flow.used, flow.ever_heard) = (now.mono, now.mono, true);
            flow.rx_bytes += sdu.len() as u64;
            if !record.fits(sdu.len()) {
                let full = std::mem::replace(&mut record, Batch::new(Framing::Record));
                self.out.push_back(Output::Upper(id, full));
            }
            match record.push(sdu.len()) {
                Some(room) => room.copy_from_slice(sdu),
                None => self.counters.count(counters::TOO_BIG),
            }
        }
        if !record.is_empty() {
            self.out.push_back(Output::Upper(id, record));
        }
    }

    /// The peer keeps the flow alive.
    pub(super) fn empty(&mut self, now: Now, key: SocketKey) {
        if let Some(Conn::Up(flow)) = self.conns.get_mut(&key) {
            (flow.heard, flow.ever_heard, flow.ever_empty) = (now.mono, true, true);
        }
    }

    pub(super) fn mtu(&mut self, key: SocketKey, mtu: u32) {
        if let Some(Conn::Up(flow)) = self.conns.get_mut(&key)
            && flow.mtu != mtu
        {
            flow.mtu = mtu;
            let id = flow.id;
            self.out.push_back(Output::UpperMtu(id, mtu));
        }
    }

    /// The user is gone. The closed port says so to the peer, at its next datagram; the wire has no place for why.
    pub(super) fn upper_gone(&mut self, id: FlowId, reason: Reason) {
        let Some(key) = self.flows.get(&id).copied() else {
            return;
        };
        if let Some(Conn::Dialling(_)) = self.conns.get(&key) {
            self.fail_dial(key, reason);
        } else if self.drop_conn(key).is_some() {
            self.event(Event::FlowDown(id, reason));
        }
    }

    /// One of a flow's times has come.
    pub(super) fn flow_due(&mut self, now: Now, key: SocketKey) {
        let Some(Conn::Up(flow)) = self.conns.get_mut(&key) else {
            return;
        };
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        if past(flow.silence_at()) {
            let text = format!(
                "the peer was silent for {} s: it or the path to it is gone",
                SILENCE.as_secs()
            );
            return self.end_flow(key, Reason::new(Code::TimedOut, text));
        }
        if past(flow.idle_at()) {
            return self.end_flow(
                key,
                Reason::new(
                    Code::TimedOut,
                    "nothing came or went on the flow for too long; allocate it again",
                ),
            );
        }
        let mut empty = false;
        if past(flow.confirm_at())
            && let Role::Client { confirmed, .. } = &mut flow.role
        {
            *confirmed += 1;
            empty = true;
        }
        if empty || (!flow.user.ipcp && flow.sent + KEEP_ALIVE <= now.mono) {
            flow.sent = now.mono;
            empty = true;
        }
        let wake = flow.wake(now.mono);
        self.timers.set(key, wake);
        if empty {
            self.ask(Ask::Send(key, None, Vec::new()));
        }
        self.ask(Ask::Mtu(key));
    }
}

/// A client confirms at the echo, and again at these times after it.
const CONFIRM_AGAIN: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(800),
];
/// How long after allocation an echo may still be on its way.
const LATE_ECHOES_FOR: Duration = Duration::from_secs(2);
/// Sent nothing for so long: an empty datagram.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Heard nothing for so long of a peer that sends keep-alives: down.
const SILENCE: Duration = Duration::from_secs(20);
/// No SDU for so long either way, and no keep-alive ever: down.
const IDLE: Duration = Duration::from_secs(600);
/// How often the path's MTU is looked at.
const LOOK_AT_MTU: Duration = Duration::from_secs(5);
