//! Enrolment as the joiner sees it; what the layer does is in `relay`.

use std::time::{Duration, Instant};

use proto::ipcp::{Answer, CommandId, Configured, Enroll, State};
use proto::wire::{self, message::Body};
use proto::{Addr, Code, FlowId, Label, Reason};

use super::Unicast;
use super::link::Link;
use crate::crypt::{Identity, Invitation, Joiner, TlsConfig};
use crate::{Now, UnixTime};

/// A member that is about to be one.
pub(super) struct Join {
    command: CommandId,
    deadline: Instant,
    pub(super) over: Vec<Label>,
    layer: Label,
    vias: Vec<Label>,
    entry: Way,
    /// Links to members who have shown their certificates and can be asked, with their names.
    ready: Vec<(FlowId, Label)>,
    /// Who was asked and when; without a link: a pause before the next.
    asked: Option<(Option<FlowId>, Instant)>,
    last: Option<Reason>,
}

/// How it gets in.
enum Way {
    /// The issuer must be asked.
    Invited {
        invitation: Box<Invitation>,
        joiner: Box<Joiner>,
        tls: TlsConfig,
    },
    /// It has a certificate; an adjacency is all that is missing. The identity is kept on disk only then.
    Certified { unsaved: bool },
}

impl Join {
    pub(super) fn layer(&self) -> &Label {
        &self.layer
    }

    pub(super) fn vias(&self) -> &[Label] {
        &self.vias
    }

    /// What a handshake of a joiner uses; `None` for one that has a certificate.
    pub(super) fn tls(&self) -> Option<&TlsConfig> {
        match &self.entry {
            Way::Invited { tls, .. } => Some(tls),
            Way::Certified { .. } => None,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.asked
            .map_or(self.deadline, |(_, at)| self.deadline.min(at + ANSWER))
    }
}

/// The joiner.
impl Unicast {
    pub(super) fn join_invited(
        &mut self,
        now: Now,
        command: CommandId,
        url: &str,
        ask: &Enroll,
    ) -> Result<Option<Configured>, Reason> {
        // What has expired since is still the way in of who is in already.
        let invitation = Invitation::parse(url, UnixTime(Duration::ZERO))?;
        let fresh = || Invitation::parse(url, now.wall).map(drop);
        if let Some(me) = &self.me {
            if *me.layer() == invitation.layer {
                return Ok(Some(me.configured()));
            }
            let text = format!(
                "{} is a member of {} already; destroy it first",
                self.name,
                me.layer()
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        let layer = invitation.layer.clone();
        let vias: Vec<Label> = invitation
            .vias
            .iter()
            .filter(|v| **v != self.name)
            .cloned()
            .collect();
        let entry = match self.known_identity(&invitation.layer)? {
            Some(identity) => {
                self.become_member(now, identity, None, ask.over.clone())?;
                Way::Certified { unsaved: false }
            }
            None => {
                fresh()?;
                let joiner = Box::new(invitation.start(&self.name)?);
                let tls = joiner.tls(&self.clock)?;
                Way::Invited {
                    invitation: Box::new(invitation),
                    joiner,
                    tls,
                }
            }
        };
        self.begin_join(now, command, ask, layer, vias, entry)
    }

    pub(super) fn join_certified(
        &mut self,
        now: Now,
        command: CommandId,
        identity: Identity,
        dst: Label,
        ask: &Enroll,
    ) -> Result<Option<Configured>, Reason> {
        let layer = identity.layer().clone();
        let known = self.known_identity(&layer)?.is_some();
        if let Some(me) = &self.me {
            if *me.layer() == layer {
                return self.take_certificate(now, identity).map(Some);
            }
            let text = format!(
                "{} is a member of {} already; destroy it first",
                self.name,
                me.layer()
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        if self.join.is_none() {
            self.become_member(now, identity, None, ask.over.clone())?;
        }
        self.begin_join(
            now,
            command,
            ask,
            layer,
            vec![dst],
            Way::Certified { unsaved: !known },
        )
    }

    fn begin_join(
        &mut self,
        now: Now,
        command: CommandId,
        ask: &Enroll,
        layer: Label,
        vias: Vec<Label>,
        entry: Way,
    ) -> Result<Option<Configured>, Reason> {
        if self.join.is_some() {
            return Err(Reason::new(
                Code::Busy,
                format!("{} is enrolling already; wait for its end", self.name),
            ));
        }
        if ask.over.is_empty() {
            let text = format!(
                "{} has no lower layer to enroll over; bootstrap a shim first, or name one with --over",
                self.name
            );
            return Err(Reason::new(Code::Usage, text));
        }
        let deadline = now.mono + Duration::from_millis(ask.timeout_ms).min(MAX_JOIN);
        let over = ask.over.clone();
        self.state(State::Enrolling, &format!("joining {layer}"));
        self.join = Some(Join {
            command,
            deadline,
            over,
            layer,
            vias,
            entry,
            ready: Vec::new(),
            asked: None,
            last: None,
        });
        self.rewant(now);
        Ok(None)
    }

    /// A member that was dialled has shown its certificate.
    pub(super) fn join_link_keys(&mut self, now: Now, lower: FlowId, via: Label) {
        if let Some(join) = &mut self.join {
            join.ready.push((lower, via));
        }
        self.join_ask(now);
    }

    /// Asks the next member that can be asked.
    fn join_ask(&mut self, now: Now) {
        let Some(Join {
            entry: Way::Invited { joiner, .. },
            asked: asked @ None,
            ready,
            ..
        }) = &mut self.join
        else {
            return;
        };
        let Some((lower, _)) = ready.first() else {
            return;
        };
        let lower = *lower;
        ready.rotate_left(1);
        let joining = self.links.get(&lower).and_then(|l| l.joining.last());
        let Some(joining) = joining else {
            return;
        };
        *asked = Some((Some(lower), now.mono));
        let (session, request) = (joining.session, joiner.request(&joining.exporter));
        self.tell_joining(lower, session, Body::EnrolRequest(request));
    }

    pub(super) fn enrol_reply(&mut self, now: Now, lower: FlowId, reply: &wire::EnrolReply) {
        // Who was asked before may say yes late; only of who is asked now a refusal is of use.
        let awaits = |join: &Join| {
            join.asked.is_some_and(|(l, _)| l == Some(lower))
                || reply.code == 0 && join.ready.iter().any(|(l, _)| *l == lower)
        };
        let Some(join) = self.join.as_mut().filter(|j| awaits(j)) else {
            return self.stats.count("drop.unexpected_message");
        };
        join.asked = None;
        let code = Code::from_wire(reply.code);
        if reply.code != 0 && matches!(code, Code::Unreachable | Code::TimedOut | Code::Busy) {
            join.last = Some(Reason::new(code, reply.text.clone()));
            // This one can't reach the issuer now; another may, or this one later.
            join.asked = Some((None, now.mono));
            return;
        }
        let Way::Invited {
            invitation, joiner, ..
        } = &join.entry
        else {
            return;
        };
        let via = join
            .ready
            .iter()
            .find(|(l, _)| *l == lower)
            .map(|(_, via)| via.clone());
        let issuer = invitation.issuer.clone();
        let over = join.over.clone();
        match joiner.finish(reply, now.wall) {
            Ok(identity) => self.join_certificate(now, lower, identity, over, issuer, via),
            Err(reason) if reply.code != 0 && via.as_ref() == Some(&issuer) => {
                self.join_failed(now, reason)
            }
            Err(reason) if reply.code != 0 => self.join_refused(now, lower, reason),
            Err(reason) => {
                // The member in between lied: the next one may be better. Asked again with the same key, since the issuer
                // may have certified that.
                join.last = Some(reason.clone());
                self.stats.count("enrol.lied_to");
                self.link_failed(now, lower, reason);
            }
        }
    }

    /// The issuer has said yes: from now on this is a member, and shows its certificate on the link that it has.
    fn join_certificate(
        &mut self,
        now: Now,
        lower: FlowId,
        identity: Identity,
        over: Vec<Label>,
        issuer: Label,
        via: Option<Label>,
    ) {
        self.save("identity", identity.to_bytes());
        if let Err(reason) = self.become_member(now, identity, None, over) {
            return self.join_failed(now, reason);
        }
        if let Some(join) = &mut self.join {
            join.entry = Way::Certified { unsaved: false };
        }
        if let Some(me) = &mut self.me {
            me.issuer = Some(issuer);
            me.kept.extend(via);
        }
        self.save_neighbours();
        self.rewant(now);
        // The other links are those of a joiner, or will be once their handshake is done; a member shows its certificate from
        // the start.
        if let Some(join) = &mut self.join {
            join.ready.clear();
        }
        let strange = |(l, link): &(&FlowId, &Link)| **l != lower && link.peer().is_none();
        let others = self.links.iter().filter(strange).map(|(l, _)| *l);
        let others: Vec<FlowId> = others.collect();
        for other in others {
            self.link_failed(
                now,
                other,
                Reason::new(Code::Closed, "enrolled through another member"),
            );
        }
        self.greet(now, lower);
    }

    /// An adjacency is up: if it is the first of a member that was joining, that is in now.
    pub(super) fn joined(&mut self, now: Now, peer: Addr) {
        if self.me.is_none() {
            return;
        }
        let member = Label::new(self.member_name(peer)).ok();
        if let Some(join) = self.join.take() {
            let Some(me) = &mut self.me else { return };
            // The way in is kept, whoever else was tried.
            me.kept.extend(member.filter(|m| join.vias.contains(m)));
            if let Way::Certified { unsaved: true } = join.entry {
                let bytes = me.identity.to_bytes();
                self.save("identity", bytes);
            }
            self.save_neighbours();
            self.rewant(now);
            self.hangup_unwanted(now);
            if let Some(configured) = self.me.as_ref().map(super::member::Member::configured) {
                self.done(join.command, Ok(Answer::Configured(configured)));
            }
        }
        self.state(State::Up, "");
    }

    /// A member says no in the issuer's name, which nothing proves: it is believed if nobody else can be asked.
    fn join_refused(&mut self, now: Now, lower: FlowId, reason: Reason) {
        let Some(join) = &mut self.join else { return };
        join.ready.retain(|(l, _)| *l != lower);
        if join.ready.is_empty() {
            return self.join_failed(now, reason);
        }
        join.last = Some(reason);
        self.join_ask(now);
    }

    fn join_failed(&mut self, now: Now, reason: Reason) {
        let Some(join) = self.join.take() else { return };
        if !matches!(join.entry, Way::Certified { unsaved: false }) {
            self.me = None;
        }
        let lowers: Vec<FlowId> = self.links.keys().copied().collect();
        for lower in lowers {
            self.link_failed(now, lower, reason.clone());
        }
        self.rewant(now);
        self.state(State::Down, &reason.text);
        self.done(join.command, Err(reason));
    }

    pub(super) fn join_link_gone(&mut self, lower: FlowId) {
        if let Some(join) = &mut self.join {
            join.ready.retain(|(l, _)| *l != lower);
            join.asked = join.asked.filter(|(l, _)| *l != Some(lower));
        }
    }

    pub(super) fn tick_enrol(&mut self, now: Now) {
        self.relays.expire(now.mono);
        let Some(join) = &mut self.join else { return };
        if join.deadline <= now.mono {
            let last = join.last.clone().or_else(|| self.dialling.why_any());
            let why = last.map_or_else(|| "no member answered".to_owned(), |r| r.text);
            let vias: Vec<&str> = join.vias.iter().map(Label::as_str).collect();
            let text = format!(
                "could not join {} through {}: {why}",
                join.layer,
                vias.join(", ")
            );
            return self.join_failed(now, Reason::new(Code::TimedOut, text));
        }
        if join.asked.is_some_and(|(_, at)| now.mono >= at + ANSWER) {
            join.asked = None;
        }
        self.join_ask(now);
    }
}

/// How long one member is given to answer a request, before the next is asked.
const ANSWER: Duration = Duration::from_secs(3);
/// The longest that a join may take.
const MAX_JOIN: Duration = Duration::from_secs(600);
