//! Certificates of members: what is read from them, and when they are believed.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use proto::{Addr, Label};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::{self as pki, CertificateDer};
use time::OffsetDateTime;
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_SIG_ED25519, Oid};
use x509_parser::prelude::FromDer;

use super::issue::ISSUER;
use super::{Roots, Voice, address, prefix, sha256};
use crate::UnixTime;

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
    issuer: Option<Voice>,
    der: Vec<u8>,
}

/// Why a certificate or a signature isn't believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// Its time is over.
    #[error("the certificate expired at {}; enrol again, or set this host's clock right", date(*.not_after))]
    Expired {
        /// The last second of Unix time in which it was valid.
        not_after: u64,
    },
    /// Its time hasn't begun.
    #[error("the certificate is valid only from {}; set this host's clock right", date(*.not_before))]
    NotYetValid {
        /// The first second of Unix time in which it is valid.
        not_before: u64,
    },
    /// No chain leads from it to a trusted root.
    #[error("the certificate was issued by an unknown authority")]
    UnknownAuthority,
    /// It belongs to a member of another layer.
    #[error("the certificate is for layer {found}, not for {expected}")]
    WrongLayer {
        /// The layer that it names.
        found: Label,
        /// The layer that it must name.
        expected: Label,
    },
    /// The layer's authority has taken it back.
    #[error("the certificate of {member} was revoked; enroll it anew with another invitation")]
    Revoked {
        /// Whose it was.
        member: Label,
    },
    /// It isn't what a member's certificate must be.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// A signature that the key of the certificate didn't make.
    #[error("the signature doesn't match the certificate's key")]
    BadSignature,
}

impl MemberCert {
    /// Verifies a certificate: a chain through `intermediates` to one of `roots`, in time at `now`, usable as client and
    /// as server, of `layer`.
    pub fn verify(
        der: &[u8],
        intermediates: &[Vec<u8>],
        roots: &Roots,
        layer: &Label,
        now: UnixTime,
    ) -> Result<Self, CertError> {
        let mut cert = Self::parse(der)?;
        let leaf = CertificateDer::from(der);
        let leaf = EndEntityCert::try_from(&leaf)
            .map_err(|_| CertError::Malformed("it is no X.509 certificate"))?;
        let chain: Vec<_> = intermediates
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let at = |now: UnixTime| {
            let time = pki::UnixTime::since_unix_epoch(Duration::from_secs(now.secs()));
            let path = leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                roots.anchors(),
                &chain,
                time,
                BothWays,
                None,
                None,
            );
            path.map_err(from_webpki)
        };
        // The clock here, or that where it was issued, may be wrong by as much.
        let path = match at(now) {
            Err(CertError::Expired { .. }) => at(UnixTime(now.0.saturating_sub(TOLERANCE)))?,
            Err(CertError::NotYetValid { .. }) => at(UnixTime(now.0 + TOLERANCE))?,
            path => path?,
        };
        for issuer in path.intermediate_certificates() {
            let issuer = Issuing::parse(&issuer.der())?;
            issuer.may_have_issued(&cert, roots, now)?;
            if issuer.named.is_some() {
                cert.issuer = issuer.voice;
            }
        }
        if cert.layer != *layer {
            return Err(CertError::WrongLayer {
                found: cert.layer,
                expected: layer.clone(),
            });
        }
        if roots.is_revoked(&cert.public_key) {
            return Err(CertError::Revoked {
                member: cert.member,
            });
        }
        Ok(cert)
    }

    /// Whether it was taken back since it was verified, or with the key that has issued it.
    pub fn is_revoked(&self, roots: &Roots) -> bool {
        let issuer = self.issuer.as_ref();
        roots.is_revoked(&self.public_key) || issuer.is_some_and(|by| roots.is_revoked(by.key()))
    }

    /// Whether its time is over, by a clock that may be wrong.
    pub fn is_over(&self, now: UnixTime) -> bool {
        now.0 > self.not_after.0 + TOLERANCE
    }

    /// Reads a certificate without believing it.
    pub(super) fn parse(der: &[u8]) -> Result<Self, CertError> {
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

/// A certificate between a member's and the root. One that names a member is bound by what it says; one that names none is a
/// site's own affair.
struct Issuing {
    named: Option<(Label, Label)>,
    prefixes: Option<Vec<IpNet>>,
    voice: Option<Voice>,
}

impl Issuing {
    fn parse(der: &[u8]) -> Result<Self, CertError> {
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
    fn may_have_issued(
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
        if roots.is_revoked(voice.key()) {
            return Err(CertError::Revoked {
                member: issuer.clone(),
            });
        }
        if !roots.may_issue(voice.id(), now) {
            return Err(CertError::UnknownAuthority);
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

/// The prefixes out of which whoever has this certificate may grant; `None`: any.
pub(super) fn issuer_prefixes(der: &[u8]) -> Option<Vec<IpNet>> {
    Issuing::parse(der).ok()?.prefixes
}

/// The key that a certificate is of: the SHA-256 of its SubjectPublicKeyInfo.
pub fn issuer_key(der: &[u8]) -> Option<[u8; 32]> {
    Voice::of(der, false).map(|voice| *voice.id())
}

/// Its names that are URIs.
fn uris<'a>(names: &'a [GeneralName<'a>]) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    })
}

fn seconds(timestamp: i64) -> UnixTime {
    UnixTime(Duration::from_secs(u64::try_from(timestamp).unwrap_or(0)))
}

/// Unix time for a person.
fn date(seconds: u64) -> String {
    let known = i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    known.map_or_else(|| format!("second {seconds}"), |at| at.to_string())
}

/// The name of a member in a certificate.
pub(super) fn uri(layer: &Label, member: &Label) -> String {
    format!("{SCHEME}{layer}/{member}")
}

/// Layer and member of the only name of our scheme; names of other schemes don't matter.
pub(super) fn member_of<'a>(uris: impl Iterator<Item = &'a str>) -> Option<(Label, Label)> {
    let mut ours = uris.filter_map(|uri| uri.strip_prefix(SCHEME));
    let (only, None) = (ours.next()?, ours.next()) else {
        return None;
    };
    let (layer, member) = only.split_once('/')?;
    Some((Label::new(layer).ok()?, Label::new(member).ok()?))
}

/// The name of a group in a certificate. It has a scheme of its own, so that a reader of member names passes it over.
pub(super) fn group_uri(layer: &Label, group: &Label) -> String {
    format!("{GROUP}{layer}/{group}")
}

/// The groups among these names. One of another layer is refused, lest a name there count here.
fn groups_of<'a>(
    layer: &Label,
    uris: impl Iterator<Item = &'a str>,
) -> Result<Vec<Label>, CertError> {
    let group = |text: &str| {
        let (of, group) = text.split_once('/')?;
        (of == layer.as_str())
            .then(|| Label::new(group).ok())
            .flatten()
    };
    let groups = uris.filter_map(|uri| uri.strip_prefix(GROUP)).map(group);
    let mut groups = groups
        .collect::<Option<Vec<_>>>()
        .ok_or(CertError::Malformed(
            "a group must be strata-group://LAYER/GROUP of its own layer",
        ))?;
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS {
        return Err(CertError::Malformed("it has more than 16 groups"));
    }
    Ok(groups)
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate that is signed by that very Ed25519 key.
pub(super) fn key_hash_of(der: &[u8]) -> Option<[u8; 32]> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    let spki = &cert.tbs_certificate.subject_pki;
    let key = UnparsedPublicKey::new(&ED25519, &spki.subject_public_key.data);
    key.verify(cert.tbs_certificate.as_ref(), &cert.signature_value.data)
        .ok()?;
    rest.is_empty().then(|| sha256(&[spki.raw]))
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

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "webpki names fifty ways to be malformed; none of the rest is ours to tell"
)]
fn from_webpki(error: webpki::Error) -> CertError {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => CertError::Expired {
            not_after: not_after.as_secs(),
        },
        E::CertNotValidYet { not_before, .. } => CertError::NotYetValid {
            not_before: not_before.as_secs(),
        },
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => CertError::UnknownAuthority,
        E::CaUsedAsEndEntity => CertError::Malformed("it is an authority's, not a member's"),
        E::RequiredEkuNotFoundContext(_) => {
            CertError::Malformed("it must be usable as client and as server")
        }
        _ => CertError::Malformed("it breaks the rules of X.509"),
    }
}

/// A member is client and server: where a certificate restricts its use, it must allow both.
struct BothWays;

impl ExtendedKeyUsageValidator for BothWays {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut restricted, mut server, mut client) = (false, false, false);
        for purpose in purposes {
            let purpose = purpose?;
            restricted = true;
            server |= purpose == KeyPurposeId::new(SERVER_AUTH);
            client |= purpose == KeyPurposeId::new(CLIENT_AUTH);
        }
        if !restricted || (server && client) {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(
            RequiredEkuNotFoundContext {
                required: if server {
                    KeyUsage::client_auth()
                } else {
                    KeyUsage::server_auth()
                },
                present: Vec::new(),
            },
        ))
    }
}

/// id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and 2, as in DER.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// How wrong the clocks of two members may be together, beyond how far a certificate is dated back.
const TOLERANCE: Duration = Duration::from_secs(10 * 60);
const SCHEME: &str = "strata://";
const GROUP: &str = "strata-group://";
/// So that a certificate stays within a few PDUs of a handshake, and a policy's check short.
pub(super) const MAX_GROUPS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::fixtures::{NOW, at, label};
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Eku, IsCa,
        Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType, SignatureAlgorithm,
    };

    /// A certificate of a site's own ECDSA authority, as `change` wants it, and that authority.
    fn issued(
        key: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Vec<u8>, Roots) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let root = ca.self_signed(&ca_key).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name("strata://ovl/b")];
        change(&mut params);
        let key = KeyPair::generate_for(key).unwrap();
        let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        (
            cert.der().to_vec(),
            Roots::new(vec![root.der().to_vec()]).unwrap(),
        )
    }

    fn name(uri: &str) -> SanType {
        SanType::URI(uri.try_into().unwrap())
    }

    fn verified(change: impl FnOnce(&mut CertificateParams)) -> Result<MemberCert, CertError> {
        let (der, roots) = issued(&PKCS_ED25519, change);
        MemberCert::verify(&der, &[], &roots, &label("ovl"), at(NOW))
    }

    #[test]
    fn a_sites_own_authority_may_issue_what_a_member_needs() {
        assert_eq!(verified(|_| {}).unwrap().member(), &label("b"));
        let with_dns = verified(|p| {
            p.subject_alt_names
                .push(SanType::DnsName("b.example.org".try_into().unwrap()))
        });
        assert_eq!(with_dns.unwrap().member(), &label("b"));
        assert!(
            verified(|p| p.extended_key_usages =
                vec![Eku::ServerAuth, Eku::ClientAuth, Eku::EmailProtection])
            .is_ok()
        );
    }

    #[test]
    fn what_isnt_a_members_certificate_is_refused() {
        let nets = |bytes: &[u8]| {
            vec![CustomExtension::from_oid_content(
                &prefix::OID,
                bytes.to_vec(),
            )]
        };
        let unknown = |critical| {
            let mut extension =
                CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
            extension.set_criticality(critical);
            vec![extension]
        };
        let refused: [(&str, Result<MemberCert, CertError>); 11] = [
            (
                "server only",
                verified(|p| p.extended_key_usages = vec![Eku::ServerAuth]),
            ),
            (
                "client only",
                verified(|p| p.extended_key_usages = vec![Eku::ClientAuth]),
            ),
            (
                "neither",
                verified(|p| p.extended_key_usages = vec![Eku::CodeSigning]),
            ),
            ("no name", verified(|p| p.subject_alt_names.clear())),
            (
                "two names",
                verified(|p| p.subject_alt_names.push(name("strata://ovl/c"))),
            ),
            (
                "a bad layer",
                verified(|p| p.subject_alt_names = vec![name("strata://OVL/b")]),
            ),
            (
                "no member",
                verified(|p| p.subject_alt_names = vec![name("strata://ovl/")]),
            ),
            (
                "a path",
                verified(|p| p.subject_alt_names = vec![name("strata://ovl/b/c")]),
            ),
            (
                "broken prefixes",
                verified(|p| p.custom_extensions = nets(&[0x30, 1])),
            ),
            (
                "an authority",
                verified(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            ),
            (
                "unknown and critical",
                verified(|p| p.custom_extensions = unknown(true)),
            ),
        ];
        for (what, result) in refused {
            assert!(
                matches!(result, Err(CertError::Malformed(_))),
                "{what}: {result:?}"
            );
        }
        assert!(verified(|p| p.custom_extensions = unknown(false)).is_ok());
        let (der, roots) = issued(&PKCS_ECDSA_P256_SHA256, |_| {});
        let ecdsa = MemberCert::verify(&der, &[], &roots, &label("ovl"), at(NOW));
        assert_eq!(
            ecdsa,
            Err(CertError::Malformed("a member's key must be Ed25519"))
        );
    }

    #[test]
    fn a_person_can_read_when_it_expired() {
        let expired = CertError::Expired {
            not_after: 1_800_000_000,
        }
        .to_string();
        assert!(
            expired.contains("expired at 2027-01-15 8:00:00"),
            "{expired}"
        );
        let never = CertError::NotYetValid {
            not_before: u64::MAX,
        }
        .to_string();
        assert!(never.contains("second 18446744073709551615"), "{never}");
    }

    #[test]
    fn groups_are_read_sorted_and_only_those_of_the_own_layer_are_believed() {
        let groups = |names: &[&str]| {
            verified(|p| p.subject_alt_names.extend(names.iter().map(|n| name(n))))
                .map(|cert| cert.groups().to_vec())
        };
        let two = ["strata-group://ovl/ops", "strata-group://ovl/lab"];
        assert_eq!(groups(&two).unwrap(), [label("lab"), label("ops")]);
        let twice = ["strata-group://ovl/ops", "strata-group://ovl/ops"];
        assert_eq!(groups(&twice).unwrap(), [label("ops")]);
        assert_eq!(groups(&[]).unwrap(), []);
        let many: Vec<String> = (0..17)
            .map(|i| format!("strata-group://ovl/g{i}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(groups(&many[..16]).is_ok());
        for bad in [
            &many[..],
            &["strata-group://other/ops"],
            &["strata-group://ovl/OPS"],
            &["strata-group://ovl/"],
            &["strata-group://ovl"],
            &["strata-group://ovl/a/b"],
        ] {
            assert!(
                matches!(groups(bad), Err(CertError::Malformed(_))),
                "{bad:?}"
            );
        }
    }
}
