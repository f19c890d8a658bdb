//! What a member of a layer trusts: its authorities, and the keys that may speak for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::Label;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;

use super::CertError;
use super::cert::key_hash_of;
use crate::UnixTime;

/// The authorities that a layer trusts.
#[derive(Clone)]
pub struct Roots {
    ders: Vec<Vec<u8>>,
    anchors: Vec<TrustAnchor<'static>>,
    voices: Vec<Voice>,
    /// Keys that are believed no more, each in the certificates of these members: whoever says so is not believed on the keys
    /// of others.
    revoked: Arc<BTreeMap<[u8; 32], BTreeSet<Label>>>,
    /// Ids of the keys of members that may issue, and until when what they have issued counts; `None`: all that a root
    /// has certified.
    issuers: Option<Arc<BTreeMap<[u8; 32], u64>>>,
    /// The certificates of those that may issue.
    known: Arc<Vec<Vec<u8>>>,
    /// Those that two roots have given each other.
    crosses: Arc<Vec<Vec<u8>>>,
    /// The longest that the certificate of a member lives that a member has issued.
    member_life: Option<Duration>,
    /// The member that holds the root's key, and that member's own key.
    holder: Option<(Label, [u8; 32])>,
}

/// A key that may sign what the authority of a layer says to all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voice {
    id: [u8; 32],
    key: [u8; 32],
    root: bool,
}

impl Roots {
    /// Takes the certificates of authorities, DER.
    pub fn new(ders: Vec<Vec<u8>>) -> Result<Self, CertError> {
        let anchor = |der: &Vec<u8>| {
            let der = CertificateDer::from(der.as_slice());
            webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned())
        };
        let anchors = ders.iter().map(anchor).collect::<Result<Vec<_>, _>>();
        match anchors {
            Ok(anchors) if !anchors.is_empty() => Ok(Self {
                voices: ders.iter().filter_map(|der| Voice::of(der, true)).collect(),
                issuers: None,
                revoked: Arc::default(),
                known: Arc::default(),
                crosses: Arc::default(),
                member_life: None,
                holder: None,
                ders,
                anchors,
            }),
            Ok(_) => Err(CertError::Malformed("there is no authority")),
            Err(_) => Err(CertError::Malformed(
                "the authority's certificate can't be read",
            )),
        }
    }

    /// The certificate among `ders` whose key has this SHA-256 and has signed it: what an invitation points at.
    pub(super) fn pinned<'a>(
        ders: impl IntoIterator<Item = &'a [u8]>,
        key_hash: &[u8; 32],
    ) -> Result<Self, CertError> {
        let found = ders
            .into_iter()
            .find(|der| key_hash_of(der).is_some_and(|hash| hash == *key_hash));
        Self::new(vec![found.ok_or(CertError::UnknownAuthority)?.to_vec()])
    }

    /// The same, but these keys are believed no more in certificates of these members.
    pub fn without(self, revoked: impl Iterator<Item = ([u8; 32], Label)>) -> Self {
        let mut all: BTreeMap<[u8; 32], BTreeSet<Label>> = BTreeMap::new();
        for (key, member) in revoked {
            all.entry(key).or_default().insert(member);
        }
        Self {
            revoked: Arc::new(all),
            ..self
        }
    }

    /// The same, but of members only these may issue; what those that are retired have issued counts until a time.
    pub fn with_issuers(
        mut self,
        known: &[Vec<u8>],
        retired: impl Iterator<Item = ([u8; 32], u64)>,
    ) -> Self {
        let active: Vec<Voice> = known
            .iter()
            .filter_map(|der| Voice::of(der, false))
            .collect();
        let named = active.iter().map(|voice| (voice.id, u64::MAX));
        self.issuers = Some(Arc::new(retired.chain(named).collect()));
        self.known = Arc::new(known.to_vec());
        self.voices.retain(|voice| voice.root);
        self.voices.extend(active);
        self
    }

    /// The same, with what two roots have certified of each other, to be shown to whoever knows one of them only.
    pub fn with_crosses(self, crosses: Vec<Vec<u8>>) -> Self {
        Self {
            crosses: Arc::new(crosses),
            ..self
        }
    }

    /// The same, but what members issue lives so long at most.
    pub fn with_member_life(self, member_life: Option<Duration>) -> Self {
        Self {
            member_life,
            ..self
        }
    }

    /// The same, but no member that issues gives the holder's name to another key than this.
    pub fn with_holder(self, holder: Option<(Label, [u8; 32])>) -> Self {
        Self { holder, ..self }
    }

    /// The same, but only the root that issues now is believed, not the one before.
    pub fn first(&self) -> Self {
        let mut first = self.clone();
        first.ders.truncate(1);
        first.anchors.truncate(1);
        let only = first.ders.iter().filter_map(|der| Voice::of(der, true));
        let only: Vec<Voice> = only.collect();
        first
            .voices
            .retain(|voice| !voice.root || only.contains(voice));
        first
    }

    /// Whether a root is believed that is none of `after`.
    pub fn lost_any(&self, after: &Self) -> bool {
        self.ders.iter().any(|der| !after.ders.contains(der))
    }

    /// Whether the layer has said who issues; a site's own PKI says nothing.
    pub fn has_issuers(&self) -> bool {
        self.issuers.is_some()
    }

    /// Whether what this key has issued counts.
    pub(super) fn may_issue(&self, id: &[u8; 32], now: UnixTime) -> bool {
        let until = self.issuers.as_ref().map(|issuers| issuers.get(id));
        until.is_none_or(|until| until.is_some_and(|until| now.secs() < *until))
    }

    /// Whether a key is believed no more, whatever certificate of that member it is in.
    pub fn is_revoked(&self, key: &[u8; 32], member: &Label) -> bool {
        let members = self.revoked.get(key);
        members.is_some_and(|members| members.contains(member))
    }

    /// The certificates, DER.
    pub fn ders(&self) -> &[Vec<u8>] {
        &self.ders
    }

    /// The key of this id, if it may speak for the authority: that of a root or of a member that issues, if it is Ed25519.
    pub fn voice(&self, id: &[u8; 32]) -> Option<&Voice> {
        self.voices.iter().find(|voice| voice.id == *id)
    }

    /// The certificates of members that may issue, as the layer's authority said it last.
    pub(super) fn known(&self) -> &[Vec<u8>] {
        &self.known
    }

    /// Whether it would be the holder's name with another key.
    pub(super) fn poses_as_holder(&self, member: &Label, key: &[u8; 32]) -> bool {
        let holder = self.holder.as_ref();
        holder.is_some_and(|(name, own)| name == member && own != key)
    }

    /// What two roots have certified of each other.
    pub(super) fn crosses(&self) -> &[Vec<u8>] {
        &self.crosses
    }

    /// The longest that what a member has issued may live.
    pub(super) fn member_life(&self) -> Option<Duration> {
        self.member_life
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.ders.len())
    }
}

impl Voice {
    /// That of a certificate; `None` if its key is none of Ed25519.
    pub(super) fn of(der: &[u8], root: bool) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let spki = &cert.tbs_certificate.subject_pki;
        let key = <[u8; 32]>::try_from(&*spki.subject_public_key.data).ok()?;
        (spki.algorithm.algorithm == OID_SIG_ED25519).then(|| Self {
            id: super::sha256(&[spki.raw]),
            key,
            root,
        })
    }

    /// Whether it is that of a root, which may say anything.
    pub fn is_root(&self) -> bool {
        self.root
    }

    pub(super) fn id(&self) -> &[u8; 32] {
        &self.id
    }

    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Checks an Ed25519 signature over `message`.
    pub fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), CertError> {
        UnparsedPublicKey::new(&ED25519, &self.key)
            .verify(message, signature)
            .map_err(|_| CertError::BadSignature)
    }
}

/// What people know the certificate of an authority by: the SHA-256 of its key, hexadecimal, and its end.
pub fn root_facts(der: &[u8]) -> Option<(String, UnixTime)> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let hash = super::sha256(&[cert.tbs_certificate.subject_pki.raw]);
    let end = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
    let hex = hash.iter().map(|b| format!("{b:02x}")).collect();
    Some((hex, UnixTime(Duration::from_secs(end))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::fixtures::first;

    #[test]
    fn roots_must_be_certificates() {
        assert!(Roots::new(Vec::new()).is_err());
        assert!(Roots::new(vec![b"no certificate".to_vec()]).is_err());
    }

    #[test]
    fn a_root_has_a_voice_and_nobody_else() {
        let (authority, identity) = first("ovl");
        let (other, _) = first("ovl");
        let roots = identity.roots();
        let voice = roots.voice(&authority.voice()).unwrap();
        assert_eq!(voice.check(b"text", &authority.sign(b"text")), Ok(()));
        assert!(voice.check(b"text", &other.sign(b"text")).is_err());
        assert!(voice.check(b"text", &identity.sign(b"text")).is_err());
        assert_eq!(roots.voice(&other.voice()), None);
    }
}
