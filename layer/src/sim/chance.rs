//! Chance that follows from a seed. Nothing else in the simulator may be random.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// A stream of decisions.
pub(super) struct Chance(ChaCha20Rng);

impl Chance {
    /// One of many independent streams of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// A number below `n`; 0 for 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        // The bias is far below what any schedule could show.
        usize::try_from(self.0.next_u64() % (n.max(1) as u64)).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True so many times of a thousand.
    pub(super) fn permille(&mut self, p: u32) -> bool {
        self.below(1000) < p as usize
    }

    /// A time from `low` to `high` milliseconds, in microseconds.
    pub(super) fn millis(&mut self, low: u64, high: u64) -> Duration {
        let micros = self.between(0, usize::try_from((high - low) * 1000).unwrap_or(0));
        Duration::from_millis(low) + Duration::from_micros(micros as u64)
    }

    /// A time within bounds.
    pub(super) fn time(&mut self, (low, high): (Duration, Duration)) -> Duration {
        let span = high.saturating_sub(low).as_micros();
        let micros = self.between(0, usize::try_from(span).unwrap_or(usize::MAX));
        low + Duration::from_micros(micros as u64)
    }

    /// One of them.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len())).copied()
    }

    /// Puts them into any order.
    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }

    /// Fills with bytes.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// The seed of a machine.
    pub(super) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        seed
    }
}
