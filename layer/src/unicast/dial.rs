//! Whom this member wants to be linked to: dialling with back-off, `connect` and `disconnect`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::ipcp::{Answer, CommandId};
use proto::{Code, FlowId, Label, Reason};

use super::Unicast;
use super::link::{Link, Phase};
use crate::{FlowAsk, Now, Output};

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
    timeout: Duration,
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
    pub(super) fn want(&mut self, now: Instant, keys: impl Iterator<Item = (Label, Label)>) {
        let mut before = std::mem::take(&mut self.targets);
        for key in keys {
            if self.targets.contains_key(&key) {
                continue;
            }
            let target = before.remove(&key).unwrap_or(Target {
                at: Some(now),
                backoff: FIRST_BACKOFF,
                last: None,
            });
            self.targets.insert(key, target);
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

    /// Whether this member is wanted over this layer.
    pub(super) fn wants(&self, key: &(Label, Label)) -> bool {
        self.targets.contains_key(key)
    }

    /// A dial has been answered; gives whom it was for.
    pub(super) fn ended(&mut self, dial: u64) -> Option<(Label, Label)> {
        self.under_way.remove(&dial)
    }

    /// An adjacency is up; gives the commands that waited for it.
    pub(super) fn reached(&mut self, member: &str, over: &Label) -> Vec<CommandId> {
        for ((m, layer), target) in &mut self.targets {
            if m.as_str() == member && layer == over {
                (target.at, target.backoff, target.last) = (None, FIRST_BACKOFF, None);
            }
        }
        let (there, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| w.member.as_str() == member);
        self.waiting = waiting;
        there.into_iter().map(|w| w.command).collect()
    }

    /// An adjacency is gone.
    pub(super) fn lost(&mut self, now: Instant, member: &str, over: &Label) {
        for ((m, layer), target) in &mut self.targets {
            if m.as_str() == member && layer == over && target.at.is_none() {
                target.at = Some(now + target.backoff);
            }
        }
    }

    /// Notes why it is not reached yet, for those who wait; the dial is not over.
    pub(super) fn note(&mut self, key: &(Label, Label), reason: Reason) {
        if let Some(target) = self.targets.get_mut(key) {
            target.last = Some(reason);
        }
    }

    /// Dials again, the later the more often it came to nothing.
    pub(super) fn again(
        &mut self,
        now: Instant,
        key: &(Label, Label),
        jitter: u32,
        reason: Reason,
    ) {
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

/// What irmd asks.
impl Unicast {
    pub(super) fn connect(
        &mut self,
        now: Now,
        command: CommandId,
        member: Label,
        timeout: Option<Duration>,
    ) {
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
        let most = self.bounds.neighbours;
        if me.kept.len() >= most && !me.kept.contains(&member) {
            let reason = Reason::new(
                Code::Busy,
                format!("{most} neighbours are kept already; disconnect one first"),
            );
            self.stats.count("limit.neighbours");
            return self.done(command, Err(reason));
        }
        let fresh = me.kept.insert(member.clone());
        if fresh {
            self.save_neighbours();
        }
        self.rewant(now);
        if self.links.values().any(|l| l.up() == Some(address)) {
            return self.done(command, Ok(Answer::Ok));
        }
        let timeout = timeout.unwrap_or(CONNECT).min(LONGEST);
        self.dialling.waiting.push(Waiting {
            command,
            member,
            timeout,
            until: now.mono + timeout,
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
        self.part_with(now, member);
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
        let each = |member: Label| over.iter().map(move |over| (member.clone(), over.clone()));
        let keys = members.into_iter().flat_map(each);
        let keys = keys.chain(self.shortcuts.wanted());
        self.dialling.want(now.mono, keys);
    }
}

/// What happens by itself.
impl Unicast {
    /// Dials whom it is time for.
    pub(super) fn dial_due(&mut self, now: Now) {
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
                peer && l.over == key.1
                    && !matches!(l.phase, Phase::Leaving(..) | Phase::Retired(..))
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
                at: self.shortcuts.places(&key.0, &key.1),
            }));
            self.dialling.under_way.insert(dial, key);
        }
    }

    /// Ends the waiting for adjacencies that did not come.
    pub(super) fn give_up_waiting(&mut self, now: Now) {
        let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.dialling.waiting)
            .into_iter()
            .partition(|w| w.until <= now.mono);
        self.dialling.waiting = waiting;
        for Waiting {
            command,
            member,
            timeout,
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
            let text = format!("no link to member {member} within {timeout:?}: {why}");
            self.done(command, Err(Reason::new(Code::TimedOut, text)));
        }
    }
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Between dials over a layer that failed, to a member that is reached over another.
const SPARE: Duration = Duration::from_secs(30);
/// How long `connect` waits unless it is told how long.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it waits at most.
const LONGEST: Duration = Duration::from_secs(3600);
