//! A secret under a passphrase: Argon2id (RFC 9106) makes the key, ChaCha20-Poly1305 seals. It must not invent anything.

use argon2::{Algorithm, Argon2, Params, Version};
use proto::{Code, Reason};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::file::{Corrupt, Reader, Writer};
use super::{failed, random};

/// What a passphrase has been made into: seals without asking for it again. Zeroized.
pub(super) struct Lock {
    header: [u8; 8],
    salt: Vec<u8>,
    key: Zeroizing<[u8; 32]>,
}

impl Lock {
    /// Takes some 50 ms and 19 MiB, so that guessing costs as much.
    pub(super) fn new(passphrase: &[u8]) -> Result<Self, Reason> {
        if passphrase.len() < MIN_PASSPHRASE {
            let text = "the passphrase has fewer than 12 bytes; choose a longer one";
            return Err(Reason::new(Code::Usage, text));
        }
        let salt = random::<16>()?.to_vec();
        let mut header = [0; 8];
        header[..4].copy_from_slice(&MEMORY.to_be_bytes());
        header[4..].copy_from_slice(&PASSES.to_be_bytes());
        let key = key(passphrase, &salt, MEMORY, PASSES);
        Ok(Self {
            header,
            salt,
            key: key.ok_or_else(|| failed("Argon2 refuses"))?,
        })
    }

    /// Seals a secret.
    pub(super) fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, Reason> {
        let nonce = random::<12>()?;
        let mut sealed = secret.to_vec();
        let key = cipher(&self.key).ok_or_else(|| failed("the key is refused"))?;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&self.header),
            &mut sealed,
        )
        .map_err(|_| failed("the secret is too long"))?;
        let mut w = Writer::new(KIND, VERSION);
        let fields: [&[u8]; 4] = [&self.header, &self.salt, &nonce, &sealed];
        fields.into_iter().for_each(|field| {
            w.bytes(field);
        });
        Ok(w.finish().to_vec())
    }

    /// Opens what was sealed.
    pub(super) fn open(
        file: &[u8],
        passphrase: &[u8],
    ) -> Result<(Self, Zeroizing<Vec<u8>>), Reason> {
        let usage = |e: &dyn std::fmt::Display| Reason::new(Code::Usage, e.to_string());
        let fields = || -> Result<_, Corrupt> {
            let mut r = Reader::new(KIND, VERSION, file)?;
            let fields = (r.bytes()?, r.bytes()?, r.bytes()?, r.bytes()?);
            r.end()?;
            Ok(fields)
        };
        let (header, salt, nonce, sealed) = fields().map_err(|e| usage(&e))?;
        let odd =
            || usage(&"the export was made in a way that this program doesn't know; update it");
        let header = <[u8; 8]>::try_from(header).map_err(|_| odd())?;
        let (memory, passes) = header.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        let (memory, passes) = (number(memory), number(passes));
        // A file can't make this program use up the host.
        if memory > MAX_MEMORY || passes > MAX_PASSES {
            return Err(odd());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| odd())?;
        let key = key(passphrase, salt, memory, passes).ok_or_else(odd)?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        let len = cipher(&key)
            .ok_or_else(odd)?
            .open_in_place(nonce, Aad::from(&header), &mut opened)
            .map_err(|_| {
                let text = "the passphrase is wrong, or what is sealed was altered";
                Reason::new(Code::Denied, text)
            })?
            .len();
        opened.truncate(len);
        let salt = salt.to_vec();
        Ok((Self { header, salt, key }, opened))
    }
}

/// Seals a secret once.
pub(super) fn lock(secret: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, Reason> {
    Lock::new(passphrase)?.seal(secret)
}

/// Opens what [`lock`] made.
pub(super) fn unlock(file: &[u8], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, Reason> {
    Lock::open(file, passphrase).map(|(_, secret)| secret)
}

fn key(passphrase: &[u8], salt: &[u8], memory: u32, passes: u32) -> Option<Zeroizing<[u8; 32]>> {
    let params = Params::new(memory, passes, 1, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut *key)
        .ok()?;
    Some(key)
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
    Some(LessSafeKey::new(key))
}

const KIND: &str = "authority export";
const VERSION: u16 = 1;
const MIN_PASSPHRASE: usize = 12;
/// KiB and passes, as OWASP advises.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const MAX_MEMORY: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const PASS: &[u8] = b"correct horse battery";

    #[test]
    fn a_secret_opens_with_its_passphrase_only_and_nothing_of_it_shows() {
        let secret = b"the root key of a layer";
        let file = lock(secret, PASS).unwrap();
        assert_eq!(unlock(&file, PASS).unwrap().as_slice(), secret);
        let wrong = unlock(&file, b"correct horse batterz").unwrap_err();
        assert_eq!(wrong.code, Code::Denied);
        assert!(!file.windows(8).any(|w| secret.windows(8).any(|s| s == w)));
        assert_ne!(file, lock(secret, PASS).unwrap(), "another salt each time");
        assert_eq!(lock(secret, b"short").unwrap_err().code, Code::Usage);
    }

    #[test]
    fn an_export_cut_or_altered_is_refused() {
        let file = lock(b"secret", PASS).unwrap();
        for at in (0..file.len()).step_by(7) {
            assert!(unlock(&file[..at], PASS).is_err(), "cut at {at}");
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(unlock(&bad, PASS).is_err(), "altered at {at}");
        }
    }

    #[test]
    fn an_export_that_wants_all_memory_is_refused() {
        let mut w = Writer::new(KIND, VERSION);
        let header = [u32::MAX, 1].map(u32::to_be_bytes).concat();
        w.bytes(&header)
            .bytes(&[0; 16])
            .bytes(&[0; 12])
            .bytes(&[0; 32]);
        assert_eq!(unlock(&w.finish(), PASS).unwrap_err().code, Code::Usage);
    }
}
