//! How many bytes the two ends of a stream may keep: what its rate takes over a few round trips.

use std::time::{Duration, Instant};

/// Bytes that may wait at one end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffers {
    /// To be sent or acknowledged.
    pub send: usize,
    /// To be read, gaps included.
    pub receive: usize,
}

impl Buffers {
    /// The bytes of both.
    pub fn total(&self) -> usize {
        self.send + self.receive
    }
}

/// What a stream needs that is received: what comes in four round trips, so that what is lost twice doesn't stop it (as
/// dynamic right-sizing does for TCP). A sender that this room holds up is so let go faster each time; one that something else
/// holds up is not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Need {
    bytes: u64,
    /// Since when it is measured, and how far the stream had come then.
    since: Option<(Instant, u64)>,
}

impl Need {
    /// The stream has come so far by now, on a path with this round trip. Not what was read counts: that comes in bursts, when a
    /// gap is filled.
    pub(super) fn measure(&mut self, now: Instant, seen: u64, rtt: Duration) {
        let (since, before) = *self.since.get_or_insert((now, seen));
        let passed = now.saturating_duration_since(since);
        if passed < rtt.max(SHORTEST) {
            return;
        }
        let each = u128::from(seen - before) * rtt.as_nanos() / passed.as_nanos();
        let need = u64::try_from(4 * each).unwrap_or(u64::MAX);
        self.bytes = self.bytes.max(need);
        self.since = Some((now, seen));
    }

    /// The bytes that were ever needed.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A rate is measured over no less: what comes in one burst says nothing.
const SHORTEST: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::super::tests::start;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn room_is_for_what_four_round_trips_bring_however_it_comes() {
        for (rtt, rate, need) in [(20, 10_000, 800_000), (1, 1_000_000, 4_000_000)] {
            let (mut now, mut seen, mut room) = (start(), 0, Need::default());
            for ms in 0..1000 {
                room.measure(now, seen, MS * rtt);
                now += MS;
                // In bursts of 3 ms.
                seen += if ms % 3 == 0 { 3 * rate } else { 0 };
            }
            let bytes = room.bytes();
            assert!((need..=need * 8 / 5).contains(&bytes), "{bytes} of {need}");
        }
    }
}
