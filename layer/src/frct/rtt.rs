//! The round trip (RFC 9002 §5, RFC 6298).

use std::time::Duration;

/// The estimate; until the first sample, a guess.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rtt {
    latest: Duration,
    smooth: Duration,
    variance: Duration,
    least: Option<Duration>,
}

impl Rtt {
    pub(super) fn new(guess: Duration) -> Self {
        Self {
            latest: guess,
            smooth: guess,
            variance: guess / 2,
            least: None,
        }
    }

    /// Takes a sample; `delay` is how long the other side says that it kept the packet.
    pub(super) fn sample(&mut self, rtt: Duration, delay: Duration) {
        let rtt = rtt.max(GRANULE);
        self.latest = rtt;
        let Some(least) = self.least else {
            (self.least, self.smooth, self.variance) = (Some(rtt), rtt, rtt / 2);
            return;
        };
        let least = least.min(rtt);
        self.least = Some(least);
        // A delay that would take the sample below the least that was seen is not believed.
        let real = if rtt >= least + delay {
            rtt - delay
        } else {
            rtt
        };
        self.variance = (3 * self.variance + self.smooth.abs_diff(real)) / 4;
        self.smooth = (7 * self.smooth + real) / 8;
    }

    /// The path is another one: the next sample says all that is known of it.
    pub(super) fn forget_least(&mut self) {
        self.least = None;
    }

    pub(super) fn smooth(&self) -> Duration {
        self.smooth
    }

    /// The least that was seen; before the first sample, the guess.
    pub(super) fn least(&self) -> Duration {
        self.least.unwrap_or(self.smooth)
    }

    /// The greater of the smoothed and the latest one.
    pub(super) fn recent(&self) -> Duration {
        self.smooth.max(self.latest)
    }

    /// How long after the last packet a probe goes if nothing is heard (RFC 9002 §6.2.1).
    pub(super) fn probe_timeout(&self, ack_delay: Duration) -> Duration {
        self.smooth + (4 * self.variance).max(TIMER) + ack_delay
    }
}

/// No round trip is taken to be shorter.
const GRANULE: Duration = Duration::from_micros(1);
/// The least that timers tell apart.
const TIMER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_nears_a_steady_round_trip_and_ignores_a_lying_delay() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::new(ms(100));
        assert_eq!(rtt.probe_timeout(ms(5)), ms(305));
        rtt.sample(ms(20), ms(0));
        assert_eq!((rtt.smooth(), rtt.least()), (ms(20), ms(20)));
        for _ in 0..100 {
            rtt.sample(ms(20), ms(15));
        }
        assert_eq!(rtt.smooth(), ms(20), "the delay would make it 5 ms");
        for _ in 0..100 {
            rtt.sample(ms(30), ms(5));
        }
        let smooth = rtt.smooth();
        assert!(smooth > ms(24) && smooth < ms(26), "{smooth:?}");
    }
}
