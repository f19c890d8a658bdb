//! Members that issue: a root lets them, and every member hears of it.

use ipnet::IpNet;
use proto::{Code, Label, Reason, irm};

use super::Unicast;
use super::member::Member;
use crate::Now;
use crate::crypt::{Authority, Voice, issuer_key, issuer_name, root_facts};
use crate::decree::{Kind, MAX_ISSUERS, Trust};

/// The holder of the root's key.
impl Unicast {
    pub(super) fn delegate(
        &mut self,
        now: Now,
        member: &Label,
        prefixes: &[IpNet],
    ) -> Result<(), Reason> {
        let (me, authority) = self.root_holder()?;
        if me.label() == member {
            return Ok(());
        }
        let cert = me.routing.member(me.address_of(member));
        let cert = cert.filter(|cert| cert.member() == member);
        let cert = cert.ok_or_else(|| me.unknown(member))?;
        let made = authority.delegate(cert, prefixes, now.wall)?;
        let mut trust = me.trust();
        let key = issuer_key(&made);
        trust.retired.retain(|(retired, _)| Some(*retired) != key);
        trust.issuers.retain(|der| issuer_key(der) != key);
        if trust.issuers.len() >= MAX_ISSUERS {
            let text = format!("{MAX_ISSUERS} members issue already; undelegate one first");
            return Err(Reason::new(Code::Busy, text));
        }
        trust.issuers.push(made);
        if !trust.parts.iter().any(|(of, _)| of == member) {
            let part = authority.part(&trust.parts, now.wall);
            if !part.is_empty() {
                trust.parts.push((member.clone(), part));
            }
        }
        self.publish_decree(now, Kind::TRUST, trust.write())
            .map(drop)
    }

    pub(super) fn undelegate(&mut self, now: Now, member: &Label) -> Result<(), Reason> {
        let (me, authority) = self.root_holder()?;
        let mut trust = me.trust();
        let is = |der: &[u8]| issuer_name(der).as_ref() == Some(member);
        let gone: Vec<_> = trust.issuers.iter().filter(|der| is(der)).collect();
        let gone: Vec<[u8; 32]> = gone.into_iter().filter_map(|der| issuer_key(der)).collect();
        if gone.is_empty() {
            // One that never issued, or does no longer, is as it was wanted.
            return Ok(());
        }
        // What it has issued lives no longer than that; its holders renew elsewhere in time.
        let until = now.wall.secs() + authority.cert_life().as_secs();
        trust.issuers.retain(|der| !is(der));
        trust.retired.retain(|(_, until)| now.wall.secs() < *until);
        trust
            .retired
            .extend(gone.into_iter().map(|key| (key, until)));
        self.publish_decree(now, Kind::TRUST, trust.write())
            .map(drop)
    }

    /// The root's key with its ledger, under a passphrase.
    pub(super) fn export(&self, passphrase: &[u8]) -> Result<Vec<u8>, Reason> {
        let (_, authority) = self.root_holder()?;
        authority.export(passphrase)
    }

    /// Holds the root's key from now on, and says so.
    pub(super) fn import(
        &mut self,
        now: Now,
        file: &[u8],
        passphrase: &[u8],
        sealed: bool,
    ) -> Result<(), Reason> {
        let Some(me) = &mut self.me else {
            return Err(self.not_a_member());
        };
        let mut authority = Authority::import(file, passphrase)?;
        let known = me.identity.roots().voice(&authority.voice());
        if authority.layer() != me.layer() || !known.is_some_and(Voice::is_root) {
            let text = format!(
                "this is not the authority of {} that its members trust",
                me.layer()
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        if me
            .trust()
            .roots
            .first()
            .is_some_and(|der| der != authority.own_cert())
        {
            let text = "this is the authority as it was before the root was changed; export it anew where it is held";
            return Err(Reason::new(Code::Conflict, text));
        }
        if sealed {
            authority.seal(Some(passphrase))?;
        }
        // What this member has given away as one that issued stays given.
        if let Some(before) = me.authority.take() {
            authority.join(before);
        }
        let bytes = authority.to_bytes();
        me.sealed = None;
        me.authority = Some(authority);
        me.issuer = Some(me.label().clone());
        let trust = Trust {
            holder: Some(me.label().clone()),
            holder_key: Some(*me.identity.cert().public_key()),
            ..me.trust()
        };
        self.save("authority", bytes);
        self.save_neighbours();
        self.note_members();
        if self.current_decree(Kind::TRUST) == Some(&trust.write()) {
            return Ok(());
        }
        self.publish_decree(now, Kind::TRUST, trust.write())
            .map(drop)
    }

    pub(super) fn root_holder(&self) -> Result<(&Member, &Authority), Reason> {
        let me = self.me.as_ref().ok_or_else(|| self.not_a_member())?;
        let authority = me.authority.as_ref();
        let authority = authority.filter(|authority| authority.is_root());
        Ok((me, authority.ok_or_else(|| me.no_authority())?))
    }
}

/// A member that is named or no longer.
impl Unicast {
    /// Begins or ends to issue, as the root says.
    pub(super) fn issue_as_told(&mut self) {
        let Some(me) = &mut self.me else { return };
        if me.sealed.is_some() {
            return;
        }
        let (trust, name) = (me.trust(), me.label().clone());
        if let Some(authority) = &mut me.authority {
            authority.show_beside(&trust);
            authority.share_pools(&name, &trust.parts);
            if authority.is_root() {
                return;
            }
        }
        let own = |der: &&Vec<u8>| issuer_name(der).as_ref() == Some(me.label());
        let named = trust.issuers.iter().find(own);
        match (named, &me.authority) {
            (Some(der), authority) if authority.as_ref().is_none_or(|a| a.own_cert() != der) => {
                let root = trust.roots.first().map_or(&[][..], Vec::as_slice);
                let made = Authority::delegated(&me.identity, der, root, trust.cert_life);
                // Another member of that name, with another key, was meant.
                let Ok(mut authority) = made else { return };
                if let Some(before) = me.authority.take() {
                    authority.inherit(before);
                }
                authority.show_beside(&trust);
                authority.share_pools(&name, &trust.parts);
                let bytes = authority.to_bytes();
                me.authority = Some(authority);
                self.save("authority", bytes);
                let name = self.name.to_string();
                let text = "this member may issue certificates and invite".to_owned();
                self.notice("issuer.named", text, &name, false);
            }
            (None, Some(_)) => {
                me.authority = None;
                self.forget_file("authority");
                let name = self.name.to_string();
                let text = "this member issues certificates no longer".to_owned();
                self.notice("issuer.retired", text, &name, false);
            }
            (Some(_), _) | (None, None) => {}
        }
    }

    /// Brings what is known of other members into the ledger, and what others issue from, so that nothing is given twice.
    pub(super) fn note_members(&mut self) {
        let Some(me) = &mut self.me else { return };
        let parts = me.trust().parts;
        let own = me.label().clone();
        if let Some(authority) = &mut me.authority {
            authority.share_pools(&own, &parts);
            let others = me.routing.lsdb.members();
            others.for_each(|cert| authority.note(cert));
        }
    }
}

/// What people see of it.
impl Unicast {
    pub(super) fn status_trust(&self, now: Now) -> Option<irm::LayerTrust> {
        let me = self.me.as_ref()?;
        let trust = me.trust();
        let roots = trust.roots.iter().enumerate();
        let roots: Vec<irm::Root> = roots
            .filter_map(|(i, der)| {
                let (fingerprint, expires) = root_facts(der)?;
                Some(irm::Root {
                    fingerprint,
                    expires: expires.secs(),
                    ends: i > 0,
                })
            })
            .collect();
        if roots.is_empty() {
            return None;
        }
        let issuers = trust.issuers.iter().filter_map(|der| issuer_name(der));
        let waiting = match self.root_holder() {
            Ok(_) => self.waiting(now),
            Err(_) => Vec::new(),
        };
        let word = |a: &Authority| if a.is_root() { "root" } else { "issuer" };
        let pools = me.authority.iter().flat_map(Authority::pools);
        let held = me.authority.as_ref().map(word);
        let held = held.or_else(|| me.sealed.as_ref().map(|_| "root"));
        Some(irm::LayerTrust {
            holder: trust.holder.iter().map(Label::to_string).collect(),
            issuers: issuers.map(|member| member.to_string()).collect(),
            cert_life_s: trust.cert_life.map_or(0, |life| life.as_secs()),
            roots,
            until: trust.until.unwrap_or_default(),
            waiting: waiting.iter().map(Label::to_string).collect(),
            held: held.unwrap_or_default().to_owned(),
            key: me.key_word().to_owned(),
            own_ends: me.identity.is_of_old_root(now.wall),
            pools: pools.map(IpNet::to_string).collect(),
        })
    }
}

impl Member {
    /// Whom the layer believes, as was decreed last.
    pub(super) fn trust(&self) -> Trust {
        let decree = self.decrees.current(Kind::TRUST);
        decree
            .and_then(|decree| Trust::read(&decree.content))
            .unwrap_or_default()
    }

    fn unknown(&self, member: &Label) -> Reason {
        let text = format!(
            "no member {member} is in {0} now; see irm layer members {0}",
            self.layer()
        );
        Reason::new(Code::NotFound, text)
    }
}
