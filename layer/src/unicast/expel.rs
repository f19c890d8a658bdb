//! Who is believed no more: the holder of the authority says it, and every member parts with such a one at once.

use std::collections::{BTreeMap, BTreeSet};

use proto::ipcp::{Answer, AuthorityAct, CommandId, State};
use proto::{Addr, Code, FlowId, Label, Reason};
use zeroize::Zeroizing;

use super::Unicast;
use super::member::Member;
use crate::Now;
use crate::crypt::{Roots, Secrets, TlsConfig};
use crate::decree::{Decrees, Kind, Revocation};

/// The holder of the authority.
impl Unicast {
    pub(super) fn authority_act(&mut self, now: Now, command: CommandId, act: AuthorityAct) {
        let answer = match act {
            AuthorityAct::Revoke(member) => self.revoke(now, &member),
        };
        self.done(command, answer.map(|()| Answer::Ok));
    }

    fn revoke(&mut self, now: Now, member: &Label) -> Result<(), Reason> {
        let Some(me) = &mut self.me else {
            return Err(self.not_a_member());
        };
        if me.label() == member {
            let text = format!(
                "{member} holds the authority that would revoke it; let another member issue first"
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        let refusal = me.no_authority();
        let address = me.address_of(member);
        let seen = me.routing.member(address).map(|cert| *cert.public_key());
        let Some(authority) = &mut me.authority else {
            return Err(refusal);
        };
        let life = authority.cert_life();
        let voice = authority.voice();
        let keys: BTreeSet<[u8; 32]> = seen.into_iter().chain(authority.key_of(member)).collect();
        let before = me.decrees.all(Kind::REVOKED);
        let mut all: Vec<Revocation> = before
            .filter(|decree| decree.signer == voice)
            .filter_map(|decree| Revocation::read(&decree.content))
            .flatten()
            .filter(|r| r.until > now.wall.secs())
            .collect();
        let roots = me.identity.roots();
        let fresh: Vec<_> = keys.iter().filter(|key| !roots.is_revoked(key)).collect();
        if fresh.is_empty() {
            // What is so already needs no second word.
            let known = all.iter().any(|r| r.member == *member);
            let text = format!(
                "no certificate of {member} is known here; see irm layer members {}, or revoke it where it was invited",
                me.layer()
            );
            return known
                .then_some(())
                .ok_or_else(|| Reason::new(Code::NotFound, text));
        }
        all.extend(fresh.into_iter().map(|key| Revocation {
            key: *key,
            member: member.clone(),
            at: now.wall.secs(),
            until: now.wall.secs() + 2 * life.as_secs(),
        }));
        authority.release(member);
        let bytes = authority.to_bytes();
        self.save("authority", bytes);
        self.publish_decree(now, Kind::REVOKED, Revocation::write(&all))
            .map(drop)
    }
}

/// Every member.
impl Unicast {
    /// Other decrees say now whom to believe: whoever is out is parted with.
    pub(super) fn trust_changed(&mut self, now: Now) {
        let Some(me) = &mut self.me else { return };
        let before = me.identity.roots().clone();
        let after = trusted(before.clone(), &me.decrees);
        let revoked = revocations(&me.decrees);
        let is_new = |r: &&Revocation| !before.is_revoked(&r.key);
        let gone: BTreeMap<Addr, Label> = revoked
            .iter()
            .filter(is_new)
            .map(|r| (me.address_of(&r.member), r.member.clone()))
            .collect();
        me.identity.set_roots(after);
        if me.is_revoked() {
            return self.expelled(now);
        }
        if let Err(reason) = me.trust_anew(&self.clock) {
            return self.state(State::Down, &reason.text);
        }
        let roots = me.identity.roots();
        let expelled = me
            .routing
            .lsdb
            .expel(now.mono, |cert| roots.is_revoked(cert.public_key()));
        for (address, member) in &gone {
            self.part_with_revoked(now, *address, member);
        }
        if expelled {
            self.links_changed(now);
            self.flows_rerouted(now);
            // Somebody else of that name may be in already: its records were refused as older than those that are gone.
            let links: Vec<FlowId> = self.adjacent.values().copied().collect();
            for lower in links {
                self.say_digest(now, lower);
            }
        }
    }

    /// Ends everything with a member: what was agreed with its key is void, whoever has its name now.
    fn part_with_revoked(&mut self, now: Now, address: Addr, member: &Label) {
        self.stats.count("member.revoked");
        if let Some(me) = &mut self.me {
            me.dir.expel(now.mono, address);
        }
        let text = format!("member {member} was revoked");
        let reason = Reason::new(Code::Denied, text.clone());
        for endpoint in self.flows.with(address) {
            self.flow_down(endpoint, reason.clone());
        }
        self.peer_silent(now, address, &reason);
        self.flows.incoming.retain(|_, i| i.peer != address);
        self.flows.closing.retain(|(peer, _), _| *peer != address);
        let links = self.links.values();
        let links = links.filter(|l| l.peer() == Some(address));
        let links: Vec<FlowId> = links.map(|l| l.lower).collect();
        for lower in links {
            // It learns why: the decree waits in the channel.
            self.pump_link_channel(now, lower);
            self.link_failed(now, lower, reason.clone());
        }
        self.peers.remove(&address);
        self.notice("member.revoked", text, member.as_str(), false);
    }

    /// This member is out. It keeps nothing but the reason, so that it can be enrolled anew.
    fn expelled(&mut self, now: Now) {
        let Some(me) = &self.me else { return };
        let text = format!(
            "{} was revoked from {}; enroll it anew with another invitation",
            me.label(),
            me.layer()
        );
        let reason = Reason::new(Code::Denied, text.clone());
        for endpoint in self.flows.all() {
            self.flow_down(endpoint, reason.clone());
        }
        let pending: Vec<_> = self.flows.outgoing.keys().copied().collect();
        for endpoint in pending {
            self.allocation_failed(endpoint, reason.clone());
        }
        self.flows.incoming.clear();
        let links: Vec<FlowId> = self.links.keys().copied().collect();
        for lower in links {
            self.link_failed(now, lower, reason.clone());
        }
        self.peers.clear();
        self.adjacent.clear();
        self.me = None;
        self.join = None;
        for file in ["identity", "neighbours", "decrees"] {
            self.forget_file(file);
        }
        self.save(NOTE, Zeroizing::new(text.clone().into_bytes()));
        self.rewant(now);
        let name = self.name.to_string();
        self.notice("member.revoked", text.clone(), &name, true);
        self.state(State::Down, &text);
    }

    /// Whether a handshake that began before was with a member that is believed no more.
    pub(super) fn is_out(&self, secrets: &Secrets) -> bool {
        let roots = self.me.as_ref().map(|me| me.identity.roots());
        let key = secrets.peer().map(|cert| cert.public_key());
        roots
            .zip(key)
            .is_some_and(|(roots, key)| roots.is_revoked(key))
    }

    /// Why this process has no certificate any more, if it had one that was revoked.
    pub(super) fn was_revoked(&self) -> Option<Reason> {
        let text = std::str::from_utf8(self.file(NOTE)?).ok()?;
        Some(Reason::new(Code::Denied, text.to_owned()))
    }

    /// It is a member again.
    pub(super) fn forgive(&mut self) {
        if self.file(NOTE).is_some() {
            self.forget_file(NOTE);
        }
    }
}

impl Member {
    /// Whether this member's own key is believed no more.
    fn is_revoked(&self) -> bool {
        let roots = self.identity.roots();
        roots.is_revoked(self.identity.cert().public_key())
    }

    /// Handshakes from now on believe as the decrees say.
    fn trust_anew(&mut self, clock: &crate::crypt::Clock) -> Result<(), Reason> {
        self.tls = TlsConfig::member(&self.identity, clock)?;
        Ok(())
    }
}

/// Whom to believe, after all that the authority has said.
pub(super) fn trusted(roots: Roots, decrees: &Decrees) -> Roots {
    let keys = revocations(decrees).into_iter().map(|r| r.key);
    roots.without(keys.collect())
}

fn revocations(decrees: &Decrees) -> Vec<Revocation> {
    let all = decrees.all(Kind::REVOKED);
    all.filter_map(|decree| Revocation::read(&decree.content))
        .flatten()
        .collect()
}

/// Holds the reason why this process is no member any more.
const NOTE: &str = "revoked";
