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
        }
    }

    /// Turns the switch, if it is among these.
    pub fn set(&mut self, switches: &[Offload]) {
        for switch in switches {
            if switch.kind == OffloadKind::Seal {
                self.mode = switch.mode;
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
        let cores = thread::available_parallelism().map_or(1, usize::from);
        match self.mode {
            OffloadMode::Off => 0,
            OffloadMode::On => (cores - 1).clamp(1, MOST),
            // With AES instructions a seal costs less than it takes to have it put on elsewhere, unless a core has nothing else to do.
            OffloadMode::Auto if aes_is_fast() => 0,
            OffloadMode::Auto => (cores / 2).saturating_sub(1).min(MOST),
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
        if self.own.len() < 2 || bytes < ENOUGH {
            return;
        }
        if let Err(e) = self.raise() {
            tracing::warn!("no more threads to seal: {e}");
            self.mode = OffloadMode::Off;
        }
        // The first stay with this thread, which sends them while the others still seal.
        let (mut seen, shares) = (0, self.workers.len() + 1);
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
        let own = self.own.pop_front().map(Unsealed::seal);
        let batch = own.or_else(|| self.workers.iter_mut().find_map(Worker::pop));
        if batch.is_none() {
            self.order.clear();
        }
        batch.map(|batch| (to, batch))
    }

    /// Starts the threads that are wanted.
    fn raise(&mut self) -> io::Result<()> {
        for n in self.workers.len()..self.wanted() {
            self.workers.push(Worker::raise(n)?);
        }
        Ok(())
    }
}

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
    fn pop(&mut self) -> Option<Batch> {
        if std::mem::take(&mut self.away) {
            // It sends each share back, unless it has panicked.
            self.share = soon(&self.take)?;
        }
        self.share.sealed.pop_front()
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
/// Batches in one turn: as many as a lower end keeps that fills.
const TURN: usize = 8;
/// With less to seal, in bytes, to wake a thread costs more than it brings.
const ENOUGH: usize = 64 << 10;
