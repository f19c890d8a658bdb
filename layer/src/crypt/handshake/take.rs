//! What a handshake does with a PDU that came in.

use std::time::Instant;

use proto::{Code, Reason};

use super::frame::{Frame, Header, Level};
use super::stream::Inserted;
use super::{
    HANDSHAKE_FAILURE, Handshake, HandshakeError, Outcome, PROTOCOL_VERSION, State, describe,
    refused,
};
use crate::crypt::{Farewell, Versions};

impl Handshake {
    /// A PDU that anybody may have written.
    pub(super) fn initial(
        &mut self,
        now: Instant,
        len: usize,
        frames: &[Frame],
    ) -> Result<(), HandshakeError> {
        let sent = self.out[0].sent();
        // Not believed, and not needed: what follows it shows that a hello has arrived. What a server that has said nothing
        // is told of, another has sent that was forgotten in its place: this one begins with the same hello.
        let fresh = !self.client && sent == 0;
        let sane = |frame: &Frame| match frame {
            Frame::Ack { level, contiguous } => {
                *level == Level::Initial && (*contiguous <= sent || fresh)
            }
            Frame::Crypto { .. } | Frame::Close(_) | Frame::Met(_) | Frame::Forgotten(_) => true,
        };
        if !frames.iter().all(sane) {
            return Err(HandshakeError::Malformed);
        }
        let kept = |frame: &Frame| matches!(frame, Frame::Forgotten(said) if self.promised(said));
        if frames.iter().any(kept) {
            self.forgotten = true;
            let text = "the other side has forgotten the handshake; another is begun";
            self.fail(Reason::new(Code::Unreachable, text), None);
            return Ok(());
        }
        if self.heard {
            return Ok(());
        }
        let (mut news, mut result) = (false, Ok(()));
        for frame in frames {
            match frame {
                Frame::Crypto { offset, bytes } => match self.plain_crypto(now, *offset, bytes) {
                    Ok(fresh) => news |= fresh,
                    Err(error) => result = Err(error),
                },
                Frame::Close(alert) if self.state == State::Running => {
                    self.hint.get_or_insert((*alert, now));
                }
                Frame::Close(_) | Frame::Ack { .. } | Frame::Met(_) | Frame::Forgotten(_) => {}
            }
        }
        if !self.client {
            self.path_mtu = self.path_mtu.max(len.min(self.mtu));
        }
        // With handshake keys in place, TLS expects sealed bytes: it must never see plain ones then.
        if !news || self.keys.is_some() {
            return result;
        }
        let fresh = self.into[0].take();
        if fresh.is_empty() {
            return result;
        }
        if let Err(error) = self.tls.read_hs(fresh) {
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
        self.opened_early(now).and(result)
    }

    /// Whether this is what the server promised to say once it has forgotten what this client waits for.
    fn promised(&self, said: &Farewell) -> bool {
        let promised = self.tls.quic_transport_parameters();
        let promised = promised.filter(|_| self.client && self.waiting());
        promised
            .and_then(Versions::promised)
            .is_some_and(|promised| said.is(promised))
    }

    /// Keeps bytes of the initial level; says whether they are new.
    fn plain_crypto(
        &mut self,
        now: Instant,
        offset: usize,
        bytes: &[u8],
    ) -> Result<bool, HandshakeError> {
        match self.into[0].insert(offset, bytes) {
            Inserted::New => Ok(true),
            Inserted::Known => Ok(false),
            Inserted::TooMuch => Err(HandshakeError::TooMuch),
            Inserted::Conflict => {
                self.begin_anew(now, HandshakeError::Conflict)?;
                // A client's new hello makes the old answer worthless; a server takes the new one.
                let taken = !self.client && self.into[0].insert(offset, bytes) == Inserted::New;
                if taken {
                    Ok(true)
                } else {
                    Err(HandshakeError::Conflict)
                }
            }
        }
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
    pub(super) fn sealed(
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
                Frame::Met(_)
                | Frame::Forgotten(_)
                | Frame::Ack {
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
                        self.incompatible = alert == PROTOCOL_VERSION;
                        // What the other side said of itself tells more than its alert.
                        let said = self.agreed().err().filter(|_| self.incompatible);
                        self.fail(said.unwrap_or_else(|| refused(alert)), None);
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
        let fresh = self.into[1].take();
        if fresh.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.tls.read_hs(fresh) {
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
                Err(reason) => {
                    self.incompatible = self.agreed().is_err();
                    let alert = if self.incompatible {
                        PROTOCOL_VERSION
                    } else {
                        HANDSHAKE_FAILURE
                    };
                    self.fail(reason, Some(alert));
                }
            }
        }
        Ok(())
    }
}
