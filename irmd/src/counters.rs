//! What the daemon counts: every refusal and loss by its reason.

use std::collections::BTreeMap;

use dashmap::DashMap;

/// Counters by name.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: DashMap<&'static str, u64>,
}

impl Tally {
    /// Counts one.
    pub(crate) fn add(&self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    /// All of them.
    pub(crate) fn read(&self) -> BTreeMap<&'static str, u64> {
        self.counts.iter().map(|e| (*e.key(), *e.value())).collect()
    }
}
