//! When this member says anew what its links are: the first change at once, and the more of them follow, the more of them
//! go together. It must not hold back that a link is gone.

use std::time::{Duration, Instant};

/// The time of the next word, and how it grows.
#[derive(Debug, Default)]
pub(super) struct Hold {
    last: Option<Instant>,
    wait: Duration,
    due: Option<Instant>,
}

impl Hold {
    /// Something has changed, or time has passed. Whether that is to be said now; if not, it is due later.
    pub(super) fn passes(&mut self, now: Instant, urgent: bool) -> bool {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if since.is_none_or(|since| since >= QUIET) {
            self.wait = Duration::ZERO;
        }
        let at = self.last.map_or(now, |last| last + self.wait);
        if !urgent && at > now {
            self.due = Some(at);
            return false;
        }
        self.wait = (self.wait * 2).clamp(FIRST, MOST);
        (self.last, self.due) = (Some(now), None);
        true
    }

    /// When what was held back is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

/// The least time between two words, and the most.
const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_millis(800);
/// After so long a time without a word the next goes at once.
const QUIET: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn changes_gather_and_a_loss_never_waits() {
        let (mut hold, start) = (Hold::default(), Instant::now());
        assert!(hold.passes(start, false));
        let mut said = Vec::new();
        for step in 1..=4000_u64 {
            let after = Duration::from_millis(step);
            if hold.passes(start + after, false) {
                said.push(step);
                assert_eq!(hold.deadline(), None);
            }
        }
        assert_eq!(said, [50, 150, 350, 750, 1550, 2350, 3150, 3950]);
        let now = start + Duration::from_millis(4001);
        assert!(!hold.passes(now, false) && hold.deadline() > Some(now));
        assert!(hold.passes(now, true), "a loss");
        assert_eq!(hold.deadline(), None);
        assert!(hold.passes(now + QUIET, false), "after a quiet time");
    }
}
