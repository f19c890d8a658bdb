//! The few fields of an IP packet that decide where it goes, parsed strictly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a packet comes from and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Its source address.
    pub src: IpAddr,
    /// Its destination address.
    pub dst: IpAddr,
}

/// Why bytes are no IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither version 4 nor 6, or no bytes.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// Shorter than its header.
    #[error("shorter than its header")]
    Header,
    /// The length in the header is not that of the packet.
    #[error("its length field lies")]
    Length,
}

impl Ends {
    /// Reads version, lengths and addresses; the packet must be exactly as long as its header says (RFC 791, RFC 8200).
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().map(|b| b >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            _ => Err(Malformed::Version),
        }
    }

    /// Whether the destination is one that stays on its link: multicast, broadcast, link-local or unspecified.
    pub fn stays_on_link(&self) -> bool {
        match self.dst {
            IpAddr::V4(a) => {
                a.is_multicast() || a.is_broadcast() || a.is_link_local() || a.is_unspecified()
            }
            IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local() || a.is_unspecified(),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, Malformed> {
        let fixed: &[u8; 20] = packet.first_chunk().ok_or(Malformed::Header)?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header < 20 || header > packet.len() {
            return Err(Malformed::Header);
        }
        if total != packet.len() {
            return Err(Malformed::Length);
        }
        let [.., a, b, c, d, e, f, g, h] = *fixed;
        Ok(Self {
            src: Ipv4Addr::new(a, b, c, d).into(),
            dst: Ipv4Addr::new(e, f, g, h).into(),
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = packet.split_first_chunk::<40>().ok_or(Malformed::Header)?;
        if usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) != rest.len() {
            return Err(Malformed::Length);
        }
        let address = |at: usize| fixed[at..].first_chunk::<16>().map(|b| Ipv6Addr::from(*b));
        match (address(8), address(24)) {
            (Some(src), Some(dst)) => Ok(Self {
                src: src.into(),
                dst: dst.into(),
            }),
            _ => Err(Malformed::Header),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn packets() -> impl Strategy<Value = (Ends, Vec<u8>)> {
        let v4 = (
            any::<[u8; 4]>(),
            any::<[u8; 4]>(),
            prop::collection::vec(any::<u8>(), 0..200),
        )
            .prop_map(|(s, d, body)| {
                let mut out = Vec::new();
                PacketBuilder::ipv4(s, d, 9)
                    .udp(1, 2)
                    .write(&mut out, &body)
                    .unwrap();
                (
                    Ends {
                        src: s.into(),
                        dst: d.into(),
                    },
                    out,
                )
            });
        let v6 = (
            any::<[u8; 16]>(),
            any::<[u8; 16]>(),
            prop::collection::vec(any::<u8>(), 0..200),
        )
            .prop_map(|(s, d, body)| {
                let mut out = Vec::new();
                PacketBuilder::ipv6(s, d, 9)
                    .udp(1, 2)
                    .write(&mut out, &body)
                    .unwrap();
                (
                    Ends {
                        src: s.into(),
                        dst: d.into(),
                    },
                    out,
                )
            });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Ends::parse(&bytes);
        }

        #[test]
        fn bytes_that_start_as_ip_do_not_panic(first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x40), Just(0x60)], rest: Vec<u8>) {
            let mut bytes = vec![first];
            bytes.extend(rest);
            let _ = Ends::parse(&bytes);
        }

        #[test]
        fn the_addresses_are_those_of_the_header((ends, packet) in packets()) {
            prop_assert_eq!(Ends::parse(&packet), Ok(ends));
        }

        #[test]
        fn a_packet_cut_or_padded_anywhere_is_malformed((_, packet) in packets(), cut: prop::sample::Index) {
            prop_assert!(Ends::parse(&packet[..cut.index(packet.len())]).is_err());
            let mut padded = packet;
            padded.push(0);
            prop_assert_eq!(Ends::parse(&padded), Err(Malformed::Length));
        }
    }

    #[test]
    fn a_header_length_below_twenty_is_malformed() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
            .udp(1, 2)
            .write(&mut packet, b"x")
            .unwrap();
        packet[0] = 0x44;
        assert_eq!(Ends::parse(&packet), Err(Malformed::Header));
        packet[0] = 0x4f;
        assert_eq!(Ends::parse(&packet), Err(Malformed::Header));
    }

    #[test]
    fn multicast_and_link_local_stay_on_the_link() {
        let to = |dst: &str| {
            Ends {
                src: "10.0.0.1".parse().unwrap(),
                dst: dst.parse().unwrap(),
            }
            .stays_on_link()
        };
        for dst in [
            "224.0.0.251",
            "255.255.255.255",
            "169.254.1.1",
            "ff02::2",
            "fe80::1",
            "::",
            "0.0.0.0",
        ] {
            assert!(to(dst), "{dst} left");
        }
        for dst in ["10.0.0.2", "fd00::2", "192.0.2.1"] {
            assert!(!to(dst), "{dst} stayed");
        }
    }
}
