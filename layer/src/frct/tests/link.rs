use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::frct::{Fault, Frct, Params, State};

/// How a link treats PDUs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) delay: Duration,
    /// Up to so much more, by chance: so packets overtake each other.
    pub(super) jitter: Duration,
    /// Of 1000.
    pub(super) loss: u32,
    pub(super) doubled: u32,
    /// PDUs of more bytes are lost.
    pub(super) mtu: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            doubled: 0,
            mtu: usize::MAX,
        }
    }
}

/// Two ends, what is on its way between them, and the time.
pub(super) struct Pair {
    pub(super) ends: [Frct; 2],
    pub(super) link: Link,
    pub(super) now: Instant,
    way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    count: u64,
    chance: ChaCha8Rng,
    /// Whether an end reads what comes.
    pub(super) reads: [bool; 2],
    pub(super) read: [Vec<Vec<u8>>; 2],
    pub(super) refused: Vec<Fault>,
}

impl Pair {
    pub(super) fn new(params: &Params, link: Link, seed: u64) -> Self {
        let start = super::start();
        Self {
            ends: [(); 2].map(|()| Frct::new(start, params.clone())),
            link,
            now: start,
            way: BTreeMap::new(),
            count: 0,
            chance: ChaCha8Rng::seed_from_u64(seed),
            reads: [true; 2],
            read: Default::default(),
            refused: Vec::new(),
        }
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        self.chance.next_u32() % 1000 < of_thousand
    }

    /// Sends all that may go now.
    pub(super) fn flush(&mut self) {
        for from in 0..2 {
            let mut pdu = [0; 9000];
            let mut sent = 0;
            while let Some(len) = self.ends[from].poll(self.now, &mut pdu) {
                sent += 1;
                assert!(sent < 100_000, "polls without end");
                self.send(from, &pdu[..len]);
            }
            // Time may have ended the wait for what a lossy flow has lost.
            self.fetch(from);
        }
    }

    fn send(&mut self, from: usize, pdu: &[u8]) {
        let copies = 1 + u32::from(self.chance(self.link.doubled));
        for _ in 0..copies {
            if pdu.len() > self.link.mtu || self.chance(self.link.loss) {
                continue;
            }
            let jitter = self.link.jitter.as_micros() as u64;
            let jitter = self.chance.next_u64() % (jitter + 1);
            let at = self.now + self.link.delay + Duration::from_micros(jitter);
            self.count += 1;
            self.way.insert((at, self.count), (1 - from, pdu.to_vec()));
        }
    }

    /// Goes to the next event; false: there is none before `until`.
    pub(super) fn step(&mut self, until: Instant) -> bool {
        self.flush();
        let way = self.way.first_key_value().map(|((at, _), _)| *at);
        let timers = self.ends.iter().filter_map(Frct::deadline);
        let Some(next) = timers.chain(way).min().filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        assert!(
            next >= self.now || way == Some(next),
            "a deadline that has passed: {:?}",
            self.ends.each_ref().map(|end| end
                .waits()
                .map(|w| w.map(|at| at.checked_duration_since(self.now))))
        );
        self.now = self.now.max(next);
        while let Some(entry) = self.way.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, pdu) = entry.remove();
            if let Err(reason) = self.ends[to].receive(self.now, &pdu, false) {
                self.refused.push(reason);
            }
            self.fetch(to);
        }
        true
    }

    pub(super) fn fetch(&mut self, end: usize) {
        while self.reads[end]
            && let Some(sdu) = self.ends[end].read()
        {
            self.read[end].push(sdu.to_vec());
        }
    }

    /// Runs until both are done or failed, or the time is up.
    pub(super) fn settle(&mut self, most: Duration) {
        let until = self.now + most;
        let settled = |end: &Frct| matches!(end.state(), State::Finished | State::Failed(_));
        while !self.ends.iter().all(settled) && self.step(until) {}
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }
}

/// SDUs that tell which they are.
pub(super) fn sdu(n: u32, len: usize) -> Vec<u8> {
    let mut out = n.to_be_bytes().to_vec();
    out.resize(len.max(4), n as u8);
    out
}
