//! Errors that this host's own programs get for packets that can't go: "packet too big" and "unreachable", of both families.
//! Must not send: it makes bytes (RFC 792, RFC 1191, RFC 4443) and says how often.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ip::ends::Ends;

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Larger than this many bytes and not to be fragmented.
    TooBig(u32),
    /// No member owns the destination.
    NoRoute,
    /// This host may not send from that source.
    Prohibited,
    /// No flow to the peer can be had.
    PeerDown,
}

/// The packet that tells the sender of `offending` about `problem`. It bears the destination's address as its source: the
/// kernel takes no packet from a device that claims to come from the host itself, and the VPN has no address of its own.
/// `None` for what must not be answered: ICMP errors, multicast and broadcast, fragments other than the first, and
/// sources that are nobody (RFC 1122 §3.2.2, RFC 4443 §2.4).
pub fn answer(problem: Problem, offending: &[u8]) -> Option<Vec<u8>> {
    let ends = Ends::parse(offending).ok()?;
    if ends.stays_on_link() {
        return None;
    }
    match (ends.dst, ends.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) if answerable_v4(offending, to) => {
            Some(error_v4(problem, offending, from, to))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if answerable_v6(offending, to) => {
            Some(error_v6(problem, offending, from, to))
        }
        _ => None,
    }
}

/// At most [`RateLimit::BURST`] errors at once and [`RateLimit::PER_SECOND`] in the long run.
#[derive(Debug)]
pub struct RateLimit {
    tokens: u32,
    filled: Instant,
}

impl RateLimit {
    /// Errors that may be sent at once.
    pub const BURST: u32 = 50;
    /// Errors a second in the long run.
    pub const PER_SECOND: u32 = 200;

    /// A limit with its burst unused.
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: Self::BURST,
            filled: now,
        }
    }

    /// Takes the right to send one error, if there is one left.
    pub fn take(&mut self, now: Instant) -> bool {
        let gap = Duration::from_secs(1) / Self::PER_SECOND;
        let earned = now.saturating_duration_since(self.filled).as_nanos() / gap.as_nanos();
        if earned >= u128::from(Self::BURST) {
            (self.tokens, self.filled) = (Self::BURST, now);
        } else {
            // Below BURST, so it fits.
            let earned = earned as u32;
            self.tokens = (self.tokens + earned).min(Self::BURST);
            self.filled += gap * earned;
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }
}

/// The ones' complement sum of RFC 1071 over `bytes`, to be continued with more; every part but the last has an even length.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u32 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let sum = pairs.iter().fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes(*pair))
    });
    odd.first().map_or(sum, |b| sum + (u32::from(*b) << 8))
}

/// Folds a sum into the checksum field's bytes.
pub(crate) fn fold(mut sum: u32) -> [u8; 2] {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn answerable_v4(packet: &[u8], src: Ipv4Addr) -> bool {
    let first_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff == 0;
    let header = usize::from(packet[0] & 0x0f) * 4;
    let error = packet[9] == ICMP_V4
        && packet
            .get(header)
            .is_none_or(|kind| ERRORS_V4.contains(kind));
    first_fragment
        && !error
        && !(src.is_multicast() || src.is_unspecified() || src.is_broadcast() || src.is_loopback())
}

fn answerable_v6(packet: &[u8], src: Ipv6Addr) -> bool {
    let body = match upper_layer(packet) {
        Some((ICMP_V6, at)) => packet
            .get(at)
            .is_some_and(|kind| *kind >= FIRST_INFORMATIONAL_V6),
        Some(_) => true,
        None => false,
    };
    body && !(src.is_multicast() || src.is_unspecified() || src.is_loopback())
}

/// Protocol and place of what follows the extension headers; `None` behind a broken chain or in a later fragment.
fn upper_layer(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut kind, mut at) = (packet[6], 40);
    loop {
        match kind {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [next, len] = *packet.get(at..)?.first_chunk()?;
                (kind, at) = (next, at + 8 + usize::from(len) * 8);
            }
            FRAGMENT => {
                let [next, _, high, low] = *packet.get(at..)?.first_chunk()?;
                if u16::from_be_bytes([high, low]) >> 3 != 0 {
                    return None;
                }
                (kind, at) = (next, at + 8);
            }
            AUTHENTICATION => {
                let [next, len] = *packet.get(at..)?.first_chunk()?;
                (kind, at) = (next, at + 8 + usize::from(len) * 4);
            }
            _ => return Some((kind, at)),
        }
    }
}

fn error_v4(problem: Problem, offending: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let quoted = &offending[..offending.len().min(MAX_ERROR_V4 - 28)];
    let total = (28 + quoted.len()) as u16; // at most MAX_ERROR_V4
    let mut out = Vec::with_capacity(usize::from(total));
    out.extend([0x45, 0xc0]); // precedence 6, as RFC 1812 §4.3.2.5 wants
    out.extend(total.to_be_bytes());
    out.extend([0, 0, 0x40, 0, 64, ICMP_V4, 0, 0]);
    out.extend(from.octets());
    out.extend(to.octets());
    let header = fold(sum(0, &out));
    out[10..12].copy_from_slice(&header);
    let (code, mtu) = match problem {
        Problem::TooBig(mtu) => (4, u16::try_from(mtu).unwrap_or(u16::MAX)),
        Problem::NoRoute => (0, 0),
        Problem::Prohibited => (13, 0),
        Problem::PeerDown => (1, 0),
    };
    out.extend([3, code, 0, 0, 0, 0]);
    out.extend(mtu.to_be_bytes());
    out.extend(quoted);
    let body = fold(sum(0, &out[20..]));
    out[22..24].copy_from_slice(&body);
    out
}

fn error_v6(problem: Problem, offending: &[u8], from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let quoted = &offending[..offending.len().min(MAX_ERROR_V6 - 48)];
    let len = (8 + quoted.len()) as u16; // at most MAX_ERROR_V6
    let mut out = Vec::with_capacity(40 + usize::from(len));
    out.extend([0x60, 0, 0, 0]);
    out.extend(len.to_be_bytes());
    out.extend([ICMP_V6, 64]);
    out.extend(from.octets());
    out.extend(to.octets());
    let (kind, code, field) = match problem {
        Problem::TooBig(mtu) => (2, 0, mtu),
        Problem::NoRoute => (1, 0, 0),
        Problem::Prohibited => (1, 1, 0),
        Problem::PeerDown => (1, 3, 0),
    };
    out.extend([kind, code, 0, 0]);
    out.extend(field.to_be_bytes());
    out.extend(quoted);
    let pseudo = sum(
        sum(u32::from(len) + u32::from(ICMP_V6), &from.octets()),
        &to.octets(),
    );
    let body = fold(sum(pseudo, &out[40..]));
    out[42..44].copy_from_slice(&body);
    out
}

/// An IPv4 error has at most 576 bytes, an IPv6 error at most 1280.
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
/// Unreachable, source quench, redirect, time exceeded, parameter problem.
const ERRORS_V4: [u8; 5] = [3, 4, 5, 11, 12];
const FIRST_INFORMATIONAL_V6: u8 = 128;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice, icmpv6};
    use proptest::prelude::*;

    fn udp_v4(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
            .udp(1, 2)
            .write(&mut out, &vec![7; len])
            .unwrap();
        out
    }

    fn udp_v6(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 9)
            .udp(1, 2)
            .write(&mut out, &vec![7; len])
            .unwrap();
        out
    }

    fn check_v4(problem: Problem, expected: DestUnreachableHeader) {
        let offending = udp_v4(1400);
        let out = answer(problem, &offending).unwrap();
        let parsed = SlicedPacket::from_ip(&out).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else {
            panic!("no ICMPv4 in {parsed:?}")
        };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(expected)
        );
        assert_eq!(
            icmp.header().icmp_type.calc_checksum(icmp.payload()),
            icmp.checksum()
        );
        assert!(out.len() == 576 && offending.starts_with(icmp.payload()));
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&out).unwrap();
        assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
        assert_eq!(
            (ip.source(), ip.destination()),
            ([10, 0, 0, 2], [10, 0, 0, 1])
        );
    }

    fn check_v6(problem: Problem, expected: Icmpv6Type) {
        let offending = udp_v6(1400);
        let out = answer(problem, &offending).unwrap();
        let parsed = SlicedPacket::from_ip(&out).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else {
            panic!("no ICMPv6 in {parsed:?}")
        };
        let ip = etherparse::Ipv6HeaderSlice::from_slice(&out).unwrap();
        assert_eq!(icmp.icmp_type(), expected);
        assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
        assert!(out.len() == 1280 && offending.starts_with(icmp.payload()));
        assert_eq!(ip.destination(), [1; 16]);
    }

    #[test]
    fn ipv4_errors_have_the_right_code_and_checksums() {
        check_v4(
            Problem::TooBig(1380),
            DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1380 },
        );
        check_v4(Problem::NoRoute, DestUnreachableHeader::Network);
        check_v4(Problem::Prohibited, DestUnreachableHeader::FilterProhibited);
        check_v4(Problem::PeerDown, DestUnreachableHeader::Host);
    }

    #[test]
    fn ipv6_errors_have_the_right_code_and_checksums() {
        use icmpv6::DestUnreachableCode as Code;
        check_v6(
            Problem::TooBig(1380),
            Icmpv6Type::PacketTooBig { mtu: 1380 },
        );
        check_v6(
            Problem::NoRoute,
            Icmpv6Type::DestinationUnreachable(Code::NoRoute),
        );
        check_v6(
            Problem::Prohibited,
            Icmpv6Type::DestinationUnreachable(Code::Prohibited),
        );
        check_v6(
            Problem::PeerDown,
            Icmpv6Type::DestinationUnreachable(Code::Address),
        );
    }

    #[test]
    fn errors_are_never_answered_with_errors() {
        for offending in [udp_v4(9), udp_v6(9)] {
            let error = answer(Problem::NoRoute, &offending).unwrap();
            assert_eq!(answer(Problem::NoRoute, &error), None);
        }
    }

    #[test]
    fn an_echo_request_is_answered() {
        let mut v4 = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
            .icmpv4_echo_request(1, 2)
            .write(&mut v4, b"x")
            .unwrap();
        let mut v6 = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 9)
            .icmpv6_echo_request(1, 2)
            .write(&mut v6, b"x")
            .unwrap();
        assert!(answer(Problem::NoRoute, &v4).is_some());
        assert!(answer(Problem::NoRoute, &v6).is_some());
    }

    #[test]
    fn later_fragments_multicast_and_nobody_are_not_answered() {
        let mut later = udp_v4(64);
        later[7] = 1;
        assert_eq!(answer(Problem::NoRoute, &later), None);
        let mut multicast = udp_v4(64);
        multicast[16] = 224;
        assert_eq!(answer(Problem::NoRoute, &multicast), None);
        let mut nobody = udp_v4(64);
        nobody[12..16].fill(0);
        assert_eq!(answer(Problem::NoRoute, &nobody), None);
        // IPv6: a fragment header (next UDP, offset 8) before the rest.
        let mut later = udp_v6(64);
        later[6] = FRAGMENT;
        later[40..44].copy_from_slice(&[17, 0, 0, 8]);
        assert_eq!(answer(Problem::NoRoute, &later), None);
        later[43] = 1;
        assert!(answer(Problem::NoRoute, &later).is_some());
    }

    #[test]
    fn the_rate_is_limited_and_recovers() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        let granted = (0..1000).filter(|_| limit.take(start)).count();
        assert_eq!(granted, RateLimit::BURST as usize);
        let later = start + Duration::from_millis(50);
        assert_eq!((0..1000).filter(|_| limit.take(later)).count(), 10);
        let much_later = start + Duration::from_secs(99);
        assert_eq!(
            (0..1000).filter(|_| limit.take(much_later)).count(),
            RateLimit::BURST as usize
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = answer(Problem::TooBig(1280), &bytes);
            let _ = answer(Problem::TooBig(1280), &bytes);
        }

        #[test]
        fn no_extension_header_chain_panics(kinds in prop::collection::vec(prop::sample::select(vec![0u8, 43, 44, 51, 60, 58, 17]), 1..8), noise: Vec<u8>) {
            let mut packet = udp_v6(0);
            packet.truncate(40);
            packet[6] = kinds[0];
            for kind in &kinds[1..] {
                packet.extend([*kind, 0, 0, 0, 0, 0, 0, 0]);
            }
            packet.extend(noise);
            let len = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
            let _ = answer(Problem::NoRoute, &packet);
        }
    }
}
