//! Certificates of members: what is read from them; when they are believed is in `verify`.

mod error;
mod issuing;
mod names;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use proto::{Addr, Label};
use ring::signature::{ED25519, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_SIG_ED25519, Oid};
use x509_parser::prelude::FromDer;

use super::issue::ISSUER;
use super::{Voice, address, prefix};
use crate::UnixTime;
pub use error::CertError;
pub(super) use issuing::{is_signed_by, issuer_of, issuer_prefixes, key_hash_of};
pub use issuing::{issuer_key, issuer_name};
pub(super) use names::{MAX_GROUPS, group_uri, member_of, uri};
use names::{groups_of, uris};

/// A certificate that was verified: a member of a layer, its key and its prefixes.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberCert {
    layer: Label,
    member: Label,
    address: Addr,
    prefixes: Vec<IpNet>,
    groups: Vec<Label>,
    not_before: UnixTime,
    not_after: UnixTime,
    public_key: [u8; 32],
    /// The member that has issued it, if a member did.
    issuer: Option<(Label, Voice)>,
    der: Vec<u8>,
}

impl MemberCert {
    /// Reads a certificate without believing it.
    pub(in crate::crypt) fn parse(der: &[u8]) -> Result<Self, CertError> {
        let (rest, cert) = X509Certificate::from_der(der)
            .map_err(|_| CertError::Malformed("it is no X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(CertError::Malformed("bytes follow it"));
        }
        let spki = &cert.tbs_certificate.subject_pki;
        let public_key = match <[u8; 32]>::try_from(&*spki.subject_public_key.data) {
            Ok(key) if spki.algorithm.algorithm == OID_SIG_ED25519 => key,
            _ => return Err(CertError::Malformed("a member's key must be Ed25519")),
        };
        let san = cert
            .subject_alternative_name()
            .map_err(|_| CertError::Malformed("its subject names can't be read"))?;
        let names = san.map_or(&[][..], |san| &san.value.general_names);
        let (layer, member) = member_of(uris(names)).ok_or(CertError::Malformed(
            "it needs one name strata://LAYER/MEMBER",
        ))?;
        Ok(Self {
            address: address(&layer, &member),
            prefixes: prefixes(&cert)?,
            groups: groups_of(&layer, uris(names))?,
            not_before: seconds(cert.validity().not_before.timestamp()),
            not_after: seconds(cert.validity().not_after.timestamp()),
            public_key,
            issuer: None,
            der: der.to_vec(),
            layer,
            member,
        })
    }

    /// Checks an Ed25519 signature over `message`.
    pub fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), CertError> {
        UnparsedPublicKey::new(&ED25519, &self.public_key)
            .verify(message, signature)
            .map_err(|_| CertError::BadSignature)
    }

    /// The layer.
    pub fn layer(&self) -> &Label {
        &self.layer
    }

    /// The member.
    pub fn member(&self) -> &Label {
        &self.member
    }

    /// The member's address in the layer.
    pub fn address(&self) -> Addr {
        self.address
    }

    /// What the member may send IP packets from: sorted, without host bits.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// The groups of the layer that the member belongs to: sorted, each once.
    pub fn groups(&self) -> &[Label] {
        &self.groups
    }

    /// Who issued it, by the common name in the certificate: a member, or the authority itself. For people.
    pub fn issuer(&self) -> String {
        let named = |cert: &X509Certificate<'_>| {
            let name = cert.issuer().iter_common_name().next()?;
            let name = name.as_str().ok()?;
            let name = name.strip_prefix(ISSUER).unwrap_or(name);
            Some(name.chars().take(64).collect())
        };
        self.x509().as_ref().and_then(named).unwrap_or_default()
    }

    /// Its serial number, hexadecimal. For people.
    pub fn serial(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().take(20).map(|b| format!("{b:02x}")).collect();
        self.x509()
            .map_or_else(String::new, |cert| hex(cert.raw_serial()))
    }

    fn x509(&self) -> Option<X509Certificate<'_>> {
        Some(X509Certificate::from_der(&self.der).ok()?.1)
    }

    /// The first second in which the certificate is valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last second in which the certificate is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The certificate itself, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The member's Ed25519 key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }
}

impl fmt::Debug for MemberCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MemberCert({}/{}, {})",
            self.layer, self.member, self.address
        )
    }
}

fn seconds(timestamp: i64) -> UnixTime {
    UnixTime(Duration::from_secs(u64::try_from(timestamp).unwrap_or(0)))
}

fn prefixes(cert: &X509Certificate<'_>) -> Result<Vec<IpNet>, CertError> {
    extension(cert)?.map_or(Ok(Vec::new()), |value| {
        prefix::decode(value).map_err(CertError::Malformed)
    })
}

/// The value of the prefix extension.
fn extension<'a>(cert: &'a X509Certificate<'_>) -> Result<Option<&'a [u8]>, CertError> {
    let oid =
        Oid::from(&prefix::OID).map_err(|_| CertError::Malformed("its prefixes can't be found"))?;
    let found = cert.get_extension_unique(&oid);
    let found = found.map_err(|_| CertError::Malformed("it has an extension twice"))?;
    Ok(found.map(|extension| extension.value))
}
