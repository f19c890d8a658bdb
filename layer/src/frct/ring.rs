//! Bytes of a stream at their offsets, in memory that grows with what is kept.

use std::fmt;
use std::ops::Range;

/// Holds bytes of a stream; the owner knows which. What is kept at a time must lie within one capacity.
#[derive(Clone, Default)]
pub(super) struct Ring {
    /// A power of two bytes, or none.
    bytes: Vec<u8>,
}

impl Ring {
    /// Makes room for all from `keep.start` to `end`; what was kept, `keep`, stays. There may be more of that than there was room
    /// for: what was passed over never came.
    pub(super) fn reserve(&mut self, keep: Range<u64>, end: u64) {
        let want = (end.max(keep.end) - keep.start) as usize;
        if want <= self.bytes.len() {
            return;
        }
        let larger = vec![0; want.next_power_of_two().max(LEAST)];
        let old = std::mem::replace(self, Self { bytes: larger });
        let came = keep.end.min(keep.start + old.bytes.len() as u64);
        let (head, tail) = old.at(keep.start..came);
        self.put(keep.start, head);
        self.put(keep.start + head.len() as u64, tail);
    }

    /// Writes bytes for which room was made.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let at = self.index(offset);
        let head = bytes.len().min(self.bytes.len() - at);
        self.bytes[at..at + head].copy_from_slice(&bytes[..head]);
        self.bytes[..bytes.len() - head].copy_from_slice(&bytes[head..]);
    }

    /// The bytes of a range, in two pieces of which the second is mostly empty.
    pub(super) fn at(&self, range: Range<u64>) -> (&[u8], &[u8]) {
        if range.is_empty() {
            return (&[], &[]);
        }
        let len = (range.end - range.start) as usize;
        let at = self.index(range.start);
        let head = len.min(self.bytes.len() - at);
        (&self.bytes[at..at + head], &self.bytes[..len - head])
    }

    /// The number that two bytes of the stream make.
    pub(super) fn short(&self, offset: u64) -> u16 {
        let high = self.bytes[self.index(offset)];
        let low = self.bytes[self.index(offset + 1)];
        u16::from_be_bytes([high, low])
    }

    /// Gives the memory back; nothing is kept any more.
    pub(super) fn release(&mut self) {
        self.bytes = Vec::new();
    }

    /// The bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        self.bytes.len()
    }

    fn index(&self, offset: u64) -> usize {
        offset as usize & (self.bytes.len() - 1)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// The first room, in bytes.
const LEAST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_came_needs_no_room_before_the_ring_grows_over_it() {
        let mut ring = Ring::default();
        ring.reserve(0..0, 3);
        ring.put(0, b"abc");
        ring.reserve(0..50_000, 50_003);
        ring.put(50_000, b"def");
        assert_eq!(
            (ring.at(0..3).0, ring.at(50_000..50_003).0),
            (&b"abc"[..], &b"def"[..])
        );
    }

    #[test]
    fn what_is_kept_survives_growth_at_any_offset() {
        for start in [0u64, 5, 4095, 4096, 1 << 40] {
            let mut ring = Ring::default();
            let text: Vec<u8> = (0..9000u32).map(|n| (n % 251) as u8).collect();
            let mut end = start;
            for piece in text.chunks(700) {
                ring.reserve(start..end, end + piece.len() as u64);
                ring.put(end, piece);
                end += piece.len() as u64;
            }
            let (head, tail) = ring.at(start..end);
            assert_eq!([head, tail].concat(), text);
            assert_eq!(ring.short(start + 250), u16::from_be_bytes([250, 0]));
        }
    }
}
