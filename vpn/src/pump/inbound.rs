//! Flows to device. Believes of a packet only that it came from the member that the layer authenticated: its source must
//! be that member's, its destination this host's.

use std::time::Instant;

use proto::Code;

use super::{Core, Happening};
use crate::counters::Dropped;
use crate::device::TunPort;
use crate::flow::FlowPort;
use crate::packet::Ends;
use crate::prefix::{Owner, Owners, PeerId};
use crate::session::Side;

impl<F: FlowPort> Core<F> {
    /// Takes at most [`RECORDS`] records off a flow; `true` if nothing was left.
    pub(super) fn inbound<T: TunPort>(
        &mut self,
        tun: &mut T,
        id: PeerId,
        side: Side,
        now: Instant,
    ) -> bool {
        for _ in 0..RECORDS {
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
                self.happened.push(Happening::Mtu);
            }
            match read {
                Ok(true) => self.deliver(tun, id, now),
                Ok(false) => return true,
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
    fn deliver<T: TunPort>(&mut self, tun: &mut T, id: PeerId, now: Instant) {
        let Self {
            inbound,
            owners,
            counters,
            peers,
            ..
        } = self;
        let written = tun.write(inbound, |packet| match check(owners, id, packet) {
            Ok(()) => true,
            Err(why) => {
                counters.drop(why);
                false
            }
        });
        counters.drop_many(Dropped::DeviceWrite, written.refused);
        counters.rx_packets += written.packets;
        counters.rx_bytes += written.bytes;
        if let Some(peer) = peers.get_mut(id.0 as usize) {
            peer.session.heard(now);
            peer.moved.rx_packets += written.packets;
            peer.moved.rx_bytes += written.bytes;
        }
    }
}

fn check(owners: &Owners, id: PeerId, packet: &[u8]) -> Result<(), Dropped> {
    let ends = Ends::parse(packet).map_err(|_| Dropped::MalformedIn)?;
    if owners.of(ends.src) != Some(Owner::Peer(id)) {
        return Err(Dropped::SpoofedSource);
    }
    if owners.of(ends.dst) != Some(Owner::Me) {
        return Err(Dropped::ForeignDestination);
    }
    Ok(())
}

/// Records off one flow before the others have their turn.
const RECORDS: usize = 4;
