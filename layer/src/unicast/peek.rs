//! What the simulator asks of thousands of machines again and again, where a whole status would cost too much. It must not
//! change anything.

use proto::Addr;

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

    /// The neighbour to send to on the way to a member.
    pub fn next_hop(&self, to: Addr) -> Option<Addr> {
        self.me.as_ref()?.routing.next_hop(to)
    }

    /// One of its counters.
    pub fn counter(&self, what: &str) -> u64 {
        let found = self.stats.iter().find(|(word, _)| *word == what);
        found.map_or(0, |(_, n)| n)
    }
}
