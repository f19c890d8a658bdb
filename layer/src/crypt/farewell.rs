//! What the server of a handshake says once it has forgotten it, so that its client need not wait for an answer. It is promised
//! to the client under the handshake's keys: nobody else can say it, and it ends no other handshake (as RFC 9000 section 10.3).
//!
//! A client chooses its session, and whoever sees its hello knows that: nothing is ever said of a handshake that hasn't begun,
//! lest who asks before the hello is there has in hand what ends it.

use std::collections::VecDeque;
use std::fmt;

use ring::hmac;

/// What one server has promised of late.
pub struct Farewells {
    key: hmac::Key,
    begun: u64,
    /// Where, of which session, and the number of each handshake that began, the newest last.
    kept: VecDeque<([u64; 3], u32, u64)>,
}

/// The promise of one handshake.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub struct Farewell(pub(super) [u8; Self::LEN]);

impl Farewells {
    /// From secret bytes, which may serve for something else too.
    pub fn new(secret: &[u8; 32]) -> Self {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), LABEL);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
            begun: 0,
            kept: VecDeque::new(),
        }
    }

    /// That of a handshake that begins: no two have the same. `place`: where no two of one session run at once.
    pub fn promise(&mut self, place: [u64; 3], session: u32) -> Farewell {
        if self.kept.len() >= MAX_KEPT {
            self.kept.pop_front();
        }
        self.begun += 1;
        self.kept.push_back((place, session, self.begun));
        self.of(self.begun)
    }

    /// That of the last handshake of this session that began there, if it is remembered.
    pub fn promised(&self, place: [u64; 3], session: u32) -> Option<Farewell> {
        let mut kept = self.kept.iter().rev();
        let found = kept.find(|(p, s, _)| (*p, *s) == (place, session));
        found.map(|(.., number)| self.of(*number))
    }

    fn of(&self, number: u64) -> Farewell {
        let tag = hmac::sign(&self.key, &number.to_be_bytes());
        let mut said = [0; Farewell::LEN];
        said.copy_from_slice(&tag.as_ref()[..Farewell::LEN]);
        Farewell(said)
    }
}

impl Farewell {
    pub(super) const LEN: usize = 16;

    /// Whether it is what was promised; takes as long whatever was guessed right.
    pub(super) fn is(&self, promised: &[u8; Self::LEN]) -> bool {
        let both = self.0.iter().zip(promised);
        both.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Farewell(..)")
    }
}

const LABEL: &[u8] = b"strata farewell v1";
/// Handshakes that are remembered, however they went on: those of some seconds where most begin.
const MAX_KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_is_of_one_server_and_one_handshake_and_of_none_that_has_not_begun() {
        let (mut one, mut other) = (Farewells::new(&[7; 32]), Farewells::new(&[8; 32]));
        assert_eq!(one.promised([1, 2, 3], 4), None);
        let said = one.promise([1, 2, 3], 4);
        assert_eq!(one.promised([1, 2, 3], 4), Some(said));
        assert_eq!(one.promised([1, 2, 4], 4), None);
        assert_eq!(one.promised([1, 2, 3], 5), None);
        assert!(!said.is(&other.promise([1, 2, 3], 4).0));
        let again = one.promise([1, 2, 3], 4);
        assert!(!said.is(&again.0), "the same session once more");
        assert_eq!(one.promised([1, 2, 3], 4), Some(again));
    }

    #[test]
    fn what_is_kept_of_promises_is_bounded() {
        let mut all = Farewells::new(&[7; 32]);
        for session in 0..2000 {
            all.promise([0; 3], session);
        }
        assert_eq!(all.kept.len(), MAX_KEPT);
        assert_eq!(all.promised([0; 3], 0), None);
        assert!(all.promised([0; 3], 1999).is_some());
    }
}
