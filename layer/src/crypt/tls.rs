//! What rustls is told: TLS 1.3 only, two suites, two groups, no tickets, no early data, our own idea of trust and time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::{Code, Label, Reason};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme, SupportedCipherSuite,
};
use rustls_pki_types::{self as pki, CertificateDer, ServerName};

use super::chance::Source;
use super::exchange::GROUPS;
use super::{CertError, Identity, MemberCert, Roots, Versions};
use crate::UnixTime;

/// The wall time of a machine, shared with rustls. Until it is set, no certificate is in time.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

/// Both sides' configuration, made once for an identity (or a joiner) and used for every handshake.
#[derive(Clone)]
pub struct TlsConfig {
    pub(super) client: Arc<ClientConfig>,
    /// None for a joiner: nobody dials it.
    pub(super) server: Option<Arc<ServerConfig>>,
    layer: Label,
    /// Carried in place of QUIC's transport parameters, authenticated.
    pub(super) versions: Versions,
}

/// Whom a side believes.
#[derive(Debug)]
pub(super) struct Trust {
    layer: Label,
    anchor: Anchor,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
pub(super) enum Anchor {
    /// A member's roots.
    Roots(Roots),
    /// SHA-256 of the root's key: all that an invitation tells.
    Pinned([u8; 32]),
}

impl Clock {
    /// A clock that hasn't been set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time; every configuration that was made with this clock sees it.
    pub fn set(&self, now: UnixTime) {
        // Milliseconds fit for half a billion years.
        self.0.store(
            u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// The time that was set last.
    pub fn now(&self) -> UnixTime {
        UnixTime(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<pki::UnixTime> {
        Some(pki::UnixTime::since_unix_epoch(self.now().0))
    }
}

impl TlsConfig {
    /// For a member: it shows its certificate on both sides, and takes a client without one (a joiner).
    pub fn member(identity: &Identity, clock: &Clock) -> Result<Self, Reason> {
        let anchor = Anchor::Roots(identity.roots().clone());
        Self::with(
            Trust::new(identity.layer().clone(), anchor),
            identity,
            clock,
        )
    }

    /// For a member that believes as `trust` says.
    pub(super) fn with(
        trust: Arc<Trust>,
        identity: &Identity,
        clock: &Clock,
    ) -> Result<Self, Reason> {
        let chain = || {
            let all = identity.chain().into_iter();
            all.map(CertificateDer::from).collect()
        };
        let builder = ServerConfig::builder_with_details(
            Arc::clone(&trust.provider),
            Arc::new(clock.clone()),
        )
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?;
        let mut server = builder
            .with_client_cert_verifier(Arc::<Trust>::clone(&trust))
            .with_single_cert(chain(), identity.private_key())
            .map_err(unusable)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        let client = client_builder(&trust, clock)?
            .with_client_auth_cert(chain(), identity.private_key())
            .map_err(unusable)?;
        Ok(Self {
            client: Arc::new(hardened(client)),
            server: Some(Arc::new(server)),
            layer: trust.layer.clone(),
            versions: Versions::OURS,
        })
    }

    /// For a joiner: a client without certificate that knows the root by its hash.
    pub(super) fn joiner(layer: Label, root: [u8; 32], clock: &Clock) -> Result<Self, Reason> {
        let trust = Trust::new(layer, Anchor::Pinned(root));
        let client = client_builder(&trust, clock)?.with_no_client_auth();
        Ok(Self {
            client: Arc::new(hardened(client)),
            server: None,
            layer: trust.layer.clone(),
            versions: Versions::OURS,
        })
    }
}

#[cfg(test)]
impl TlsConfig {
    /// A member of a release that knows no hybrid key exchange.
    #[cfg(test)]
    pub(crate) fn curve_only(identity: &Identity, clock: &Clock) -> Result<Self, Reason> {
        let anchor = Anchor::Roots(identity.roots().clone());
        let trust = Trust::with_crypto(identity.layer().clone(), anchor, suites(), &GROUPS[1..]);
        Self::with(trust, identity, clock)
    }

    /// The same side at another release.
    pub(crate) fn speaking(&self, versions: Versions) -> Self {
        Self {
            versions,
            ..self.clone()
        }
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsConfig({})", self.layer)
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client_builder(trust: &Arc<Trust>, clock: &Clock) -> Result<Builder, Reason> {
    Ok(
        ClientConfig::builder_with_details(Arc::clone(&trust.provider), Arc::new(clock.clone()))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Trust>::clone(trust)),
    )
}

fn hardened(mut client: ClientConfig) -> ClientConfig {
    client.resumption = Resumption::disabled();
    client.enable_early_data = false;
    // The hello is readable: it must not name anybody.
    client.enable_sni = false;
    client
}

fn unusable(error: rustls::Error) -> Reason {
    Reason::new(
        Code::Failed,
        format!("the identity can't be used for TLS: {error}; enrol again"),
    )
}

/// The suites in our order. Two only: each has an AEAD that [`super::Aead`] knows.
pub(super) fn suites() -> Vec<SupportedCipherSuite> {
    let mut suites = vec![
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !aes_is_fast() {
        suites.reverse();
    }
    suites
}

/// Whether this processor has instructions for the first of the two ciphers, which is proposed first then.
pub fn aes_is_fast() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

impl Trust {
    pub(super) fn new(layer: Label, anchor: Anchor) -> Arc<Self> {
        Self::with_crypto(layer, anchor, suites(), &GROUPS)
    }

    pub(super) fn with_crypto(
        layer: Label,
        anchor: Anchor,
        cipher_suites: Vec<SupportedCipherSuite>,
        groups: &[&'static dyn SupportedKxGroup],
    ) -> Arc<Self> {
        let provider = CryptoProvider {
            cipher_suites,
            kx_groups: groups.to_vec(),
            secure_random: &Source,
            ..default_provider()
        };
        Arc::new(Self {
            layer,
            anchor,
            provider: Arc::new(provider),
        })
    }

    /// Verifies a chain as the peer sent it, its own certificate first.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<MemberCert, CertError> {
        let (leaf, rest) = chain
            .split_first()
            .ok_or(CertError::Malformed("there is none"))?;
        let intermediates: Vec<_> = rest.iter().map(|der| der.to_vec()).collect();
        match &self.anchor {
            Anchor::Roots(roots) => {
                MemberCert::verify(leaf, &intermediates, roots, &self.layer, now)
            }
            Anchor::Pinned(hash) => {
                let roots = Roots::pinned(rest.iter().map(|der| &**der), hash)?;
                MemberCert::verify(leaf, &intermediates, &roots, &self.layer, now)
            }
        }
    }

    fn believe(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: pki::UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let now = UnixTime(Duration::from_secs(now.as_secs()));
        self.verify(&chain, now)
            .map(|_| ())
            .map_err(|e| to_rustls(e, now))
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }
}

/// In rustls' words, so that the other side gets the fitting alert.
fn to_rustls(error: CertError, now: UnixTime) -> rustls::Error {
    let seconds = |s| pki::UnixTime::since_unix_epoch(Duration::from_secs(s));
    let time = seconds(now.secs());
    rustls::Error::InvalidCertificate(match error {
        CertError::Expired { not_after } => CertificateError::ExpiredContext {
            time,
            not_after: seconds(not_after),
        },
        CertError::NotYetValid { not_before } => CertificateError::NotValidYetContext {
            time,
            not_before: seconds(not_before),
        },
        CertError::UnknownAuthority => CertificateError::UnknownIssuer,
        CertError::BadSignature => CertificateError::BadSignature,
        CertError::Revoked { .. } => CertificateError::Revoked,
        CertError::WrongLayer { .. } | CertError::Malformed(_) => {
            CertificateError::Other(OtherError(Arc::new(error)))
        }
    })
}

/// Undoes [`to_rustls`]: the reason that a person gets to read.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls' own errors speak for themselves"
)]
pub(super) fn describe(error: &rustls::Error) -> String {
    use CertificateError as E;
    let rustls::Error::InvalidCertificate(error) = error else {
        return error.to_string();
    };
    match error {
        E::ExpiredContext { not_after, .. } => CertError::Expired {
            not_after: not_after.as_secs(),
        }
        .to_string(),
        E::NotValidYetContext { not_before, .. } => CertError::NotYetValid {
            not_before: not_before.as_secs(),
        }
        .to_string(),
        E::UnknownIssuer => CertError::UnknownAuthority.to_string(),
        E::Revoked => REVOKED.to_owned(),
        E::Other(other) => other.0.to_string(),
        other => other.to_string(),
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: pki::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.believe(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Trust {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: pki::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.believe(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

const REVOKED: &str = "the certificate was revoked; enroll anew with another invitation";
const NO_TLS12: rustls::Error =
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled);
