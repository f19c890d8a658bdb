//! Spreads packets over the round trip: a bucket of bytes that fills at a rate.

use std::time::{Duration, Instant};

/// The bucket. Packets go as long as it isn't empty, the last into debt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacer {
    bytes: i64,
    at: Instant,
}

impl Pacer {
    pub(super) fn new(now: Instant, payload: usize) -> Self {
        Self {
            bytes: (BURST * payload) as i64,
            at: now,
        }
    }

    /// Whether a packet may go at `rate` bytes per second, or when it may.
    pub(super) fn ready(&mut self, now: Instant, rate: u64, payload: usize) -> Result<(), Instant> {
        if self.bytes > 0 {
            return Ok(());
        }
        let rate = rate.max(1);
        let (quantum, most) = sizes(rate, payload);
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let gained = passed * u128::from(rate) / SECOND;
        if gained >= most as u128 {
            (self.bytes, self.at) = (most, now);
        } else if gained > 0 {
            self.bytes = (self.bytes + gained as i64).min(most);
            // Not to `now`: the fraction of a byte would be lost at each call.
            self.at += Duration::from_nanos((gained * SECOND / u128::from(rate)) as u64);
        }
        if self.bytes > 0 {
            return Ok(());
        }
        // Wakes for a quantum at a time, so that a fast flow doesn't wake for each packet.
        let wait = (quantum - self.bytes) as u128 * SECOND / u128::from(rate);
        Err(self.at + Duration::from_nanos(wait.min(SECOND) as u64 + 1))
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes -= bytes as i64;
    }
}

/// What a wake-up is for, and the most that may go at once: what 1 ms and 2 ms bring, but some packets at least.
fn sizes(rate: u64, payload: usize) -> (i64, i64) {
    let quantum = (rate / 1000).max(payload as u64).min(MOST) as i64;
    (quantum, (2 * quantum).max((BURST * payload) as i64))
}

const SECOND: u128 = 1_000_000_000;
/// Packets that may always go at once after a pause (RFC 9002 §7.7).
const BURST: usize = 10;
const MOST: u64 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::super::tests::start;
    use super::*;

    /// How many bytes go in a second of `step`s, and how often it woke.
    fn second(rate: u64) -> (u64, u32) {
        let start = start();
        let mut pacer = Pacer::new(start, 1000);
        let (mut now, mut sent, mut woken) = (start, 0, 0);
        while now < start + Duration::from_secs(1) {
            match pacer.ready(now, rate, 1000) {
                Ok(()) => {
                    pacer.sent(1000);
                    sent += 1000;
                }
                Err(at) => {
                    assert!(at > now);
                    now = at;
                    woken += 1;
                }
            }
        }
        (sent, woken)
    }

    #[test]
    fn a_second_carries_its_rate_and_wakes_at_most_each_millisecond() {
        for rate in [20_000, 1_250_000, 125_000_000, 1_250_000_000] {
            let (sent, woken) = second(rate);
            let most = rate + rate / 100 + 12_000;
            assert!(
                sent >= rate - rate / 100 && sent <= most,
                "{sent} of {rate}"
            );
            assert!(woken <= 1001, "{woken}");
        }
    }

    #[test]
    fn polls_between_do_not_eat_the_fractions() {
        let start = start();
        let mut pacer = Pacer::new(start, 1000);
        let mut sent = 0;
        for us in 0..1_000_000 {
            if pacer
                .ready(start + Duration::from_micros(us), 10_000, 1000)
                .is_ok()
            {
                pacer.sent(1000);
                sent += 1000;
            }
        }
        assert!((20_000..22_000).contains(&sent), "{sent}");
    }
}
