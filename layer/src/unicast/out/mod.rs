//! Packets on their way to one lower flow: control first, always; then the cubes by priority and weight, each fair between
//! members. It must not know keys or headers.
//!
//! While the lower flow takes packets, each input's are gathered in as few batches as possible and sent with the next poll.
//! Only while it takes none do they wait here, in bounded number, and age.

mod fair;
mod train;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::{Addr, Batch, EndpointId, Framing};

use super::cube::Cube;
use super::limits::MAX_BATCHES;
use super::stats::Stats;
use fair::Fair;
use train::Train;

/// The queues of one lower flow.
#[derive(Debug)]
pub(super) struct Egress {
    framing: Framing,
    /// The lower flow takes packets.
    open: bool,
    /// How much of it is sent at once.
    train: Train,
    control: VecDeque<Batch>,
    cubes: [Queue; Cube::ALL.len()],
    /// Batches in all cubes, and how many there may be.
    batches: usize,
    most: usize,
}

/// The queue of a cube, and the bytes that it may still send in this round.
#[derive(Debug, Default)]
struct Queue {
    fair: Fair,
    deficit: i64,
    /// Packets that had to give way since it was told.
    shed: u64,
}

/// Where a packet waits; control always goes first and is never starved by data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Of this member or between others: hellos, handshakes, channels.
    Control,
    /// A flow's.
    Data(Lot),
}

/// What decides when a flow's packet is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lot {
    pub(super) cube: Cube,
    /// Whose share of the cube it uses.
    pub(super) member: Addr,
    /// Which of this member's own flows it is of; 0: what is of others.
    pub(super) own: EndpointId,
    /// When it came.
    pub(super) now: Instant,
    /// The flow's own deadline; 0: the cube's.
    pub(super) max_delay_ms: u32,
}

/// What is to be sent of the cubes.
#[derive(Debug)]
pub(super) struct Popped {
    pub(super) batch: Batch,
    pub(super) cube: Cube,
    /// Its first packet is to carry the mark that congestion was met.
    pub(super) mark: bool,
    /// The lower flow has taken all that came, for some time.
    pub(super) free: bool,
}

impl Lot {
    /// When it is too late for it.
    fn late(&self) -> Option<Instant> {
        let own = Duration::from_millis(self.max_delay_ms.into());
        let own = (self.max_delay_ms > 0).then_some(own);
        let bound = [own, self.cube.max_age()].into_iter().flatten().min()?;
        Some(self.now + bound)
    }
}

impl Egress {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            framing,
            open: true,
            train: Train::default(),
            control: VecDeque::new(),
            cubes: Default::default(),
            batches: 0,
            most: MAX_BATCHES,
        }
    }

    /// How many batches may wait in the cubes from now on.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Whether the lower flow takes packets now; while not, none are given.
    pub(super) fn set_open(&mut self, now: Instant, open: bool) {
        if open != self.open {
            self.train.turned(now, open);
        }
        self.open = open;
    }

    /// Whether the lower flow takes packets now.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether packets go to the lower flow in trains.
    pub(super) fn sends_trains(&self) -> bool {
        self.framing == Framing::Train
    }

    /// How many bytes more of this lot should come now; `None`: all that there are. Where the lower flow is slow, as much waits of each
    /// as is sent at once, so that none loses its turn; what waits behind that can do so where it is overtaken.
    pub(super) fn room(&self, lot: &Lot) -> Option<usize> {
        let short = self.train.is_short(lot.now);
        let fair = &self.cubes[lot.cube as usize].fair;
        let (own, bytes) = fair.waiting((lot, short));
        // Whoever has the most gives way to another.
        let fattest = || self.cubes.iter().map(|c| c.fair.fattest()).max();
        if self.batches >= self.most && fattest() <= Some(own + 1) {
            return Some(0);
        }
        if short {
            return Some(self.train.bytes(lot.now).saturating_sub(bytes));
        }
        (own >= ENOUGH).then_some(0)
    }

    /// Lets `fill` write a packet of at most `most` bytes behind those that wait, and keeps as many as it says, none for 0.
    /// The error is that of `fill`, or says that there is no room for so many, or that too many wait.
    pub(super) fn put(
        &mut self,
        class: Class,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<usize, &'static str> {
        let batch = match &class {
            Class::Control => self.control_batch(most),
            Class::Data(lot) => self.data_batch(lot, most),
        };
        let put = batch.and_then(|batch| batch.push_with(most, fill));
        let put = put.unwrap_or(Err("drop.queue_full"));
        if let Class::Data(lot) = class
            && !matches!(put, Ok(1..))
        {
            let short = self.train.is_short(lot.now);
            let fair = &mut self.cubes[lot.cube as usize].fair;
            let gone = fair.forget_begun((&lot, short));
            self.batches -= usize::from(gone);
        }
        put
    }

    /// Whether a batch of PDUs may wait as it is: it is no longer than what is sent at once, and there is none that they would be
    /// put to.
    pub(super) fn takes_whole(&self, lot: &Lot, batch: &Batch) -> bool {
        let train = self.train.bytes(lot.now);
        let shape = self.sends_trains() && batch.framing() == Framing::Train;
        let fair = &self.cubes[lot.cube as usize].fair;
        let open = || fair.has_open((lot, self.train.is_short(lot.now)), batch.stride(), train);
        shape && batch.bytes().len() <= train && !open()
    }

    /// Lets a batch wait, after [`Egress::takes_whole`].
    pub(super) fn put_whole(&mut self, lot: &Lot, batch: Batch) {
        while self.batches >= self.most {
            self.shed();
        }
        self.batches += 1;
        let short = self.train.is_short(lot.now);
        let fair = &mut self.cubes[lot.cube as usize].fair;
        fair.put((lot, short), batch);
    }

    fn control_batch(&mut self, len: usize) -> Option<&mut Batch> {
        if !self.control.back().is_some_and(|b| b.fits(len)) {
            if self.control.len() >= MAX_CONTROL {
                return None;
            }
            self.control.push_back(Batch::new(self.framing));
        }
        self.control.back_mut()
    }

    fn data_batch(&mut self, lot: &Lot, len: usize) -> Option<&mut Batch> {
        let (at, train) = (lot.cube as usize, self.train.bytes(lot.now));
        let lot = (lot, self.train.is_short(lot.now));
        if !self.cubes[at].fair.has_open(lot, len, train) {
            if len > Batch::MAX_PACKET {
                return None;
            }
            while self.batches >= self.most {
                self.shed();
            }
            self.batches += 1;
            self.cubes[at].fair.put(lot, Batch::new(self.framing));
        }
        self.cubes[at].fair.newest(lot)
    }

    /// The next batch of control.
    pub(super) fn pop_control(&mut self) -> Option<Batch> {
        if !self.open {
            return None;
        }
        std::iter::from_fn(|| self.control.pop_front()).find(|batch| !batch.is_empty())
    }

    /// The next batch of the cubes. What is dropped on the way is counted.
    pub(super) fn pop_data(&mut self, now: Instant, stats: &mut Stats) -> Option<Popped> {
        while self.open {
            self.tell_shed(stats);
            let train = self.train.bytes(now);
            let cube = self.turn(train)?;
            let queue = &mut self.cubes[cube as usize];
            let next = queue.fair.pop(now, train)?;
            self.batches -= 1;
            let mut batch = next.batch;
            if next.late {
                stats.add(cube.names().late, batch.count() as u64);
                continue;
            }
            let mark = next.acts > 0 && cube.reacts();
            if next.acts > 0 && !mark {
                let drop = (next.acts as usize).min(batch.count());
                (0..drop).for_each(|_| batch.pop());
                stats.add(cube.names().aged, drop as u64);
            } else if mark {
                stats.count("congestion.marked");
            }
            queue.deficit -= batch.bytes().len() as i64;
            if !batch.is_empty() {
                let free = self.train.is_free(now);
                return Some(Popped {
                    batch,
                    cube,
                    mark,
                    free,
                });
            }
        }
        None
    }

    /// Forgets everything; how many packets that were.
    pub(super) fn discard(&mut self, stats: &mut Stats) -> usize {
        self.tell_shed(stats);
        let control: usize = self.control.iter().map(Batch::count).sum();
        let data: usize = self.cubes.iter().map(|c| c.fair.packets()).sum();
        *self = Self::new(self.framing);
        control + data
    }

    /// Whose turn it is: in each round the cubes may send as many bytes as their weights say, those of higher priority
    /// first. A cube that has used its share waits until the others have used theirs or have nothing to send. A round is so short
    /// that one train of each is enough for its share.
    fn turn(&mut self, train: usize) -> Option<Cube> {
        loop {
            let waits = |c: &&Cube| !self.cubes[**c as usize].fair.is_empty();
            let mut waiting = Cube::BY_PRIORITY.iter().filter(waits).peekable();
            waiting.peek()?;
            if let Some(cube) = waiting.find(|c| self.cubes[**c as usize].deficit > 0) {
                return Some(*cube);
            }
            for cube in Cube::ALL {
                let deficit = &mut self.cubes[cube as usize].deficit;
                let quantum = cube.weight() * train as i64 / LIGHTEST;
                let most = match cube.is_urgent() {
                    true => cube.weight() * BURST,
                    false => quantum,
                };
                *deficit = (*deficit + quantum).min(most);
            }
        }
    }

    /// Makes room at the cost of the cube and the member that take the most.
    fn shed(&mut self) {
        let fattest = self.cubes.iter_mut().max_by_key(|c| c.fair.fattest());
        if let Some(queue) = fattest {
            queue.shed += queue.fair.shed() as u64;
            self.batches -= 1;
        }
    }

    fn tell_shed(&mut self, stats: &mut Stats) {
        for cube in Cube::ALL {
            let shed = &mut self.cubes[cube as usize].shed;
            if *shed > 0 {
                stats.add(cube.names().full, std::mem::take(shed));
            }
        }
    }
}

/// Batches that may wait for a link that is not slow before others do so outside.
const ENOUGH: usize = 16;
/// Batches of control that wait, of at most 64 KiB each.
const MAX_CONTROL: usize = 64;
/// The weight that is good for one train in a round.
const LIGHTEST: i64 = 4;
/// Bytes for each unit of weight that what is urgent may save up, so that a burst goes at once.
const BURST: i64 = 16 << 10;

#[cfg(test)]
mod tests;
