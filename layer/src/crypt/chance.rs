//! Chance for keys and ids: the system's, through ring. Under the simulator the seed of a run takes its place, everywhere, so
//! that a run repeats to the byte; what is built without it knows no other source.

#[cfg(any(test, feature = "sim"))]
mod seeded;

#[cfg(not(any(test, feature = "sim")))]
pub(super) use rustls::crypto::ring::kx_group::X25519 as CURVE;
#[cfg(any(test, feature = "sim"))]
pub(super) use seeded::CURVE;
#[cfg(any(test, feature = "sim"))]
pub(crate) use seeded::Seeded;

use proto::{Code, Reason};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::crypto::{GetRandomFailed, SecureRandom};

/// What rustls draws on: hellos, and the order of the extensions in them.
#[derive(Debug)]
pub(super) struct Source;

impl SecureRandom for Source {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill(out).ok_or(GetRandomFailed)
    }
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Reason> {
    let mut out = [0; N];
    let text = "the system gives no random numbers; see why /dev/urandom fails";
    fill(&mut out).ok_or_else(|| Reason::new(Code::Failed, text))?;
    Ok(out)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the system's chance comes in"
)]
fn fill(out: &mut [u8]) -> Option<()> {
    #[cfg(any(test, feature = "sim"))]
    if seeded::fill(out) {
        return Some(());
    }
    SystemRandom::new().fill(out).ok()
}
