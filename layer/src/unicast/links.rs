//! The links of this member: dialling, which of two stays, signs of life, and when one is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::ipcp::Answer;
use proto::wire::{self, message::Body};
use proto::{Addr, Batch, Code, FlowId, Label, Reason};
use rand_core::RngCore;

use super::Unicast;
use super::leaving;
use super::limits::{MAX_BATCHES, MAX_BATCHES_ALL, MIN_BATCHES};
use super::link::{GREETING, JOINING, Link, Phase, RETIRING, Stands, Unsealed};
use super::out::Class;
use super::pdu::{Hello, Probe};
use crate::route::{LinkState, MAX_COST};
use crate::{FlowAsk, FlowTell, Now, Output, Via};

/// What the lower network says.
impl Unicast {
    pub(super) fn tell(&mut self, now: Now, tell: FlowTell) {
        match tell {
            FlowTell::Up {
                lower,
                over,
                mtu,
                framing,
                via,
            } => self.link_stands(
                now,
                Stands {
                    lower,
                    over,
                    mtu,
                    framing,
                },
                via,
            ),
            FlowTell::Mtu(lower, mtu) => {
                if self
                    .links
                    .get_mut(&lower)
                    .is_some_and(|l| l.set_mtu(now.mono, mtu))
                {
                    self.say_link_info(lower, false);
                    self.links_changed(now);
                }
            }
            FlowTell::Faulty(lower) => {
                if self.links.get_mut(&lower).is_some_and(|l| l.mute(now.mono)) {
                    self.stats.count("link.faulty");
                    self.links_changed(now);
                }
            }
            FlowTell::Down(lower, reason) => self.remove_link(now, lower, &reason),
            FlowTell::DialFailed(dial, reason) => {
                if let Some(key) = self.dialling.ended(dial) {
                    self.stats.count("dial.failed");
                    let jitter = self.rng.next_u32();
                    self.dialling.again(now.mono, &key, jitter, reason);
                    self.shortcut_missed(now, &key);
                }
            }
        }
    }

    fn link_stands(&mut self, now: Now, stands: Stands, via: Via) {
        let lower = stands.lower;
        let dialled = match via {
            Via::Dialled(dial) => match self.dialling.ended(dial) {
                Some(key) if self.dialling.wants(&key) => Some(key.0),
                _ => return self.hangup(lower),
            },
            Via::Accepted(_) => None,
        };
        if dialled.is_none() && !(self.me.is_some() && self.room_for_stranger(now)) {
            self.stats.count("drop.too_many_strangers");
            return self.hangup(lower);
        }
        let stream = self.rng.next_u32();
        let greet = dialled.is_some();
        self.links
            .insert(lower, Link::new(stands, dialled, stream, now.mono));
        if greet {
            self.greet(now, lower);
        }
    }
}

/// Up and down.
impl Unicast {
    /// Packets of a neighbour begin to come on a link. If they came a moment ago on the one that this side uses, the other side
    /// may know that that one is broken: this side leaves it too, until something is heard on it.
    pub(super) fn follow(&mut self, now: Now, lower: FlowId) {
        let peer = self.links.get(&lower).and_then(Link::up);
        let used = peer.and_then(|peer| self.adjacent.get(&peer).copied());
        let Some(used) = used.filter(|used| *used != lower) else {
            return;
        };
        let left = |link: &mut Link| link.carried_lately(now.mono) && link.mute(now.mono);
        if self.links.get_mut(&used).is_some_and(left) {
            self.stats.count("link.followed");
            self.links_changed(now);
        }
    }

    /// Whether one more may be heard who has shown no certificate yet. If there are too many, one that hasn't begun to enrol
    /// goes for it. Half of the places are for those whose handshake is answered, of whom the oldest goes once it has had
    /// its time, half for those who wait for that: neither who never says anything nor who never goes on keeps others out.
    fn room_for_stranger(&mut self, now: Now) -> bool {
        let mut strangers: Vec<&Link> = self.links.values().collect();
        strangers.retain(|l| l.dialled.is_none() && l.peer().is_none());
        if strangers.len() < self.bounds.strangers {
            return true;
        }
        strangers.retain(|l| l.phase == Phase::Greeting);
        let (answered, silent): (Vec<_>, Vec<_>) = strangers
            .into_iter()
            .partition(|l| !l.handshakes.is_empty());
        let oldest = |of: &[&Link]| of.iter().map(|l| (l.since, l.lower)).min();
        let heard = oldest(&answered)
            .filter(|(since, _)| now.mono.saturating_duration_since(*since) >= HEARING)
            .filter(|_| answered.len() >= self.bounds.strangers / 2);
        let Some((_, lower)) = heard.or_else(|| oldest(&silent)) else {
            return false;
        };
        self.stats.count("link.displaced");
        self.link_failed(now, lower, Reason::new(Code::Busy, "too many strangers"));
        true
    }

    /// The handshake over a link has shown who is at its other end.
    pub(super) fn adjacency_up(&mut self, now: Now, lower: FlowId, peer: Addr) {
        let stream = self.rng.next_u32();
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.phase = Phase::Up(peer);
        link.refusal = None;
        link.drop_certless();
        link.begin_channel(stream);
        link.heard(now.mono);
        link.guess_cost(now.mono);
        let over = link.over.clone();
        self.say_link_info(lower, false);
        self.say_digest(now, lower);
        self.retire_doubles(now, lower, peer);
        let member = self.member_name(peer);
        self.notice(
            "neighbour.up",
            format!("neighbour {member} is up over {over}"),
            &member,
            false,
        );
        self.shortcut_up(peer);
        for command in self.dialling.reached(&member, &over) {
            self.done(command, Ok(Answer::Ok));
        }
        self.links_changed(now);
        self.joined(now, peer);
        self.session_ready(now, peer);
    }

    /// Of several links to one member over one layer, that which the lower address dialled stays; of equals, the newest.
    fn retire_doubles(&mut self, now: Now, newest: FlowId, peer: Addr) {
        let Some(me) = self.me.as_ref().map(|me| me.address) else {
            return;
        };
        let Some(over) = self.links.get(&newest).map(|l| l.over.clone()) else {
            return;
        };
        let by_lower = |l: &Link| l.dialled.is_some() == (me < peer);
        let doubles = self
            .links
            .values()
            .filter(|l| l.up() == Some(peer) && l.over == over);
        let Some(stays) = doubles
            .max_by_key(|l| (by_lower(l), l.lower == newest, l.since))
            .map(|l| l.lower)
        else {
            return;
        };
        for link in self.links.values_mut() {
            if link.up() == Some(peer) && link.over == over && link.lower != stays {
                link.phase = Phase::Retired(peer, now.mono + RETIRING);
                self.stats.count("link.replaced");
            }
        }
    }

    /// A link came to nothing, or can't go on.
    pub(super) fn link_failed(&mut self, now: Now, lower: FlowId, reason: Reason) {
        self.flush(lower);
        self.hangup(lower);
        self.remove_link(now, lower, &reason);
    }

    /// A link is gone.
    pub(super) fn remove_link(&mut self, now: Now, lower: FlowId, reason: &Reason) {
        let Some(mut link) = self.links.remove(&lower) else {
            return;
        };
        let waited = link.tx.discard(&mut self.stats);
        if waited > 0 {
            self.stats.add("drop.link_gone", waited as u64);
        }
        self.join_link_gone(lower);
        match link.phase {
            Phase::Retired(..) => {}
            Phase::Leaving(..) => self.links_changed(now),
            Phase::Greeting | Phase::Joining => {
                let missed = link.dialled.clone().map(|to| (to, link.over.clone()));
                self.dial_again(now, link.dialled, &link.over, reason);
                if let Some(key) = missed {
                    self.shortcut_missed(now, &key);
                }
            }
            Phase::Up(peer) => {
                self.dial_again(now, link.dialled, &link.over, reason);
                self.links_changed(now);
                self.adjacency_down(now, peer, &link.over, reason);
            }
        }
    }

    /// A link that was dialled is gone.
    pub(super) fn dial_again(
        &mut self,
        now: Now,
        dialled: Option<Label>,
        over: &Label,
        reason: &Reason,
    ) {
        let jitter = self.rng.next_u32();
        if let Some(member) = dialled {
            let key = (member, over.clone());
            self.dialling.again(now.mono, &key, jitter, reason.clone());
        }
    }

    /// A member is no neighbour over this lower layer any longer.
    pub(super) fn adjacency_down(&mut self, now: Now, peer: Addr, over: &Label, reason: &Reason) {
        let member = self.member_name(peer);
        self.dialling.lost(now.mono, &member, over);
        // What was meant to end, or is still reached over another layer, worries nobody.
        let missed = !self.adjacent.contains_key(&peer) && !self.shortcuts.has(peer);
        let warning = reason.code != Code::Closed && missed;
        let text = format!("neighbour {member} is down over {over}: {reason}");
        self.notice("neighbour.down", text, &member, warning);
        self.shortcuts_if_alone(now);
    }

    /// Asks the lower network to end a flow.
    pub(super) fn hangup(&mut self, lower: FlowId) {
        self.out.push_back(Output::Ask(FlowAsk::Hangup(lower)));
    }

    /// Lets all that waits on a link go before whatever is said of it next.
    fn flush(&mut self, lower: FlowId) {
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let now = self.now;
        link.tx
            .set_open(now.map_or(link.since, |now| now.mono), true);
        let mut batches: Vec<Batch> = std::iter::from_fn(|| link.pop_control()).collect();
        if let Some(now) = now {
            let stats = &mut self.stats;
            let data = std::iter::from_fn(|| link.pop_data(now.mono, stats));
            batches.extend(data.map(Unsealed::seal));
        }
        self.out
            .extend(batches.into_iter().map(|batch| Output::Lower(lower, batch)));
    }

    /// Tells the other side of a link what holds at this one.
    pub(super) fn say_link_info(&mut self, lower: FlowId, closing: bool) {
        let Some(link) = self.links.get(&lower).filter(|l| l.up().is_some()) else {
            return;
        };
        let info = wire::LinkInfo {
            mtu: link.own_mtu(),
            standby: false,
            closing,
        };
        self.tell_link(lower, Body::LinkInfo(info));
    }

    /// Takes what the other side says of a link.
    pub(super) fn link_info(&mut self, now: Now, lower: FlowId, info: &wire::LinkInfo) {
        if info.closing {
            let reason = Reason::new(Code::Closed, "the neighbour has given the link up");
            if let Some(peer) = self.links.get(&lower).and_then(Link::up) {
                self.shortcut_closed(now, peer);
            }
            return self.leave(now, lower, reason);
        }
        if self
            .links
            .get_mut(&lower)
            .is_some_and(|l| l.set_their_mtu(info.mtu))
        {
            self.links_changed(now);
        }
    }

    /// Takes a sign of life.
    pub(super) fn hello(&mut self, now: Now, lower: FlowId, hello: &Hello) {
        let micros = self.micros(now);
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.hello(now.mono, micros, hello);
        let cost = link.update_cost(now.mono);
        self.pump |= hello.asks;
        if cost {
            self.links_changed(now);
        }
    }

    /// Takes a probe of the path, or the answer to one.
    pub(super) fn probe(&mut self, now: Now, lower: FlowId, kind: Probe, size: u32, len: usize) {
        if let Some(link) = self.links.get_mut(&lower) {
            let changed = link.probed(now.mono, kind, size, len);
            self.path_probed(now, lower, changed);
        }
    }

    fn path_probed(&mut self, now: Now, lower: FlowId, changed: Result<bool, &'static str>) {
        match changed {
            Ok(false) => {}
            Ok(true) => {
                self.stats.count("link.mtu_changed");
                self.say_link_info(lower, false);
                self.links_changed(now);
            }
            Err(reason) => self.stats.count(reason),
        }
    }
}

/// What happens by itself.
impl Unicast {
    /// Everything about links that the time has come for.
    pub(super) fn tick_links(&mut self, now: Now) {
        self.links.wake(now.mono);
        for lower in self.links.stirred() {
            self.tick_link(now, lower);
        }
        self.dial_due(now);
        self.give_up_waiting(now);
    }

    fn tick_link(&mut self, now: Now, lower: FlowId) {
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.expire_keys(now.mono);
        let age = now.mono.saturating_duration_since(link.since);
        let over = match link.phase {
            Phase::Greeting if age >= GREETING => {
                let text = "the neighbour did not answer the handshake";
                let silent = || Reason::new(Code::TimedOut, text);
                Some(link.refusal.take().unwrap_or_else(silent))
            }
            Phase::Joining if age >= JOINING => {
                Some(Reason::new(Code::TimedOut, "no enrolment within its time"))
            }
            Phase::Retired(_, until) if until <= now.mono => {
                Some(Reason::new(Code::Closed, "another link took over"))
            }
            Phase::Up(_) if link.is_dead(now.mono) => {
                self.stats.count("link.dead");
                let text = "nothing was heard of it any more";
                Some(Reason::new(Code::Unreachable, text))
            }
            Phase::Up(_) if link.is_keyless() => {
                let text = "its keys have expired and no others were agreed on";
                Some(Reason::new(Code::Unreachable, text))
            }
            Phase::Leaving(peer, until) if until <= now.mono => {
                link.phase = Phase::Retired(peer, now.mono + RETIRING);
                self.links_changed(now);
                None
            }
            Phase::Greeting
            | Phase::Joining
            | Phase::Up(_)
            | Phase::Leaving(..)
            | Phase::Retired(..) => None,
        };
        if let Some(reason) = over {
            return self.link_failed(now, lower, reason);
        }
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let again = link.takes_regreet(now.mono) && link.peer().is_none();
        let rekey = link.wants_rekey(now.mono);
        self.say_hello(now, lower);
        if let Some(link) = self.links.get_mut(&lower) {
            let changed = link.probe(now.mono);
            self.path_probed(now, lower, changed);
        }
        if rekey || again {
            self.greet(now, lower);
        }
    }

    /// Says the hellos that have become due by what has just come or gone.
    pub(super) fn say_hellos(&mut self, now: Now) {
        for lower in self.links.stirred() {
            self.say_hello(now, lower);
        }
    }

    fn say_hello(&mut self, now: Now, lower: FlowId) {
        let micros = self.micros(now);
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let Some(hello) = link.hello_due(now.mono, micros) else {
            return;
        };
        let sent = link.send(Class::Control, Hello::LEN, |body| {
            hello.write(body);
            Ok(())
        });
        if let Err(reason) = sent {
            self.stats.count(reason);
        }
    }

    /// Works out which link reaches which neighbour, and tells the layer.
    pub(super) fn links_changed(&mut self, now: Now) {
        let mut best: BTreeMap<Addr, &Link> = BTreeMap::new();
        for link in self.links.values() {
            let Some(peer) = link.leads_to().filter(|_| !link.is_mute()) else {
                continue;
            };
            let better = |than: &&Link| {
                (self.price(link), than.mtu(), link.lower)
                    < (self.price(than), link.mtu(), than.lower)
            };
            if best.get(&peer).is_none_or(better) {
                best.insert(peer, link);
            }
        }
        let states: Vec<LinkState> = best
            .iter()
            .map(|(peer, l)| LinkState {
                neighbour: *peer,
                cost: self.price(l),
                mtu: l.mtu(),
            })
            .collect();
        let adjacent: BTreeMap<Addr, FlowId> =
            best.iter().map(|(peer, l)| (*peer, l.lower)).collect();
        // A way that is gone is replaced at once, a new one may wait for its companions.
        let moved = self
            .adjacent
            .iter()
            .any(|(peer, lower)| adjacent.get(peer) != Some(lower));
        let gone = |peer: &&Addr| !adjacent.contains_key(peer);
        let gone: Vec<Addr> = self.adjacent.keys().filter(gone).copied().collect();
        let others = self.adjacent.keys().ne(adjacent.keys());
        self.adjacent = adjacent;
        (self.way, self.share) = (None, None);
        if others {
            self.members_changed();
        }
        let each = MAX_BATCHES_ALL / self.links.len().max(1);
        let each = each.clamp(MIN_BATCHES, MAX_BATCHES);
        self.links.values_mut().for_each(|l| l.tx.set_most(each));
        if self.hold.passes(now.mono, moved || self.shrinks(&states)) {
            self.publish_links(now, states, moved, &gone);
        }
    }

    /// What a link costs whoever would send over it.
    fn price(&self, link: &Link) -> u32 {
        if leaving::is_leaving(link, self.exit) {
            MAX_COST
        } else {
            link.cost.value
        }
    }

    /// Whether a link carries less than was said of it, or is to end.
    fn shrinks(&self, states: &[LinkState]) -> bool {
        let Some(me) = &self.me else { return false };
        let said = me.routing.lsdb.links(me.address);
        let smaller = |s: &LinkState| {
            said.iter()
                .filter(|o| o.neighbour == s.neighbour)
                .any(|o| o.mtu > s.mtu || o.cost < s.cost && s.cost == MAX_COST)
        };
        states.iter().any(smaller)
    }

    /// The time as hellos carry it: microseconds since this machine began, never 0.
    fn micros(&self, now: Now) -> u64 {
        let since = self.epoch.map_or(Duration::ZERO, |epoch| {
            now.mono.saturating_duration_since(epoch)
        });
        u64::try_from(since.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }
}

/// The time that a link without certificate has at least, once its handshake is answered.
const HEARING: Duration = Duration::from_millis(300);
