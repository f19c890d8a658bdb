//! Whose packets are read in one look at the descriptors, and how often: of lower ends that the machine knows each for itself,
//! of all others together as of one. It must not look at what they say.

use layer::Ipcp;

use super::Runtime;
use crate::io::{EVENTS, Key, Ready, Side};
use crate::lower::Lower;

/// The lower descriptors that are ready of those whom the machine doesn't know, and which of them was read last.
#[derive(Default)]
pub(super) struct Strangers {
    ready: Vec<Key>,
    last: usize,
}

impl Strangers {
    /// Whose turn it is; `None` if nobody's.
    fn next(&mut self) -> Option<Key> {
        self.last = (self.last + 1).checked_rem(self.ready.len())?;
        self.ready.get(self.last).copied()
    }
}

impl<M: Ipcp, L: Lower<M>> Runtime<M, L> {
    /// Lower ends that are known, each for itself; then all others, in turn, as if they were one.
    pub(super) fn lowers(&mut self) {
        self.strangers.ready.clear();
        for n in 0..self.ready.len() {
            let Ready { key, read, write } = self.ready[n];
            if key.side() != Side::Lower {
                continue;
            }
            if write {
                self.lower.writable(&mut self.io, key);
                if self.room() {
                    self.drain();
                }
            }
            let end = self.lower.end(key);
            if !read {
                continue;
            }
            if end.is_none_or(|end| self.machine.knows(end)) {
                end.into_iter().for_each(|end| self.lower.known(end));
                self.read_lower(key, READS);
            } else {
                self.strangers.ready.push(key);
            }
        }
        // A look that is full has not seen all who are known.
        let full = self.ready.len() >= EVENTS;
        for _ in 0..if full { 1 } else { READS } {
            if let Some(key) = self.strangers.next() {
                self.read_lower(key, 1);
            }
        }
    }

    fn read_lower(&mut self, key: Key, times: usize) {
        for _ in 0..times {
            match self.lower.recv(&mut self.io, key) {
                Some(input) => self.feed(input),
                None => break,
            }
        }
    }
}

/// Reads from one descriptor in one look: few, since what is urgent on another waits for the end of it.
const READS: usize = 3;
