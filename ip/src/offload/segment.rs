//! One super-packet becomes packets.

use super::layout::{CWR, FIN, PSH, Transport, be16, be32, put16};
use super::vnet::{BadFrame, Checksum, Gso, GsoKind, Vnet};
use crate::sum::Sum;

/// The packets of one frame, in order; made one by one, each where it is to lie, so that the making can pause at a full buffer
/// and go on in the next. A frame that is no super-packet is one packet, whose checksum is made if it is missing.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    packet: &'a [u8],
    cut: Cut,
    /// Bytes of payload in all segments but the last.
    size: usize,
    /// Where the payload of the next begins; behind the end of the packet when all are made.
    at: usize,
    made: u16,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Not at all.
    Whole(Option<Checksum>),
    Between(Cutting),
}

#[derive(Debug, Clone, Copy)]
struct Cutting {
    transport: Transport,
    v4: bool,
    /// Where the header of the transport begins.
    l4: usize,
    /// Where the payload begins.
    head: usize,
    /// The sum of that of each segment's checksum which is the same for all.
    common: Sum,
}

impl<'a> Segments<'a> {
    /// The packets of a frame. The packet must be as long as its own header says; the frame's header is not believed.
    pub fn new(vnet: &Vnet, packet: &'a [u8]) -> Result<Self, BadFrame> {
        if let Some(gso) = vnet.gso {
            return Self::cutting(gso, vnet.checksum, packet);
        }
        if let Some(Checksum { start, offset }) = vnet.checksum
            && (usize::from(start) < header(packet)
                || usize::from(start) + usize::from(offset) + 2 > packet.len())
        {
            return Err(BadFrame::Contradiction);
        }
        Ok(Self {
            packet,
            cut: Cut::Whole(vnet.checksum),
            size: packet.len(),
            at: 0,
            made: 0,
        })
    }

    fn cutting(gso: Gso, checksum: Option<Checksum>, packet: &'a [u8]) -> Result<Self, BadFrame> {
        let bad = BadFrame::Contradiction;
        let (transport, v4) = match (gso.kind, packet.first().map(|b| b >> 4)) {
            (GsoKind::Tcp4, Some(4)) => (Transport::Tcp, true),
            (GsoKind::Tcp6, Some(6)) => (Transport::Tcp, false),
            (GsoKind::Udp, Some(version @ (4 | 6))) => (Transport::Udp, version == 4),
            _ => return Err(bad),
        };
        let checksum = checksum.ok_or(bad)?;
        let l4 = usize::from(checksum.start);
        if usize::from(checksum.offset) != transport.checksum()
            || !begins(packet, v4, l4, transport)
        {
            return Err(bad);
        }
        let head = l4 + transport.len(packet, l4).ok_or(bad)?;
        if head == packet.len() {
            return Err(bad);
        }
        // The field holds the pseudo-header's sum with the length of the whole.
        let whole = (packet.len() - l4) as u16; // an IP packet has at most 65,535 bytes and 40 more
        let common = Sum::default()
            .field(be16(packet, l4 + transport.checksum()))
            .without(whole);
        Ok(Self {
            packet,
            cut: Cut::Between(Cutting {
                transport,
                v4,
                l4,
                head,
                common,
            }),
            size: usize::from(gso.size),
            at: head,
            made: 0,
        })
    }

    /// What they are made of, with the headers of the first.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The bytes of the next packet; `None`: there is none.
    pub fn next_len(&self) -> Option<usize> {
        let left = self.packet.len().checked_sub(self.at).filter(|n| *n > 0)?;
        Some(match self.cut {
            Cut::Whole(_) => left,
            Cut::Between(cut) => cut.head + left.min(self.size),
        })
    }

    /// The bytes of the longest of all packets.
    pub fn longest(&self) -> usize {
        match self.cut {
            Cut::Whole(_) => self.packet.len(),
            Cut::Between(cut) => cut.head + self.size.min(self.packet.len() - cut.head),
        }
    }

    /// How many packets there are in all.
    pub fn packets(&self) -> usize {
        match self.cut {
            Cut::Whole(_) => 1,
            Cut::Between(cut) => (self.packet.len() - cut.head).div_ceil(self.size),
        }
    }

    /// Makes the next packet in `out`, which must have [`Segments::next_len`] bytes; does nothing otherwise.
    pub fn write(&mut self, out: &mut [u8]) {
        if self.next_len() != Some(out.len()) {
            debug_assert!(false, "the room is not as long as the packet");
            return;
        }
        match self.cut {
            Cut::Whole(checksum) => {
                out.copy_from_slice(self.packet);
                if let Some(checksum) = checksum {
                    complete(out, checksum);
                }
                self.at = self.packet.len();
            }
            Cut::Between(cut) => {
                let end = self.at + out.len() - cut.head;
                let (head, payload) = out.split_at_mut(cut.head);
                head.copy_from_slice(&self.packet[..cut.head]);
                payload.copy_from_slice(&self.packet[self.at..end]);
                let before = self.at - cut.head;
                cut.adapt(out, self.made, before as u32, end == self.packet.len());
                self.at = end;
                self.made = self.made.wrapping_add(1);
            }
        }
    }
}

/// The packets that are left, each in memory of its own: for where they are few.
impl Iterator for Segments<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![0; self.next_len()?];
        self.write(&mut packet);
        Some(packet)
    }
}

impl Cutting {
    /// Makes the headers of the `n`th segment right, `before` bytes of payload behind the beginning.
    fn adapt(&self, out: &mut [u8], n: u16, before: u32, last: bool) {
        // Not longer than the super-packet, whose lengths fit 16 bits.
        let (len, l4) = (out.len() as u16, self.l4);
        if self.v4 {
            put16(out, 2, len);
            put16(out, 4, be16(out, 4).wrapping_add(n));
            put16(out, 10, 0);
            let sum = Sum::default().bytes(&out[..l4]).checksum();
            out[10..12].copy_from_slice(&sum);
        } else {
            put16(out, 4, len - 40);
        }
        match self.transport {
            Transport::Tcp => {
                let seq = be32(out, l4 + 4).wrapping_add(before);
                out[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
                if !last {
                    out[l4 + 13] &= !(FIN | PSH);
                }
                if n > 0 {
                    out[l4 + 13] &= !CWR;
                }
            }
            Transport::Udp => put16(out, l4 + 4, len - l4 as u16),
        }
        let field = l4 + self.transport.checksum();
        put16(out, field, 0);
        let sum = self.common.field(len - l4 as u16).bytes(&out[l4..]);
        put_checksum(out, field, sum, self.transport == Transport::Udp);
    }
}

/// Makes a checksum whose field holds the sum of the pseudo-header. The place lies in the packet.
fn complete(packet: &mut [u8], Checksum { start, offset }: Checksum) {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let sum = Sum::default().bytes(&packet[start..]);
    put_checksum(
        packet,
        start + offset,
        sum,
        offset == Transport::Udp.checksum(),
    );
}

fn put_checksum(packet: &mut [u8], at: usize, sum: Sum, udp: bool) {
    let checksum = match sum.checksum() {
        // "No checksum" in UDP (RFC 768).
        [0, 0] if udp => [0xff, 0xff],
        other => other,
    };
    packet[at..at + 2].copy_from_slice(&checksum);
}

/// The least bytes of the header of IP: what is judged of a packet stays as it is.
fn header(packet: &[u8]) -> usize {
    match packet.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 0x0f) * 4,
        Some(first) if first >> 4 == 6 => 40,
        _ => 0,
    }
}

/// Whether the transport's header can begin there.
fn begins(packet: &[u8], v4: bool, l4: usize, transport: Transport) -> bool {
    if v4 {
        packet.len() >= 20
            && l4 == usize::from(packet[0] & 0x0f) * 4
            && l4 >= 20
            && packet[9] == transport.number()
    } else {
        // Behind extension headers, which the kernel has walked.
        packet.len() >= 40 && (l4 > 40 || l4 == 40 && packet[6] == transport.number())
    }
}
