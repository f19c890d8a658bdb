//! When a member's certificate is believed.

use std::time::Duration;

use proto::Label;
use rustls_pki_types::{self as pki, CertificateDer};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext,
};

use super::issuing::Issuing;
use super::{CertError, MemberCert};
use crate::UnixTime;
use crate::crypt::Roots;

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
        Self::verify_path(der, intermediates, roots, layer, now).map(|(cert, _)| cert)
    }

    /// The same, with those certificates that the chain leads through.
    pub(in crate::crypt) fn verify_path(
        der: &[u8],
        intermediates: &[Vec<u8>],
        roots: &Roots,
        layer: &Label,
        now: UnixTime,
    ) -> Result<(Self, Vec<Vec<u8>>), CertError> {
        let mut cert = Self::parse(der)?;
        let between = path(der, intermediates, roots, now)?;
        for issuer in &between {
            let issuer = Issuing::parse(issuer)?;
            issuer.may_have_issued(&cert, roots, now)?;
            if let (Some((_, name)), Some(voice)) = (issuer.named, issuer.voice) {
                cert.issuer = Some((name, voice));
            }
        }
        if cert.layer != *layer {
            return Err(CertError::WrongLayer {
                found: cert.layer,
                expected: layer.clone(),
            });
        }
        if roots.is_revoked(&cert.public_key, &cert.member) {
            return Err(CertError::Revoked {
                member: cert.member,
            });
        }
        Ok((cert, between))
    }

    /// Whether none of these roots has anything to do with it.
    pub fn is_foreign(&self, between: &[Vec<u8>], roots: &Roots, now: UnixTime) -> bool {
        let verified = Self::verify(&self.der, between, roots, &self.layer, now);
        verified == Err(CertError::UnknownAuthority)
    }

    /// Whether it was taken back since it was verified, or with the key that has issued it.
    pub fn is_revoked(&self, roots: &Roots) -> bool {
        let issuer = self.issuer.as_ref();
        roots.is_revoked(&self.public_key, &self.member)
            || issuer.is_some_and(|(name, by)| roots.is_revoked(by.key(), name))
    }

    /// Whether its time is over, by a clock that may be wrong.
    pub fn is_over(&self, now: UnixTime) -> bool {
        now.0 > self.not_after.0 + TOLERANCE
    }
}

/// The certificates that lead from a member's to a root.
fn path(
    der: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    now: UnixTime,
) -> Result<Vec<Vec<u8>>, CertError> {
    let leaf = CertificateDer::from(der);
    let leaf = EndEntityCert::try_from(&leaf)
        .map_err(|_| CertError::Malformed("it is no X.509 certificate"))?;
    // What the layer has said of its issuers is newer than what their members may show.
    let chain: Vec<_> = intermediates
        .iter()
        .chain(roots.known())
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
    let between = path.intermediate_certificates();
    Ok(between.map(|cert| cert.der().to_vec()).collect())
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
