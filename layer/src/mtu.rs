//! The largest packet that a path takes, found by packets that are there only to be answered (RFC 8899). It must not know how
//! one is sent, nor seal or send anything.
//!
//! What the layer below says is hoped to be true until probes of that size go unanswered while others are heard. Then the
//! base is used, at once, and from there the search goes up. A path that swallows what it took before is found the same way.

use std::time::{Duration, Instant};

/// What is known of one path.
#[derive(Debug)]
pub struct PathMtu {
    /// What the layer below says; nothing larger is tried.
    limit: u32,
    used: u32,
    /// The largest that was answered, and the smallest that was not.
    good: u32,
    bad: u32,
    stage: Stage,
    probe: Option<Probe>,
    /// When to probe next, if nothing is on its way.
    at: Instant,
    /// When to try again what did not pass.
    raise_at: Instant,
    /// Something large was sent since the path was last probed.
    large: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was answered yet that is as large as the limit.
    Hope,
    /// Large packets get lost: does the base pass?
    Base,
    /// Between what passes and what does not.
    Search,
    /// Nothing more is to be found for now.
    Settled,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    size: u32,
    last: Instant,
    /// How many got lost while the other side was heard.
    lost: u32,
}

impl PathMtu {
    /// A path of which the layer below says that it takes packets of `limit` bytes.
    pub fn new(limit: u32, now: Instant) -> Self {
        Self {
            limit,
            used: limit,
            good: FLOOR.min(limit),
            bad: limit.saturating_add(1),
            stage: Stage::Hope,
            probe: None,
            at: now,
            raise_at: now,
            large: false,
        }
    }

    /// It was probed a while ago, and takes what the layer below says.
    #[cfg(any(test, feature = "sim"))]
    pub fn is_known(&mut self, now: Instant) {
        self.good = self.limit;
        self.settle(now);
    }

    /// The largest packet that may be sent now, in bytes.
    pub fn mtu(&self) -> u32 {
        self.used
    }

    /// The layer below says another size: what was found is forgotten.
    pub fn set_limit(&mut self, limit: u32, now: Instant) {
        if limit != self.limit {
            *self = Self::new(limit, now);
        }
    }

    /// Packets of `size` bytes pass, and larger ones did not: if that is less than the base, the search begins at the floor.
    pub fn passed_only(&mut self, size: u32, now: Instant) {
        if size < BASE.min(self.limit) {
            self.good = FLOOR.min(self.limit);
            self.used = self.good;
            self.stage = Stage::Search;
            (self.probe, self.at) = (None, now);
        }
    }

    /// A packet of that size was sent. Only where large ones are does it matter whether they still pass.
    pub fn sent(&mut self, size: u32) {
        self.large |= size > BASE;
    }

    /// The size of the probe to send now. `heard` is when the other side was last heard: whoever says nothing at all loses
    /// more than large packets.
    pub fn poll(&mut self, now: Instant, heard: Instant) -> Option<u32> {
        if let Some(probe) = &mut self.probe {
            if now < probe.last + PATIENCE {
                return None;
            }
            probe.lost += u32::from(heard >= probe.last);
            if probe.lost < TRIES {
                probe.last = now;
                return Some(probe.size);
            }
            let size = probe.size;
            self.failed(now, size);
        }
        if now < self.at {
            return None;
        }
        let size = self.target(now)?;
        self.large = false;
        self.probe = Some(Probe {
            size,
            last: now,
            lost: 0,
        });
        Some(size)
    }

    /// When to poll again.
    pub fn deadline(&self) -> Instant {
        self.probe.map_or(self.at, |probe| probe.last + PATIENCE)
    }

    /// The other side has got a probe of that size.
    pub fn answered(&mut self, now: Instant, size: u32) {
        // A late answer, or one to nothing, proves nothing that counts.
        if self.probe.is_none_or(|probe| probe.size != size) {
            return;
        }
        self.probe = None;
        self.at = now;
        self.good = self.good.max(size);
        match self.stage {
            Stage::Hope => self.settle(now),
            Stage::Base => self.stage = Stage::Search,
            Stage::Search if self.next().is_none() => self.settle(now),
            Stage::Search => {}
            Stage::Settled => self.at = now + CONFIRM,
        }
    }

    fn failed(&mut self, now: Instant, size: u32) {
        self.probe = None;
        self.at = now;
        self.bad = self.bad.min(size);
        match self.stage {
            Stage::Hope | Stage::Settled => {
                self.good = FLOOR.min(self.limit);
                self.stage = if size > BASE {
                    Stage::Base
                } else {
                    Stage::Search
                };
                self.used = if size > BASE { BASE } else { self.good };
            }
            Stage::Base => {
                self.used = self.good;
                self.stage = Stage::Search;
            }
            Stage::Search => {}
        }
        if self.stage == Stage::Search && self.next().is_none() {
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Instant) {
        self.stage = Stage::Settled;
        self.used = self.good;
        self.at = now + CONFIRM;
        self.raise_at = now + RAISE;
    }

    /// What to probe, if anything.
    fn target(&mut self, now: Instant) -> Option<u32> {
        match self.stage {
            Stage::Hope => Some(self.limit),
            Stage::Base => Some(BASE),
            Stage::Search => {
                let next = self.next();
                // What passes and what doesn't may lie close from the start: there is nothing to search then.
                if next.is_none() {
                    self.settle(now);
                }
                next
            }
            Stage::Settled if self.good < self.limit && now >= self.raise_at => {
                self.bad = self.limit + 1;
                self.stage = Stage::Search;
                self.next()
            }
            Stage::Settled => {
                self.at = now + CONFIRM;
                self.large.then_some(self.used)
            }
        }
    }

    /// The next size between what passes and what doesn't: the middle one of those that real networks have, then the middle.
    fn next(&self) -> Option<u32> {
        let usual: Vec<u32> = USUAL
            .into_iter()
            .chain([self.limit])
            .filter(|size| self.good < *size && *size < self.bad && *size <= self.limit)
            .collect();
        if let Some(size) = usual.get(usual.len() / 2) {
            return Some(*size);
        }
        (self.bad > self.good + GRAIN).then(|| self.good + (self.bad - self.good) / 2)
    }
}

/// What is used where large packets get lost (RFC 8899, 5.1.2).
pub const BASE: u32 = 1200;
/// What every path of IPv4 takes in UDP: 576 bytes with the longest header.
pub const FLOOR: u32 = 508;
/// Payloads of UDP over what links there are: IPv4 and IPv6 of 576, 1280, tunnels of 1420, PPPoE, Ethernet, and jumbo frames.
const USUAL: [u32; 13] = [
    548, 1024, 1232, 1252, 1372, 1392, 1424, 1444, 1452, 1464, 1472, 4000, 8952,
];
/// How close the search comes.
const GRAIN: u32 = 16;
/// How long an answer may take, and how often one is asked for.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 3;
/// How often what is used is confirmed, while large packets are sent.
const CONFIRM: Duration = Duration::from_secs(5);
/// When what did not pass is tried again.
const RAISE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn begin() -> Instant {
        Instant::now()
    }

    /// A path that takes packets up to a size, that may change, with a round trip of 20 ms.
    struct Path {
        mtu: PathMtu,
        takes: u32,
        now: Instant,
        dead: bool,
        probes: Vec<u32>,
        /// Sends large packets all the time.
        busy: bool,
    }

    impl Path {
        fn new(limit: u32, takes: u32) -> Self {
            let now = begin();
            Self {
                mtu: PathMtu::new(limit, now),
                takes,
                now,
                dead: false,
                probes: Vec::new(),
                busy: true,
            }
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                if self.busy {
                    self.mtu.sent(self.mtu.mtu());
                }
                let heard = if self.dead { begin() - time } else { self.now };
                if let Some(size) = self.mtu.poll(self.now, heard) {
                    self.probes.push(size);
                    self.now += Duration::from_millis(20);
                    if size <= self.takes && !self.dead {
                        self.mtu.answered(self.now, size);
                    }
                } else {
                    assert!(self.mtu.deadline() > self.now, "it spins");
                    self.now = self.mtu.deadline().min(end);
                }
            }
        }
    }

    #[test]
    fn a_path_that_takes_what_it_says_is_used_at_once_and_asked_little() {
        for limit in [508, 548, 1200, 1472, 8972, 65_507] {
            let mut path = Path::new(limit, limit);
            assert_eq!(path.mtu.mtu(), limit);
            path.run(Duration::from_secs(60));
            assert_eq!(path.mtu.mtu(), limit);
            assert!(path.probes.len() <= 13, "{:?}", path.probes);
        }
    }

    #[test]
    fn what_real_networks_take_is_found_exactly_and_within_fifteen_seconds() {
        for takes in [548, 1232, 1252, 1372, 1392, 1444, 1452, 1464] {
            let mut path = Path::new(1472, takes);
            path.run(Duration::from_secs(15));
            assert!(path.mtu.mtu() <= takes);
            assert_eq!(path.mtu.stage, Stage::Settled, "{takes}: {:?}", path.probes);
            assert!(takes - path.mtu.mtu() < 5, "{takes}: {}", path.mtu.mtu());
        }
    }

    #[test]
    fn large_packets_that_get_lost_bring_the_base_within_two_seconds() {
        let mut path = Path::new(9000, 1300);
        path.run(Duration::from_millis(1700));
        assert_eq!(path.mtu.mtu(), BASE);
    }

    #[test]
    fn a_black_hole_is_found_under_traffic_and_left_when_it_is_gone() {
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_secs(30));
        path.takes = 1280;
        path.run(Duration::from_secs(8));
        assert!(path.mtu.mtu() <= 1280, "{}", path.mtu.mtu());
        path.run(Duration::from_secs(15));
        assert!(path.mtu.mtu() >= 1252, "{}", path.mtu.mtu());
        path.takes = 400 + FLOOR;
        path.run(Duration::from_secs(20));
        assert!(path.mtu.mtu() <= 908, "{}", path.mtu.mtu());
        path.takes = 1472;
        path.run(RAISE + Duration::from_secs(20));
        assert_eq!(path.mtu.mtu(), 1472);
    }

    #[test]
    fn a_path_without_large_packets_is_not_asked_again() {
        let mut path = Path::new(1472, 1472);
        path.busy = false;
        path.run(Duration::from_secs(500));
        assert_eq!(path.probes, [1472]);
    }

    #[test]
    fn a_path_on_which_nothing_is_heard_keeps_its_mtu() {
        let mut path = Path::new(1472, 1472);
        path.dead = true;
        path.run(Duration::from_secs(20));
        assert_eq!(path.mtu.mtu(), 1472);
        path.dead = false;
        path.run(Duration::from_secs(2));
        assert_eq!((path.mtu.mtu(), path.mtu.stage), (1472, Stage::Settled));
    }

    #[test]
    fn another_word_of_the_layer_below_begins_anew() {
        let mut path = Path::new(1472, 1300);
        path.run(Duration::from_secs(20));
        path.takes = 9000;
        let now = path.now;
        path.mtu.set_limit(8972, now);
        path.run(Duration::from_secs(1));
        assert_eq!(path.mtu.mtu(), 8972);
    }

    #[test]
    fn what_is_known_from_before_is_where_the_search_begins() {
        let mut path = Path::new(1472, 600);
        path.mtu.passed_only(508, path.now);
        assert_eq!(path.mtu.mtu(), 508);
        path.run(Duration::from_secs(20));
        assert!((584..=600).contains(&path.mtu.mtu()), "{}", path.mtu.mtu());
        let mut usual = Path::new(1472, 1472);
        usual.mtu.passed_only(1200, usual.now);
        assert_eq!(usual.mtu.mtu(), 1472);
    }

    #[test]
    fn where_there_is_nothing_to_search_the_search_is_over() {
        for limit in BASE + 1..=BASE + GRAIN {
            let mut path = Path::new(limit, BASE);
            path.run(Duration::from_secs(20));
            assert_eq!((path.mtu.mtu(), path.mtu.stage), (BASE, Stage::Settled));
        }
        let mut path = Path::new(FLOOR, FLOOR);
        path.mtu.passed_only(FLOOR - 8, path.now);
        path.run(Duration::from_secs(1));
        assert_eq!((path.mtu.mtu(), path.mtu.stage), (FLOOR, Stage::Settled));
    }

    #[test]
    fn answers_to_nothing_change_nothing() {
        let mut path = PathMtu::new(1472, begin());
        for size in [0, 1200, 1472, u32::MAX] {
            path.answered(begin(), size);
        }
        assert_eq!(
            (path.mtu(), path.good, path.stage),
            (1472, FLOOR, Stage::Hope)
        );
    }

    proptest! {
        #[test]
        fn whatever_a_path_takes_the_search_ends_below_it_and_close(limit in 508u32..20_000, takes in 508u32..20_000) {
            let mut path = Path::new(limit, takes);
            path.run(Duration::from_secs(60));
            prop_assert_eq!(path.mtu.stage, Stage::Settled);
            prop_assert!(path.mtu.mtu() <= takes.min(limit));
            prop_assert!(takes.min(limit) - path.mtu.mtu() <= GRAIN, "{} of {}", path.mtu.mtu(), takes.min(limit));
        }
    }
}
