//! A site's own authority, and the certificates of members that it issues.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType};

/// The authority.
pub struct Pki {
    /// Its own certificate, DER.
    pub root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// What it issued, DER.
pub struct Issued {
    /// The certificate.
    pub cert: Vec<u8>,
    /// Its key, PKCS#8.
    pub key: Vec<u8>,
}

impl Pki {
    /// Another one each time.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key)?.der().to_vec();
        let issuer = Issuer::new(params, key);
        Ok(Self { root, issuer })
    }

    /// A certificate for `strata://LAYER/MEMBER`, but for what is changed.
    pub fn issue(
        &self,
        uri: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Issued> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            cert: cert.der().to_vec(),
            key: key.serialize_der(),
        })
    }

    /// The same, a year old, with so much of its life left.
    pub fn issue_ending(&self, uri: &str, left: Duration) -> anyhow::Result<Issued> {
        let now = SystemTime::now();
        self.issue(uri, |params| {
            params.not_before = (now - YEAR).into();
            params.not_after = (now + left).into();
        })
    }
}

impl Issued {
    /// Writes files, as PEM, and gives the options of `irm ipcp enroll` that name them.
    pub fn options(&self, dir: &Path, roots: &[&Vec<u8>]) -> anyhow::Result<String> {
        let file = |name: &str, label: &str, ders: &[&Vec<u8>]| {
            let path = dir.join(name);
            let pem = ders.iter().map(|der| pem(label, der));
            fs::write(&path, pem.collect::<String>())
                .with_context(|| format!("can't write {}", path.display()))?;
            anyhow::Ok(path.display().to_string())
        };
        let ca = file("ca.pem", "CERTIFICATE", roots)?;
        let cert = file("cert.pem", "CERTIFICATE", &[&self.cert])?;
        let key = file("key.pem", "PRIVATE KEY", &[&self.key])?;
        Ok(format!("--ca {ca} --cert {cert} --key {key}"))
    }
}

/// RFC 7468, on one line of base64, which all readers take.
fn pem(label: &str, der: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(digits[index as usize])
            });
        }
    }
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);
