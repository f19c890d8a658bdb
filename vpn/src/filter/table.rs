//! The conversations that a filter has let begin, so that their answers pass. It must not judge.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ip::upper::{FIN, RST, SYN, TCP, UDP};

use proto::record::{FORGOTTEN, SIGN};

use super::packet::{ICMP, Talk};
use crate::prefix::PeerId;

/// All conversations, at most [`Table::MOST`], of which a peer has at most [`Table::SHARE`].
#[derive(Debug, Default)]
pub(super) struct Table {
    /// By the ends as this host sends to the peer. The keys of the table's hash are drawn at random: peers choose ports.
    talks: HashMap<(PeerId, Talk), Entry>,
    /// How many each peer has.
    held: HashMap<PeerId, usize>,
    /// When the dead were taken out last.
    swept: Option<Instant>,
}

/// One conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// This host began it.
    pub(super) ours: bool,
    /// The other side has said something.
    answered: bool,
    /// Who has ended its half: this host, the peer.
    ended: [bool; 2],
    reset: bool,
    until: Instant,
}

impl Table {
    /// The most conversations.
    pub(super) const MOST: usize = 65_536;
    /// The most of one peer.
    pub(super) const SHARE: usize = Self::MOST / 4;

    /// Whether a packet goes with a conversation that is kept; notes it.
    pub(super) fn continues(
        &mut self,
        now: Instant,
        id: PeerId,
        talk: Talk,
        packet: Step,
    ) -> Option<Going> {
        let entry = self.talks.get_mut(&(id, talk))?;
        let begins = packet.flags & (SYN | RST | 0x10) == SYN;
        let over = entry.reset || entry.ended == [true; 2];
        // Who may not begin one must not do so under the name of another that lived; and a new one has a life of its own.
        if entry.until <= now || (begins && (over || packet.ours != entry.ours)) {
            return None;
        }
        entry.note(now, talk.protocol, packet);
        Some(if over { Going::Over } else { Going::On })
    }

    /// Keeps a conversation that a packet has begun. `false`: there is no room.
    pub(super) fn begin(&mut self, now: Instant, id: PeerId, talk: Talk, packet: Step) -> bool {
        let key = (id, talk);
        let held = |table: &Self| table.held.get(&id).copied().unwrap_or_default();
        let full = |table: &Self| table.talks.len() >= Self::MOST || held(table) >= Self::SHARE;
        let since = |then: Instant| now.saturating_duration_since(then);
        let pause = if full(self) { SWEEP_FULL } else { SWEEP };
        if self.swept.is_none_or(|then| since(then) >= pause) {
            self.swept = Some(now);
            self.keep(|_, _, entry| entry.until > now);
        }
        let known = self.talks.contains_key(&key);
        if full(self) && !known {
            return false;
        }
        let mut entry = Entry {
            ours: packet.ours,
            answered: false,
            ended: [false; 2],
            reset: false,
            until: now,
        };
        entry.note(now, talk.protocol, packet);
        self.talks.insert(key, entry);
        if !known {
            *self.held.entry(id).or_default() += 1;
        }
        true
    }

    /// Whether there is such a conversation.
    pub(super) fn has(&self, now: Instant, id: PeerId, talk: Talk) -> bool {
        let entry = self.talks.get(&(id, talk));
        entry.is_some_and(|entry| entry.until > now)
    }

    /// Keeps those that are still allowed.
    pub(super) fn keep(&mut self, keep: impl Fn(PeerId, &Talk, &Entry) -> bool) {
        self.talks
            .retain(|(id, talk), entry| keep(*id, talk, entry));
        self.held.clear();
        for (id, _) in self.talks.keys() {
            *self.held.entry(*id).or_default() += 1;
        }
    }

    /// Keeps nothing of a peer.
    pub(super) fn forget(&mut self, id: PeerId) {
        if self.held.contains_key(&id) {
            self.keep(|other, _, _| other != id);
        }
    }

    /// How many conversations are kept, the dead among them until somebody looks.
    pub(super) fn len(&self) -> usize {
        self.talks.len()
    }
}

/// How a conversation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    On,
    /// Both sides have ended it, or one has at once; the rest may still come.
    Over,
}

/// A packet as it matters to the age of a conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// This host sends it.
    pub(super) ours: bool,
    /// Of TCP; a question of ICMP begins as SYN does.
    pub(super) flags: u8,
}

impl Entry {
    fn note(&mut self, now: Instant, protocol: u8, packet: Step) {
        self.answered |= packet.ours != self.ours;
        self.ended[usize::from(!packet.ours)] |= packet.flags & FIN != 0;
        self.reset |= packet.flags & RST != 0;
        let over = self.reset || self.ended == [true; 2];
        let life = match protocol {
            TCP if over => TCP_OVER,
            TCP if self.answered => TCP_LIVES,
            TCP => TCP_BEGINS,
            ICMP => ECHO,
            UDP if !self.answered => UDP_BEGINS,
            _ => UDP_LIVES,
        };
        self.until = now + life;
    }
}

/// RFC 5382 wants two hours and four minutes at least of what stands, RFC 4787 two minutes of UDP. The last packets of what goes by
/// itself were up to [`SIGN`] after the last that is known of; no life is shorter than [`FORGOTTEN`].
const TCP_LIVES: Duration = Duration::from_secs(7440).saturating_add(SIGN);
const TCP_BEGINS: Duration = Duration::from_secs(60);
const TCP_OVER: Duration = Duration::from_secs(20);
const UDP_BEGINS: Duration = Duration::from_secs(60);
const UDP_LIVES: Duration = Duration::from_secs(180);
const ECHO: Duration = Duration::from_secs(30);
const _: () = assert!(FORGOTTEN.as_secs() < TCP_OVER.as_secs());
/// The dead are taken out so often, and so often when there is no room.
const SWEEP: Duration = Duration::from_secs(30);
const SWEEP_FULL: Duration = Duration::from_secs(1);
