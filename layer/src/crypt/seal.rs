//! Sealing and opening of PDUs where they lie: one AEAD, a 64-bit counter, a replay window.
//!
//! Nothing here allocates, and nothing knows what a PDU means. A faster AEAD would be swapped in here alone.

use std::fmt;
use std::sync::Arc;

use ring::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey,
};
use zeroize::Zeroizing;

use super::ReplayWindow;

/// The bytes that a seal adds behind the body.
pub const TAG: usize = 16;
/// Blocks of 16 bytes under one key after which its owner must ask for new keys.
pub const REKEY_BLOCKS: u64 = 1 << 34;
/// Blocks of 16 bytes after which a key neither seals nor opens.
pub const MAX_BLOCKS: u64 = 1 << 35;

/// Which cipher seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// Where the processor has AES instructions.
    Aes256Gcm,
    /// Elsewhere.
    ChaCha20Poly1305,
}

/// The key of one direction, from which its sender makes a [`SealKey`] and its receiver an [`OpenKey`].
///
/// A key must be turned into a [`SealKey`] once only: a second one would use the same counters again.
pub struct FlowKey {
    pub(super) aead: Aead,
    /// 32 bytes of key, 12 of IV.
    pub(super) material: Zeroizing<[u8; Self::LEN]>,
}

/// Seals what one direction sends.
pub struct SealKey {
    cipher: Arc<Cipher>,
    counter: u64,
    blocks: u64,
}

/// Counters of a [`SealKey`] that are set apart for so many PDUs, so that those can be sealed on any thread.
pub struct Reserved {
    cipher: Arc<Cipher>,
    counter: u64,
    end: u64,
}

/// Opens what one direction sends, each PDU once.
pub struct OpenKey {
    cipher: Cipher,
    window: ReplayWindow,
    blocks: u64,
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key has sealed all that it may; the session needs a fresh handshake.
    #[error("the key has sealed as much as it may; a fresh handshake is due")]
    Exhausted,
    /// No room for the tag, or for the counter in the header.
    #[error("no room for the tag or the counter")]
    Short,
}

/// Why a PDU was not opened; each is a counter of drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It isn't what the owner of the key sealed: altered, forged, or of another key.
    #[error("the PDU doesn't authenticate")]
    Forged,
    /// It has been opened before.
    #[error("the PDU was replayed")]
    Replayed,
    /// It is further behind the newest than the replay window reaches.
    #[error("the PDU is too old for the replay window")]
    TooOld,
    /// It is shorter than a tag.
    #[error("the PDU is too short")]
    Short,
    /// The key has opened all that it may.
    #[error("the key is used up")]
    Exhausted,
}

impl FlowKey {
    pub(super) const LEN: usize = 44;

    /// The sender's end.
    pub fn into_seal(self) -> SealKey {
        SealKey {
            cipher: Arc::new(Cipher::new(&self)),
            counter: 0,
            blocks: 0,
        }
    }

    /// The receiver's end.
    pub fn into_open(self) -> OpenKey {
        OpenKey {
            cipher: Cipher::new(&self),
            window: ReplayWindow::new(),
            blocks: 0,
        }
    }
}

impl SealKey {
    /// The counter that the next PDU gets.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The blocks of 16 bytes that were sealed; from [`REKEY_BLOCKS`] on a fresh handshake is due.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Makes the key as used as that.
    #[cfg(test)]
    pub(crate) fn wear(&mut self, blocks: u64) {
        self.blocks = blocks;
    }

    /// Writes the counter into the last 8 bytes of `header`, takes the whole of it as additional data, and seals
    /// `body_and_tag`, whose last [`TAG`] bytes become the tag.
    pub fn seal(&mut self, header: &mut [u8], body_and_tag: &mut [u8]) -> Result<(), SealError> {
        *header.last_chunk_mut().ok_or(SealError::Short)? = self.counter.to_be_bytes();
        self.seal_with(header, body_and_tag)
    }

    /// Seals with additional data that doesn't lie before the body; it must hold [`SealKey::counter`].
    pub fn seal_with(&mut self, aad: &[u8], body_and_tag: &mut [u8]) -> Result<(), SealError> {
        let body = body_and_tag.len().checked_sub(TAG);
        let blocks = self.blocks + blocks(body.ok_or(SealError::Short)?);
        if blocks > MAX_BLOCKS {
            return Err(SealError::Exhausted);
        }
        self.cipher.seal(self.counter, aad, body_and_tag)?;
        self.counter += 1;
        self.blocks = blocks;
        Ok(())
    }

    /// Sets the next counters apart for PDUs of these lengths, each a body and its tag. Those of them that are never sealed leave
    /// a gap, as lost PDUs do.
    pub fn reserve(&mut self, lens: impl Iterator<Item = usize>) -> Result<Reserved, SealError> {
        let (mut pdus, mut used) = (0, self.blocks);
        for len in lens {
            used += blocks(len.checked_sub(TAG).ok_or(SealError::Short)?);
            pdus += 1;
        }
        if used > MAX_BLOCKS {
            return Err(SealError::Exhausted);
        }
        self.blocks = used;
        let counter = self.counter;
        self.counter += pdus;
        Ok(Reserved {
            cipher: Arc::clone(&self.cipher),
            counter,
            end: self.counter,
        })
    }
}

impl Reserved {
    /// Seals the next PDU, as [`SealKey::seal`] does.
    pub fn seal(&mut self, header: &mut [u8], body_and_tag: &mut [u8]) -> Result<(), SealError> {
        if self.counter == self.end {
            return Err(SealError::Exhausted);
        }
        *header.last_chunk_mut().ok_or(SealError::Short)? = self.counter.to_be_bytes();
        self.cipher.seal(self.counter, header, body_and_tag)?;
        self.counter += 1;
        Ok(())
    }
}

impl OpenKey {
    /// The blocks of 16 bytes that were opened; from [`REKEY_BLOCKS`] on a fresh handshake is due.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Makes the key as used as that.
    #[cfg(test)]
    pub(crate) fn wear(&mut self, blocks: u64) {
        self.blocks = blocks;
    }

    /// Opens `body_and_tag` where it lies, with all of `header` as additional data and the counter from its last
    /// 8 bytes, and gives the body. After an error the bytes are spoilt and must be dropped.
    pub fn open<'a>(
        &mut self,
        header: &[u8],
        body_and_tag: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let counter = u64::from_be_bytes(*header.last_chunk().ok_or(OpenError::Short)?);
        self.open_with(header, counter, body_and_tag)
    }

    /// Opens with additional data that doesn't lie before the body.
    pub fn open_with<'a>(
        &mut self,
        aad: &[u8],
        counter: u64,
        body_and_tag: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let (body, tag) = body_and_tag
            .split_last_chunk_mut::<TAG>()
            .ok_or(OpenError::Short)?;
        // Cheap, and saves the work of opening; it counts only once the counter is proven.
        self.window.check(counter)?;
        let blocks = self.blocks + blocks(body.len());
        if blocks > MAX_BLOCKS {
            return Err(OpenError::Exhausted);
        }
        let (nonce, tag) = (self.cipher.nonce(counter), Tag::from(*tag));
        self.cipher
            .key
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, body, 0..)
            .map_err(|_| OpenError::Forged)?;
        self.window.mark(counter)?;
        self.blocks = blocks;
        Ok(body)
    }
}

/// A key with its IV.
struct Cipher {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl Cipher {
    fn new(key: &FlowKey) -> Self {
        let (secret, iv) = key.material.split_at(32);
        let unbound = UnboundKey::new(key.aead.algorithm(), secret)
            .expect("both ciphers have keys of 32 bytes");
        let mut fixed = [0; 12];
        fixed.copy_from_slice(iv);
        Self {
            key: LessSafeKey::new(unbound),
            iv: fixed,
        }
    }

    /// Seals a body in front of the place of its tag.
    fn seal(&self, counter: u64, aad: &[u8], body_and_tag: &mut [u8]) -> Result<(), SealError> {
        let (body, tag) = body_and_tag
            .split_last_chunk_mut::<TAG>()
            .ok_or(SealError::Short)?;
        let sealed = self
            .key
            .seal_in_place_separate_tag(self.nonce(counter), Aad::from(aad), body);
        // ring refuses only bodies of many gigabytes.
        tag.copy_from_slice(sealed.map_err(|_| SealError::Short)?.as_ref());
        Ok(())
    }

    /// The IV xor the counter, as in RFC 8446 section 5.3.
    fn nonce(&self, counter: u64) -> Nonce {
        let mut nonce = self.iv;
        for (n, c) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
            *n ^= c;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Aead {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// What a body costs a key, the block of its tag included.
fn blocks(body: usize) -> u64 {
    body.div_ceil(16) as u64 + 1
}

macro_rules! secret {
    ($($t:ident),*) => { $(
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($t), "(..)"))
            }
        }
    )* };
}
secret!(FlowKey, SealKey, Reserved, OpenKey);

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Aead; 2] = [Aead::Aes256Gcm, Aead::ChaCha20Poly1305];

    fn key(aead: Aead) -> FlowKey {
        let mut material = Zeroizing::new([0; FlowKey::LEN]);
        for (i, b) in material.iter_mut().enumerate() {
            *b = i as u8;
        }
        FlowKey { aead, material }
    }

    /// A PDU of 16 bytes of header and a body.
    fn sealed(seal: &mut SealKey, body: &[u8]) -> Vec<u8> {
        let mut pdu = vec![0x12; 16];
        pdu.extend(body);
        pdu.extend([0; TAG]);
        let (header, rest) = pdu.split_at_mut(16);
        seal.seal(header, rest).unwrap();
        pdu
    }

    fn opened(open: &mut OpenKey, pdu: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut pdu = pdu.to_vec();
        let head = pdu.len().min(16);
        let (header, rest) = pdu.split_at_mut(head);
        open.open(header, rest).map(|b| b.to_vec())
    }

    #[test]
    fn what_is_sealed_opens_once() {
        for aead in BOTH {
            let (mut seal, mut open) = (key(aead).into_seal(), key(aead).into_open());
            for body in [&b""[..], b"x", &[7; 1400]] {
                let pdu = sealed(&mut seal, body);
                assert!(
                    body.len() < 8 || !pdu.windows(8).any(|w| w == &body[..8]),
                    "plaintext shows"
                );
                assert_eq!(opened(&mut open, &pdu).as_deref(), Ok(body));
                assert_eq!(opened(&mut open, &pdu), Err(OpenError::Replayed));
            }
            assert_eq!((seal.counter(), seal.blocks()), (3, 1 + 2 + 89));
        }
    }

    #[test]
    fn a_cut_or_flipped_pdu_is_refused_and_spoils_nothing() {
        for aead in BOTH {
            let (mut seal, mut open) = (key(aead).into_seal(), key(aead).into_open());
            let pdu = sealed(&mut seal, b"forty-two bytes of very plain text, indeed");
            for len in 0..pdu.len() {
                let error = opened(&mut open, &pdu[..len]).unwrap_err();
                assert_eq!(
                    error,
                    if len < 16 + TAG {
                        OpenError::Short
                    } else {
                        OpenError::Forged
                    },
                    "cut at {len}"
                );
            }
            for bit in 0..pdu.len() * 8 {
                let mut bad = pdu.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opened(&mut open, &bad), Err(OpenError::Forged), "bit {bit}");
            }
            assert!(opened(&mut open, &pdu).is_ok());
        }
    }

    #[test]
    fn reordering_is_taken_inside_the_window_and_refused_beyond_it() {
        let (mut seal, mut open) = (
            key(Aead::Aes256Gcm).into_seal(),
            key(Aead::Aes256Gcm).into_open(),
        );
        let pdus: Vec<_> = (0..ReplayWindow::SIZE + 2)
            .map(|_| sealed(&mut seal, b"late"))
            .collect();
        assert!(opened(&mut open, &pdus[pdus.len() - 1]).is_ok());
        assert_eq!(opened(&mut open, &pdus[0]), Err(OpenError::TooOld));
        assert_eq!(opened(&mut open, &pdus[1]), Err(OpenError::TooOld));
        assert!(opened(&mut open, &pdus[2]).is_ok());
        assert_eq!(opened(&mut open, &pdus[2]), Err(OpenError::Replayed));
    }

    #[test]
    fn a_key_of_another_cipher_or_a_used_up_one_opens_nothing() {
        let (mut seal, mut other) = (
            key(Aead::Aes256Gcm).into_seal(),
            key(Aead::ChaCha20Poly1305).into_open(),
        );
        let pdu = sealed(&mut seal, b"data");
        assert_eq!(opened(&mut other, &pdu), Err(OpenError::Forged));

        let mut open = key(Aead::Aes256Gcm).into_open();
        open.blocks = MAX_BLOCKS - 1;
        assert_eq!(opened(&mut open, &pdu), Err(OpenError::Exhausted));
        seal.blocks = MAX_BLOCKS - 1;
        let mut rest = [0; 20];
        assert_eq!(
            seal.seal(&mut [0; 16], &mut rest),
            Err(SealError::Exhausted)
        );
        assert_eq!(rest, [0; 20], "a refused body must stay as it was");
        assert_eq!(
            key(Aead::Aes256Gcm)
                .into_seal()
                .seal(&mut [0; 16], &mut [0; 15]),
            Err(SealError::Short)
        );
        assert_eq!(
            key(Aead::Aes256Gcm)
                .into_seal()
                .seal(&mut [0; 7], &mut [0; 20]),
            Err(SealError::Short)
        );
    }

    #[test]
    fn the_additional_data_may_lie_elsewhere() {
        let (mut seal, mut open) = (
            key(Aead::Aes256Gcm).into_seal(),
            key(Aead::Aes256Gcm).into_open(),
        );
        let mut body = *b"routed..................";
        let counter = seal.counter();
        seal.seal_with(b"cube dst src", &mut body).unwrap();
        assert_eq!(
            open.open_with(b"cube dst xrc", counter, &mut body.clone()),
            Err(OpenError::Forged)
        );
        assert_eq!(
            open.open_with(b"cube dst src", counter, &mut body).unwrap(),
            b"routed.."
        );
    }

    #[test]
    fn counters_that_are_set_apart_seal_as_the_key_would_have() {
        for aead in BOTH {
            let (mut one, mut other) = (key(aead).into_seal(), key(aead).into_seal());
            let bodies = [&b""[..], b"x", &[7; 1400], b"last"];
            let whole: Vec<_> = bodies.iter().map(|body| sealed(&mut one, body)).collect();
            sealed(&mut other, bodies[0]);
            let lens = bodies[1..3].iter().map(|body| body.len() + TAG);
            let mut apart = other.reserve(lens).unwrap();
            let last = sealed(&mut other, bodies[3]);
            assert_eq!((other.counter(), other.blocks()), (4, one.blocks()));
            for (body, whole) in bodies[1..3].iter().zip(&whole[1..]) {
                let mut pdu = vec![0x12; 16];
                pdu.extend(*body);
                pdu.extend([0; TAG]);
                let (header, rest) = pdu.split_at_mut(16);
                apart.seal(header, rest).unwrap();
                assert_eq!(&pdu, whole);
            }
            assert_eq!(last, whole[3]);
            let more = apart.seal(&mut [0; 16], &mut [0; 20]);
            assert_eq!(more, Err(SealError::Exhausted), "no counter is left");
        }
    }

    #[test]
    fn what_is_too_much_for_a_key_is_not_set_apart() {
        let mut seal = key(Aead::Aes256Gcm).into_seal();
        seal.blocks = MAX_BLOCKS - 3;
        let two = || [20, 20].into_iter();
        assert_eq!(seal.reserve(two()).unwrap_err(), SealError::Exhausted);
        assert_eq!(seal.counter(), 0, "nothing was taken");
        assert_eq!(
            seal.reserve([15].into_iter()).unwrap_err(),
            SealError::Short
        );
        assert!(seal.reserve(two().take(1)).is_ok());
        assert_eq!((seal.counter(), seal.blocks), (1, MAX_BLOCKS - 1));
    }

    #[test]
    fn keys_never_show_in_debug_output() {
        assert_eq!(
            format!("{:?} {:?}", key(BOTH[0]), key(BOTH[0]).into_seal()),
            "FlowKey(..) SealKey(..)"
        );
    }
}
