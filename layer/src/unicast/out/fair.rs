//! The queue of one cube: fair between members (deficit round robin, as in FQ-CoDel, RFC 8290), each with an age of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::{Addr, Batch, EndpointId};

use super::Lot;
use crate::codel::{Bounds, Codel};

/// What waits in one cube. The first bucket has its turn.
#[derive(Debug, Default)]
pub(super) struct Fair {
    /// Also those that are empty and have sent more than their share.
    buckets: VecDeque<Bucket>,
    /// How many of them are of one own flow.
    apart: usize,
    /// Batches in all of them.
    batches: usize,
    /// The memory of a bucket that was emptied, for the next.
    spare: VecDeque<Waiting>,
}

/// What waits of one member, or of one of this member's own flows.
#[derive(Debug)]
struct Bucket {
    member: Addr,
    /// 0: of all that have no bucket of their own.
    own: EndpointId,
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
    pub(super) fn has_open(&self, (lot, apart): (&Lot, bool), len: usize, train: usize) -> bool {
        let bucket = self.find(lot, apart).map(|at| &self.buckets[at]);
        let last = bucket.and_then(|bucket| bucket.queue.back());
        last.is_some_and(|last| last.is_open(lot, len, train))
    }

    /// The newest batch of the lot.
    pub(super) fn newest(&mut self, (lot, apart): (&Lot, bool)) -> Option<&mut Batch> {
        let at = self.find(lot, apart)?;
        self.buckets[at]
            .queue
            .back_mut()
            .map(|last| &mut last.batch)
    }

    /// Puts a batch behind the others of its lot; `apart`, here as elsewhere: this member's own flows share no batches.
    pub(super) fn put(&mut self, (lot, apart): (&Lot, bool), batch: Batch) {
        let own = if apart { lot.own } else { EndpointId(0) };
        let at = self
            .find(lot, apart)
            .or_else(|| self.bucket(lot.member, own));
        let at = at.unwrap_or_else(|| {
            self.apart += usize::from(own != EndpointId(0));
            self.buckets.push_back(Bucket {
                member: lot.member,
                own,
                // For one batch.
                deficit: 1,
                codel: Codel::new(Bounds::LINK),
                queue: std::mem::take(&mut self.spare),
            });
            self.buckets.len() - 1
        });
        self.batches += 1;
        self.buckets[at].queue.push_back(Waiting {
            batch,
            since: lot.now,
            together: lot.now + TOGETHER,
            late: lot.late(),
            max_delay_ms: lot.max_delay_ms,
        });
    }

    /// Forgets the newest batch of a lot if nothing was put into it. Says whether that was so.
    pub(super) fn forget_begun(&mut self, (lot, apart): (&Lot, bool)) -> bool {
        let Some(at) = self.find(lot, apart) else {
            return false;
        };
        let queue = &mut self.buckets[at].queue;
        let gone = queue.pop_back_if(|last| last.batch.is_empty()).is_some();
        if gone {
            self.batches -= 1;
            self.tidy(at);
        }
        gone
    }

    /// The next batch, if so many bytes are sent at once.
    pub(super) fn pop(&mut self, now: Instant, train: usize) -> Option<Next> {
        let quantum = QUANTUM.min(train as i64);
        let (member, own) = loop {
            let first = self.buckets.front()?;
            if first.deficit > 0 && first.queue.is_empty() {
                self.tidy(0);
                continue;
            }
            if first.deficit > 0 {
                break (first.member, first.own);
            }
            // The flows of one member have one share together.
            let of_it = self.buckets.iter().filter(|b| b.member == first.member);
            let share = quantum / of_it.count() as i64;
            self.buckets.front_mut()?.deficit += share;
            self.buckets.rotate_left(1);
        };
        // What came when own flows shared batches goes before what one of them has since, in its turn.
        let since = self.buckets.front()?.queue.front()?.since;
        let before = |b: &Bucket| b.queue.front().is_some_and(|w| w.since <= since);
        let older = |b: &Bucket| b.member == member && b.own == EndpointId(0) && before(b);
        let at = (own != EndpointId(0)).then(|| self.buckets.iter().position(older));
        let at = at.flatten().unwrap_or(0);
        let turn = &mut self.buckets[at];
        let waiting = turn.queue.pop_front()?;
        self.batches -= 1;
        let late = waiting.late.is_some_and(|at| at <= now);
        let last = turn.queue.is_empty() && waiting.batch.count() == 1;
        let waited = now.saturating_duration_since(waiting.since);
        let acts = if late {
            0
        } else {
            turn.codel.act(now, waited, last)
        };
        let bytes = waiting.batch.bytes().len();
        // It does not pay for how long the trains of others were.
        let paid = if at > 0 { bytes.min(train) } else { bytes };
        self.buckets[0].deficit -= paid as i64;
        self.tidy(at);
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
        let Some(oldest) = self.buckets[at].queue.pop_front() else {
            return 0;
        };
        self.batches -= 1;
        self.tidy(at);
        oldest.batch.count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// How many packets wait.
    pub(super) fn packets(&self) -> usize {
        let all = self.buckets.iter().flat_map(|b| &b.queue);
        all.map(|w| w.batch.count()).sum()
    }

    /// How many batches wait of a lot, and their bytes.
    pub(super) fn waiting(&self, (lot, apart): (&Lot, bool)) -> (usize, usize) {
        let queue = self.find(lot, apart).map(|at| &self.buckets[at].queue);
        let bytes = |w: &Waiting| w.batch.bytes().len();
        queue.map_or((0, 0), |queue| (queue.len(), queue.iter().map(bytes).sum()))
    }

    /// Where packets of a lot wait. Those that wait apart go on doing so, so that nothing overtakes what is of the same flow.
    fn find(&self, lot: &Lot, apart: bool) -> Option<usize> {
        let waits = |at: &usize| !self.buckets[*at].queue.is_empty();
        let of = |own| self.bucket(lot.member, own).filter(waits);
        let own = (apart || self.apart > 0).then(|| of(lot.own)).flatten();
        own.or_else(|| of(EndpointId(0)).filter(|_| !apart))
    }

    /// The bucket of a member, or of an own flow. When there are too many, they share.
    fn bucket(&self, member: Addr, own: EndpointId) -> Option<usize> {
        let is = |b: &Bucket| b.member == member && b.own == own;
        let found = self.buckets.iter().position(is);
        found.or_else(|| {
            let full = self.buckets.len() >= MAX_BUCKETS;
            let akin = || self.buckets.iter().position(|b| b.member == member);
            full.then(|| akin().unwrap_or((member.0 % MAX_BUCKETS as u64) as usize))
        })
    }

    /// Forgets a bucket that is empty, when it has paid for what it has sent.
    fn tidy(&mut self, at: usize) {
        let done = |b: &Bucket| b.queue.is_empty() && b.deficit > 0;
        if self.buckets.get(at).is_some_and(done)
            && let Some(bucket) = self.buckets.remove(at)
        {
            self.apart -= usize::from(bucket.own != EndpointId(0));
            self.spare = bucket.queue;
        }
    }
}

/// Packets that came within this time share a batch, and the age of the first.
const TOGETHER: Duration = Bounds::LINK.target;
/// The most bytes of one turn.
const QUANTUM: i64 = 16 << 10;
/// Members and flows with a queue of their own at once.
const MAX_BUCKETS: usize = 64;
