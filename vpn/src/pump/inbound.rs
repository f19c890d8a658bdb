//! Flows to device. Believes of a packet only that it came from the member that the layer authenticated: its source must
//! be that member's, its destination this host's.

use std::time::Instant;

use proto::Code;
use proto::record::Moved;

use super::outbound::May;
use super::{Core, Happening, member};
use crate::counters::Dropped;
use crate::filter::{Filter, Passed, Stopped, Way};
use crate::flow::{FlowPort, Heard};
use crate::prefix::{Owner, Owners, PeerId};
use crate::session::Side;
use frames::{TunPort, Written};
use ip::ends::Ends;
use ip::{mss, upper};

impl<F: FlowPort> Core<F> {
    /// Takes at most [`RECORDS`] records off a flow, or [`FRAMES`] of single packets; `true` if nothing was left.
    pub(super) fn inbound<T: TunPort>(
        &mut self,
        tun: &mut T,
        id: PeerId,
        side: Side,
        now: Instant,
    ) -> bool {
        let mut taken = 0;
        while taken < FRAMES {
            let Some(flow) = self
                .peers
                .get_mut(id.0 as usize)
                .and_then(|p| p.session.flow_mut(side))
            else {
                return true;
            };
            let mtu = flow.mtu();
            let read = flow.try_read(&mut self.inbound);
            if flow.mtu() != mtu {
                self.all.resized(mtu, flow);
                self.happened.push(Happening::Mtu);
            }
            taken += match read {
                Ok(Heard::Frame(_)) => 1,
                _ => FRAMES / RECORDS,
            };
            match read {
                Ok(Heard::Sdus) if self.segment.is_some() => self.deliver_frames(tun, id, now),
                Ok(Heard::Sdus) => self.deliver(tun, id, side, now),
                Ok(Heard::Frame(packet)) => self.resubmit(&packet, now),
                Ok(Heard::Moved(moved)) => self.moved(id, moved, now),
                Ok(Heard::Talk(talk)) if self.filter.moves(now, member(id), &talk) => {}
                // Over meanwhile, as after a jump of the clock: what is left of it is judged again.
                Ok(Heard::Talk(_)) => self.forget_pairs(id, now),
                Ok(Heard::Nothing) => return true,
                Ok(Heard::Down(reason)) => {
                    self.link_down(id, side, reason, now);
                    return true;
                }
                Err(reason) => {
                    if reason.code == Code::PeerMisbehaved {
                        self.counters.drop(Dropped::BadRecord);
                    }
                    self.link_down(id, side, reason, now);
                    return true;
                }
            }
        }
        false
    }

    /// Writes the packets of the record that was just received, all but those that the peer may not send.
    fn deliver<T: TunPort>(&mut self, tun: &mut T, id: PeerId, side: Side, now: Instant) {
        let (mut pairs, mut opening) = (Vec::new(), Vec::new());
        let clamps = self.traffic.mss_clamp;
        let Self {
            inbound,
            owners,
            counters,
            filter,
            ..
        } = self;
        let mut written = tun.write(inbound, |packet| {
            match check(owners, filter, (id, now), packet) {
                Ok((ends, passed)) => {
                    // Who is new comes first in its record.
                    let may = May::of(Way::In, packet, &ends, passed);
                    if let Some(may) = may
                        && pairs.len() < PAIRS
                        && !pairs.contains(&may)
                    {
                        pairs.push(may);
                    }
                    let opens = clamps && upper::opens(packet);
                    if opens {
                        opening.push(packet.to_vec());
                    }
                    !opens
                }
                Err(why) => {
                    counters.drop(why);
                    false
                }
            }
        });
        // They come behind those of other connections that came with them.
        let most = self.all.mtu().unwrap_or(u32::MAX) as usize;
        for mut packet in opening {
            self.counters.mss_lowered += u64::from(mss::clamp(&mut packet, most));
            written.add(tun.write_one(&packet));
        }
        self.received(id, written, now);
        for may in pairs {
            self.let_go(id, side, may);
        }
    }

    /// Takes what came from a peer into the books.
    pub(super) fn received(&mut self, id: PeerId, written: Written, now: Instant) {
        self.counters
            .drop_many(Dropped::DeviceWrite, written.refused);
        self.counters.rx_packets += written.packets;
        self.counters.rx_bytes += written.bytes;
        if let Some(peer) = self.peers.get_mut(id.0 as usize) {
            peer.session.heard(now);
            peer.moved.rx_packets += written.packets;
            peer.moved.rx_bytes += written.bytes;
        }
    }

    /// Takes what has moved by itself into the books.
    fn moved(&mut self, id: PeerId, more: Moved, now: Instant) {
        self.counters.handed_packets += more.rx_packets + more.tx_packets;
        self.counters.rx_packets += more.rx_packets;
        self.counters.rx_bytes += more.rx_bytes;
        self.counters.tx_packets += more.tx_packets;
        self.counters.tx_bytes += more.tx_bytes;
        if let Some(peer) = self.peers.get_mut(id.0 as usize) {
            peer.session.heard(now);
            peer.moved.rx_packets += more.rx_packets;
            peer.moved.rx_bytes += more.rx_bytes;
            peer.moved.tx_packets += more.tx_packets;
            peer.moved.tx_bytes += more.tx_bytes;
        }
    }
}

fn check(
    owners: &Owners,
    filter: &mut Filter,
    (id, now): (PeerId, Instant),
    packet: &[u8],
) -> Result<(Ends, Passed), Dropped> {
    let ends = Ends::parse(packet).map_err(|_| Dropped::MalformedIn)?;
    if owners.of(ends.src) != Some(Owner::Peer(member(id))) {
        return Err(Dropped::SpoofedSource);
    }
    if owners.of(ends.dst) != Some(Owner::Me) {
        return Err(Dropped::ForeignDestination);
    }
    let passed = filter.pass(now, (member(id), Way::In), packet, &ends);
    let passed = passed.map_err(|why| match why {
        Stopped::Denied => Dropped::FilterIn,
        Stopped::Full => Dropped::FilterFull,
        Stopped::Overlaps => Dropped::FilterOverlap,
    })?;
    Ok((ends, passed))
}

/// Records off one flow before the others have their turn.
const RECORDS: usize = 4;
/// The same, of packets of the device that come one by one: as many as are read from it where it wasn't handed over.
const FRAMES: usize = 64;
/// Pairs of addresses that are said of one record; the others are of the next.
const PAIRS: usize = 4;
