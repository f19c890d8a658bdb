//! The stream that is received: bytes at their offsets, put together to SDUs.
//!
//! A reliable stream waits for each gap to be filled. A lossy one waits a moment, in case packets have overtaken each other,
//! then goes on with the next SDU that it knows the begin of.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use proto::Batch;

use super::Fault;
use super::header::Data;
use super::ranges::Ranges;
use super::ring::Ring;
use super::room::Need;

/// What arrived and wasn't read.
#[derive(Debug, Clone)]
pub(super) struct Incoming {
    reliable: bool,
    /// How long a lossy stream waits for a gap.
    patience: Duration,
    ring: Ring,
    /// All before it was read.
    read: u64,
    /// Between `read` and it are whole SDUs, but for the holes.
    whole: u64,
    /// All before it arrived, or is no longer waited for.
    next: u64,
    ahead: Ranges,
    /// How far the stream was sent, as far as is known.
    seen: u64,
    ends: Option<u64>,
    /// What was announced: nothing beyond it is taken.
    edge: u64,
    room: u64,
    need: Need,
    /// Of a lossy stream: where SDUs begin beyond `next`.
    begins: BTreeSet<u64>,
    /// Of a lossy stream: what was given up, between whole SDUs.
    holes: VecDeque<Range<u64>>,
    /// Of a lossy stream: `next` isn't the begin of an SDU, nor within one whose begin is known.
    astray: bool,
    /// Since when there is a gap, and how many packets have come behind it.
    gap: Option<(Instant, u32)>,
    /// Gaps that were given up.
    pub(super) gaps: u64,
    /// SDUs that were given up since a piece of them was lost, and whether that which is passed over now was counted.
    pub(super) torn: u64,
    tearing: bool,
}

/// An SDU, in two pieces of which the second is mostly empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sdu<'a> {
    head: &'a [u8],
    tail: &'a [u8],
}

impl Sdu<'_> {
    /// At most 65,505 bytes, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Copies it; the buffer has its length.
    pub fn copy_to(&self, buffer: &mut [u8]) {
        buffer[..self.head.len()].copy_from_slice(self.head);
        buffer[self.head.len()..].copy_from_slice(self.tail);
    }

    /// A copy.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.head, self.tail].concat()
    }
}

impl Incoming {
    pub(super) fn new(reliable: bool, patience: Duration, room: usize, first: u64) -> Self {
        Self {
            reliable,
            patience,
            ring: Ring::default(),
            read: 0,
            whole: 0,
            next: 0,
            ahead: Ranges::default(),
            seen: 0,
            ends: None,
            edge: first,
            room: (room as u64).max(first),
            need: Need::default(),
            begins: BTreeSet::new(),
            holes: VecDeque::new(),
            astray: false,
            gap: None,
            gaps: 0,
            torn: 0,
            tearing: false,
        }
    }

    /// Takes what a packet carries; says whether it came out of order.
    pub(super) fn data(&mut self, now: Instant, data: &Data<'_>) -> Result<bool, Fault> {
        let range = data.offset..data.offset + data.bytes.len() as u64;
        if range.end > self.edge {
            return Err(Fault::Window);
        }
        let known = self.seen.max(self.next);
        if self
            .ends
            .is_some_and(|end| range.end > end || data.ends && range.end != end)
            || data.ends && range.end < known
        {
            return Err(Fault::End);
        }
        if data.ends {
            self.ends = Some(range.end);
        }
        let ordered = range.start <= self.next && self.ahead.is_empty();
        self.seen = self.seen.max(range.end);
        if range.end > self.next {
            self.take(&range, data)?;
        } else if !self.reliable && data.begins_sdu && self.astray && range.start >= self.next {
            self.find(range.start);
        }
        if !self.reliable {
            self.look_for_gap(now, range.start)?;
        }
        Ok(!ordered)
    }

    fn take(&mut self, range: &Range<u64>, data: &Data<'_>) -> Result<(), Fault> {
        if !self.reliable {
            if self.astray {
                if !data.begins_sdu || range.start < self.next {
                    // The rest of an SDU whose begin is lost.
                    self.torn += u64::from(!std::mem::replace(&mut self.tearing, true));
                    if range.start <= self.next {
                        // Nothing is missing before it: no gap is to be waited for.
                        self.skip(range.end);
                    }
                    return Ok(());
                }
                self.find(range.start);
            } else if data.begins_sdu && range.start > self.next {
                if self.begins.len() >= MAX_BEGINS {
                    return Err(Fault::Pieces);
                }
                self.begins.insert(range.start);
            }
        }
        if range.start > self.next && self.ahead.len() >= MAX_PIECES {
            return Err(Fault::Pieces);
        }
        let known = self.next.saturating_sub(range.start);
        let bytes = &data.bytes[known as usize..];
        let start = range.start + known;
        let kept = self.read..self.ahead.last().map_or(self.next, |r| r.end);
        self.ring.reserve(kept, range.end);
        self.ring.put(start, bytes);
        if start == self.next {
            self.next = range.end;
            self.join();
            self.parse()
        } else {
            self.ahead.insert(start..range.end);
            Ok(())
        }
    }

    /// Takes what was ahead and no longer is.
    fn join(&mut self) {
        while let Some(end) = self.ahead.reach(self.next) {
            self.next = self.next.max(end);
        }
        while self.begins.first().is_some_and(|begin| *begin <= self.next) {
            self.begins.pop_first();
        }
    }

    /// Finds the SDUs that are whole.
    fn parse(&mut self) -> Result<(), Fault> {
        while self.whole + 2 <= self.next {
            let len = self.ring.short(self.whole);
            if len == 0 || usize::from(len) > Batch::MAX_PACKET {
                return Err(Fault::Sdu);
            }
            let end = self.whole + 2 + u64::from(len);
            if end > self.next {
                break;
            }
            self.whole = end;
        }
        Ok(())
    }

    fn look_for_gap(&mut self, now: Instant, start: u64) -> Result<(), Fault> {
        if self.seen <= self.next {
            self.gap = None;
            return Ok(());
        }
        let (since, behind) = self.gap.unwrap_or((now, 0));
        let behind = behind + u32::from(start > self.next);
        self.gap = Some((since, behind));
        if behind >= OVERTAKERS || self.patience.is_zero() {
            self.give_up(now)?;
        }
        Ok(())
    }

    /// Gives up a gap that was waited for long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Result<bool, Fault> {
        if self.gap_ends().is_none_or(|at| at > now) {
            return Ok(false);
        }
        self.give_up(now)?;
        Ok(true)
    }

    pub(super) fn gap_ends(&self) -> Option<Instant> {
        Some(self.gap?.0 + self.patience)
    }

    fn give_up(&mut self, now: Instant) -> Result<(), Fault> {
        self.gaps += 1;
        if !self.astray {
            let next = self.begins.first().copied().unwrap_or(self.seen);
            let behind = self.ahead.first().is_some_and(|r| r.start < next);
            self.tearing = self.next > self.whole || behind;
            self.torn += u64::from(self.tearing);
        }
        match self.begins.pop_first() {
            Some(begin) => {
                self.skip(begin);
                self.ahead.forget_below(begin);
                self.join();
                self.parse()?;
            }
            None => {
                self.skip(self.seen);
                self.astray = self.ends != Some(self.seen);
                self.ahead.clear();
            }
        }
        // There may be another gap behind it.
        self.gap = (self.seen > self.next).then_some((now, 0));
        Ok(())
    }

    /// The begin of an SDU behind what was lost.
    fn find(&mut self, begin: u64) {
        self.skip(begin);
        (self.astray, self.tearing) = (false, false);
    }

    /// Nothing between the last whole SDU and `to` is waited for any more.
    fn skip(&mut self, to: u64) {
        match self.holes.back_mut() {
            Some(hole) if hole.end == self.whole => hole.end = to,
            _ => self.holes.push_back(self.whole..to),
        }
        (self.whole, self.next) = (to, to);
        self.pass_holes();
    }

    fn pass_holes(&mut self) {
        while let Some(hole) = self.holes.front()
            && hole.start == self.read
        {
            self.read = hole.end;
            self.holes.pop_front();
        }
    }

    /// The length of the next SDU, if one is whole.
    pub(super) fn next_len(&self) -> Option<usize> {
        (self.read < self.whole).then(|| usize::from(self.ring.short(self.read)))
    }

    /// Takes the next SDU.
    pub(super) fn read(&mut self) -> Option<Sdu<'_>> {
        let len = self.next_len()?;
        let start = self.read + 2;
        self.read = start + len as u64;
        self.pass_holes();
        let (head, tail) = self.ring.at(start..start + len as u64);
        Some(Sdu { head, tail })
    }

    /// Whether all was read that will ever come.
    pub(super) fn ended(&self) -> bool {
        self.ends == Some(self.read)
    }

    /// Whether all has arrived that will ever come.
    pub(super) fn complete(&self) -> bool {
        self.ends == Some(self.next)
    }

    /// Takes the time: how fast the stream comes on a path with this round trip.
    pub(super) fn measure(&mut self, now: Instant, rtt: Duration) {
        self.need.measure(now, self.seen, rtt);
    }

    /// The room that there is, and that which would not hold the sender up.
    pub(super) fn room(&self) -> (u64, u64) {
        (self.room, self.room.max(self.need.bytes()))
    }

    /// Has room for so many bytes from now on: not fewer than before, since a window that was announced stays.
    pub(super) fn widen(&mut self, room: u64) {
        self.room = self.room.max(room);
    }

    /// What an acknowledgement says: all before it is done with, the end included.
    pub(super) fn position(&self) -> u64 {
        self.next + u64::from(self.complete())
    }

    /// How far may be sent, at most; `least` is a step that is worth to be told.
    pub(super) fn announce(&mut self, least: usize) -> u64 {
        if self.steps(least) {
            self.edge = self.read + self.room;
        }
        self.edge
    }

    /// Whether a wider window is worth an acknowledgement of its own.
    pub(super) fn wider(&self, payload: usize) -> bool {
        if self.ends.is_some() {
            return false;
        }
        let open = self.edge.saturating_sub(self.next);
        let gain = (self.read + self.room).saturating_sub(self.edge);
        self.steps(payload) && (gain >= self.room / 4 || open < 2 * payload as u64)
    }

    fn steps(&self, least: usize) -> bool {
        let gain = (self.read + self.room).saturating_sub(self.edge);
        gain > 0 && gain >= (least as u64).min(self.room / 2)
    }

    /// Gives back memory that nothing lies in.
    pub(super) fn release(&mut self) {
        if self.is_wasteful() {
            self.ring.release();
        }
    }

    pub(super) fn is_wasteful(&self) -> bool {
        self.read == self.next && self.ahead.is_empty() && self.memory() > 0
    }

    pub(super) fn memory(&self) -> usize {
        self.ring.memory()
    }
}

/// Packets behind a gap that end the wait for it (RFC 9002 §6.1.1).
const OVERTAKERS: u32 = 3;
/// The most pieces beyond a gap, and known begins of SDUs.
const MAX_PIECES: usize = 4096;
const MAX_BEGINS: usize = 4096;
