//! Whether what waits in the kernel to be read stands there. It must not know what is done about it.

use std::time::{Duration, Instant};

use crate::codel::{Bounds, Codel};

/// The queue of one lower flow's packets that have come and were not read.
#[derive(Debug)]
pub(in super::super) struct Arrivals {
    queue: Codel,
    /// When the last batch was read.
    read: Instant,
}

impl Arrivals {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: Codel::new(BOUNDS),
            read: now,
        }
    }

    /// Whether a batch that is read now and has waited so long is to say that this member reads too slowly.
    ///
    /// What came when all before it had been read found no queue: it waited for the processor, which others use.
    pub(in super::super) fn late(&mut self, now: Instant, waited: Duration) -> bool {
        let alone = self.read + waited <= now;
        self.read = now;
        self.queue.act(now, waited, alone) > 0
    }
}

/// What waits in the kernel until it is read is overtaken by nothing, so a member that reads too slowly says so soon.
const BOUNDS: Bounds = Bounds {
    target: Duration::from_micros(200),
    interval: Duration::from_millis(1),
};

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// How many batches are late of 10,000 that come at these times in µs and take 10 µs each to be read by who runs from time to
    /// time.
    fn late(every: u32, sleeps: u32, runs: u32) -> usize {
        let begin = Instant::now();
        let mut arrivals = Arrivals::new(begin);
        let (mut now, mut late) = (0, 0);
        for came in (0..10_000).map(|n| n * every) {
            now = now.max(came) + 10;
            if now % (sleeps + runs) < sleeps {
                now += sleeps - now % (sleeps + runs);
            }
            late += usize::from(arrivals.late(begin + US * now, US * (now - came)));
        }
        late
    }

    #[test]
    fn who_gets_the_processor_late_and_reads_all_there_is_is_not_too_slow() {
        assert_eq!(late(500, 15_000, 3_000), 0);
        assert_eq!(late(100, 6_000, 3_000), 0);
    }

    #[test]
    fn who_never_reads_all_there_is_is_too_slow() {
        // Comes faster than it can be read, and only just.
        assert!(late(5, 0, 1) > 500);
        assert!(late(38, 9_000, 3_000) > 1000);
    }
}
