//! Links to members that this one has flows with: made when packets go through others, given up when none go any more. It must not
//! dial whom nobody here speaks with, nor say where this member is to anybody but a member that asks.

mod known;
mod place;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::ipcp::Reach;
use proto::wire::{self, message::Body};
use proto::{Addr, Label};

use zeroize::Zeroizing;

use super::Unicast;
use crate::Now;
use crate::tokens::{Rate, Used};
use known::Known;

/// The members to which a link of its own is wanted, and where this one is.
#[derive(Default)]
pub(super) struct Shortcuts {
    /// Where this member is below; nothing is known until irmd has said it, and without it nothing is begun.
    own: Vec<Reach>,
    all: BTreeMap<Addr, Shortcut>,
    /// Where members were reached, to be tried when nobody else is.
    known: Known,
    /// What had passed in the flows with each member when it was last looked at.
    passed: BTreeMap<Addr, u64>,
    begun: Used,
    look_at: Option<Instant>,
}

/// One of them.
struct Shortcut {
    member: Label,
    step: Step,
    /// How long it is left alone when it comes to nothing once more.
    pause: Duration,
}

/// How far it is.
enum Step {
    /// The member was asked where it is.
    Asked(Instant),
    /// It is dialled there, or reached.
    Wanted(Vec<Reach>),
    /// It came to nothing; not before this again.
    Failed(Instant),
}

impl Shortcuts {
    /// Whom to dial over which layers.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (Label, Label)> {
        let wanted = self.all.values().filter_map(|s| match &s.step {
            Step::Wanted(at) => Some(at.iter().map(|r| (s.member.clone(), r.over.clone()))),
            Step::Asked(_) | Step::Failed(_) => None,
        });
        wanted.flatten()
    }

    /// Where a member has said that it is in a layer below.
    pub(super) fn places(&self, member: &Label, over: &Label) -> Vec<SocketAddr> {
        let at = self.all.values().find_map(|s| match &s.step {
            Step::Wanted(at) if s.member == *member => Some(at),
            Step::Wanted(_) | Step::Asked(_) | Step::Failed(_) => None,
        });
        let there = at.into_iter().flatten().filter(|r| r.over == *over);
        there.map(|r| r.at).collect()
    }

    /// Whether the link to a member is one of these.
    pub(super) fn has(&self, member: Addr) -> bool {
        let shortcut = self.all.get(&member);
        shortcut.is_some_and(|s| matches!(s.step, Step::Wanted(_)))
    }

    /// Where this member is, as it says.
    pub(super) fn own(&self) -> &[Reach] {
        &self.own
    }

    /// When they are to be looked at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// How many are under way or stand.
    fn count(&self) -> usize {
        let failed = |s: &&Shortcut| matches!(s.step, Step::Failed(_));
        self.all.len() - self.all.values().filter(failed).count()
    }

    fn look_soon(&mut self, now: Instant) {
        if !self.own.is_empty() {
            self.look_at.get_or_insert(now + LOOK);
        }
    }

    fn failed(&mut self, now: Instant, member: Addr) {
        if let Some(shortcut) = self.all.get_mut(&member) {
            shortcut.step = Step::Failed(now + shortcut.pause);
            shortcut.pause = (shortcut.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What happens to flows and links.
impl Unicast {
    /// irmd says where this member is below.
    pub(super) fn set_reach(&mut self, now: Now, mut own: Vec<Reach>) {
        own.truncate(place::MOST);
        self.shortcuts.own = own;
        self.shortcuts.look_soon(now.mono);
    }

    /// This process is a member, and may have been one before.
    pub(super) fn recall_shortcuts(&mut self) {
        let file = self.file(FILE).map(Known::read);
        self.shortcuts.known = file.unwrap_or_default();
    }

    /// A flow with a member stands that this side has asked for, or another.
    pub(super) fn shortcut_for(&mut self, now: Now, peer: Addr, asked: bool) {
        self.shortcuts.look_soon(now.mono);
        if asked {
            self.seek(now, peer);
        }
    }

    /// A member is a neighbour.
    pub(super) fn shortcut_up(&mut self, peer: Addr) {
        let Shortcuts { all, known, .. } = &mut self.shortcuts;
        let Some(shortcut) = all.get_mut(&peer) else {
            return;
        };
        shortcut.pause = FIRST_PAUSE;
        if let Step::Wanted(at) = &shortcut.step
            && known.add(&shortcut.member, at)
        {
            let file = Zeroizing::new(known.write());
            self.save(FILE, file);
        }
    }

    /// A dial over a lower layer came to nothing, or what it led to.
    pub(super) fn shortcut_missed(&mut self, now: Now, (member, over): &(Label, Label)) {
        let all = &mut self.shortcuts.all;
        let Some((peer, shortcut)) = all.iter_mut().find(|(_, s)| s.member == *member) else {
            return;
        };
        let Step::Wanted(at) = &mut shortcut.step else {
            return;
        };
        at.retain(|r| r.over != *over);
        if at.is_empty() {
            let peer = *peer;
            self.stats.count("shortcut.failed");
            self.shortcuts.failed(now.mono, peer);
        }
        self.rewant(now);
    }

    /// The other side has given the link up.
    pub(super) fn shortcut_closed(&mut self, now: Now, peer: Addr) {
        if self.shortcuts.has(peer) {
            self.shortcuts.failed(now.mono, peer);
            self.rewant(now);
        }
    }

    /// Looks after them when it is time.
    pub(super) fn tick_shortcuts(&mut self, now: Now) {
        if self.shortcuts.look_at.is_none_or(|at| at > now.mono) {
            return;
        }
        self.shortcuts.look_at = None;
        self.end_idle_shortcuts(now);
        self.forget_shortcuts(now);
        let through: Vec<Addr> = self.flows.by_peer().members().collect();
        let before = std::mem::take(&mut self.shortcuts.passed);
        for peer in through {
            let flows = self.flows.by_peer().with(peer);
            let flows = flows.filter_map(|endpoint| self.flows.get(endpoint));
            let passed = flows.map(|f| f.tx_bytes.wrapping_add(f.rx_bytes));
            let passed = passed.fold(0_u64, u64::wrapping_add);
            self.shortcuts.passed.insert(peer, passed);
            let more = before.get(&peer).copied().unwrap_or(0) != passed;
            if more && !self.adjacent.contains_key(&peer) {
                self.seek(now, peer);
            }
        }
        let alone = self.adjacent.is_empty() && !self.shortcuts.known.is_empty();
        if alone {
            self.try_known(now);
        }
        if alone || self.flows.len() > 0 || !self.shortcuts.all.is_empty() {
            self.shortcuts.look_soon(now.mono);
        }
    }

    /// The last neighbour may be gone.
    pub(super) fn shortcuts_if_alone(&mut self, now: Now) {
        if self.adjacent.is_empty() && !self.shortcuts.known.is_empty() {
            self.shortcuts.look_soon(now.mono);
        }
    }

    /// Nobody is reached of those that are kept: dials who was, where it was.
    fn try_known(&mut self, now: Now) {
        let Some(me) = &self.me else { return };
        let mut begun = false;
        for (member, at) in self.shortcuts.known.iter() {
            let peer = me.address_of(member);
            let pause = match self.shortcuts.all.get(&peer) {
                Some(Shortcut {
                    step: Step::Failed(until),
                    pause,
                    ..
                }) if *until <= now.mono => *pause,
                Some(_) => continue,
                None => FIRST_PAUSE,
            };
            let at: Vec<Reach> = at
                .iter()
                .filter(|r| me.over.contains(&r.over))
                .cloned()
                .collect();
            if at.is_empty() || !self.shortcuts.begun.take(now.mono, BEGUN) {
                continue;
            }
            let shortcut = Shortcut {
                member: member.clone(),
                step: Step::Wanted(at),
                pause,
            };
            self.shortcuts.all.insert(peer, shortcut);
            begun = true;
        }
        if begun {
            self.rewant(now);
            self.dial_due(now);
        }
    }
}

/// Making one, and giving one up.
impl Unicast {
    /// Asks a member where it is, if packets for it go through others and there is room for one more link.
    fn seek(&mut self, now: Now, peer: Addr) {
        if self.shortcuts.own.is_empty() || self.adjacent.contains_key(&peer) {
            return;
        }
        let me = self.me.as_ref();
        let Some(member) = me.and_then(|me| me.routing.member(peer)) else {
            return;
        };
        let member = member.member().clone();
        let pause = match self.shortcuts.all.get(&peer) {
            Some(Shortcut {
                step: Step::Failed(until),
                pause,
                ..
            }) if *until <= now.mono => *pause,
            Some(_) => return,
            None => FIRST_PAUSE,
        };
        if !self.room_for_shortcut(now) || !self.shortcuts.begun.take(now.mono, BEGUN) {
            return self.stats.count("limit.shortcuts");
        }
        let step = Step::Asked(now.mono + ANSWER);
        let shortcut = Shortcut {
            member,
            step,
            pause,
        };
        self.shortcuts.all.insert(peer, shortcut);
        self.shortcuts.look_soon(now.mono);
        self.stats.count("shortcut.asked");
        self.say_where(now, peer, true);
    }

    /// Whether one more may be begun. If there are as many as may be, that goes for it which was not used for longest.
    fn room_for_shortcut(&mut self, now: Now) -> bool {
        if self.shortcuts.count() < self.bounds.shortcuts {
            return true;
        }
        match self.idle_shortcut(now, SPARE) {
            Some(peer) => {
                self.end_shortcut(now, peer);
                self.shortcuts.count() < self.bounds.shortcuts
            }
            None => false,
        }
    }

    /// The one that carried nothing for longest, and for so long at least, to whose member another way leads too.
    fn idle_shortcut(&self, now: Now, least: Duration) -> Option<Addr> {
        let idle = |peer: &Addr| {
            let link = self.links.get(self.adjacent.get(peer)?)?;
            let idle = now.mono.saturating_duration_since(link.last_carried());
            (idle >= least).then_some(idle)
        };
        let stand = self.shortcuts.all.keys();
        let stand = stand.filter(|peer| self.shortcuts.has(**peer));
        let idle: Vec<_> = stand
            .filter_map(|peer| Some((idle(peer)?, *peer)))
            .collect();
        if idle.is_empty() {
            return None;
        }
        let spares = self.me.as_ref()?.routing.spares();
        let idle = idle.into_iter().filter(|(_, p)| spares.contains_key(p));
        idle.max().map(|(_, peer)| peer)
    }

    fn end_idle_shortcuts(&mut self, now: Now) {
        // What is left after one is gone may be the only way to another.
        if let Some(peer) = self.idle_shortcut(now, IDLE) {
            self.stats.count("shortcut.idle");
            self.end_shortcut(now, peer);
        }
    }

    /// Gives one up: whoever sends over it is led another way first.
    fn end_shortcut(&mut self, now: Now, peer: Addr) {
        let Some(shortcut) = self.shortcuts.all.remove(&peer) else {
            return;
        };
        self.rewant(now);
        let kept = self.me.as_ref();
        let kept = kept.is_some_and(|me| me.kept.contains(&shortcut.member));
        let lower = self.adjacent.get(&peer);
        let own = lower.and_then(|lower| self.links.get(lower));
        // What the other side has dialled is for it to give up.
        if !kept && own.is_some_and(|link| link.dialled.is_some()) {
            self.part_with(now, &shortcut.member);
        }
    }

    /// Those that got no answer have failed; those of members that are gone, or that failed long ago, are forgotten.
    fn forget_shortcuts(&mut self, now: Now) {
        let all = &mut self.shortcuts.all;
        let silent = |s: &Shortcut| matches!(s.step, Step::Asked(until) if until <= now.mono);
        let silent: Vec<Addr> = all
            .iter()
            .filter(|(_, s)| silent(s))
            .map(|(a, _)| *a)
            .collect();
        for peer in silent {
            self.stats.count("shortcut.failed");
            self.shortcuts.failed(now.mono, peer);
        }
        let me = self.me.as_ref();
        // Who has just begun knows nobody.
        let alone = self.adjacent.is_empty();
        let known = |peer: &Addr| alone || me.is_some_and(|me| me.routing.member(*peer).is_some());
        let over =
            |s: &Shortcut| matches!(s.step, Step::Failed(until) if until + s.pause <= now.mono);
        let before = self.shortcuts.all.len();
        self.shortcuts
            .all
            .retain(|peer, s| !over(s) && (known(peer) || self.adjacent.contains_key(peer)));
        if self.shortcuts.all.len() != before {
            self.rewant(now);
        }
    }
}

/// What members say to each other.
impl Unicast {
    /// Takes what a member says of where it is, and answers if it asks.
    pub(super) fn reach(&mut self, now: Now, from: Addr, said: &wire::Reach) {
        if said.asks {
            return self.answer_where(now, from);
        }
        let asked = |s: &Shortcut| matches!(s.step, Step::Asked(_));
        if !self.shortcuts.all.get(&from).is_some_and(asked) {
            return self.stats.count("drop.reach_unasked");
        }
        if self.adjacent.contains_key(&from) {
            // It was quicker, and the link is its own.
            self.shortcuts.all.remove(&from);
            return;
        }
        let over = self.me.as_ref().map_or(&[][..], |me| &me.over);
        let at = place::believable(said, over, &self.shortcuts.own);
        if at.is_empty() {
            self.stats.count("shortcut.nowhere");
            return self.shortcuts.failed(now.mono, from);
        }
        if let Some(shortcut) = self.shortcuts.all.get_mut(&from) {
            shortcut.step = Step::Wanted(at);
        }
        self.rewant(now);
        self.dial_due(now);
    }

    fn answer_where(&mut self, now: Now, from: Addr) {
        let peer = self.peers.get_mut(&from);
        if !peer.is_some_and(|p| p.asked_where.take(now.mono, ASKED)) {
            return self.stats.count("drop.reach_rate");
        }
        self.say_where(now, from, false);
    }

    fn say_where(&mut self, now: Now, to: Addr, asks: bool) {
        let room = asks || self.adjacent.len() < self.bounds.neighbours;
        let own = self.shortcuts.own.iter().filter(|_| room);
        let at = own.map(place::to_wire).collect();
        // If there is no room to say it, it is asked again later.
        self.tell_peer(now, to, Body::Reach(wire::Reach { at, asks }));
    }
}

/// Where members were reached.
pub(super) const FILE: &str = "places";
/// How often they are looked at while there are flows.
const LOOK: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(10);
/// A link that carried nothing for so long is given up.
const IDLE: Duration = Duration::from_secs(300);
/// Where there are too many, it goes for another after this.
const SPARE: Duration = Duration::from_secs(30);
/// How long a member is left alone that could not be reached; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How many are begun.
const BEGUN: Rate = Rate {
    burst: 16,
    per_second: 4,
};
/// How often one member is told where this one is.
const ASKED: Rate = Rate {
    burst: 4,
    per_second: 1,
};
