//! TLS 1.3 over PDUs that may be lost, doubled, reordered or forged: rustls' `quic` API below, loss recovery here.
//!
//! Nothing protects a PDU of the initial level, so nothing in one is final: bytes that TLS refuses, or that differ from
//! what came before, make a server forget the hello and a client begin anew, until the first PDU has authenticated.

mod frame;
mod make;
mod peek;
mod stream;
mod take;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Code, Reason};
use rustls::CipherSuite;
use rustls::quic::{ClientConnection, Connection, KeyChange, Keys, ServerConnection, Version};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use super::tls::describe;
use super::{
    Aead, Agreed, Farewell, Introduction, KeyExchange, MemberCert, Secrets, TAG, TlsConfig,
    Versions,
};
use frame::{Frame, Header, Level};
use stream::{Incoming, Outgoing};

/// One side of one handshake.
pub struct Handshake {
    config: TlsConfig,
    tls: Connection,
    client: bool,
    session: u32,
    mtu: usize,
    path_mtu: usize,
    number: u32,
    keys: Option<Keys>,
    write_level: usize,
    out: [Outgoing; 2],
    into: [Incoming; 2],
    /// What tells the server that it is no stranger's.
    introduction: Option<Introduction>,
    /// What this server promises to say once it has forgotten it.
    farewell: Option<Farewell>,
    /// The server has said so.
    forgotten: bool,
    /// Sealed PDUs that overtook the server's hello.
    early: Vec<Vec<u8>>,
    /// Something from the other side has authenticated: from here on, the initial level is closed.
    heard: bool,
    ack_due: bool,
    started: Instant,
    /// When something new came last.
    progressed: Instant,
    retry: Retry,
    attempts: u32,
    /// An alert that nothing authenticated, and when it came.
    hint: Option<(u8, Instant)>,
    state: State,
    outcome: Option<Outcome>,
    incompatible: bool,
    /// The alert to close with, whether it is to be sent now, and how often it may be sent again.
    close: (u8, bool, u32),
}

/// How a handshake ended.
#[derive(Debug)]
pub enum Outcome {
    /// Both sides have proven who they are.
    Done(Box<Secrets>),
    /// It failed. On a client this may follow a `Done`, if the server then refuses its certificate.
    Failed(Reason),
}

/// Why a handshake PDU was dropped, or no handshake begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Its bytes make no sense.
    #[error("the handshake PDU is malformed")]
    Malformed,
    /// It belongs to another handshake.
    #[error("the handshake PDU is of another session")]
    OtherSession,
    /// It doesn't authenticate.
    #[error("the handshake PDU doesn't authenticate")]
    Forged,
    /// It came before its keys, and too many did.
    #[error("too many handshake PDUs came before their keys")]
    TooEarly,
    /// It reaches beyond what is buffered.
    #[error("the handshake PDU reaches beyond 64 KiB")]
    TooMuch,
    /// It contradicts what came before.
    #[error("the handshake PDU contradicts an earlier one")]
    Conflict,
    /// TLS refuses what it says.
    #[error("TLS refuses the handshake PDU: {0}")]
    Tls(String),
    /// No handshake can begin like this.
    #[error("no handshake can begin: {0}")]
    Unusable(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Done,
    Failed,
}

/// When to send again.
struct Retry {
    at: Option<Instant>,
    wait: Duration,
    unanswered: u32,
}

impl Handshake {
    /// Begins as the TLS client. `session` is its choice, `mtu` the largest PDU of the flow below, in bytes.
    pub fn client(
        config: &TlsConfig,
        session: u32,
        mtu: usize,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        let mut handshake = Self::new(config, true, None, session, mtu, now)?;
        handshake.pump();
        Ok(handshake)
    }

    /// Begins as the TLS server, for a client's first PDU of this session (see [`Handshake::may_open`]).
    pub fn server(
        config: &TlsConfig,
        session: u32,
        mtu: usize,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        Self::serve(config, None, session, mtu, now)
    }

    /// The same, and promises to say `farewell` once it has forgotten this handshake ([`Handshake::farewell`]).
    pub fn mindful_server(
        config: &TlsConfig,
        farewell: Farewell,
        session: u32,
        mtu: usize,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        Self::serve(config, Some(farewell), session, mtu, now)
    }

    fn serve(
        config: &TlsConfig,
        farewell: Option<Farewell>,
        session: u32,
        mtu: usize,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        let mut handshake = Self::new(config, false, farewell, session, mtu, now)?;
        // Grows to what the client's first PDU proves to pass.
        handshake.path_mtu = mtu.min(SAFE_MTU);
        Ok(handshake)
    }

    /// Shows the server with each first PDU that the two have met.
    pub fn introduce(&mut self, shown: Introduction) {
        self.introduction = Some(shown);
    }

    fn new(
        config: &TlsConfig,
        client: bool,
        farewell: Option<Farewell>,
        session: u32,
        mtu: usize,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        if mtu < MIN_MTU {
            return Err(HandshakeError::Unusable(format!(
                "the flow below takes only {mtu} bytes, {MIN_MTU} are needed"
            )));
        }
        let mtu = mtu.min(MAX_MTU);
        Ok(Self {
            config: config.clone(),
            client,
            tls: connect(config, client, farewell)?,
            session,
            mtu,
            path_mtu: mtu,
            number: 0,
            keys: None,
            write_level: 0,
            out: Default::default(),
            into: Default::default(),
            introduction: None,
            farewell,
            forgotten: false,
            early: Vec::new(),
            heard: false,
            ack_due: false,
            started: now,
            progressed: now,
            retry: Retry {
                at: None,
                wait: FIRST_WAIT,
                unanswered: 0,
            },
            attempts: 0,
            hint: None,
            state: State::Running,
            outcome: None,
            incompatible: false,
            close: (0, false, MAX_CLOSES),
        })
    }

    /// The session's id.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Whether this side is the TLS client.
    pub fn is_client(&self) -> bool {
        self.client
    }

    /// The largest PDU that is known to pass, or hoped to until something has come back: the flow's MTU at first, 1200
    /// after four time-outs in a row, 508 after seven.
    pub fn path_mtu(&self) -> usize {
        self.path_mtu
    }

    /// Takes a PDU, which is opened where it lies. An error is to be counted; what has authenticated is as it was.
    pub fn handle(&mut self, now: Instant, pdu: &mut [u8]) -> Result<(), HandshakeError> {
        let header = Header::parse(pdu)?;
        if header.session != self.session {
            return Err(HandshakeError::OtherSession);
        }
        if self.state == State::Failed {
            // The other side goes on: it may have missed that this one has given up.
            self.close.1 = self.close.2 > 0;
            return Ok(());
        }
        match header.level {
            Level::Initial => {
                let frames = Frame::parse_all(&pdu[Header::LEN..])?;
                self.initial(now, pdu.len(), &frames)
            }
            Level::Handshake if self.keys.is_none() => {
                if self.early.len() == MAX_EARLY {
                    return Err(HandshakeError::TooEarly);
                }
                self.early.push(pdu.to_vec());
                Ok(())
            }
            Level::Handshake => self.sealed(now, header, pdu),
        }
    }

    /// The next PDU to send.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.expire(now);
        if self.state == State::Failed {
            return self.close_pdu();
        }
        let pdu = self.initial_pdu().or_else(|| self.sealed_pdu())?;
        if self.retry.at.is_none() && self.unacked() {
            self.retry.at = Some(now + self.retry.wait);
        }
        Some(pdu)
    }

    /// When to poll again if nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.waiting() {
            return None;
        }
        let hint = self.hint.map(|(_, at)| at + HINT_PATIENCE);
        [self.retry.at, hint, Some(self.end())]
            .into_iter()
            .flatten()
            .min()
    }

    /// How it ended; given once (and on a client once more if the server refuses it later).
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Whether the other side is known to have the keys too, so that what is sealed with them can be opened. The first
    /// sealed PDU from it shows as much.
    pub fn confirmed(&self) -> bool {
        self.state == State::Done && (!self.client || self.out[1].done())
    }

    /// Whether nothing is left to be retransmitted. The other side may still retransmit: keep it for 10 s, to acknowledge.
    pub fn finished(&self) -> bool {
        self.state == State::Failed || self.confirmed()
    }

    /// There is a way to the other side again after a time without: what waits goes at once, and is given all its time.
    pub fn resume(&mut self, now: Instant) {
        if self.waiting() && self.unacked() {
            (self.started, self.progressed) = (now, now);
            self.retry.wait = FIRST_WAIT;
            self.retry.at = Some(now);
        }
    }

    /// Whether it has failed and has nothing to say of that (any more): what is repeated to it had better begin another.
    pub fn is_mute(&self) -> bool {
        self.state == State::Failed && self.close.2 == 0
    }

    /// Whether it has failed since the server, and nobody else, has said that it knows nothing of it any more.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Whether something is still expected of the other side.
    fn waiting(&self) -> bool {
        self.state == State::Running || (self.state == State::Done && !self.confirmed())
    }

    fn unacked(&self) -> bool {
        self.out.iter().any(|out| !out.done())
    }

    /// Whether it came to nothing because the two sides have no version in common.
    pub fn is_incompatible(&self) -> bool {
        self.incompatible
    }

    /// What both sides speak, as far as the other one has said what it does.
    fn agreed(&self) -> Result<Agreed, Reason> {
        let said = self.tls.quic_transport_parameters().unwrap_or_default();
        let garbled =
            "the other side doesn't say which versions it speaks; see that it is of this kind";
        let theirs =
            Versions::parse(said).ok_or_else(|| Reason::new(Code::PeerMisbehaved, garbled))?;
        self.config.versions.agree(&theirs)
    }

    fn secrets(&self) -> Result<Secrets, Reason> {
        let agreed = self.agreed()?;
        let broken =
            |what: &str| Reason::new(Code::Failed, format!("the handshake yields no {what}"));
        let export = |label: &[u8]| {
            self.tls
                .export_keying_material([0; 32], label, None)
                .map_err(|_| broken("keys"))
        };
        let aead = match self
            .tls
            .negotiated_cipher_suite()
            .map(|suite| suite.suite())
        {
            Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => Aead::Aes256Gcm,
            Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => Aead::ChaCha20Poly1305,
            _ => return Err(broken("suite that is known")),
        };
        let exchange = self
            .tls
            .negotiated_key_exchange_group()
            .and_then(|group| KeyExchange::of(group.name()))
            .ok_or_else(|| broken("key exchange that is known"))?;
        let peer = match self.tls.peer_certificates() {
            Some(chain) if !chain.is_empty() => {
                // TLS has verified the chain, with our verifier.
                let parsed = MemberCert::parse(&chain[0]);
                let blame = |e| {
                    Reason::new(
                        Code::Denied,
                        format!("the other side can't be believed: {e}"),
                    )
                };
                Some(parsed.map_err(blame)?)
            }
            _ => None,
        };
        Ok(Secrets {
            master: Zeroizing::new(export(MASTER_LABEL)?),
            exporter: export(ENROL_LABEL)?,
            aead,
            exchange,
            agreed,
            peer,
        })
    }

    /// Moves what TLS has to say into the streams of the levels.
    fn pump(&mut self) {
        loop {
            let mut bytes = Vec::new();
            let change = self.tls.write_hs(&mut bytes);
            if let Some(out) = self.out.get_mut(self.write_level) {
                out.push(&bytes);
            }
            match change {
                Some(KeyChange::Handshake { keys }) => {
                    self.keys = Some(keys);
                    self.write_level = 1;
                }
                // Traffic is sealed with keys of our own; TLS has nothing to say any more.
                Some(KeyChange::OneRtt { .. }) => self.write_level = 2,
                None if bytes.is_empty() => return,
                None => {}
            }
        }
    }

    /// Forgets all that came without authentication.
    fn begin_anew(&mut self, now: Instant, error: HandshakeError) -> Result<(), HandshakeError> {
        self.attempts += 1;
        if self.attempts > MAX_ATTEMPTS {
            if self.client {
                self.fail(
                    Reason::new(
                        Code::PeerMisbehaved,
                        format!("the other side's answers make no sense: {error}"),
                    ),
                    None,
                );
            }
            return Err(error);
        }
        self.tls = connect(&self.config, self.client, self.farewell)?;
        self.keys = None;
        self.write_level = 0;
        self.out = Default::default();
        self.into = Default::default();
        self.early.clear();
        self.retry.at = None;
        self.pump();
        self.progress(now);
        Ok(())
    }

    /// Something new came: the path works.
    fn progress(&mut self, now: Instant) {
        self.hint = None;
        self.progressed = now;
        self.retry.wait = FIRST_WAIT;
        self.retry.unanswered = 0;
        let unacked = self.unacked();
        self.retry.at = self.retry.at.filter(|_| unacked).map(|_| now + FIRST_WAIT);
    }

    /// When it is given up.
    fn end(&self) -> Instant {
        (self.progressed + PATIENCE).min(self.started + LONGEST)
    }

    fn expire(&mut self, now: Instant) {
        if !self.waiting() {
            return;
        }
        if let Some((alert, _)) = self.hint.filter(|(_, at)| now >= *at + HINT_PATIENCE) {
            self.fail(refused(alert), None);
        } else if now >= self.end() {
            let text = "the other side didn't go on with the handshake for 10 s; see that it runs and can be reached";
            self.fail(Reason::new(Code::TimedOut, text), None);
        } else if self.retry.at.is_some_and(|at| now >= at) {
            self.out.iter_mut().for_each(Outgoing::rewind);
            self.retry.unanswered += 1;
            // Every second one doubles the pause: two lossy links in a row leave a quarter of what is asked answered.
            if self.retry.unanswered.is_multiple_of(2) {
                let longest = if self.heard { HEARD_WAIT } else { LONGEST_WAIT };
                self.retry.wait = (self.retry.wait * 2).min(longest);
            }
            self.retry.at = Some(now + self.retry.wait);
            self.path_mtu = match self.retry.unanswered {
                ..UNANSWERED => self.path_mtu,
                UNANSWERED..VERY_UNANSWERED => self.path_mtu.min(SAFE_MTU),
                VERY_UNANSWERED.. => self.path_mtu.min(SMALL_MTU),
            };
        }
    }

    fn fail(&mut self, reason: Reason, alert: Option<u8>) {
        self.state = State::Failed;
        self.outcome = Some(Outcome::Failed(reason));
        self.retry.at = None;
        self.hint = None;
        match alert {
            Some(alert) => (self.close.0, self.close.1) = (alert, true),
            // The other side has given up itself, or can't be reached.
            None => self.close = (0, false, 0),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.client { "client" } else { "server" };
        write!(
            f,
            "Handshake({side}, session {:08x}, {:?})",
            self.session, self.state
        )
    }
}

fn connect(
    config: &TlsConfig,
    client: bool,
    farewell: Option<Farewell>,
) -> Result<Connection, HandshakeError> {
    let unusable = |e: rustls::Error| HandshakeError::Unusable(e.to_string());
    let mut parameters = config.versions.encode();
    parameters.extend(farewell.iter().flat_map(|promised| promised.0));
    if client {
        let name =
            ServerName::try_from("strata").map_err(|e| HandshakeError::Unusable(e.to_string()))?;
        let tls = ClientConnection::new(Arc::clone(&config.client), Version::V1, name, parameters)
            .map_err(unusable)?;
        return Ok(tls.into());
    }
    let server = config
        .server
        .as_ref()
        .ok_or_else(|| HandshakeError::Unusable("a joiner can't be dialled".into()))?;
    let tls =
        ServerConnection::new(Arc::clone(server), Version::V1, parameters).map_err(unusable)?;
    Ok(tls.into())
}

/// What the other side's alert (RFC 8446 section 6) means for a person.
fn refused(alert: u8) -> Reason {
    let why = match alert {
        PROTOCOL_VERSION => {
            "it speaks no version of the layer's protocol that this side does; update the older"
        }
        45 => "our certificate is expired or not yet valid there; see both clocks, or enrol again",
        48 => "it doesn't know the authority that issued our certificate; enrol in its layer",
        42 | 43 | 46 => "our certificate is no member's of its layer; enrol in its layer",
        other => {
            let text =
                format!("the other side refused the handshake (TLS alert {other}); see its log");
            return Reason::new(Code::Refused, text);
        }
    };
    Reason::new(Code::Refused, format!("the other side refused us: {why}"))
}

const MASTER_LABEL: &[u8] = b"EXPORTER-strata-association-v1";
const ENROL_LABEL: &[u8] = b"EXPORTER-strata-enrol-v1";
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The same once the other side has shown that it is there and waits for the rest.
const HEARD_WAIT: Duration = Duration::from_millis(400);
/// How long nothing new may come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take at most, however slowly it goes on.
const LONGEST: Duration = Duration::from_secs(30);
/// An alert that nothing authenticates is believed if nothing better has come for so long.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// Time-outs in a row after which large PDUs are given up.
const UNANSWERED: u32 = 4;
const VERY_UNANSWERED: u32 = 7;
/// What every path must take, as far as the flow below does.
const SAFE_MTU: usize = 1200;
/// What even the smallest takes.
const SMALL_MTU: usize = 508;
const MIN_MTU: usize = 128;
const MAX_MTU: usize = 65_507;
const MAX_EARLY: usize = 8;
const MAX_ATTEMPTS: u32 = 16;
const MAX_CLOSES: u32 = 8;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
