//! How large a packet this link takes: probes that are sealed as all else is, and their answers.

use std::time::Instant;

use super::{HOP_OVERHEAD, Link, MAX_MTU, MIN_MTU};
use crate::unicast::out::Class;
use crate::unicast::pdu::Probe;
use crate::unicast::running::Running;

impl Link {
    /// The lower network has another MTU. Says whether that of the link changed.
    pub(in crate::unicast) fn set_mtu(&mut self, now: Instant, mtu: u32) -> bool {
        let before = self.mtu();
        self.path.set_limit(mtu.clamp(MIN_MTU, MAX_MTU), now);
        self.mtu_changed(before)
    }

    /// Sends the probe that is due, if one is. Says whether the MTU of this way changed, since earlier ones got lost; the
    /// error is the reason of a drop.
    pub(in crate::unicast) fn probe(&mut self, now: Instant) -> Result<bool, &'static str> {
        if self.up().is_none() || !self.can_seal() {
            return Ok(false);
        }
        let before = (self.mtu(), self.own_mtu());
        if let Some(size) = self.path.poll(now, self.life.last_heard()) {
            self.say_probe(Probe::Asks, size, size as usize)?;
            // The answer to a small one tells a link that loses large packets from one that is silent.
            self.say_probe(Probe::Asks, SMALL as u32, SMALL)?;
        }
        self.mtu_changed(before.0);
        Ok(self.own_mtu() != before.1)
    }

    /// Takes a probe of the other side, or the answer to one. Says whether the MTU of this way changed, which
    /// the other side must hear; the error is the reason of a drop.
    pub(in crate::unicast) fn probed(
        &mut self,
        now: Instant,
        kind: Probe,
        size: u32,
        len: usize,
    ) -> Result<bool, &'static str> {
        let before = (self.mtu(), self.own_mtu());
        match kind {
            // Only what has come as large as it says is worth an answer.
            Probe::Asks if len + HOP_OVERHEAD == size as usize => {
                self.say_probe(Probe::Answers, size, SMALL)?;
            }
            Probe::Asks => return Err("drop.malformed"),
            Probe::Answers => self.path.answered(now, size),
        }
        self.mtu_changed(before.0);
        Ok(self.own_mtu() != before.1)
    }

    /// A handshake has got through: where only its smallest PDUs did, larger ones get lost.
    pub(in crate::unicast) fn handshake_passed(&mut self, now: Instant, session: u32) {
        let mut running = self.handshakes.iter();
        let passed = running.find(|r| r.handshake.session() == session);
        let size = passed.map(|r| r.handshake.path_mtu());
        if let Some(size) = size.filter(|_| self.peer().is_none()) {
            let before = self.mtu();
            self.path.passed_only(size as u32, now);
            self.mtu_changed(before);
        }
    }

    /// A probe may be larger than what else is sent.
    fn say_probe(&mut self, kind: Probe, size: u32, whole: usize) -> Result<(), &'static str> {
        let hop = self.sealing().ok_or("drop.no_key")?;
        let len = whole - HOP_OVERHEAD;
        let fill = |body: &mut [u8]| {
            kind.write(size, body);
            Ok(len)
        };
        self.send_whole(hop, Class::Control, len, fill).map(drop)
    }

    /// When anything of this link wants to be looked at: its life, its handshakes and all that is said on it.
    pub(in crate::unicast) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let joining = self.joining.iter().filter(|j| self.is_confirmed(j.session));
        let joining = joining.filter_map(|j| j.channel.deadline()).min();
        let up = self.peer().is_some() && self.can_seal();
        let channel = up.then(|| self.channel.deadline()).flatten();
        let digest = self.up().map(|_| self.next_digest);
        let own = [
            self.deadline(),
            self.rekey_at(now),
            channel,
            joining,
            digest,
        ];
        let handshakes = self.handshakes.iter().map(Running::deadline);
        handshakes.chain(own).flatten().min()
    }

    /// Whether the other side is to hear what this one holds: it is time again, or what it was to hear did not fit and there is
    /// room now.
    pub(in crate::unicast) fn is_owed_digest(&self, now: Instant) -> bool {
        let owed = self.next_digest <= now || self.owes_digest && self.channel.has_arrived();
        self.up().is_some() && owed
    }

    /// When the path is to be probed next.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.can_seal().then(|| self.path.deadline())
    }
}

/// The bytes of a probe without padding, and of an answer.
const SMALL: usize = HOP_OVERHEAD + Probe::LEN;
