//! How many bytes are sent at once: what takes a lower flow long goes ahead of whatever comes next, voice too. It must not know
//! what is sent.

use std::time::{Duration, Instant};

/// The length of a train that a lower flow takes in a short time, as its pauses tell.
#[derive(Debug)]
pub(super) struct Train {
    bytes: usize,
    /// The lower flow takes packets.
    open: bool,
    /// When it last took no more.
    closed: Option<Instant>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            bytes: Self::LONGEST,
            open: true,
            closed: None,
        }
    }
}

impl Train {
    /// As many bytes as a batch holds.
    pub(super) const LONGEST: usize = 64 << 10;

    /// The lower flow takes packets again, or no more.
    pub(super) fn turned(&mut self, now: Instant, open: bool) {
        self.open = open;
        if !open {
            self.closed = Some(now);
            return;
        }
        let Some(closed) = self.closed else { return };
        let waited = now.saturating_duration_since(closed);
        if waited > 2 * SHORT {
            self.bytes = (self.bytes / 2).max(SHORTEST);
        } else if waited < SHORT / 2 {
            self.bytes = (self.bytes * 2).min(Self::LONGEST);
        }
    }

    /// The most bytes of a train. One that has had no pause for long takes whatever comes.
    pub(super) fn bytes(&self, now: Instant) -> usize {
        if self.is_free(now) {
            Self::LONGEST
        } else {
            self.bytes
        }
    }

    /// Whether less than a whole batch is sent at once.
    pub(super) fn is_short(&self, now: Instant) -> bool {
        self.bytes(now) < Self::LONGEST
    }

    /// Whether the lower flow has taken all that came, for some time.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < MEMORY;
        self.open && !self.closed.is_some_and(lately)
    }
}

/// What a train may take a lower flow.
const SHORT: Duration = Duration::from_millis(2);
/// Two packets of an Ethernet.
const SHORTEST: usize = 3_000;
/// How long it is known that a lower flow is slow.
const MEMORY: Duration = Duration::from_secs(1);

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
mod tests {
    use super::*;

    /// Sends trains over a link of so many bytes a second: how long the last of them took.
    fn last(train: &mut Train, now: &mut Instant, rate: f64) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..50 {
            took = Duration::from_secs_f64(train.bytes(*now) as f64 / rate);
            train.turned(*now, false);
            *now += took;
            train.turned(*now, true);
        }
        took
    }

    #[test]
    fn trains_are_as_long_as_a_link_takes_in_a_few_milliseconds() {
        let (mut train, mut now) = (Train::default(), Instant::now());
        for rate in [1e6, 10e6, 1e9, 3e6] {
            let took = last(&mut train, &mut now, rate);
            assert!(took <= 2 * SHORT, "{took:?} at {rate}");
            let longest = Train::LONGEST as f64 / rate;
            let least = (SHORT / 2).as_secs_f64().min(longest);
            assert!(took.as_secs_f64() >= least, "{took:?} at {rate}");
        }
        // The slowest still send two packets at once.
        last(&mut train, &mut now, 1e4);
        assert_eq!(train.bytes(now), SHORTEST);
        // What was slow a second ago and has had no pause since is slow no longer.
        assert_eq!(train.bytes(now + MEMORY), Train::LONGEST);
    }
}
