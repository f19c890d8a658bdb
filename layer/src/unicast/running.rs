//! Handshakes that run, and which of them goes where there are too many. It must not know over what they run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::{Addr, Reason};

use crate::crypt::{Handshake, Outcome, Secrets};

/// A handshake that runs, or has ended not long ago: it still answers what the other side repeats.
pub(super) struct Running {
    pub(super) handshake: Handshake,
    pub(super) done: bool,
    /// Its outcome was that of a joiner, who has no certificate yet.
    pub(super) joiner: bool,
    confirmed: bool,
    failed: bool,
    since: Instant,
    /// The neighbour with whose keys its PDUs are sealed for their way; `None`: anybody may write them.
    via: Option<Addr>,
    drop_at: Option<Instant>,
}

/// What a look at a running handshake brought.
pub(super) enum Step {
    /// Both sides have proven who they are.
    Keys(Box<Secrets>),
    /// The other side has the keys too.
    Confirmed,
    /// It came to nothing.
    Failed(Reason),
    /// The same, since the server has forgotten it.
    Forgotten(Reason),
}

impl Running {
    /// One that this side has begun.
    pub(super) fn begun(
        now: Instant,
        handshake: Handshake,
        via: Option<Addr>,
        joiner: bool,
    ) -> Self {
        Self {
            handshake,
            done: false,
            joiner,
            confirmed: false,
            failed: false,
            since: now,
            via,
            drop_at: None,
        }
    }

    /// One that the other side has begun.
    pub(super) fn taken(now: Instant, handshake: Handshake, via: Option<Addr>) -> Self {
        Self::begun(now, handshake, via, false)
    }

    /// The neighbour with whose keys its PDUs are sealed for their way.
    pub(super) fn via(&self) -> Option<Addr> {
        self.via
    }

    /// How long a packet takes there and back, as far as one can tell that ends now: who began it knows its end after two
    /// round trips, the other side after one.
    pub(super) fn round_trip(&self, now: Instant) -> Duration {
        let took = now.saturating_duration_since(self.since);
        if self.handshake.is_client() {
            took / 2
        } else {
            took
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.handshake.deadline().or(self.drop_at)
    }

    pub(super) fn step(&mut self) -> Option<Step> {
        match self.handshake.outcome() {
            Some(Outcome::Done(secrets)) => {
                self.done = true;
                Some(Step::Keys(secrets))
            }
            Some(Outcome::Failed(reason)) => {
                (self.done, self.failed) = (true, true);
                Some(match self.handshake.is_forgotten() {
                    true => Step::Forgotten(reason),
                    false => Step::Failed(reason),
                })
            }
            None if self.done && !self.confirmed && self.handshake.confirmed() => {
                self.confirmed = true;
                Some(Step::Confirmed)
            }
            None => None,
        }
    }

    /// Whether this side has begun it and can't know yet that the other has the keys too: that takes a round trip more.
    pub(super) fn is_under_way(&self) -> bool {
        self.handshake.is_client() && !self.confirmed && !self.failed
    }

    /// Whether it may be forgotten.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        if self.done && self.drop_at.is_none() && self.handshake.finished() {
            self.drop_at = Some(now + LINGER);
        }
        self.done && self.handshake.is_mute() || self.drop_at.is_some_and(|at| at <= now)
    }

    /// Of one that the other side has begun, and nobody knows yet whether it is that: its session, the neighbour through
    /// which it came, and since when it runs.
    pub(super) fn open(&self) -> Option<(u32, Option<Addr>, Instant)> {
        let open = !self.done && !self.handshake.is_client();
        open.then(|| (self.handshake.session(), self.via, self.since))
    }
}

/// Takes a handshake that the other side of a link, or a member, has begun. Says whether the oldest of those that came the
/// same way and have not ended had to go for it: those that never end must not keep out one that will.
pub(super) fn admit(handshakes: &mut Vec<Running>, running: Running) -> bool {
    let most = running.via.map_or(MAX_PLAIN, |_| MAX_SEALED);
    let same = |r: &Running| r.open().is_some_and(|(_, via, _)| via == running.via);
    let full = handshakes.iter().filter(|r| same(r)).count() >= most;
    let oldest = handshakes.iter().position(same).filter(|_| full);
    if let Some(oldest) = oldest {
        handshakes.remove(oldest);
    }
    let ended = handshakes
        .iter()
        .position(|r| r.done && !r.handshake.is_client());
    if let Some(ended) = ended.filter(|_| handshakes.len() >= MAX_KEPT) {
        handshakes.remove(ended);
    }
    handshakes.push(running);
    oldest.is_some()
}

/// Which of too many open handshakes goes: the oldest of the neighbour through which most have come, so that whoever sits
/// behind it, and forges as many as he likes, takes no place from others. Each has its key, its neighbour and its age.
pub(super) fn displaced<K: Copy>(open: &[(K, Option<Addr>, Instant)], most: usize) -> Option<K> {
    if open.len() <= most {
        return None;
    }
    let mut shares: BTreeMap<Option<Addr>, usize> = BTreeMap::new();
    for (_, via, _) in open {
        *shares.entry(*via).or_default() += 1;
    }
    let (crowd, _) = shares.into_iter().max_by_key(|(_, n)| *n)?;
    open.iter()
        .filter(|(_, via, _)| *via == crowd)
        .min_by_key(|(_, _, since)| *since)
        .map(|(key, ..)| *key)
}

/// How long a handshake that has ended answers repetitions.
const LINGER: Duration = Duration::from_secs(10);
/// Handshakes at once that the other side of a link has begun, or that came in the name of a member through one neighbour:
/// where anybody may have sent the first, one more.
const MAX_SEALED: usize = 1;
const MAX_PLAIN: usize = 2;
/// Handshakes of one link, or with one member, those that have ended included.
const MAX_KEPT: usize = 8;

#[cfg(test)]
mod tests {
    use proto::Label;

    use super::*;
    use crate::UnixTime;
    use crate::crypt::{Authority, Clock, TlsConfig};

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn whoever_begins_most_handshakes_displaces_its_own() {
        let start = Instant::now();
        let (forger, other) = (Some(Addr(1)), Some(Addr(2)));
        let mut open: Vec<(usize, Option<Addr>, Instant)> = Vec::new();
        for key in 0..1000 {
            let via = if key % 100 == 50 { other } else { forger };
            open.push((key, via, start + Duration::from_millis(key as u64)));
            if let Some(goes) = displaced(&open, 64) {
                open.retain(|(key, ..)| *key != goes);
            }
            assert!(open.len() <= 64);
        }
        let of = |via| open.iter().filter(move |(_, v, _)| *v == via);
        assert_eq!(of(other).count(), 10, "all of the other are left");
        assert!(
            of(forger).all(|(key, ..)| *key > 900),
            "the newest are left"
        );
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn one_that_was_given_up_does_not_swallow_what_begins_another() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let wall = UnixTime(Duration::from_secs(1_800_000_000));
        let clock = Clock::new();
        clock.set(wall);
        let label = |text| Label::new(text).unwrap();
        let (_, member) = Authority::create(&label("ovl"), &label("a"), &[], wall).unwrap();
        let tls = TlsConfig::member(&member, &clock).unwrap();
        let mut client = Handshake::client(&tls, 7, 1400, start).unwrap();
        let mut server = Handshake::server(&tls, 7, 1400, start).unwrap();
        server
            .handle(start, &mut client.poll(start).unwrap())
            .unwrap();
        let mut running = Running::taken(start, server, None);
        while running.handshake.poll(start).is_some() {}
        assert!(running.step().is_none() && !running.is_over(start));
        assert_eq!(running.handshake.poll(later), None);
        assert!(matches!(running.step(), Some(Step::Failed(_))));
        assert!(running.is_over(later));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn nothing_goes_while_there_is_room() {
        let open = [(1, None, Instant::now()); 64];
        assert_eq!(displaced(&open, 64), None);
        assert_eq!(displaced(&open, 63), Some(1));
    }
}
