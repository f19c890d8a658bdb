//! Making certificates: the root of a layer, those of its members, and reading of requests.

use std::time::Duration;

use ipnet::IpNet;
use proto::{Code, Label, Reason};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::authority::Grant;
use super::cert::{group_uri, is_signed_by, issuer_of, issuer_prefixes, member_of, uri};
use super::key::Key;
use super::{MemberCert, Voice, failed, prefix, random};
use crate::UnixTime;

/// The key and the certificate of a layer's authority.
pub(super) struct Root {
    issuer: Issuer<'static, Key>,
    der: Vec<u8>,
}

/// A request to join, its own signature checked.
pub(super) struct Request {
    pub(super) layer: Label,
    pub(super) member: Label,
    pub(super) public_key: rcgen::PublicKey,
}

impl Root {
    pub(super) fn create(layer: &Label, now: UnixTime) -> Result<Self, Reason> {
        let key = Key::generate()?;
        let mut params = root_params(layer, now)?;
        // Below it: itself once more under an older root, and a member that issues.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
        let der = params.self_signed(&key).map_err(failed)?.der().to_vec();
        Ok(Self {
            issuer: Issuer::new(params, key),
            der,
        })
    }

    /// None if key and certificate can't be read or don't belong together.
    pub(super) fn load(pkcs8: Zeroizing<Vec<u8>>, der: &[u8]) -> Option<Self> {
        let key = Key::from_pkcs8(pkcs8)?;
        if Voice::of(der, false)?.id() != &super::sha256(&[&key.subject_public_key_info()]) {
            return None;
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(der), key).ok()?;
        Some(Self {
            issuer,
            der: der.to_vec(),
        })
    }

    pub(super) fn pkcs8(&self) -> &[u8] {
        self.issuer.key().pkcs8()
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(super) fn key_hash(&self) -> [u8; 32] {
        super::sha256(&[&self.issuer.key().subject_public_key_info()])
    }

    /// Whether a certificate was issued with this very key.
    pub(super) fn has_issued(&self, der: &[u8]) -> bool {
        is_signed_by(der, self.issuer.key().public())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.issuer.key().sign(message)
    }

    /// A member's certificate, DER.
    pub(super) fn issue(
        &self,
        layer: &Label,
        member: &Label,
        grant: &Grant,
        key: &impl PublicKeyData,
        life: Duration,
        now: UnixTime,
    ) -> Result<Vec<u8>, Reason> {
        let mut params = params(member.as_str(), now, life)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let groups = grant.groups.iter().map(|group| group_uri(layer, group));
        params.subject_alt_names = std::iter::once(uri(layer, member))
            .chain(groups)
            .map(|uri| Ok(SanType::URI(uri.try_into().map_err(failed)?)))
            .collect::<Result<_, Reason>>()?;
        params.use_authority_key_identifier_extension = true;
        if !grant.prefixes.is_empty() {
            params.custom_extensions = vec![CustomExtension::from_oid_content(
                &prefix::OID,
                prefix::encode(&grant.prefixes),
            )];
        }
        Ok(params
            .signed_by(key, &self.issuer)
            .map_err(failed)?
            .der()
            .to_vec())
    }
}

impl Root {
    /// The certificate with which a member may issue, DER: for its own key, in this layer, for these prefixes.
    pub(super) fn delegate(
        &self,
        cert: &MemberCert,
        prefixes: &[IpNet],
        now: UnixTime,
    ) -> Result<Vec<u8>, Reason> {
        self.certify_issuer(
            cert.layer(),
            cert.member(),
            *cert.public_key(),
            prefixes,
            now,
        )
    }

    /// The same as a certificate that another root has given.
    pub(super) fn delegate_anew(&self, der: &[u8], now: UnixTime) -> Result<Vec<u8>, Reason> {
        let odd = || failed("one of those that issue has a certificate that can't be read");
        let (layer, member) = issuer_of(der).ok_or_else(odd)?;
        let key = Voice::of(der, false).ok_or_else(odd)?;
        let prefixes = issuer_prefixes(der).ok_or_else(odd)?;
        self.certify_issuer(&layer, &member, *key.key(), &prefixes, now)
    }

    /// This root says that another is one as well, DER.
    pub(super) fn cross(
        &self,
        other: &Self,
        layer: &Label,
        now: UnixTime,
    ) -> Result<Vec<u8>, Reason> {
        let mut params = root_params(layer, now)?;
        // Below it: a member that issues.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.use_authority_key_identifier_extension = true;
        let key = MemberKey(*other.issuer.key().public());
        let signed = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(signed.der().to_vec())
    }

    fn certify_issuer(
        &self,
        layer: &Label,
        member: &Label,
        key: [u8; 32],
        prefixes: &[IpNet],
        now: UnixTime,
    ) -> Result<Vec<u8>, Reason> {
        // Not the name in the member's own certificate: of one name and one key, a chain would seem to go in a circle.
        let name = format!("{ISSUER}{member}");
        let mut params = params(&name, now, ROOT_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = uri(layer, member);
        params.subject_alt_names = vec![SanType::URI(name.try_into().map_err(failed)?)];
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &prefix::OID,
            prefix::encode(prefixes),
        )];
        let key = MemberKey(key);
        let signed = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(signed.der().to_vec())
    }
}

/// The public half of a member's key.
pub(super) struct MemberKey(pub(super) [u8; 32]);

impl PublicKeyData for MemberKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn root_params(layer: &Label, now: UnixTime) -> Result<CertificateParams, Reason> {
    let mut params = params(&format!("strata {layer} authority"), now, ROOT_LIFE)?;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

impl Request {
    pub(super) fn parse(der: &[u8]) -> Result<Self, Reason> {
        let bad = |what: &str| {
            Reason::new(
                Code::PeerMisbehaved,
                format!("the certificate request is malformed: {what}"),
            )
        };
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
                .map_err(|e| bad(&e.to_string()))?;
        if csr.public_key.algorithm() != &PKCS_ED25519
            || PublicKeyData::der_bytes(&csr.public_key).len() != 32
        {
            return Err(bad("its key must be Ed25519"));
        }
        let uris = csr
            .params
            .subject_alt_names
            .iter()
            .filter_map(|name| match name {
                SanType::URI(uri) => Some(uri.as_str()),
                SanType::Rfc822Name(_)
                | SanType::DnsName(_)
                | SanType::IpAddress(_)
                | SanType::OtherName(_)
                | _ => None,
            });
        let (layer, member) =
            member_of(uris).ok_or_else(|| bad("it needs one name strata://LAYER/MEMBER"))?;
        Ok(Self {
            layer,
            member,
            public_key: csr.public_key,
        })
    }
}

fn params(common_name: &str, now: UnixTime, life: Duration) -> Result<CertificateParams, Reason> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = date(now.0.saturating_sub(SKEW))?;
    params.not_after = date(now.0 + life)?;
    // Neither zero nor a set top bit in front: every serial number has the same length, so that sizes don't depend on chance.
    let mut serial = random::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn date(at: Duration) -> Result<OffsetDateTime, Reason> {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| Reason::new(Code::Failed, "this host's clock is far off; set it right"))
}

/// Before the name of a member in the common name of what it issues with.
pub(super) const ISSUER: &str = "strata issuer ";
/// How far the clock of a member may be behind that of the authority.
const SKEW: Duration = Duration::from_secs(15 * 60);
/// Unless the layer says otherwise: renewed before two thirds are over, which leaves a month for an issuer that is down.
pub(super) const MEMBER_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
