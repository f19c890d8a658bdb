//! Who is believed no more: the holder of the authority says it, and every member parts with such a one at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::ipcp::{Answer, AuthorityAct, CommandId, State};
use proto::{Addr, Code, FlowId, Label, Reason};
use zeroize::Zeroizing;

use super::Unicast;
use super::member::Member;
use crate::Now;
use crate::crypt::{CertError, MemberCert, Roots, Secrets, TlsConfig, issuer_key, issuer_name};
use crate::decree::{Decrees, Kind, Revocation, Trust};

/// The holder of the authority.
impl Unicast {
    pub(super) fn authority_act(&mut self, now: Now, command: CommandId, act: AuthorityAct) {
        let ok = |()| Answer::Ok;
        let answer = match act {
            AuthorityAct::Revoke(member) => self.revoke(now, &member).map(ok),
            AuthorityAct::Delegate(member, prefixes) => {
                self.delegate(now, &member, &prefixes).map(ok)
            }
            AuthorityAct::Undelegate(member) => self.undelegate(now, &member).map(ok),
            AuthorityAct::Export(passphrase) => self
                .export(&Zeroizing::new(passphrase))
                .map(Answer::Exported),
            AuthorityAct::Import {
                file,
                passphrase,
                sealed,
            } => {
                let passphrase = Zeroizing::new(passphrase);
                let imported = self.import(now, &file, &passphrase, sealed);
                imported.map(ok)
            }
            AuthorityAct::Rollover(rollover) => self.rollover(now, rollover).map(ok),
            AuthorityAct::Seal(passphrase) => {
                let passphrase = passphrase.map(Zeroizing::new);
                self.seal(passphrase.as_ref().map(|p| p.as_slice())).map(ok)
            }
            AuthorityAct::Unlock(passphrase) => self.unlock(&Zeroizing::new(passphrase)).map(ok),
            AuthorityAct::Lock => self.lock().map(ok),
            AuthorityAct::Policy(text) => self.set_policy(now, &text).map(ok),
        };
        self.done(command, answer);
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
        let refusal = match me.is_of_a_site() {
            true => no_decrees(me.layer(), member),
            false => me.no_authority(),
        };
        let above = protected(&me.trust()).contains(member);
        let address = me.address_of(member);
        let seen = me.routing.member(address).map(|cert| *cert.public_key());
        let Some(authority) = &mut me.authority else {
            return Err(refusal);
        };
        if above && !authority.is_root() {
            let text = format!("{member} issues certificates itself; only the root revokes it");
            return Err(Reason::new(Code::Denied, text));
        }
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
        let fresh: Vec<_> = keys
            .iter()
            .filter(|key| !roots.is_revoked(key, member))
            .collect();
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
        let Some(me) = &self.me else { return };
        let before = me.identity.roots().clone();
        let after = trusted(before.clone(), &me.decrees);
        self.believe(now, &before, &after);
    }

    /// Other roots are believed than before.
    pub(super) fn believe(&mut self, now: Now, before: &Roots, after: &Roots) {
        let Some(me) = &mut self.me else { return };
        let revoked = revocations(&me.decrees);
        let is_new = |r: &&Revocation| !before.is_revoked(&r.key, &r.member);
        let mut gone: BTreeMap<Addr, (Label, &str)> = revoked
            .iter()
            .filter(is_new)
            .map(|r| (me.address_of(&r.member), (r.member.clone(), REVOKED)))
            .collect();
        me.identity.set_roots(after.clone());
        let narrowed = before.lost_any(after);
        if narrowed {
            me.narrowed = Some(now.mono);
        }
        if let Some(why) = me.why_out(now, narrowed) {
            return self.expelled(now, why);
        }
        if let Err(reason) = me.trust_anew(&self.clock) {
            return self.state(State::Down, &reason.text);
        }
        self.notice_roots(before, after);
        self.issue_as_told();
        let Some(me) = &mut self.me else { return };
        let roots = me.identity.roots();
        let out = |cert: &MemberCert| {
            cert.is_revoked(roots) || narrowed && cert.is_foreign(&[], roots, now.wall)
        };
        // What somebody has shown once may be older than what it has now.
        let renewed = |cert: &MemberCert| {
            let newest = me.routing.member(cert.address());
            newest.is_some_and(|c| c.public_key() == cert.public_key() && !out(c))
        };
        // Those whose issuer is out are out with it.
        let certs = self.peers.values().filter_map(|peer| peer.cert.as_ref());
        for cert in certs.filter(|cert| out(cert) && !renewed(cert)) {
            let why = match cert.is_revoked(roots) {
                true => REVOKED,
                false => "has no certificate of the root that is believed now",
            };
            let entry = (cert.member().clone(), why);
            gone.entry(cert.address()).or_insert(entry);
        }
        let expelled = me.routing.lsdb.expel(now.mono, out);
        for (address, (member, why)) in &gone {
            self.part_with_revoked(now, *address, member, why);
        }
        if expelled {
            self.members_changed();
            self.links_changed(now);
            self.flows_rerouted(now);
            // Somebody else of that name may be in already: its records were refused as older than those that are gone.
            let links: Vec<FlowId> = self.adjacent.values().copied().collect();
            for lower in links {
                self.say_digest(now, lower);
            }
        }
        if after.lost_any(before) {
            if let Some(me) = &mut self.me {
                me.renewal.look_again();
            }
            self.tick_renewal(now);
        }
    }

    /// Ends everything with a member: what was agreed with its key is void, whoever has its name now.
    pub(super) fn part_with_revoked(&mut self, now: Now, address: Addr, member: &Label, why: &str) {
        self.stats.count("member.revoked");
        if let Some(me) = &mut self.me {
            me.dir.expel(now.mono, address);
        }
        let text = format!("member {member} {why}");
        let reason = Reason::new(Code::Denied, text.clone());
        for endpoint in self.flows.with(address) {
            self.flow_down(now, endpoint, reason.clone());
        }
        self.peer_silent(now, address, &reason);
        self.flows.incoming.forget(address, |_| true);
        self.flows.closing.forget(address);
        let links = self.links.values();
        // Also one that would be an adjacency a moment later.
        let links = links.filter(|l| l.is_with(address));
        let links: Vec<FlowId> = links.map(|l| l.lower).collect();
        for lower in links {
            // It learns why: the decree waits in the channel.
            self.pump_link_channel(now, lower);
            self.link_failed(now, lower, reason.clone());
        }
        self.peers.remove(&address);
        self.free_name(member);
        self.notice("member.revoked", text, member.as_str(), false);
    }

    /// Where another that issues has revoked a member, its name can be given again here too.
    fn free_name(&mut self, member: &Label) {
        let Some(me) = &mut self.me else { return };
        let Some(authority) = &mut me.authority else {
            return;
        };
        let key = authority.key_of(member);
        if key.is_some_and(|key| me.identity.roots().is_revoked(&key, member)) {
            authority.release(member);
            let bytes = authority.to_bytes();
            self.save("authority", bytes);
        }
    }

    /// This member is out. It keeps nothing but the reason, so that it can be enrolled anew.
    fn expelled(&mut self, now: Now, text: String) {
        let reason = Reason::new(Code::Denied, text.clone());
        for endpoint in self.flows.all() {
            self.flow_down(now, endpoint, reason.clone());
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
        for file in ["identity", "neighbours", "decrees", super::shortcut::FILE] {
            self.forget_file(file);
        }
        self.save(NOTE, Zeroizing::new(text.clone().into_bytes()));
        self.rewant(now);
        let name = self.name.to_string();
        self.notice("member.revoked", text.clone(), &name, true);
        self.state(State::Down, &text);
    }

    /// Whether a handshake that began before was with a member that is believed no more.
    pub(super) fn is_out(&self, now: Now, secrets: &Secrets) -> bool {
        let roots = self.me.as_ref().map(|me| me.identity.roots());
        let both = roots.zip(secrets.peer());
        let narrowed = self.me.as_ref().and_then(|me| me.narrowed);
        let narrowed = narrowed.is_some_and(|at| now.mono < at + HANDSHAKE);
        both.is_some_and(|(roots, cert)| {
            self.is_double(cert)
                || cert.is_revoked(roots)
                || narrowed && cert.is_foreign(&[], roots, now.wall)
        })
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
    /// Why this member itself is believed no more.
    fn why_out(&self, now: Now, narrowed: bool) -> Option<String> {
        let why = match self.identity.check_own(now.wall) {
            Err(CertError::Revoked { .. }) => "was revoked from",
            Err(CertError::UnknownAuthority) if narrowed => {
                "didn't renew its certificate before the root was changed and is out of"
            }
            Ok(()) | Err(_) => return None,
        };
        Some(format!(
            "{} {why} {}; enroll it anew with another invitation",
            self.label(),
            self.layer()
        ))
    }

    /// Handshakes from now on believe as the decrees say.
    pub(super) fn trust_anew(&mut self, clock: &crate::crypt::Clock) -> Result<(), Reason> {
        self.tls = TlsConfig::member(&self.identity, clock)?;
        Ok(())
    }
}

/// Nobody signs decrees in a layer of a site's own PKI.
fn no_decrees(layer: &Label, member: &Label) -> Reason {
    let text = format!(
        "nothing in {layer} revokes a certificate of the site's own PKI: give {member} no other, and it is out when its last one ends; to have it out at once, enroll the others again with --ca, --cert and --key of another CA"
    );
    Reason::new(Code::Denied, text)
}

/// Whom to believe, after all that the authority has said.
pub(super) fn trusted(roots: Roots, decrees: &Decrees) -> Roots {
    let trust = decrees.current(Kind::TRUST);
    let trust = trust.and_then(|decree| Trust::read(&decree.content));
    let roots = trust.and_then(|trust| trust.roots().ok()).unwrap_or(roots);
    roots.without(revocations(decrees).into_iter().map(|r| (r.key, r.member)))
}

/// What a member that issues has revoked counts, but of those above it and beside it.
pub(super) fn revocations(decrees: &Decrees) -> Vec<Revocation> {
    let trust = decrees.current(Kind::TRUST);
    let trust = trust.and_then(|decree| Trust::read(&decree.content));
    let trust = trust.unwrap_or_default();
    let issuers = trust.issuers.iter().filter_map(|der| issuer_key(der));
    let (issuers, protected) = (issuers.collect::<BTreeSet<_>>(), protected(&trust));
    let mut all = Vec::new();
    for decree in decrees.all(Kind::REVOKED) {
        let mut said = Revocation::read(&decree.content).unwrap_or_default();
        if issuers.contains(&decree.signer) {
            said.retain(|r| !protected.contains(&r.member));
        }
        all.extend(said);
    }
    all
}

/// The members that only a root revokes.
fn protected(trust: &Trust) -> BTreeSet<Label> {
    let issuers = trust.issuers.iter().filter_map(|der| issuer_name(der));
    issuers.chain(trust.holder.clone()).collect()
}

/// Holds the reason why this process is no member any more.
const NOTE: &str = "revoked";
const REVOKED: &str = "was revoked";
/// No handshake takes longer.
const HANDSHAKE: Duration = Duration::from_secs(60);
