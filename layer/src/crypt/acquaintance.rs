//! What lets a member tell the next handshake of one that it has met from those of strangers, before any costly arithmetic.
//!
//! It proves nothing but that; who the other side is, the handshake itself must show.

use std::fmt;

use ring::hmac;

/// What two members share after a handshake, and nobody else can compute.
#[derive(Clone)]
pub struct Acquaintance {
    id: u64,
    key: hmac::Key,
}

/// The proof of it that the first PDUs of the next handshake carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Which acquaintance; it tells an onlooker nothing.
    pub id: u64,
    /// Over the session, so that it is of no use with another.
    pub mac: [u8; Self::MAC],
}

impl Introduction {
    pub(super) const MAC: usize = 16;
}

impl Acquaintance {
    pub(super) const LEN: usize = 40;

    /// From secret bytes: the id, then the key.
    pub(super) fn new(bytes: &[u8; Self::LEN]) -> Self {
        let (id, key) = bytes.split_at(8);
        let mut number = [0; 8];
        number.copy_from_slice(id);
        Self {
            id: u64::from_be_bytes(number),
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// What an [`Introduction`] names it by.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the TLS client of a handshake shows.
    pub fn introduce(&self, session: u32) -> Introduction {
        let tag = hmac::sign(&self.key, &session.to_be_bytes());
        let mut mac = [0; Introduction::MAC];
        mac.copy_from_slice(&tag.as_ref()[..Introduction::MAC]);
        Introduction { id: self.id, mac }
    }

    /// Whether it is this one that was shown, for this session.
    pub fn recognises(&self, session: u32, shown: &Introduction) -> bool {
        // Of a proof that somebody guesses byte by byte, nothing but his place in a queue depends.
        self.introduce(session) == *shown
    }
}

impl fmt::Debug for Acquaintance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acquaintance(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_introduction_holds_for_one_session_and_one_acquaintance() {
        let known = Acquaintance::new(&[7; Acquaintance::LEN]);
        let shown = known.introduce(5);
        assert_eq!(shown.id, known.id());
        assert!(known.recognises(5, &shown) && !known.recognises(6, &shown));
        assert!(!Acquaintance::new(&[8; Acquaintance::LEN]).recognises(5, &shown));
        let mut forged = shown;
        forged.mac[15] ^= 1;
        assert!(!known.recognises(5, &forged));
    }

    /// The table of docs/protocol.md.
    #[test]
    fn an_introduction_is_that_of_the_protocol() {
        let shown = Acquaintance::new(&std::array::from_fn(|i| i as u8)).introduce(0x0102_0304);
        let frame = [&[4][..], &shown.id.to_be_bytes(), &shown.mac].concat();
        assert_eq!([frame], crate::vectors::row("MET, session"));
    }
}
