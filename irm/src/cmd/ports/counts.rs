//! What is counted while ports are carried.

use std::cell::Cell;

use libflow::Flow;
use proto::Reason;
use serde_json::{Value, json};

use super::super::Context;
use crate::out::{print, table};

/// The counters of one command.
#[derive(Debug, Default)]
pub(in super::super) struct Counts([Cell<u64>; Count::ALL.len()]);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Count {
    /// Flows that stood.
    Flows,
    /// Connections for which there was no flow, or flows for which there was no connection.
    Failed,
    /// The same, because there were as many as there may be.
    Busy,
    /// Connections that ended before both sides had ended them.
    Broken,
    /// Clients that showed no name and password that are known.
    Denied,
    /// Bytes written to flows.
    Sent,
    /// Bytes read from flows.
    Received,
    /// Datagrams dropped: larger than the flow carries.
    TooLarge,
    /// Datagrams dropped: of no bytes, which no SDU can have.
    Empty,
    /// Datagrams dropped: more came than the flow took.
    Full,
    /// Datagrams dropped: they are not what a client of SOCKS sends, or in fragments.
    Malformed,
    /// Datagrams dropped: they came from somebody else than the client.
    Stranger,
    /// Datagrams dropped: the system did not take them; nobody listens, or they are too large there.
    Undelivered,
}

impl Counts {
    /// Counts.
    pub(in super::super) fn add(&self, what: Count, n: u64) {
        let cell = &self.0[what as usize];
        cell.set(cell.get().saturating_add(n));
    }

    /// Counts the bytes of a flow that is over.
    pub(super) fn add_traffic(&self, flow: &Flow) {
        let (received, sent) = flow.traffic();
        self.add(Count::Received, received);
        self.add(Count::Sent, sent);
    }

    /// Tells them at the end: one line of JSON, or a sentence.
    pub(in super::super) fn tell(&self, c: &Context) -> Result<(), Reason> {
        match c.out.json {
            true => print(&format!("{}\n", self.document())),
            false => print(&format!("{}\n", self.sentence())),
        }
    }

    fn get(&self, what: Count) -> u64 {
        self.0[what as usize].get()
    }

    fn document(&self) -> Value {
        let all = Count::ALL.map(|(what, key)| (key.to_owned(), json!(self.get(what))));
        let mut said = serde_json::Map::from_iter(all);
        said.insert("event".to_owned(), json!("end"));
        Value::Object(said)
    }

    fn sentence(&self) -> String {
        let (sent, received) = (self.get(Count::Sent), self.get(Count::Received));
        let mut text = format!(
            "{} flows, {} sent, {} received",
            self.get(Count::Flows),
            table::bytes(sent),
            table::bytes(received)
        );
        for (what, key) in &Count::ALL[1..] {
            let n = self.get(*what);
            if n > 0 && !matches!(what, Count::Sent | Count::Received) {
                text.push_str(&format!(", {n} {}", key.replace('_', " ")));
            }
        }
        text
    }
}

impl Count {
    const ALL: [(Self, &'static str); 13] = [
        (Self::Flows, "flows"),
        (Self::Failed, "failed"),
        (Self::Busy, "busy"),
        (Self::Broken, "broken"),
        (Self::Denied, "denied"),
        (Self::Sent, "tx_bytes"),
        (Self::Received, "rx_bytes"),
        (Self::TooLarge, "dropped_too_large"),
        (Self::Empty, "dropped_empty"),
        (Self::Full, "dropped_full"),
        (Self::Malformed, "dropped_malformed"),
        (Self::Stranger, "dropped_stranger"),
        (Self::Undelivered, "dropped_undelivered"),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_has_a_place_of_its_own() {
        for (at, (what, _)) in Count::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, at);
        }
    }

    #[test]
    fn only_what_happened_is_told_to_people_and_all_to_programs() {
        let counts = Counts::default();
        counts.add(Count::Flows, 2);
        counts.add(Count::TooLarge, 3);
        let said = counts.sentence();
        assert!(
            said.starts_with("2 flows") && said.ends_with("3 dropped too large"),
            "{said}"
        );
        let json = counts.document();
        assert_eq!(
            (&json["dropped_too_large"], &json["busy"]),
            (&json!(3), &json!(0))
        );
    }
}
