//! What makes a process one member: its key, its certificate chain and the roots that it trusts.

use std::fmt;

use proto::{Addr, Code, Label, Reason, wire};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::file::{Corrupt, Reader, Writer};
use super::invitation::MAX_BETWEEN;
use super::issue::Root;
use super::key::Key;
use super::{CertError, MemberCert, Roots, sha256};
use crate::UnixTime;

/// The identity of one member of one layer.
pub struct Identity {
    key: Key,
    cert: MemberCert,
    /// The certificates from its issuer up to a root's, without that.
    between: Vec<Vec<u8>>,
    roots: Roots,
}

impl Identity {
    /// Puts together what belongs together; refuses a key that isn't the certificate's.
    pub(super) fn new(
        key: Key,
        cert: MemberCert,
        intermediates: Vec<Vec<u8>>,
        roots: Roots,
    ) -> Result<Self, CertError> {
        if key.public() != cert.public_key() {
            return Err(CertError::Malformed("its key is another one"));
        }
        Ok(Self {
            key,
            cert,
            between: intermediates,
            roots,
        })
    }

    /// Takes a certificate of a site's own authority: `ca`, `cert` (with any intermediates behind it) and `key` as PEM or
    /// DER; the key is Ed25519 in PKCS#8.
    pub fn from_pki(
        layer: &Label,
        member: &Label,
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
        now: UnixTime,
    ) -> Result<Self, Reason> {
        let roots = certificates(ca, "--ca")?;
        let mut chain = certificates(cert, "--cert")?;
        let usage = |e: CertError| {
            Reason::new(
                Code::Usage,
                format!("can't use this certificate as member {member}: {e}"),
            )
        };
        let key = Key::from_pkcs8(private_key(key)?)
            .ok_or_else(|| usage(CertError::Malformed("its key is none of Ed25519 in PKCS#8")))?;
        let roots = Roots::new(roots).map_err(usage)?;
        let leaf = chain.remove(0);
        let cert = MemberCert::verify(&leaf, &chain, &roots, layer, now).map_err(usage)?;
        if cert.member() != member {
            let text = format!(
                "the certificate is for member {}, not for {member}; use that name",
                cert.member()
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        Self::new(key, cert, chain, roots).map_err(usage)
    }

    /// Reads what [`Identity::to_bytes`] wrote. Whether the certificate is still in time shows at the first handshake.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut r = Reader::new(KIND, VERSION, bytes)?;
        let key = Key::from_pkcs8(Zeroizing::new(r.bytes()?.to_vec()))
            .ok_or_else(|| r.damaged("its key can't be read"))?;
        let cert = MemberCert::parse(r.bytes()?)
            .map_err(|_| r.damaged("its certificate can't be read"))?;
        let intermediates = r.list(|r| r.bytes().map(<[u8]>::to_vec))?;
        let roots = r.list(|r| r.bytes().map(<[u8]>::to_vec))?;
        r.end()?;
        let roots = Roots::new(roots).map_err(|_| r.damaged("its authority can't be read"))?;
        Self::new(key, cert, intermediates, roots)
            .map_err(|_| r.damaged("its key and its certificate don't match"))
    }

    /// The bytes to keep in a file that only the owner may read.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new(KIND, VERSION);
        w.bytes(self.key.pkcs8()).bytes(self.cert.der());
        for list in [self.between(), self.roots.ders()] {
            w.u64(list.len() as u64);
            list.iter().for_each(|der| {
                w.bytes(der);
            });
        }
        w.finish()
    }

    /// The layer.
    pub fn layer(&self) -> &Label {
        self.cert.layer()
    }

    /// The member.
    pub fn member(&self) -> &Label {
        self.cert.member()
    }

    /// The member's address in the layer.
    pub fn address(&self) -> Addr {
        self.cert.address()
    }

    /// The member's certificate.
    pub fn cert(&self) -> &MemberCert {
        &self.cert
    }

    /// The authorities of the layer.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Asks an issuer for another certificate of the same key.
    pub fn renewal(&self, issuer: &Label, now: UnixTime) -> wire::EnrolRequest {
        let at = now.secs();
        let message = renewal_part(self.layer(), self.cert.der(), at);
        wire::EnrolRequest {
            issuer: issuer.to_string(),
            certificate: self.cert.der().to_vec(),
            intermediates: self.between().to_vec(),
            at,
            signature: self.sign(&message).to_vec(),
            ..wire::EnrolRequest::default()
        }
    }

    /// Takes the answer; refuses a certificate that isn't this member's, of the same key. Says whether it is news: a later
    /// end, or another issuer.
    pub fn renew(&mut self, reply: &wire::EnrolReply, now: UnixTime) -> Result<bool, Reason> {
        if reply.code != 0 {
            return Err(Reason::new(Code::from_wire(reply.code), reply.text.clone()));
        }
        let blame = |e: CertError| {
            let text = format!("the renewed certificate can't be used: {e}");
            Reason::new(Code::PeerMisbehaved, text)
        };
        let (leaf, chain) = (&reply.certificate, &reply.chain);
        let verified = MemberCert::verify_path(leaf, chain, &self.roots, self.layer(), now);
        let (cert, between) = verified.map_err(blame)?;
        if cert.member() != self.member() || cert.public_key() != self.cert.public_key() {
            return Err(blame(CertError::Malformed("it is somebody else's")));
        }
        let news = cert.not_after() > self.cert.not_after() || between != self.between;
        let stays = || {
            let first = self.roots.first();
            !self.is_of_old_root(now) || cert.is_foreign(&between, &first, now)
        };
        if !news && stays() {
            return Ok(false);
        }
        self.between = between.into_iter().take(MAX_BETWEEN).collect();
        self.cert = cert;
        Ok(true)
    }

    /// Whether its certificate counts only as long as two roots are believed: it is of the one that ends.
    pub fn is_of_old_root(&self, now: UnixTime) -> bool {
        let rolling = self.roots.ders().len() > 1;
        rolling
            && self
                .cert
                .is_foreign(&self.between, &self.roots.first(), now)
    }

    /// Whether its own certificate is believed.
    pub fn check_own(&self, now: UnixTime) -> Result<(), CertError> {
        let (cert, roots) = (&self.cert, &self.roots);
        MemberCert::verify(cert.der(), &self.between, roots, self.layer(), now).map(drop)
    }

    /// The certificates between the member's and the roots, from its issuer upwards.
    pub fn between(&self) -> &[Vec<u8>] {
        &self.between
    }

    /// Trusts as `roots` say from now on.
    pub fn set_roots(&mut self, roots: Roots) {
        self.roots = roots;
    }

    /// The certificates that a peer gets to see, DER: the member's, any intermediates, what two roots say of each other, and
    /// the roots, so that a joiner can compare them with its invitation.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        let own = std::iter::once(self.cert.der());
        let above = self.between.iter().chain(self.roots.crosses());
        let all = above.chain(self.roots.ders()).map(Vec::as_slice);
        own.chain(all).map(<[u8]>::to_vec).collect()
    }

    /// An Ed25519 signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message)
    }

    /// The key with another certificate, to issue with; `None` if that is of another key.
    pub(super) fn issue_with(&self, der: &[u8]) -> Option<Root> {
        Root::load(Zeroizing::new(self.key.pkcs8().to_vec()), der)
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.pkcs8().to_vec()).into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.cert)
    }
}

/// What a member signs that asks for another certificate.
pub(super) fn renewal_part(layer: &Label, certificate: &[u8], at: u64) -> Vec<u8> {
    let layer = layer.as_str().as_bytes();
    [
        RENEW,
        layer,
        &[0],
        &sha256(&[certificate]),
        &at.to_be_bytes(),
    ]
    .concat()
}

/// The certificates of a file, at least one.
fn certificates(bytes: &[u8], what: &str) -> Result<Vec<Vec<u8>>, Reason> {
    if !is_pem(bytes) {
        return Ok(vec![bytes.to_vec()]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes)
        .map(|c| c.map(|c| c.to_vec()))
        .collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Reason::new(
            Code::Usage,
            format!("{what} holds no certificate; give one as PEM or DER"),
        )),
    }
}

fn private_key(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Reason> {
    if !is_pem(bytes) {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    PrivatePkcs8KeyDer::from_pem_slice(bytes)
        .map(|key| Zeroizing::new(key.secret_pkcs8_der().to_vec()))
        .map_err(|_| {
            Reason::new(
                Code::Usage,
                "--key holds no key; give an Ed25519 key in PKCS#8 as PEM or DER",
            )
        })
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).take(4096).any(|w| w == b"-----BEGIN ")
}

const RENEW: &[u8] = b"strata renew v1";
const KIND: &str = "identity";
const VERSION: u16 = 1;
