//! Who this process is: its identity, the layer's authority if it holds it, and what it keeps on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proto::ipcp::{Answer, Bootstrap, CommandId, Configured, Enroll, Entry, Invite, State};
use proto::{Addr, Code, Label, Name, Reason};
use rand_core::RngCore;
use zeroize::Zeroizing;

use super::Unicast;
use super::expel::trusted;
use super::law::Law;
use super::renew::Renewal;
use super::routing::Routing;
use crate::crypt::{Authority, Identity, Kept, Sealed, TlsConfig, address, name_hash};
use crate::decree::{Decrees, Share};
use crate::dir::{Directory, NameHash};
use crate::{Now, Output};

/// A member of a layer.
pub(super) struct Member {
    pub(super) identity: Identity,
    pub(super) tls: TlsConfig,
    pub(super) authority: Option<Authority>,
    /// The same while it is locked.
    pub(super) sealed: Option<Sealed>,
    pub(super) address: Addr,
    /// The lower layers.
    pub(super) over: Vec<Label>,
    /// Neighbours to which an adjacency is kept.
    pub(super) kept: BTreeSet<Label>,
    /// Who issues invitations, as far as is known.
    pub(super) issuer: Option<Label>,
    pub(super) routing: Routing,
    /// What the authority has said to all.
    pub(super) decrees: Decrees,
    pub(super) renewal: Renewal,
    /// When a root was believed no more that was before.
    pub(super) narrowed: Option<Instant>,
    /// How many of each neighbour's were checked.
    pub(super) shares: BTreeMap<Addr, Share>,
    pub(super) dir: Directory,
    pub(super) law: Law,
    names: BTreeMap<[u8; 32], Name>,
}

impl Member {
    pub(super) fn layer(&self) -> &Label {
        self.identity.layer()
    }

    pub(super) fn label(&self) -> &Label {
        self.identity.member()
    }

    pub(super) fn address_of(&self, member: &Label) -> Addr {
        address(self.layer(), member)
    }

    pub(super) fn hash(&self, name: &Name) -> [u8; 32] {
        name_hash(self.layer(), name)
    }

    pub(super) fn name(&self, hash: &NameHash) -> Option<&Name> {
        self.names.get(hash)
    }

    pub(super) fn has_name(&self, name: &Name) -> bool {
        self.names.contains_key(&self.hash(name))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.values()
    }

    /// Whether its certificate is one of a site's own PKI: nobody here renews it, and no decree of the layer says anything.
    pub(super) fn is_of_a_site(&self) -> bool {
        self.issuer.is_none() && !self.has_authority()
    }

    /// Why this member can't do what only the holder of the authority can.
    pub(super) fn no_authority(&self) -> Reason {
        if let Some(locked) = self.locked() {
            return locked;
        }
        let who = self.issuer.as_ref().map_or_else(
            || "the site's own PKI".to_owned(),
            |i| format!("member {i}"),
        );
        let text = format!(
            "{} can't do that in {}: {who} is its authority; ask there",
            self.label(),
            self.layer()
        );
        Reason::new(Code::Denied, text)
    }

    pub(super) fn configured(&self) -> Configured {
        Configured {
            layer: self.layer().clone(),
            member: Some(self.label().clone()),
            prefixes: self.identity.cert().prefixes().to_vec(),
            address: self.address.0,
        }
    }
}

/// Becoming a member.
impl Unicast {
    pub(super) fn bootstrap(&mut self, now: Now, command: CommandId, ask: Bootstrap) {
        let answer = self.bootstrapped(now, ask);
        self.done(command, answer.map(Answer::Configured));
    }

    fn bootstrapped(&mut self, now: Now, ask: Bootstrap) -> Result<Configured, Reason> {
        let conflict = |text: String| Err(Reason::new(Code::Conflict, text));
        if let Some(join) = &self.join {
            return conflict(format!(
                "{} is joining {}; destroy it first",
                self.name,
                join.layer()
            ));
        }
        if let Some(me) = &self.me {
            if *me.layer() != ask.layer {
                return conflict(format!(
                    "{} is a member of {} already; destroy it first",
                    self.name,
                    me.layer()
                ));
            }
            let other = ask
                .prefixes
                .iter()
                .any(|p| !me.identity.cert().prefixes().contains(&p.trunc()));
            if other {
                return conflict(format!(
                    "{} serves {} with other prefixes; destroy it first",
                    self.name, ask.layer
                ));
            }
            self.set_over(now, ask.over);
            return Ok(self.configured());
        }
        let (kept, identity) = match self.known_identity(&ask.layer)? {
            Some(identity) => match self.known_authority(&ask.layer)? {
                Some(kept) => (kept, identity),
                None => {
                    return conflict(format!(
                        "{} has joined {} before and is not its first member; enroll it",
                        self.name, ask.layer
                    ));
                }
            },
            None => {
                let (mut authority, identity) = Authority::create_for(
                    &ask.layer,
                    &self.name,
                    &ask.prefixes,
                    ask.pools.as_deref(),
                    ask.cert_life,
                    now.wall,
                )?;
                if ask.passphrase.is_some() {
                    authority.seal(ask.passphrase.as_deref())?;
                }
                self.save("authority", authority.to_bytes());
                self.save("identity", identity.to_bytes());
                (Kept::Open(Box::new(authority)), identity)
            }
        };
        self.become_member(now, identity, Some(kept), ask.over)?;
        if self.me.as_ref().is_some_and(|me| me.sealed.is_none()) {
            self.publish_trust(now)?;
        }
        self.state(State::Up, "");
        Ok(self.configured())
    }

    pub(super) fn enroll(&mut self, now: Now, command: CommandId, ask: Enroll) {
        let begun = match &ask.entry {
            Entry::Rejoin => self.rejoin(now, &ask).map(Some),
            Entry::Invitation(url) => self.join_invited(now, command, url, &ask),
            Entry::Certificate {
                layer,
                dst,
                ca,
                cert,
                key,
            } => match Identity::from_pki(layer, &self.name, ca, cert, key, now.wall) {
                Ok(identity) => self.join_certified(now, command, identity, dst.clone(), &ask),
                Err(reason) => Err(reason),
            },
        };
        match begun {
            // The answer comes when the member is in, or its time is over.
            Ok(None) => {}
            Ok(Some(configured)) => self.done(command, Ok(Answer::Configured(configured))),
            Err(reason) => self.done(command, Err(reason)),
        }
    }

    fn rejoin(&mut self, now: Now, ask: &Enroll) -> Result<Configured, Reason> {
        if self.me.is_some() {
            self.set_over(now, ask.over.clone());
        } else {
            let Some(identity) = self.identity_file()? else {
                let text = format!(
                    "{} has no certificate from before; enroll it with an invitation",
                    self.name
                );
                let none = || Reason::new(Code::NotFound, text);
                return Err(self.was_revoked().unwrap_or_else(none));
            };
            let layer = identity.layer().clone();
            let authority = self.known_authority(&layer)?;
            self.become_member(now, identity, authority, ask.over.clone())?;
            let alone = self
                .me
                .as_ref()
                .is_none_or(|me| me.kept.is_empty() || me.has_authority());
            if alone {
                self.state(State::Up, "")
            } else {
                self.state(State::Enrolling, "dialling its neighbours")
            }
        }
        Ok(self.configured())
    }

    /// The lower layers from now on; none: as before. Which a host has is for irmd to say.
    pub(super) fn set_over(&mut self, now: Now, over: Vec<Label>) {
        if let Some(me) = self
            .me
            .as_mut()
            .filter(|me| !over.is_empty() && me.over != over)
        {
            me.over = over;
            self.rewant(now);
        }
    }

    /// Takes an identity into use.
    pub(super) fn become_member(
        &mut self,
        now: Now,
        mut identity: Identity,
        kept_authority: Option<Kept>,
        over: Vec<Label>,
    ) -> Result<(), Reason> {
        let decrees = self.known_decrees(identity.layer())?;
        identity.set_roots(trusted(identity.roots().clone(), &decrees));
        let tls = TlsConfig::member(&identity, &self.clock)?;
        let (kept, issuer) = self.known_neighbours()?;
        let incarnation = self.next_incarnation()?;
        let address = identity.address();
        #[cfg_attr(
            not(any(test, feature = "sim")),
            expect(unused_mut, reason = "nobody shares records outside of the simulator")
        )]
        let mut routing = Routing::new(&identity, incarnation);
        #[cfg(any(test, feature = "sim"))]
        if let Some(pool) = &self.pool {
            routing.lsdb.share(pool.clone());
        }
        let law = Law::of(&decrees);
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let dir = Directory::new(address, seed);
        let issuer = if kept_authority.is_some() {
            Some(identity.member().clone())
        } else {
            issuer
        };
        let mut me = Member {
            identity,
            tls,
            authority: None,
            sealed: None,
            address,
            over,
            kept,
            issuer,
            routing,
            decrees,
            renewal: Renewal::default(),
            narrowed: None,
            shares: BTreeMap::new(),
            dir,
            law,
            names: BTreeMap::new(),
        };
        me.hold(kept_authority);
        self.me = Some(me);
        self.recall_shortcuts();
        self.forgive();
        self.tick_renewal(now);
        self.rewant(now);
        self.links_changed(now);
        Ok(())
    }

    fn configured(&self) -> Configured {
        let none = || Configured {
            layer: self.name.clone(),
            member: None,
            prefixes: Vec::new(),
            address: 0,
        };
        self.me.as_ref().map_or_else(none, Member::configured)
    }

    pub(super) fn not_a_member(&self) -> Reason {
        Reason::new(
            Code::Failed,
            format!(
                "{} is no member of a layer yet; bootstrap or enroll it first",
                self.name
            ),
        )
    }
}

/// Names and invitations.
impl Unicast {
    pub(super) fn register(&mut self, now: Now, command: CommandId, name: Name, wanted: bool) {
        let Some(me) = &mut self.me else {
            let reason = self.not_a_member();
            return self.done(command, Err(reason));
        };
        let (hash, most) = (me.hash(&name), self.bounds.names);
        if wanted && me.names.len() >= most && !me.names.contains_key(&hash) {
            let text = format!(
                "{most} names are registered at {} already; unregister one first",
                me.label()
            );
            self.stats.count("limit.names");
            return self.done(command, Err(Reason::new(Code::Busy, text)));
        }
        if wanted && let Err(reason) = me.judge_server(&name, me.address) {
            return self.done(command, Err(reason));
        }
        let changed = if wanted {
            me.names.insert(hash, name).is_none()
        } else {
            me.names.remove(&hash).is_some()
        };
        if changed {
            self.serve(now, hash, wanted);
        }
        self.done(command, Ok(Answer::Ok));
    }

    pub(super) fn invite(&mut self, now: Now, command: CommandId, ask: &Invite) {
        let answer = self.invited(now, ask);
        self.done(command, answer.map(Answer::Invitation));
    }

    fn invited(&mut self, now: Now, ask: &Invite) -> Result<String, Reason> {
        self.note_members();
        let neighbours: Vec<Addr> = self.adjacent.keys().copied().collect();
        let neighbours = neighbours
            .into_iter()
            .filter_map(|a| Label::new(self.member_name(a)).ok());
        let neighbours: Vec<Label> = neighbours.take(MAX_VIAS).collect();
        let Some(me) = &mut self.me else {
            return Err(self.not_a_member());
        };
        let label = me.identity.member().clone();
        let members: Vec<Label> = std::iter::once(label.clone()).chain(neighbours).collect();
        let Some(authority) = &mut me.authority else {
            return Err(me.no_authority());
        };
        let url = authority.invite(ask, &label, &members, now.wall)?;
        let bytes = authority.to_bytes();
        self.save("authority", bytes);
        Ok(url)
    }
}

/// Files.
impl Unicast {
    /// Keeps a file. None is ever empty: one that is found so was cut.
    pub(super) fn save(&mut self, file: &'static str, bytes: Zeroizing<Vec<u8>>) {
        self.files.insert(file.to_owned(), bytes.clone());
        self.out.push_back(Output::Save(file, bytes));
    }

    /// Keeps a file no longer.
    pub(super) fn forget_file(&mut self, file: &'static str) {
        self.files.remove(file);
        self.out
            .push_back(Output::Save(file, Zeroizing::new(Vec::new())));
    }

    pub(super) fn identity_file(&self) -> Result<Option<Identity>, Reason> {
        let Some(bytes) = self.file("identity") else {
            return Ok(None);
        };
        let identity = Identity::from_bytes(bytes).map_err(|e| damaged("identity", &e))?;
        if *identity.member() != self.name {
            let text = format!(
                "the identity on disk is that of {}, not of {}; destroy the IPCP first",
                identity.member(),
                self.name
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        Ok(Some(identity))
    }

    /// The identity from before, which must be of that layer.
    pub(super) fn known_identity(&self, layer: &Label) -> Result<Option<Identity>, Reason> {
        let identity = self.identity_file()?;
        match identity {
            Some(identity) if identity.layer() != layer => {
                let text = format!(
                    "{} is a member of {} already; destroy it first",
                    self.name,
                    identity.layer()
                );
                Err(Reason::new(Code::Conflict, text))
            }
            identity => Ok(identity),
        }
    }

    fn known_authority(&self, layer: &Label) -> Result<Option<Kept>, Reason> {
        let Some(bytes) = self.file("authority") else {
            return Ok(None);
        };
        let kept = Kept::from_bytes(bytes).map_err(|e| damaged("authority", &e))?;
        Ok(Some(kept).filter(|kept| kept.layer() == layer))
    }

    /// The neighbours that are kept, and the issuer: one a line, behind a word; the last line says that it is the last.
    fn known_neighbours(&self) -> Result<(BTreeSet<Label>, Option<Label>), Reason> {
        let Some(bytes) = self.file("neighbours") else {
            return Ok((BTreeSet::new(), None));
        };
        let damaged = |why: &str| damaged("neighbours", &why);
        let text = std::str::from_utf8(bytes).ok();
        let text = text
            .and_then(|t| t.strip_suffix(LAST_LINE))
            .ok_or_else(|| damaged("it has no end"))?;
        let (mut kept, mut issuer) = (BTreeSet::new(), None);
        for line in text.lines() {
            let (word, member) = line.split_once(' ').unwrap_or_default();
            let member = Label::new(member).map_err(|e| damaged(&e.to_string()))?;
            match word {
                "keep" => drop(kept.insert(member)),
                "issuer" => issuer = Some(member),
                _ => return Err(damaged("a line begins with no word of ours")),
            }
        }
        Ok((kept, issuer))
    }

    pub(super) fn save_neighbours(&mut self) {
        let Some(me) = &self.me else { return };
        let kept = me.kept.iter().map(|m| format!("keep {m}\n"));
        let issuer = me.issuer.iter().map(|m| format!("issuer {m}\n"));
        let last = std::iter::once(LAST_LINE.to_owned());
        let text: String = kept.chain(issuer).chain(last).collect();
        self.save("neighbours", Zeroizing::new(text.into_bytes()));
    }

    /// Counts up at each start, so that records from before are never mistaken for newer ones.
    fn next_incarnation(&mut self) -> Result<u64, Reason> {
        let before = match self.file("incarnation") {
            None => 0,
            Some(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|t| t.strip_suffix('\n')?.parse::<u64>().ok())
                .ok_or_else(|| damaged("incarnation", &"it holds no line with a number"))?,
        };
        let incarnation = before.saturating_add(1);
        self.save(
            "incarnation",
            Zeroizing::new(format!("{incarnation}\n").into_bytes()),
        );
        Ok(incarnation)
    }

    pub(super) fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|b| b.as_slice())
    }
}

pub(super) fn damaged(file: &str, why: &dyn std::fmt::Display) -> Reason {
    Reason::new(
        Code::Failed,
        format!(
            "the file {file} of this IPCP can't be read: {why}; restore it, or destroy the IPCP and enroll anew"
        ),
    )
}

/// How the file of the neighbours ends, so that one that was cut is known by it.
const LAST_LINE: &str = "end\n";
/// Neighbours that an invitation names besides this member.
const MAX_VIAS: usize = 3;
