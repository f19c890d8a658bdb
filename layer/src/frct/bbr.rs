//! After BBR (Cardwell et al. 2016; draft-ietf-ccwg-bbr): keeps the path full by its bandwidth and round trip as measured, whatever
//! is lost now and then. Of the second version it has the bound on what is in flight, lowered where many packets are lost.

use std::time::{Duration, Instant};

use super::control::{Acked, CongestionControl, LEAST_PACKETS, Lost, MAX_WINDOW, first_window};

/// A model of the path, and where the flow is in probing it.
#[derive(Debug, Clone)]
pub(super) struct Bbr {
    payload: usize,
    phase: Phase,
    /// The greatest rates of the last rounds, by round.
    rates: [(u64, u64); RATES],
    round: u64,
    least: Option<(Duration, Instant)>,
    /// The greatest rate when start-up looked last, and for how many rounds it hasn't grown.
    full: (u64, u32),
    pace: f64,
    window: f64,
    /// More in flight than this has cost too many packets.
    bound: f64,
    /// Bytes that arrived and were lost in this round.
    arrived: usize,
    lost: usize,
    /// Packets sent before it belong to the last congestion that was answered.
    answered: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubles each round.
    Startup,
    /// Lets the queue that start-up has made run empty.
    Drain,
    /// Turns to the next of the gains at a time.
    Probe { turn: usize, since: Instant },
    /// Nearly stops so that the least round trip shows; what it was before, and since when little is in flight.
    Rest { since: Option<Instant>, full: bool },
}

impl Bbr {
    pub(super) fn new(payload: usize) -> Self {
        Self {
            payload,
            phase: Phase::Startup,
            rates: [(0, 0); RATES],
            round: 0,
            least: None,
            full: (0, 0),
            pace: 0.0,
            window: first_window(payload) as f64,
            bound: f64::INFINITY,
            arrived: 0,
            lost: 0,
            answered: None,
        }
    }

    /// Bytes per second: the greatest of the last rounds.
    fn rate(&self) -> u64 {
        self.rates.iter().map(|(_, rate)| *rate).max().unwrap_or(0)
    }

    /// What the path holds without a queue, bytes.
    fn path(&self) -> f64 {
        let least = self.least.map_or(0.0, |(rtt, _)| rtt.as_secs_f64());
        self.rate() as f64 * least
    }

    fn gain(&self) -> f64 {
        match self.phase {
            Phase::Startup => STARTUP,
            Phase::Drain => 1.0 / STARTUP,
            Phase::Probe { turn, .. } => GAINS[turn],
            Phase::Rest { .. } => 1.0,
        }
    }

    fn measure(&mut self, ack: &Acked) {
        if ack.round {
            self.round += 1;
            self.end_round();
        }
        self.arrived += ack.bytes;
        if let Some(rate) = ack.rate
            && (!ack.idle || rate >= self.rate())
        {
            // The slot of a round that is out of the filter is taken over.
            let slot = &mut self.rates[self.round as usize % RATES];
            if slot.0 != self.round {
                *slot = (self.round, 0);
            }
            slot.1 = slot.1.max(rate);
        }
        let oldest = self.round.saturating_sub(RATES as u64 - 1);
        for slot in &mut self.rates {
            if slot.0 < oldest && !ack.idle {
                slot.1 = 0;
            }
        }
    }

    /// Looks at the share that was lost in the round that ends.
    fn end_round(&mut self) {
        let all = self.arrived + self.lost;
        if self.lost * 1000 > all * TOO_MANY && self.lost > 8 * self.payload {
            self.bound = (self.bound.min(self.window) * BETA).max(self.path());
            if self.phase == Phase::Startup {
                self.full.1 = FULL_ROUNDS;
            }
        } else if self.bound.is_finite() {
            // It is tried again, slowly.
            self.bound += self.bound / 16.0 + self.payload as f64;
            if self.bound > 4.0 * self.path() {
                self.bound = f64::INFINITY;
            }
        }
        (self.arrived, self.lost) = (0, 0);
    }

    fn advance(&mut self, ack: &Acked) {
        let now = ack.now;
        if self.phase == Phase::Startup && ack.round && !ack.idle {
            let rate = self.rate();
            if rate as f64 >= self.full.0 as f64 * 1.25 {
                self.full = (rate, 0);
            } else {
                self.full.1 += 1;
            }
            if self.full.1 >= FULL_ROUNDS {
                self.phase = Phase::Drain;
            }
        }
        if self.phase == Phase::Drain && ack.in_flight as f64 <= self.path() {
            self.phase = self.probe(now);
        }
        if let Phase::Probe { turn, since } = self.phase {
            let least = self.least.map_or(Duration::ZERO, |(rtt, _)| rtt);
            let passed = now.saturating_duration_since(since) > least;
            let done = match GAINS[turn] {
                gain if gain > 1.0 => {
                    passed && (self.lost > 0 || ack.in_flight as f64 >= gain * self.path())
                        || now.saturating_duration_since(since) > 4 * least
                }
                gain if gain < 1.0 => {
                    // Until its own queue is gone.
                    ack.in_flight as f64 <= self.path()
                        || now.saturating_duration_since(since) > 4 * least
                }
                _ => passed,
            };
            if done {
                let turn = (turn + 1) % GAINS.len();
                self.phase = Phase::Probe { turn, since: now };
            }
        }
        self.rest(ack);
    }

    fn probe(&self, now: Instant) -> Phase {
        // Not in step with others: what was measured differs from flow to flow.
        let turn = 2 + (self.rate() / 64 + self.round) as usize % (GAINS.len() - 2);
        Phase::Probe { turn, since: now }
    }

    fn rest(&mut self, ack: &Acked) {
        let now = ack.now;
        let stale = self
            .least
            .is_some_and(|(_, at)| now.saturating_duration_since(at) > LEAST_LIVES);
        if let Some(rtt) = ack.rtt
            && (stale || self.least.is_none_or(|(least, _)| rtt <= least))
        {
            self.least = Some((rtt, now));
        }
        if let Phase::Rest { since, full } = &mut self.phase {
            let full = *full;
            if let Some(at) = *since {
                let rtt = self.least.map_or(Duration::ZERO, |(rtt, _)| rtt);
                if now.saturating_duration_since(at) >= REST.max(rtt) {
                    self.phase = if full {
                        self.probe(now)
                    } else {
                        Phase::Startup
                    };
                }
            } else if ack.in_flight <= LEAST_PACKETS * self.payload {
                *since = Some(now);
            }
        } else if stale && !ack.idle {
            let full = self.full.1 >= FULL_ROUNDS;
            self.phase = Phase::Rest { since: None, full };
        }
    }

    fn steer(&mut self, ack: &Acked) {
        let path = self.path();
        if path <= 0.0 {
            self.window += ack.bytes as f64;
            return;
        }
        self.pace = self.gain() * self.rate() as f64;
        let gain = if self.full.1 < FULL_ROUNDS {
            STARTUP
        } else {
            2.0
        };
        // Room for acknowledgements that come together.
        let target = gain * path + (3 * self.payload) as f64 + self.pace * 0.002;
        self.window = if self.full.1 < FULL_ROUNDS {
            (self.window + ack.bytes as f64).max(first_window(self.payload) as f64)
        } else {
            (self.window + ack.bytes as f64).min(target)
        };
        self.window = self.window.min(MAX_WINDOW as f64);
    }
}

impl CongestionControl for Bbr {
    fn on_sent(&mut self, _: Instant, _: usize, _: usize) {}

    fn on_ack(&mut self, ack: &Acked) {
        self.measure(ack);
        self.advance(ack);
        self.steer(ack);
    }

    fn on_loss(&mut self, loss: &Lost) {
        self.lost += loss.bytes;
        if loss.persistent {
            self.window = (LEAST_PACKETS * self.payload) as f64;
        }
    }

    fn on_ecn(&mut self, now: Instant, sent: Instant) -> bool {
        if self.answered.is_some_and(|at| sent <= at) {
            return false;
        }
        self.answered = Some(now);
        self.bound = (self.bound.min(self.window) * BETA).max(self.path());
        if self.phase == Phase::Startup {
            self.full.1 = FULL_ROUNDS;
        }
        true
    }

    fn on_spurious(&mut self, _: Instant) {
        self.lost = 0;
    }

    fn set_payload(&mut self, payload: usize) {
        self.payload = payload;
    }

    fn window(&self) -> usize {
        let least = (LEAST_PACKETS * self.payload) as f64;
        if matches!(self.phase, Phase::Rest { .. }) {
            return least as usize;
        }
        self.window.min(self.bound).max(least) as usize
    }

    fn copy(&self) -> Box<dyn CongestionControl> {
        Box::new(self.clone())
    }

    fn pacing_rate(&self, smooth: Duration) -> u64 {
        if self.pace > 0.0 {
            return self.pace as u64;
        }
        (STARTUP * self.window / smooth.as_secs_f64().max(1e-6)) as u64
    }
}

/// 2 / ln 2: what doubles the rate each round.
const STARTUP: f64 = 2.885;
const GAINS: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// Rounds that the greatest rate is kept for.
const RATES: usize = 10;
/// Start-up ends when the rate hasn't grown by a quarter in so many rounds.
const FULL_ROUNDS: u32 = 3;
/// The least round trip is measured anew after this time, for that time.
const LEAST_LIVES: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_millis(100);
/// More lost packets of 1000 in a round than this are a sign of congestion.
const TOO_MANY: usize = 20;
const BETA: f64 = 0.85;
