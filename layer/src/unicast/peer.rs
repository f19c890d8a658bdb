//! What one member shares with another: their sessions, and the channel between them.

use std::time::{Duration, Instant};

use proto::{Addr, EndpointId};

use super::link::{KEY_LIFE, KEY_USE};
use super::pdu::ROUTED_OVERHEAD;
use super::running::Running;
use crate::channel::Channel;
use crate::crypt::{KeyExchange, MemberCert, OpenKey, REKEY_BLOCKS, SealKey, Secrets};
use crate::mtu::FLOOR;
use crate::tokens::Used;

/// Another member with whom keys were or are being agreed.
pub(super) struct Peer {
    /// Known once a handshake has ended.
    pub(super) cert: Option<MemberCert>,
    pub(super) sessions: Sessions,
    pub(super) channel: Channel,
    /// The neighbour on the way to it and what that way costs, as the channel's round trip was measured.
    pub(super) way: Option<(Addr, u64)>,
    /// The routed keys of the peer channel.
    pub(super) ends: Ends,
    /// Handshakes that run through other members.
    pub(super) handshakes: Vec<Running>,
    /// It has sealed with keys that are not known here: others are needed, however fresh those are that are.
    pub(super) estranged: bool,
    /// When something was opened last that it had sealed end to end.
    pub(super) heard: Option<Instant>,
    /// Not before this may another handshake begin.
    pub(super) retry_at: Instant,
    /// The flows that it asked for.
    pub(super) requests: Used,
    /// How often it asked where this member is.
    pub(super) asked_where: Used,
    pub(super) used: Instant,
}

/// The sessions of a pair of members, the newest last.
pub(super) struct Sessions {
    me: Addr,
    peer: Addr,
    list: Vec<Session>,
    /// Some are gone since it was last looked.
    fewer: bool,
}

struct Session {
    id: u32,
    secrets: Secrets,
    confirmed: bool,
    born: Instant,
}

/// The keys of one routed flow, or of the peer channel: made from a session when it is first used.
pub(super) struct Ends {
    local: EndpointId,
    remote: EndpointId,
    /// By session, and made once for each: a key made twice would use its counters twice.
    seal: Vec<(u32, SealKey)>,
    open: Vec<(u32, OpenKey)>,
}

impl Peer {
    pub(super) fn new(me: Addr, peer: Addr, stream: u32, now: Instant) -> Self {
        Self {
            cert: None,
            sessions: Sessions {
                me,
                peer,
                list: Vec::new(),
                fewer: false,
            },
            channel: Channel::new(stream, PEER_FRAME),
            way: None,
            ends: Ends::new(EndpointId(0), EndpointId(0)),
            handshakes: Vec::new(),
            estranged: false,
            heard: None,
            retry_at: now,
            requests: Used::default(),
            asked_where: Used::default(),
            used: now,
        }
    }

    /// Whether anything may be to be said to it.
    pub(super) fn is_busy(&self) -> bool {
        let quiet = self.channel.is_idle() && !self.channel.dead();
        !(quiet && self.handshakes.is_empty())
    }
}

impl Peer {
    /// Whether this side may begin a handshake with it now.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        now >= self.retry_at && !self.handshakes.iter().any(Running::is_under_way)
    }

    /// It runs anew: what was agreed with its earlier life is void, but not what may be of the present one, which may have
    /// spoken before its records come. A `neighbour` has shaken hands in it for sure.
    pub(super) fn reborn(&mut self, now: Instant, neighbour: bool) {
        self.sessions.forget(now, neighbour);
        // What this side began with the earlier life, and lacks an answer or but the last, would be waited for until it is
        // given up.
        let opened = |r: &Running| r.open().is_some_and(|(.., since)| is_recent(now, since));
        self.handshakes
            .retain(|r| !r.is_under_way() && (r.done || opened(r)));
        self.retry_at = now;
    }

    /// Whether it seals, a moment ago at least, with keys that are known here and need no others yet.
    pub(super) fn is_well(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < LATELY;
        self.heard.is_some_and(lately) && !self.sessions.wants_fresh(now)
    }
}

impl Sessions {
    pub(super) fn add(&mut self, now: Instant, id: u32, client: bool, secrets: Secrets) {
        // Two of one number can't be told apart; the second is of use to its link only.
        if self.list.iter().any(|s| s.id == id) {
            return;
        }
        if self.list.len() >= MAX_SESSIONS {
            self.list.remove(0);
            self.fewer = true;
        }
        self.list.push(Session {
            id,
            secrets,
            confirmed: !client,
            born: now,
        });
    }

    /// The other side has the keys too. Says whether that is news.
    pub(super) fn confirm(&mut self, id: u32) -> bool {
        let session = self.list.iter_mut().find(|s| s.id == id && !s.confirmed);
        session.map(|s| s.confirmed = true).is_some()
    }

    /// Forgets what may no longer be used. Says whether any session has gone since the last call: what was made from its keys
    /// goes with it.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.retain(|s| s.age(now) < KEY_LIFE);
        std::mem::take(&mut self.fewer)
    }

    fn retain(&mut self, keep: impl Fn(&Session) -> bool) {
        let before = self.list.len();
        self.list.retain(keep);
        self.fewer |= self.list.len() < before;
    }

    /// Since when it has the oldest.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.list.iter().map(|s| s.born).min()
    }

    /// Forgets sessions with an earlier life of the peer, but those that may be of the present one: the newest of a
    /// neighbour, and those of a moment ago.
    pub(super) fn forget(&mut self, now: Instant, neighbour: bool) {
        let newest = self.list.last().map(|s| s.id).filter(|_| neighbour);
        self.retain(|s| is_recent(now, s.born) || Some(s.id) == newest);
    }

    /// Forgets the newest.
    #[cfg(test)]
    pub(super) fn forget_newest(&mut self) {
        self.list.pop();
    }

    /// Whether a PDU can be sealed to the peer.
    pub(super) fn usable(&self, now: Instant) -> bool {
        self.newest(now).is_some()
    }

    /// Whether whoever needs the peer should begin a fresh handshake.
    pub(super) fn wants_fresh(&self, now: Instant) -> bool {
        self.newest(now).is_none_or(|s| s.age(now) >= KEY_USE)
    }

    /// How the keys that seal were agreed on.
    pub(super) fn key_exchange(&self, now: Instant) -> Option<KeyExchange> {
        self.newest(now).map(|s| s.secrets.key_exchange())
    }

    fn newest(&self, now: Instant) -> Option<&Session> {
        self.list
            .iter()
            .rev()
            .find(|s| s.confirmed && s.age(now) < KEY_LIFE)
    }
}

impl Session {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }
}

impl Ends {
    pub(super) fn new(local: EndpointId, remote: EndpointId) -> Self {
        Self {
            local,
            remote,
            seal: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The session to seal with and its key; `None`: a handshake is needed first.
    pub(super) fn sealer(
        &mut self,
        now: Instant,
        sessions: &Sessions,
    ) -> Option<(u32, &mut SealKey)> {
        let session = sessions.newest(now)?;
        if !self.seal.iter().any(|(id, _)| *id == session.id) {
            self.seal
                .retain(|(id, _)| sessions.list.iter().any(|s| s.id == *id));
            let key = session
                .secrets
                .flow_keys(sessions.me, sessions.peer, self.local, self.remote)
                .into_seal();
            self.seal.push((session.id, key));
        }
        self.seal
            .iter_mut()
            .find(|(id, _)| *id == session.id)
            .map(|(id, key)| (*id, key))
    }

    /// The key to open a PDU of that session with.
    pub(super) fn opener(
        &mut self,
        now: Instant,
        id: u32,
        sessions: &Sessions,
    ) -> Option<&mut OpenKey> {
        let session = sessions
            .list
            .iter()
            .find(|s| s.id == id && s.age(now) < KEY_LIFE)?;
        if !self.open.iter().any(|(known, _)| *known == id) {
            self.open
                .retain(|(known, _)| sessions.list.iter().any(|s| s.id == *known));
            let key = session
                .secrets
                .flow_keys(sessions.peer, sessions.me, self.remote, self.local)
                .into_open();
            self.open.push((id, key));
        }
        self.open
            .iter_mut()
            .find(|(known, _)| *known == id)
            .map(|(_, key)| key)
    }

    /// Forgets the keys of sessions that are over.
    pub(super) fn expire(&mut self, sessions: &Sessions) {
        let lives = |of: u32| sessions.list.iter().any(|s| s.id == of);
        self.seal.retain(|(id, _)| lives(*id));
        self.open.retain(|(id, _)| lives(*id));
    }

    /// Whether it has keys of sessions that are over.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn has_old(&self, sessions: &Sessions) -> bool {
        let over = |of: u32| sessions.list.iter().all(|s| s.id != of);
        self.seal.iter().any(|(id, _)| over(*id)) || self.open.iter().any(|(id, _)| over(*id))
    }

    /// Makes the key that seals as used as that.
    #[cfg(test)]
    pub(super) fn wear(&mut self, blocks: u64) {
        if let Some((_, key)) = self.seal.last_mut() {
            key.wear(blocks);
        }
    }

    /// Whether the key of the newest session has done so much that a fresh one is due.
    pub(super) fn worn(&self, now: Instant, sessions: &Sessions) -> bool {
        let newest = sessions.newest(now).map(|s| s.id);
        let mut keys = self.seal.iter();
        keys.any(|(id, key)| Some(*id) == newest && key.blocks() >= REKEY_BLOCKS)
    }
}

/// The bytes of a frame of the peer channel on a way that takes PDUs of `mtu` bytes, however it is sealed.
pub(super) fn frame_size(mtu: u32) -> usize {
    let frame = (mtu as usize).saturating_sub(ROUTED_OVERHEAD);
    frame.clamp(FLOOR as usize - ROUTED_OVERHEAD, PEER_FRAME)
}

/// Whether something may be of a life whose records have come only now.
fn is_recent(now: Instant, since: Instant) -> bool {
    now.saturating_duration_since(since) < MOMENT
}

/// So long after it was heard, nobody makes it doubtful that a member has the keys that it needs.
const LATELY: Duration = Duration::from_secs(1);
/// Records take no longer to come than this, if they come at all.
const MOMENT: Duration = Duration::from_secs(5);
/// How long a peer that nothing uses is remembered.
pub(super) const IDLE: Duration = Duration::from_secs(600);
/// Kept per pair: each of a few links adds one, and two live while one takes over.
const MAX_SESSIONS: usize = 6;
/// The bytes of a frame of the peer channel at most, so that a change of the way seldom asks for others.
const PEER_FRAME: usize = 960;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::{Authority, Clock, Handshake, TlsConfig};

    const WALL: crate::UnixTime = crate::UnixTime(Duration::from_secs(1_800_000_000));

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn what_a_new_life_has_begun_outlasts_the_news_of_it_and_what_the_earlier_one_had_does_not() {
        let (start, label) = (Instant::now(), |text| proto::Label::new(text).unwrap());
        let (_, identity) = Authority::create(&label("home"), &label("a"), &[], WALL).unwrap();
        let tls = TlsConfig::member(&identity, &Clock::new()).unwrap();
        let mut peer = Peer::new(Addr(1), Addr(2), 1, start);
        let late = start + MOMENT;
        let taken = |at, id| Handshake::server(&tls, id, 1200, at).unwrap();
        let begun = |id| Handshake::client(&tls, id, 1200, late).unwrap();
        peer.handshakes = vec![
            Running::taken(start, taken(start, 1), None),
            Running::taken(late, taken(late, 2), None),
            Running::begun(late, begun(3), None, false),
            // It has the keys, and waits for a sign that the other side has them.
            Running::begun(late, begun(4), None, false),
        ];
        peer.handshakes[3].done = true;
        peer.reborn(late, false);
        let left = peer.handshakes.iter().map(|r| r.handshake.session());
        assert_eq!(left.collect::<Vec<_>>(), [2]);
        assert!(peer.may_begin(late));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn keys_of_a_session_that_is_over_are_forgotten_though_nothing_is_sent() {
        let (start, label) = (Instant::now(), |text| proto::Label::new(text).unwrap());
        let (_, identity) = Authority::create(&label("home"), &label("a"), &[], WALL).unwrap();
        let mut peer = Peer::new(Addr(1), Addr(2), 1, start);
        let secrets = Secrets::made([7; 32], identity.cert().clone());
        peer.sessions.add(start, 5, false, secrets);
        assert!(peer.ends.sealer(start, &peer.sessions).is_some());
        assert!(peer.ends.opener(start, 5, &peer.sessions).is_some());
        let just = start + KEY_LIFE - Duration::from_millis(1);
        assert!(!peer.sessions.expire(just) && !peer.ends.has_old(&peer.sessions));
        assert!(peer.sessions.expire(start + KEY_LIFE));
        assert!(peer.ends.has_old(&peer.sessions));
        peer.ends.expire(&peer.sessions);
        assert!(peer.ends.seal.is_empty() && peer.ends.open.is_empty());
    }
}
