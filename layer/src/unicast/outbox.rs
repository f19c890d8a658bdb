//! Which records are still to be said over which link: many in one message, the newest version of each, and none to a
//! neighbour that has shown meanwhile that it holds it. It must not hold records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::FlowId;

use super::damper::Key;

/// What waits, by link.
#[derive(Default)]
pub(super) struct Outbox {
    links: BTreeMap<FlowId, Waiting>,
}

struct Waiting {
    /// Each with whether its originator's certificate goes with it.
    keys: BTreeMap<Key, bool>,
    /// Nothing goes before this.
    next: Instant,
}

impl Outbox {
    /// A record is to be said over a link: at once after a quiet time, else together with those that follow.
    /// `whole`: the neighbour may not know the certificate yet.
    pub(super) fn put(&mut self, now: Instant, lower: FlowId, key: Key, whole: bool) {
        let empty = || Waiting {
            keys: BTreeMap::new(),
            next: now,
        };
        let waiting = self.links.entry(lower).or_insert_with(empty);
        *waiting.keys.entry(key).or_default() |= whole;
    }

    /// The other side of a link holds the newest version.
    pub(super) fn has(&mut self, lower: FlowId, key: Key) {
        if let Some(waiting) = self.links.get_mut(&lower) {
            waiting.keys.remove(&key);
        }
    }

    /// What is to be said now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(FlowId, BTreeMap<Key, bool>)> {
        let mut due = Vec::new();
        self.links.retain(|lower, waiting| {
            if waiting.next > now {
                return true;
            }
            let keys = std::mem::take(&mut waiting.keys);
            waiting.next = now + PACE;
            let any = !keys.is_empty();
            due.extend(any.then_some((*lower, keys)));
            any
        });
        due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.links.values().filter(|w| !w.keys.is_empty());
        waiting.map(|w| w.next).min()
    }
}

/// The time between two messages with news over one link.
const PACE: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use proto::Addr;

    use super::*;

    const KEYS: [Key; 3] = [(Addr(1), 1), (Addr(2), 1), (Addr(2), 2)];

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn the_first_goes_at_once_and_what_follows_goes_together_and_once() {
        let (mut outbox, start) = (Outbox::default(), Instant::now());
        let (one, other) = (FlowId(1), FlowId(2));
        outbox.put(start, one, KEYS[0], false);
        assert_eq!(
            outbox.due(start),
            [(one, BTreeMap::from([(KEYS[0], false)]))]
        );
        for _ in 0..3 {
            outbox.put(start, one, KEYS[1], true);
            outbox.put(start, one, KEYS[2], false);
            outbox.put(start, one, KEYS[1], false);
        }
        assert!(outbox.due(start).is_empty(), "the link was used just now");
        outbox.put(start, other, KEYS[1], false);
        assert_eq!(outbox.due(start).len(), 1, "another link was not");
        assert_eq!(outbox.deadline(), Some(start + PACE));
        assert_eq!(
            outbox.due(start + PACE),
            [(one, BTreeMap::from([(KEYS[1], true), (KEYS[2], false)]))]
        );
        assert!(outbox.due(start + PACE * 2).is_empty() && outbox.deadline().is_none());
        assert!(outbox.links.is_empty(), "nothing is kept of a quiet link");
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn what_a_neighbour_holds_is_not_said_to_it() {
        let (mut outbox, start) = (Outbox::default(), Instant::now());
        for lower in [FlowId(1), FlowId(2)] {
            outbox.put(start, lower, KEYS[0], false);
        }
        outbox.has(FlowId(1), KEYS[0]);
        assert_eq!(
            outbox.due(start),
            [(FlowId(2), BTreeMap::from([(KEYS[0], false)]))]
        );
    }
}
