//! What machines ask of the lower network: packets, dials and ends of lower flows go over cables, and what becomes of cables
//! is told. It must not know what packets say.

use std::time::Duration;

use proto::{Batch, Code, FlowId, Framing, Label, Reason};

use super::super::agenda::Due;
use super::super::ledger::shows_plaintext;
use super::super::net::{Cable, End};
use super::super::story::{PACKET, SEND};
use super::World;
use crate::{FlowTell, Input, Via};

impl World {
    pub(super) fn carry(&mut self, host: usize, lower: FlowId, batch: &Batch) {
        if self
            .net
            .framing((host, lower))
            .is_some_and(|framing| framing != batch.framing())
        {
            self.fail(format!(
                "m{host} sends a {:?} where the other framing was asked for",
                batch.framing()
            ));
        }
        for pdu in batch.iter() {
            if self.ledger.written > 0 && shows_plaintext(pdu) {
                self.fail(format!("m{host} sends an SDU in plain text"));
            }
            self.story.mark(self.elapsed, host, SEND, pdu);
            for (at, to, bytes) in
                self.net
                    .carry(self.elapsed, (host, lower), pdu, &mut self.chance)
            {
                if let Some(at) = self.hosts[to.0].turn(self.elapsed, at) {
                    self.agenda.push(at, Due::Packet(to, bytes));
                }
            }
        }
    }

    pub(in crate::sim) fn arrive(&mut self, end: End, bytes: &[u8]) {
        let (host, lower) = end;
        if self.outside == Some(host) {
            return self.sent.push((lower, bytes.to_vec()));
        }
        let Some(framing) = self.net.framing(end).filter(|_| self.hosts[host].alive()) else {
            return self.unreachable(end);
        };
        let mut batch = Batch::new(framing);
        let Some(room) = batch.push(bytes.len()) else {
            return;
        };
        room.copy_from_slice(bytes);
        self.story.mark(self.elapsed, host, PACKET, bytes);
        self.input(host, Input::Lower(lower, batch));
    }

    /// A packet came to an end that is gone: its sender may hear of it, as of an unreachable port.
    fn unreachable(&mut self, gone: End) {
        let Some((host, lower)) = self.net.sender_to(gone) else {
            return;
        };
        if self.net.cable(host, gone.0).is_some_and(Cable::works)
            && (self.net.quiet || self.chance.permille(500))
        {
            self.net.remove((host, lower));
            self.tell(
                Duration::from_millis(5),
                host,
                FlowTell::Down(lower, Reason::new(Code::Unreachable, "nobody is there")),
            );
        }
    }

    pub(super) fn dial(&mut self, host: usize, dial: u64, dst: &str, over: Label) {
        let to = self.host_of(dst);
        let cable =
            to.and_then(|to| Some((to, self.net.cable(host, to).filter(|c| c.works())?.clone())));
        let Some((to, cable)) = cable.filter(|(to, _)| self.hosts[*to].alive()) else {
            let after = self.chance.millis(20, 800);
            let reason = Reason::new(Code::Unreachable, format!("{dst} can't be reached"));
            return self.tell(after, host, FlowTell::DialFailed(dial, reason));
        };
        let framing = if self.chance.permille(500) {
            Framing::Train
        } else {
            Framing::Record
        };
        let (here, there) = self.net.connect(host, to, framing);
        self.story.tell(self.elapsed, host, to, "dials");
        let caller = Via::Accepted(Some(self.hosts[host].name.to_name()));
        let up = |lower, over, via| FlowTell::Up {
            lower,
            over,
            mtu: cable.mtu,
            framing,
            via,
        };
        self.tell(cable.delay, to, up(there, over.clone(), caller));
        self.tell(cable.delay * 2, host, up(here, over, Via::Dialled(dial)));
    }

    /// One side ends a lower flow; the other hears of it if the cable lets it.
    pub(in crate::sim) fn hangup(&mut self, end: End) {
        let Some(other) = self.net.remove(end) else {
            return;
        };
        let Some(cable) = self.net.cable(end.0, other.0).filter(|c| c.works()) else {
            return;
        };
        let delay = cable.delay;
        if (self.net.quiet || !self.chance.permille(300)) && self.net.remove(other).is_some() {
            self.tell(
                delay,
                other.0,
                FlowTell::Down(other.1, Reason::new(Code::Closed, "the other side hung up")),
            );
        }
    }

    /// A lower flow dies, and both sides hear of it.
    pub(in crate::sim) fn kill(&mut self, end: End) {
        let ends = [Some(end), self.net.remove(end)];
        for (host, lower) in ends.into_iter().flatten() {
            self.net.remove((host, lower));
            self.tell(
                Duration::from_millis(1),
                host,
                FlowTell::Down(lower, Reason::new(Code::Failed, "it died")),
            );
        }
    }

    /// The largest packet of a cable changes, and both sides hear of it.
    pub(in crate::sim) fn set_mtu(&mut self, a: usize, b: usize, mtu: u32) {
        if let Some(cable) = self.net.cable_mut(a, b) {
            cable.mtu = mtu;
        }
        for (host, lower) in [self.net.ends(a, Some(b)), self.net.ends(b, Some(a))].concat() {
            self.tell(Duration::from_millis(1), host, FlowTell::Mtu(lower, mtu));
        }
    }
}
