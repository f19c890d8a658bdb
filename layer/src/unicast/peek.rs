//! What the simulator asks of thousands of machines again and again, where a whole status would cost too much. It must not
//! change anything.

use std::time::{Duration, Instant};

use proto::Addr;

use super::Unicast;
use super::link::KEY_LIFE;
use super::peer::Peer;
use crate::Now;

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

    /// All of its counters.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.stats.iter()
    }

    /// Whether a member is its neighbour.
    pub fn is_beside(&self, member: Addr) -> bool {
        self.adjacent.contains_key(&member)
    }

    /// Something that it should have no longer when all flows were closed and nothing goes on; `None`: there is no such thing.
    pub fn leftover(&self, now: Now) -> Option<&'static str> {
        let flows = &self.flows;
        let mut links = self.links.values().filter(|l| l.peer().is_some());
        // What is meant for one that is gone may wait for it for some time.
        let near = |address: &Addr| {
            self.me
                .as_ref()
                .is_some_and(|me| me.routing.way(*address).is_some())
        };
        let mut waiting = self.peers.iter().filter(|(address, _)| near(address));
        let over = |born: Instant| now.mono.saturating_duration_since(born) > KEY_LIFE + LATE;
        let old = |peer: &Peer| {
            peer.sessions.oldest().is_some_and(over) || peer.ends.has_old(&peer.sessions)
        };
        let all = [
            ("a flow", !flows.all().is_empty()),
            ("a flow that nobody asks for", flows.outgoing.len() > 0),
            ("a request", flows.incoming.len() > 0),
            ("a timer of a flow", flows.timers.deadline().is_some()),
            ("what a program was to read", !self.uppers.is_empty()),
            (
                "bytes that a neighbour has not acknowledged",
                links.any(|l| !l.channel.is_idle()),
            ),
            (
                "bytes that a member has not acknowledged",
                waiting.any(|(_, p)| !p.channel.is_idle()),
            ),
            (
                "keys of a link that are too old",
                self.links
                    .values()
                    .any(|l| l.oldest_key().is_some_and(over)),
            ),
            (
                "keys of a pair that are too old",
                self.peers.values().any(old),
            ),
        ];
        let has = all.into_iter().find(|(_, has)| *has);
        has.map(|(what, _)| what)
    }

    /// Ends of flows of others that it has told of their end, and that have not said yet that they know.
    pub fn unacknowledged_ends(&self) -> usize {
        self.flows.closing.len()
    }

    /// Whether the directory has anything of a member, withdrawn or not.
    pub fn remembers_name_of(&self, member: Addr) -> bool {
        self.me.as_ref().is_some_and(|me| me.dir.remembers(member))
    }

    /// Something that it has of a member, or shares with it.
    pub fn dealings(&self, now: Now, with: Addr) -> Option<&'static str> {
        let me = self.me.as_ref()?;
        let flows = &self.flows;
        let mut names = me.dir.iter(me.address, now.mono);
        let all = [
            (
                "a link",
                self.links.values().any(|l| l.peer() == Some(with)),
            ),
            ("keys", self.peers.contains_key(&with)),
            ("a flow", !flows.with(with).is_empty()),
            (
                "an allocation",
                flows.outgoing.values().any(|o| o.asked == Some(with)),
            ),
            ("a request", flows.incoming.count(with) > 0),
            ("a record", me.routing.member(with).is_some()),
            ("a name", names.any(|(_, of, _)| of == with)),
        ];
        let has = all.into_iter().find(|(_, has)| *has);
        has.map(|(what, _)| what)
    }
}

/// How long after the end of their life keys are forgotten at the latest: a link has something to do that often.
const LATE: Duration = Duration::from_secs(15);
