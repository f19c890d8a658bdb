//! What the simulator asks of thousands of machines again and again, where a whole status would cost too much. It must not
//! change anything.

use super::Unicast;

impl Unicast {
    /// How many members it can reach, itself not counted.
    pub fn reachable(&self) -> usize {
        self.me.as_ref().map_or(0, |me| me.routing.fib.len())
    }

    /// How many neighbours it has.
    pub fn neighbours(&self) -> usize {
        self.adjacent.len()
    }

    /// One number for all records that it holds: the same for those that hold the same.
    pub fn knowledge(&self) -> u64 {
        let sums = self.me.as_ref().map(|me| me.routing.lsdb.summary().sums);
        let sums = sums.unwrap_or_default().into_iter();
        sums.fold(0, u64::wrapping_add)
    }

    /// One of its counters.
    pub fn counter(&self, what: &str) -> u64 {
        let found = self.stats.iter().find(|(word, _)| *word == what);
        found.map_or(0, |(_, n)| n)
    }
}
