//! The flows to one peer: when to dial, which of two to send on, what waits meanwhile. No IO and no clock; `F` is the flow.
//!
//! Either side may dial, and both may at once. A flow is received from whoever dialled it. To send, a side takes the one
//! that it has; of two that were made at the same time, the one dialled by the member with the smaller name, and whoever
//! dialled the other closes it a little later. A peer that still has our flow has no reason to dial, so an incoming
//! flow that comes *later* says that ours is dead at its end, and replaces it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::{Label, Packet, Reason};

/// Who allocated a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This host.
    Dialled,
    /// The peer.
    Accepted,
}

/// What to do with a packet for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Send it on this flow.
    Send(Side),
    /// Keep it with [`Session::wait`]; if `dial`, allocate a flow now.
    Wait {
        /// This packet is the one that starts it.
        dial: bool,
    },
    /// Several attempts failed, the last a moment ago: drop it.
    Down,
}

/// All that is kept of one peer.
#[derive(Debug)]
pub struct Session<F> {
    prefer: Side,
    dialled: Option<End<F>>,
    accepted: Option<End<F>>,
    dialling: bool,
    retry: Option<Retry>,
    waiting: VecDeque<Packet>,
    used: Option<Instant>,
    /// The last flow died while the peer was in use: it is dialled until it is back, or forgotten.
    lost: bool,
    /// A flow on which nothing moves for so long is closed by who dialled it.
    idle: Option<Duration>,
    /// The peer's flow has been silent for nearly that long, so that it may be gone before a packet arrives: another is dialled.
    renewing: bool,
    /// Packets wait for that other until then, and take the peer's flow afterwards if it still stands.
    held_until: Option<Instant>,
    /// That other stands; the peer closes its own.
    renewed: bool,
}

#[derive(Debug)]
struct End<F> {
    flow: F,
    since: Instant,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
    why: Reason,
}

impl<F> Session<F> {
    /// Packets that wait for a flow; the oldest goes when another comes.
    pub const WAITING: usize = 32;
    /// The first pause after an attempt that failed, and the longest.
    pub const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
    /// Two flows made within this time were dialled at once.
    pub const RACE: Duration = Duration::from_secs(2);
    /// How long the flow that isn't sent on stays after a race.
    pub const SURPLUS: Duration = Duration::from_secs(5);
    /// A peer that was used within this time gets a new flow at once when its last one dies.
    pub const KEEP: Duration = Duration::from_secs(60);

    /// How long packets wait for a flow in the place of the peer's, which may still serve.
    pub const HOLD: Duration = Duration::from_millis(500);

    /// The two sides of a flow may differ by so much about when something moved there last.
    const DOUBT: Duration = Duration::from_millis(1500);

    /// A session without flows, of `me` with `peer`.
    pub fn new(me: &Label, peer: &Label) -> Self {
        Self {
            prefer: if me < peer {
                Side::Dialled
            } else {
                Side::Accepted
            },
            dialled: None,
            accepted: None,
            dialling: false,
            retry: None,
            waiting: VecDeque::new(),
            used: None,
            lost: false,
            idle: None,
            renewing: false,
            held_until: None,
            renewed: false,
        }
    }

    /// From now on flows on which nothing moves for so long are closed; `None`: never.
    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle = idle;
    }

    /// What to do with a packet that is for the peer now.
    pub fn way(&mut self, now: Instant) -> Way {
        let stale = self.is_stale(now);
        self.used = Some(now);
        if self.renewing && self.held_until.is_some_and(|until| now < until) {
            return Way::Wait { dial: false };
        }
        if stale && !self.dialling {
            (self.renewing, self.dialling) = (true, true);
            self.held_until = Some(now + Self::HOLD);
            return Way::Wait { dial: true };
        }
        if let Some(side) = self.sending() {
            return Way::Send(side);
        }
        if self.dialling {
            return Way::Wait { dial: false };
        }
        match &self.retry {
            Some(r) if now < r.at && r.pause >= Self::RETRY.1 => Way::Down,
            Some(r) if now < r.at => Way::Wait { dial: false },
            _ => {
                self.dialling = true;
                Way::Wait { dial: true }
            }
        }
    }

    /// Whether a flow is to be allocated now although no packet asks for it.
    pub fn call(&mut self, now: Instant) -> bool {
        let calls = self.is_alone() && !self.rests(now);
        self.dialling |= calls;
        calls
    }

    /// There is no flow, and none under way.
    pub fn is_alone(&self) -> bool {
        self.sending().is_none() && !self.dialling
    }

    /// A flow is under way.
    pub fn is_dialling(&self) -> bool {
        self.dialling
    }

    /// Keeps a packet until there is a flow; gives the oldest back when there are too many.
    pub fn wait(&mut self, packet: Packet) -> Option<Packet> {
        self.waiting.push_back(packet);
        if self.waiting.len() > Self::WAITING {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    /// The packets that waited, oldest first.
    pub fn take_waiting(&mut self) -> VecDeque<Packet> {
        std::mem::take(&mut self.waiting)
    }

    /// The packets that have waited for long enough for a flow in the place of the peer's, which is still there to take them.
    pub fn take_held(&mut self, now: Instant) -> VecDeque<Packet> {
        match self.deadline_held() {
            Some(at) if at <= now => self.take_waiting(),
            Some(_) | None => VecDeque::new(),
        }
    }

    /// The flow that was asked for stands. Gives a flow back that it replaces.
    pub fn dialled(&mut self, now: Instant, flow: F) -> Option<F> {
        self.dialling = false;
        (self.retry, self.lost) = (None, false);
        self.renewed |= std::mem::take(&mut self.renewing) && self.accepted.is_some();
        self.dialled
            .replace(End { flow, since: now })
            .map(|old| old.flow)
    }

    /// The flow that was asked for can't be had. The first few times what waits goes on waiting, for a short outage costs
    /// no packet; then it is given up, and [`Session::take_waiting`] has what is to be dropped.
    pub fn dial_failed(&mut self, now: Instant, why: Reason) {
        (self.dialling, self.renewing) = (false, false);
        let (first, longest) = Self::RETRY;
        let pause = self
            .retry
            .as_ref()
            .map_or(first, |r| (r.pause * 2).min(longest));
        self.retry = Some(Retry {
            at: now + pause,
            pause,
            why,
        });
    }

    /// Whether so many attempts have failed that nothing waits any more.
    pub fn given_up(&self) -> bool {
        self.retry
            .as_ref()
            .is_some_and(|r| r.pause >= Self::RETRY.1)
    }

    /// The peer dialled. Gives the flows back that it replaces: an earlier one of the peer's, and this host's unless both
    /// dialled at the same time.
    pub fn accepted(&mut self, now: Instant, flow: F) -> impl Iterator<Item = F> {
        (self.retry, self.lost, self.renewed) = (None, false, false);
        let earlier = self.accepted.replace(End { flow, since: now });
        let race = self
            .dialled
            .as_ref()
            .is_none_or(|own| now.saturating_duration_since(own.since) <= Self::RACE);
        let dead = if race { None } else { self.dialled.take() };
        earlier.into_iter().chain(dead).map(|end| end.flow)
    }

    /// Something came from the peer.
    pub fn heard(&mut self, now: Instant) {
        self.used = Some(now);
    }

    /// A flow is down; gives it back. `true`: the peer was used lately and has no other, so dial again at once. The peer may
    /// hold an end of the dead flow and not know; it hears so from the new one.
    pub fn down(&mut self, now: Instant, side: Side) -> (Option<F>, bool) {
        let gone = self.end_mut(side).take().map(|end| end.flow);
        self.renewed = false;
        let lately = self.kept_until().is_some_and(|until| now <= until);
        self.lost |= gone.is_some() && lately && self.sending().is_none();
        let redial = gone.is_some() && self.lost && !self.dialling;
        self.dialling |= redial;
        (gone, redial)
    }

    /// Takes all flows away, for a peer that is no member any more.
    pub fn close(&mut self) -> impl Iterator<Item = F> + use<F> {
        self.waiting.clear();
        [self.dialled.take(), self.accepted.take()]
            .into_iter()
            .flatten()
            .map(|end| end.flow)
    }

    /// Whether a failed attempt is to be repeated now although no packet asks for it: something waits, or a flow was lost
    /// that was in use.
    pub fn dial_due(&mut self, now: Instant) -> bool {
        let due = self.deadline_dial().is_some_and(|at| at <= now);
        self.dialling |= due;
        due
    }

    /// The flow that this host dialled in a race and that nobody sends on, when its time has come.
    pub fn take_surplus(&mut self, now: Instant) -> Option<F> {
        self.deadline_surplus().filter(|at| *at <= now)?;
        self.dialled.take().map(|end| end.flow)
    }

    /// The flow that this host dialled and on which nothing has moved for long, if its time has come. The next packet dials.
    pub fn take_idle(&mut self, now: Instant) -> Option<F> {
        self.deadline_idle().filter(|at| *at <= now)?;
        self.renewed = false;
        self.dialled.take().map(|end| end.flow)
    }

    /// Whether that time has come.
    pub fn idle_due(&self, now: Instant) -> bool {
        self.deadline_idle().is_some_and(|at| at <= now)
    }

    /// Whether an attempt failed a moment ago, so that none is under way.
    pub fn rests(&self, now: Instant) -> bool {
        self.sending().is_none() && self.retry.as_ref().is_some_and(|retry| now < retry.at)
    }

    /// When [`Session::take_held`], [`Session::take_surplus`], [`Session::take_idle`] or [`Session::dial_due`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        [
            self.deadline_held(),
            self.deadline_surplus(),
            self.deadline_dial(),
            self.deadline_idle(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The flow to send on.
    pub fn sending(&self) -> Option<Side> {
        match (&self.dialled, &self.accepted) {
            (Some(_), Some(_)) if self.renewed => Some(Side::Dialled),
            (Some(_), Some(_)) => Some(self.prefer),
            (Some(_), None) => Some(Side::Dialled),
            (None, Some(_)) => Some(Side::Accepted),
            (None, None) => None,
        }
    }

    /// One of the flows.
    pub fn flow(&self, side: Side) -> Option<&F> {
        match side {
            Side::Dialled => self.dialled.as_ref(),
            Side::Accepted => self.accepted.as_ref(),
        }
        .map(|end| &end.flow)
    }

    /// One of the flows, to read from or write to.
    pub fn flow_mut(&mut self, side: Side) -> Option<&mut F> {
        self.end_mut(side).as_mut().map(|end| &mut end.flow)
    }

    /// Both flows.
    pub fn flows(&self) -> impl Iterator<Item = &F> {
        [self.flow(Side::Dialled), self.flow(Side::Accepted)]
            .into_iter()
            .flatten()
    }

    /// A word for status: `up`, `allocating`, `down` or `idle`.
    pub fn state(&self) -> &'static str {
        match self.sending() {
            Some(_) => "up",
            None if self.dialling => "allocating",
            None if self.retry.is_some() => "down",
            None => "idle",
        }
    }

    /// Why the last attempt failed, until one succeeds.
    pub fn trouble(&self) -> Option<&Reason> {
        self.retry.as_ref().map(|r| &r.why)
    }

    fn end_mut(&mut self, side: Side) -> &mut Option<End<F>> {
        match side {
            Side::Dialled => &mut self.dialled,
            Side::Accepted => &mut self.accepted,
        }
    }

    fn deadline_dial(&self) -> Option<Instant> {
        let at = self.retry.as_ref()?.at;
        let missed = self.lost && self.kept_until().is_some_and(|until| at <= until);
        let idle = self.sending().is_none() && !self.dialling;
        (idle && (missed || !self.waiting.is_empty())).then_some(at)
    }

    fn deadline_held(&self) -> Option<Instant> {
        let holds = self.renewing && self.sending().is_some() && !self.waiting.is_empty();
        self.held_until.filter(|_| holds)
    }

    fn kept_until(&self) -> Option<Instant> {
        // Where flows are closed sooner than that, one that goes has most likely been.
        let keep = self
            .idle
            .map_or(Self::KEEP, |idle| Self::KEEP.min(idle / 4));
        self.used.map(|used| used + keep)
    }

    fn deadline_idle(&self) -> Option<Instant> {
        let since = self.dialled.as_ref()?.since;
        let used = self.used.map_or(since, |used| used.max(since));
        Some(used + self.idle?)
    }

    /// Whether the peer may be closing the only flow at this moment, since nothing has moved there.
    fn is_stale(&self, now: Instant) -> bool {
        let silence = |idle: Duration| idle.saturating_sub((idle / 8).max(Self::DOUBT));
        match (&self.dialled, &self.accepted, self.idle) {
            (None, Some(accepted), Some(idle)) => {
                let used = self.used.map_or(accepted.since, |u| u.max(accepted.since));
                now.saturating_duration_since(used) >= silence(idle)
            }
            _ => false,
        }
    }

    fn deadline_surplus(&self) -> Option<Instant> {
        let accepted = self
            .accepted
            .as_ref()
            .filter(|_| self.prefer == Side::Accepted && !self.renewed)?;
        let dialled = self.dialled.as_ref()?;
        Some(accepted.since.max(dialled.since) + Self::SURPLUS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::Code;

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    fn sides() -> (Session<u32>, Session<u32>) {
        (
            Session::new(&label("a"), &label("b")),
            Session::new(&label("b"), &label("a")),
        )
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn failed() -> Reason {
        Reason::new(Code::Unreachable, "no way")
    }

    #[test]
    fn the_first_packet_dials_and_later_ones_wait() {
        let now = Instant::now();
        let (mut a, _) = sides();
        assert_eq!(a.state(), "idle");
        assert_eq!(a.way(now), Way::Wait { dial: true });
        assert_eq!(a.way(now), Way::Wait { dial: false });
        assert_eq!(a.state(), "allocating");
        assert_eq!(a.dialled(now, 1), None);
        assert_eq!((a.way(now), a.state()), (Way::Send(Side::Dialled), "up"));
    }

    #[test]
    fn packets_wait_only_for_a_moment_for_a_flow_in_the_place_of_the_peers() {
        let start = Instant::now();
        let (_, mut b) = joined(start);
        let late = start + IDLE;
        assert_eq!(b.way(late), Way::Wait { dial: true });
        assert!(b.wait(Packet::copy_of(b"one")).is_none());
        assert_eq!(b.way(late + ms(1)), Way::Wait { dial: false });
        let due = late + Session::<u32>::HOLD;
        assert_eq!(b.deadline(), Some(due));
        assert!(b.take_held(due - ms(1)).is_empty());
        assert_eq!(b.take_held(due).len(), 1);
        assert_eq!(b.way(due), Way::Send(Side::Accepted));
        // The other takes its place when it comes.
        assert_eq!(b.dialled(due, 9), None);
        assert_eq!(b.way(due), Way::Send(Side::Dialled));
    }

    #[test]
    fn one_that_is_gone_meanwhile_keeps_them_waiting() {
        let start = Instant::now();
        let (_, mut b) = joined(start);
        let late = start + IDLE;
        assert_eq!(b.way(late), Way::Wait { dial: true });
        assert!(b.wait(Packet::copy_of(b"one")).is_none());
        b.down(late, Side::Accepted);
        let due = late + Session::<u32>::HOLD;
        assert_eq!(b.way(due), Way::Wait { dial: false });
        assert!(b.take_held(due).is_empty() && b.deadline().is_none());
        assert_eq!(b.dialled(due, 9), None);
        assert_eq!(
            (b.way(due), b.take_waiting().len()),
            (Way::Send(Side::Dialled), 1)
        );
    }

    #[test]
    fn the_oldest_packet_goes_when_too_many_wait() {
        let (mut a, _) = sides();
        for i in 0..Session::<u32>::WAITING {
            assert!(a.wait(Packet::copy_of(&[i as u8])).is_none());
        }
        assert_eq!(&a.wait(Packet::copy_of(b"new")).unwrap()[..], [0]);
        assert_eq!(&a.take_waiting().back().unwrap()[..], b"new");
        assert!(a.take_waiting().is_empty());
    }

    const IDLE: Duration = Duration::from_secs(300);

    /// Both sides, with a flow that `a` dialled at `now`.
    fn joined(now: Instant) -> (Session<u32>, Session<u32>) {
        let (mut a, mut b) = sides();
        for side in [&mut a, &mut b] {
            side.set_idle(Some(IDLE));
        }
        a.way(now);
        a.dialled(now, 1);
        assert_eq!(b.accepted(now, 1).count(), 0);
        b.heard(now);
        (a, b)
    }

    #[test]
    fn a_flow_on_which_nothing_moves_is_closed_by_who_dialled_it_and_the_next_packet_dials() {
        let now = Instant::now();
        let (mut a, mut b) = joined(now);
        assert_eq!((a.deadline(), b.deadline()), (Some(now + IDLE), None));
        a.heard(now + ms(5000));
        let end = now + ms(5000) + IDLE;
        assert_eq!((a.take_idle(end - ms(1)), b.take_idle(end)), (None, None));
        assert_eq!((a.idle_due(end), a.take_idle(end)), (true, Some(1)));
        assert_eq!((a.state(), a.deadline()), ("idle", None));
        // The other side was to hear of it, and does not bring it back by itself.
        assert_eq!(b.down(end, Side::Accepted), (Some(1), false));
        assert_eq!(b.way(end), Way::Wait { dial: true });
        assert_eq!(a.way(end), Way::Wait { dial: true });
        let mut never = sides().0;
        never.way(now);
        never.dialled(now, 1);
        assert_eq!((never.deadline(), never.take_idle(end)), (None, None));
    }

    #[test]
    fn a_packet_that_could_meet_the_end_of_a_silent_flow_waits_for_a_flow_of_ones_own() {
        let now = Instant::now();
        let (mut a, mut b) = joined(now);
        let soon = now + IDLE - ms(10);
        assert_eq!(b.way(soon), Way::Wait { dial: true });
        assert_eq!(b.way(soon), Way::Wait { dial: false });
        // It stands before the old one has gone: what waited goes there.
        assert_eq!(b.dialled(soon, 2), None);
        assert_eq!(b.way(soon), Way::Send(Side::Dialled));
        assert_eq!(a.accepted(soon, 2).collect::<Vec<_>>(), [1]);
        assert_eq!(b.down(soon, Side::Accepted), (Some(1), false));
        assert_eq!(
            (b.way(soon), b.deadline()),
            (Way::Send(Side::Dialled), Some(soon + IDLE))
        );
        assert_eq!(a.way(soon), Way::Send(Side::Accepted));
    }

    #[test]
    fn a_silent_flow_is_used_on_if_there_is_no_other() {
        let now = Instant::now();
        let (_, mut b) = joined(now);
        let soon = now + IDLE - ms(10);
        assert_eq!(b.way(soon), Way::Wait { dial: true });
        b.dial_failed(soon, failed());
        assert_eq!(b.way(soon + ms(1)), Way::Send(Side::Accepted));
        assert_eq!(b.deadline(), None);
    }

    #[test]
    fn of_two_flows_dialled_at_once_both_sides_send_on_the_same_and_the_other_is_closed_by_who_dialled_it()
     {
        let now = Instant::now();
        let (mut a, mut b) = sides();
        assert_eq!(a.way(now), Way::Wait { dial: true });
        assert_eq!(b.way(now), Way::Wait { dial: true });
        // Flow 1 was dialled by a, flow 2 by b; each side sees its own first.
        a.dialled(now, 1);
        b.dialled(now, 2);
        assert_eq!(a.accepted(now + ms(5), 2).count(), 0);
        assert_eq!(b.accepted(now + ms(5), 1).count(), 0);
        assert_eq!(a.flow(a.sending().unwrap()), Some(&1));
        assert_eq!(b.flow(b.sending().unwrap()), Some(&1));
        let late = now + Session::<u32>::SURPLUS + ms(5);
        assert_eq!((a.deadline(), a.take_surplus(late)), (None, None));
        assert_eq!(b.deadline(), Some(late));
        assert_eq!(b.take_surplus(late - ms(1)), None);
        assert_eq!(b.take_surplus(late), Some(2));
        assert_eq!(a.down(late, Side::Accepted), (Some(2), false));
        assert_eq!(
            (a.way(late), b.way(late)),
            (Way::Send(Side::Dialled), Way::Send(Side::Accepted))
        );
        assert_eq!((a.deadline(), b.deadline()), (None, None));
    }

    #[test]
    fn a_peer_that_dials_later_has_lost_our_flow() {
        let now = Instant::now();
        let (mut a, _) = sides();
        a.way(now);
        a.dialled(now, 1);
        let later = now + Session::<u32>::RACE + ms(1);
        assert_eq!(a.accepted(later, 2).collect::<Vec<_>>(), [1]);
        assert_eq!(a.sending(), Some(Side::Accepted));
        // And again: its newest is the one that lives.
        assert_eq!(a.accepted(later + ms(1), 3).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_dead_flow_is_replaced_at_once_if_it_was_in_use_and_at_the_next_packet_if_not() {
        let now = Instant::now();
        let (mut a, _) = sides();
        a.way(now);
        a.dialled(now, 1);
        assert_eq!(a.down(now + ms(10), Side::Dialled), (Some(1), true));
        assert_eq!(a.way(now + ms(11)), Way::Wait { dial: false });
        a.dialled(now + ms(12), 2);
        let idle = now + Session::<u32>::KEEP + ms(100);
        assert_eq!(a.down(idle, Side::Dialled), (Some(2), false));
        assert_eq!(a.down(idle, Side::Dialled), (None, false));
        assert_eq!(a.way(idle), Way::Wait { dial: true });
    }

    #[test]
    fn failed_attempts_back_off_to_a_second_and_packets_wait_until_then() {
        let mut now = Instant::now();
        let (mut a, _) = sides();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(a.way(now), Way::Wait { dial: true });
            a.dial_failed(now, failed());
            let start = now;
            let lost_cause = a.retry.as_ref().unwrap().pause == Session::<u32>::RETRY.1;
            while a.retry.as_ref().is_some_and(|r| now < r.at) {
                assert_eq!(a.state(), "down");
                assert_eq!(a.way(now) == Way::Down, lost_cause);
                now += ms(100);
            }
            pauses.push(now - start);
        }
        assert_eq!(
            pauses,
            [ms(100), ms(200), ms(400), ms(800), ms(1000), ms(1000)]
        );
        assert_eq!(a.trouble(), Some(&failed()));
        assert_eq!(a.accepted(now, 9).count(), 0);
        assert_eq!((a.way(now), a.trouble()), (Way::Send(Side::Accepted), None));
    }

    #[test]
    fn what_waits_gets_another_attempt_without_another_packet() {
        let now = Instant::now();
        let (mut a, _) = sides();
        a.way(now);
        a.wait(Packet::copy_of(b"x"));
        a.dial_failed(now, failed());
        assert_eq!(a.deadline(), Some(now + ms(100)));
        assert!(!a.dial_due(now) && a.dial_due(now + ms(100)) && !a.dial_due(now + ms(200)));
    }

    #[test]
    fn a_lost_flow_is_dialled_until_it_is_back_or_the_peer_is_forgotten() {
        let mut now = Instant::now();
        let (mut a, _) = sides();
        a.dialled(now, 1);
        a.heard(now);
        assert_eq!(a.down(now, Side::Dialled), (Some(1), true));
        let forgotten = now + Session::<u32>::KEEP;
        let mut attempts = 0;
        a.dial_failed(now, failed());
        while let Some(at) = a.deadline() {
            assert!(at > now && at <= forgotten);
            now = at;
            assert!(a.dial_due(now));
            a.dial_failed(now, failed());
            attempts += 1;
        }
        assert!((55..70).contains(&attempts), "{attempts}");
        // The next packet asks again.
        assert_eq!(a.way(now + ms(1000)), Way::Wait { dial: true });
    }

    proptest! {
        /// Whatever happens in whatever order, a session never dials twice at once and sends only on a flow that it has.
        #[test]
        fn it_never_dials_twice_and_never_sends_on_nothing(events in prop::collection::vec((0u8..7, 0u64..3000), 1..200), smaller: bool) {
            let (a, b) = sides();
            let mut s = if smaller { a } else { b };
            let (mut now, mut dials, mut next) = (Instant::now(), 0i32, 0u32);
            for (event, wait) in events {
                now += ms(wait);
                next += 1;
                match event {
                    0 => match s.way(now) {
                        Way::Wait { dial } => dials += i32::from(dial),
                        Way::Send(side) => prop_assert!(s.flow(side).is_some()),
                        Way::Down => prop_assert!(s.sending().is_none()),
                    },
                    1 if dials > 0 => { dials -= 1; s.dialled(now, next); }
                    2 if dials > 0 => { dials -= 1; s.dial_failed(now, failed()); }
                    3 => drop(s.accepted(now, next).count()),
                    4 => dials += i32::from(s.down(now, Side::Dialled).1),
                    5 => dials += i32::from(s.down(now, Side::Accepted).1),
                    _ => { s.take_surplus(now); dials += i32::from(s.dial_due(now)); }
                }
                prop_assert!((0..=1).contains(&dials));
                prop_assert_eq!(s.sending().is_some(), s.flows().count() > 0);
            }
        }
    }
}
