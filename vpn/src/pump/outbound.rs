//! Device to flows. Each frame is judged once, and its packets are made in the record of the peer that they go to.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ip::offload::{Segments, Vnet};
use proto::record::{Pair, Talk};
use proto::{Batch, Packet};

use super::{Core, Happening, peer, place};
use crate::class::Class;
use crate::counters::Dropped;
use crate::filter::{self, Passed, Stopped};
use crate::flow::{FlowPort, Sent};
use crate::fragment;
use crate::icmp::{self, Problem};
use crate::prefix::{Owner, PeerId};
use crate::session::{Side, Way};
use frames::TunPort;
use ip::ends::Ends;
use ip::{mss, upper};

/// What may go by itself because of a packet that was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// All between this host's address and the other's.
    Pair(IpAddr, IpAddr),
    /// One way of one conversation.
    Talk(Talk),
}

impl May {
    pub(super) fn of(way: filter::Way, packet: &[u8], ends: &Ends, passed: Passed) -> Option<Self> {
        let (own, other) = match way {
            filter::Way::Out => (ends.src, ends.dst),
            filter::Way::In => (ends.dst, ends.src),
        };
        match passed {
            Passed::Open => Some(Self::Pair(own, other)),
            Passed::Alone => None,
            Passed::Going => {
                let said = upper::Talk::parse(packet)?;
                let (out, ports) = match way {
                    filter::Way::Out => (true, (said.src, said.dst)),
                    filter::Way::In => (false, (said.dst, said.src)),
                };
                Some(Self::Talk(Talk {
                    out,
                    protocol: said.protocol,
                    ports,
                    pair: Pair::new(own, other)?,
                }))
            }
        }
    }
}

/// Whether there may be more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    Yes,
    No,
}

impl<F: FlowPort> Core<F> {
    /// Reads what is ready, up to [`READS`] frames and [`BYTES`], and sends it; never waits to fill a record.
    pub(super) fn outbound<T: TunPort>(
        &mut self,
        tun: &mut T,
        now: Instant,
    ) -> io::Result<Drained> {
        let mut bytes = 0;
        for _ in 0..READS {
            if bytes >= BYTES || self.paused(now) {
                break;
            }
            match tun.read() {
                Ok(Ok(frame)) => {
                    bytes += frame.packet().len();
                    match self.segment {
                        Some(_) => self.bridge(frame.packet(), now),
                        None => self.route(frame, now),
                    }
                }
                Ok(Err(_)) => self.counters.drop(Dropped::MalformedOut),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Drained::Yes),
                Err(e) => return Err(e),
            }
        }
        Ok(Drained::No)
    }

    /// Gives a packet that needs no device back to the pump, such as one that waited for a flow.
    pub(super) fn resubmit(&mut self, packet: &[u8], now: Instant) {
        if let Ok(whole) = Segments::new(&Vnet::default(), packet) {
            self.route(whole, now);
        }
    }

    /// Sends the packets of one frame, or does with them what their flow's state asks for.
    fn route(&mut self, mut frame: Segments<'_>, now: Instant) {
        let (to, ends) = match self.judge(frame.packet()) {
            Ok(judged) => judged,
            Err((why, problem)) => return self.refuse(why, problem, frame, now),
        };
        let passed = self
            .filter
            .pass(now, (to, filter::Way::Out), frame.packet(), &ends);
        let may = match passed {
            Ok(passed) => May::of(filter::Way::Out, frame.packet(), &ends, passed),
            Err(why) => {
                let why = match why {
                    Stopped::Denied => Dropped::FilterOut,
                    Stopped::Full => Dropped::FilterFull,
                    Stopped::Overlaps => Dropped::FilterOverlap,
                };
                return self.refuse(why, Some(Problem::Prohibited), frame, now);
            }
        };
        let to = self.place_for(to, frame.packet(), now);
        let most = self.most(frame.packet());
        let Some(peer) = self.peers.get_mut(to.0 as usize) else {
            return;
        };
        match peer.session.way(now) {
            Way::Send(side) => {
                let mtu = peer.session.flow(side).map_or(0, FlowPort::mtu) as usize;
                if frame.longest() > mtu {
                    return self.too_big(to, frame, mtu, now);
                }
                let mut lowered = 0;
                while let Some(len) = frame.next_len() {
                    match self.room(to, len, now) {
                        Some(room) => {
                            frame.write(room);
                            lowered += u64::from(most.is_some_and(|most| mss::clamp(room, most)));
                        }
                        None => return self.counters.drop_many(Dropped::FlowFull, frame.count()),
                    }
                }
                self.counters.mss_lowered += lowered;
                if let Some(may) = may {
                    self.let_go(to, side, may);
                }
            }
            Way::Wait { dial } => {
                if dial {
                    self.happened.push(Happening::Dial(to));
                }
                for packet in frame {
                    if peer.session.wait(Packet::copy_of(&packet)).is_some() {
                        self.counters.drop(Dropped::WaitingOverflow);
                    }
                }
                self.retime_of(to);
            }
            Way::Down => self.refuse(Dropped::PeerDown, Some(Problem::PeerDown), frame, now),
        }
    }

    /// The flow that serves what a packet asks for; one that can't be had just now is no reason to lose it.
    fn place_for(&self, member: PeerId, packet: &[u8], now: Instant) -> PeerId {
        let class = match self.traffic.classes {
            true => Class::of(packet),
            false => Class::Plain,
        };
        let to = place(member, class);
        let rests = |peer: &peer::Peer<F>| peer.session.rests(now);
        match self.peers.get(to.0 as usize).is_some_and(rests) {
            true => member,
            false => to,
        }
    }

    /// What the largest segment must fit of a connection that a packet opens. All flows, since the device's MTU is that of the smallest.
    pub(super) fn most(&self, packet: &[u8]) -> Option<usize> {
        let opens = self.traffic.mss_clamp && upper::opens(packet);
        opens.then(|| self.mtu().map(|mtu| mtu as usize)).flatten()
    }

    /// Lets packets go by themselves where the device was handed over: behind those that were just read, which they would overtake.
    pub(super) fn let_go(&mut self, id: PeerId, side: Side, may: May) {
        let new = (id, side, may);
        if self.pairs.contains(&new) {
            return;
        }
        let peer = self.peers.get(id.0 as usize);
        let handed = peer.is_some_and(|p| p.session.flow(side).is_some_and(FlowPort::is_handed));
        // Those beyond are said with a later packet.
        if handed && self.pairs.len() < PAIRS {
            self.pairs.push(new);
        }
    }

    /// Says which pairs were met in this turn, on their flows behind their packets.
    pub(super) fn say_pairs(&mut self) {
        for (id, side, may) in self.pairs.drain(..) {
            let peer = self.peers.get_mut(id.0 as usize);
            // If something waits for room still, a later packet says it.
            let peer = peer.filter(|peer| peer.pending() == 0);
            if let Some(flow) = peer.and_then(|peer| peer.session.flow_mut(side)) {
                match may {
                    May::Pair(own, other) => flow.pair(own, other),
                    May::Talk(talk) => flow.talk(talk),
                }
            }
        }
    }

    /// Whose a packet is, else why nobody gets it and what its sender is told.
    fn judge(&self, packet: &[u8]) -> Result<(PeerId, Ends), (Dropped, Option<Problem>)> {
        let ends = Ends::parse(packet).map_err(|_| (Dropped::MalformedOut, None))?;
        if ends.stays_on_link() {
            return Err((Dropped::Multicast, None));
        }
        if self.owners.of(ends.src) != Some(Owner::Me) {
            return Err((Dropped::OwnSource, Some(Problem::Prohibited)));
        }
        match self.owners.of(ends.dst) {
            Some(Owner::Peer(id)) => Ok((id, ends)),
            Some(Owner::Me) | None => Err((Dropped::NoOwner, Some(Problem::NoRoute))),
        }
    }

    /// Cuts what may be cut, as IP does, and has the sender of all else told.
    fn too_big(&mut self, id: PeerId, frame: Segments<'_>, mtu: usize, now: Instant) {
        for packet in frame {
            if packet.len() <= mtu {
                self.append(id, &packet, now);
                continue;
            }
            if !fragment::allowed(&packet) {
                // A flow's MTU is a u32.
                self.refuse_packet(
                    Dropped::TooBig,
                    Some(Problem::TooBig(mtu as u32)),
                    &packet,
                    now,
                );
                continue;
            }
            let mut cut = fragment::fragments(&packet, mtu).peekable();
            match cut.peek() {
                Some(_) => self.counters.fragmented += 1,
                None => self.counters.drop(Dropped::TooBig),
            }
            for part in cut {
                self.append(id, &part, now);
            }
        }
    }

    /// Counts the packets of a frame as dropped and has the sender told, as far as rules and rate allow.
    pub(super) fn refuse(
        &mut self,
        why: Dropped,
        problem: Option<Problem>,
        mut frame: Segments<'_>,
        now: Instant,
    ) {
        if let Some(first) = frame.next() {
            self.refuse_packet(why, problem, &first, now);
        }
        self.counters.drop_many(why, frame.count());
    }

    /// The same of one packet.
    pub(super) fn refuse_packet(
        &mut self,
        why: Dropped,
        problem: Option<Problem>,
        packet: &[u8],
        now: Instant,
    ) {
        self.counters.drop(why);
        let Some(error) = problem.and_then(|problem| icmp::answer(problem, packet)) else {
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
        for error in self.answers.drain(..) {
            let written = tun.write_one(&error);
            self.counters.icmp_sent += written.packets;
            self.counters
                .drop_many(Dropped::DeviceWrite, written.refused);
        }
    }

    /// Adds a packet to what goes to a peer; it is dropped if there is no room.
    pub(super) fn append(&mut self, id: PeerId, packet: &[u8], now: Instant) {
        match self.room(id, packet.len(), now) {
            Some(room) => room.copy_from_slice(packet),
            None => self.counters.drop(Dropped::FlowFull),
        }
    }

    /// Where a packet to a peer is to be written, making room by sending; `None` if there is none.
    fn room(&mut self, id: PeerId, len: usize, now: Instant) -> Option<&mut [u8]> {
        let full = |peer: &peer::Peer<F>| peer.out.as_ref().is_some_and(|out| !out.fits(len));
        if self.peers.get(id.0 as usize).is_some_and(full) {
            self.flush(id, now);
        }
        if !self.dirty.contains(&id) {
            self.dirty.push(id);
        }
        self.peers.get_mut(id.0 as usize)?.room(len)
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
        let sent = match flow.owes() {
            // What is to be forgotten goes first.
            Some(_) => Sent::Full,
            None => flow.try_write(&record),
        };
        match sent {
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
/// Pairs that are said in one turn.
const PAIRS: usize = 64;
/// Frames and bytes that are read before the other direction has its turn.
const READS: usize = 64;
const BYTES: usize = 4 * Batch::CAPACITY;
