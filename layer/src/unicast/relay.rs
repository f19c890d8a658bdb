//! Enrolment as the layer sees it: the member that was dialled, those on the way to the issuer, and the issuer.
//!
//! A request goes from neighbour to neighbour over the channels of their links, and so does the answer: no member on the way
//! needs keys with the issuer, which a long way that loses much might not let them agree on in time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::ipcp::{Event, Notice};
use proto::wire::{self, message::Body};
use proto::{Addr, Code, FlowId, Label, Reason};

use zeroize::Zeroizing;

use super::Unicast;
use super::link::Link;
use super::member::Member;
use crate::crypt::Audit;
use crate::{Now, Output};

/// Requests of joiners on their way to the issuer.
#[derive(Default)]
pub(super) struct Relays {
    list: BTreeMap<u64, Relay>,
    last: u64,
}

struct Relay {
    asker: Asker,
    /// The neighbour that it was handed to.
    to: Addr,
    until: Instant,
}

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// This member itself, which wants another certificate.
    Own,
    /// The joiner at the other end of this link, in this session.
    Joiner(FlowId, u32),
    /// A neighbour, for its own number.
    Neighbour(Addr, u64),
}

impl Relays {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.list.values().map(|r| r.until).min()
    }

    /// Forgets what was not answered in time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.list.retain(|_, relay| relay.until > now);
    }

    /// Notes a request, and gives the number that the next member is told. One that is asked again keeps its number:
    /// whichever answer comes first will do, since the issuer says the same each time. `None`: too many wait.
    fn note(&mut self, relay: Relay, most: usize) -> Option<u64> {
        let known = self.list.iter().find(|(_, r)| r.asker == relay.asker);
        let known = known.map(|(id, _)| *id);
        let same = |r: &&Relay| match (r.asker, relay.asker) {
            (Asker::Neighbour(one, _), Asker::Neighbour(other, _)) => one == other,
            (Asker::Joiner(..), Asker::Joiner(..)) | (Asker::Own, Asker::Own) => true,
            (Asker::Neighbour(..) | Asker::Joiner(..) | Asker::Own, _) => false,
        };
        if known.is_none() && self.list.values().filter(same).count() >= most {
            return None;
        }
        let id = known.unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        self.list.insert(id, relay);
        Some(id)
    }

    /// Takes the request that this neighbour answers.
    fn answered(&mut self, id: u64, by: Addr) -> Option<Asker> {
        self.list.get(&id).filter(|r| r.to == by)?;
        self.list.remove(&id).map(|r| r.asker)
    }
}

/// The way to the issuer, and back.
impl Unicast {
    /// Somebody without certificate asks to be let in.
    pub(super) fn enrol_request(
        &mut self,
        now: Now,
        lower: FlowId,
        session: u32,
        request: wire::EnrolRequest,
    ) {
        let link = self.links.get_mut(&lower);
        let Some(exporter) = link.and_then(|l| l.joining(session)).map(|j| j.exporter) else {
            return;
        };
        let relay = wire::EnrolRelay {
            id: 0,
            request: Some(request),
            exporter: exporter.to_vec(),
            hops: 0,
        };
        self.enrol_onward(now, Asker::Joiner(lower, session), relay);
    }

    /// A neighbour hands on the request of a joiner.
    pub(super) fn enrol_relay(&mut self, now: Now, lower: FlowId, relay: wire::EnrolRelay) {
        if let Some(from) = self.links.get(&lower).and_then(Link::up) {
            self.enrol_onward(now, Asker::Neighbour(from, relay.id), relay);
        }
    }

    fn enrol_onward(&mut self, now: Now, asker: Asker, relay: wire::EnrolRelay) {
        let exporter = <[u8; 32]>::try_from(relay.exporter.as_slice());
        let (Some(request), Ok(exporter)) = (&relay.request, exporter) else {
            return self.stats.count("drop.malformed_message");
        };
        let me = self.me.as_ref();
        let issues =
            me.is_some_and(|me| me.has_authority() && request.issuer == me.label().as_str());
        let reply = if issues && !request.certificate.is_empty() {
            self.renewed(now, request)
        } else if issues {
            self.redeem(now, request, &exporter)
        } else {
            match self.hand_on(now, asker, relay) {
                Ok(()) => return,
                Err(reason) => refusal(reason),
            }
        };
        self.enrol_answer(now, asker, reply);
    }

    /// Hands a request to the next member on the way to the issuer.
    pub(super) fn hand_on(
        &mut self,
        now: Now,
        asker: Asker,
        mut relay: wire::EnrolRelay,
    ) -> Result<(), Reason> {
        let Some(me) = &self.me else {
            return Err(self.not_a_member());
        };
        let label = me.label();
        let named = relay.request.as_ref().map_or("", |r| r.issuer.as_str());
        let Ok(issuer) = Label::new(named) else {
            let text = "the request names no issuer; ask for another invitation";
            return Err(Reason::new(Code::Usage, text));
        };
        let address = me.address_of(&issuer);
        if address == me.address {
            let text = format!("{label} no longer issues certificates; ask for another invitation");
            return Err(Reason::new(Code::Denied, text));
        }
        // Back to where it came from: the two do not agree on the way yet.
        let back = |to: &Addr| matches!(asker, Asker::Neighbour(from, _) if from == *to);
        let next = self.path(address).and_then(|path| {
            let to = self.links.get(&path.lower)?.peer()?;
            Some((path.lower, to)).filter(|(_, to)| !back(to) && relay.hops < MAX_HOPS)
        });
        let Some((lower, to)) = next else {
            let text = format!("{label} can't reach the issuer {issuer}; try again when it is up");
            return Err(Reason::new(Code::Unreachable, text));
        };
        let busy = format!("{label} relays too many requests; try again");
        let until = now.mono + RELAY;
        let relays = self.bounds.relays;
        let id = self.relays.note(Relay { asker, to, until }, relays);
        let Some(id) = id else {
            self.stats.count("limit.relays");
            return Err(Reason::new(Code::Busy, busy));
        };
        relay.id = id;
        relay.hops += 1;
        self.stats.count("enrol.relayed");
        #[cfg(any(test, feature = "hostile"))]
        let relay = self.meddler_relays(lower, relay);
        self.tell_link(lower, Body::EnrolRelay(relay));
        Ok(())
    }

    /// A neighbour answers what was handed to it.
    pub(super) fn enrol_relay_reply(
        &mut self,
        now: Now,
        lower: FlowId,
        answer: wire::EnrolRelayReply,
    ) {
        let by = self.links.get(&lower).and_then(Link::peer);
        let asker = by.and_then(|by| self.relays.answered(answer.id, by));
        match (asker, answer.reply) {
            (Some(asker), Some(reply)) => self.enrol_answer(now, asker, reply),
            _ => self.stats.count("drop.unexpected_message"),
        }
    }

    fn enrol_answer(&mut self, now: Now, asker: Asker, reply: wire::EnrolReply) {
        match asker {
            Asker::Own => self.renewal_answered(now, Ok(reply)),
            Asker::Joiner(lower, session) => {
                self.tell_joining(lower, session, Body::EnrolReply(reply));
            }
            Asker::Neighbour(from, id) => {
                let reply = Some(reply);
                let answer = wire::EnrolRelayReply { id, reply };
                // Where the link is gone, the joiner asks again.
                if let Some(lower) = self.adjacent.get(&from).copied() {
                    self.tell_link(lower, Body::EnrolRelayReply(answer));
                }
            }
        }
    }
}

/// The issuer.
impl Unicast {
    /// The issuer's word.
    fn redeem(
        &mut self,
        now: Now,
        request: &wire::EnrolRequest,
        exporter: &[u8; 32],
    ) -> wire::EnrolReply {
        if let Some(locked) = self.me.as_ref().and_then(Member::locked) {
            self.stats.count("enrol.locked");
            // It may be unlocked while the joiner still asks.
            return refusal(Reason::new(Code::Busy, locked.text));
        }
        self.note_members();
        let Some(authority) = self.me.as_mut().and_then(|me| me.authority.as_mut()) else {
            self.stats.count("enrol.refused");
            return refusal(Reason::new(
                Code::Denied,
                format!(
                    "{} issues no certificates; ask for another invitation",
                    self.name
                ),
            ));
        };
        let before = authority.audit().last().cloned();
        match authority.redeem(request, exporter, now.wall) {
            Ok(reply) => {
                // Kept before the answer goes: a use counts once, come what may.
                let bytes = authority.to_bytes();
                self.save("authority", bytes);
                self.audit(before);
                self.stats.count("enrol.issued");
                reply
            }
            Err(reason) => {
                self.stats.count("enrol.refused");
                refusal(reason)
            }
        }
    }
}

impl Unicast {
    /// The issuer's word to a member that asks for another certificate.
    fn renewed(&mut self, now: Now, request: &wire::EnrolRequest) -> wire::EnrolReply {
        let Some(me) = &mut self.me else {
            return refusal(self.not_a_member());
        };
        let Some(authority) = &mut me.authority else {
            return refusal(me.no_authority());
        };
        match authority.renewed(request, me.identity.roots(), now.wall) {
            Ok(reply) => {
                let bytes = authority.to_bytes();
                self.save("authority", bytes);
                self.stats.count("renew.issued");
                reply
            }
            Err(reason) => {
                self.stats.count("renew.refused");
                refusal(reason)
            }
        }
    }
}

impl Unicast {
    /// Each use of an invitation is told, and kept in a file that a person can read.
    fn audit(&mut self, before: Option<Audit>) {
        let authority = self.me.as_ref().and_then(|me| me.authority.as_ref());
        let Some(authority) = authority else { return };
        let last = authority
            .audit()
            .last()
            .filter(|last| before.as_ref() != Some(*last));
        // The same answer once more is no use.
        let Some(last) = last.cloned() else { return };
        let lines: String = authority.audit().map(|one| format!("{one}\n")).collect();
        self.save("audit", Zeroizing::new(lines.into_bytes()));
        let fields = [
            ("member", last.member.to_string()),
            ("invitation", last.invitation()),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), value));
        self.out.push_back(Output::Control(Event::Notice(Notice {
            kind: "invitation.used".to_owned(),
            text: format!(
                "{} was let in by invitation {}",
                last.member,
                last.invitation()
            ),
            fields: fields.into(),
            warning: false,
        })));
    }
}

fn refusal(reason: Reason) -> wire::EnrolReply {
    wire::EnrolReply {
        code: reason.code as u32,
        text: reason.text,
        ..wire::EnrolReply::default()
    }
}

/// How long the issuer is given to answer.
const RELAY: Duration = Duration::from_secs(30);
/// Members that hand a request on at most: one that goes in a circle ends.
const MAX_HOPS: u32 = 64;
