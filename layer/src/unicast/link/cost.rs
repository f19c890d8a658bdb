//! What a link costs: from distance and loss, and slow to change, so that packets don't swing between two ways.

use std::time::{Duration, Instant};

use super::Link;

/// The cost of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Cost {
    pub(in super::super) value: u32,
    changed: Option<Instant>,
    /// How long it stays as it is after a change.
    rest: Duration,
}

impl Cost {
    /// The cost of a link of which nothing is known yet.
    pub(super) const UNKNOWN: Self = Self {
        value: BASE,
        changed: None,
        rest: FIRST_REST,
    };

    /// Takes a first idea of the round trip for true until it is measured.
    fn guess(&mut self, rtt: Duration) {
        let millis = u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX);
        if self.changed.is_none() {
            self.value = BASE + millis.min(MAX_GUESS);
        }
    }

    /// Takes what was measured. Says whether the cost changed: by more than a quarter, and the more seldom the more often it
    /// did so lately.
    pub(super) fn update(&mut self, now: Instant, rtt_us: u32, loss_permille: u32) -> bool {
        if rtt_us == 0 {
            return false;
        }
        let loss = loss_permille.saturating_sub(TOLERATED) * PER_TEN_PERMILLE / 10;
        let value = BASE + (rtt_us / 1000).min(MAX_RTT) + loss;
        if value.abs_diff(self.value) <= (self.value / 4).max(MARGIN) {
            return false;
        }
        if let Some(changed) = self.changed {
            let since = now.saturating_duration_since(changed);
            if since < self.rest {
                return false;
            }
            self.rest = if since < CALM.max(self.rest * 4) {
                (self.rest * 2).clamp(CALM, MAX_REST)
            } else {
                FIRST_REST
            };
        }
        (self.value, self.changed) = (value, Some(now));
        true
    }
}

impl Link {
    /// Takes the other side for as far away as the handshake made it seem that has just ended: a long way must not draw
    /// traffic only because it is new.
    pub(in super::super) fn guess_cost(&mut self, now: Instant) {
        let ended = self.handshakes.iter().rfind(|running| running.done);
        if let Some(rtt) = ended.map(|running| running.round_trip(now)) {
            self.cost.guess(rtt);
        }
    }
}

/// What a link costs that is short and loses nothing.
const BASE: u32 = 10;
/// A millisecond of round trip costs 1, up to this.
const MAX_RTT: u32 = 10_000;
/// A handshake may have taken long for other reasons.
const MAX_GUESS: u32 = 1_000;
/// Loss in permille that chance may have made.
const TOLERATED: u32 = 20;
/// What a percent of loss costs beyond that: a link that loses a tenth is worth a detour of four links.
const PER_TEN_PERMILLE: u32 = 4;
const MARGIN: u32 = 2;
/// What is first seen of a change may be only a part of it.
const FIRST_REST: Duration = Duration::from_secs(5);
/// The cost changes twice in that time at most.
const CALM: Duration = Duration::from_secs(60);
const MAX_REST: Duration = Duration::from_secs(160);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn it_follows_what_lasts_and_not_what_swings() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut cost = Cost::UNKNOWN;
        assert!(!cost.update(start, 0, 0), "nothing was measured");
        assert!(
            !cost.update(start, 1_900, 19),
            "a short link costs what an unknown one does"
        );
        assert!(cost.update(start, 40_000, 0));
        assert_eq!(cost.value, 50);
        assert!(!cost.update(at(600), 48_000, 0), "less than a quarter");
        assert!(cost.update(at(600), 40_000, 120));
        assert_eq!(cost.value, 90, "a tenth of loss beyond what chance makes");
        // A link that swings every second for ten minutes.
        let swings =
            (601..1200).filter(|s| cost.update(at(*s), if s % 2 == 0 { 1_000 } else { 90_000 }, 0));
        let swings = swings.count();
        assert!((3..10).contains(&swings), "{swings}");
        assert!(cost.update(at(3000), 500_000, 0), "what lasts is believed");
    }
}
