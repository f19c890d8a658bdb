//! Packets become super-packets again.

use std::ops::Range;

use super::layout::{ACK, PSH, Transport, be16, be32, put16};
use super::vnet::{Checksum, Gso, GsoKind, Vnet};
use crate::sum::Sum;

/// Joins what comes in one batch. Segments of one TCP flow, or datagrams of one UDP flow, that follow each other and differ in
/// nothing but what cutting changes become one frame; all else goes through as it is. The packets of a flow keep their order. What
/// is joined has been summed first: the sum of the whole would hide a wrong one.
#[derive(Debug)]
pub struct Joiner {
    groups: Vec<Group>,
    /// How many of them are in use; the others keep their memory.
    open: usize,
    tcp: bool,
    udp: bool,
}

/// What is to be written to the device: the header, the packet's own headers if it was joined, and where its other bytes lie in
/// the batch.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The frame's header.
    pub vnet: [u8; Vnet::LEN],
    /// New headers of the packet; none if it goes as it is.
    pub head: &'a [u8],
    /// The rest, as ranges of the batch's bytes.
    pub parts: &'a [Range<usize>],
    /// The number of packets that it was made of.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
}

#[derive(Debug, Default)]
struct Group {
    first: Range<usize>,
    shape: Option<Shape>,
    head: Vec<u8>,
    parts: Vec<Range<usize>>,
    bytes: usize,
    payload: usize,
    /// The first packet's checksum was found right.
    summed: bool,
    /// Nothing can be added any more.
    full: bool,
}

/// A packet that may be one of several.
#[derive(Debug, Clone, Copy)]
struct Shape {
    transport: Transport,
    v4: bool,
    l4: usize,
    head: usize,
    payload: usize,
    /// It may be joined to others, or others to it.
    joins: bool,
    /// Its sender wants it to be read at once.
    pushed: bool,
}

impl Joiner {
    /// The most flows that are followed at once.
    pub const FLOWS: usize = 8;
    /// The most packets in a frame: what kernels take of UDP.
    pub const PACKETS: usize = 64;

    /// One that joins what the kernel takes so.
    pub fn new(tcp: bool, udp: bool) -> Self {
        Self {
            groups: Vec::new(),
            open: 0,
            tcp,
            udp,
        }
    }

    /// Stops to join one or the other, from the next batch on.
    pub fn restrict(&mut self, tcp: bool, udp: bool) {
        (self.tcp, self.udp) = (tcp, udp);
    }

    fn joins(&self, shape: &Shape) -> bool {
        match shape.transport {
            Transport::Tcp => self.tcp,
            Transport::Udp => self.udp,
        }
    }

    /// Takes the packet that lies at `at` in `batch`; gives the frames that are complete to `out`. All packets until
    /// [`Joiner::flush`] lie in the same batch.
    pub fn push(&mut self, batch: &[u8], at: Range<usize>, out: &mut impl FnMut(&Frame<'_>)) {
        let packet = &batch[at.clone()];
        let Some(shape) = Shape::of(packet).filter(|shape| self.joins(shape)) else {
            // A fragment, say, of a flow that others belong to.
            self.flush(out);
            return alone(at, out);
        };
        let known = self.groups[..self.open]
            .iter()
            .position(|group| group.is_flow_of(batch, shape, packet));
        if let Some(known) = known {
            if self.groups[known].take(batch, shape, at.clone()) {
                return;
            }
            self.give(known, out);
        }
        if !shape.joins {
            return alone(at, out);
        }
        if self.open == Self::FLOWS {
            self.give(0, out);
        }
        if self.open == self.groups.len() {
            self.groups.push(Group::default());
        }
        self.groups[self.open].begin(shape, at);
        self.open += 1;
    }

    /// Gives the rest, in the order of first packets.
    pub fn flush(&mut self, out: &mut impl FnMut(&Frame<'_>)) {
        for group in &mut self.groups[..self.open] {
            group.give(out);
        }
        self.open = 0;
    }

    fn give(&mut self, n: usize, out: &mut impl FnMut(&Frame<'_>)) {
        self.groups[n].give(out);
        self.groups[n..self.open].rotate_left(1);
        self.open -= 1;
    }
}

impl Group {
    fn begin(&mut self, shape: Shape, at: Range<usize>) {
        self.head.clear();
        self.parts.clear();
        self.bytes = at.len();
        self.payload = shape.payload;
        self.parts.push(at.clone());
        (self.first, self.shape) = (at, Some(shape));
        (self.summed, self.full) = (false, shape.pushed);
    }

    fn is_flow_of(&self, batch: &[u8], shape: Shape, packet: &[u8]) -> bool {
        let first = &batch[self.first.clone()];
        self.shape.is_some_and(|own| {
            let (ours, theirs) = (own.ends(first), shape.ends(packet));
            own.transport == shape.transport && own.v4 == shape.v4 && ours == theirs
        })
    }

    /// Adds a packet of this flow, if it can follow; `false` if not.
    fn take(&mut self, batch: &[u8], shape: Shape, at: Range<usize>) -> bool {
        let Some(own) = self.shape else { return false };
        let (first, packet) = (&batch[self.first.clone()], &batch[at.clone()]);
        if self.full
            || !shape.joins
            || shape.payload > own.payload
            || self.parts.len() >= Joiner::PACKETS
            || own.head + self.payload + shape.payload > MAX_LEN
            || !self.follows(own, first, packet)
            || !(self.summed || own.is_right(first))
        {
            return false;
        }
        self.summed = true;
        if !shape.is_right(packet) {
            return false;
        }
        if self.parts.len() == 1 {
            self.head.extend_from_slice(&first[..own.head]);
            self.parts[0].start += own.head;
        }
        if shape.pushed {
            self.head[own.l4 + 13] |= PSH;
        }
        self.full = shape.pushed || shape.payload < own.payload;
        self.bytes += at.len();
        self.payload += shape.payload;
        self.parts.push(at.start + shape.head..at.end);
        true
    }

    /// Whether a packet of the same flow is what cutting would make behind those that are here.
    fn follows(&self, own: Shape, first: &[u8], packet: &[u8]) -> bool {
        let (l4, head) = (own.l4, own.head);
        // Both have headers of these lengths: IP has no options, and what follows compares TCP's.
        let same = |range: Range<usize>| first[range.clone()] == packet[range];
        let ip = if own.v4 {
            // Packets that are never cut may all have one identification (RFC 6864).
            let next = be16(first, 4).wrapping_add(self.parts.len() as u16);
            let id = be16(packet, 4) == next || packet[6] & DONT_FRAGMENT != 0 && same(4..6);
            same(1..2) && same(6..7) && same(8..9) && id
        } else {
            same(0..4) && same(7..8)
        };
        ip && match own.transport {
            Transport::Udp => true,
            Transport::Tcp => {
                let next = be32(first, l4 + 4).wrapping_add(self.payload as u32);
                be32(packet, l4 + 4) == next
                    && packet.len() > head
                    && same(l4 + 8..l4 + 13)
                    && same(l4 + 14..l4 + 16)
                    && same(l4 + 18..head)
            }
        }
    }

    fn give(&mut self, out: &mut impl FnMut(&Frame<'_>)) {
        let Some(shape) = self.shape.take() else {
            return;
        };
        if self.parts.len() == 1 {
            return alone(self.first.clone(), out);
        }
        let vnet = shape.finish(&mut self.head, self.payload).encode();
        out(&Frame {
            vnet,
            head: &self.head,
            parts: &self.parts,
            packets: self.parts.len(),
            bytes: self.bytes,
        });
    }
}

impl Shape {
    /// `None`: neither TCP nor UDP, or with IP options, extension headers or fragmented.
    fn of(packet: &[u8]) -> Option<Self> {
        let (v4, l4, number) = match packet.first()? {
            0x45 if packet.len() >= 20 && be16(packet, 6) & FRAGMENT == 0 => (true, 20, packet[9]),
            first if first >> 4 == 6 && packet.len() >= 40 => (false, 40, packet[6]),
            _ => return None,
        };
        let transport = [Transport::Tcp, Transport::Udp]
            .into_iter()
            .find(|t| t.number() == number)?;
        let head = l4 + transport.len(packet, l4)?;
        let payload = packet.len() - head;
        let joins = payload > 0
            && match transport {
                Transport::Tcp => packet[l4 + 13] & !PSH == ACK,
                Transport::Udp => {
                    be16(packet, l4 + 6) != 0 && usize::from(be16(packet, l4 + 4)) == 8 + payload
                }
            };
        Some(Self {
            transport,
            v4,
            l4,
            head,
            payload,
            joins,
            pushed: transport == Transport::Tcp && packet[l4 + 13] & PSH != 0,
        })
    }

    /// Addresses and ports.
    fn ends<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[if self.v4 { 12 } else { 8 }..self.l4 + 4]
    }

    fn pseudo(&self, packet: &[u8], len: usize) -> Sum {
        // An IP packet's length.
        let len = len as u16;
        let addresses = &packet[if self.v4 { 12 } else { 8 }..self.l4];
        let number = u16::from(self.transport.number());
        Sum::default().bytes(addresses).field(number).field(len)
    }

    /// Whether its lengths and checksums are right.
    fn is_right(&self, packet: &[u8]) -> bool {
        let whole = if self.v4 {
            usize::from(be16(packet, 2)) == packet.len()
                && Sum::default().bytes(&packet[..self.l4]).is_right()
        } else {
            usize::from(be16(packet, 4)) + self.l4 == packet.len()
        };
        let sum = self.pseudo(packet, packet.len() - self.l4);
        whole && sum.bytes(&packet[self.l4..]).is_right()
    }

    /// Makes the headers of the first packet those of all.
    fn finish(&self, head: &mut [u8], payload: usize) -> Vnet {
        // `take` keeps it below MAX_LEN.
        let (all, len) = (
            (head.len() + payload) as u16,
            head.len() - self.l4 + payload,
        );
        if self.v4 {
            put16(head, 2, all);
            put16(head, 10, 0);
            let sum = Sum::default().bytes(&head[..self.l4]).checksum();
            head[10..12].copy_from_slice(&sum);
        } else {
            put16(head, 4, all - 40);
        }
        let kind = match (self.transport, self.v4) {
            (Transport::Tcp, true) => GsoKind::Tcp4,
            (Transport::Tcp, false) => GsoKind::Tcp6,
            (Transport::Udp, _) => {
                put16(head, self.l4 + 4, len as u16);
                GsoKind::Udp
            }
        };
        let field = self.l4 + self.transport.checksum();
        let pseudo = self.pseudo(head, len).folded();
        head[field..field + 2].copy_from_slice(&pseudo);
        Vnet {
            gso: Some(Gso {
                kind,
                size: self.payload as u16,
            }),
            checksum: Some(Checksum {
                start: self.l4 as u16,
                offset: self.transport.checksum() as u16,
            }),
            head: head.len() as u16,
        }
    }
}

fn alone(at: Range<usize>, out: &mut impl FnMut(&Frame<'_>)) {
    out(&Frame {
        vnet: [0; Vnet::LEN],
        head: &[],
        packets: 1,
        bytes: at.len(),
        parts: &[at],
    });
}

/// The most bytes of an IP packet.
const MAX_LEN: usize = 65_535;
/// Of IPv4's byte 6.
const DONT_FRAGMENT: u8 = 0x40;
/// Of IPv4's bytes 6 and 7: "more fragments" and the place.
const FRAGMENT: u16 = 0x3fff;
