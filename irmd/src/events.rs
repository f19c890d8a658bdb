//! What happens on this host, told to whoever listens. Nobody who is slow holds anybody up: it loses the oldest, and is told so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::irm::Event;
use tokio::sync::broadcast;

/// The ring of events.
#[derive(Debug)]
pub(crate) struct Events {
    tx: broadcast::Sender<Event>,
    /// The newest, for who asks afterwards.
    kept: Mutex<VecDeque<Event>>,
}

impl Events {
    /// An empty ring.
    pub(crate) fn new() -> Self {
        Self {
            tx: broadcast::Sender::new(RING),
            kept: Mutex::default(),
        }
    }

    /// Tells everybody.
    pub(crate) fn emit(&self, kind: &str, text: impl Into<String>, fields: &[(&str, &str)]) {
        let text = text.into();
        // Flows come and go by the thousand.
        if kind.starts_with("flow.") {
            tracing::debug!(kind, "{text}");
        } else {
            tracing::info!(kind, "{text}");
        }
        self.tell(kind, text, fields);
    }

    /// Tells everybody of what somebody should see to.
    pub(crate) fn warn(&self, kind: &str, text: impl Into<String>, fields: &[(&str, &str)]) {
        let text = text.into();
        tracing::warn!(kind, "{text}");
        self.tell(kind, text, fields);
    }

    fn tell(&self, kind: &str, text: String, fields: &[(&str, &str)]) {
        let fields = fields
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<HashMap<_, _>>();
        let event = Event {
            time_ms: unix_ms(),
            kind: kind.to_owned(),
            text,
            fields,
        };
        // Told under the lock: both have the same order.
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Without listeners there is nobody to tell.
        let _ = self.tx.send(event);
    }

    /// Hears what is told from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.tx.subscribe()
    }

    /// What was told lately, the oldest first.
    pub(crate) fn past(&self) -> Vec<Event> {
        self.kept().iter().cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970, for people and logs.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The time since 1970.
pub(crate) fn now() -> Duration {
    Duration::from_millis(unix_ms())
}

/// How many events a slow listener may lag behind.
const RING: usize = 1024;
/// How many are kept for who asks afterwards.
const KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_their_number_is_bounded() {
        let events = Events::new();
        for n in 0..KEPT + 3 {
            events.emit("test", n.to_string(), &[]);
        }
        let past = events.past();
        assert_eq!((past.len(), past[0].text.as_str()), (KEPT, "3"));
        assert_eq!(past.last().unwrap().text, (KEPT + 2).to_string());
    }
}
