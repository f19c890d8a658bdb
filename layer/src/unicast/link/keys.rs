//! The keys of a link, one pair a session: which of them seal, and when they are renewed. It must not send anything.

use std::time::{Duration, Instant};

use proto::Addr;

use super::Link;
use crate::crypt::{KeyExchange, OpenKey, REKEY_BLOCKS, SealKey, Secrets};
use crate::unicast::pdu::{self, SEALED_LEN};
use crate::unicast::session::drop_reason;

/// The keys of one session on this link.
pub(super) struct Hop {
    pub(super) session: u32,
    pub(super) version: u8,
    pub(super) seal: SealKey,
    open: OpenKey,
    pub(super) born: Instant,
    client: bool,
    pub(super) confirmed: bool,
    exchange: KeyExchange,
    /// `None`: one side of it has no certificate.
    peer: Option<Addr>,
}

/// What was opened, and with which keys.
pub(in crate::unicast) struct Opened<'a> {
    pub(in crate::unicast) body: &'a mut [u8],
    pub(in crate::unicast) session: u32,
    /// The member that sealed it; `None`: one side has no certificate.
    pub(in crate::unicast) peer: Option<Addr>,
    /// It is the first sign that the other side has the keys.
    pub(in crate::unicast) first: bool,
}

impl Hop {
    /// Seals a PDU for the other side, where it lies.
    pub(super) fn seal(&mut self, pdu: &mut [u8]) -> Result<(), &'static str> {
        let (header, body) = pdu.split_at_mut(SEALED_LEN);
        pdu::write_sealed(header, self.version, self.session);
        let sealed = self.seal.seal(header, body);
        sealed.map_err(|_| "drop.key_exhausted")
    }
}

impl Link {
    /// Takes the keys of a session into use: for opening at once, for sealing when both sides have them.
    pub(in crate::unicast) fn add_session(
        &mut self,
        now: Instant,
        session: u32,
        client: bool,
        peer: Option<Addr>,
        secrets: &Secrets,
    ) {
        let (seal, open) = secrets.hop_keys(client);
        // A server has the client's last word, so the client has the keys.
        let confirmed = !client;
        let most = self.peer().map_or(MAX_JOINING, |_| MAX_HOPS);
        if self.hops.len() >= most {
            let oldest = self.hops.remove(0).session;
            self.joining.retain(|j| j.session != oldest);
        }
        self.hops.push(Hop {
            session,
            version: secrets.agreed().version,
            seal,
            open,
            born: now,
            client,
            confirmed,
            exchange: secrets.key_exchange(),
            peer,
        });
        self.life.begin(now);
    }

    /// The other side has the keys of this session too; gives the member that it is.
    pub(in crate::unicast) fn confirm(&mut self, session: u32) -> Option<Addr> {
        let hop = self.hops.iter_mut().find(|h| h.session == session)?;
        hop.confirmed = true;
        hop.peer
    }

    /// Whether it is a member's, or will be once that is known to have the keys too.
    pub(in crate::unicast) fn is_with(&self, member: Addr) -> bool {
        self.peer() == Some(member) || self.hops.iter().any(|h| h.peer == Some(member))
    }

    /// Whether the keys of this session were taken into use.
    pub(in crate::unicast) fn has_session(&self, session: u32) -> bool {
        self.hops.iter().any(|h| h.session == session)
    }

    /// Opens a sealed PDU where it lies.
    pub(in crate::unicast) fn open<'a>(
        &mut self,
        pdu: &'a mut [u8],
    ) -> Result<Opened<'a>, &'static str> {
        let (session, version) = pdu::sealed_session(pdu).ok_or("drop.malformed")?;
        let hop = self
            .hops
            .iter_mut()
            .find(|h| h.session == session)
            .ok_or("drop.unknown_session")?;
        if hop.version != version {
            return Err("drop.unknown_version");
        }
        let (header, body) = pdu.split_at_mut(SEALED_LEN);
        let body = hop.open.open(header, body).map_err(drop_reason)?;
        let first = !std::mem::replace(&mut hop.confirmed, true);
        Ok(Opened {
            body,
            session,
            peer: hop.peer,
            first,
        })
    }

    /// Whether anything can be sealed.
    pub(in crate::unicast) fn can_seal(&self) -> bool {
        self.sealing().is_some()
    }

    /// The newest keys that both sides have, of those agreed with whoever this link is to: no other may read what it sends.
    pub(super) fn sealing(&self) -> Option<usize> {
        let peer = self.peer();
        self.hops
            .iter()
            .rposition(|h| h.confirmed && h.peer == peer)
    }

    /// How the keys that seal were agreed on.
    pub(in crate::unicast) fn key_exchange(&self) -> Option<KeyExchange> {
        self.sealing().map(|hop| self.hops[hop].exchange)
    }

    /// Forgets the sessions without certificate, once there is one with.
    pub(in crate::unicast) fn drop_certless(&mut self) {
        self.hops.retain(|h| h.peer.is_some());
        self.joining.clear();
    }

    /// Forgets keys that may no longer be used.
    pub(in crate::unicast) fn expire_keys(&mut self, now: Instant) {
        self.hops
            .retain(|h| now.saturating_duration_since(h.born) < KEY_LIFE);
    }

    /// Since when it has the oldest of its keys.
    #[cfg(any(test, feature = "sim"))]
    pub(in crate::unicast) fn oldest_key(&self) -> Option<Instant> {
        self.hops.iter().map(|h| h.born).min()
    }

    /// Whether it is on this side to begin a fresh handshake.
    pub(in crate::unicast) fn wants_rekey(&self, now: Instant) -> bool {
        let running = self.handshakes.iter().any(|r| !r.done);
        self.hops.last().is_some_and(|h| {
            h.client
                && !running
                && (now.saturating_duration_since(h.born) >= KEY_USE
                    || h.seal.blocks().max(h.open.blocks()) >= REKEY_BLOCKS)
        })
    }

    /// Makes the newest keys as used as that, one of them or both.
    #[cfg(test)]
    pub(in crate::unicast) fn wear(&mut self, sealed: u64, opened: u64) {
        let newest = self.hops.last_mut();
        newest.map(|h| (h.seal.wear(sealed), h.open.wear(opened)));
    }

    /// When [`Link::wants_rekey`] will turn true by time alone.
    pub(in crate::unicast) fn rekey_at(&self, now: Instant) -> Option<Instant> {
        self.hops
            .last()
            .filter(|h| h.client)
            .map(|h| h.born + KEY_USE)
            .filter(|at| *at > now)
    }
}

/// The use after which keys are renewed.
pub(in crate::unicast) const KEY_USE: Duration = Duration::from_secs(120);
/// The age at which keys are refused.
pub(in crate::unicast) const KEY_LIFE: Duration = Duration::from_secs(180);
const MAX_HOPS: usize = 3;
/// Sessions on a link on which no member has shown its certificate yet.
const MAX_JOINING: usize = 8;
