//! Packets by the byte, and what a router makes of them: the reckoning of this test, none of the code under test.

use std::net::IpAddr;

/// A header of IP.
#[derive(Clone)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// Flags and place of a fragment of IPv4.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    /// Options of IPv4, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// Extension headers of IPv6, each with its number; their first byte is filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
}

/// How a checksum is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    Right,
    /// "None" in UDP.
    Zero,
    Wrong,
    /// That of the pseudo-header alone, for whoever finishes it.
    Pseudo,
}

/// A header of TCP.
#[derive(Clone)]
pub(crate) struct Tcp {
    pub(crate) ports: [u16; 2],
    pub(crate) seq: u32,
    pub(crate) flags: u8,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) sum: Sum,
}

pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

impl Ip {
    pub(crate) fn packet(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let head = 20 + self.options.len();
                let mut out = vec![0x40 | (head / 4) as u8, self.tos];
                out.extend(((head + body.len()) as u16).to_be_bytes());
                out.extend(self.id.to_be_bytes());
                out.extend(self.fragment.to_be_bytes());
                out.extend([self.ttl, protocol, 0, 0]);
                out.extend(src.octets());
                out.extend(dst.octets());
                out.extend(&self.options);
                let sum = checksum(&out);
                out[10..12].copy_from_slice(&sum);
                out.extend(body);
                out
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut behind = Vec::new();
                let follows = self.extensions.iter().skip(1).map(|(n, _)| *n);
                for ((_, header), next) in self.extensions.iter().zip(follows.chain([protocol])) {
                    behind.push(next);
                    behind.extend(&header[1..]);
                }
                behind.extend(body);
                let first = self.extensions.first().map_or(protocol, |(n, _)| *n);
                let mut out = vec![0x60 | self.tos >> 4, self.tos << 4, 0x34, 0x56];
                out.extend((behind.len() as u16).to_be_bytes());
                out.extend([first, self.ttl]);
                out.extend(src.octets());
                out.extend(dst.octets());
                out.extend(behind);
                out
            }
            _ => panic!("addresses of two families"),
        }
    }

    /// Fills the checksum in that lies at `at` of the body.
    fn sum(&self, protocol: u8, body: &mut [u8], at: usize, how: Sum) {
        let mut pseudo = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            _ => panic!("addresses of two families"),
        };
        pseudo.extend((body.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        let right = checksum(&[&pseudo[..], body].concat());
        let right = if protocol == UDP && right == [0, 0] {
            [0xff; 2]
        } else {
            right
        };
        let sum = match how {
            Sum::Right => right,
            Sum::Zero => [0, 0],
            Sum::Wrong => [right[0] ^ 0x5a, right[1]],
            Sum::Pseudo => checksum(&pseudo).map(|b| !b),
        };
        body[at..at + 2].copy_from_slice(&sum);
    }

    pub(crate) fn tcp(&self, tcp: &Tcp, payload: &[u8]) -> Vec<u8> {
        let mut body = [tcp.ports[0].to_be_bytes(), tcp.ports[1].to_be_bytes()].concat();
        body.extend(tcp.seq.to_be_bytes());
        body.extend(0x0102_0304u32.to_be_bytes());
        body.extend([
            ((5 + tcp.options.len() / 4) as u8) << 4,
            tcp.flags,
            0x12,
            0x34,
            0,
            0,
        ]);
        body.extend(tcp.urgent.to_be_bytes());
        body.extend(&tcp.options);
        body.extend(payload);
        self.sum(TCP, &mut body, 16, tcp.sum);
        self.packet(TCP, &body)
    }

    pub(crate) fn udp(&self, ports: [u16; 2], sum: Sum, payload: &[u8]) -> Vec<u8> {
        let mut body = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
        body.extend((8 + payload.len() as u16).to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        self.sum(UDP, &mut body, 6, sum);
        self.packet(UDP, &body)
    }

    /// Where the transport's header begins.
    fn len(&self) -> usize {
        match self.src {
            IpAddr::V4(_) => 20 + self.options.len(),
            IpAddr::V6(_) => 40 + self.extensions.iter().map(|(_, h)| h.len()).sum::<usize>(),
        }
    }

    /// A super-packet of TCP with its frame's header, and the segments that it stands for.
    pub(crate) fn tcp_super(
        &self,
        tcp: &Tcp,
        payload: &[u8],
        size: usize,
    ) -> (Vec<u8>, Vec<Vec<u8>>) {
        let head = 20 + tcp.options.len();
        let kind = if self.src.is_ipv4() { 1 } else { 4 };
        let ecn = if tcp.flags & CWR != 0 { 0x80 } else { 0 };
        let whole = Tcp {
            sum: Sum::Pseudo,
            ..tcp.clone()
        };
        let mut frame = self.head(kind | ecn, head, size, 16);
        frame.extend(self.tcp(&whole, payload));
        let (chunks, last) = (payload.chunks(size), payload.len().div_ceil(size) - 1);
        let segments = chunks.enumerate().map(|(n, chunk)| {
            let mut one = tcp.clone();
            one.seq = tcp.seq.wrapping_add((n * size) as u32);
            if n > 0 {
                one.flags &= !CWR;
            }
            if n < last {
                one.flags &= !(FIN | PSH);
            }
            self.nth(n).tcp(&one, chunk)
        });
        (frame, segments.collect())
    }

    /// The same of UDP.
    pub(crate) fn udp_super(
        &self,
        ports: [u16; 2],
        payload: &[u8],
        size: usize,
    ) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut frame = self.head(5, 8, size, 6);
        frame.extend(self.udp(ports, Sum::Pseudo, payload));
        let chunks = payload.chunks(size).enumerate();
        let datagrams = chunks.map(|(n, chunk)| self.nth(n).udp(ports, Sum::Right, chunk));
        (frame, datagrams.collect())
    }

    /// The header of the `n`th packet of those that belong together.
    pub(crate) fn nth(&self, n: usize) -> Self {
        Self {
            id: self.id.wrapping_add(n as u16),
            ..self.clone()
        }
    }

    /// `struct virtio_net_hdr`.
    fn head(&self, kind: u8, head: usize, size: usize, sum: u16) -> Vec<u8> {
        let l4 = self.len();
        let mut out = vec![1, kind];
        for field in [(l4 + head) as u16, size as u16, l4 as u16, sum] {
            out.extend(field.to_ne_bytes());
        }
        out
    }
}

/// What comes of a packet that two routers have forwarded; the identification of one that is never cut may be any, and is 0 here.
pub(crate) fn forwarded(packet: &[u8], routers: u8) -> Vec<u8> {
    let mut out = packet.to_vec();
    if out[0] >> 4 == 6 {
        out[7] -= routers;
        return out;
    }
    let head = usize::from(out[0] & 15) * 4;
    let right = checksum(&out[..head]) == [0, 0];
    out[8] -= routers;
    if out[6] & 0x40 != 0 {
        out[4..6].fill(0);
    }
    out[10..12].fill(if right { 0 } else { 0xff });
    out
}

/// What tells the flows of a packet's addresses apart, as far as their order is promised.
pub(crate) fn flow(packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        let ports = if matches!(packet[6], TCP | UDP) {
            44
        } else {
            40
        };
        return [&packet[6..7], &packet[8..ports]].concat();
    }
    let head = usize::from(packet[0] & 15) * 4;
    let whole = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
    let ports: &[u8] = if whole { &packet[head..head + 4] } else { &[] };
    [&packet[9..10], &packet[12..20], ports].concat()
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
