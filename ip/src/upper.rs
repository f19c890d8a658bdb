//! What lies behind the header of an IP packet, as far as it matters to whom judges packets.

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// The number of the protocol, behind all extension headers.
    pub protocol: u8,
    /// Where its header begins, in bytes from the beginning of the packet.
    pub at: usize,
    /// The packet is one of several fragments.
    pub fragment: Option<Fragment>,
}

/// Which fragment a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The number that all fragments of one packet bear.
    pub id: u32,
    /// Where in the packet it belongs, in bytes; only what is at 0 has the header of the transport.
    pub place: usize,
    /// Where the part that it holds begins, in bytes from the beginning of the fragment.
    pub at: usize,
}

impl Fragment {
    /// Whether it is the first of its packet.
    pub fn is_first(&self) -> bool {
        self.place == 0
    }
}

impl Upper {
    /// Walks a packet that is as long as its header says; `None`: it ends before, or has too many extension headers.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    /// Whether a fragment is meant that has no header of the transport.
    pub fn is_later(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.is_first())
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let at = usize::from(fixed[0] & 0x0f) * 4;
        let place = u16::from_be_bytes([fixed[6], fixed[7]]);
        let id = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let fragment = (place & (OFFSET_V4 | MORE_V4) != 0).then_some(Fragment {
            id,
            place: usize::from(place & OFFSET_V4) * 8,
            at,
        });
        (20..=packet.len()).contains(&at).then_some(Self {
            protocol: fixed[9],
            at,
            fragment,
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let (mut protocol, mut at) = (*packet.get(6)?, 40);
        let (mut fragment, mut cut): (Option<Fragment>, _) = (None, false);
        for _ in 0..MAX_EXTENSIONS {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8 + usize::from(*packet.get(at + 1)?) * 8,
                AUTHENTICATION => 8 + usize::from(*packet.get(at + 1)?) * 4,
                // A fragment of a fragment is whole only where the other has been put together, which nobody here does.
                FRAGMENT if cut => return None,
                FRAGMENT => {
                    cut = true;
                    let [_, _, high, low, id @ ..]: [u8; 8] = *packet.get(at..)?.first_chunk()?;
                    let place = u16::from_be_bytes([high, low]);
                    // One that is all of its packet is none (RFC 6946).
                    if place & !RESERVED_V6 != 0 {
                        fragment = Some(Fragment {
                            id: u32::from_be_bytes(id),
                            place: usize::from(place & OFFSET_V6),
                            at: at + 8,
                        });
                    }
                    8
                }
                _ => {
                    return (at <= packet.len()).then_some(Self {
                        protocol,
                        at,
                        fragment,
                    });
                }
            };
            protocol = *packet.get(at)?;
            at += len;
            if fragment.is_some_and(|fragment| !fragment.is_first()) {
                // What follows is of the middle of something.
                return (at <= packet.len()).then_some(Self {
                    protocol,
                    at,
                    fragment,
                });
            }
        }
        None
    }
}

/// What a whole packet has to tell its conversation from others of the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Talk {
    /// The number of the protocol, behind all extension headers.
    pub protocol: u8,
    /// The source's port; 0 of a protocol that has none.
    pub src: u16,
    /// The destination's.
    pub dst: u16,
    /// Of TCP; else 0.
    pub flags: u8,
}

impl Talk {
    /// `None`: a fragment, ICMP, or a packet that ends before its ports or flags.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let upper = Upper::parse(packet)?;
        if upper.fragment.is_some() {
            return None;
        }
        let body = packet.get(upper.at..)?;
        let (src, dst, flags) = match upper.protocol {
            ICMP_V4 | ICMP_V6 => return None,
            TCP => {
                let [a, b, c, d, .., flags]: [u8; 14] = *body.first_chunk()?;
                (
                    u16::from_be_bytes([a, b]),
                    u16::from_be_bytes([c, d]),
                    flags,
                )
            }
            UDP => {
                let [a, b, c, d]: [u8; 4] = *body.first_chunk()?;
                (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0)
            }
            _ => (0, 0, 0),
        };
        Some(Self {
            protocol: upper.protocol,
            src,
            dst,
            flags,
        })
    }
}

/// Whether a packet opens a TCP connection, or answers one that does: SYN is set.
pub fn opens(packet: &[u8]) -> bool {
    let maybe = match packet.first().map(|b| b >> 4) {
        Some(4) => packet.get(9) == Some(&TCP),
        // Behind extension headers it may be TCP as well.
        Some(6) => packet.get(6).is_some_and(|kind| {
            matches!(
                *kind,
                TCP | HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT | AUTHENTICATION
            )
        }),
        _ => false,
    };
    maybe
        && Upper::parse(packet).is_some_and(|upper| {
            let flags = packet.get(upper.at + 13);
            upper.protocol == TCP && !upper.is_later() && flags.is_some_and(|f| f & SYN != 0)
        })
}

/// The code point of a packet's service (RFC 2474), 0 to 63; 0 for what is no IP packet.
pub fn dscp(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second >> 2,
        [first, second, ..] if first >> 4 == 6 => (first & 0x0f) << 2 | second >> 6,
        _ => 0,
    }
}

/// The numbers of protocols.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP of IPv4.
pub const ICMP_V4: u8 = 1;
/// ICMP of IPv6.
pub const ICMP_V6: u8 = 58;

/// Of TCP's byte 13.
pub const FIN: u8 = 0x01;
/// It opens.
pub const SYN: u8 = 0x02;
/// It ends at once.
pub const RST: u8 = 0x04;

const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
const RESERVED_V6: u16 = 0x0006;
const OFFSET_V6: u16 = 0xfff8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// More are nobody's honest packet.
const MAX_EXTENSIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn v6(extensions: &[(u8, &[u8])], last: u8, body: &[u8]) -> Vec<u8> {
        let mut kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(last);
        let mut payload = Vec::new();
        for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
            payload.push(*next);
            payload.extend(*bytes);
        }
        payload.extend(body);
        let mut out = vec![0x60, 0, 0, 0];
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend([kinds[0], 64]);
        out.extend([0xfd; 32]);
        out.extend(payload);
        out
    }

    #[test]
    fn extension_headers_are_walked() {
        let options = [0u8; 7];
        let auth = [
            4u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let chain: [(u8, &[u8]); 3] = [(0, &options), (60, &options), (51, &auth)];
        let mut tcp = [0u8; 20];
        tcp[13] = SYN;
        let packet = v6(&chain, TCP, &tcp);
        let upper = Upper::parse(&packet).unwrap();
        assert_eq!((upper.protocol, upper.at), (TCP, 40 + 8 + 8 + 24));
        assert!(opens(&packet));
        let many: Vec<(u8, &[u8])> = vec![(0, &options); MAX_EXTENSIONS + 1];
        assert_eq!(Upper::parse(&v6(&many, TCP, &tcp)), None);
    }

    #[test]
    fn only_whole_packets_with_ports_or_of_other_protocols_are_of_a_talk() {
        let mut tcp = [0u8; 20];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
        tcp[13] = FIN;
        let of = |extensions: &[(u8, &[u8])], last, body: &[u8]| {
            Talk::parse(&v6(extensions, last, body)).map(|t| (t.protocol, t.src, t.dst, t.flags))
        };
        let options = [0u8; 7];
        assert_eq!(of(&[], TCP, &tcp), Some((TCP, 40_000, 443, FIN)));
        assert_eq!(of(&[(0, &options)], UDP, &tcp), Some((UDP, 40_000, 443, 0)));
        assert_eq!(of(&[], 47, &tcp), Some((47, 0, 0, 0)));
        for none in [
            of(&[(44, &[0, 0, 1, 0, 0, 0, 9])], TCP, &tcp),
            of(&[(44, &[0, 0, 8, 0, 0, 0, 9])], TCP, &tcp),
            of(&[], ICMP_V6, &tcp),
            of(&[], ICMP_V4, &tcp),
            of(&[], TCP, &tcp[..13]),
            of(&[], UDP, &tcp[..3]),
        ] {
            assert_eq!(none, None);
        }
    }

    #[test]
    fn fragments_are_told_from_wholes_and_first_from_later_ones() {
        let of = |place: u16| {
            let [high, low] = place.to_be_bytes();
            let mut body = [0u8; 20];
            body[13] = SYN;
            let packet = v6(&[(44, &[0, high, low, 0, 0, 0, 9])], TCP, &body);
            (Upper::parse(&packet).unwrap().fragment, opens(&packet))
        };
        let fragment = |place| {
            Some(Fragment {
                id: 9,
                place,
                at: 48,
            })
        };
        assert_eq!(of(0), (None, true));
        assert_eq!(of(1), (fragment(0), true));
        assert_eq!(of(8 << 3), (fragment(64), false));
        assert_eq!(of(0xfff9), (fragment(65_528), false));
        let twice: [(u8, &[u8]); 2] = [(44, &[0, 0, 0, 0, 0, 0, 9]), (44, &[0, 0, 1, 0, 0, 0, 9])];
        assert_eq!(Upper::parse(&v6(&twice, TCP, &[0; 20])), None);
        let mut v4 = Vec::new();
        let tcp = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(1, 2, 3, 4);
        tcp.syn().write(&mut v4, &[]).unwrap();
        assert!(opens(&v4));
        v4[6] = 0x20;
        let is = |packet: &[u8]| Upper::parse(packet).unwrap().fragment.unwrap();
        assert!(opens(&v4) && is(&v4).is_first());
        v4[7] = 3;
        assert!(!opens(&v4) && Upper::parse(&v4).unwrap().is_later());
        assert_eq!((is(&v4).place, is(&v4).at), (24, 20));
    }

    #[test]
    fn code_points_are_those_of_both_families() {
        for point in 0..64u8 {
            let tos = point << 2 | 3;
            assert_eq!(dscp(&[0x45, tos]), point);
            assert_eq!(dscp(&[0x60 | tos >> 4, tos << 4]), point);
        }
        assert_eq!((dscp(&[]), dscp(&[0x45])), (0, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()], rest: Vec<u8>) {
            let mut bytes = vec![first];
            bytes.extend(rest);
            let upper = Upper::parse(&bytes);
            prop_assert!(upper.is_none_or(|upper| upper.at <= bytes.len()));
            let _ = (opens(&bytes), dscp(&bytes));
        }
    }
}
