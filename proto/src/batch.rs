//! Many packets in one buffer, so that one system call moves them all.
//!
//! Two framings, one type. A **record** goes over a Unix `SOCK_SEQPACKET` socket: `[u16 len][SDU]…`, big-endian, up to
//! [`Batch::CAPACITY`] bytes. A **train** is what UDP GSO sends and GRO receives: packets of one size (the *stride*) back
//! to back, of which only the last may be shorter.
//!
//! In both, what counts as a packet may be the middle of what lies there: a [`Margin`] is what a layer will put around each packet, or
//! has found around it, so that packets go from one layer to the next without being moved.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::pool::{Buf, LARGE};
use crate::record::CONTROL;

/// How the packets of a batch lie in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each behind its length.
    Record,
    /// Back to back, of one size.
    Train,
}

/// Bytes before and behind every packet of a batch that don't belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Margin {
    /// How many lie before.
    pub head: usize,
    /// How many lie behind.
    pub tail: usize,
}

/// A pooled buffer that holds packets in one of the two framings.
pub struct Batch {
    buf: Buf,
    framing: Framing,
    margin: Margin,
    len: usize,
    stride: usize,
    count: usize,
    last: usize,
    dscp: u8,
    waited: Duration,
}

/// Why bytes are no record of SDUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// A length points behind the end, or a lone byte is left over.
    #[error("a length in the record points behind its end")]
    LyingLength,
    /// An SDU of no bytes.
    #[error("the record holds an empty SDU")]
    EmptySdu,
    /// A control item among SDUs.
    #[error("the record mixes SDUs with a control item")]
    ControlInside,
    /// No bytes at all, or more than a record may have.
    #[error("a record has 1 to 65536 bytes")]
    Size,
}

impl Margin {
    /// Nothing.
    pub const NONE: Self = Self { head: 0, tail: 0 };

    /// The bytes of both sides.
    pub fn len(self) -> usize {
        self.head + self.tail
    }

    /// Whether it is nothing.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Where the packet lies in a place with margins; an empty range if there is nothing between them.
    pub fn within(self, place: Range<usize>) -> Range<usize> {
        let end = place.end.saturating_sub(self.tail).max(place.start);
        (place.start + self.head).min(end)..end
    }
}

impl Batch {
    /// The most bytes of a record.
    pub const CAPACITY: usize = LARGE;
    /// The most bytes of a train: the payload of one IPv4 UDP send.
    pub const TRAIN_BYTES: usize = 65_507;
    /// The most packets of a train: what older kernels take in one GSO send.
    pub const TRAIN_PACKETS: usize = 64;
    /// The largest packet that a batch can hold in either framing.
    pub const MAX_PACKET: usize = Self::TRAIN_BYTES - 2;

    /// An empty batch.
    pub fn new(framing: Framing) -> Self {
        Self {
            buf: Buf::holding(LARGE),
            framing,
            margin: Margin::NONE,
            len: 0,
            stride: 0,
            count: 0,
            last: 0,
            dscp: 0,
            waited: Duration::ZERO,
        }
    }

    /// An empty train with room for something around each packet; what lies there is stale. A margin has less than 64 KiB.
    pub fn train_within(margin: Margin) -> Self {
        debug_assert!(margin.len() < Self::MAX_PACKET, "no packet fits");
        Self {
            margin,
            ..Self::new(Framing::Train)
        }
    }

    /// A record that holds one SDU.
    pub fn of(sdu: &[u8]) -> Option<Self> {
        let mut batch = Self::new(Framing::Record);
        batch.push(sdu.len())?.copy_from_slice(sdu);
        Some(batch)
    }

    /// How its packets lie.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The bytes as a system call sends them, margins too.
    pub fn bytes(&self) -> &[u8] {
        &self.buf.bytes()[..self.len]
    }

    /// The same, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf.bytes_mut()[..self.len]
    }

    /// The size of all packets of a train but the last, which may be shorter; of a record that came that of all, 0 if they differ. With
    /// their margins.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// What lies around each packet.
    pub fn margin(&self) -> Margin {
        self.margin
    }

    /// Counts more or less as the packets. `false`, and nothing changes, if one would be left without a byte, or any would.
    pub fn set_margin(&mut self, margin: Margin) -> bool {
        let around = margin.len();
        let fits = match self.framing {
            Framing::Train => self.count == 0 || self.last > around,
            Framing::Record => {
                let within = std::mem::replace(&mut self.margin, Margin::NONE);
                let fits = self.places().all(|place| place.len() > around);
                self.margin = within;
                fits
            }
        };
        let fits = fits && around < Self::MAX_PACKET;
        if fits {
            self.margin = margin;
        }
        fits
    }

    /// How many bytes its packets have, without margins.
    pub fn payload(&self) -> usize {
        let around = match self.framing {
            Framing::Record => 2 + self.margin.len(),
            Framing::Train => self.margin.len(),
        };
        self.len - around * self.count
    }

    /// The packets as a record without margins. They fit, since a record has room for two bytes more than a train and only two bytes a
    /// packet that a train has not: of a train without any margin, those are left out that don't fit.
    #[must_use]
    pub fn into_record(self) -> Self {
        if self.framing == Framing::Record && self.margin == Margin::NONE {
            return self;
        }
        let mut record = Self::new(Framing::Record);
        for packet in self.iter() {
            if let Some(room) = record.push(packet.len()) {
                room.copy_from_slice(packet);
            }
        }
        record
    }

    /// The class of its packets for a network below that knows DiffServ: the code point (RFC 2474), 0 to 63; 0 at first.
    pub fn dscp(&self) -> u8 {
        self.dscp
    }

    /// Says the code point of all its packets; higher bits than it has are cut.
    pub fn set_dscp(&mut self, dscp: u8) {
        self.dscp = dscp & 0x3f;
    }

    /// How long its packets had waited in the network below when they were read; zero where that is not known.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Says how long its packets have waited.
    pub fn set_waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    /// The number of packets.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether it holds no packet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a packet of `len` bytes still fits.
    pub fn fits(&self, len: usize) -> bool {
        if len == 0 || len > Self::MAX_PACKET - self.margin.len() {
            return false;
        }
        let len = len + self.margin.len();
        match self.framing {
            Framing::Record => self.len + 2 + len <= Self::CAPACITY,
            Framing::Train => {
                self.count == 0
                    || (self.count < Self::TRAIN_PACKETS
                        && self.last == self.stride
                        && len <= self.stride
                        && self.len + len <= Self::TRAIN_BYTES)
            }
        }
    }

    /// Adds a packet of `len` bytes and gives them to be written (they hold stale bytes); `None` if it doesn't fit.
    pub fn push(&mut self, len: usize) -> Option<&mut [u8]> {
        if !self.fits(len) {
            return None;
        }
        let (at, Margin { head, tail }) = (self.open(), self.margin);
        self.close(at, head + len + tail);
        Some(&mut self.buf.bytes_mut()[at + head..][..len])
    }

    /// Lets `fill` write a packet of at most `max` bytes straight into the buffer and keeps as many as it says; nothing
    /// is kept for 0 or for more than `max`. `None`, and `fill` is not called, if `max` doesn't fit.
    pub fn push_with<E>(
        &mut self,
        max: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        if !self.fits(max) {
            return None;
        }
        let (at, Margin { head, tail }) = (self.open(), self.margin);
        let filled = fill(&mut self.buf.bytes_mut()[at + head..][..max]);
        if let Ok(len @ 1..) = filled
            && len <= max
        {
            self.close(at, head + len + tail);
        }
        Some(filled)
    }

    /// Takes the last packet back.
    pub fn pop(&mut self) {
        if self.count == 0 {
            return;
        }
        let whole = self.last
            + if self.framing == Framing::Record {
                2
            } else {
                0
            };
        self.len -= whole;
        self.count -= 1;
        // All before the last have the stride, if there is one.
        self.last = match self.stride {
            0 => (self.places().last()).map_or(0, |place| place.len() + self.margin.len()),
            stride => stride,
        };
    }

    /// The whole buffer, to receive into; follow it with [`Batch::set_record`] or [`Batch::set_train`].
    pub fn space(&mut self) -> &mut [u8] {
        self.clear();
        self.buf.bytes_mut()
    }

    /// Says that the first `len` bytes of the buffer are a record of SDUs, and checks every length in it.
    pub fn set_record(&mut self, len: usize) -> Result<(), BadRecord> {
        self.clear();
        self.framing = Framing::Record;
        if len == 0 || len > Self::CAPACITY {
            return Err(BadRecord::Size);
        }
        let bytes = &self.buf.bytes()[..len];
        if let Some(size) = one_size(bytes) {
            (self.len, self.stride, self.last) = (len, size, size);
            self.count = len / (2 + size);
            return Ok(());
        }
        let (mut at, mut count, mut last) = (0, 0, 0);
        while at < len {
            let head = bytes.get(at..at + 2).ok_or(BadRecord::LyingLength)?;
            let size = u16::from_be_bytes([head[0], head[1]]);
            match size {
                0 => return Err(BadRecord::EmptySdu),
                CONTROL => return Err(BadRecord::ControlInside),
                _ => last = usize::from(size),
            }
            at += 2 + last;
            count += 1;
        }
        if at != len {
            return Err(BadRecord::LyingLength);
        }
        (self.len, self.count, self.last) = (len, count, last);
        Ok(())
    }

    /// Says that the first `len` bytes of the buffer are packets of `stride` bytes, the last maybe shorter.
    /// Nothing is kept when either is 0 or `len` is larger than the buffer.
    pub fn set_train(&mut self, len: usize, stride: usize) {
        self.clear();
        self.framing = Framing::Train;
        if len == 0 || stride == 0 || len > Self::CAPACITY {
            return;
        }
        self.len = len;
        self.stride = stride.min(len);
        self.count = len.div_ceil(self.stride);
        self.last = len - (self.count - 1) * self.stride;
    }

    /// The packets in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let (framing, stride, Margin { head, tail }) = (self.framing, self.stride, self.margin);
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (skip, take) = next(framing, stride, rest)?;
            let (whole, behind) = rest.split_at(skip + take);
            rest = behind;
            // Each packet has its margin: `push` makes room for it, `set_margin` looks.
            Some(&whole[skip + head..whole.len() - tail])
        })
    }

    /// Where the packets lie in [`Batch::bytes`], in order.
    pub fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let mut before = 0;
        std::iter::from_fn(move || {
            let place = self.place_behind(before)?;
            before = place.end;
            Some(place)
        })
    }

    /// Where the packet lies that comes behind the one that ends there; the first one for 0. `None`: there is none.
    pub fn place_behind(&self, end: usize) -> Option<Range<usize>> {
        let Margin { head, tail } = self.margin;
        let at = if end == 0 { 0 } else { end + tail };
        let (skip, take) = next(self.framing, self.stride, self.bytes().get(at..)?)?;
        Some(at + skip + head..at + skip + take - tail)
    }

    /// The packets in order, to be changed where they lie.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let (framing, stride, Margin { head, tail }) = (self.framing, self.stride, self.margin);
        let mut rest = &mut self.buf.bytes_mut()[..self.len];
        std::iter::from_fn(move || {
            let (skip, take) = next(framing, stride, rest)?;
            let (whole, behind) = std::mem::take(&mut rest).split_at_mut(skip + take);
            rest = behind;
            let end = whole.len() - tail;
            Some(&mut whole[skip + head..end])
        })
    }

    /// Forgets all packets, their class and margin; the framing stays.
    pub fn clear(&mut self) {
        (self.dscp, self.waited, self.margin) = (0, Duration::ZERO, Margin::NONE);
        (self.len, self.stride, self.count, self.last) = (0, 0, 0, 0);
    }

    fn open(&self) -> usize {
        self.len
            + if self.framing == Framing::Record {
                2
            } else {
                0
            }
    }

    fn close(&mut self, at: usize, len: usize) {
        match self.framing {
            // `fits` bounds len by MAX_PACKET, which is below u16::MAX.
            Framing::Record => {
                self.buf.bytes_mut()[at - 2..at].copy_from_slice(&(len as u16).to_be_bytes());
                self.stride = 0;
            }
            Framing::Train if self.count == 0 => self.stride = len,
            Framing::Train => {}
        }
        self.len = at + len;
        self.count += 1;
        self.last = len;
    }
}

/// The size of all SDUs of a record, if it is the same: then where each lies is known before the one before it was looked at.
fn one_size(bytes: &[u8]) -> Option<usize> {
    let head = *bytes.first_chunk::<2>()?;
    let size = u16::from_be_bytes(head);
    if size == 0 || size == CONTROL {
        return None;
    }
    let mut whole = bytes.chunks_exact(2 + usize::from(size));
    let same = whole.remainder().is_empty() && whole.all(|sdu| sdu.starts_with(&head));
    same.then_some(size.into())
}

/// How many bytes to skip and to take for the next packet of `rest`.
fn next(framing: Framing, stride: usize, rest: &[u8]) -> Option<(usize, usize)> {
    match framing {
        _ if rest.is_empty() => None,
        Framing::Record if stride > 0 => Some((2, stride)),
        Framing::Record => Some((2, usize::from(u16::from_be_bytes([rest[0], rest[1]])))),
        Framing::Train => Some((0, stride.min(rest.len()))),
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Batch({:?}, {} packets, {} bytes)",
            self.framing, self.count, self.len
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..1500), 1..80)
    }

    proptest! {
        #[test]
        fn a_record_holds_what_was_pushed(packets in packets()) {
            let mut out = Batch::new(Framing::Record);
            let mut kept = Vec::new();
            for p in &packets {
                if let Some(room) = out.push(p.len()) {
                    room.copy_from_slice(p);
                    kept.push(p.as_slice());
                }
            }
            let mut back = Batch::new(Framing::Record);
            back.space()[..out.bytes().len()].copy_from_slice(out.bytes());
            prop_assert_eq!(back.set_record(out.bytes().len()), Ok(()));
            prop_assert_eq!(back.count(), kept.len());
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), kept);
            let places: Vec<_> = back.places().map(|place| &back.bytes()[place]).collect();
            prop_assert_eq!(places, back.iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_train_holds_what_was_pushed(packets in packets()) {
            let mut out = Batch::new(Framing::Train);
            let mut kept = Vec::new();
            for p in &packets {
                match out.push(p.len()) {
                    Some(room) => {
                        room.copy_from_slice(p);
                        kept.push(p.as_slice());
                    }
                    None => break,
                }
            }
            let mut back = Batch::new(Framing::Train);
            back.space()[..out.bytes().len()].copy_from_slice(out.bytes());
            back.set_train(out.bytes().len(), out.stride());
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), kept);
            prop_assert_eq!(back.count(), out.count());
        }

        #[test]
        fn margins_come_and_go_without_moving_packets(packets in packets(), head in 0usize..60, tail in 0usize..40) {
            let margin = Margin { head, tail };
            let mut train = Batch::train_within(margin);
            let mut kept = Vec::new();
            for p in &packets {
                match train.push(p.len()) {
                    Some(room) => {
                        room.copy_from_slice(p);
                        kept.push(p.as_slice());
                    }
                    None => break,
                }
            }
            prop_assert_eq!(train.iter().collect::<Vec<_>>(), kept.clone());
            prop_assert_eq!(train.iter_mut().map(|p| p.to_vec()).collect::<Vec<_>>(), kept.clone());
            let places: Vec<_> = train.places().map(|place| &train.bytes()[place]).collect();
            prop_assert_eq!(places, kept.clone());
            prop_assert_eq!(train.payload(), kept.iter().map(|p| p.len()).sum::<usize>());
            prop_assert!(train.bytes().len() <= Batch::TRAIN_BYTES);

            let (wire, stride) = (train.bytes().to_vec(), train.stride());
            prop_assert!(train.set_margin(Margin::NONE));
            prop_assert!(train.iter().zip(&kept).all(|(whole, p)| whole.len() == p.len() + margin.len()));
            let mut come = Batch::new(Framing::Train);
            come.space()[..wire.len()].copy_from_slice(&wire);
            come.set_train(wire.len(), stride);
            prop_assert!(come.set_margin(margin));
            let wider = Margin { head: kept[kept.len() - 1].len() + head, tail };
            prop_assert!(!come.set_margin(wider));
            prop_assert_eq!(come.iter().collect::<Vec<_>>(), kept.clone());
            if margin.len() >= 2 {
                let record = come.into_record();
                prop_assert_eq!(record.iter().collect::<Vec<_>>(), kept.clone());
                let mut outer = Batch::new(Framing::Record);
                for p in &kept {
                    let Some(room) = outer.push(head + p.len() + tail) else { break };
                    room[head..][..p.len()].copy_from_slice(p);
                }
                prop_assert!(outer.set_margin(margin));
                let count = outer.count();
                prop_assert!(outer.into_record().iter().eq(kept.into_iter().take(count)));
            }
        }

        #[test]
        fn no_bytes_panic_as_a_record(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut batch = Batch::new(Framing::Record);
            batch.space()[..bytes.len()].copy_from_slice(&bytes);
            if batch.set_record(bytes.len()).is_ok() {
                let whole: usize = batch.iter().map(|p| p.len() + 2).sum();
                prop_assert_eq!(whole, bytes.len());
            } else {
                prop_assert!(batch.is_empty());
            }
        }

        #[test]
        fn no_sizes_panic_as_a_train(len in 0usize..70_000, stride in 0usize..70_000) {
            let mut batch = Batch::new(Framing::Train);
            batch.set_train(len, stride);
            prop_assert_eq!(batch.iter().count(), batch.count());
            prop_assert_eq!(batch.iter_mut().map(|p| p.len()).sum::<usize>(), batch.bytes().len());
        }
    }

    #[test]
    fn a_short_packet_ends_a_train() {
        let mut train = Batch::new(Framing::Train);
        assert!(train.push(100).is_some());
        assert!(train.push(101).is_none());
        assert!(train.push(60).is_some());
        assert!(train.push(60).is_none());
        train.pop();
        assert!(train.push(100).is_some());
        assert_eq!((train.count(), train.stride()), (2, 100));
    }

    #[test]
    fn packets_are_taken_back_one_by_one_whatever_their_sizes() {
        for sizes in [[100, 50, 70], [60, 60, 60], [60, 60, 9]] {
            let mut record = Batch::new(Framing::Record);
            for size in sizes {
                record.push(size).unwrap().fill(1);
            }
            let mut come = Batch::new(Framing::Record);
            come.space()[..record.bytes().len()].copy_from_slice(record.bytes());
            come.set_record(record.bytes().len()).unwrap();
            for mut batch in [record, come] {
                for left in (0..3).rev() {
                    batch.pop();
                    let lens: Vec<_> = batch.iter().map(<[u8]>::len).collect();
                    assert_eq!((batch.count(), &lens[..]), (left, &sizes[..left]));
                }
                assert!(batch.bytes().is_empty());
                batch.push(7).unwrap();
                assert_eq!(batch.iter().map(<[u8]>::len).collect::<Vec<_>>(), [7]);
            }
        }
    }

    #[test]
    fn lying_lengths_are_named() {
        let check = |bytes: &[u8]| {
            let mut b = Batch::new(Framing::Record);
            b.space()[..bytes.len()].copy_from_slice(bytes);
            b.set_record(bytes.len())
        };
        assert_eq!(check(&[]), Err(BadRecord::Size));
        assert_eq!(check(&[0]), Err(BadRecord::LyingLength));
        assert_eq!(check(&[0, 2, 1]), Err(BadRecord::LyingLength));
        assert_eq!(check(&[0, 1, 1, 0]), Err(BadRecord::LyingLength));
        assert_eq!(check(&[0, 0]), Err(BadRecord::EmptySdu));
        assert_eq!(check(&[0, 1, 9, 0xff, 0xff]), Err(BadRecord::ControlInside));
        assert_eq!(check(&[0, 1, 9]), Ok(()));
    }

    #[test]
    fn fill_decides_how_much_is_kept() {
        let mut b = Batch::new(Framing::Record);
        assert_eq!(
            b.push_with::<()>(100, |room| Ok(room.len() / 2)),
            Some(Ok(50))
        );
        assert_eq!(
            b.push_with(100, |_| Err("nothing there")),
            Some(Err("nothing there"))
        );
        assert_eq!(b.iter().map(<[u8]>::len).collect::<Vec<_>>(), [50]);
    }
}
