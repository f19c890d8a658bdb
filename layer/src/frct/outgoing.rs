//! The stream that is sent: each SDU behind its length (u16), then the end, which takes one offset itself.
//!
//! A reliable stream keeps bytes until they are acknowledged. A lossy one keeps them until they are sent, and SDUs that are
//! too old never get offsets.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use proto::Batch;

use super::WriteError;
use super::ranges::Ranges;
use super::ring::Ring;

/// What was written and isn't acknowledged (or sent, if nothing is sent twice).
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    reliable: bool,
    ring: Ring,
    /// All before it is done with.
    base: u64,
    /// All before it was sent once.
    next: u64,
    /// All before it was written.
    end: u64,
    /// What of it the receiver never hears of: wire offsets are less by this.
    skipped: u64,
    /// Wire offset that the receiver lets us send up to.
    credit: u64,
    /// The most bytes from `base` to `end`.
    limit: usize,
    acked: Ranges,
    lost: Ranges,
    /// Of a lossy stream: the SDUs that aren't sent whole, and when they are worth nothing.
    sdus: VecDeque<(u64, Option<Instant>)>,
    /// The first of these was sent in part.
    begun: bool,
    max_delay: Option<Duration>,
    shut: bool,
    /// The end of a lossy stream is settled.
    end_acked: bool,
    full: bool,
    /// SDUs that were too old.
    pub(super) late: u64,
}

/// What goes in one PDU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Offsets on the wire; the end of the stream takes one.
    pub(super) range: Range<u64>,
    pub(super) begins_sdu: bool,
    pub(super) ends: bool,
    /// Was sent before.
    pub(super) again: bool,
    /// Where its bytes lie in the ring.
    bytes: Range<u64>,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        (self.bytes.end - self.bytes.start) as usize
    }
}

impl Outgoing {
    pub(super) fn new(
        reliable: bool,
        limit: usize,
        credit: u64,
        max_delay: Option<Duration>,
    ) -> Self {
        Self {
            reliable,
            ring: Ring::default(),
            base: 0,
            next: 0,
            end: 0,
            skipped: 0,
            credit,
            limit,
            acked: Ranges::default(),
            lost: Ranges::default(),
            sdus: VecDeque::new(),
            begun: false,
            max_delay: max_delay.filter(|_| !reliable),
            shut: false,
            end_acked: false,
            full: false,
            late: 0,
        }
    }

    /// Queues an SDU.
    pub(super) fn write(&mut self, now: Instant, sdu: &[u8]) -> Result<(), WriteError> {
        if self.shut {
            return Err(WriteError::Closed);
        }
        let Some(len) = u16::try_from(sdu.len()).ok().filter(|l| *l <= MAX_SDU) else {
            return Err(WriteError::TooBig(sdu.len()));
        };
        if len == 0 {
            return Err(WriteError::Empty);
        }
        let end = self.end + 2 + u64::from(len);
        if (end - self.base) as usize > self.limit || self.sdus.len() >= MAX_SDUS {
            self.full = true;
            return Err(WriteError::Full);
        }
        self.ring.reserve(self.base..self.end, end);
        self.ring.put(self.end, &len.to_be_bytes());
        self.ring.put(self.end + 2, sdu);
        self.end = end;
        if !self.reliable {
            self.sdus
                .push_back((end, self.max_delay.map(|delay| now + delay)));
        }
        self.full |= self.crowded(1);
        Ok(())
    }

    /// Whether the queue is so full that it should be left alone, or a part of that.
    fn crowded(&self, part: usize) -> bool {
        let unsent = self.end.saturating_sub(self.next) as usize;
        unsent >= UNSENT / part
            || self.queued() >= self.limit / 4 * 3 / part
            || self.sdus.len() >= MAX_SDUS / part
    }

    /// The most bytes that wait to be sent or acknowledged.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// As many may wait from now on, if that is more than before.
    pub(super) fn widen(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
        self.refill();
    }

    /// Whether it makes sense to write more: not from when it is crowded until it is half so.
    pub(super) fn writable(&self) -> bool {
        !self.full && !self.shut
    }

    pub(super) fn queued(&self) -> usize {
        (self.end - self.base.min(self.end)) as usize
    }

    pub(super) fn shut(&mut self) {
        self.shut = true;
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// Whether all, and the end, has arrived.
    pub(super) fn is_done(&self) -> bool {
        self.shut
            && if self.reliable {
                self.base > self.end
            } else {
                self.end_acked
            }
    }

    /// Whether something was sent that nobody has acknowledged.
    pub(super) fn waits(&self) -> bool {
        self.reliable && self.base < self.next
    }

    /// All before it is done with.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Offset on the wire behind all that was sent.
    pub(super) fn sent(&self) -> u64 {
        self.next - self.skipped
    }

    /// Whether the next new byte is the first of an SDU.
    fn at_sdu(&self) -> bool {
        !self.reliable && !self.begun
    }

    /// The bytes of a lossy stream that shall travel in one piece if they can.
    pub(super) fn whole(&self) -> Option<usize> {
        let (end, _) = self.sdus.front()?;
        Some((*end - self.next) as usize)
    }

    /// When the oldest SDU is worth nothing; one of which the receiver has a part and no room for the rest stays until it has.
    pub(super) fn expires(&self) -> Option<Instant> {
        let (end, deadline) = self.sdus.front()?;
        deadline.filter(|_| !self.begun || *end - self.skipped <= self.credit)
    }

    /// Drops SDUs that are too old.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.expires().is_some_and(|at| at <= now)
            && let Some((end, _)) = self.sdus.pop_front()
        {
            if !self.begun {
                // The receiver needn't wait for what was never sent.
                self.skipped += end - self.next;
            }
            (self.next, self.base) = (end, end);
            self.begun = false;
            self.late += 1;
        }
        self.refill();
    }

    /// Whether there is something to send that the receiver has room for.
    pub(super) fn ready(&self) -> bool {
        !self.lost.is_empty() || self.fresh() > 0 || self.end_is_next()
    }

    /// Whether there is something new to send, but the receiver has no room.
    pub(super) fn blocked(&self) -> bool {
        self.next < self.end && self.credit <= self.sent()
    }

    fn fresh(&self) -> u64 {
        let credit = self.credit.saturating_sub(self.sent());
        self.end.saturating_sub(self.next).min(credit)
    }

    fn end_is_next(&self) -> bool {
        self.shut && self.next == self.end
    }

    /// The next bytes to send, at most `room`: what was lost first. `alone`: nothing else is on its way, so that even a
    /// little is worth a packet.
    pub(super) fn cut(&mut self, room: usize, alone: bool) -> Option<Piece> {
        if room == 0 {
            return None;
        }
        if !self.reliable && !self.lost.is_empty() {
            self.lost.clear();
            return Some(self.piece(self.end, self.end + 1, room));
        }
        if let Some(lost) = self.lost.first().cloned() {
            let piece = self.piece(lost.start, lost.end, room);
            self.lost.remove(&piece.range);
            return Some(piece);
        }
        let fresh = self.fresh();
        if fresh == 0 {
            return self.end_is_next().then(|| {
                let piece = self.piece(self.next, self.end + 1, room);
                self.next = self.end + 1;
                piece
            });
        }
        let left = self.end - self.next;
        if fresh < left && fresh < room as u64 && !alone {
            return None; // the receiver will have room for more than a bit of it
        }
        if self.reliable {
            let to = self.next + fresh;
            let ends = u64::from(self.shut && to == self.end);
            let piece = self.piece(self.next, to + ends, room);
            self.next = piece.range.end;
            self.refill();
            return Some(piece);
        }
        self.cut_sdus(room.min(fresh as usize))
    }

    /// As many whole SDUs as fit, or a part of one.
    fn cut_sdus(&mut self, room: usize) -> Option<Piece> {
        let start = self.next;
        let most = start + room as u64;
        let begins_sdu = !self.begun;
        let mut end = start;
        while let Some((sdu, _)) = self.sdus.front()
            && *sdu <= most
        {
            end = *sdu;
            self.sdus.pop_front();
            if std::mem::take(&mut self.begun) {
                break; // whoever gets only the next packet must find the begin of an SDU in it
            }
        }
        if end == start {
            self.sdus.front()?;
            (end, self.begun) = (most, true);
        }
        let piece = Piece {
            range: start - self.skipped..end - self.skipped,
            begins_sdu,
            ends: false,
            again: false,
            bytes: start..end,
        };
        self.next = end;
        self.base = end;
        self.refill();
        Some(piece)
    }

    /// The bytes of `start..end`, at most `room`; with the end of the stream if that follows.
    fn piece(&self, start: u64, end: u64, room: usize) -> Piece {
        let bytes = start..end.min(self.end).min(start + room as u64);
        let ends = self.shut && bytes.end == self.end && (end > self.end || self.next >= self.end);
        let wire = start - self.skipped;
        Piece {
            range: wire..wire + (bytes.end - bytes.start) + u64::from(ends),
            begins_sdu: !self.reliable,
            ends,
            again: start < self.next,
            bytes,
        }
    }

    /// What to send again when nothing was heard for long: what came first of all that is missing.
    pub(super) fn oldest(&self, room: usize) -> Option<Piece> {
        if !self.waits() {
            return None;
        }
        let end = self.acked.first().map_or(self.next, |r| r.start);
        Some(self.piece(self.base, end, room))
    }

    /// No bytes, but where the stream is: whoever gets it has to answer.
    pub(super) fn nothing(&self) -> Piece {
        let at = self.next.min(self.end);
        Piece {
            range: at - self.skipped..at - self.skipped,
            begins_sdu: self.at_sdu(),
            ends: false,
            again: false,
            bytes: at..at,
        }
    }

    /// Copies a piece's bytes; at once after it was cut.
    pub(super) fn copy(&self, piece: &Piece, into: &mut [u8]) {
        let (head, tail) = self.ring.at(piece.bytes.clone());
        into[..head.len()].copy_from_slice(head);
        into[head.len()..].copy_from_slice(tail);
    }

    /// The receiver has this much room; says whether that is more than before.
    pub(super) fn grant(&mut self, credit: u64) -> bool {
        let more = credit > self.credit;
        self.credit = self.credit.max(credit);
        more
    }

    /// A range has arrived.
    pub(super) fn arrived(&mut self, range: &Range<u64>) {
        if !self.reliable {
            self.end_acked |= self.shut && range.end > self.end - self.skipped;
            return;
        }
        if range.end <= self.base {
            return;
        }
        if range.start <= self.base {
            self.base = range.end;
            while let Some(end) = self.acked.reach(self.base) {
                self.base = self.base.max(end);
            }
            self.lost.forget_below(self.base);
            self.refill();
        } else {
            self.acked.insert(range.clone());
            self.lost.remove(range);
        }
    }

    /// A range is lost, or what its packet was: if it is still missing it goes again.
    pub(super) fn lost(&mut self, range: &Range<u64>) {
        if !self.reliable {
            if self.shut && range.end > self.end - self.skipped && !self.end_acked {
                let end = self.end - self.skipped;
                self.lost.insert(end..end + 1);
            }
            return;
        }
        let missing = self.acked.gaps(range.start.max(self.base)..range.end);
        for gap in missing {
            self.lost.insert(gap);
        }
    }

    fn refill(&mut self) {
        if self.full && !self.crowded(2) {
            self.full = false;
        }
    }

    /// Gives back memory that nothing lies in.
    pub(super) fn release(&mut self) {
        if self.is_wasteful() {
            self.ring.release();
        }
    }

    pub(super) fn is_wasteful(&self) -> bool {
        self.queued() == 0 && self.memory() > 0
    }

    pub(super) fn memory(&self) -> usize {
        self.ring.memory()
    }
}

/// The most bytes of an SDU: what a record holds.
const MAX_SDU: u16 = Batch::MAX_PACKET as u16;
/// Bytes that wait to be sent: more would only make what is written last late.
const UNSENT: usize = 256 << 10;
/// The most SDUs of a lossy stream that wait.
const MAX_SDUS: usize = 4096;
