//! What happens on this host, told to whoever listens. Nobody who is slow holds anybody up: it loses the oldest, and is told so.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::irm::Event;
use tokio::sync::broadcast;

/// How many events a slow listener may lag behind.
const RING: usize = 1024;

/// The ring of events.
#[derive(Debug)]
pub(crate) struct Events {
    tx: broadcast::Sender<Event>,
}

impl Events {
    /// An empty ring.
    pub(crate) fn new() -> Self {
        Self {
            tx: broadcast::Sender::new(RING),
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
        let fields = fields
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<HashMap<_, _>>();
        // Without listeners there is nobody to tell.
        let _ = self.tx.send(Event {
            time_ms: unix_ms(),
            kind: kind.to_owned(),
            text,
            fields,
        });
    }

    /// Hears what is told from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.tx.subscribe()
    }
}

/// Milliseconds since 1970, for people and logs.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
