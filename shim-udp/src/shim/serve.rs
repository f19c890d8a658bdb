//! The server's side: from a datagram on the request port to a flow that irmd accepts.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use layer::Now;
use proto::ipcp::{Answer, CommandId, Event, FlowRequest, Respond};
use proto::record::Peer;
use proto::{Code, Name, QosSpec, Reason};

use super::flow::Flow;
use super::limits::{Room, Source};
use super::{Ask, Conn, Reading, Shim, SocketKey, counters};

/// One request, as its client made it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    from: SocketAddr,
    name: Name,
    born: Instant,
    mtu: u32,
    /// The confirmed flow of the same client's port for the same name, which ends when this one is confirmed.
    replaces: Option<SocketKey>,
}

impl Asked {
    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }
}

impl Shim {
    /// A datagram came to the request port.
    pub(super) fn request(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        self.counters.count(counters::REQUESTS);
        let port = self.config.as_ref().map_or(0, |c| c.given.port);
        if from.port() == port || !may_ask(from) {
            return self.counters.count(counters::BAD_SOURCE);
        }
        let Ok(name) = Name::from_bytes(bytes) else {
            return self.counters.count(counters::BAD_NAME);
        };
        if !self.names.contains(&name) {
            return self.counters.count(counters::UNKNOWN_NAME);
        }
        let former = self.repeats.get(&(from, name.clone())).copied();
        if let Some(key) = former
            && self.is_repeat(now, key)
        {
            self.counters.count(counters::ECHOES);
            return self.ask(Ask::Send(key, None, bytes.to_vec()));
        }
        let key = self.new_key();
        let source = Source::of(from.ip());
        let known = self.known.contains_key(&source);
        match self
            .unconfirmed
            .admit(now.mono, key, (source, known), &mut self.rng)
        {
            Room::SourceFull => return self.limit(now, counters::SOURCE_LIMIT),
            Room::Flooded => return self.limit(now, counters::FLOODED),
            Room::For(Some(old)) => {
                self.limit(now, counters::EVICTED);
                self.drop_conn(old);
            }
            Room::For(None) => {}
        }
        let asked = Asked {
            from,
            name: name.clone(),
            born: now.mono,
            mtu: 0,
            replaces: former,
        };
        self.conns.insert(key, Conn::Unconfirmed(asked));
        self.repeats.insert((from, name), key);
        self.timers.set(key, now.mono + UNCONFIRMED_FOR);
        self.open(key, Some(from));
        self.counters.count(counters::ECHOES);
        self.ask(Ask::Send(key, None, bytes.to_vec()));
        self.ask(Ask::Read(key, Reading::Front));
    }

    pub(super) fn asked_opened(&mut self, key: SocketKey, mtu: u32) {
        if let Some(Conn::Unconfirmed(asked)) = self.conns.get_mut(&key) {
            asked.mtu = mtu;
        }
    }

    /// The first datagram at an echoed socket: it confirms, and stays where it is unless it is empty.
    pub(super) fn front(&mut self, now: Now, key: SocketKey, from: SocketAddr, bytes: &[u8]) {
        let Some(Conn::Unconfirmed(asked)) = self.conns.get(&key) else {
            return self.ask(Ask::Read(key, Reading::Off));
        };
        if !same(from, asked.from) {
            self.counters.count(counters::STRANGER);
            return self.ask(Ask::Skip(key));
        }
        if bytes.is_empty() {
            self.ask(Ask::Skip(key));
        }
        self.ask(Ask::Read(key, Reading::Off));
        self.confirm(now, key);
    }

    /// Accepts or refuses a request that was told to irmd.
    pub(super) fn respond(&mut self, now: Now, id: CommandId, respond: Respond) {
        let gone = || {
            Reason::new(
                Code::NotFound,
                "the flow request is gone: it was not answered in time",
            )
        };
        let Some(key) = self.requests.remove(&respond.request) else {
            return self.done(id, Err(gone()));
        };
        let Some(Conn::Pending(asked, _)) = self.conns.get(&key) else {
            return self.done(id, Err(gone()));
        };
        let asked = asked.clone();
        match respond.verdict {
            Err(_) => {
                // The closed socket says it: the client's next datagram meets an unreachable port.
                self.drop_conn(key);
                self.done(id, Ok(Answer::Ok));
            }
            Ok((flow, _)) if self.flows.contains_key(&flow) => {
                self.drop_conn(key);
                self.done(
                    id,
                    Err(Reason::new(
                        Code::Conflict,
                        format!("flow {flow} exists already"),
                    )),
                );
            }
            Ok((flow, user)) => {
                let mtu = asked.mtu;
                let allocated = self.allocated(None, mtu, QosSpec::RAW);
                self.flows.insert(flow, key);
                self.conns.insert(
                    key,
                    Conn::Up(Flow::accepted(flow, user, asked, mtu, now.mono)),
                );
                self.start_flow(now, key, allocated.clone());
                self.done(id, Ok(Answer::Allocated(allocated)));
            }
        }
    }

    /// A client's port is free for a new request; an older flow that it has is found again.
    pub(super) fn forget_repeat(&mut self, key: SocketKey, asked: &Asked) {
        let client = (asked.from, asked.name.clone());
        if self.repeats.get(&client) != Some(&key) {
            return;
        }
        match asked.replaces {
            Some(older) if self.conns.contains_key(&older) => self.repeats.insert(client, older),
            _ => self.repeats.remove(&client),
        };
    }

    /// The first datagram of the client has come to the echoed socket: now irmd hears of it.
    fn confirm(&mut self, now: Now, key: SocketKey) {
        let Some(Conn::Unconfirmed(asked)) = self.conns.remove(&key) else {
            return;
        };
        self.unconfirmed.remove(key);
        self.counters.count(counters::CONFIRMED);
        if let Some(older) = asked.replaces {
            self.replaced(older);
        }
        self.last_request += 1;
        let request = self.last_request;
        self.requests.insert(request, key);
        self.remember_source(asked.from);
        self.timers.set(key, now.mono + ANSWER_WITHIN);
        let peer = Peer {
            name: None,
            layer: self.config.as_ref().map(|c| c.layer.clone()),
            member: None,
        };
        self.event(Event::FlowRequest(FlowRequest {
            request,
            name: asked.name.clone(),
            peer,
            qos: QosSpec::RAW,
            mtu: asked.mtu,
            timeout_ms: ANSWER_WITHIN.as_millis() as u64,
        }));
        self.conns.insert(key, Conn::Pending(asked, request));
    }

    /// The client asked anew from the same port and confirmed that: what it had before is dead.
    fn replaced(&mut self, older: SocketKey) {
        match self.conns.get(&older) {
            Some(Conn::Up(_)) => {
                self.end_flow(
                    older,
                    Reason::new(Code::Closed, "the peer began anew from the same port"),
                );
            }
            Some(_) => {
                self.drop_conn(older);
            }
            None => {}
        }
    }

    /// Whether a request repeats the one that this socket stands for: until it is confirmed, and for 5 s.
    fn is_repeat(&self, now: Now, key: SocketKey) -> bool {
        let young = |asked: &Asked| now.mono < asked.born + REPEATS_FOR;
        match self.conns.get(&key) {
            Some(Conn::Unconfirmed(_)) => true,
            Some(Conn::Pending(asked, _)) => young(asked),
            Some(Conn::Up(flow)) => flow.asked().is_some_and(young),
            Some(Conn::Dialling(_)) | None => false,
        }
    }
}

/// Whether a datagram from there can be a client's: an echo to a group or to no port reaches nobody, or too many.
fn may_ask(from: SocketAddr) -> bool {
    let broadcast = matches!(from.ip().to_canonical(), IpAddr::V4(v4) if v4.is_broadcast());
    from.port() != 0 && !from.ip().is_unspecified() && !from.ip().is_multicast() && !broadcast
}

/// Whether two addresses are one; IPv6 flow labels don't matter.
pub(super) fn same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

/// After this an unconfirmed request is reclaimed.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(5);
/// A request within this time of the first is its repetition, even if that was confirmed.
const REPEATS_FOR: Duration = Duration::from_secs(5);
/// How long irmd and the program may think about a flow request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
