//! TLS 1.3 over PDUs that may be lost, doubled, reordered or forged: rustls' `quic` API below, loss recovery here.
//!
//! Nothing protects a PDU of the initial level, so nothing in one is final: bytes that TLS refuses, or that differ from
//! what came before, make a server forget the hello and a client begin anew, until the first PDU has authenticated.

mod frame;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Code, Reason};
use rustls::quic::{ClientConnection, Connection, KeyChange, Keys, ServerConnection, Version};
use rustls::{AlertDescription, CipherSuite};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use super::tls::describe;
use super::{Aead, Secrets, TAG, TlsConfig};
use frame::{Frame, Header, Level};
use stream::{Incoming, Inserted, Outgoing};

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
    /// Sealed PDUs that overtook the server's hello.
    early: Vec<Vec<u8>>,
    /// Something from the other side has authenticated: from here on, the initial level is closed.
    heard: bool,
    ack_due: bool,
    started: Instant,
    retry: Retry,
    attempts: u32,
    /// An alert that nothing authenticated, and when it came.
    hint: Option<(u8, Instant)>,
    state: State,
    outcome: Option<Outcome>,
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
        let mut handshake = Self::new(config, connect(config, true)?, session, mtu, now)?;
        handshake.pump();
        Ok(handshake)
    }

    /// Begins as the TLS server, for a client's first PDU of this session (see [`Handshake::session_of`]).
    pub fn server(
        config: &TlsConfig,
        session: u32,
        mtu: usize,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        let mut handshake = Self::new(config, connect(config, false)?, session, mtu, now)?;
        // Grows to what the client's first PDU proves to pass.
        handshake.path_mtu = mtu.min(SAFE_MTU);
        Ok(handshake)
    }

    /// The session that a handshake PDU belongs to, and whether it may open one (its level is the initial one).
    pub fn session_of(pdu: &[u8]) -> Result<(u32, bool), HandshakeError> {
        let header = Header::parse(pdu)?;
        Ok((header.session, header.level == Level::Initial))
    }

    fn new(
        config: &TlsConfig,
        tls: Connection,
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
            client: matches!(tls, Connection::Client(_)),
            tls,
            session,
            mtu,
            path_mtu: mtu,
            number: 0,
            keys: None,
            write_level: 0,
            out: Default::default(),
            into: Default::default(),
            early: Vec::new(),
            heard: false,
            ack_due: false,
            started: now,
            retry: Retry {
                at: None,
                wait: FIRST_WAIT,
                unanswered: 0,
            },
            attempts: 0,
            hint: None,
            state: State::Running,
            outcome: None,
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
    /// once three PDUs of that size have gone unanswered.
    pub fn path_mtu(&self) -> usize {
        self.path_mtu
    }

    /// Takes a PDU, which is opened where it lies. An error is to be counted; the handshake is as it was.
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
        [self.retry.at, hint, Some(self.started + PATIENCE)]
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

    /// Whether something is still expected of the other side.
    fn waiting(&self) -> bool {
        self.state == State::Running || (self.state == State::Done && !self.confirmed())
    }

    fn unacked(&self) -> bool {
        self.out.iter().any(|out| !out.done())
    }

    /// A PDU that anybody may have written.
    fn initial(
        &mut self,
        now: Instant,
        len: usize,
        frames: &[Frame],
    ) -> Result<(), HandshakeError> {
        let mut news = false;
        for frame in frames {
            match frame {
                // Not believed, and not needed: what follows it shows that a hello has arrived.
                Frame::Ack {
                    level: Level::Initial,
                    contiguous,
                } if *contiguous <= self.out[0].sent() => {}
                Frame::Ack { .. } => return Err(HandshakeError::Malformed),
                Frame::Close(alert) if self.state == State::Running && !self.heard => {
                    self.hint.get_or_insert((*alert, now));
                }
                Frame::Close(_) => {}
                Frame::Crypto { .. } if self.heard => {}
                Frame::Crypto { offset, bytes } => match self.into[0].insert(*offset, bytes) {
                    Inserted::New => news = true,
                    Inserted::Known => {}
                    Inserted::TooMuch => return Err(HandshakeError::TooMuch),
                    Inserted::Conflict => {
                        self.begin_anew(now, HandshakeError::Conflict)?;
                        // A client's new hello makes the old answer worthless; a server takes the new one.
                        if self.client || self.into[0].insert(*offset, bytes) != Inserted::New {
                            return Err(HandshakeError::Conflict);
                        }
                        news = true;
                    }
                },
            }
        }
        if !self.client {
            self.path_mtu = self.path_mtu.max(len.min(self.mtu));
        }
        // With handshake keys in place, TLS expects sealed bytes: it must never see plain ones then.
        if !news || self.keys.is_some() {
            return Ok(());
        }
        if let Err(error) = self.tls.read_hs(self.into[0].take()) {
            let alert = self.tls.alert().map_or(HANDSHAKE_FAILURE, u8::from);
            let error = HandshakeError::Tls(describe(&error));
            self.begin_anew(now, error.clone())?;
            if !self.client {
                (self.close.0, self.close.1) = (alert, self.close.2 > 0);
            }
            return Err(error);
        }
        self.pump();
        self.progress(now);
        self.opened_early(now)
    }

    /// What overtook the keys can be opened now.
    fn opened_early(&mut self, now: Instant) -> Result<(), HandshakeError> {
        let mut result = Ok(());
        if self.keys.is_some() {
            for mut pdu in std::mem::take(&mut self.early) {
                result = Header::parse(&pdu)
                    .and_then(|header| self.sealed(now, header, &mut pdu))
                    .and(result);
            }
        }
        result
    }

    /// A PDU that must authenticate with the handshake keys.
    fn sealed(
        &mut self,
        now: Instant,
        header: Header,
        pdu: &mut [u8],
    ) -> Result<(), HandshakeError> {
        let keys = self.keys.as_ref().ok_or(HandshakeError::TooEarly)?;
        let (head, body) = pdu.split_at_mut(Header::LEN);
        let opened = keys
            .remote
            .packet
            .decrypt_in_place(u64::from(header.number), head, body);
        let frames = Frame::parse_all(opened.map_err(|_| HandshakeError::Forged)?)?;
        let sent = self.out[1].sent();
        if frames.iter().any(|f| matches!(f, Frame::Ack { level: Level::Handshake, contiguous } if *contiguous > sent)) {
            return Err(HandshakeError::Malformed);
        }
        if !self.heard {
            self.heard = true;
            self.hint = None;
            // Whoever has the keys has the hello.
            self.out[0].ack_all();
            self.progress(now);
        }
        for frame in frames {
            match frame {
                Frame::Ack {
                    level: Level::Initial,
                    ..
                } => {}
                Frame::Ack {
                    level: Level::Handshake,
                    contiguous,
                } => {
                    if self.out[1].ack(contiguous) {
                        self.progress(now);
                    }
                }
                Frame::Close(alert) => {
                    if self.waiting() {
                        self.fail(refused(alert), None);
                    }
                    return Ok(());
                }
                Frame::Crypto { offset, bytes } => self.crypto(now, offset, &bytes)?,
            }
        }
        Ok(())
    }

    fn crypto(&mut self, now: Instant, offset: usize, bytes: &[u8]) -> Result<(), HandshakeError> {
        match self.into[1].insert(offset, bytes) {
            Inserted::New => {}
            Inserted::Known => {
                self.ack_due = true;
                return Ok(());
            }
            Inserted::Conflict => return Err(HandshakeError::Conflict),
            Inserted::TooMuch => return Err(HandshakeError::TooMuch),
        }
        self.ack_due = true;
        if let Err(error) = self.tls.read_hs(self.into[1].take()) {
            let alert = self.tls.alert().map_or(HANDSHAKE_FAILURE, u8::from);
            let code = if matches!(error, rustls::Error::InvalidCertificate(_)) {
                Code::Denied
            } else {
                Code::PeerMisbehaved
            };
            let text = format!("the other side can't be believed: {}", describe(&error));
            self.fail(Reason::new(code, text), Some(alert));
            return Ok(());
        }
        self.pump();
        self.progress(now);
        if self.state == State::Running && !self.tls.is_handshaking() {
            match self.secrets() {
                Ok(secrets) => {
                    self.state = State::Done;
                    self.outcome = Some(Outcome::Done(Box::new(secrets)));
                    if !self.client {
                        // The client's last flight answers all of the server's.
                        self.out[1].ack_all();
                        self.retry.at = None;
                    }
                }
                Err(reason) => self.fail(reason, Some(HANDSHAKE_FAILURE)),
            }
        }
        Ok(())
    }

    fn secrets(&self) -> Result<Secrets, Reason> {
        if self.tls.quic_transport_parameters() != Some(PARAMETERS) {
            return Err(Reason::new(
                Code::PeerMisbehaved,
                "the other side speaks another version of the layer's protocol; update the older",
            ));
        }
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
        let peer = match self.tls.peer_certificates() {
            Some(chain) if !chain.is_empty() => {
                let verified = self.config.trust.verify(chain, self.config.clock.now());
                Some(verified.map_err(|e| {
                    Reason::new(
                        Code::Denied,
                        format!("the other side can't be believed: {e}"),
                    )
                })?)
            }
            _ => None,
        };
        Ok(Secrets {
            master: Zeroizing::new(export(MASTER_LABEL)?),
            exporter: export(ENROL_LABEL)?,
            aead,
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
        self.tls = connect(&self.config, self.client)?;
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
        self.retry.wait = FIRST_WAIT;
        self.retry.unanswered = 0;
        self.retry.at = self.retry.at.and(self.unacked().then(|| now + FIRST_WAIT));
    }

    fn expire(&mut self, now: Instant) {
        if !self.waiting() {
            return;
        }
        if let Some((alert, _)) = self.hint.filter(|(_, at)| now >= *at + HINT_PATIENCE) {
            self.fail(refused(alert), None);
        } else if now >= self.started + PATIENCE {
            let text = "the other side didn't finish the handshake within 10 s; see that it runs and can be reached";
            self.fail(Reason::new(Code::TimedOut, text), None);
        } else if self.retry.at.is_some_and(|at| now >= at) {
            self.out.iter_mut().for_each(Outgoing::rewind);
            self.retry.wait = (self.retry.wait * 2).min(LONGEST_WAIT);
            self.retry.at = Some(now + self.retry.wait);
            self.retry.unanswered += 1;
            if self.retry.unanswered == UNANSWERED {
                self.path_mtu = self.path_mtu.min(SAFE_MTU);
            }
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

    fn close_pdu(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.close.1) || self.close.2 == 0 {
            return None;
        }
        self.close.2 -= 1;
        let mut frames = Vec::new();
        Frame::Close(self.close.0).encode(&mut frames);
        let level = if self.keys.is_some() {
            Level::Handshake
        } else {
            Level::Initial
        };
        self.pdu(level, frames)
    }

    fn initial_pdu(&mut self) -> Option<Vec<u8>> {
        if self.close.1 {
            return self.close_pdu();
        }
        let mut frames = Vec::with_capacity(self.path_mtu);
        let contiguous = self.into[0].contiguous();
        if contiguous > 0 {
            Frame::Ack {
                level: Level::Initial,
                contiguous,
            }
            .encode(&mut frames);
        }
        let room = self.path_mtu - Header::LEN - frames.len() - Frame::CRYPTO_HEADER;
        let (offset, bytes) = self.out[0].take(room)?;
        Frame::Crypto { offset, bytes }.encode(&mut frames);
        if self.client {
            // A hello of full size shows whether the path takes it.
            frames.resize(self.path_mtu - Header::LEN, 0);
        }
        self.pdu(Level::Initial, frames)
    }

    fn sealed_pdu(&mut self) -> Option<Vec<u8>> {
        if self.keys.is_none() || !(self.ack_due || self.out[1].pending()) {
            return None;
        }
        self.ack_due = false;
        let mut frames = Vec::with_capacity(self.path_mtu);
        let contiguous = self.into[1].contiguous();
        if contiguous > 0 {
            Frame::Ack {
                level: Level::Handshake,
                contiguous,
            }
            .encode(&mut frames);
        }
        let room = self.path_mtu - Header::LEN - frames.len() - Frame::CRYPTO_HEADER - TAG;
        if let Some((offset, bytes)) = self.out[1].take(room) {
            Frame::Crypto { offset, bytes }.encode(&mut frames);
        }
        self.pdu(Level::Handshake, frames)
    }

    /// Puts the header before the frames and seals them. No number is used twice.
    fn pdu(&mut self, level: Level, mut frames: Vec<u8>) -> Option<Vec<u8>> {
        let number = self.number;
        self.number = number.checked_add(1)?;
        let header = Header {
            level,
            session: self.session,
            number,
        }
        .encode();
        let mut pdu = header.to_vec();
        if level == Level::Handshake {
            let tag = self
                .keys
                .as_ref()?
                .local
                .packet
                .encrypt_in_place(u64::from(number), &header, &mut frames)
                .ok()?;
            frames.extend(tag.as_ref());
        }
        pdu.append(&mut frames);
        Some(pdu)
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

fn connect(config: &TlsConfig, client: bool) -> Result<Connection, HandshakeError> {
    let unusable = |e: rustls::Error| HandshakeError::Unusable(e.to_string());
    let parameters = PARAMETERS.to_vec();
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

/// What the other side's alert means for a person.
fn refused(alert: u8) -> Reason {
    let why = match AlertDescription::from(alert) {
        AlertDescription::CertificateExpired => {
            "our certificate is expired or not yet valid there; see both clocks, or enrol again"
        }
        AlertDescription::UnknownCA => {
            "it doesn't know the authority that issued our certificate; enrol in its layer"
        }
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate => {
            "our certificate is no member's of its layer; enrol in its layer"
        }
        other => {
            return Reason::new(
                Code::Refused,
                format!("the other side refused the handshake: TLS alert {other:?}"),
            );
        }
    };
    Reason::new(Code::Refused, format!("the other side refused us: {why}"))
}

/// TLS carries them authenticated; they name the protocol and its version.
const PARAMETERS: &[u8] = b"strata\x01";
const MASTER_LABEL: &[u8] = b"EXPORTER-strata-association-v1";
const ENROL_LABEL: &[u8] = b"EXPORTER-strata-enrol-v1";
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// An alert that nothing authenticates is believed if nothing better has come for so long.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// Time-outs in a row after which large PDUs are given up.
const UNANSWERED: u32 = 3;
/// What every path must take, as far as the flow below does.
const SAFE_MTU: usize = 1200;
const MIN_MTU: usize = 128;
const MAX_MTU: usize = 65_507;
const MAX_EARLY: usize = 8;
const MAX_ATTEMPTS: u32 = 16;
const MAX_CLOSES: u32 = 8;
const HANDSHAKE_FAILURE: u8 = 40;

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
