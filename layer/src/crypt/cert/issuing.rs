//! What stands between a member's certificate and the root, and what that allows.

use std::time::Duration;

use ipnet::IpNet;
use proto::Label;
use ring::signature::{ED25519, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::names::{member_of, uris};
use super::{CertError, MemberCert, extension, prefixes};
use crate::UnixTime;
use crate::crypt::{Roots, Voice, sha256};

/// A certificate between a member's and the root. One that names a member is bound by what it says; one that names none is a
/// site's own affair.
pub(super) struct Issuing {
    pub(super) named: Option<(Label, Label)>,
    prefixes: Option<Vec<IpNet>>,
    pub(super) voice: Option<Voice>,
}

impl Issuing {
    pub(super) fn parse(der: &[u8]) -> Result<Self, CertError> {
        let bad = |_| CertError::Malformed("its issuer's certificate can't be read");
        let (_, cert) = X509Certificate::from_der(der).map_err(|_| bad(()))?;
        let san = cert.subject_alternative_name().map_err(|_| bad(()))?;
        let names = san.map_or(&[][..], |san| &san.value.general_names);
        let named = member_of(uris(names));
        let prefixes = match (&named, extension(&cert)?) {
            (Some(_), Some(_)) => Some(prefixes(&cert)?),
            _ => None,
        };
        Ok(Self {
            named,
            prefixes,
            voice: Voice::of(der, false),
        })
    }

    /// Whether what it says allows it to have issued this.
    pub(super) fn may_have_issued(
        &self,
        cert: &MemberCert,
        roots: &Roots,
        now: UnixTime,
    ) -> Result<(), CertError> {
        let (Some((layer, issuer)), Some(voice)) = (&self.named, &self.voice) else {
            return Ok(());
        };
        if *layer != cert.layer {
            return Err(CertError::WrongLayer {
                found: layer.clone(),
                expected: cert.layer.clone(),
            });
        }
        if roots.is_revoked(voice.key(), issuer) {
            return Err(CertError::Revoked {
                member: issuer.clone(),
            });
        }
        if !roots.may_issue(voice.id(), now) {
            return Err(CertError::UnknownAuthority);
        }
        let other = |der: &&Vec<u8>| {
            let is_key = Voice::of(der, false).is_some_and(|v| *v.key() == cert.public_key);
            issuer_name(der).as_ref() == Some(&cert.member) && !is_key
        };
        if roots.known().iter().any(|der| other(&der)) {
            return Err(CertError::Malformed(
                "it gives the name of a member that issues to another key",
            ));
        }
        if roots.poses_as_holder(&cert.member, &cert.public_key) {
            return Err(CertError::Malformed(
                "it gives the name of the member that holds the root's key to another key",
            ));
        }
        let life = cert.not_after.0.saturating_sub(cert.not_before.0);
        if roots.member_life().is_some_and(|most| life > most + DATED) {
            return Err(CertError::Malformed(
                "it lives longer than its issuer may let it",
            ));
        }
        let own = self.prefixes.as_deref().unwrap_or_default();
        let within = |prefix: &IpNet| own.iter().any(|own| own.contains(prefix));
        if self.prefixes.is_some() && !cert.prefixes.iter().all(within) {
            return Err(CertError::Malformed(
                "it has a prefix that its issuer may not give",
            ));
        }
        Ok(())
    }
}

/// The member that may issue with this certificate.
pub fn issuer_name(der: &[u8]) -> Option<Label> {
    Issuing::parse(der).ok()?.named.map(|(_, member)| member)
}

/// Layer and member of whoever may issue with this certificate.
pub(in crate::crypt) fn issuer_of(der: &[u8]) -> Option<(Label, Label)> {
    Issuing::parse(der).ok()?.named
}

/// The prefixes out of which whoever has this certificate may grant; `None`: any.
pub(in crate::crypt) fn issuer_prefixes(der: &[u8]) -> Option<Vec<IpNet>> {
    Issuing::parse(der).ok()?.prefixes
}

/// The key that a certificate is of: the SHA-256 of its SubjectPublicKeyInfo.
pub fn issuer_key(der: &[u8]) -> Option<[u8; 32]> {
    Voice::of(der, false).map(|voice| *voice.id())
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate that is signed by that very Ed25519 key.
pub(in crate::crypt) fn key_hash_of(der: &[u8]) -> Option<[u8; 32]> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    let spki = &cert.tbs_certificate.subject_pki;
    let key = UnparsedPublicKey::new(&ED25519, &spki.subject_public_key.data);
    key.verify(cert.tbs_certificate.as_ref(), &cert.signature_value.data)
        .ok()?;
    rest.is_empty().then(|| sha256(&[spki.raw]))
}

/// Whether a certificate is signed by this Ed25519 key.
pub(in crate::crypt) fn is_signed_by(der: &[u8], key: &[u8; 32]) -> bool {
    let Ok((_, cert)) = X509Certificate::from_der(der) else {
        return false;
    };
    let (text, signature) = (cert.tbs_certificate.as_ref(), &cert.signature_value.data);
    let key = UnparsedPublicKey::new(&ED25519, key);
    key.verify(text, signature).is_ok()
}

/// How far a certificate is dated back at most, and forward by a clock that is wrong.
const DATED: Duration = Duration::from_secs(30 * 60);
