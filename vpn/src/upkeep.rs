//! When to look whether the kernel still has what the VPN gave it. It must not look itself.
//!
//! A change is looked at soon; what was taken away is put back at once the first times, then ever more seldom, so that an
//! administrator, or another program, who takes it away in a loop is not fought with.

use std::fmt;
use std::time::{Duration, Instant};

/// The next look, and what was put back so far.
#[derive(Debug, Default)]
pub struct Upkeep {
    due: Option<Instant>,
    /// No look before.
    rest: Option<Instant>,
    /// When something was put back last, and how long the rest after it was.
    last: Option<(Instant, Duration)>,
    healed: Healed,
    looks: u64,
}

/// What somebody took away and was put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Healed {
    /// How often the device was brought up.
    pub device: u64,
    /// Addresses.
    pub addresses: u64,
    /// Routes.
    pub routes: u64,
}

impl Upkeep {
    /// Something about the host's network has changed.
    pub fn changed(&mut self, now: Instant) {
        let soon = now + SETTLE;
        self.due
            .get_or_insert_with(|| self.rest.map_or(soon, |rest| rest.max(soon)));
    }

    /// When to look; `None`: there is no need.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It was looked, which took so long; this was put back.
    pub fn looked(&mut self, now: Instant, took: Duration, healed: Healed) {
        self.looks += 1;
        self.due = None;
        let mut rest = (took * 20).max(SETTLE);
        if !healed.is_nothing() {
            self.healed.add(healed);
            let again = match self.last {
                Some((at, before)) if now.saturating_duration_since(at) < CALM + before => {
                    (before * 2).min(LONGEST)
                }
                _ => SETTLE,
            };
            self.last = Some((now, again));
            rest = rest.max(again);
        }
        self.rest = Some(now + rest);
    }

    /// It could not be looked, or put back: once more, later.
    pub fn failed(&mut self, now: Instant) {
        self.looks += 1;
        self.due = Some(now + RETRY);
    }

    /// What was put back, and how often was looked, by the names of counters.
    pub fn counters(&self) -> [(String, u64); 4] {
        [
            ("healed.device".to_owned(), self.healed.device),
            ("healed.address".to_owned(), self.healed.addresses),
            ("healed.route".to_owned(), self.healed.routes),
            ("host_looks".to_owned(), self.looks),
        ]
    }

    /// How long something that is taken away may stay so, once that is worth a word to a person.
    pub fn contested(&self, now: Instant) -> Option<Duration> {
        self.last
            .filter(|(at, rest)| {
                *rest >= CONTEST && now.saturating_duration_since(*at) < CALM + *rest
            })
            .map(|(_, rest)| rest)
    }
}

impl fmt::Display for Healed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.device, "the device, which was down"),
            (self.addresses, "addresses"),
            (self.routes, "routes"),
        ];
        let parts = parts.iter().filter(|(n, _)| *n > 0);
        let parts: Vec<String> = parts.map(|(n, what)| format!("{n} × {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}

impl Healed {
    /// Nothing was missing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, more: Self) {
        self.device += more.device;
        self.addresses += more.addresses;
        self.routes += more.routes;
    }
}

/// Changes come in crowds: this long after the first it is looked.
const SETTLE: Duration = Duration::from_millis(100);
/// Between attempts that fail.
const RETRY: Duration = Duration::from_secs(2);
/// Without a quarrel for so long, all is forgotten.
const CALM: Duration = Duration::from_secs(60);
/// The longest rest in a quarrel.
const LONGEST: Duration = Duration::from_secs(60);
/// A rest of this length is worth a word.
const CONTEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Healed = Healed {
        device: 0,
        addresses: 0,
        routes: 1,
    };

    #[test]
    fn what_is_taken_in_a_loop_comes_back_ever_more_seldom_and_that_is_said() {
        let (start, mut upkeep) = (Instant::now(), Upkeep::default());
        let mut now = start;
        let mut healed_within = |span: Duration, upkeep: &mut Upkeep| {
            let end = now + span;
            let before = upkeep.healed.routes;
            loop {
                // Taken again at once.
                upkeep.changed(now);
                let due = upkeep.due().unwrap();
                if due > end {
                    now = end;
                    return upkeep.healed.routes - before;
                }
                now = due;
                upkeep.looked(now, Duration::from_millis(1), ROUTE);
            }
        };
        assert!(healed_within(Duration::from_secs(2), &mut upkeep) >= 4);
        assert_eq!(upkeep.contested(start + Duration::from_secs(2)), None);
        assert!(healed_within(Duration::from_secs(600), &mut upkeep) <= 18);
        let later = start + Duration::from_secs(602);
        assert_eq!(upkeep.contested(later), Some(LONGEST));
        upkeep.looked(later, Duration::from_millis(1), Healed::default());
        // Calm again: at once again.
        let calm = later + Duration::from_secs(300);
        assert_eq!(upkeep.contested(calm), None);
        upkeep.changed(calm);
        assert_eq!(upkeep.due(), Some(calm + SETTLE));
    }

    #[test]
    fn changes_that_concern_others_are_looked_at_but_seldom_when_looking_is_dear() {
        let (start, mut upkeep) = (Instant::now(), Upkeep::default());
        upkeep.changed(start);
        upkeep.looked(start, Duration::from_millis(500), Healed::default());
        upkeep.changed(start);
        assert_eq!(upkeep.due(), Some(start + Duration::from_secs(10)));
        assert_eq!((upkeep.healed, upkeep.looks), (Healed::default(), 1));
    }
}
