//! What was moved and what was dropped, with the reason. One task owns them, so they are plain numbers.

use std::collections::BTreeMap;

/// The counters of one VPN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from the device to peers.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets from peers to the device.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// IPv4 packets that were cut because they may be and were larger than the flow's MTU.
    pub fragmented: u64,
    /// ICMP errors sent to the host's own programs.
    pub icmp_sent: u64,
    /// Of all packets those that the IPC process moved between device and flow by itself.
    pub handed_packets: u64,
    /// Flows that this side allocated.
    pub flows_dialled: u64,
    /// Flows that peers allocated.
    pub flows_accepted: u64,
    /// Flows that went down.
    pub flows_down: u64,
    /// Flows that this side closed because nothing moved on them.
    pub flows_idle: u64,
    /// TCP connections whose largest segment was lowered, each way counted.
    pub mss_lowered: u64,
    /// Frames of a TAP that went to all peers.
    pub flooded: u64,
    dropped: [u64; Dropped::ALL.len()],
}

/// Why a packet or a record was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The device gave bytes that are no IP packet.
    MalformedOut,
    /// A peer sent bytes that are no IP packet.
    MalformedIn,
    /// A peer sent from an address that its certificate doesn't own.
    SpoofedSource,
    /// A peer sent to an address that is not this host's.
    ForeignDestination,
    /// This host sent from an address that its own certificate doesn't own; the peer would drop it.
    OwnSource,
    /// No member owns the destination.
    NoOwner,
    /// Multicast, broadcast and link-local don't leave the host.
    Multicast,
    /// Larger than the flow's MTU and not to be fragmented.
    TooBig,
    /// The oldest of too many packets that wait for a flow.
    WaitingOverflow,
    /// No flow to the peer could be had.
    PeerDown,
    /// The flow's socket takes no more.
    FlowFull,
    /// Waited too long for a place in the flow's socket.
    Stale,
    /// The flow was down when it was to be sent.
    FlowDown,
    /// The policy lets this host not send it there.
    FilterOut,
    /// The policy lets the peer not send it here.
    FilterIn,
    /// Too many conversations are kept by the filter.
    FilterFull,
    /// A fragment that may lie over what the filter judges of the first of its packet.
    FilterOverlap,
    /// The device refused it.
    DeviceWrite,
    /// A record of a flow with lying lengths or an unknown item.
    BadRecord,
    /// An ICMP error that the rate limit held back.
    IcmpLimited,
    /// A frame that is shorter than its header.
    ShortFrame,
    /// A frame whose source is that of a group, or of nobody.
    BadSource,
    /// A frame that ends at the next bridge.
    BridgeControl,
    /// A frame from an address that is another's.
    StolenSource,
    /// A frame for one who is on the side that it comes from, or on another peer's.
    Elsewhere,
    /// A frame for all that the rate limit held back.
    FloodLimited,
    /// A frame for all, or for one who is not known, when no peer was there.
    NobodyThere,
}

impl Counters {
    /// Counts one drop.
    pub fn drop(&mut self, why: Dropped) {
        self.drop_many(why, 1);
    }

    /// Counts `n` drops.
    pub fn drop_many(&mut self, why: Dropped, n: usize) {
        self.dropped[why as usize] += n as u64;
    }

    /// How many were dropped for this reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize]
    }

    /// Every counter by its name; drops as `drop.REASON`.
    pub fn to_map(&self) -> BTreeMap<String, u64> {
        let moved = [
            ("tx_packets", self.tx_packets),
            ("tx_bytes", self.tx_bytes),
            ("rx_packets", self.rx_packets),
            ("rx_bytes", self.rx_bytes),
            ("fragmented", self.fragmented),
            ("icmp_sent", self.icmp_sent),
            ("handed_packets", self.handed_packets),
            ("flows_dialled", self.flows_dialled),
            ("flows_accepted", self.flows_accepted),
            ("flows_down", self.flows_down),
            ("flows_idle", self.flows_idle),
            ("mss_lowered", self.mss_lowered),
            ("flooded", self.flooded),
        ];
        let moved = moved.into_iter().map(|(name, n)| (name.to_owned(), n));
        let dropped = Dropped::ALL
            .into_iter()
            .map(|why| (format!("drop.{}", why.word()), self.dropped(why)));
        moved.chain(dropped).collect()
    }
}

impl Dropped {
    const ALL: [Self; 27] = [
        Self::MalformedOut,
        Self::MalformedIn,
        Self::SpoofedSource,
        Self::ForeignDestination,
        Self::OwnSource,
        Self::NoOwner,
        Self::Multicast,
        Self::TooBig,
        Self::WaitingOverflow,
        Self::PeerDown,
        Self::FlowFull,
        Self::Stale,
        Self::FlowDown,
        Self::FilterOut,
        Self::FilterIn,
        Self::FilterFull,
        Self::FilterOverlap,
        Self::DeviceWrite,
        Self::BadRecord,
        Self::IcmpLimited,
        Self::ShortFrame,
        Self::BadSource,
        Self::BridgeControl,
        Self::StolenSource,
        Self::Elsewhere,
        Self::FloodLimited,
        Self::NobodyThere,
    ];

    /// A stable word for status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::MalformedOut => "malformed_out",
            Self::MalformedIn => "malformed_in",
            Self::SpoofedSource => "spoofed_source",
            Self::ForeignDestination => "foreign_destination",
            Self::OwnSource => "own_source",
            Self::NoOwner => "no_owner",
            Self::Multicast => "multicast",
            Self::TooBig => "too_big",
            Self::WaitingOverflow => "waiting_overflow",
            Self::PeerDown => "peer_down",
            Self::FlowFull => "flow_full",
            Self::Stale => "stale",
            Self::FlowDown => "flow_down",
            Self::FilterOut => "filter_out",
            Self::FilterIn => "filter_in",
            Self::FilterFull => "filter_full",
            Self::FilterOverlap => "filter_overlap",
            Self::DeviceWrite => "device_write",
            Self::BadRecord => "bad_record",
            Self::IcmpLimited => "icmp_limited",
            Self::ShortFrame => "short_frame",
            Self::BadSource => "bad_source",
            Self::BridgeControl => "bridge_control",
            Self::StolenSource => "stolen_source",
            Self::Elsewhere => "elsewhere",
            Self::FloodLimited => "flood_limited",
            Self::NobodyThere => "nobody_there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_word() {
        let mut counters = Counters::default();
        for (i, why) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, i);
            counters.drop_many(why, i + 1);
        }
        let map = counters.to_map();
        for (i, why) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(map[&format!("drop.{}", why.word())], i as u64 + 1);
        }
        assert_eq!(
            map.keys().filter(|k| k.starts_with("drop.")).count(),
            Dropped::ALL.len()
        );
    }
}
