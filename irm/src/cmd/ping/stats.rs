//! What `irm ping` counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Numbers sent and answers that came, with their round-trip times.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) corrupt: u64,
    // Sent and not yet answered; bounded, since what never comes back would stay for ever.
    waiting: BTreeMap<u64, Instant>,
    // The last so many round-trip times in nanoseconds; all of them in most runs.
    times: Vec<u64>,
    next: usize,
    least: Option<u64>,
    most: u64,
}

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The first with its number.
    Fresh(Duration),
    /// Its number was answered before, or so long ago that it is forgotten.
    Duplicate,
}

impl Stats {
    /// The number of what is sent now.
    pub(super) fn send(&mut self, now: Instant) -> u64 {
        let sequence = self.sent;
        self.sent += 1;
        self.waiting.insert(sequence, now);
        if self.waiting.len() > WAITING {
            self.waiting.pop_first();
        }
        sequence
    }

    /// An answer with this number came.
    pub(super) fn answered(&mut self, sequence: u64, now: Instant) -> Answer {
        let Some(sent) = self.waiting.remove(&sequence) else {
            self.duplicates += 1;
            return Answer::Duplicate;
        };
        let time = now.saturating_duration_since(sent);
        self.keep(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.received += 1;
        Answer::Fresh(time)
    }

    /// Whether everything that was sent has been answered.
    pub(super) fn complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The JSON document. Times are whole microseconds; `rtt_ns` has them to the nanosecond.
    pub(super) fn json(&self) -> Value {
        let times = self.summary().map(|s| {
            let named = |unit: u64| {
                let [min, p50, p90, p99, max] = s.map(|ns| (ns + unit / 2) / unit);
                json!({"min": min, "p50": p50, "p90": p90, "p99": p99, "max": max})
            };
            (named(1000), named(1))
        });
        let (micros, nanos) = times.unwrap_or_else(|| {
            let none = json!({"min": null, "p50": null, "p90": null, "p99": null, "max": null});
            (none.clone(), none)
        });
        json!({
            "sent": self.sent,
            "received": self.received,
            "lost": self.sent - self.received,
            "duplicates": self.duplicates,
            "corrupt": self.corrupt,
            "rtt_us": micros,
            "rtt_ns": nanos,
        })
    }

    /// The lines at the end, as ping(8) has them.
    pub(super) fn text(&self, name: &str) -> String {
        let lost = self.sent - self.received;
        let percent = if self.sent == 0 {
            0.0
        } else {
            100.0 * lost as f64 / self.sent as f64
        };
        let mut text = format!(
            "--- {name} ---\n{} sent, {} received, {percent:.3} % lost",
            self.sent, self.received
        );
        for (n, what) in [(self.duplicates, "duplicates"), (self.corrupt, "corrupt")] {
            if n > 0 {
                text.push_str(&format!(", {n} {what}"));
            }
        }
        text.push('\n');
        if let Some(summary) = self.summary() {
            let [min, p50, p90, p99, max] = summary.map(|ns| format!("{:.3}", ns as f64 / 1e6));
            text.push_str(&format!(
                "rtt min/p50/p90/p99/max = {min}/{p50}/{p90}/{p99}/{max} ms\n"
            ));
        }
        text
    }

    /// Least, p50, p90, p99 and most, in nanoseconds.
    fn summary(&self) -> Option<[u64; 5]> {
        let least = self.least?;
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        // Nearest rank: the smallest time that so many percent don't exceed.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some([least, rank(50), rank(90), rank(99), self.most])
    }

    fn keep(&mut self, nanos: u64) {
        self.least = Some(self.least.map_or(nanos, |l| l.min(nanos)));
        self.most = self.most.max(nanos);
        if self.times.len() < TIMES {
            self.times.push(nanos);
        } else {
            self.times[self.next] = nanos;
            self.next = (self.next + 1) % TIMES;
        }
    }
}

/// Pings that may be on their way at once before the oldest counts as lost.
const WAITING: usize = 1 << 16;
/// Round-trip times that are kept for the percentiles.
const TIMES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_lost_ones_and_duplicates_are_counted() {
        let (mut stats, start) = (Stats::default(), Instant::now());
        for i in 0..100 {
            assert_eq!(stats.send(start), i);
        }
        for i in 0..99 {
            let now = start + Duration::from_micros(i + 1);
            assert_eq!(
                stats.answered(i, now),
                Answer::Fresh(Duration::from_micros(i + 1))
            );
        }
        assert_eq!(stats.answered(5, start), Answer::Duplicate);
        assert_eq!(
            stats.answered(100, start),
            Answer::Duplicate,
            "was never sent"
        );
        assert!(!stats.complete());
        let json = stats.json();
        assert_eq!(
            (
                &json["sent"],
                &json["received"],
                &json["lost"],
                &json["duplicates"]
            ),
            (&100.into(), &99.into(), &1.into(), &2.into())
        );
        assert_eq!(
            json["rtt_us"],
            json!({"min": 1, "p50": 50, "p90": 90, "p99": 99, "max": 99})
        );
        assert!(
            stats
                .text("x")
                .contains("100 sent, 99 received, 1.000 % lost, 2 duplicates\n"),
            "{}",
            stats.text("x")
        );
    }

    #[test]
    fn without_an_answer_the_times_are_null() {
        let mut stats = Stats::default();
        stats.send(Instant::now());
        assert_eq!(stats.json()["rtt_us"]["p99"], Value::Null);
        assert!(!stats.text("x").contains("rtt"));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (mut stats, now) = (Stats::default(), Instant::now());
        for _ in 0..WAITING + 10 {
            stats.send(now);
        }
        assert_eq!(stats.waiting.len(), WAITING);
        assert_eq!(stats.answered(0, now), Answer::Duplicate);
    }
}
