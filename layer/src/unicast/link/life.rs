//! Signs of life on one link: when hellos go, when silence means death, how far and how lossy the link is. It must not know
//! keys or packets.

use std::time::{Duration, Instant};

use super::super::pdu::Hello;

/// What is known of the other side's life.
///
/// While packets of flows come or go, hellos go every [`FAST`] and ask for an answer; when nothing comes back they go faster
/// still, and after [`DEAD`] the other side is dead. Without packets a hello goes now and then, and death is noticed late.
pub(super) struct Life {
    next: Instant,
    heard: Instant,
    /// When packets came or went last, and since when they have been doing so.
    busy: Instant,
    awake: Instant,
    /// The same without the fresh keys that are taken for packets.
    carried: Instant,
    sent: Instant,
    /// The other side wants to hear of us now.
    owed: bool,
    sequence: u32,
    their_time: u64,
    their_time_at: Instant,
    their_interval: Duration,
    /// The least of the newest round trips, so that a queue under load is not taken for distance.
    rtts: [u32; RTTS],
    arrivals: Arrivals,
    /// What the other side says of ours that were lost, of 255.
    lost: u8,
}

/// Which of the other side's newest hellos came.
#[derive(Default)]
struct Arrivals {
    newest: u32,
    /// The lowest bit is the newest.
    came: u64,
    /// How many sequence numbers the bits stand for.
    known: u32,
}

impl Life {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now,
            heard: now,
            busy: now,
            awake: now,
            carried: now,
            sent: now,
            owed: false,
            sequence: 0,
            their_time: 0,
            their_time_at: now,
            their_interval: Duration::ZERO,
            rtts: [u32::MAX; RTTS],
            arrivals: Arrivals::default(),
            lost: 0,
        }
    }

    /// Something authentic came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When something authentic came last.
    pub(super) fn last_heard(&self) -> Instant {
        self.heard
    }

    /// When packets came or went last.
    pub(super) fn last_carried(&self) -> Instant {
        self.carried
    }

    /// There are keys, or others than before: a hello goes now.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.heard, self.next, self.busy) = (now, now, now);
        self.awake = now;
    }

    /// Packets of flows come or go. Says whether that wakes the link up.
    pub(super) fn stir(&mut self, now: Instant) -> bool {
        let slept = !self.is_fast(now);
        (self.busy, self.carried) = (now, now);
        if slept {
            (self.awake, self.next) = (now, now);
        }
        slept
    }

    fn is_fast(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.busy) < LINGER
    }

    /// Between hellos without packets: a link that is gone round since it loses some must show that it does so no longer.
    fn idle(&self) -> Duration {
        if self.lost > CHANCE { PROVING } else { IDLE }
    }

    /// Since when the other side could have been heard and was not: what woke the link up takes a round trip to be answered.
    fn silent_since(&self) -> Instant {
        let away = match self.rtt_us() {
            0 => UNKNOWN,
            rtt => Duration::from_micros(rtt.into()).min(FAR),
        };
        self.heard.max(self.awake + away)
    }

    /// When the other side is dead if nothing is heard of it.
    pub(super) fn dead_at(&self) -> Instant {
        let late = self.heard + self.their_interval.max(IDLE).mul_f64(MISSED);
        let soon = self.silent_since() + DEAD;
        if soon < self.busy + LINGER {
            soon.min(late)
        } else {
            late
        }
    }

    /// When the next hello is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The hello that is due; `None` if none is. `keys`: whether it could be sealed.
    pub(super) fn due(&mut self, now: Instant, micros: u64, keys: bool) -> Option<Hello> {
        if now < self.next {
            return None;
        }
        let fast = self.is_fast(now);
        let answers = std::mem::take(&mut self.owed);
        let interval = match fast {
            false => self.idle(),
            true if now >= self.silent_since() + SUSPECT => PROBE,
            true => FAST.min((self.silent_since() + SUSPECT).saturating_duration_since(now)),
        };
        // Who answers waits a little longer, so that one side of a quiet link asks and the other answers.
        let pause = if answers && !fast {
            interval + interval / 8
        } else {
            interval.max(PROBE)
        };
        // Without keys too: the next look is later, not at once.
        self.next = now + pause;
        if !keys {
            return None;
        }
        self.sent = now;
        self.sequence = self.sequence.wrapping_add(1);
        let held = now.saturating_duration_since(self.their_time_at);
        Some(Hello {
            interval: if fast { FAST } else { self.idle() },
            asks: !answers,
            lost: self.arrivals.lost(),
            sequence: self.sequence,
            time: micros,
            echo: self.their_time,
            held: u32::try_from(held.as_micros()).unwrap_or(u32::MAX),
        })
    }

    /// Takes the other side's hello.
    pub(super) fn take(&mut self, now: Instant, micros: u64, hello: &Hello) {
        self.their_time = hello.time;
        self.their_time_at = now;
        self.their_interval = hello.interval;
        self.lost = hello.lost;
        self.arrivals.note(hello.sequence);
        if hello.asks {
            self.owed = true;
            self.next = self.next.min(now.max(self.sent + SPACING));
        }
        let held = u64::from(hello.held);
        if hello.echo == 0 || held > MAX_HELD {
            return;
        }
        let rtt = micros.saturating_sub(hello.echo).saturating_sub(held);
        let at = hello.sequence as usize % RTTS;
        self.rtts[at] = u32::try_from(rtt).unwrap_or(u32::MAX).max(1);
    }

    /// The round trip in microseconds, the least of the newest; 0: not measured yet.
    pub(super) fn rtt_us(&self) -> u32 {
        let least = self.rtts.iter().copied().min();
        least.filter(|rtt| *rtt != u32::MAX).unwrap_or(0)
    }

    /// How many of 1,000 packets are lost on their way to the other side, as it says.
    pub(super) fn loss_permille(&self) -> u32 {
        u32::from(self.lost) * 1000 / 255
    }
}

impl Arrivals {
    fn note(&mut self, sequence: u32) {
        let ahead = sequence.wrapping_sub(self.newest);
        let behind = self.newest.wrapping_sub(sequence);
        if self.known == 0 || (ahead >= WINDOW && behind >= WINDOW) {
            // The first, or one from another count: what was before means nothing.
            (self.newest, self.came, self.known) = (sequence, 1, 1);
        } else if ahead < WINDOW {
            self.newest = sequence;
            self.came = (self.came << ahead) | 1;
            self.known = (self.known + ahead).min(WINDOW);
        } else {
            self.came |= 1 << behind;
        }
    }

    /// How many of 255 did not come.
    fn lost(&self) -> u8 {
        if self.known < ENOUGH {
            return 0;
        }
        let bits = u64::MAX >> (WINDOW - self.known);
        let lost = self.known - (self.came & bits).count_ones();
        u8::try_from(lost * 255 / self.known).unwrap_or(u8::MAX)
    }
}

/// Between hellos while packets come or go.
const FAST: Duration = Duration::from_millis(250);
/// Between hellos without packets.
const IDLE: Duration = Duration::from_secs(10);
/// The same on a link that has lost some: all hellos that are looked at are others then after two minutes.
const PROVING: Duration = Duration::from_secs(2);
/// Hellos of 255 that may be lost by chance.
const CHANCE: u8 = 5;
/// Silence under traffic after which the other side is dead.
const DEAD: Duration = Duration::from_millis(900);
/// The longest round trip that a link may have and live: three hops by satellite.
const FAR: Duration = Duration::from_secs(2);
/// That of a link which has not been measured; [`DEAD`] is added to it.
const UNKNOWN: Duration = Duration::from_secs(1);
/// The hellos of an idle neighbour that must be missing until it is dead.
const MISSED: f64 = 3.5;
/// Silence under traffic after which hellos go faster.
const SUSPECT: Duration = Duration::from_millis(300);
/// Between hellos that are to find out whether the other side lives.
const PROBE: Duration = Duration::from_millis(75);
/// How long after the last packet hellos go on as if there were more.
const LINGER: Duration = Duration::from_secs(2);
/// At least so much lies between two answers.
const SPACING: Duration = Duration::from_millis(50);
/// The longest that an echo may have been held: two clocks don't run alike.
const MAX_HELD: u64 = 1_000_000;
const RTTS: usize = 16;
/// Hellos that are looked at to find the loss.
const WINDOW: u32 = 64;
/// Hellos without which nothing is said of the loss.
const ENOUGH: u32 = 16;

const _: () = assert!(
    DEAD.as_millis() < 1000,
    "under traffic a dead neighbour must be noticed within 1 s"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_in_the_sequence_are_the_loss() {
        let mut arrivals = Arrivals::default();
        for sequence in (1..=15).filter(|s| s % 2 == 0) {
            arrivals.note(sequence);
        }
        assert_eq!(arrivals.lost(), 0, "too few to tell");
        for sequence in (16..=200).filter(|s| s % 4 != 0) {
            arrivals.note(sequence);
        }
        assert!((55..=70).contains(&arrivals.lost()), "{}", arrivals.lost());
        // Late ones fill their gaps, and one that comes twice is one.
        for sequence in 136..=200 {
            arrivals.note(sequence);
        }
        assert_eq!(arrivals.lost(), 0);
        arrivals.note(7_000_000);
        assert_eq!(arrivals.lost(), 0, "another count");
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn a_link_that_loses_some_is_looked_at_more_often_than_another_that_is_idle() {
        let start = Instant::now();
        let pause = |lost| {
            let mut life = Life::new(start);
            let hello = Hello {
                lost,
                ..Hello::default()
            };
            life.take(start, 1, &hello);
            let later = start + Duration::from_secs(60);
            let said = life.due(later, 1, true).unwrap().interval;
            assert_eq!(life.next(), later + said);
            said
        };
        assert_eq!([0, CHANCE].map(pause), [IDLE; 2]);
        assert_eq!([CHANCE + 1, 255].map(pause), [PROVING; 2]);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn under_traffic_hellos_go_every_quarter_of_a_second_and_without_every_ten() {
        let start = Instant::now();
        for (traffic, count) in [(true, 400), (false, 10)] {
            let mut life = Life::new(start);
            let begin = start + Duration::from_secs(10);
            let (mut now, mut hellos) = (begin, 0);
            while now < begin + Duration::from_secs(100) {
                // The other side is heard, and packets go, all the time.
                life.heard(now);
                if traffic {
                    life.stir(now);
                }
                hellos += usize::from(life.due(now, 1, true).is_some());
                now = life.next();
            }
            assert_eq!(hellos, count);
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn silence_is_noticed_soon_under_traffic_and_late_without() {
        let start = Instant::now();
        let mut life = Life::new(start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(life.dead_at() <= at(2000), "a fresh link is awake");
        let near = |sequence| Hello {
            sequence,
            time: 1,
            echo: 1,
            ..Hello::default()
        };
        life.take(start, 50_001, &near(1));
        assert!(life.dead_at() <= at(1000), "and its way is short");
        let mut now = start;
        // Heard for 5 s, without packets.
        while now < at(5_000) {
            now = life.next();
            life.due(now, 1, true);
            life.heard(now);
        }
        assert!(life.dead_at() >= now + Duration::from_secs(30));
        assert!(life.next() >= now + Duration::from_secs(5), "and quiet");
        // The other side dies; the first packet finds out.
        let packet = now + Duration::from_secs(3);
        assert!(life.stir(packet) && life.next() == packet);
        assert!(!life.stir(packet + Duration::from_millis(1)), "it is awake");
        let mut hellos = 0;
        while life.dead_at() > life.next() {
            let next = life.next();
            hellos += u32::from(life.due(next, 1, true).is_some());
        }
        assert!(life.dead_at() <= packet + Duration::from_secs(1));
        assert!(life.dead_at() >= packet + DEAD);
        assert!(hellos >= 8, "only {hellos} hellos before it was given up");
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn what_wakes_a_far_link_up_has_a_round_trip_to_be_answered() {
        let start = Instant::now();
        let mut life = Life::new(start);
        let far = Hello {
            sequence: 1,
            time: 1,
            echo: 1,
            ..Hello::default()
        };
        life.take(start, 1_300_001, &far);
        life.heard(start);
        let packet = start + Duration::from_secs(9);
        assert!(life.stir(packet));
        let answered = packet + Duration::from_millis(1_400);
        assert!(life.dead_at() > answered);
        // Once it is awake, silence means the same as anywhere.
        life.heard(answered);
        life.stir(answered);
        assert!(life.dead_at() <= answered + Duration::from_secs(1));
    }
}
