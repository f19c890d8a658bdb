//! Look-ups: whom to ask for a name, and whom next. It must not judge answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::Addr;
use proto::wire::SignedName;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::place::Members;
use super::{KEEPERS, NameHash};

/// The look-ups that run.
pub(super) struct Finds {
    running: BTreeMap<NameHash, Find>,
    /// What was asked, by its id: of each member another, so that one who hears an id can't answer for others.
    ids: BTreeMap<u64, (NameHash, Addr)>,
    /// What was asked and is not waited for any longer; the oldest first.
    late: VecDeque<Late>,
    /// The round trip to a keeper, smoothed.
    rtt: Duration,
    /// How many may run.
    pub(super) most: usize,
}

struct Find {
    /// The member whose entry is wanted, if it is only that.
    member: Option<Addr>,
    /// Neighbours are asked too, for what they know of their own neighbours.
    beside: bool,
    until: Instant,
    asked: BTreeMap<Addr, Asked>,
    next: Instant,
}

struct Asked {
    id: u64,
    at: Instant,
    tries: u32,
    denied: bool,
    /// It is no keeper.
    beside: bool,
}

/// A question whose answer came from somebody else first.
struct Late {
    id: u64,
    hash: NameHash,
    of: Addr,
    beside: bool,
    found: Arc<[SignedName]>,
}

/// An answer to what was asked.
pub(super) struct Answered {
    pub(super) hash: NameHash,
    /// It comes from a keeper of the name.
    pub(super) keeper: bool,
    /// The only member whose entry is wanted.
    pub(super) wanted: Option<Addr>,
    /// What others have answered before, if that was enough.
    pub(super) late: Option<Arc<[SignedName]>>,
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
            late: VecDeque::new(),
            rtt: FIRST_RTT,
            most: MAX_FINDS,
        }
    }
}

impl Finds {
    /// Begins a look-up, or lets one that runs go on for longer; `beside`: what neighbours know of theirs is enough. Says
    /// whether there was room.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        hash: NameHash,
        member: Option<Addr>,
        beside: bool,
        until: Instant,
    ) -> bool {
        if let Some(find) = self.running.get_mut(&hash) {
            find.until = find.until.max(until);
            find.member = member.or(find.member);
            find.beside &= beside;
            return true;
        }
        let room = self.running.len() < self.most;
        if room {
            let find = Find {
                member,
                beside,
                until,
                asked: BTreeMap::new(),
                next: now,
            };
            self.running.insert(hash, find);
        }
        room
    }

    /// Whether somebody wants to know who serves a name; if so, of which member only, and whether what is known of neighbours
    /// is enough.
    pub(super) fn wants(&self, hash: &NameHash) -> Option<(Option<Addr>, bool)> {
        self.running.get(hash).map(|f| (f.member, f.beside))
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
        me: Addr,
        members: &Members,
        cost: impl Fn(Addr) -> Option<u64>,
        chance: &mut ChaCha20Rng,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for hash in self.due(now) {
            let keepers = members.keepers(&hash, KEEPERS).into_iter();
            let mut keepers: Vec<_> = keepers
                .filter_map(|addr| Some((cost(addr)?, addr)))
                .filter(|(cost, _)| *cost > 0)
                .collect();
            keepers.sort_unstable();
            if !members.has_keeper_beside(me, &hash) {
                self.ask_beside(now, hash, &members.beside(&hash), chance, &mut steps);
            }
            self.step(now, hash, &keepers, chance, &mut steps);
        }
        steps
    }

    /// Asks neighbours, once.
    fn ask_beside(
        &mut self,
        now: Instant,
        hash: NameHash,
        beside: &[Addr],
        chance: &mut ChaCha20Rng,
        steps: &mut Vec<Step>,
    ) {
        let Some(find) = self.running.get_mut(&hash) else {
            return;
        };
        if !find.beside || find.until <= now || !find.asked.is_empty() {
            return;
        }
        for member in beside {
            let id = chance.next_u64();
            self.ids.insert(id, (hash, *member));
            let asked = Asked::new(id, now, true);
            find.asked.insert(*member, asked);
            steps.push(Step::Ask(*member, id, hash, find.member));
        }
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
            self.end(&hash, Vec::new());
            return steps.push(Step::Over(hash));
        }
        let begun = find.asked.values().any(|a| !a.beside);
        let first = if begun { 1 } else { AT_ONCE };
        let keepers = || keepers.iter().map(|(_, addr)| *addr);
        let fresh: Vec<_> = keepers()
            .filter(|a| !find.asked.contains_key(a))
            .take(first)
            .collect();
        for keeper in &fresh {
            let id = chance.next_u64();
            self.ids.insert(id, (hash, *keeper));
            find.asked.insert(*keeper, Asked::new(id, now, false));
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
            find.beside = false;
            for asked in std::mem::take(&mut find.asked).into_values() {
                self.ids.remove(&asked.id);
            }
            steps.push(Step::Denied(hash));
        }
    }

    /// A member answers what it was asked.
    pub(super) fn answered(&mut self, now: Instant, from: Addr, id: u64) -> Option<Answered> {
        let Some((hash, _)) = self.ids.get(&id).filter(|(_, of)| *of == from).copied() else {
            return self.answered_late(from, id);
        };
        let find = self.running.get_mut(&hash)?;
        let asked = find.asked.get_mut(&from)?;
        if asked.tries == 1 && !asked.denied && !asked.beside {
            let rtt = now.saturating_duration_since(asked.at);
            // As TCP does (RFC 6298): an eighth of what is new.
            self.rtt = (self.rtt * 7 + rtt) / 8;
        }
        Some(Answered {
            hash,
            keeper: !asked.beside,
            wanted: find.member,
            late: None,
        })
    }

    fn answered_late(&mut self, from: Addr, id: u64) -> Option<Answered> {
        let at = self.late.iter().position(|l| (l.id, l.of) == (id, from))?;
        let late = self.late.remove(at)?;
        Some(Answered {
            hash: late.hash,
            keeper: !late.beside,
            wanted: None,
            late: Some(late.found),
        })
    }

    /// That answer was no: the next is asked at once.
    pub(super) fn denied(&mut self, now: Instant, hash: &NameHash, by: Addr) {
        let find = self.running.get_mut(hash);
        let Some(find) = find else { return };
        if let Some(asked) = find.asked.get_mut(&by) {
            asked.denied = true;
            if !asked.beside {
                find.next = now;
            }
        }
    }

    /// Nobody wants to know any longer. Gives the keepers that said no.
    pub(super) fn end(&mut self, hash: &NameHash, found: Vec<SignedName>) -> Vec<Addr> {
        let Some(find) = self.running.remove(hash) else {
            return Vec::new();
        };
        let found: Arc<[SignedName]> = found.into();
        let mut denied = Vec::new();
        for (of, asked) in find.asked {
            self.ids.remove(&asked.id);
            if asked.denied {
                denied.extend((!asked.beside).then_some(of));
                continue;
            }
            if self.late.len() >= MAX_LATE {
                self.late.pop_front();
            }
            self.late.push_back(Late {
                id: asked.id,
                hash: *hash,
                of,
                beside: asked.beside,
                found: found.clone(),
            });
        }
        denied
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

impl Asked {
    fn new(id: u64, at: Instant, beside: bool) -> Self {
        Self {
            id,
            at,
            tries: 1,
            denied: false,
            beside,
        }
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
/// Questions whose answers are still listened to when they are not needed any longer.
const MAX_LATE: usize = 1_024;
