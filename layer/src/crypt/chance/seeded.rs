//! Chance that follows from a seed, for the simulator. It must be in no program that is released.

use std::cell::RefCell;
use std::marker::PhantomData;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use rustls::crypto::ring::kx_group;
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};
use zeroize::Zeroizing;

/// While it lives, all keys and ids that this thread makes follow from its seed.
pub(crate) struct Seeded {
    before: Option<ChaCha20Rng>,
    /// What it has changed is this thread's.
    here: PhantomData<*const ()>,
}

impl Seeded {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            before: SOURCE.replace(Some(ChaCha20Rng::from_seed(seed))),
            here: PhantomData,
        }
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        SOURCE.set(self.before.take());
    }
}

/// Fills from the seed; `false`: this thread has none.
pub(super) fn fill(out: &mut [u8]) -> bool {
    SOURCE.with_borrow_mut(|source| {
        let filled = source.as_mut().map(|source| source.fill_bytes(out));
        filled.is_some()
    })
}

/// X25519. That of rustls draws by itself, and is used where there is no seed.
pub(in crate::crypt) const CURVE: &dyn SupportedKxGroup = &Curve;

#[derive(Debug)]
struct Curve;

struct Active {
    key: EphemeralPrivateKey,
    share: Vec<u8>,
}

impl SupportedKxGroup for Curve {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        if !fill(&mut *bytes) {
            return kx_group::X25519.start();
        }
        #[expect(
            deprecated,
            reason = "the only source of ring that takes what it gives; in no program that is released"
        )]
        let source = ring::test::rand::FixedSliceRandom { bytes: &*bytes };
        let key = EphemeralPrivateKey::generate(&X25519, &source).map_err(|_| GetRandomFailed)?;
        let share = key.compute_public_key().map_err(|_| GetRandomFailed)?;
        let share = share.as_ref().to_vec();
        Ok(Box::new(Active { key, share }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        kx_group::X25519.usable_for_version(version)
    }
}

impl ActiveKeyExchange for Active {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(&X25519, peer);
        agree_ephemeral(self.key, &peer, |secret| SharedSecret::from(secret))
            .map_err(|_| PeerMisbehaved::InvalidKeyShare.into())
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

thread_local! {
    static SOURCE: RefCell<Option<ChaCha20Rng>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::super::random;
    use super::*;

    fn drawn() -> ([u8; 32], Vec<u8>) {
        (random().unwrap(), CURVE.start().unwrap().pub_key().to_vec())
    }

    #[test]
    fn a_seed_gives_the_same_keys_again_and_without_one_nothing_repeats() {
        let of = |seed| {
            let _seeded = Seeded::new([seed; 32]);
            drawn()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let (one, two) = (drawn(), drawn());
        assert!(one.0 != two.0 && one.1 != two.1, "the seed has stayed");
    }

    #[test]
    fn the_seeded_curve_agrees_with_that_of_rustls_and_refuses_as_it_does() {
        let _seeded = Seeded::new([3; 32]);
        let client = CURVE.start().unwrap();
        let server = kx_group::X25519
            .start_and_complete(client.pub_key())
            .unwrap();
        let secret = client.complete(&server.pub_key).unwrap();
        assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
        for bad in [&[0; 32][..], &[9; 31], &[]] {
            assert!(CURVE.start().unwrap().complete(bad).is_err(), "{bad:?}");
        }
    }
}
