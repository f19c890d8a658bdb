//! The key exchanges: X25519MLKEM768, a hybrid that holds as long as one of its halves does, before plain X25519.
//!
//! draft-ietf-tls-ecdhe-mlkem, group 0x11EC: in the client's share, the server's and the secret, what ML-KEM-768 (FIPS 203)
//! makes comes first, then what X25519 makes. Both halves draw on ring's source of chance.

use std::fmt;

use ml_kem::array::Array;
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use ml_kem::{Decapsulate, KeyExport};
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};
use zeroize::Zeroizing;

use super::chance::{CURVE, random};

/// How two sides agreed on their first secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExchange {
    /// ML-KEM-768 and X25519 together: safe from who records today and has a quantum computer later.
    X25519MlKem768,
    /// X25519 alone: the other side knows no other.
    X25519,
}

/// The groups that are offered and taken, in our order.
pub(super) const GROUPS: [&dyn SupportedKxGroup; 2] = [&Hybrid, CURVE];

impl KeyExchange {
    /// As people know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X25519MlKem768 => "X25519MLKEM768",
            Self::X25519 => "X25519",
        }
    }

    /// Whether somebody with a quantum computer can't read what it protects.
    pub fn is_hybrid(self) -> bool {
        self == Self::X25519MlKem768
    }

    /// That of a group of TLS; `None`: it is none of ours.
    pub(super) fn of(group: NamedGroup) -> Option<Self> {
        [Self::X25519MlKem768, Self::X25519]
            .into_iter()
            .find(|exchange| exchange.group() == group)
    }

    fn group(self) -> NamedGroup {
        match self {
            Self::X25519MlKem768 => NamedGroup::X25519MLKEM768,
            Self::X25519 => NamedGroup::X25519,
        }
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The group X25519MLKEM768.
#[derive(Debug)]
pub(super) struct Hybrid;

/// The client's side between its share and the server's.
struct Active {
    lattice: DecapsulationKey,
    curve: Box<dyn ActiveKeyExchange>,
    share: Vec<u8>,
}

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let curve = CURVE.start()?;
        let lattice = DecapsulationKey::from_seed(Array(*chance::<64>()?));
        let share = [&lattice.encapsulation_key().to_bytes()[..], curve.pub_key()].concat();
        Ok(Box::new(Active {
            lattice,
            curve,
            share,
        }))
    }

    fn start_and_complete(&self, client: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (lattice, curve) = split::<CLIENT>(client)?;
        // Its coefficients must be reduced (FIPS 203, 7.2).
        let lattice = EncapsulationKey::new(&Array(*lattice)).map_err(|_| INVALID)?;
        let curve = CURVE.start_and_complete(curve)?;
        let (sealed, secret) = lattice.encapsulate_deterministic(&Array(*chance::<32>()?));
        let secret = Zeroizing::new(secret);
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [&sealed[..], &curve.pub_key].concat(),
            secret: both(&secret[..], &curve.secret),
        })
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

impl ActiveKeyExchange for Active {
    fn complete(self: Box<Self>, server: &[u8]) -> Result<SharedSecret, Error> {
        let (sealed, curve) = split::<SERVER>(server)?;
        let curve = self.curve.complete(curve)?;
        // What was tampered with yields another secret (FIPS 203, 6.3): the handshake then fails to authenticate.
        let secret = Zeroizing::new(self.lattice.decapsulate(&Array(*sealed)));
        Ok(both(&secret[..], &curve))
    }

    /// Offered beside it, so that a server without ML-KEM costs no round trip more.
    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((self.curve.group(), self.curve.pub_key()))
    }

    fn complete_hybrid_component(self: Box<Self>, server: &[u8]) -> Result<SharedSecret, Error> {
        self.curve.complete(server)
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// The half of ML-KEM, `N` bytes, and that of X25519.
fn split<const N: usize>(share: &[u8]) -> Result<(&[u8; N], &[u8]), Error> {
    share
        .split_first_chunk()
        .filter(|(_, curve)| curve.len() == SHARE)
        .ok_or(INVALID)
}

fn both(lattice: &[u8], curve: &SharedSecret) -> SharedSecret {
    // Taken as it is and zeroized at its end: with all its room from the start, it leaves no copy behind.
    let mut secret = Vec::with_capacity(lattice.len() + curve.secret_bytes().len());
    secret.extend_from_slice(lattice);
    secret.extend_from_slice(curve.secret_bytes());
    SharedSecret::from(secret)
}

fn chance<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let bytes = random().map_err(|reason| Error::General(reason.text))?;
    Ok(Zeroizing::new(bytes))
}

const INVALID: Error = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);
/// The bytes of an encapsulation key of ML-KEM-768, of its ciphertext, and of a share of X25519.
const CLIENT: usize = 1184;
const SERVER: usize = 1088;
const SHARE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::sha256;
    use crate::vectors::{row, vector};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Both sides' secrets, or why one of them refused; `spoil` may change the client's and the server's share.
    fn exchange(spoil: impl Fn(&mut Vec<u8>, &mut Vec<u8>)) -> Result<[SharedSecret; 2], Error> {
        let client = Hybrid.start()?;
        let (mut ours, mut none) = (client.pub_key().to_vec(), Vec::new());
        spoil(&mut ours, &mut none);
        let server = Hybrid.start_and_complete(&ours)?;
        let mut theirs = server.pub_key;
        spoil(&mut none, &mut theirs);
        Ok([client.complete(&theirs)?, server.secret])
    }

    fn is_refused(spoil: impl Fn(&mut Vec<u8>, &mut Vec<u8>)) -> bool {
        matches!(exchange(spoil), Err(INVALID))
    }

    /// FIPS 203 with the seed `d ‖ z` = 0..64 and `m` = 64..96, as another implementation computes it.
    #[test]
    fn the_lattice_half_answers_as_the_standard_says() {
        let bytes = |from: u8| std::array::from_fn(|i| from + i as u8);
        let key = DecapsulationKey::from_seed(Array(std::array::from_fn(|i| i as u8)));
        let share = key.encapsulation_key().to_bytes();
        let [hashes] = row("SHA-256 of that encapsulation key");
        assert_eq!(sha256(&[&share])[..], hashes[..32]);
        let peer = EncapsulationKey::new(&share).unwrap();
        let (mut sealed, secret) = peer.encapsulate_deterministic(&Array(bytes(64)));
        assert_eq!(sha256(&[&sealed])[..], hashes[32..]);
        let [known] = row("ML-KEM-768, seed");
        assert_eq!(secret[..], known);
        assert_eq!(key.decapsulate(&sealed)[..], known);
        let other = <[u8; 1088]>::try_from(vector("mlkem.ciphertext")).unwrap();
        let secret = key.decapsulate(&Array(other));
        assert_eq!(secret[..], vector("mlkem.secret"));
        sealed[0] ^= 1;
        assert_eq!(
            hex(&key.decapsulate(&sealed)),
            "dcfc80c6db46ff7028e3a4398651c063ae7a42c107a6dc8cb07141861698ab92",
            "the implicit rejection"
        );
    }

    #[test]
    fn both_sides_get_one_secret_of_two_halves_and_never_the_same_again() {
        let [ours, theirs] = exchange(|_, _| {}).unwrap();
        assert_eq!(ours.secret_bytes(), theirs.secret_bytes());
        assert_eq!(ours.secret_bytes().len(), 64);
        let [again, _] = exchange(|_, _| {}).unwrap();
        for half in 0..2 {
            let half = half * 32..half * 32 + 32;
            assert_ne!(
                ours.secret_bytes()[half.clone()],
                again.secret_bytes()[half]
            );
        }
    }

    #[test]
    fn shares_lie_as_the_draft_says() {
        let client = Hybrid.start().unwrap();
        let share = client.pub_key().to_vec();
        assert_eq!(share.len(), 1184 + 32);
        let (group, curve) = client.hybrid_component().unwrap();
        assert_eq!((group, curve), (NamedGroup::X25519, &share[1184..]));
        let server = Hybrid.start_and_complete(&share).unwrap();
        assert_eq!(server.pub_key.len(), 1088 + 32);
        assert_eq!(u16::from(server.group), 0x11ec);
        // ML-KEM's half of the secret first: what the curve alone yields is the last 32 bytes.
        let curve = CURVE.start().unwrap();
        let mut mixed = share;
        mixed.splice(1184.., curve.pub_key().iter().copied());
        let server = Hybrid.start_and_complete(&mixed).unwrap();
        let alone = curve.complete(&server.pub_key[1088..]).unwrap();
        assert_eq!(alone.secret_bytes(), &server.secret.secret_bytes()[32..]);
    }

    #[test]
    fn shares_of_another_length_and_weak_points_are_refused() {
        assert!(is_refused(|client, _| client.push(0)));
        assert!(is_refused(
            |client, _| client.truncate(client.len().saturating_sub(1))
        ));
        assert!(is_refused(|client, _| client.clear()));
        assert!(is_refused(|client, server| if client.is_empty() {
            server.push(0);
        }));
        assert!(is_refused(|client, server| if client.is_empty() {
            server.pop();
        }));
        // All-zero points of X25519 yield an all-zero secret (RFC 7748 section 6.1).
        assert!(is_refused(|client, _| if !client.is_empty() {
            client[1184..].fill(0);
        }));
        assert!(is_refused(|client, server| if client.is_empty() {
            server[1088..].fill(0);
        }));
        // A coefficient that is not reduced.
        assert!(is_refused(|client, _| if !client.is_empty() {
            client[..2].fill(0xff);
        }));
    }

    #[test]
    fn a_share_that_was_tampered_with_leads_to_two_secrets() {
        for at in [0, 500, 1087, 1088, 1100] {
            let pair = exchange(|client, server| {
                if client.is_empty() {
                    server[at] ^= 1;
                }
            });
            let [ours, theirs] = pair.unwrap();
            assert_ne!(ours.secret_bytes(), theirs.secret_bytes(), "byte {at}");
        }
    }
}
