//! The queue of one cube: fair between members (deficit round robin, as in FQ-CoDel, RFC 8290), each with an age of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::{Addr, Batch};

use super::Lot;
use crate::unicast::codel::{Bounds, Codel};

/// What waits in one cube. The first bucket has its turn.
#[derive(Debug, Default)]
pub(super) struct Fair {
    buckets: VecDeque<Bucket>,
    /// The memory of a bucket that was emptied, for the next.
    spare: VecDeque<Waiting>,
}

/// What waits of one member.
#[derive(Debug)]
struct Bucket {
    member: Addr,
    /// The bytes that it may still send in this turn.
    deficit: i64,
    codel: Codel,
    queue: VecDeque<Waiting>,
}

/// A batch, and since when its first packet waits.
#[derive(Debug)]
struct Waiting {
    batch: Batch,
    since: Instant,
    /// Until when others may share its batch.
    together: Instant,
    late: Option<Instant>,
    max_delay_ms: u32,
}

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) batch: Batch,
    /// The queue stands: so many packets are to be marked or dropped.
    pub(super) acts: u32,
    /// It is too late for any of it.
    pub(super) late: bool,
}

impl Waiting {
    /// Whether a packet may be put to it.
    fn is_open(&self, lot: &Lot, len: usize, train: usize) -> bool {
        let short = self.batch.is_empty() || self.batch.bytes().len() + len <= train;
        let fits = self.max_delay_ms == lot.max_delay_ms && self.batch.fits(len) && short;
        fits && lot.now < self.together
    }
}

impl Fair {
    /// Whether a packet of `len` bytes still fits into the newest batch, if batches have no more than `train` bytes.
    pub(super) fn has_open(&self, lot: &Lot, len: usize, train: usize) -> bool {
        let bucket = self.find(lot.member).map(|at| &self.buckets[at]);
        let last = bucket.and_then(|bucket| bucket.queue.back());
        last.is_some_and(|last| last.is_open(lot, len, train))
    }

    /// The newest batch of the member.
    pub(super) fn newest(&mut self, lot: &Lot) -> Option<&mut Batch> {
        let at = self.find(lot.member)?;
        self.buckets[at]
            .queue
            .back_mut()
            .map(|last| &mut last.batch)
    }

    /// Puts a batch behind the others of its member.
    pub(super) fn put(&mut self, lot: &Lot, batch: Batch) {
        let at = self.find(lot.member).unwrap_or_else(|| {
            self.buckets.push_back(Bucket {
                member: lot.member,
                deficit: QUANTUM,
                codel: Codel::new(BOUNDS),
                queue: std::mem::take(&mut self.spare),
            });
            self.buckets.len() - 1
        });
        self.buckets[at].queue.push_back(Waiting {
            batch,
            since: lot.now,
            together: lot.now + TOGETHER,
            late: lot.late(),
            max_delay_ms: lot.max_delay_ms,
        });
    }

    /// Forgets the newest batch of a member if nothing was put into it. Says whether that was so.
    pub(super) fn forget_begun(&mut self, member: Addr) -> bool {
        let Some(at) = self.find(member) else {
            return false;
        };
        let queue = &mut self.buckets[at].queue;
        let gone = queue.pop_back_if(|last| last.batch.is_empty()).is_some();
        if gone {
            self.tidy(at);
        }
        gone
    }

    /// The next batch.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Next> {
        let turn = loop {
            let first = self.buckets.front_mut()?;
            if first.deficit > 0 {
                break first;
            }
            first.deficit += QUANTUM;
            self.buckets.rotate_left(1);
        };
        let waiting = turn.queue.pop_front()?;
        turn.deficit -= waiting.batch.bytes().len() as i64;
        let late = waiting.late.is_some_and(|at| at <= now);
        let last = turn.queue.is_empty() && waiting.batch.count() == 1;
        let waited = now.saturating_duration_since(waiting.since);
        let acts = if late {
            0
        } else {
            turn.codel.act(now, waited, last)
        };
        self.tidy(0);
        Some(Next {
            batch: waiting.batch,
            acts,
            late,
        })
    }

    /// How many batches wait of the member that has the most.
    pub(super) fn fattest(&self) -> usize {
        let sizes = self.buckets.iter().map(|b| b.queue.len());
        sizes.max().unwrap_or(0)
    }

    /// Takes the oldest batch of the member that has the most; how many packets that were.
    pub(super) fn shed(&mut self) -> usize {
        let fattest = (0..self.buckets.len()).max_by_key(|at| self.buckets[*at].queue.len());
        let Some(at) = fattest else { return 0 };
        let oldest = self.buckets[at].queue.pop_front();
        self.tidy(at);
        oldest.map_or(0, |w| w.batch.count())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// How many packets wait.
    pub(super) fn packets(&self) -> usize {
        let all = self.buckets.iter().flat_map(|b| &b.queue);
        all.map(|w| w.batch.count()).sum()
    }

    /// How many batches wait of a member.
    #[cfg(test)]
    pub(super) fn waiting(&self, member: Addr) -> usize {
        self.find(member)
            .map_or(0, |at| self.buckets[at].queue.len())
    }

    /// The bucket of a member. When there are too many, members share one.
    fn find(&self, member: Addr) -> Option<usize> {
        let own = self.buckets.iter().position(|b| b.member == member);
        own.or_else(|| {
            (self.buckets.len() >= MAX_BUCKETS).then_some((member.0 % MAX_BUCKETS as u64) as usize)
        })
    }

    fn tidy(&mut self, at: usize) {
        if self.buckets.get(at).is_some_and(|b| b.queue.is_empty())
            && let Some(bucket) = self.buckets.remove(at)
        {
            self.spare = bucket.queue;
        }
    }
}

/// Packets that came within this time share a batch, and the age of the first.
const TOGETHER: Duration = BOUNDS.target;
/// As RFC 8289 has them.
const BOUNDS: Bounds = Bounds {
    target: Duration::from_millis(5),
    interval: Duration::from_millis(100),
};
/// The bytes of one turn.
const QUANTUM: i64 = 16 << 10;
/// Members with a queue of their own at once.
const MAX_BUCKETS: usize = 64;
