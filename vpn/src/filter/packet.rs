//! What a packet is to a filter that keeps state. It must not decide anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ip::ends::Ends;
use ip::upper::{ICMP_V4, ICMP_V6, SYN, TCP, UDP, Upper};

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It opens, or goes with, what these ends say to each other.
    Talk {
        talk: Talk,
        /// Of TCP; a question of ICMP begins as SYN does.
        flags: u8,
        /// It can't open anything: an answer to an echo request.
        answers: bool,
        /// It is the first fragment, and others follow: the number of its packet.
        first: Option<u32>,
    },
    /// An error about what the receiver is said to have sent.
    Error(Talk),
    /// A fragment without ports: the number of its packet, and where in that it belongs.
    Later(u32, usize),
}

/// Who talks to whom, as in a packet from the first to the second; ICMP of both families is one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Talk {
    pub(super) protocol: u8,
    pub(super) src: (IpAddr, u16),
    pub(super) dst: (IpAddr, u16),
}

impl Kind {
    /// `None`: the packet ends before it says what it is, or others could say otherwise: of a fragment nothing counts that a later one
    /// may lie over.
    pub(super) fn of(packet: &[u8], ends: &Ends) -> Option<Self> {
        let upper = Upper::parse(packet)?;
        let body = packet.get(upper.at..)?;
        if let Some(later) = upper.fragment.filter(|fragment| !fragment.is_first()) {
            return Some(Self::Later(later.id, later.place));
        }
        if upper.fragment.is_some_and(|first| first.at != upper.at) {
            return None;
        }
        let (src, dst) = (ends.src, ends.dst);
        if let Some(about) = quoted(upper.protocol, body) {
            let whole = about.filter(|_| upper.fragment.is_none());
            return whole.map(Self::Error);
        }
        let (talk, answers) = talk(upper.protocol, body, src, dst)?;
        let flags = match upper.protocol {
            TCP => *body.get(13)?,
            // What is no answer may have the ends of one: a number may be 0.
            ICMP_V4 | ICMP_V6 if !answers => SYN,
            _ => 0,
        };
        Some(Self::Talk {
            talk,
            flags,
            answers,
            first: upper.fragment.map(|it| it.id),
        })
    }
}

impl Talk {
    /// The same, seen from the other side.
    pub(super) fn turned(self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            dst: self.src,
        }
    }
}

/// The ends of what a packet, or the beginning of one, belongs to, and whether it is an answer.
fn talk(protocol: u8, body: &[u8], src: IpAddr, dst: IpAddr) -> Option<(Talk, bool)> {
    let field = |at: usize| {
        body.get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
    };
    let (ports, answers) = match protocol {
        TCP | UDP => ((field(0)?, field(2)?), false),
        ICMP_V4 | ICMP_V6 => {
            let kind = *body.first()?;
            // The number of a conversation stands where a client's port does.
            match (protocol, kind) {
                (ICMP_V4, 8 | 13) | (ICMP_V6, 128) => ((field(4)?, 0), false),
                (ICMP_V4, 0 | 14) | (ICMP_V6, 129) => ((0, field(4)?), true),
                _ => ((0, 0), false),
            }
        }
        _ => ((0, 0), false),
    };
    let talk = Talk {
        protocol: number(protocol),
        src: (src, ports.0),
        dst: (dst, ports.1),
    };
    Some((talk, answers))
}

/// What an ICMP error is about; `None`: it is no error; `Some(None)`: it quotes too little.
fn quoted(protocol: u8, body: &[u8]) -> Option<Option<Talk>> {
    let kind = *body.first()?;
    let error = match protocol {
        ICMP_V4 => matches!(kind, 3 | 11 | 12),
        ICMP_V6 => matches!(kind, 1..=4),
        _ => false,
    };
    error.then(|| {
        let packet = body.get(8..)?;
        let upper = Upper::parse(packet).filter(|upper| !upper.is_later())?;
        let (src, dst) = addresses(packet)?;
        let (talk, _) = talk(upper.protocol, packet.get(upper.at..)?, src, dst)?;
        Some(talk)
    })
}

/// The addresses of a packet of which only the beginning is there.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let at = |at: usize| {
                let bytes = packet.get(at..)?.first_chunk::<4>()?;
                Some(IpAddr::from(Ipv4Addr::from(*bytes)))
            };
            Some((at(12)?, at(16)?))
        }
        6 => {
            let at = |at: usize| {
                let bytes = packet.get(at..)?.first_chunk::<16>()?;
                Some(IpAddr::from(Ipv6Addr::from(*bytes)))
            };
            Some((at(8)?, at(24)?))
        }
        _ => None,
    }
}

fn number(protocol: u8) -> u8 {
    match protocol {
        ICMP_V6 => ICMP,
        other => other,
    }
}

/// What a filter reads of a packet that is cut lies before this, behind the headers that each fragment has.
pub(super) const READ: usize = 16;
/// ICMP, of both families.
pub(super) const ICMP: u8 = ICMP_V4;
