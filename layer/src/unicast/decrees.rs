//! The word of the layer's authority between neighbours: flooded like records, kept on disk, and acted on when it is new.

use proto::wire::{self, SignedDecree, message::Body};
use proto::{Addr, Code, FlowId, Reason};
use zeroize::Zeroizing;

use super::Unicast;
use super::link::Link;
use crate::Now;
use crate::decree::{Decrees, Kind, Taken, Trust};

impl Unicast {
    /// Says something to all members in the authority's name; only its holder can. Gives the number of the decree.
    pub(super) fn publish_decree(
        &mut self,
        now: Now,
        kind: Kind,
        content: Vec<u8>,
    ) -> Result<u64, Reason> {
        let Some(me) = &mut self.me else {
            return Err(self.not_a_member());
        };
        let Some(authority) = &me.authority else {
            return Err(me.no_authority());
        };
        let mut signed = Vec::new();
        for voice in authority.voices() {
            let content = content.clone();
            let made = me
                .decrees
                .publish_as(authority, voice, kind, content, now.wall);
            signed.push(made.map_err(|e| Reason::new(Code::Usage, e.to_string()))?);
        }
        let number = me.decrees.current(kind).map_or(0, |decree| decree.number);
        self.save_decrees();
        self.spread_decrees(&signed, None);
        self.decree_changed(now, kind);
        Ok(number)
    }

    /// What holds of a kind, as the authority wrote it.
    pub(super) fn current_decree(&self, kind: Kind) -> Option<&[u8]> {
        let decree = self.me.as_ref()?.decrees.current(kind)?;
        Some(&decree.content)
    }

    /// Another decree of this kind holds now: whoever acts on that kind does so here. Also called for each kind that is held
    /// when a member starts.
    fn decree_changed(&mut self, now: Now, kind: Kind) {
        self.stats.count("decree.taken");
        if kind == Kind::REVOKED || kind == Kind::TRUST {
            self.trust_changed(now);
        }
        if kind == Kind::POLICY {
            self.law_changed(now);
        }
    }

    /// Says whom to believe, if that isn't what holds already.
    pub(super) fn publish_trust(&mut self, now: Now) -> Result<(), Reason> {
        let Some(me) = &self.me else {
            return Err(self.not_a_member());
        };
        let Some(authority) = &me.authority else {
            return Err(me.no_authority());
        };
        let trust = match self.current_decree(Kind::TRUST).and_then(Trust::read) {
            Some(trust) => trust,
            None => Trust {
                roots: me.identity.roots().ders().to_vec(),
                cert_life: Some(authority.cert_life()),
                holder: Some(me.label().clone()),
                holder_key: Some(*me.identity.cert().public_key()),
                ..Trust::default()
            },
        };
        let content = trust.write();
        if self.current_decree(Kind::TRUST) == Some(&content) {
            return Ok(());
        }
        self.publish_decree(now, Kind::TRUST, content).map(drop)
    }

    /// A neighbour says what it holds: it gets what it lacks.
    pub(super) fn take_decree_digest(&mut self, lower: FlowId, digest: &wire::DecreeDigest) {
        let Some(me) = &self.me else { return };
        for signed in me.decrees.missing(digest, me.identity.roots()) {
            self.tell_decree(lower, signed);
        }
    }

    pub(super) fn take_decrees(&mut self, now: Now, lower: FlowId, decrees: wire::Decrees) {
        let from = self.links.get(&lower).and_then(Link::peer);
        for signed in decrees.decrees {
            let Some(me) = &mut self.me else { return };
            let share = from.map(|from| me.shares.entry(from).or_default());
            let Some(share) = share else { return };
            let roots = me.identity.roots();
            match me.decrees.insert(now.mono, share, roots, signed.clone()) {
                Ok(Taken::New(kind)) => {
                    self.save_decrees();
                    self.spread_decrees(&[signed], from);
                    self.decree_changed(now, kind);
                }
                Ok(Taken::Known) => {}
                Ok(Taken::Stale(newer)) => self.tell_decree(lower, newer),
                Err(error) => self.stats.count(error.word()),
            }
        }
    }

    /// Says which decrees this member holds.
    pub(super) fn say_decree_digest(&mut self, lower: FlowId) {
        let Some(me) = &self.me else { return };
        let digest = me.decrees.digest();
        self.tell_link(lower, Body::DecreeDigest(digest));
    }

    /// The decrees that were held before.
    pub(super) fn known_decrees(&self, layer: &proto::Label) -> Result<Decrees, Reason> {
        match self.file(FILE) {
            None => Ok(Decrees::new(layer.clone())),
            Some(bytes) => Decrees::from_bytes(layer.clone(), bytes)
                .map_err(|e| super::member::damaged(FILE, &e)),
        }
    }

    fn spread_decrees(&mut self, decrees: &[SignedDecree], from: Option<Addr>) {
        let others = self
            .adjacent
            .iter()
            .filter(|(peer, _)| Some(**peer) != from);
        let to: Vec<FlowId> = others.map(|(_, lower)| *lower).collect();
        for lower in to {
            for signed in decrees {
                self.tell_decree(lower, signed.clone());
            }
        }
    }

    /// One message each: a decree may be large.
    fn tell_decree(&mut self, lower: FlowId, signed: SignedDecree) {
        let decrees = vec![signed];
        self.tell_link(lower, Body::Decrees(wire::Decrees { decrees }));
    }

    fn save_decrees(&mut self) {
        if let Some(me) = &self.me {
            let bytes = me.decrees.to_bytes();
            self.save(FILE, Zeroizing::new(bytes));
        }
    }
}

const FILE: &str = "decrees";
