//! What happened, counted by reason.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

/// Counters of one machine. A drop is named `drop.REASON`, everything else by what happened.
#[derive(Debug, Default)]
pub(super) struct Stats(FxHashMap<&'static str, u64>);

impl Stats {
    /// Counts one.
    pub(super) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub(super) fn add(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    /// How often something was counted.
    pub(super) fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// All of them, in alphabetical order.
    #[expect(clippy::disallowed_methods, reason = "it is sorted at once")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let sorted: BTreeMap<_, _> = self.0.iter().map(|(what, n)| (*what, *n)).collect();
        sorted.into_iter()
    }
}
