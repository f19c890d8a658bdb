//! Seals on more cores: what leaves in one turn is sealed side by side, and sent in the order in which the machine gave it. It must
//! not send anything.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use layer::Unsealed;
use layer::crypt::aes_is_fast;
use proto::Batch;
use proto::ipcp::{Offload, OffloadKind, OffloadMode};

/// What waits for its seals in this turn, and the threads that put them on with the one that sends.
#[derive(Debug)]
pub struct Sealers<L> {
    mode: OffloadMode,
    workers: Vec<Worker>,
    /// Where the batches go, in order: those of `own`, then those of each worker.
    order: VecDeque<L>,
    own: VecDeque<Unsealed>,
    bytes: usize,
    elsewhere: u64,
    /// How many threads can run at once.
    cores: usize,
    /// A thread could not be made since the switch was turned last.
    failed: bool,
}

/// One more thread. What it is given comes back before it is given anything else.
#[derive(Debug)]
struct Worker {
    give: SyncSender<Share>,
    take: Receiver<Share>,
    share: Share,
    away: bool,
}

/// Batches of one worker in one turn; it goes to and fro for its memory.
#[derive(Debug, Default)]
struct Share {
    unsealed: VecDeque<Unsealed>,
    sealed: VecDeque<Batch>,
}

impl<L> Default for Sealers<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> Sealers<L> {
    /// As the number of cores suggests.
    pub fn new() -> Self {
        Self {
            mode: OffloadMode::Auto,
            workers: Vec::new(),
            order: VecDeque::new(),
            own: VecDeque::new(),
            bytes: 0,
            elsewhere: 0,
            // Asked once: the answer is in files.
            cores: thread::available_parallelism().map_or(1, usize::from),
            failed: false,
        }
    }

    /// Turns the switch, if it is among these.
    pub fn set(&mut self, switches: &[Offload]) {
        for switch in switches {
            if switch.kind == OffloadKind::Seal {
                (self.mode, self.failed) = (switch.mode, false);
            }
        }
        self.workers.truncate(self.wanted());
    }

    /// Whether there are to be any.
    pub fn are_used(&self) -> bool {
        self.wanted() > 0
    }

    /// Adds what is known here to a status.
    pub fn status(&self, status: &mut proto::irm::IpcpStatus) {
        let mode = Offload {
            kind: OffloadKind::Seal,
            mode: self.mode,
        }
        .to_string();
        if let Some((name, mode)) = mode.split_once('=') {
            status
                .settings
                .insert(format!("offload.{name}"), mode.to_owned());
        }
        status.settings.insert(
            "offload.seal_threads".to_owned(),
            self.workers.len().to_string(),
        );
        if self.elsewhere > 0 {
            status
                .counters
                .insert("sealed.elsewhere".to_owned(), self.elsewhere);
        }
    }

    /// How many threads there are to be.
    fn wanted(&self) -> usize {
        match self.mode {
            OffloadMode::Off => 0,
            OffloadMode::On => (self.cores - 1).clamp(1, MOST),
            // With AES instructions a seal costs less than it takes to have it put on elsewhere, unless a core has nothing else to do.
            OffloadMode::Auto if aes_is_fast() => 0,
            OffloadMode::Auto => (self.cores / 2).saturating_sub(1).min(MOST),
        }
    }

    /// Takes a batch that leaves in this turn. Says whether no more should be taken before all have left.
    pub fn put(&mut self, to: L, unsealed: Unsealed) -> bool {
        self.bytes += unsealed.bytes();
        self.order.push_back(to);
        self.own.push_back(unsealed);
        self.own.len() >= TURN
    }

    /// Gives each thread its share of what was taken, if there is enough for that.
    pub fn begin(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // No thread is woken for less than it costs to wake it.
        let shares = (bytes / ENOUGH).min(self.wanted() + 1);
        if shares < 2 || self.own.len() < 2 || !self.raise(shares - 1) {
            return;
        }
        // The first stay with this thread, which sends them while the others still seal.
        let mut seen = 0;
        for _ in 0..self.own.len() {
            let Some(unsealed) = self.own.pop_front() else {
                break;
            };
            let share = (seen * shares / bytes).min(shares - 1);
            seen += unsealed.bytes();
            match share.checked_sub(1) {
                None => self.own.push_back(unsealed),
                Some(n) => {
                    self.workers[n].share.unsealed.push_back(unsealed);
                    self.elsewhere += 1;
                }
            }
        }
        self.workers.iter_mut().for_each(Worker::start);
    }

    /// The next batch to be sent, sealed; `None`: all have left.
    pub fn pop(&mut self) -> Option<(L, Batch)> {
        let to = self.order.pop_front()?;
        if let Some(unsealed) = self.own.pop_front() {
            return Some((to, unsealed.seal()));
        }
        for worker in &mut self.workers {
            match worker.pop() {
                Ok(None) => {}
                Ok(Some(batch)) => return Some((to, batch)),
                Err(Gone) => break,
            }
        }
        // A thread has panicked, and its share is lost.
        self.order.clear();
        self.workers.clear();
        None
    }

    /// Sees to it that so many threads are there; `false`: they can't be made.
    fn raise(&mut self, count: usize) -> bool {
        while self.workers.len() < count && !self.failed {
            match Worker::raise(self.workers.len()) {
                Ok(worker) => self.workers.push(worker),
                Err(e) => {
                    tracing::warn!("no thread can be made to seal: {e}");
                    self.failed = true;
                }
            }
        }
        self.workers.len() >= count
    }
}

/// A thread is there no more.
struct Gone;

impl Worker {
    fn raise(n: usize) -> io::Result<Self> {
        let (give, work) = sync_channel::<Share>(1);
        let (done, take) = sync_channel(1);
        let seal = move || {
            while let Some(mut share) = soon(&work) {
                share
                    .sealed
                    .extend(share.unsealed.drain(..).map(Unsealed::seal));
                if done.send(share).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name(format!("seal-{n}"))
            .spawn(seal)?;
        Ok(Self {
            give,
            take,
            share: Share::default(),
            away: false,
        })
    }

    fn start(&mut self) {
        if !self.share.unsealed.is_empty() {
            let share = std::mem::take(&mut self.share);
            self.away = self.give.send(share).is_ok();
        }
    }

    /// The next batch of its share, once it has sealed all of that.
    fn pop(&mut self) -> Result<Option<Batch>, Gone> {
        if std::mem::take(&mut self.away) {
            self.share = soon(&self.take).ok_or(Gone)?;
        }
        Ok(self.share.sealed.pop_front())
    }
}

/// What comes next, which is often there within less time than a thread takes to wake; `None`: the other side is gone.
fn soon<T>(from: &Receiver<T>) -> Option<T> {
    let since = Instant::now();
    loop {
        for _ in 0..64 {
            match from.try_recv() {
                Ok(next) => return Some(next),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
            }
        }
        if since.elapsed() >= SPIN {
            return from.recv().ok();
        }
    }
}

/// How long a thread looks out for what comes next before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// The most threads beside the one that sends: its other work keeps no more busy.
const MOST: usize = 3;
/// Batches in one turn.
pub(crate) const TURN: usize = 8;
/// What is worth a thread's while, in bytes.
const ENOUGH: usize = 48 << 10;
