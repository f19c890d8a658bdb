//! An Ed25519 key that signs, for certificates, requests and records alike; what it was made from is zeroized.

use std::fmt;

use proto::Reason;
use rcgen::{PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::random;

/// A private key with its public half.
pub(super) struct Key {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Key {
    /// A fresh key.
    pub(super) fn generate() -> Result<Self, Reason> {
        let seed = Zeroizing::new(random::<32>()?);
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8.len() + seed.len()));
        pkcs8.extend(PKCS8);
        pkcs8.extend(*seed);
        Self::from_pkcs8(pkcs8).ok_or_else(|| super::failed("the fresh key can't be used"))
    }

    /// Takes a key in PKCS#8; `None` if it is none of Ed25519.
    pub(super) fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self {
            pkcs8,
            pair,
            public,
        })
    }

    /// The same key once more.
    pub(super) fn again(&self) -> Option<Self> {
        Self::from_pkcs8(self.pkcs8.clone())
    }

    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(super) fn public(&self) -> &[u8; 32] {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(self.pair.sign(message).as_ref());
        out
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Self::sign(self, message).to_vec())
    }
}

/// What stands before the 32 bytes of an Ed25519 seed in PKCS#8 (RFC 8410 section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn a_key_survives_its_file_and_signs_alike() {
        let key = Key::generate().unwrap();
        let again = Key::from_pkcs8(Zeroizing::new(key.pkcs8().to_vec())).unwrap();
        assert_eq!(key.public(), again.public());
        assert_eq!(key.sign(b"text"), again.sign(b"text"));
        assert!(
            UnparsedPublicKey::new(&ED25519, key.public())
                .verify(b"text", &key.sign(b"text"))
                .is_ok()
        );
        assert_ne!(key.public(), Key::generate().unwrap().public());
        assert!(Key::from_pkcs8(Zeroizing::new(vec![1; 48])).is_none());
    }
}
