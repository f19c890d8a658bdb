//! How many handshakes that others begin are answered, and how many they can make this member begin: each costs a signature
//! and two key agreements, and what brings it about costs its sender nothing. It must not know who is right.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::Addr;
use rustc_hash::FxHashMap;

use crate::crypt::{Acquaintance, Handshake, Introduction};
use crate::tokens::{Rate, Used};

/// The rates of one member. Neighbours, who are known by the keys that their PDUs are sealed with, come before strangers.
#[derive(Default)]
pub(super) struct Gate {
    all: Used,
    /// What came sealed by each neighbour, its own or that of a member behind it, or from a member that showed it was met.
    neighbours: BTreeMap<Addr, Used>,
    /// Handshakes that this member begins since it can't open what came: all, and those for what each neighbour brought.
    lost: Used,
    lost_by: BTreeMap<Addr, Used>,
    /// Answers that a handshake was forgotten: to strangers, and to what came by each neighbour.
    told: Used,
    told_by: BTreeMap<Addr, Used>,
    /// What the members have by whom this one knows them, and each is known by, the newest last.
    met: BTreeMap<Addr, Vec<Acquaintance>>,
    ids: FxHashMap<u64, Addr>,
    /// Until when this member is taken to be behind with what its neighbours send.
    late: Option<Instant>,
}

impl Gate {
    /// A handshake with a member has ended well.
    pub(super) fn met(&mut self, member: Addr, acquaintance: Acquaintance) {
        if self.met.len() >= MAX_MET && !self.met.contains_key(&member) {
            return;
        }
        self.ids.insert(acquaintance.id(), member);
        let known = self.met.entry(member).or_default();
        known.push(acquaintance);
        // The other side may not have got the newest.
        if known.len() > MAX_EACH {
            self.ids.remove(&known.remove(0).id());
        }
    }

    /// What shows that member that this one is no stranger.
    pub(super) fn introduce(&self, to: Addr, session: u32) -> Option<Introduction> {
        Some(self.met.get(&to)?.last()?.introduce(session))
    }

    /// The member that the first PDU of a handshake is of, if it shows that it was met.
    pub(super) fn recognise(&self, session: u32, pdu: &[u8]) -> Option<Addr> {
        let shown = Handshake::introduction_of(pdu)?;
        let member = self.ids.get(&shown.id)?;
        let mut known = self.met.get(member)?.iter();
        known
            .any(|a| a.recognises(session, &shown))
            .then_some(*member)
    }

    /// What a neighbour sent has waited for so long before it was read. Whoever is behind does what it has begun first: on a slow
    /// host the rate of strangers alone would take all there is.
    pub(super) fn waited(&mut self, now: Instant, waited: Duration) {
        if waited >= BEHIND {
            self.late = Some(now + CATCH_UP);
        }
    }

    /// Whether another handshake is answered, that came sealed by the neighbour `via`, or from a stranger. The error is the
    /// reason of the drop.
    pub(super) fn admit(&mut self, now: Instant, via: Option<Addr>) -> Result<(), &'static str> {
        let Some(neighbour) = via else {
            if self.late.is_some_and(|until| now < until) {
                return Err("drop.handshake_late");
            }
            return if self.all.take(now, STRANGERS) {
                Ok(())
            } else {
                Err("drop.handshake_rate")
            };
        };
        let own = own(&mut self.neighbours, now, neighbour);
        if own.take(now, NEIGHBOUR) && self.all.take(now, ALL) {
            Ok(())
        } else {
            Err("drop.handshake_rate_neighbour")
        }
    }

    /// Whether another handshake is begun since what the neighbour `via` brought is sealed with keys that are not known here:
    /// anybody behind it may have made that up, in any name. The error is the reason of the drop.
    pub(super) fn lost(&mut self, now: Instant, via: Addr) -> Result<(), &'static str> {
        let own = own(&mut self.lost_by, now, via);
        if own.take(now, LOST_BY) && self.lost.take(now, LOST) {
            Ok(())
        } else {
            Err("drop.no_session_rate")
        }
    }

    /// Whether it is said that a handshake was forgotten, of which a PDU came sealed by the neighbour `via`, or from a stranger.
    pub(super) fn tells(&mut self, now: Instant, via: Option<Addr>) -> bool {
        match via {
            Some(neighbour) => own(&mut self.told_by, now, neighbour).take(now, TOLD),
            None => self.told.take(now, TOLD),
        }
    }
}

/// What a neighbour has used. Those are forgotten who have used nothing for long, if there are many.
fn own(all: &mut BTreeMap<Addr, Used>, now: Instant, neighbour: Addr) -> &mut Used {
    if all.len() >= MAX_KEPT && !all.contains_key(&neighbour) {
        all.retain(|_, used| used.is_used(now));
    }
    all.entry(neighbour).or_default()
}

/// Handshakes that are answered: of all, and of these what strangers may take; what they leave is the neighbours'.
const ALL: Rate = Rate {
    burst: 200,
    per_second: 400,
};
const STRANGERS: Rate = Rate { burst: 100, ..ALL };
/// Those of one neighbour.
const NEIGHBOUR: Rate = Rate {
    burst: 50,
    per_second: 100,
};
/// Handshakes begun for what can't be opened: of all, and for what one neighbour brought. Whoever has truly lost its keys is
/// waited for by no more members than that at a time.
const LOST: Rate = Rate {
    burst: 80,
    per_second: 40,
};
const LOST_BY: Rate = Rate {
    burst: 20,
    per_second: 10,
};
/// Answers that a handshake was forgotten: each costs two hashes, and few are ever needed.
const TOLD: Rate = Rate {
    burst: 20,
    per_second: 40,
};
/// How long what neighbours send may wait, and how long no stranger is answered when it has waited for longer.
const BEHIND: Duration = Duration::from_millis(20);
const CATCH_UP: Duration = Duration::from_millis(100);
/// Neighbours whose rate is kept, beyond those that are at theirs.
const MAX_KEPT: usize = 1024;
/// Members that are known when they come back, and how many handshakes back each may remember.
const MAX_MET: usize = 4096;
const MAX_EACH: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 400;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some beginning of time"
    )]
    fn begin() -> Instant {
        Instant::now()
    }

    #[test]
    fn strangers_get_no_more_than_the_rate_however_many_they_are() {
        let (mut gate, start) = (Gate::default(), begin());
        let offered = |i: u32| start + Duration::from_micros(500) * i;
        let taken = (0..60_000).filter(|i| gate.admit(offered(*i), None).is_ok());
        let taken = taken.count();
        assert!((30 * LIMIT..=30 * LIMIT + 100).contains(&taken), "{taken}");
    }

    #[test]
    fn neighbours_are_answered_while_strangers_flood() {
        let (mut gate, start) = (Gate::default(), begin());
        for i in 0..60_000u32 {
            let now = start + Duration::from_micros(500) * i;
            let _ = gate.admit(now, None);
            if i % 40 == 0 {
                let neighbour = Some(Addr(u64::from(i % 400)));
                assert_eq!(gate.admit(now, neighbour), Ok(()), "after {i}");
            }
        }
    }

    #[test]
    fn strangers_wait_while_what_neighbours_send_does_and_neighbours_do_not() {
        let (mut gate, start) = (Gate::default(), begin());
        let at = |ms| start + Duration::from_millis(ms);
        gate.waited(at(0), Duration::from_millis(19));
        assert_eq!(gate.admit(at(0), None), Ok(()));
        gate.waited(at(1), Duration::from_millis(20));
        assert_eq!(gate.admit(at(100), None), Err("drop.handshake_late"));
        assert_eq!(gate.admit(at(100), Some(Addr(1))), Ok(()));
        assert_eq!(gate.admit(at(101), None), Ok(()));
    }

    #[test]
    fn a_neighbour_that_floods_leaves_the_others_their_share() {
        let (mut gate, start) = (Gate::default(), begin());
        let mut flood = 0;
        for i in 0..60_000u32 {
            let now = start + Duration::from_micros(500) * i;
            flood += usize::from(gate.admit(now, Some(Addr(1))).is_ok());
            if i % 20 == 0 {
                assert_eq!(gate.admit(now, Some(Addr(2))), Ok(()));
            }
        }
        assert!((3_000..=3_050).contains(&flood), "{flood}");
    }

    #[test]
    fn a_neighbour_that_brings_what_nobody_can_open_leaves_the_others_their_share() {
        let (mut gate, start) = (Gate::default(), begin());
        let mut begun = 0;
        for i in 0..60_000u32 {
            let now = start + Duration::from_micros(500) * i;
            begun += usize::from(gate.lost(now, Addr(1)).is_ok());
            if i % 400 == 0 {
                assert_eq!(gate.lost(now, Addr(2)), Ok(()));
            }
        }
        assert!((300..=320).contains(&begun), "{begun}");
    }

    #[test]
    fn what_is_kept_of_neighbours_is_bounded() {
        let (mut gate, start) = (Gate::default(), begin());
        for i in 0..10_000u32 {
            let now = start + Duration::from_millis(30) * i;
            assert_eq!(gate.admit(now, Some(Addr(u64::from(i)))), Ok(()));
            assert_eq!(gate.lost(now, Addr(u64::from(i))), Ok(()));
        }
        assert!(gate.neighbours.len() <= MAX_KEPT && gate.lost_by.len() <= MAX_KEPT);
    }
}
