//! The bytes of an FRCT PDU (docs/protocol.md, "FRCT").
//!
//! | bytes | field |
//! |---|---|
//! | 0 | version, 1 |
//! | 1 | flags: 1 data, 2 ack, 4 begin of a run, 8 begin of an SDU, 16 end of the stream |
//! | 2 | number of further ranges in the ack, at most 32; 0 without one |
//! | 3 | 0 |
//! | ack | `largest u32, delay u16, marks u16, next u64, window u32, run u32`, then `gap u16, run u16` for each further range |
//! | data | `number u32, offset u64`, bytes of the stream up to the end of the PDU |

use std::ops::Range;

use super::Fault;

/// What a PDU says. Numbers are as on the wire: the low 32 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pdu<'a> {
    /// The sender has heard no acknowledgement in this run of data (Delta-t's data run flag).
    pub begins_run: bool,
    /// What has arrived.
    pub ack: Option<Ack<'a>>,
    /// What travels.
    pub data: Option<Data<'a>>,
}

/// A piece of the stream; an empty one asks for an acknowledgement and says how far the stream was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a> {
    /// The low half of the packet's number; each PDU with data has its own, also when it sends bytes again.
    pub number: u32,
    /// Where in the stream the bytes begin.
    pub offset: u64,
    /// An SDU begins at `offset`.
    pub begins_sdu: bool,
    /// The stream ends behind the bytes.
    pub ends: bool,
    /// At most a PDU's worth.
    pub bytes: &'a [u8],
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The low half of the greatest number that arrived.
    pub largest: u32,
    /// How long that one was kept before this was sent, in units of 16 µs.
    pub delay: u16,
    /// How many packets came with a congestion mark, modulo 2^16.
    pub marks: u16,
    /// All of the stream before it is done with: it arrived, or is no longer waited for.
    pub next: u64,
    /// This many bytes from `next` on may be sent.
    pub window: u32,
    /// How many numbers below `largest` arrived without a gap.
    pub run: u32,
    /// Pairs of u16: of numbers that are missing, and that arrived below them (both at least 1).
    more: &'a [u8],
}

impl<'a> Pdu<'a> {
    /// Reads a PDU.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (&[version, flags, more, zero], rest) =
            bytes.split_first_chunk::<FIXED>().ok_or(Fault::Length)?;
        if version != VERSION {
            return Err(Fault::Version);
        }
        if flags & !KNOWN != 0 || zero != 0 {
            return Err(Fault::Flags);
        }
        if flags & (DATA | ACK) == 0
            || flags & DATA == 0 && flags & (BEGINS_SDU | ENDS) != 0
            || flags & ACK == 0 && more != 0
            || usize::from(more) > MAX_MORE
        {
            return Err(Fault::Flags);
        }
        let (ack, rest) = if flags & ACK == 0 {
            (None, rest)
        } else {
            let (ack, rest) = Ack::parse(rest, usize::from(more))?;
            (Some(ack), rest)
        };
        let data = if flags & DATA == 0 {
            if !rest.is_empty() {
                return Err(Fault::Length);
            }
            None
        } else {
            let (number, rest) = rest.split_first_chunk().ok_or(Fault::Length)?;
            let (offset, bytes) = rest.split_first_chunk().ok_or(Fault::Length)?;
            let offset = u64::from_be_bytes(*offset);
            if offset > MAX_OFFSET {
                return Err(Fault::Numbers);
            }
            Some(Data {
                number: u32::from_be_bytes(*number),
                offset,
                begins_sdu: flags & BEGINS_SDU != 0,
                ends: flags & ENDS != 0,
                bytes,
            })
        };
        Ok(Self {
            begins_run: flags & BEGINS_RUN != 0,
            ack,
            data,
        })
    }
}

impl<'a> Ack<'a> {
    fn parse(bytes: &'a [u8], more: usize) -> Result<(Self, &'a [u8]), Fault> {
        let mut rest = bytes;
        let ack = Self {
            largest: u32::from_be_bytes(take(&mut rest)?),
            delay: u16::from_be_bytes(take(&mut rest)?),
            marks: u16::from_be_bytes(take(&mut rest)?),
            next: u64::from_be_bytes(take(&mut rest)?),
            window: u32::from_be_bytes(take(&mut rest)?),
            run: u32::from_be_bytes(take(&mut rest)?),
            more: rest.get(..more * RANGE).ok_or(Fault::Length)?,
        };
        if ack.next > MAX_OFFSET {
            return Err(Fault::Numbers);
        }
        if ack.more.as_chunks().0.contains(&[0, 0]) {
            return Err(Fault::Numbers);
        }
        Ok((ack, &rest[more * RANGE..]))
    }

    /// The ranges of numbers that arrived, the greatest first, when `largest` stands for this whole number.
    pub fn ranges(&self, largest: u64) -> impl Iterator<Item = Range<u64>> + use<'a> {
        let end = largest + 1;
        let first = end.saturating_sub(u64::from(self.run) + 1)..end;
        let mut low = first.start;
        let more = self
            .more
            .as_chunks::<RANGE>()
            .0
            .iter()
            .map_while(move |pair| {
                let gap = u64::from(u16::from_be_bytes([pair[0], pair[1]]));
                let run = u64::from(u16::from_be_bytes([pair[2], pair[3]]));
                let end = low.checked_sub(gap)?;
                low = end.checked_sub(run)?;
                Some(low..end)
            });
        std::iter::once(first).chain(more)
    }
}

/// Writes a PDU from its front; the caller has checked that the buffer holds it.
pub(super) struct Writer<'a> {
    pdu: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(pdu: &'a mut [u8], begins_run: bool) -> Self {
        let flags = if begins_run { BEGINS_RUN } else { 0 };
        pdu[..FIXED].copy_from_slice(&[VERSION, flags, 0, 0]);
        Self { pdu, len: FIXED }
    }

    /// Appends the ack; `ranges` are those that arrived, the greatest first, of which as many are told as can be.
    pub(super) fn ack(
        &mut self,
        fields: &AckFields,
        mut ranges: impl Iterator<Item = Range<u64>>,
        most: usize,
    ) {
        let Some(first) = ranges.next() else { return };
        self.pdu[1] |= ACK;
        self.put(&((first.end - 1) as u32).to_be_bytes());
        self.put(&fields.delay.to_be_bytes());
        self.put(&fields.marks.to_be_bytes());
        self.put(&fields.next.to_be_bytes());
        self.put(&fields.window.to_be_bytes());
        let run = u32::try_from(first.end - 1 - first.start).unwrap_or(u32::MAX);
        self.put(&run.to_be_bytes());
        let mut low = first.start;
        for range in ranges.take(most.min(MAX_MORE)) {
            let Ok(gap) = u16::try_from(low - range.end) else {
                break;
            };
            let run = u16::try_from(range.end - range.start).unwrap_or(u16::MAX);
            self.put(&gap.to_be_bytes());
            self.put(&run.to_be_bytes());
            self.pdu[2] += 1;
            low = range.end - u64::from(run);
        }
    }

    /// Appends the data section; gives room for `len` bytes of the stream.
    pub(super) fn data(
        &mut self,
        number: u64,
        offset: u64,
        begins_sdu: bool,
        ends: bool,
        len: usize,
    ) -> &mut [u8] {
        self.pdu[1] |= DATA;
        if begins_sdu {
            self.pdu[1] |= BEGINS_SDU;
        }
        if ends {
            self.pdu[1] |= ENDS;
        }
        self.put(&(number as u32).to_be_bytes());
        self.put(&offset.to_be_bytes());
        let at = self.len;
        self.len += len;
        &mut self.pdu[at..self.len]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn put(&mut self, bytes: &[u8]) {
        self.pdu[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// What an ack says besides its ranges.
#[derive(Debug, Clone, Copy)]
pub(super) struct AckFields {
    pub(super) delay: u16,
    pub(super) marks: u16,
    pub(super) next: u64,
    pub(super) window: u32,
}

/// The whole number nearest to `near` whose low half is `low` (as RFC 9000 A.3).
pub(super) fn whole_number(low: u32, near: u64) -> u64 {
    let distance = low.wrapping_sub(near as u32) as i32;
    near.saturating_add_signed(distance.into())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Fault::Length)?;
    *bytes = rest;
    Ok(*head)
}

/// The bytes of a PDU around those of the stream, without an ack.
pub(super) const DATA_LEN: usize = FIXED + 12;
/// The bytes of an ack of one range.
pub(super) const ACK_LEN: usize = 24;
/// The bytes of each further range.
pub(super) const RANGE: usize = 4;
/// The most further ranges.
pub(super) const MAX_MORE: usize = 32;
/// The bytes of an ack alone, with this many further ranges.
pub(super) const FIXED: usize = 4;
/// One unit of an ack's delay, in µs.
pub(super) const DELAY_UNIT: u64 = 16;
/// No stream is longer, so that no sum overflows.
const MAX_OFFSET: u64 = 1 << 62;

const VERSION: u8 = 1;
const DATA: u8 = 1;
const ACK: u8 = 2;
const BEGINS_RUN: u8 = 4;
const BEGINS_SDU: u8 = 8;
const ENDS: u8 = 16;
const KNOWN: u8 = DATA | ACK | BEGINS_RUN | BEGINS_SDU | ENDS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, row};
    use proptest::prelude::*;

    const FIELDS: AckFields = AckFields {
        delay: 2,
        marks: 3,
        next: 4,
        window: 65_536,
    };

    /// The vectors of docs/protocol.md.
    #[test]
    fn the_bytes_are_those_of_the_document() {
        let mut pdu = [0; 100];
        let mut writer = Writer::new(&mut pdu, true);
        writer
            .data(1 << 32 | 7, 5, true, false, 3)
            .copy_from_slice(&[0, 1, b'x']);
        let len = writer.len();
        assert_eq!([pdu[..len].to_vec()], row("FRCT data"));

        let mut writer = Writer::new(&mut pdu, false);
        writer.ack(&FIELDS, [90..101, 80..85, 79..79].into_iter().take(2), 32);
        let len = writer.len();
        assert_eq!([pdu[..len].to_vec()], row("FRCT ack: 90"));

        let mut writer = Writer::new(&mut pdu, false);
        writer.ack(&FIELDS, std::iter::once(9..10), 32);
        writer.data(8, 6, false, true, 0);
        let len = writer.len();
        assert_eq!([pdu[..len].to_vec()], row("FRCT ack of 9 alone"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (bytes, reason) in [
            ("", Fault::Length),
            ("01 01 00 00 00000007 00000000000000", Fault::Length),
            (
                "01 02 01 00 00000064 0002 0003 0000000000000004 00010000 0000000a 0005",
                Fault::Length,
            ),
            ("00 01 00 00 00000007 0000000000000000", Fault::Version),
            ("01 21 00 00 00000007 0000000000000000", Fault::Flags),
            ("01 01 00 01 00000007 0000000000000000", Fault::Flags),
            ("01 04 00 00", Fault::Flags),
            (
                "01 12 00 00 00000064 0002 0003 0000000000000004 00010000 0000000a",
                Fault::Flags,
            ),
            ("01 01 01 00 00000007 0000000000000000", Fault::Flags),
            (
                "01 02 00 00 00000064 0002 0003 0000000000000004 00010000 0000000a 00",
                Fault::Length,
            ),
            ("01 01 00 00 00000007 4000000000000001", Fault::Numbers),
            (
                "01 02 00 00 00000064 0002 0003 4000000000000001 00010000 0000000a",
                Fault::Numbers,
            ),
            (
                "01 02 01 00 00000064 0002 0003 0000000000000004 00010000 0000000a 0000 0005",
                Fault::Numbers,
            ),
        ] {
            assert_eq!(Pdu::parse(&hex(bytes)), Err(reason), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn ranges_are_read_as_they_were_written(first in 1u64..1000, more in prop::collection::vec((1u64..70_000, 1u64..70_000), 0..40), far in 10_000_000u64..1 << 40) {
            let mut ranges: Vec<_> = std::iter::once(far - first..far).collect();
            for (gap, run) in more {
                let end = ranges.last().unwrap().start - gap;
                ranges.push(end - run.min(end)..end);
            }
            let mut pdu = [0; 200];
            let mut writer = Writer::new(&mut pdu, false);
            writer.ack(&FIELDS, ranges.iter().cloned(), 32);
            let len = writer.len();
            let read = Pdu::parse(&pdu[..len]).unwrap().ack.unwrap();
            prop_assert_eq!(u64::from(read.largest), (far - 1) & 0xffff_ffff);
            let whole = whole_number(read.largest, far + 1000);
            prop_assert_eq!(whole, far - 1);
            let read: Vec<_> = read.ranges(whole).collect();
            prop_assert_eq!(&read[0], &ranges[0]);
            // What doesn't fit is left out, never made up.
            for (read, written) in read.iter().zip(&ranges) {
                prop_assert!(read.end == written.end && read.start >= written.start);
            }
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..120), flags in 0u8..32, more in 0u8..34) {
            let mut bytes = bytes;
            bytes.splice(..bytes.len().min(4), [1, flags, more, 0]);
            if let Ok(Pdu { ack: Some(ack), .. }) = Pdu::parse(&bytes) {
                for range in ack.ranges(ack.largest.into()) {
                    prop_assert!(range.end <= u64::from(ack.largest) + 1);
                }
            }
        }
    }
}
