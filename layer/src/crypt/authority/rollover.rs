//! Another root for a layer: for a while the two are believed together, so that every member can renew from the new one.

use proto::Reason;

use super::{Authority, Root};
use crate::UnixTime;
use crate::crypt::MemberCert;
use crate::decree::Trust;

impl Authority {
    /// Makes another root, which issues from now on, and says whom to believe then. What is said to all is signed by both
    /// until the one before is let go. Said again, it is the same root.
    pub fn begin_rollover(
        &mut self,
        trust: Trust,
        until: Option<u64>,
        now: UnixTime,
    ) -> Result<Trust, Reason> {
        let fresh = match &self.before {
            Some(_) => None,
            None => Some(Root::create(&self.layer, now)?),
        };
        if let Some(fresh) = fresh {
            self.before = Some(std::mem::replace(&mut self.root, fresh));
            self.seal_again()?;
        }
        let Some(before) = &self.before else {
            return Ok(trust);
        };
        if trust.is_rolling() {
            return Ok(Trust { until, ..trust });
        }
        let anew = trust.issuers.iter();
        let anew = anew.map(|der| self.root.delegate_anew(der, now));
        Ok(Trust {
            roots: [&self.root, before].map(|root| root.der().to_vec()).into(),
            crosses: vec![
                before.cross(&self.root, &self.layer, now)?,
                self.root.cross(before, &self.layer, now)?,
            ],
            issuers: anew.collect::<Result<_, _>>()?,
            until,
            ..trust
        })
    }

    /// Lets the root before go, with its key, and says whom to believe then.
    pub fn end_rollover(&mut self, trust: Trust) -> Result<Trust, Reason> {
        self.before = None;
        self.seal_again()?;
        Ok(Trust {
            roots: vec![self.root.der().to_vec()],
            crosses: Vec::new(),
            until: None,
            ..trust
        })
    }

    /// Whether it holds the keys of two roots.
    pub fn is_rolling(&self) -> bool {
        self.before.is_some()
    }

    /// Shows whom it certifies how one root follows from the other, for as long as two are believed.
    pub fn show_beside(&mut self, trust: &Trust) {
        let own = self.root_der().to_vec();
        let roots = trust.roots.iter().filter(|der| **der != own);
        self.beside = match trust.is_rolling() {
            true => trust.crosses.iter().chain(roots).cloned().collect(),
            false => Vec::new(),
        };
    }

    /// The newest certificates of all that have one, as far as is known here.
    pub fn issued(&self) -> impl Iterator<Item = MemberCert> {
        let all = self.members.values();
        all.filter_map(|issued| MemberCert::parse(&issued.certificate).ok())
    }

    /// All that it can sign as; the root before comes first, which members know that have not heard of the other.
    pub fn voices(&self) -> Vec<[u8; 32]> {
        let all = self.before.iter().chain([&self.root]);
        all.map(Root::key_hash).collect()
    }

    /// An Ed25519 signature by the root before, if `voice` is that of it, else as [`Authority::sign`].
    pub fn sign_as(&self, voice: &[u8; 32], message: &[u8]) -> [u8; 64] {
        let before = self.before.as_ref();
        let root = before.filter(|root| root.key_hash() == *voice);
        root.unwrap_or(&self.root).sign(message)
    }

    /// The certificate of the root under which it issues.
    pub(super) fn root_der(&self) -> &[u8] {
        let above = self.above.last();
        above.map_or_else(|| self.root.der(), Vec::as_slice)
    }
}
