//! One packet with room before it for headers and behind it for a tag.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::pool::Buf;

/// One packet in a pooled buffer. The edge reserves the headroom, so every layer below prepends in place.
pub struct Packet {
    buf: Buf,
    start: usize,
    end: usize,
}

impl Packet {
    /// The headroom of [`Packet::copy_of`]: enough for two stacked layers.
    pub const HEADROOM: usize = 192;
    /// The room behind the payload of [`Packet::copy_of`].
    pub const TAILROOM: usize = 64;

    /// A packet of `len` zero or stale bytes (pooled memory is not wiped) with the room given around it.
    pub fn with_room(headroom: usize, len: usize, tailroom: usize) -> Self {
        let buf = Buf::holding(headroom + len + tailroom);
        Self {
            buf,
            start: headroom,
            end: headroom + len,
        }
    }

    /// A copy of `payload` with the usual room around it.
    pub fn copy_of(payload: &[u8]) -> Self {
        let mut packet = Self::with_room(Self::HEADROOM, payload.len(), Self::TAILROOM);
        packet.copy_from_slice(payload);
        packet
    }

    /// Bytes that can still be put in front.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Bytes that can still be put behind.
    pub fn tailroom(&self) -> usize {
        self.buf.bytes().len() - self.end
    }

    /// Grows the packet by `len` bytes in front and gives them to be written; `None` without the headroom.
    pub fn push_front(&mut self, len: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(len)?;
        Some(&mut self.buf.bytes_mut()[self.start..self.start + len])
    }

    /// Takes `len` bytes off the front; `None`, and nothing changes, if there are fewer.
    pub fn pull_front(&mut self, len: usize) -> Option<&[u8]> {
        if len > self.len() {
            return None;
        }
        self.start += len;
        Some(&self.buf.bytes()[self.start - len..self.start])
    }

    /// Grows the packet by `len` bytes at its end; `None` without the tailroom.
    pub fn push_back(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > self.tailroom() {
            return None;
        }
        self.end += len;
        Some(&mut self.buf.bytes_mut()[self.end - len..self.end])
    }

    /// Shortens the packet to its first `len` bytes; longer ones stay as they are.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }
}

impl Deref for Packet {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf.bytes()[self.start..self.end]
    }
}

impl DerefMut for Packet {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buf.bytes_mut()[self.start..self.end]
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_off_as_they_were_put_on(payload: Vec<u8>, headers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut packet = Packet::copy_of(&payload);
            let mut on = Vec::new();
            for header in &headers {
                if let Some(room) = packet.push_front(header.len()) {
                    room.copy_from_slice(header);
                    on.push(header);
                }
            }
            for header in on.into_iter().rev() {
                prop_assert_eq!(packet.pull_front(header.len()), Some(&header[..]));
            }
            prop_assert_eq!(&packet[..], &payload[..]);
        }
    }

    #[test]
    fn room_is_bounded_on_both_sides() {
        let mut packet = Packet::with_room(4, 10, 0);
        assert!(packet.push_front(5).is_none());
        assert_eq!(packet.len(), 10);
        assert!(packet.pull_front(11).is_none());
        let all = packet.tailroom();
        assert!(packet.push_back(all + 1).is_none());
        assert!(packet.push_back(all).is_some());
    }
}
