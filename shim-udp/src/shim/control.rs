//! What irmd asks that concerns the shim as a whole: bootstrap, settings, names, status, the end.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use layer::{Now, Output};
use proto::ipcp::{
    Answer, Bootstrap, Command, CommandId, Configured, Event, Family, Notice, Offload, OffloadKind,
    Place, Settings, State,
};
use proto::irm::IpcpStatus;
use proto::{Code, FlowId, Reason};

use super::limits::Unconfirmed;
use super::words::Unbound;
use super::{Ask, Config, Conn, Shim};

impl Shim {
    pub(super) fn command(&mut self, now: Now, id: CommandId, command: Command) {
        match command {
            Command::Bootstrap(b) => {
                let answer = self.bootstrap(b);
                self.done(id, answer);
            }
            Command::Set(settings) => {
                let answer = self.set(settings);
                self.done(id, answer);
            }
            Command::Register(name) => {
                self.names.insert(name);
                self.done(id, Ok(Answer::Ok));
            }
            Command::Unregister(name) => {
                self.names.remove(&name);
                self.done(id, Ok(Answer::Ok));
            }
            Command::Allocate(allocate) => self.allocate(now, id, allocate),
            Command::Respond(respond) => self.respond(now, id, respond),
            Command::Dealloc(flow, reason) => self.dealloc(id, flow, reason),
            Command::Status => {
                let status = self.status();
                self.done(id, Ok(Answer::Status(Box::new(status))));
            }
            Command::Shutdown => self.shutdown(id),
            Command::Enroll(_) => self.not_here(
                id,
                "enrol in",
                "give it an address with 'irm ipcp bootstrap --ip ADDR'",
            ),
            Command::Connect(..) | Command::Disconnect(_) => {
                self.not_here(id, "connect to", "flows are allocated when they are needed");
            }
            Command::Invite(_) | Command::Authority(_) | Command::Policy(_) | Command::Offer(_) => {
                self.not_here(id, "invite to", "invite to the unicast layer above it")
            }
        }
    }

    /// The request socket is bound.
    pub(super) fn listening(&mut self) {
        self.retry_at = None;
        let Some(config) = &mut self.config else {
            return;
        };
        let at = config.ip.map(|ip| SocketAddr::new(ip, config.given.port));
        let moved = config.bound != at;
        config.bound = at;
        self.enter(State::Up, String::new(), moved);
    }

    pub(super) fn not_listening(&mut self, now: Now, why: Unbound, text: &str) {
        let Some((config, ip)) = self.config.as_ref().and_then(|c| Some((c, c.ip?))) else {
            return;
        };
        let port = config.given.port;
        let detail = match why {
            Unbound::NoAddress if config.bound == Some(SocketAddr::new(ip, port)) => format!(
                "this host has the address {ip} no longer; say which one it has: 'irm ipcp set SHIM --ip ADDR', or let the shim follow an interface with --ip dev:INTERFACE"
            ),
            Unbound::NoAddress => {
                format!("this host has no address {ip} (yet); it is tried again each second")
            }
            Unbound::InUse => format!(
                "UDP port {port} of {ip} is in use by another program: end that, or bootstrap with another --port; it is tried again each second"
            ),
            Unbound::Failed => {
                format!("can't bind UDP port {port} of {ip}: {text}; it is tried again each second")
            }
        };
        self.retry_at = Some(now.mono + RETRY);
        self.enter(State::Waiting, detail, false);
    }

    /// What the host says of the place that is followed.
    pub(super) fn placed(&mut self, now: Now, found: Result<IpAddr, String>) {
        let Some(config) = &mut self.config else {
            return;
        };
        match (found, config.given.ip.fixed()) {
            (Ok(ip), _) => {
                let moved = config.ip.replace(ip) != Some(ip);
                if moved || self.state != State::Up {
                    self.listen();
                }
            }
            (Err(_), Some(_)) => self.not_listening(now, Unbound::NoAddress, ""),
            (Err(text), None) => {
                self.retry_at = None;
                self.enter(State::Waiting, text, false);
            }
        }
    }

    pub(super) fn listen(&mut self) {
        self.retry_at = None;
        if let Some((config, ip)) = self.config.as_ref().and_then(|c| Some((c, c.ip?))) {
            let at = SocketAddr::new(ip, config.given.port);
            self.ask(Ask::Listen(at));
        }
    }

    /// Follows the place that was given. Where that is an address, it doesn't wait for the host's word.
    fn take_place(&mut self) {
        if let Some(config) = &mut self.config {
            let place = config.given.ip.clone();
            config.ip = place.fixed();
            self.listen();
            self.ask(Ask::Follow(place));
        }
    }

    pub(super) fn dealloc(&mut self, id: CommandId, flow: FlowId, reason: Reason) {
        let Some(key) = self.flows.get(&flow).copied() else {
            // Gone already, as was wanted.
            return self.done(id, Ok(Answer::Ok));
        };
        if let Some(Conn::Dialling(_)) = self.conns.get(&key) {
            self.fail_dial(key, reason);
        } else if let Some(flow) = self.drop_conn(key) {
            self.out.push_back(Output::UpperClose(flow, reason));
        }
        self.done(id, Ok(Answer::Ok));
    }

    /// Why nothing can be allocated now; none when the shim is up.
    pub(super) fn not_up(&self) -> Option<Reason> {
        match (self.state, &self.config) {
            (State::Up, _) => None,
            (_, Some(config)) => {
                let text = format!(
                    "the shim waits for port {} of {}; see 'irm status'",
                    config.given.port, config.given.ip
                );
                Some(Reason::new(Code::Unreachable, text))
            }
            (_, None) => Some(Reason::new(
                Code::Failed,
                "the shim has no address; run 'irm ipcp bootstrap' first",
            )),
        }
    }

    fn bootstrap(&mut self, b: Bootstrap) -> Result<Answer, Reason> {
        let usage = |text: &str| Reason::new(Code::Usage, text);
        let given = b
            .shim_udp
            .ok_or_else(|| usage("a UDP shim needs an address: --ip ADDR"))?;
        if !b.over.is_empty() || !b.prefixes.is_empty() {
            return Err(usage(
                "a UDP shim has no lower layer and no prefix; leave --over and --prefix out",
            ));
        }
        seals_nothing(&given.offload)?;
        if !specific(&given.ip) || given.port == 0 {
            return Err(usage(
                "a UDP shim needs one specific address of this host and a port",
            ));
        }
        let configured = Configured {
            layer: b.layer.clone(),
            member: None,
            prefixes: Vec::new(),
            address: 0,
        };
        if let Some(config) = &self.config {
            return match config.layer == b.layer && config.given == given {
                true => Ok(Answer::Configured(configured)),
                false => Err(Reason::new(
                    Code::Conflict,
                    "the shim is bootstrapped with other parameters; destroy it first",
                )),
            };
        }
        if let Some((lo, hi)) = given.flow_ports {
            // Half the ports stay for flows that are confirmed.
            self.unconfirmed = Unconfirmed::new(usize::from(hi - lo).div_ceil(2));
        }
        let hosts: BTreeMap<_, _> = given.hosts.iter().map(|h| (h.name.clone(), h.at)).collect();
        let offload = given.offload.clone();
        if !offload.is_empty() {
            self.ask(Ask::Offload(offload.clone()));
        }
        self.config = Some(Config {
            layer: b.layer,
            given,
            ip: None,
            bound: None,
            hosts,
            offload,
        });
        self.take_place();
        Ok(Answer::Configured(configured))
    }

    fn set(&mut self, settings: Settings) -> Result<Answer, Reason> {
        if !settings.over.is_empty() {
            return Err(Reason::new(
                Code::Usage,
                "a UDP shim has no lower layer; leave --over out",
            ));
        }
        seals_nothing(&settings.offload)?;
        let Some(config) = &mut self.config else {
            return Err(Reason::new(
                Code::Failed,
                "the shim is not bootstrapped; run 'irm ipcp bootstrap' first",
            ));
        };
        if settings.ip.as_ref().is_some_and(|ip| !specific(ip)) {
            return Err(Reason::new(
                Code::Usage,
                "a UDP shim needs one specific address of this host",
            ));
        }
        let moves = settings.ip.filter(|ip| *ip != config.given.ip);
        let moved = moves.is_some();
        if let Some(place) = moves {
            config.given.ip = place;
        }
        config
            .hosts
            .extend(settings.hosts.into_iter().map(|h| (h.name, h.at)));
        for new in &settings.offload {
            config.offload.retain(|old| old.kind != new.kind);
            config.offload.push(*new);
        }
        if !settings.offload.is_empty() {
            self.ask(Ask::Offload(settings.offload));
        }
        if moved {
            // Flows go on as long as the host has the address that they have.
            self.take_place();
        }
        Ok(Answer::Ok)
    }

    fn shutdown(&mut self, id: CommandId) {
        let keys: Vec<_> = self.conns.keys().copied().collect();
        let reason = Reason::new(Code::Closed, "the shim is shut down");
        for key in keys {
            match self.conns.get(&key) {
                Some(Conn::Dialling(_)) => self.fail_dial(key, reason.clone()),
                Some(Conn::Up(_)) => self.end_flow(key, reason.clone()),
                Some(Conn::Unconfirmed(_) | Conn::Pending(..)) | None => {
                    self.drop_conn(key);
                }
            }
        }
        self.done(id, Ok(Answer::Ok));
        self.out.push_back(Output::Exit);
    }

    fn not_here(&mut self, id: CommandId, what: &str, instead: &str) {
        let text = format!("a UDP shim has no members, there is nothing to {what}; {instead}");
        self.done(id, Err(Reason::new(Code::Usage, text)));
    }

    /// Goes to another state, and says so once, however often it is tried, or for an address that is `new`.
    fn enter(&mut self, state: State, detail: String, new: bool) {
        if self.state == state && self.detail == detail && !new {
            return;
        }
        self.state = state;
        self.detail.clone_from(&detail);
        self.event(Event::State(state, detail.clone()));
        let warning = state != State::Up;
        let bound = self.config.as_ref().and_then(|c| c.bound);
        let (text, fields) = match bound.filter(|_| !warning) {
            Some(at) => {
                let fields = vec![("at".to_owned(), at.to_string())];
                (format!("the shim is at {at}"), fields)
            }
            None => (detail, Vec::new()),
        };
        self.event(Event::Notice(Notice {
            kind: "shim.listen".to_owned(),
            text,
            fields,
            warning,
        }));
    }

    /// Counts that a limit bites, and tells people at once and then once a minute.
    pub(super) fn limit(&mut self, now: Now, what: &'static str) {
        self.counters.count(what);
        let lately = |at: &Instant| now.mono.saturating_duration_since(*at) < TELL_AGAIN;
        if self.told.get(what).is_some_and(lately) {
            return;
        }
        self.told.insert(what, now.mono);
        let n = self.counter(what);
        self.event(Event::Notice(Notice {
            kind: "limit.reached".to_owned(),
            text: format!("a limit bites: too many flow requests ({n} times so far; {what})"),
            fields: vec![("limit".to_owned(), what.to_owned())],
            warning: false,
        }));
    }

    fn status(&self) -> IpcpStatus {
        let mut settings = HashMap::default();
        if let Some(c) = &self.config {
            let follows = c.given.ip.fixed().is_none();
            let ip = c.ip.filter(|_| !follows || self.state == State::Up);
            let ip = ip.map(|ip| ip.to_string());
            settings.insert("ip".to_owned(), ip.unwrap_or_default());
            if follows {
                settings.insert("follows".to_owned(), c.given.ip.to_string());
            }
            settings.insert("port".to_owned(), c.given.port.to_string());
            let hosts: Vec<_> = c
                .hosts
                .iter()
                .map(|(name, at)| format!("{name}={at}"))
                .collect();
            settings.insert("hosts".to_owned(), hosts.join(" "));
            settings.insert(
                "dns".to_owned(),
                c.given.dns.map(|d| d.to_string()).unwrap_or_default(),
            );
            let ports = c.given.flow_ports.map(|(lo, hi)| format!("{lo}-{hi}"));
            settings.insert("flow_ports".to_owned(), ports.unwrap_or_default());
            for offload in &c.offload {
                if let Some((kind, mode)) = offload.to_string().split_once('=') {
                    settings.insert(kind.to_owned(), mode.to_owned());
                }
            }
        }
        let mut counters: HashMap<_, _> = self
            .counters
            .iter()
            .map(|(what, n)| (what.to_owned(), n))
            .collect();
        counters.insert("now.unconfirmed".to_owned(), self.unconfirmed.len() as u64);
        counters.insert("now.pending".to_owned(), self.requests.len() as u64);
        let layer = self
            .config
            .as_ref()
            .map(|c| c.layer.to_string())
            .unwrap_or_default();
        let flows = self.conns.values().filter_map(|conn| match conn {
            Conn::Up(flow) => Some(flow.info(&layer)),
            Conn::Dialling(_) | Conn::Unconfirmed(_) | Conn::Pending(..) => None,
        });
        IpcpStatus {
            state: self.state.word().to_owned(),
            flows: flows.collect(),
            counters,
            warnings: if self.detail.is_empty() {
                Vec::new()
            } else {
                vec![self.detail.clone()]
            },
            names: self.names.iter().map(ToString::to_string).collect(),
            settings,
            layer: layer.clone(),
            ..IpcpStatus::default()
        }
    }
}

impl Config {
    /// Whether its network is IPv4.
    pub(super) fn is_ipv4(&self) -> bool {
        match &self.given.ip {
            Place::At(ip) => ip.is_ipv4(),
            Place::Of(family, _) | Place::Auto(family) => *family == Family::V4,
        }
    }
}

/// Whether a shim can be at this address.
fn specific(place: &Place) -> bool {
    place
        .fixed()
        .is_none_or(|ip| !ip.is_unspecified() && !ip.is_multicast())
}

/// That none of these switches is one of who seals.
fn seals_nothing(switches: &[Offload]) -> Result<(), Reason> {
    if switches.iter().all(|s| s.kind != OffloadKind::Seal) {
        return Ok(());
    }
    let text = "a UDP shim seals nothing; --offload seal is for the IPC process of a layer over it";
    Err(Reason::new(Code::Usage, text))
}

/// How often an absent address or a used port is tried.
const RETRY: Duration = Duration::from_secs(1);
/// The pause between two words on one limit.
const TELL_AGAIN: Duration = Duration::from_secs(60);
