//! When a queue stands for too long (CoDel, RFC 8289). It must not know what is done about it.

use std::time::{Duration, Instant};

/// The state of one queue.
#[derive(Debug)]
pub struct Codel {
    bounds: Bounds,
    /// When what waits will have waited for too long all the time.
    above_since: Option<Instant>,
    /// When to act next, while the queue stands.
    next: Option<Instant>,
    /// How often it was acted since the queue began to stand.
    count: u32,
    /// The same when it began.
    count_before: u32,
    ended: Option<Instant>,
}

/// What a queue may be like.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The delay that it may always have.
    pub target: Duration,
    /// How long it may have more, and the longest round trip that is thought of.
    pub interval: Duration,
}

impl Bounds {
    /// As RFC 8289 has them, for queues before links.
    pub const LINK: Self = Self {
        target: Duration::from_millis(5),
        interval: Duration::from_millis(100),
    };
}

impl Codel {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            above_since: None,
            next: None,
            count: 0,
            count_before: 0,
            ended: None,
        }
    }

    /// How many packets to mark or drop of what is sent now and has waited for `waited`; `last`: nothing waits behind it.
    pub fn act(&mut self, now: Instant, waited: Duration, last: bool) -> u32 {
        if !self.stands(now, waited, last) {
            if self.next.take().is_some() {
                self.ended = Some(now);
            }
            return 0;
        }
        let Some(mut next) = self.next else {
            return self.begin(now);
        };
        let mut acts = 0;
        while now >= next && acts < MOST {
            self.count = self.count.saturating_add(1);
            next += self.pause();
            acts += 1;
        }
        self.next = Some(next);
        acts
    }

    /// Whether everything has waited for too long for a whole interval.
    fn stands(&mut self, now: Instant, waited: Duration, last: bool) -> bool {
        if waited < self.bounds.target || last {
            self.above_since = None;
            return false;
        }
        *self.above_since.get_or_insert(now + self.bounds.interval) <= now
    }

    /// It stands. If it did lately, it goes on nearly as fast as then.
    fn begin(&mut self, now: Instant) -> u32 {
        let interval = self.bounds.interval;
        let lately = |at: Instant| now.saturating_duration_since(at) < 16 * interval;
        let more = self.count - self.count_before;
        self.count = if more > 1 && self.ended.is_some_and(lately) {
            more
        } else {
            1
        };
        self.count_before = self.count;
        self.next = Some(now + self.pause());
        1
    }

    /// Before the next act: ever shorter, by the square root of their number, so that TCP's rate falls linearly.
    fn pause(&self) -> Duration {
        let count = f64::from(self.count.max(1));
        self.bounds.interval.div_f64(count.sqrt())
    }
}

/// Acts at once, however late it is.
const MOST: u32 = 64;

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn queue() -> Codel {
        Codel::new(Bounds::LINK)
    }

    /// What is done in each ms when all has waited so long in each.
    fn acts(codel: &mut Codel, begin: Instant, waits: impl Iterator<Item = u32>) -> Vec<u32> {
        let one = |(ms, wait): (usize, u32)| codel.act(begin + MS * ms as u32, MS * wait, false);
        waits.enumerate().map(one).collect()
    }

    #[test]
    fn a_burst_that_is_gone_within_an_interval_is_let_through() {
        let mut codel = queue();
        let burst = (0..99).map(|_| 50).chain([2]).chain((0..99).map(|_| 50));
        assert_eq!(
            acts(&mut codel, Instant::now(), burst).iter().sum::<u32>(),
            0
        );
    }

    #[test]
    fn a_queue_that_stands_is_acted_on_after_an_interval_and_then_ever_more_often() {
        let mut codel = queue();
        let acts = acts(&mut codel, Instant::now(), (0..1000).map(|_| 20));
        let when: Vec<_> = (0..1000).filter(|ms| acts[*ms] > 0).collect();
        // 100 ms, then after 100, 70.7, 57.7 and 50 more: RFC 8289, 5.3.
        assert_eq!(when[..5], [100, 200, 271, 329, 379]);
        let gaps: Vec<_> = when.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.windows(2).all(|g| g[1] <= g[0] + 1), "{gaps:?}");
    }

    #[test]
    fn it_ends_with_the_queue_and_goes_on_nearly_as_fast_when_that_comes_back() {
        let (mut codel, begin) = (queue(), Instant::now());
        let first = acts(&mut codel, begin, (0..1000).map(|_| 20));
        assert_eq!(codel.act(begin + MS * 1000, MS, false), 0);
        let again = acts(&mut codel, begin + MS * 1001, (0..300).map(|_| 20));
        assert_eq!(again[..100].iter().sum::<u32>(), 0);
        assert!(again.iter().sum::<u32>() > first[..300].iter().sum::<u32>());
    }

    #[test]
    fn the_last_packet_is_never_too_late() {
        let (mut codel, begin) = (queue(), Instant::now());
        let all = (0..500).map(|ms| codel.act(begin + MS * ms, MS * 200, true));
        assert_eq!(all.sum::<u32>(), 0);
    }
}
