//! The bytes before the payload of each PDU (docs/protocol.md). Nothing here knows a key or a link.

use std::time::Duration;

use proto::{Addr, EndpointId};

use crate::crypt::{Handshake, Versions};

/// What the first byte of a PDU on an N-1 flow says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Handshake,
    Sealed,
}

/// What lies inside a sealed PDU.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inner<'a> {
    Direct(Direct, &'a mut [u8]),
    /// The whole of it, since a forwarder sends it on as it is.
    Routed(Routed, &'a mut [u8]),
    LinkChannel(&'a [u8]),
    Hello(Hello),
    RoutedHandshake(RoutedHandshake, &'a mut [u8]),
    /// Of the link that it came over: fresh keys, agreed on under the cover of the old ones.
    LinkHandshake(&'a mut [u8]),
    /// A probe of the path or an answer to one, the size that it names, and how long all of it is.
    Probe(Probe, u32, usize),
}

/// The header of a flow's PDU between neighbours; endpoint 0 is the peer channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Direct {
    pub(super) flags: u8,
    pub(super) cube: u8,
    pub(super) endpoint: EndpointId,
}

/// The header of a flow's PDU that is sealed end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Routed {
    pub(super) flags: u8,
    pub(super) cube: u8,
    pub(super) ttl: u8,
    pub(super) dst: Addr,
    pub(super) src: Addr,
    pub(super) endpoint: EndpointId,
    pub(super) session: u32,
    pub(super) counter: u64,
}

/// A sign of life; its times are microseconds of the clock of who wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hello {
    /// How long until the next one goes, for now; in steps of [`HELLO_STEP`], 0: not said.
    pub(super) interval: Duration,
    /// An answer is wanted now.
    pub(super) asks: bool,
    /// How many of the other side's newest hellos did not come, of 255.
    pub(super) lost: u8,
    pub(super) sequence: u32,
    pub(super) time: u64,
    pub(super) echo: u64,
    pub(super) held: u32,
}

/// What finds out how large a packet a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// Padded to the size that it names.
    Asks,
    /// One of that size has come.
    Answers,
}

/// The header of a handshake PDU on its way through other members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoutedHandshake {
    pub(super) ttl: u8,
    pub(super) dst: Addr,
    pub(super) src: Addr,
}

impl Kind {
    /// The first byte of a handshake PDU, in every version: it is there that the versions are agreed on.
    pub(super) const HANDSHAKE: u8 = 0x11;
    /// The first byte of a sealed PDU of version 1.
    pub(super) const SEALED: u8 = 0x12;

    pub(super) fn of(pdu: &[u8]) -> Option<Self> {
        match *pdu.first()? {
            Self::HANDSHAKE => Some(Self::Handshake),
            first if first & 0x0f == Self::SEALED & 0x0f && first >> 4 > 0 => Some(Self::Sealed),
            _ => None,
        }
    }
}

/// The session of a handshake PDU, and whether it stands at the initial level.
pub(super) fn handshake_session(pdu: &[u8]) -> Option<(u32, bool)> {
    let head: &[u8; HANDSHAKE_LEN] = pdu.first_chunk()?;
    (head[0] == Kind::HANDSHAKE).then(|| (u32_at(head, 2), head[1] == 0))
}

/// The session of a sealed PDU, and its version.
pub(super) fn sealed_session(pdu: &[u8]) -> Option<(u32, u8)> {
    let head: &[u8; SEALED_LEN] = pdu.first_chunk()?;
    let sealed = Kind::of(head) == Some(Kind::Sealed) && head[1..4] == [0; 3];
    sealed.then(|| (u32_at(head, 4), head[0] >> 4))
}

/// Writes the header of a sealed PDU; its counter is for who seals.
pub(super) fn write_sealed(header: &mut [u8], version: u8, session: u32) {
    header[..4].copy_from_slice(&[version << 4 | Kind::SEALED & 0x0f, 0, 0, 0]);
    header[4..8].copy_from_slice(&session.to_be_bytes());
    header[8..16].fill(0);
}

/// Notes in a flow's PDU, before it is sealed for the next hop, that it met congestion.
pub(super) fn mark_congestion(body: &mut [u8]) {
    if let [DIRECT | ROUTED, flags, ..] = body {
        *flags |= CONGESTION;
    }
}

impl<'a> Inner<'a> {
    /// Notes that it met congestion, if it is a flow's, of a cube that reacts. Says whether it is.
    pub(super) fn mark_congestion(&mut self, reacts: impl Fn(u8) -> bool) -> bool {
        let reacts = |endpoint: EndpointId, cube| endpoint != EndpointId(0) && reacts(cube);
        if let Self::Direct(header, _) = self
            && reacts(header.endpoint, header.cube)
        {
            header.flags |= CONGESTION;
            return true;
        }
        if let Self::Routed(header, body) = self
            && reacts(header.endpoint, header.cube)
        {
            header.flags |= CONGESTION;
            mark_congestion(body);
            return true;
        }
        false
    }

    /// Reads what was opened; `None` for anything malformed.
    pub(super) fn parse(body: &'a mut [u8]) -> Option<Self> {
        Some(match *body.first()? {
            DIRECT => {
                let (head, payload) = body.split_at_mut_checked(Direct::LEN)?;
                let direct = Direct {
                    flags: head[1],
                    cube: head[2],
                    endpoint: EndpointId(u64_at(head, 4)),
                };
                Self::Direct(direct, payload)
            }
            ROUTED => Self::Routed(Routed::parse(body)?, body),
            LINK_CHANNEL => Self::LinkChannel(&body[1..]),
            HELLO => Self::Hello(Hello::parse(body)?),
            ROUTED_HANDSHAKE => {
                let (head, pdu) = body.split_at_mut_checked(RoutedHandshake::LEN)?;
                let header = RoutedHandshake {
                    ttl: head[3],
                    dst: Addr(u64_at(head, 4)),
                    src: Addr(u64_at(head, 12)),
                };
                Self::RoutedHandshake(header, pdu)
            }
            kind @ (PROBE | PROBED) => {
                let &[_, a, b, c] = body.first_chunk::<{ Probe::LEN }>()?;
                let probe = if kind == PROBE {
                    Probe::Asks
                } else {
                    Probe::Answers
                };
                Self::Probe(probe, u32::from_be_bytes([0, a, b, c]), body.len())
            }
            LINK_HANDSHAKE => {
                let (head, pdu) = body.split_at_mut_checked(LINK_HANDSHAKE_LEN)?;
                (head[1..] == [0; LINK_HANDSHAKE_LEN - 1]).then_some(Self::LinkHandshake(pdu))?
            }
            _ => return None,
        })
    }
}

impl Direct {
    pub(super) const LEN: usize = 12;

    pub(super) fn write(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&[DIRECT, self.flags, self.cube, 0]);
        to[4..12].copy_from_slice(&self.endpoint.0.to_be_bytes());
    }
}

impl Routed {
    pub(super) const LEN: usize = 40;
    /// Bytes of [`Routed::aad`].
    pub(super) const AAD: usize = 37;

    fn parse(body: &[u8]) -> Option<Self> {
        let head: &[u8; Self::LEN] = body.first_chunk()?;
        Some(Self {
            flags: head[1],
            cube: head[2],
            ttl: head[3],
            dst: Addr(u64_at(head, 4)),
            src: Addr(u64_at(head, 12)),
            endpoint: EndpointId(u64_at(head, 20)),
            session: u32_at(head, 28),
            counter: u64_at(head, 32),
        })
    }

    pub(super) fn write(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&[ROUTED, self.flags, self.cube, self.ttl]);
        to[4..12].copy_from_slice(&self.dst.0.to_be_bytes());
        to[12..20].copy_from_slice(&self.src.0.to_be_bytes());
        to[20..28].copy_from_slice(&self.endpoint.0.to_be_bytes());
        to[28..32].copy_from_slice(&self.session.to_be_bytes());
        to[32..40].copy_from_slice(&self.counter.to_be_bytes());
    }

    /// What the seal between the two ends covers besides the payload: all but TTL and flags, which change on the way.
    pub(super) fn aad(&self) -> [u8; Self::AAD] {
        let mut whole = [0; Self::LEN];
        self.write(&mut whole);
        let mut aad = [0; Self::AAD];
        aad[0] = self.cube;
        aad[1..].copy_from_slice(&whole[4..]);
        aad
    }

    /// Writes another TTL into a PDU that is sent on.
    pub(super) fn set_ttl(pdu: &mut [u8], ttl: u8) {
        pdu[3] = ttl;
    }
}

impl Hello {
    pub(super) const LEN: usize = 28;

    fn parse(body: &[u8]) -> Option<Self> {
        let head: &[u8; Self::LEN] = body.first_chunk()?;
        Some(Self {
            interval: HELLO_STEP * u32::from(head[1]),
            asks: head[2] & ASKS != 0,
            lost: head[3],
            sequence: u32_at(head, 4),
            time: u64_at(head, 8),
            echo: u64_at(head, 16),
            held: u32_at(head, 24),
        })
    }

    /// Writes the hello; whatever room is left becomes padding.
    pub(super) fn write(&self, to: &mut [u8]) {
        let steps = self.interval.as_millis() / HELLO_STEP.as_millis();
        let steps = u8::try_from(steps).unwrap_or(u8::MAX);
        let asks = if self.asks { ASKS } else { 0 };
        to[..4].copy_from_slice(&[HELLO, steps, asks, self.lost]);
        to[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        to[8..16].copy_from_slice(&self.time.to_be_bytes());
        to[16..24].copy_from_slice(&self.echo.to_be_bytes());
        to[24..28].copy_from_slice(&self.held.to_be_bytes());
        to[28..].fill(0);
    }
}

impl Probe {
    pub(super) const LEN: usize = 4;

    /// Writes it; whatever room is left becomes padding. The size is below 2²⁴.
    pub(super) fn write(self, size: u32, to: &mut [u8]) {
        to.fill(0);
        to[..Self::LEN].copy_from_slice(&size.to_be_bytes());
        to[0] = match self {
            Self::Asks => PROBE,
            Self::Answers => PROBED,
        };
    }
}

impl RoutedHandshake {
    pub(super) const LEN: usize = 20;

    pub(super) fn write(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&[ROUTED_HANDSHAKE, 0, 0, self.ttl]);
        to[4..12].copy_from_slice(&self.dst.0.to_be_bytes());
        to[12..20].copy_from_slice(&self.src.0.to_be_bytes());
    }
}

/// Whether what was opened is somebody's traffic, and not what two neighbours say to keep their link.
pub(super) fn is_traffic(body: &[u8]) -> bool {
    matches!(body.first(), Some(&(DIRECT | ROUTED | ROUTED_HANDSHAKE)))
}

/// Whether what was opened is a flow's, and not what two members say to each other.
pub(super) fn is_flows(body: &[u8]) -> bool {
    let at = match body.first() {
        Some(&DIRECT) => 4,
        Some(&ROUTED) => 20,
        _ => return false,
    };
    body.get(at..at + 8)
        .is_some_and(|endpoint| endpoint != [0; 8])
}

/// Writes the type of a frame of the link channel.
pub(super) fn write_link_channel(to: &mut [u8]) {
    to[0] = LINK_CHANNEL;
}

/// Writes the header of a handshake of the link itself.
pub(super) fn write_link_handshake(to: &mut [u8]) {
    to[..LINK_HANDSHAKE_LEN].copy_from_slice(&[LINK_HANDSHAKE, 0, 0, 0]);
}

/// Reads bytes as everything that a PDU can be, for a fuzzer; how many of the readings make sense.
pub fn decode_pdu(bytes: &[u8]) -> usize {
    let outer = [
        Kind::of(bytes).is_some(),
        handshake_session(bytes).is_some(),
        sealed_session(bytes).is_some(),
        Handshake::introduction_of(bytes).is_some(),
        Versions::parse(bytes).is_some(),
        super::critical::read(bytes).is_ok(),
    ];
    let inner = Inner::parse(&mut bytes.to_vec()).is_some();
    outer.iter().filter(|read| **read).count() + usize::from(inner)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(out)
}

/// Bytes of the header of a handshake PDU.
pub(super) const HANDSHAKE_LEN: usize = 10;
/// Bytes of the header of a sealed PDU.
pub(super) const SEALED_LEN: usize = 16;
/// Bytes that every AEAD adds behind.
pub(super) const TAG_LEN: usize = 16;
/// Bytes of the header of a sealed handshake of the link itself.
pub(super) const LINK_HANDSHAKE_LEN: usize = 4;
/// What a sealed PDU has around its inside.
pub(super) const HOP_OVERHEAD: usize = SEALED_LEN + TAG_LEN;
/// What a direct PDU has around the payload of its flow.
pub(super) const DIRECT_OVERHEAD: usize = HOP_OVERHEAD + Direct::LEN;
/// What a routed PDU has around the payload of its flow, all seals counted.
pub(super) const ROUTED_OVERHEAD: usize = HOP_OVERHEAD + Routed::LEN + TAG_LEN;
/// The TTL that a PDU starts with.
pub(super) const TTL: u8 = 64;

const DIRECT: u8 = 1;
const ROUTED: u8 = 2;
const LINK_CHANNEL: u8 = 3;
const HELLO: u8 = 4;
/// The unit of the interval in a hello.
const HELLO_STEP: Duration = Duration::from_millis(50);
/// The flag of a hello that wants an answer.
const ASKS: u8 = 1;
const ROUTED_HANDSHAKE: u8 = 5;
/// Of the flags: congestion was met.
pub(super) const CONGESTION: u8 = 1;
const LINK_HANDSHAKE: u8 = 6;
const PROBE: u8 = 7;
const PROBED: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::row;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_direct_header_is_read_back(flags: u8, cube: u8, endpoint: u64, payload: Vec<u8>) {
            let header = Direct { flags, cube, endpoint: EndpointId(endpoint) };
            let mut body = vec![0; Direct::LEN];
            header.write(&mut body);
            body.extend(&payload);
            prop_assert_eq!(Inner::parse(&mut body), Some(Inner::Direct(header, &mut payload.clone())));
        }

        #[test]
        fn a_routed_header_is_read_back_and_its_seal_covers_all_but_ttl_and_flags(
            flags: u8, cube: u8, ttl: u8, dst: u64, src: u64, endpoint: u64, session: u32, counter: u64, other: u8,
        ) {
            let header =
                Routed { flags, cube, ttl, dst: Addr(dst), src: Addr(src), endpoint: EndpointId(endpoint), session, counter };
            let mut body = vec![0; Routed::LEN + 5];
            header.write(&mut body);
            Routed::set_ttl(&mut body, other);
            let Some(Inner::Routed(read, _)) = Inner::parse(&mut body) else { panic!("not routed") };
            prop_assert_eq!(read, Routed { ttl: other, ..header });
            prop_assert_eq!(read.aad(), header.aad());
            let next = Routed { counter: counter.wrapping_add(1), ..header };
            prop_assert_ne!(next.aad(), header.aad());
        }

        #[test]
        fn a_hello_is_read_back_whatever_its_padding(
            (steps, asks, lost) in any::<(u8, bool, u8)>(), (sequence, time) in any::<(u32, u64)>(),
            (echo, held) in any::<(u64, u32)>(), padding in 0usize..100,
        ) {
            let interval = HELLO_STEP * u32::from(steps);
            let hello = Hello { interval, asks, lost, sequence, time, echo, held };
            let mut body = vec![0xff; Hello::LEN + padding];
            hello.write(&mut body);
            prop_assert_eq!(Inner::parse(&mut body), Some(Inner::Hello(hello)));
        }

        #[test]
        fn a_routed_handshake_is_read_back(ttl: u8, dst: u64, src: u64, pdu: Vec<u8>) {
            let header = RoutedHandshake { ttl, dst: Addr(dst), src: Addr(src) };
            let mut body = vec![0; RoutedHandshake::LEN];
            header.write(&mut body);
            body.extend(&pdu);
            prop_assert_eq!(Inner::parse(&mut body), Some(Inner::RoutedHandshake(header, &mut pdu.clone())));
        }

        #[test]
        fn a_probe_is_read_back_with_its_length(size in 0u32..1 << 24, padding in 0usize..100) {
            for probe in [Probe::Asks, Probe::Answers] {
                let mut body = vec![0xff; Probe::LEN + padding];
                probe.write(size, &mut body);
                let read = Inner::Probe(probe, size, Probe::LEN + padding);
                prop_assert_eq!(Inner::parse(&mut body), Some(read));
            }
        }

        #[test]
        fn a_handshake_of_the_link_is_read_back(pdu: Vec<u8>) {
            let mut body = vec![0xff; LINK_HANDSHAKE_LEN];
            write_link_handshake(&mut body);
            body.extend(&pdu);
            prop_assert_eq!(Inner::parse(&mut body), Some(Inner::LinkHandshake(&mut pdu.clone())));
            body[1] = 1;
            prop_assert_eq!(Inner::parse(&mut body), None);
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..10) {
            let _ = (Kind::of(&bytes), handshake_session(&bytes), sealed_session(&bytes));
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = Inner::parse(&mut bytes);
        }
    }

    #[test]
    fn a_sealed_header_names_its_session() {
        let mut header = [0xff; SEALED_LEN];
        write_sealed(&mut header, 1, 0x0102_0304);
        assert_eq!(sealed_session(&header), Some((0x0102_0304, 1)));
        write_sealed(&mut header, 2, 0x0102_0304);
        assert_eq!(
            (header[0], sealed_session(&header)),
            (0x22, Some((0x0102_0304, 2)))
        );
        assert_eq!(Kind::of(&header), Some(Kind::Sealed));
        assert_eq!(sealed_session(&header[..15]), None);
    }

    /// The table of docs/protocol.md.
    #[test]
    fn every_header_has_the_bytes_of_the_protocol() {
        fn bytes(len: usize, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
            let mut bytes = vec![0xff; len];
            write(&mut bytes);
            bytes
        }
        let (dst, src, endpoint) = (Addr(1), Addr(2), EndpointId(3));
        let direct = Direct {
            flags: 1,
            cube: 1,
            endpoint: EndpointId(5),
        };
        let routed = Routed {
            flags: 1,
            cube: 1,
            ttl: TTL,
            dst,
            src,
            endpoint,
            session: 4,
            counter: 5,
        };
        let hello = Hello {
            interval: Duration::from_millis(250),
            asks: true,
            lost: 51,
            sequence: 1,
            time: 2,
            echo: 3,
            held: 4,
        };
        let handshake = RoutedHandshake { ttl: TTL, dst, src };
        let routed_handshake = bytes(RoutedHandshake::LEN, |to| handshake.write(to));
        let made = [
            (
                "sealed header",
                bytes(SEALED_LEN, |to| write_sealed(to, 1, 0x0102_0304)),
            ),
            ("direct", bytes(Direct::LEN, |to| direct.write(to))),
            ("routed, flags", bytes(Routed::LEN, |to| routed.write(to))),
            ("AAD of that", routed.aad().to_vec()),
            ("hello", bytes(Hello::LEN, |to| hello.write(to))),
            ("routed handshake", routed_handshake),
            ("link handshake", bytes(4, write_link_handshake)),
        ];
        for (what, made) in made {
            assert_eq!([made], row(what), "{what}");
        }
        let asks = bytes(8, |to| Probe::Asks.write(1500, to));
        let answers = bytes(4, |to| Probe::Answers.write(1500, to));
        assert_eq!([asks, answers], row("probe of 1500 bytes"));
        assert_eq!(bytes(1, write_link_channel), [3]);
    }

    #[test]
    fn the_overheads_are_those_of_the_protocol() {
        assert_eq!((DIRECT_OVERHEAD, ROUTED_OVERHEAD), (44, 88));
    }
}
