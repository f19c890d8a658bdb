//! Look-ups: whom to ask for a name, and whom next. It must not judge answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::Addr;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::place::nearest;
use super::{KEEPERS, NameHash};

/// The look-ups that run.
pub(super) struct Finds {
    running: BTreeMap<NameHash, Find>,
    /// What was asked, by its id: of each member another, so that one who hears an id can't answer for others.
    ids: BTreeMap<u64, (NameHash, Addr)>,
    /// The round trip to a keeper, smoothed.
    rtt: Duration,
}

struct Find {
    /// The member whose entry is wanted, if it is only that.
    member: Option<Addr>,
    until: Instant,
    asked: BTreeMap<Addr, Asked>,
    next: Instant,
}

struct Asked {
    id: u64,
    at: Instant,
    tries: u32,
    denied: bool,
}

/// What became of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this member, under this id, for the name; its entry for that member first.
    Ask(Addr, u64, NameHash, Option<Addr>),
    /// All that keep the name, if anybody has it, say that nobody has. It goes on until its time is over.
    Denied(NameHash),
    /// Its time is over.
    Over(NameHash),
}

impl Default for Finds {
    fn default() -> Self {
        Self {
            running: BTreeMap::new(),
            ids: BTreeMap::new(),
            rtt: FIRST_RTT,
        }
    }
}

impl Finds {
    /// Begins a look-up, or lets one that runs go on for longer. Says whether there was room.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        hash: NameHash,
        member: Option<Addr>,
        until: Instant,
    ) -> bool {
        if let Some(find) = self.running.get_mut(&hash) {
            find.until = find.until.max(until);
            find.member = member.or(find.member);
            return true;
        }
        let room = self.running.len() < MAX_FINDS;
        if room {
            let find = Find {
                member,
                until,
                asked: BTreeMap::new(),
                next: now,
            };
            self.running.insert(hash, find);
        }
        room
    }

    /// Whether somebody wants to know who serves a name.
    pub(super) fn wants(&self, hash: &NameHash) -> bool {
        self.running.contains_key(hash)
    }

    /// The names about which something is to be done.
    pub(super) fn due(&self, now: Instant) -> Vec<NameHash> {
        let due = self
            .running
            .iter()
            .filter(|(_, f)| f.next.min(f.until) <= now);
        due.map(|(hash, _)| *hash).collect()
    }

    /// What is to be done now. `cost` is that of the way to a member, if there is one.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        members: &[Addr],
        cost: impl Fn(Addr) -> Option<u64>,
        chance: &mut ChaCha20Rng,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for hash in self.due(now) {
            let mut keepers: Vec<_> = nearest(members, &hash, KEEPERS)
                .into_iter()
                .filter_map(|addr| Some((cost(addr)?, addr)))
                .filter(|(cost, _)| *cost > 0)
                .collect();
            keepers.sort_unstable();
            self.step(now, hash, &keepers, chance, &mut steps);
        }
        steps
    }

    fn step(
        &mut self,
        now: Instant,
        hash: NameHash,
        keepers: &[(u64, Addr)],
        chance: &mut ChaCha20Rng,
        steps: &mut Vec<Step>,
    ) {
        let pause = self.pause();
        let Some(find) = self.running.get_mut(&hash) else {
            return;
        };
        if find.until <= now {
            self.end(&hash);
            return steps.push(Step::Over(hash));
        }
        let first = if find.asked.is_empty() { AT_ONCE } else { 1 };
        let keepers = || keepers.iter().map(|(_, addr)| *addr);
        let fresh: Vec<_> = keepers()
            .filter(|a| !find.asked.contains_key(a))
            .take(first)
            .collect();
        for keeper in &fresh {
            let id = chance.next_u64();
            self.ids.insert(id, (hash, *keeper));
            let asked = Asked {
                id,
                at: now,
                tries: 1,
                denied: false,
            };
            find.asked.insert(*keeper, asked);
            steps.push(Step::Ask(*keeper, id, hash, find.member));
        }
        find.next = now + pause;
        if !fresh.is_empty() {
            return;
        }
        let mut open = false;
        for keeper in keepers() {
            let Some(asked) = find.asked.get_mut(&keeper).filter(|a| !a.denied) else {
                continue;
            };
            open = true;
            if now.saturating_duration_since(asked.at) >= pause * 2 * asked.tries {
                asked.tries += 1;
                asked.at = now;
                steps.push(Step::Ask(keeper, asked.id, hash, find.member));
            }
        }
        if !open {
            // A name may be on its way to its keepers, or the keepers are just becoming others.
            find.next = now + AGAIN;
            for asked in std::mem::take(&mut find.asked).into_values() {
                self.ids.remove(&asked.id);
            }
            steps.push(Step::Denied(hash));
        }
    }

    /// A member answers what it was asked; gives the name.
    pub(super) fn answered(&mut self, now: Instant, from: Addr, id: u64) -> Option<NameHash> {
        let (hash, _) = *self.ids.get(&id).filter(|(_, of)| *of == from)?;
        let asked = self.running.get_mut(&hash)?.asked.get_mut(&from)?;
        if asked.tries == 1 && !asked.denied {
            let rtt = now.saturating_duration_since(asked.at);
            // As TCP does (RFC 6298): an eighth of what is new.
            self.rtt = (self.rtt * 7 + rtt) / 8;
        }
        Some(hash)
    }

    /// That answer was no: the next is asked at once.
    pub(super) fn denied(&mut self, now: Instant, hash: &NameHash, by: Addr) {
        if let Some(find) = self.running.get_mut(hash) {
            find.next = now;
            if let Some(asked) = find.asked.get_mut(&by) {
                asked.denied = true;
            }
        }
    }

    /// Nobody wants to know any longer.
    pub(super) fn end(&mut self, hash: &NameHash) {
        let find = self.running.remove(hash);
        for asked in find.into_iter().flat_map(|f| f.asked.into_values()) {
            self.ids.remove(&asked.id);
        }
    }

    /// The members that can be reached are others.
    pub(super) fn moved(&mut self, now: Instant) {
        for find in self.running.values_mut() {
            find.next = now;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.values().map(|f| f.next.min(f.until)).min()
    }

    /// How long those that were asked are waited for before another is.
    fn pause(&self) -> Duration {
        (self.rtt * 2).clamp(MIN_PAUSE, MAX_PAUSE)
    }
}

/// Keepers that are asked at once: one of them may be dead, and nobody knows yet.
const AT_ONCE: usize = 2;
const FIRST_RTT: Duration = Duration::from_millis(50);
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(300);
/// The pause after all have denied.
const AGAIN: Duration = Duration::from_millis(200);
const MAX_FINDS: usize = 4_096;
