//! Every bound on what others may make this member keep or do, in one place, and the word that goes out when one bites. It must
//! not decide what happens then: whoever asks does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::ipcp::{Event, Notice};

use super::Unicast;
use super::stats::Stats;
use crate::tokens::Rate;
use crate::{Now, Output};

/// Flows at once.
pub(super) const MAX_FLOWS: usize = 65_536;
/// With one member: nobody takes all there are.
const MAX_FLOWS_PEER: usize = 16_384;
/// Flows of this host that are being asked for.
const MAX_OUTGOING: usize = 4096;
/// Flows of others that irmd has not answered: all, and those of one member.
const MAX_INCOMING: usize = 4096;
const MAX_INCOMING_PEER: usize = 1024;
/// Flow requests of one member: at once, and in a second afterwards.
const REQUESTS: Rate = Rate {
    burst: 8192,
    per_second: 8192,
};
/// Records of one neighbour, each of which may cost a signature's check: at once, and in a second afterwards.
const RECORDS: Rate = Rate {
    burst: 65_536,
    per_second: 4096,
};
/// Names that may be registered at one member: as many as others keep for it.
const MAX_NAMES: usize = 4096;
/// Members with whom something is shared.
const MAX_PEERS: usize = 4096;
/// Links of others that have shown no certificate yet.
const MAX_STRANGERS: usize = 256;
/// Neighbours that are dialled until they are there.
const MAX_NEIGHBOURS: usize = 256;
/// Links of its own to members that this one has flows with.
const MAX_SHORTCUTS: usize = 16;
/// Requests to issuers at once that wait for an answer: of joiners, and of each neighbour.
const MAX_RELAYS: usize = 64;
/// Flows under FRCT at once, each of which keeps what waits in it, and those with one member: 4 GiB and 1 GiB if nobody reads.
const MAX_KEEPING: usize = 16_384;
const MAX_KEEPING_PEER: usize = 4096;
/// Batches that wait in the cubes of one lower flow, of at most 64 KiB each.
pub(super) const MAX_BATCHES: usize = 64;
/// The same of all lower flows; when there are many, each has less, but never less than [`MIN_BATCHES`].
pub(super) const MAX_BATCHES_ALL: usize = 4096;
pub(super) const MIN_BATCHES: usize = 8;

/// Those that a test may make small, for one machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) flows: usize,
    pub(super) flows_member: usize,
    pub(super) asking: usize,
    pub(super) pending: usize,
    pub(super) pending_member: usize,
    pub(super) requests_member: Rate,
    pub(super) memory: usize,
    pub(super) memory_member: usize,
    pub(super) records: Rate,
    pub(super) peers: usize,
    pub(super) names: usize,
    pub(super) neighbours: usize,
    pub(super) relays: usize,
    pub(super) strangers: usize,
    pub(super) shortcuts: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            flows: MAX_FLOWS,
            flows_member: MAX_FLOWS_PEER,
            asking: MAX_OUTGOING,
            pending: MAX_INCOMING,
            pending_member: MAX_INCOMING_PEER,
            requests_member: REQUESTS,
            memory: MAX_KEEPING,
            memory_member: MAX_KEEPING_PEER,
            records: RECORDS,
            peers: MAX_PEERS,
            names: MAX_NAMES,
            neighbours: MAX_NEIGHBOURS,
            relays: MAX_RELAYS,
            strangers: MAX_STRANGERS,
            shortcuts: MAX_SHORTCUTS,
        }
    }
}

/// What was told of limits, and when.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<&'static str, (u64, Instant)>);

impl Told {
    /// The limits that have bitten and are to be told now: what is counted, how often since the last word, and what it means.
    fn due(&mut self, now: Instant, stats: &Stats) -> Vec<(&'static str, u64, &'static str)> {
        let mut due = Vec::new();
        for (what, means) in WATCHED {
            let n = stats.get(what);
            let (before, at) = self.0.get(what).copied().unwrap_or((0, now));
            let quiet = before > 0 && now.saturating_duration_since(at) < AGAIN;
            if n > before && !quiet {
                self.0.insert(what, (n, now));
                due.push((*what, n - before, *means));
            }
        }
        due
    }
}

impl Unicast {
    /// Tells people which limits have bitten, of each once a minute.
    pub(super) fn tell_limits(&mut self, now: Now) {
        for (what, n, means) in self.told.due(now.mono, &self.stats) {
            let text = format!("a limit bites: {means} ({n} times since it was told; {what})");
            let fields = [("limit", what.to_owned()), ("count", n.to_string())];
            self.out.push_back(Output::Control(Event::Notice(Notice {
                kind: "limit.reached".to_owned(),
                text,
                fields: fields.map(|(k, v)| (k.to_owned(), v)).into(),
                warning: false,
            })));
        }
    }
}

/// The counters of limits that bite, and what happens then: the table of docs/operations.md.
pub(super) const WATCHED: &[(&str, &str)] = &[
    ("limit.flows", "no more flows are given or taken"),
    (
        "limit.flows_member",
        "a member has as many flows as one may",
    ),
    (
        "limit.asking",
        "too many flows of this host are being asked for",
    ),
    (
        "limit.pending",
        "too many flow requests wait for their answer",
    ),
    (
        "limit.pending_member",
        "a member has too many flow requests that wait",
    ),
    ("limit.requests_member", "a member asks for flows too often"),
    (
        "limit.admission",
        "a link has no room for more flows of voice or video",
    ),
    (
        "limit.memory",
        "there is no memory for more flows that keep what waits",
    ),
    (
        "limit.memory_member",
        "a member has as many flows that keep what waits as one may",
    ),
    ("limit.names", "no more names can be registered here"),
    ("limit.neighbours", "no more neighbours are kept"),
    (
        "limit.shortcuts",
        "no more links are made to members with whom flows go through others",
    ),
    ("limit.look_ups", "too many names are looked up at once"),
    (
        "limit.relays",
        "too many requests of joiners wait for an issuer",
    ),
    (
        "drop.handshake_rate",
        "others begin handshakes too often: some must begin again",
    ),
    (
        "drop.handshake_late",
        "what neighbours send has waited to be read: strangers must begin their handshakes again",
    ),
    (
        "drop.handshake_rate_neighbour",
        "a neighbour, or who is behind it, begins handshakes too often",
    ),
    (
        "drop.no_session_rate",
        "what a neighbour, or who is behind it, sends can't be opened: keys for it are agreed on later",
    ),
    (
        "drop.record_member_limit",
        "the layer has more members than are taken",
    ),
    (
        "drop.name_limit",
        "no more entries of names are kept here, or none more of a member",
    ),
    (
        "drop.name_rate",
        "entries of names come too fast: the rest is dropped and said again",
    ),
    (
        "drop.too_many_records",
        "a neighbour sends too many records; the rest comes with the next digest",
    ),
    (
        "drop.too_many_peers",
        "too many members are spoken with at once",
    ),
    (
        "peer.displaced",
        "too many members are spoken with: who was not for longest is forgotten",
    ),
    (
        "drop.directory_rate",
        "a member says too much of names: the rest is dropped and repeated",
    ),
    (
        "link.displaced",
        "too many links without certificate: older ones give way",
    ),
    (
        "handshake.evicted",
        "others have begun too many handshakes: some end",
    ),
    (
        "drop.too_many_strangers",
        "too many links without certificate",
    ),
    ("drop.early", "too much came before the answer to a request"),
    ("drop.channel_full", "too much waits to be said to a member"),
    ("drop.queue_full", "too much control waits for a lower flow"),
    ("drop.full_raw", "a queue is full: raw is dropped"),
    ("drop.full_best", "a queue is full: best is dropped"),
    ("drop.full_data", "a queue is full: data is dropped"),
    ("drop.full_video", "a queue is full: video is dropped"),
    ("drop.full_voice", "a queue is full: voice is dropped"),
    (
        "drop.full_signal",
        "a queue is full: control of others is dropped",
    ),
];
/// The pause between two words on one limit.
const AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_at_once_and_then_once_a_minute_while_it_bites() {
        let (mut told, mut stats, begin) = (Told::default(), Stats::default(), Instant::now());
        let mut words = Vec::new();
        for second in 0..150 {
            stats.add("limit.flows", 2);
            stats.count("forwarded");
            words.extend(told.due(begin + Duration::from_secs(second), &stats));
        }
        let counts: Vec<_> = words.iter().map(|(what, n, _)| (*what, *n)).collect();
        assert_eq!(
            counts,
            [
                ("limit.flows", 2),
                ("limit.flows", 120),
                ("limit.flows", 120)
            ]
        );
    }
}
