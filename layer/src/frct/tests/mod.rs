//! Two ends and a link that loses, doubles and swaps, in virtual time.

mod bottleneck;
mod link;
mod lossy;
mod model;
mod reliable;
mod windows;

use std::time::Instant;

/// Some time to begin at.
#[allow(clippy::disallowed_methods, reason = "a test has no other clock")]
pub(super) fn start() -> Instant {
    Instant::now()
}
