//! Two members of one name: members that issue may have given it twice while they didn't see each other.
//!
//! Of the two keys the smaller counts, at every member and for good: dates move with each renewal, and whoever issues chooses
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use proto::Addr;

use super::{Lsdb, RecordError};
use crate::crypt::{Identity, MemberCert, issuer_key};

/// The clashes that were seen lately.
#[derive(Default)]
pub(super) struct Clashes(BTreeMap<Addr, Clash>);

/// One name that two members have.
#[derive(Debug, Clone)]
pub struct Clash {
    /// Who is heard.
    pub counts: Arc<MemberCert>,
    /// Who is not.
    pub refused: Arc<MemberCert>,
    seen: Instant,
}

/// Whether somebody counts less than another of the same name.
pub fn yields(cert: &MemberCert, to: &MemberCert) -> bool {
    let same = cert.address() == to.address();
    same && to.public_key() < cert.public_key()
}

impl Lsdb {
    /// The names that two members were heard with lately.
    pub fn clashes(&self) -> impl Iterator<Item = &Clash> {
        self.clashes.0.values()
    }

    /// Whether what is held of a member was signed with another key than what comes with this certificate.
    pub(super) fn is_rival(&self, identity: &Identity, origin: Addr, certificate: &[u8]) -> bool {
        // What comes without a certificate is of the key that is known, or forged. A site's own PKI gives a member another key
        // as it sees fit.
        if certificate.is_empty() || !identity.roots().has_issuers() {
            return false;
        }
        let held = match origin == self.me {
            true => Some(identity.cert()),
            false => self.store.cert(origin).map(|cert| &**cert),
        };
        let differs = |held: &MemberCert| issuer_key(held.der()) != issuer_key(certificate);
        held.is_some_and(|held| held.der() != certificate && differs(held))
    }

    /// Says who counts of the holder of this certificate and whoever had that name here before.
    pub(super) fn judge_rival(
        &mut self,
        now: Instant,
        identity: &Identity,
        cert: &Arc<MemberCert>,
    ) -> Result<(), RecordError> {
        let origin = cert.address();
        let held = match origin == self.me {
            true => Some(Arc::new(identity.cert().clone())),
            false => self.store.cert(origin).cloned(),
        };
        let Some(held) = held.filter(|held| held.public_key() != cert.public_key()) else {
            return Ok(());
        };
        let stays = yields(cert, &held);
        let (counts, refused) = match stays {
            true => (held, cert.clone()),
            false => (cert.clone(), held),
        };
        let clash = Clash {
            counts,
            refused,
            seen: now,
        };
        if self.clashes.0.len() < MAX_CLASHES || self.clashes.0.contains_key(&origin) {
            self.clashes.0.insert(origin, clash);
        }
        if stays || origin == self.me {
            return Err(RecordError::Taken(origin));
        }
        self.forget(now, |record, _| record.parsed.origin != origin);
        Ok(())
    }

    /// Forgets those of which nothing was heard for long, or one of which is gone.
    pub(super) fn settle(&mut self, now: Instant, gone: impl Fn(&MemberCert) -> bool) {
        let lately = |clash: &Clash| now.saturating_duration_since(clash.seen) < Self::FORGET;
        self.clashes
            .0
            .retain(|_, c| lately(c) && !gone(&c.counts) && !gone(&c.refused));
    }
}

const MAX_CLASHES: usize = 64;
