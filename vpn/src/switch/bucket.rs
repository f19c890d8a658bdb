//! How much may be flooded: so many copies a second, and some more at once.

use std::time::Instant;

use super::Switch;

/// Tokens, each a copy of a frame. A frame goes to all or to none, so the last one may borrow.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: f64::from(Switch::FLOOD.1),
            at: now,
        }
    }

    pub(super) fn take(&mut self, now: Instant, copies: usize) -> bool {
        let (rate, most) = Switch::FLOOD;
        let since = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + since.as_secs_f64() * f64::from(rate)).min(most.into());
        let may = self.tokens > 0.0;
        if may {
            self.tokens -= copies as f64;
        }
        may
    }
}
