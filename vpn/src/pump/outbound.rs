//! Device to flows. A packet is read straight into the record of the peer that the one before went to, so a stream costs
//! one copy; only a packet for another peer is copied over.

use std::io;
use std::time::{Duration, Instant};

use proto::{Batch, Framing, Packet};

use super::{Core, Happening, peer};
use crate::counters::Dropped;
use crate::device::TunPort;
use crate::flow::{FlowPort, Sent};
use crate::fragment;
use crate::icmp::{self, Problem};
use crate::packet::Ends;
use crate::prefix::{Owner, PeerId};
use crate::session::Way;

/// Whether there may be more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    Yes,
    No,
}

impl<F: FlowPort> Core<F> {
    /// Reads what is ready, at most [`READS`] times, and sends it; never waits to fill a record.
    pub(super) fn outbound<T: TunPort>(
        &mut self,
        tun: &mut T,
        now: Instant,
    ) -> io::Result<Drained> {
        let mut drained = Drained::No;
        let mut current = self.current.take();
        let mut record = self.take_record(current);
        for _ in 0..READS {
            if !record.fits(self.read_max) {
                self.lay_back(current.take(), record, now);
                self.flush_dirty(now);
                record = Batch::new(Framing::Record);
            }
            if self.paused(now) {
                break;
            }
            let mark = record.bytes().len();
            match tun.read(&mut record, self.read_max) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    drained = Drained::Yes;
                    break;
                }
                Err(e) => return Err(e),
            }
            let Some(packet) = record.bytes().get(mark + 2..) else {
                continue;
            };
            match self.judge(packet, now) {
                Some(peer) if Some(peer) == current => {}
                Some(peer) => {
                    let moved = self.append(peer, packet, now);
                    record.pop();
                    if moved {
                        let next = self.take_record(Some(peer));
                        self.lay_back(
                            current.replace(peer),
                            std::mem::replace(&mut record, next),
                            now,
                        );
                    }
                }
                None => record.pop(),
            }
        }
        self.current = current;
        self.lay_back(current, record, now);
        Ok(drained)
    }

    /// Gives a packet that needs no device back to the pump, such as one that waited for a flow.
    pub(super) fn resubmit(&mut self, packet: &[u8], now: Instant) {
        if let Some(peer) = self.judge(packet, now) {
            self.append(peer, packet, now);
        }
    }

    /// The peer whose flow takes the packet as it is, else `None`: then it was dropped, answered, cut or kept.
    fn judge(&mut self, packet: &[u8], now: Instant) -> Option<PeerId> {
        let Ok(ends) = Ends::parse(packet) else {
            self.counters.drop(Dropped::MalformedOut);
            return None;
        };
        if ends.stays_on_link() {
            self.counters.drop(Dropped::Multicast);
            return None;
        }
        if self.owners.of(ends.src) != Some(Owner::Me) {
            self.refuse(Dropped::OwnSource, Problem::Prohibited, packet, now);
            return None;
        }
        let Some(Owner::Peer(id)) = self.owners.of(ends.dst) else {
            self.refuse(Dropped::NoOwner, Problem::NoRoute, packet, now);
            return None;
        };
        let peer = self.peers.get_mut(id.0 as usize)?;
        match peer.session.way(now) {
            Way::Send(side) => {
                let mtu = peer.session.flow(side).map_or(0, FlowPort::mtu) as usize;
                if packet.len() <= mtu {
                    return Some(id);
                }
                self.too_big(id, packet, mtu, now);
            }
            Way::Wait { dial } => {
                if dial {
                    self.happened.push(Happening::Dial(id));
                }
                if peer.session.wait(Packet::copy_of(packet)).is_some() {
                    self.counters.drop(Dropped::WaitingOverflow);
                }
                self.retime();
            }
            Way::Down => self.refuse(Dropped::PeerDown, Problem::PeerDown, packet, now),
        }
        None
    }

    fn too_big(&mut self, id: PeerId, packet: &[u8], mtu: usize, now: Instant) {
        if !fragment::allowed(packet) {
            // A flow's MTU is a u32.
            self.refuse(Dropped::TooBig, Problem::TooBig(mtu as u32), packet, now);
            return;
        }
        let mut cut = fragment::fragments(packet, mtu).peekable();
        match cut.peek() {
            Some(_) => self.counters.fragmented += 1,
            None => self.counters.drop(Dropped::TooBig),
        }
        for part in cut {
            self.append(id, &part, now);
        }
    }

    /// Counts a drop and has the sender told, as far as rules and rate allow.
    pub(super) fn refuse(&mut self, why: Dropped, problem: Problem, packet: &[u8], now: Instant) {
        self.counters.drop(why);
        let Some(error) = icmp::answer(problem, packet) else {
            return;
        };
        if self.limit.take(now) {
            self.answers.push(error);
        } else {
            self.counters.drop(Dropped::IcmpLimited);
        }
    }

    /// Hands the errors that were made to the host.
    pub(super) fn answer<T: TunPort>(&mut self, tun: &mut T) {
        if self.answers.is_empty() {
            return;
        }
        let written = tun.write(self.answers.iter().map(Vec::as_slice));
        self.counters.icmp_sent += written.packets;
        self.counters
            .drop_many(Dropped::DeviceWrite, written.refused);
        self.answers.clear();
    }

    /// Adds a packet to what goes to a peer, making room by sending; `false` if there is none and the packet is dropped.
    fn append(&mut self, id: PeerId, packet: &[u8], now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return false;
        };
        let mut fits = peer.push(packet);
        if !fits {
            self.flush(id, now);
            fits = self.peers[id.0 as usize].push(packet);
        }
        if fits {
            self.mark_dirty(id);
        } else {
            self.counters.drop(Dropped::FlowFull);
        }
        fits
    }

    fn take_record(&mut self, id: Option<PeerId>) -> Batch {
        let kept = id.and_then(|id| self.peers.get_mut(id.0 as usize)?.out.take());
        kept.unwrap_or_else(|| Batch::new(Framing::Record))
    }

    /// Puts the record that was read into back where it belongs, to be sent at the end of the turn.
    fn lay_back(&mut self, id: Option<PeerId>, record: Batch, now: Instant) {
        let Some(id) = id.filter(|_| !record.is_empty()) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let cut = peer.out.replace(record);
        self.mark_dirty(id);
        // What was cut for this peer meanwhile goes behind what was read before it.
        for packet in cut.iter().flat_map(Batch::iter) {
            self.append(id, packet, now);
        }
    }

    fn mark_dirty(&mut self, id: PeerId) {
        if !self.dirty.contains(&id) {
            self.dirty.push(id);
        }
    }

    /// Sends all that lies ready.
    pub(super) fn flush_dirty(&mut self, now: Instant) {
        while let Some(id) = self.dirty.pop() {
            self.flush(id, now);
        }
    }

    /// Sends what lies ready for a peer, if its flow takes it.
    pub(super) fn flush(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let Some(record) = peer.out.take().filter(|r| !r.is_empty()) else {
            return;
        };
        let count = record.count();
        let Some(side) = peer.session.sending() else {
            self.counters.drop_many(Dropped::FlowDown, count);
            return;
        };
        let Some(flow) = peer.session.flow_mut(side) else {
            return;
        };
        match flow.try_write(&record) {
            Sent::Yes => {
                let bytes = peer::payload(&record);
                peer.moved.tx_packets += count as u64;
                peer.moved.tx_bytes += bytes;
                self.counters.tx_packets += count as u64;
                self.counters.tx_bytes += bytes;
                self.set_full(id, None);
            }
            Sent::Full => {
                let since = peer.full.unwrap_or(now);
                if now.saturating_duration_since(since) > STALE {
                    self.counters.drop_many(Dropped::Stale, count);
                } else {
                    peer.out = Some(record);
                }
                self.set_full(id, Some(since));
            }
            Sent::Down(reason) => {
                self.counters.drop_many(Dropped::FlowDown, count);
                self.link_down(id, side, reason, now);
            }
        }
    }
}

/// How long the device isn't read because one flow is full. It lets the kernel hold the senders back instead of losing
/// their packets; after that the flow's packets are dropped, so that one stuck peer doesn't stop the others.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);
/// What has waited this long for a place in a flow is worth nothing.
const STALE: Duration = Duration::from_millis(100);
/// Reads before what was read is sent, and the other direction has its turn.
const READS: usize = 64;
