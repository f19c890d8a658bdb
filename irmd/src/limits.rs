//! What bounds the programs of this host: every limit that bites is counted and told as an event. It must not decide who is
//! refused: whoever asks does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::counters::Tally;
use crate::events::Events;

/// When each limit was told last.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<HashMap<&'static str, Instant>>);

impl Limits {
    /// A limit bites: counts it under `what`, one of [`WATCHED`], and tells people at once and then once a minute.
    pub(crate) fn bites(&self, tally: &Tally, events: &Events, what: &'static str) {
        tally.add(what);
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = |at: &Instant| at.elapsed() < AGAIN;
        if told.get(what).is_some_and(lately) {
            return;
        }
        told.insert(what, Instant::now());
        drop(told);
        let means = WATCHED.iter().find(|(word, _)| *word == what);
        let means = means.map_or("", |(_, means)| means);
        let n = tally.read().get(what).copied().unwrap_or_default();
        events.emit(
            "limit.reached",
            format!("a limit bites: {means} ({n} times so far; {what})"),
            &[("limit", what), ("count", &n.to_string())],
        );
    }
}

pub(crate) const SESSIONS: &str = "limit.sessions";
pub(crate) const DIRECT_FLOWS: &str = "limit.direct_flows";
pub(crate) const LISTENERS: &str = "limit.listeners";

/// The limits, and what it means that one bites: part of the table of docs/operations.md.
const WATCHED: &[(&str, &str)] = &[
    (SESSIONS, "a user has too many programs at once"),
    (DIRECT_FLOWS, "a program brings too many direct flows back"),
    (LISTENERS, "a program has too many listeners"),
];
/// The pause between two words on one limit.
const AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_counted_and_told_once_and_in_the_operators_table() {
        let table = include_str!("../../docs/operations.md");
        for (what, means) in WATCHED {
            let (limits, tally, events) = (Limits::default(), Tally::default(), Events::new());
            limits.bites(&tally, &events, what);
            limits.bites(&tally, &events, what);
            assert_eq!(tally.read()[what], 2);
            let told = events.past();
            assert_eq!(
                told.len(),
                1,
                "{what} is told at once, and not again so soon"
            );
            assert_eq!(told[0].kind, "limit.reached");
            assert!(told[0].text.contains(means) && told[0].fields["limit"] == *what);
            assert!(table.contains(what), "{what} is not in docs/operations.md");
        }
    }
}
