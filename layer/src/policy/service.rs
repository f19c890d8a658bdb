//! What packets are for: a protocol and, where it has them, ports. It must not see packets.

use std::fmt;
use std::str::FromStr;

/// Packets of a VPN, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The number of the protocol, 1 for ICMP of both families; `None`: all protocols.
    pub protocol: Option<u8>,
    /// The first and the last port of the side that answers; all, where the protocol has none.
    pub ports: (u16, u16),
}

impl Service {
    /// All packets.
    pub const ALL: Self = Self {
        protocol: None,
        ports: EVERY_PORT,
    };

    /// Whether all that the other stands for is of this one.
    pub fn covers(&self, other: &Self) -> bool {
        let same = self.protocol.is_none() || self.protocol == other.protocol;
        same && self.ports.0 <= other.ports.0 && self.ports.1 >= other.ports.1
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is nothing that packets are for; there are tcp/443, tcp/8000-8100, udp/53, tcp, udp, icmp, proto/47, and * for all"
            )
        };
        if text == "*" {
            return Ok(Self::ALL);
        }
        let (word, rest) = match text.split_once('/') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        let (protocol, ports) = match (word, rest) {
            ("tcp", None) => (TCP, EVERY_PORT),
            ("udp", None) => (UDP, EVERY_PORT),
            ("icmp", None) => (ICMP, EVERY_PORT),
            ("tcp", Some(rest)) => (TCP, ports(rest).ok_or_else(bad)?),
            ("udp", Some(rest)) => (UDP, ports(rest).ok_or_else(bad)?),
            ("proto", Some(number)) => match number.parse().map_err(|_| bad())? {
                // ICMP of IPv6 goes with that of IPv4.
                58 => (ICMP, EVERY_PORT),
                number => (number, EVERY_PORT),
            },
            _ => return Err(bad()),
        };
        Ok(Self {
            protocol: Some(protocol),
            ports,
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            None => f.write_str("*")?,
            Some(TCP) => f.write_str("tcp")?,
            Some(UDP) => f.write_str("udp")?,
            Some(ICMP) => f.write_str("icmp")?,
            Some(number) => write!(f, "proto/{number}")?,
        }
        match self.ports {
            EVERY_PORT => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

const EVERY_PORT: (u16, u16) = (0, u16::MAX);
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_written_as_they_are_read() {
        for text in [
            "*",
            "tcp",
            "udp",
            "icmp",
            "tcp/443",
            "udp/53-54",
            "proto/47",
        ] {
            assert_eq!(text.parse::<Service>().unwrap().to_string(), text);
        }
        assert_eq!("proto/58".parse::<Service>().unwrap().to_string(), "icmp");
        for bad in [
            "",
            "tcp/",
            "tcp/x",
            "tcp/65536",
            "tcp/5-4",
            "icmp/8",
            "proto",
            "proto/256",
            "sctp",
            "**",
        ] {
            assert!(
                bad.parse::<Service>().unwrap_err().contains("tcp/443"),
                "{bad}"
            );
        }
    }

    #[test]
    fn one_covers_another_if_all_of_it_is_in_it() {
        let covers = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| text.parse::<Service>().unwrap());
            a.covers(&b)
        };
        assert!(covers("*", "proto/50") && covers("tcp", "tcp/1") && covers("tcp/1-9", "tcp/1-8"));
        assert!(!covers("tcp", "udp/1") && !covers("tcp/1-9", "tcp/9-10") && !covers("tcp", "*"));
    }
}
