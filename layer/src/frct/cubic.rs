//! Cubic (RFC 9438) with HyStart++ (RFC 9406).

use std::time::{Duration, Instant};

use super::control::{Acked, CongestionControl, LEAST_PACKETS, Lost, MAX_WINDOW, first_window};

/// Grows by a cubic function of the time since the last loss, however long the round trip.
#[derive(Debug, Clone)]
pub(super) struct Cubic {
    payload: f64,
    window: f64,
    threshold: f64,
    /// The window before the last reduction.
    max: f64,
    /// Since when the window grows, from which size, and in how many seconds it is at `max` again.
    epoch: Option<Epoch>,
    /// Packets sent before it belong to the last reduction.
    recovery: Option<Instant>,
    /// How things stood before the last reduction.
    before: Option<(f64, f64, f64)>,
    start: Start,
}

#[derive(Debug, Clone, Copy)]
struct Epoch {
    begun: Instant,
    k: f64,
    /// Where the window is level.
    top: f64,
    /// The window that Reno would have.
    reno: f64,
}

/// HyStart++: leaves slow start when the round trip grows.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    last: Option<Duration>,
    current: Option<Duration>,
    samples: u32,
    /// In conservative slow start: rounds so far, and the round trip at its begin.
    slowly: Option<(u32, Duration)>,
}

impl Cubic {
    pub(super) fn new(payload: usize) -> Self {
        Self {
            payload: payload as f64,
            window: first_window(payload) as f64,
            threshold: f64::INFINITY,
            max: 0.0,
            epoch: None,
            recovery: None,
            before: None,
            start: Start::default(),
        }
    }

    fn least(&self) -> f64 {
        LEAST_PACKETS as f64 * self.payload
    }

    fn reduce(&mut self, now: Instant, sent: Instant) -> bool {
        if self.recovery.is_some_and(|at| sent <= at) {
            return false;
        }
        self.before = Some((self.window, self.threshold, self.max));
        self.recovery = Some(now);
        self.epoch = None;
        // Fast convergence: makes room for others (RFC 9438 §4.7).
        self.max = if self.window < self.max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * BETA).max(self.least());
        self.threshold = self.window;
        true
    }

    fn grow(&mut self, ack: &Acked) {
        let bytes = ack.bytes as f64;
        let (window, max, payload) = (self.window, self.max, self.payload);
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            begun: ack.now,
            k: ((max - window).max(0.0) / payload / C).cbrt(),
            top: max.max(window),
            reno: window,
        });
        let passed = ack.now.saturating_duration_since(epoch.begun).as_secs_f64();
        let t = passed + ack.smooth.as_secs_f64() - epoch.k;
        let cubic = C * t.powi(3) * payload + epoch.top;
        // RFC 9438 §4.3: until it is where it was, Reno grows by less than one packet each round.
        let alpha = if epoch.reno < max {
            3.0 * (1.0 - BETA) / (1.0 + BETA)
        } else {
            1.0
        };
        epoch.reno += alpha * payload * bytes / window;
        let target = cubic.clamp(window, 1.5 * window);
        let cubic = window + (target - window) * bytes / window;
        self.window = cubic.max(epoch.reno).min(MAX_WINDOW as f64);
    }

    fn slow_start(&mut self, ack: &Acked) {
        let start = &mut self.start;
        if ack.round {
            (start.last, start.current, start.samples) = (start.current, None, 0);
            if let Some((rounds, _)) = &mut start.slowly {
                *rounds += 1;
                if *rounds > CSS_ROUNDS {
                    self.threshold = self.window;
                    self.max = self.window;
                    return;
                }
            }
        }
        let by = if start.slowly.is_some() {
            CSS_DIVISOR
        } else {
            1.0
        };
        self.window = (self.window + ack.bytes as f64 / by).min(MAX_WINDOW as f64);
        if let Some(rtt) = ack.rtt {
            start.current = Some(start.current.map_or(rtt, |c| c.min(rtt)));
            start.samples += 1;
        }
        let (Some(last), Some(current)) = (start.last, start.current) else {
            return;
        };
        if start.samples < RTT_SAMPLES {
            return;
        }
        match start.slowly {
            Some((_, baseline)) if current < baseline => start.slowly = None,
            None if current >= last + (last / 8).clamp(MIN_RISE, MAX_RISE) => {
                start.slowly = Some((0, current));
            }
            Some(_) | None => {}
        }
    }
}

impl CongestionControl for Cubic {
    fn on_sent(&mut self, _: Instant, _: usize, _: usize) {}

    fn on_ack(&mut self, ack: &Acked) {
        if self.recovery.is_some_and(|at| ack.sent <= at) {
            return;
        }
        if ack.idle {
            // The window wasn't used: whether it may grow isn't known (RFC 9438 §5.8).
            self.epoch = None;
        } else if self.window < self.threshold {
            self.slow_start(ack);
        } else {
            self.grow(ack);
        }
    }

    fn on_loss(&mut self, loss: &Lost) {
        self.reduce(loss.now, loss.sent);
        if loss.persistent {
            self.window = self.least();
            (self.epoch, self.before, self.recovery) = (None, None, None);
            self.start = Start::default();
        }
    }

    fn on_ecn(&mut self, now: Instant, sent: Instant) -> bool {
        let reduced = self.reduce(now, sent);
        if reduced {
            self.before = None;
        }
        reduced
    }

    fn on_spurious(&mut self, _: Instant) {
        // RFC 9438 §4.9.2.
        if let Some((window, threshold, max)) = self.before.take()
            && self.window < window
        {
            (self.window, self.threshold, self.max) = (window, threshold, max);
            self.epoch = None;
        }
    }

    fn set_payload(&mut self, payload: usize) {
        self.payload = payload as f64;
        self.window = self.window.max(self.least());
    }

    fn window(&self) -> usize {
        self.window as usize
    }

    fn copy(&self) -> Box<dyn CongestionControl> {
        Box::new(self.clone())
    }

    fn pacing_rate(&self, smooth: Duration) -> u64 {
        let gain = if self.window < self.threshold {
            2.0
        } else {
            1.2
        };
        (gain * self.window / smooth.as_secs_f64().max(1e-6)) as u64
    }
}

const BETA: f64 = 0.7;
const C: f64 = 0.4;
/// RFC 9406 §4.3.
const MIN_RISE: Duration = Duration::from_millis(4);
const MAX_RISE: Duration = Duration::from_millis(16);
const RTT_SAMPLES: u32 = 8;
const CSS_DIVISOR: f64 = 4.0;
const CSS_ROUNDS: u32 = 5;
