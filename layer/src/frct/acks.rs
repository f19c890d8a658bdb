//! What to acknowledge, and when.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::header::{self, AckFields, DELAY_UNIT};
use super::ranges::Ranges;

/// The numbers that arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Acks {
    numbers: Ranges,
    /// When the greatest arrived.
    newest_at: Option<Instant>,
    /// Packets since the last acknowledgement, and when the first of them came.
    waiting: u32,
    since: Option<Instant>,
    /// Whether one is to go at once.
    now: bool,
    marks: u16,
    /// So many packets are answered together.
    every: u32,
    last: Option<Instant>,
}

impl Acks {
    /// The whole number of a packet.
    pub(super) fn number(&self, low: u32) -> u64 {
        match self.numbers.last() {
            Some(range) => header::whole_number(low, range.end),
            None => FIRST + u64::from(low),
        }
    }

    /// Whether nothing of the other side's run is known.
    pub(super) fn is_new(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Whether a number came before, as far as is remembered.
    pub(super) fn knows(&self, number: u64) -> bool {
        self.numbers.gaps(number..number + 1).next().is_none()
    }

    /// A packet has arrived. `at_once`: its sender should hear of it now.
    pub(super) fn arrived(&mut self, now: Instant, number: u64, marked: bool, at_once: bool) {
        let ordered = self.numbers.last().is_none_or(|r| r.end == number);
        if self.numbers.last().is_none_or(|r| number >= r.end) {
            self.newest_at = Some(now);
        }
        self.numbers.insert(number..number + 1);
        self.numbers.keep(MAX_KEPT);
        self.marks = self.marks.wrapping_add(u16::from(marked));
        self.waiting += 1;
        self.since.get_or_insert(now);
        self.now |= at_once || marked || !ordered || self.waiting >= self.every.max(LEAST_EVERY);
    }

    /// An acknowledgement is to go at once, although nothing has arrived.
    pub(super) fn push(&mut self) {
        self.now = !self.is_new();
    }

    /// Whether something waits to be acknowledged.
    pub(super) fn waits(&self) -> bool {
        self.waiting > 0 || self.now
    }

    /// Whether an acknowledgement is to go by itself.
    pub(super) fn due(&self, now: Instant, delay: Duration) -> bool {
        self.now || self.deadline(delay).is_some_and(|at| at <= now)
    }

    pub(super) fn deadline(&self, delay: Duration) -> Option<Instant> {
        Some(self.since? + delay)
    }

    /// What goes now.
    pub(super) fn take(&mut self, now: Instant, next: u64, window: u32) -> AckFields {
        let kept = self
            .newest_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let units = kept.as_micros() / u128::from(DELAY_UNIT);
        self.adapt(now);
        (self.waiting, self.since, self.now, self.last) = (0, None, false, Some(now));
        AckFields {
            delay: u16::try_from(units).unwrap_or(u16::MAX),
            marks: self.marks,
            next,
            window,
        }
    }

    /// The faster packets come, the more of them are answered together: those of a millisecond, at most 16.
    fn adapt(&mut self, now: Instant) {
        let passed = self
            .last
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let each = u128::from(self.waiting) * 1_000_000 / passed.as_nanos().max(1);
        let each = u32::try_from(each).unwrap_or(u32::MAX);
        self.every = each
            .clamp(LEAST_EVERY, MOST_EVERY)
            .min(2 * self.every.max(1));
    }

    /// The greatest first.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.numbers.descending()
    }

    pub(super) fn further(&self) -> usize {
        self.numbers.len().saturating_sub(1)
    }

    /// Forgets the run: the next packet begins another.
    pub(super) fn forget(&mut self) {
        *self = Self {
            marks: self.marks,
            ..Self::default()
        };
    }
}

/// The high half of a first number: so that none below it is negative.
pub(super) const FIRST: u64 = 1 << 32;
/// The most ranges that are remembered: what one acknowledgement tells.
const MAX_KEPT: usize = 33;
const LEAST_EVERY: u32 = 2;
const MOST_EVERY: u32 = 16;
