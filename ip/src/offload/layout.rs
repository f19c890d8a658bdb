//! Where the headers of a packet lie, as far as it matters to whom cuts and joins.

/// The header of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Where its checksum lies, in bytes from its beginning.
    pub(super) const fn checksum(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// Its number in an IP header.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// How long its header is that begins at `at`; `None` if the packet ends before.
    pub(super) fn len(self, packet: &[u8], at: usize) -> Option<usize> {
        let len = match self {
            Self::Tcp => usize::from(packet.get(at + 12)? >> 4) * 4,
            Self::Udp => 8,
        };
        let shortest = match self {
            Self::Tcp => 20,
            Self::Udp => 8,
        };
        (len >= shortest && at + len <= packet.len()).then_some(len)
    }
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Of TCP's byte 13.
pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const CWR: u8 = 0x80;
