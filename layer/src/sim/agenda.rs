//! What is due when: packets, acts and what machines are told, in the order of their time; and the alarms of machines.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::acts::Act;
use super::net::End;
use crate::FlowTell;

/// All that is still to happen.
#[derive(Default)]
pub(super) struct Agenda {
    queue: BinaryHeap<Reverse<Entry>>,
    /// Also such as no longer hold: an alarm that was set anew is not looked for here.
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
    serial: u64,
}

/// What happens.
pub(super) enum Due {
    Packet(End, Vec<u8>),
    /// For the machine of that life only.
    Tell(usize, u32, Box<FlowTell>),
    Act(Box<Act>),
}

struct Entry {
    at: Duration,
    serial: u64,
    due: Due,
}

impl Agenda {
    /// Of what is due at the same time, what was pushed first comes first.
    pub(super) fn push(&mut self, at: Duration, due: Due) {
        self.serial += 1;
        let serial = self.serial;
        self.queue.push(Reverse(Entry { at, serial, due }));
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse(entry)| entry.at)
    }

    pub(super) fn pop(&mut self) -> Option<Due> {
        self.queue.pop().map(|Reverse(entry)| entry.due)
    }

    /// The machine of a host wants to be woken.
    pub(super) fn wake(&mut self, host: usize, at: Option<Instant>) {
        self.alarms.extend(at.map(|at| Reverse((at, host))));
    }

    /// The next alarm that `holds`.
    pub(super) fn alarm(
        &mut self,
        holds: impl Fn(usize, Instant) -> bool,
    ) -> Option<(Instant, usize)> {
        while let Some(Reverse((at, host))) = self.alarms.peek().copied() {
            if holds(host, at) {
                return Some((at, host));
            }
            self.alarms.pop();
        }
        None
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}
