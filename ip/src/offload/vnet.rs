//! The header in front of each frame: `struct virtio_net_hdr` (virtio 1.2 §5.1.6), ten bytes, in the order of the machine.

/// What the header says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vnet {
    /// The frame is a super-packet.
    pub gso: Option<Gso>,
    /// A checksum is missing.
    pub checksum: Option<Checksum>,
    /// How long the headers are; a hint that is written and never read.
    pub head: u16,
}

/// How a super-packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Of what.
    pub kind: GsoKind,
    /// Bytes of payload in each segment but the last, which may have less; not 0.
    pub size: u16,
}

/// What a super-packet is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
}

/// A checksum that is missing: its field holds the sum of the pseudo-header, not inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    /// Where that begins which is summed, in bytes from the beginning of the packet.
    pub start: u16,
    /// Where the field lies, in bytes from there.
    pub offset: u16,
}

/// Why a frame can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// A way of cutting that was not asked for.
    #[error("segmentation of an unknown kind")]
    Kind,
    /// Lengths that don't fit each other or the packet.
    #[error("the frame's header contradicts its packet")]
    Contradiction,
}

impl Vnet {
    /// The bytes of the header.
    pub const LEN: usize = 10;

    /// Reads a header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, BadFrame> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        let checksum = (flags & NEEDS_CHECKSUM != 0).then(|| Checksum {
            start: u16::from_ne_bytes([c0, c1]),
            offset: u16::from_ne_bytes([o0, o1]),
        });
        let kind = match kind & !ECN {
            NONE => None,
            TCP4 => Some(GsoKind::Tcp4),
            TCP6 => Some(GsoKind::Tcp6),
            UDP => Some(GsoKind::Udp),
            _ => return Err(BadFrame::Kind),
        };
        let size = u16::from_ne_bytes([s0, s1]);
        if kind.is_some() && (size == 0 || checksum.is_none()) {
            return Err(BadFrame::Contradiction);
        }
        let gso = kind.map(|kind| Gso { kind, size });
        let head = u16::from_ne_bytes([h0, h1]);
        Ok(Self {
            gso,
            checksum,
            head,
        })
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let kind = self.gso.map_or(NONE, |gso| match gso.kind {
            GsoKind::Tcp4 => TCP4,
            GsoKind::Tcp6 => TCP6,
            GsoKind::Udp => UDP,
        });
        let [h0, h1] = self.head.to_ne_bytes();
        let [s0, s1] = self.gso.map_or(0, |gso| gso.size).to_ne_bytes();
        let checksum = self.checksum.map(|c| (c.start, c.offset));
        let (start, offset) = checksum.unwrap_or_default();
        let ([c0, c1], [o0, o1]) = (start.to_ne_bytes(), offset.to_ne_bytes());
        let flags = if checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

const NEEDS_CHECKSUM: u8 = 1;
const NONE: u8 = 0;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;
/// The first segment bears CWR, so that a device that copies its flags to all must not cut it. We don't.
const ECN: u8 = 0x80;
