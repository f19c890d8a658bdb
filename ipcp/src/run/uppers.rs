//! Whose users are read, when, and how far: none fills more of a slow link than its share. It must not know what they write.

use std::time::Instant;

use layer::{Input, Ipcp};
use proto::FlowId;

use super::{Runtime, now};
use crate::devices::{Id, Look};
use crate::io::{Key, Ready};
use crate::lower::Lower;
use crate::upper::Did;

impl<M: Ipcp, L: Lower<M>> Runtime<M, L> {
    /// Whose turn comes first among users.
    pub(super) fn rank(&self, key: Key) -> u8 {
        match self.uppers.urgent(key) {
            Some(true) => 0,
            _ if self.uppers.device(key).is_some() => 2,
            Some(false) | None => 1,
        }
    }

    pub(super) fn upper_ready(&mut self, ready: Ready, urgent: bool) {
        if let Some(device) = self.uppers.device(ready.key) {
            self.device_ready(device);
            return;
        }
        // What the user of a device writes waits beside what comes from that.
        let may_wait = |flow: &FlowId| !urgent && !self.uppers.has_device(*flow);
        let flow = self.uppers.flow(ready.key).filter(may_wait);
        for _ in 0..UPPER_READS {
            let full = |flow| self.machine.room(flow) == Some(0);
            let waits = self.lower.congested() && flow.is_some_and(full);
            if waits && ready.read && !ready.write {
                self.parked = true;
                return self.uppers.pause(&mut self.io, ready.key);
            }
            match self.uppers.step(&mut self.io, ready, Instant::now()) {
                Some(did) => self.user(did),
                None => break,
            }
        }
    }

    /// What a device has is read at once, however slow the link: where it waits then is fair between conversations, and has ages.
    /// Says whether something went, and more waits.
    fn device_ready(&mut self, device: Id) -> bool {
        let went = self.look_at_device(device, Look::Whole);
        self.drain();
        went && self.uppers.waits(device)
    }

    /// All of one look goes in before anything goes out: the packets of one super-packet seldom fill a train. Says whether anything went.
    fn look_at_device(&mut self, device: Id, look: Look) -> bool {
        let (now, mut went) = (now(), false);
        loop {
            let margin = |flow| self.machine.margin(flow);
            // Where a link is not slow, enough waits in the machine.
            let room = |flow| match (self.machine.room(flow), look) {
                (None, Look::Waiting) => Some(0),
                (room, _) => room,
            };
            let at = (device, look, now.mono);
            let did = (self.uppers).read_device(&mut self.io, at, margin, room);
            let Some(Did::Wrote(flow, batch)) = did else {
                return went;
            };
            self.machine.handle(now, Input::Upper(flow, batch));
            (self.uppers).set_slow(flow, self.machine.room(flow).is_some());
            went = true;
            if !self.uppers.has_read(device) {
                return went;
            }
        }
    }

    /// What waits at devices, as far as there is room now. Says whether there is for more.
    pub(super) fn waiting(&mut self) -> bool {
        let waiting: Vec<_> = self.uppers.waiting_devices().collect();
        (waiting.into_iter()).fold(false, |more, device| more | self.device_ready(device))
    }

    /// Something has gone to the lower network: what waits at devices follows, so that its next turn is not lost to those of whom
    /// more waits in the machine. So it is a bounded number of times before others are looked at again.
    pub(super) fn follow(&mut self) {
        if self.followed >= FOLLOWS {
            return;
        }
        let waiting: Vec<_> = self.uppers.waiting_devices().collect();
        self.followed += usize::from(!waiting.is_empty());
        for device in waiting {
            self.look_at_device(device, Look::Waiting);
        }
    }
}

/// Looks at what waits, a train each, in one turn.
const FOLLOWS: usize = 16;
/// Records from one user in one turn.
const UPPER_READS: usize = 2;
