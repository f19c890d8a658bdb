//! The links of this member: dialling, which of two stays, signs of life, and when one is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::ipcp::{Answer, CommandId};
use proto::wire::{self, message::Body};
use proto::{Addr, Batch, Code, FlowId, Label, Reason};
use rand_core::RngCore;

use super::Unicast;
use super::link::{DEAD, GREETING, JOINING, Link, Phase, RETIRING, Stands};
use super::out::Class;
use super::pdu::Hello;
use crate::route::LinkState;
use crate::{FlowAsk, FlowTell, Now, Output, Via};

/// Whom this member wants to be linked to, over which layers, and how far that is.
#[derive(Default)]
pub(super) struct Dialling {
    targets: BTreeMap<(Label, Label), Target>,
    under_way: BTreeMap<u64, (Label, Label)>,
    dials: u64,
    /// Those who wait for an adjacency: the command, the member, and until when.
    waiting: Vec<Waiting>,
}

struct Waiting {
    command: CommandId,
    member: Label,
    until: Instant,
    /// It was not kept before the command.
    fresh: bool,
}

/// One member over one lower layer.
struct Target {
    /// When to dial; `None` while a dial is under way or a link stands.
    at: Option<Instant>,
    backoff: Duration,
    last: Option<Reason>,
}

impl Dialling {
    /// Sets who is wanted from now on. What was wanted before keeps its state.
    pub(super) fn want(&mut self, now: Instant, members: &[Label], over: &[Label]) {
        let mut before = std::mem::take(&mut self.targets);
        for member in members {
            for layer in over {
                let key = (member.clone(), layer.clone());
                let target = before.remove(&key).unwrap_or(Target {
                    at: Some(now),
                    backoff: FIRST_BACKOFF,
                    last: None,
                });
                self.targets.insert(key, target);
            }
        }
    }

    /// Why the last dials to a member came to nothing.
    pub(super) fn why(&self, member: &Label) -> Option<Reason> {
        self.targets
            .iter()
            .find(|((m, _), t)| m == member && t.last.is_some())
            .and_then(|(_, t)| t.last.clone())
    }

    /// Why the last dials to anybody came to nothing.
    pub(super) fn why_any(&self) -> Option<Reason> {
        self.targets.values().find_map(|t| t.last.clone())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.targets
            .values()
            .filter_map(|t| t.at)
            .chain(self.waiting.iter().map(|w| w.until))
            .min()
    }

    /// Dials again, the later the more often it came to nothing.
    fn again(&mut self, now: Instant, key: &(Label, Label), jitter: u32, reason: Reason) {
        if let Some(target) = self.targets.get_mut(key) {
            target.at = Some(
                now + target
                    .backoff
                    .mul_f64(0.75 + f64::from(jitter % 256) / 1024.0),
            );
            target.backoff = (target.backoff * 2).min(MAX_BACKOFF);
            target.last = Some(reason);
        }
    }
}

// ---- what the lower network says
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
                if self.links.get_mut(&lower).is_some_and(|l| l.set_mtu(mtu)) {
                    self.say_link_info(lower, false);
                    self.links_changed(now);
                }
            }
            FlowTell::Down(lower, reason) => self.remove_link(now, lower, &reason),
            FlowTell::DialFailed(dial, reason) => {
                if let Some(key) = self.dialling.under_way.remove(&dial) {
                    self.stats.count("dial.failed");
                    let jitter = self.rng.next_u32();
                    self.dialling.again(now.mono, &key, jitter, reason);
                }
            }
        }
    }

    fn link_stands(&mut self, now: Now, stands: Stands, via: Via) {
        let lower = stands.lower;
        let dialled = match via {
            Via::Dialled(dial) => match self.dialling.under_way.remove(&dial) {
                Some(key) if self.dialling.targets.contains_key(&key) => Some(key.0),
                _ => return self.hangup(lower),
            },
            Via::Accepted(_) => None,
        };
        let strangers = self
            .links
            .values()
            .filter(|l| l.dialled.is_none() && l.peer().is_none())
            .count();
        if dialled.is_none() && (self.me.is_none() || strangers >= MAX_STRANGERS) {
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

// ---- up and down
impl Unicast {
    /// The handshake over a link has shown who is at its other end.
    pub(super) fn adjacency_up(&mut self, now: Now, lower: FlowId, peer: Addr) {
        let stream = self.rng.next_u32();
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.phase = Phase::Up(peer);
        link.drop_certless();
        link.begin_channel(stream);
        link.heard(now.mono);
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
        for ((m, layer), target) in &mut self.dialling.targets {
            if m.as_str() == member && *layer == over {
                (target.at, target.backoff, target.last) = (None, FIRST_BACKOFF, None);
            }
        }
        let (there, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.dialling.waiting)
            .into_iter()
            .partition(|w| w.member.as_str() == member);
        self.dialling.waiting = waiting;
        for waiting in there {
            self.done(waiting.command, Ok(Answer::Ok));
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
        let Some(link) = self.links.remove(&lower) else {
            return;
        };
        self.join_link_gone(lower);
        let jitter = self.rng.next_u32();
        if let Some(member) = &link.dialled {
            self.dialling.again(
                now.mono,
                &(member.clone(), link.over.clone()),
                jitter,
                reason.clone(),
            );
        }
        let Some(peer) = link.up() else { return };
        let member = self.member_name(peer);
        self.notice(
            "neighbour.down",
            format!("neighbour {member} is down over {}: {reason}", link.over),
            &member,
            true,
        );
        for ((m, layer), target) in &mut self.dialling.targets {
            if m.as_str() == member && *layer == link.over && target.at.is_none() {
                target.at = Some(now.mono + target.backoff);
            }
        }
        self.links_changed(now);
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
        let batches: Vec<Batch> = [Class::Control, Class::Data]
            .into_iter()
            .flat_map(|c| std::iter::from_fn(|| link.tx.pop(c)).collect::<Vec<_>>())
            .collect();
        self.out
            .extend(batches.into_iter().map(|batch| Output::Lower(lower, batch)));
    }

    /// Ends the links to a member, and says so, lest it wait for its timer.
    pub(super) fn part_with(&mut self, now: Now, member: Option<&Label>) {
        let address = member.and_then(|m| self.me.as_ref().map(|me| me.address_of(m)));
        let links: Vec<FlowId> = self
            .links
            .values()
            .filter(|l| member.is_none() || (l.peer().is_some() && l.peer() == address))
            .map(|l| l.lower)
            .collect();
        for lower in links {
            self.say_link_info(lower, true);
            self.pump_link_channel(now, lower);
            self.link_failed(now, lower, Reason::new(Code::Closed, "given up here"));
        }
    }

    /// Tells the other side of a link what holds at this one.
    fn say_link_info(&mut self, lower: FlowId, closing: bool) {
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
            return self.link_failed(
                now,
                lower,
                Reason::new(Code::Closed, "the neighbour has given the link up"),
            );
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
        let mtu = link.hello(now.mono, micros, hello);
        let cost = link.update_cost();
        if mtu {
            self.say_link_info(lower, false);
        }
        if mtu || cost {
            self.links_changed(now);
        }
    }
}

// ---- what irmd asks
impl Unicast {
    pub(super) fn connect(&mut self, now: Now, command: CommandId, member: Label) {
        let Some(me) = &mut self.me else {
            let reason = self.not_a_member();
            return self.done(command, Err(reason));
        };
        if member == *me.identity.member() {
            let reason = Reason::new(
                Code::Usage,
                format!("{member} is this very member; name another"),
            );
            return self.done(command, Err(reason));
        }
        let address = me.address_of(&member);
        if me.kept.len() >= MAX_KEPT && !me.kept.contains(&member) {
            let reason = Reason::new(
                Code::Busy,
                format!("{MAX_KEPT} neighbours are kept already; disconnect one first"),
            );
            return self.done(command, Err(reason));
        }
        let fresh = me.kept.insert(member.clone());
        if fresh {
            self.save_neighbours();
        }
        self.rewant(now);
        if self.adjacent.contains_key(&address) {
            return self.done(command, Ok(Answer::Ok));
        }
        self.dialling.waiting.push(Waiting {
            command,
            member,
            until: now.mono + CONNECT,
            fresh,
        });
    }

    pub(super) fn disconnect(&mut self, now: Now, command: CommandId, member: &Label) {
        let Some(me) = &mut self.me else {
            let reason = self.not_a_member();
            return self.done(command, Err(reason));
        };
        if me.kept.remove(member) {
            self.save_neighbours();
        }
        self.rewant(now);
        self.part_with(now, Some(member));
        self.done(command, Ok(Answer::Ok));
    }

    /// Ends the links that were dialled, are not up and are no longer wanted.
    pub(super) fn hangup_unwanted(&mut self, now: Now) {
        let unwanted = |l: &&Link| {
            let key = l
                .dialled
                .as_ref()
                .map(|member| (member.clone(), l.over.clone()));
            l.peer().is_none() && key.is_some_and(|key| !self.dialling.targets.contains_key(&key))
        };
        let unwanted: Vec<FlowId> = self
            .links
            .values()
            .filter(unwanted)
            .map(|l| l.lower)
            .collect();
        for lower in unwanted {
            self.link_failed(now, lower, Reason::new(Code::Closed, "no longer wanted"));
        }
    }

    /// Works out anew whom to dial.
    pub(super) fn rewant(&mut self, now: Now) {
        let (mut members, mut over): (Vec<Label>, Vec<Label>) = (Vec::new(), Vec::new());
        if let Some(join) = &self.join {
            members.extend(join.vias().iter().cloned());
            over.extend(join.over.iter().cloned());
        }
        if let Some(me) = &self.me {
            members.extend(me.kept.iter().cloned());
            over.extend(me.over.iter().cloned());
        }
        self.dialling.want(now.mono, &members, &over);
    }
}

// ---- what happens by itself
impl Unicast {
    /// Everything about links that the time has come for.
    pub(super) fn tick_links(&mut self, now: Now) {
        let all: Vec<FlowId> = self.links.keys().copied().collect();
        for lower in all {
            self.tick_link(now, lower);
        }
        self.dial_due(now);
        let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.dialling.waiting)
            .into_iter()
            .partition(|w| w.until <= now.mono);
        self.dialling.waiting = waiting;
        for Waiting {
            command,
            member,
            fresh,
            ..
        } in over
        {
            let why = self
                .dialling
                .why(&member)
                .map_or_else(|| "it did not answer".to_owned(), |r| r.text);
            if fresh && self.me.as_mut().is_some_and(|me| me.kept.remove(&member)) {
                self.save_neighbours();
                self.rewant(now);
            }
            let text = format!(
                "no link to member {member} within {} s: {why}",
                CONNECT.as_secs()
            );
            self.done(command, Err(Reason::new(Code::TimedOut, text)));
        }
    }

    fn tick_link(&mut self, now: Now, lower: FlowId) {
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        link.expire_keys(now.mono);
        let age = now.mono.saturating_duration_since(link.since);
        let over = match link.phase {
            Phase::Greeting if age >= GREETING => {
                Some((Code::TimedOut, "the neighbour did not answer the handshake"))
            }
            Phase::Joining if age >= JOINING => {
                Some((Code::TimedOut, "no enrolment within its time"))
            }
            Phase::Retired(_, until) if until <= now.mono => {
                Some((Code::Closed, "another link took over"))
            }
            Phase::Up(_) if link.is_dead(now.mono) => {
                Some((Code::Unreachable, "nothing was heard of it any more"))
            }
            _ => None,
        };
        if let Some((code, text)) = over {
            if code == Code::Unreachable {
                self.stats.count("link.dead");
            }
            return self.link_failed(now, lower, Reason::new(code, text));
        }
        let rekey = link.wants_rekey(now.mono);
        self.say_hello(now, lower);
        if rekey {
            self.greet(now, lower);
        }
    }

    fn say_hello(&mut self, now: Now, lower: FlowId) {
        let micros = self.micros(now);
        let Some(link) = self.links.get_mut(&lower) else {
            return;
        };
        let before = link.mtu();
        let Some((hello, len)) = link.hello_due(now.mono, micros) else {
            return;
        };
        let sent = link.send(Class::Control, len, |body| {
            hello.write(body);
            Ok(())
        });
        if let Err(reason) = sent {
            self.stats.count(reason);
        }
        if self.links.get(&lower).is_some_and(|l| l.mtu() != before) {
            self.links_changed(now);
        }
    }

    fn dial_due(&mut self, now: Now) {
        let due: Vec<(Label, Label)> = self
            .dialling
            .targets
            .iter()
            .filter(|(_, t)| t.at.is_some_and(|at| at <= now.mono))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            let address = self.me.as_ref().map(|me| me.address_of(&key.0));
            let has = |l: &Link| {
                let peer = if l.peer().is_some() {
                    l.peer() == address
                } else {
                    l.dialled.as_ref() == Some(&key.0)
                };
                peer && l.over == key.1 && !matches!(l.phase, Phase::Retired(..))
            };
            let stands =
                self.links.values().any(has) || self.dialling.under_way.values().any(|k| *k == key);
            let elsewhere = address.is_some_and(|a| self.adjacent.contains_key(&a));
            let Some(target) = self.dialling.targets.get_mut(&key) else {
                continue;
            };
            target.at = None;
            if stands {
                continue;
            }
            if elsewhere && target.last.is_some() && target.backoff >= MAX_BACKOFF {
                // It is reached over another layer: no hurry with this one.
                target.at = Some(now.mono + SPARE);
                target.last = None;
                continue;
            }
            self.dialling.dials += 1;
            let dial = self.dialling.dials;
            self.out.push_back(Output::Ask(FlowAsk::Dial {
                dial,
                dst: key.0.to_name(),
                over: key.1.clone(),
            }));
            self.dialling.under_way.insert(dial, key);
        }
    }

    /// Works out which link reaches which neighbour, and tells the layer.
    pub(super) fn links_changed(&mut self, now: Now) {
        let mut best: BTreeMap<Addr, &Link> = BTreeMap::new();
        for link in self.links.values() {
            let Some(peer) = link.up() else { continue };
            let better = |than: &&Link| {
                (link.cost.value, than.mtu(), link.lower)
                    < (than.cost.value, link.mtu(), than.lower)
            };
            if best.get(&peer).is_none_or(better) {
                best.insert(peer, link);
            }
        }
        let states = best
            .iter()
            .map(|(peer, l)| LinkState {
                neighbour: *peer,
                cost: l.cost.value,
                mtu: l.mtu(),
            })
            .collect();
        let adjacent: BTreeMap<Addr, FlowId> =
            best.iter().map(|(peer, l)| (*peer, l.lower)).collect();
        // A way that is gone is replaced at once, a new one may wait for its companions.
        let lost = self
            .adjacent
            .iter()
            .any(|(peer, lower)| adjacent.get(peer) != Some(lower));
        self.adjacent = adjacent;
        self.publish_links(now, states, lost);
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

const _: () = assert!(
    DEAD.as_millis() < 2000,
    "a dead neighbour must be noticed within 2 s"
);

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Between dials over a layer that failed, to a member that is reached over another.
const SPARE: Duration = Duration::from_secs(30);
/// How long `connect` waits.
const CONNECT: Duration = Duration::from_secs(10);
/// Links of others that have shown no certificate yet.
const MAX_STRANGERS: usize = 64;
/// Neighbours to which an adjacency is kept.
const MAX_KEPT: usize = 256;
