//! Who is who, and what nobody else may read: certificates, enrolment, handshakes, sealing.
//!
//! | file | holds |
//! |---|---|
//! | `cert` | a member's certificate and when it is believed |
//! | `roots` | whom a member trusts, and who speaks for that |
//! | `prefix` | the prefixes in it (RFC 3779) |
//! | `chance` | what keys and ids are drawn from |
//! | `key` | an Ed25519 key |
//! | `issue` | making certificates, reading requests |
//! | `identity` | key, chain and roots of one member |
//! | `authority` | the root key of a layer, its ledger and its open invitations |
//! | `invitation` | the line that lets somebody join, and the joiner's side of enrolment |
//! | `tls` | what rustls is told: who is trusted, which suites, what time it is |
//! | `exchange` | the hybrid key exchange, of ML-KEM and X25519 |
//! | `acquaintance` | what tells a member that was met from a stranger, cheaply |
//! | `handshake` | TLS 1.3 over PDUs that may be lost, doubled, reordered or forged |
//! | `secrets` | every key that follows from a handshake |
//! | `version` | which versions of the protocol two sides speak |
//! | `seal`, `window` | sealing and opening where a PDU lies, each PDU once |
//! | `locked` | a secret under a passphrase |
//! | `file` | how identity and authority lie in a file |
//!
//! Keys and ids come from ring's own source of chance: no decision, order or size in a layer may follow from them.

mod acquaintance;
mod authority;
mod cert;
mod chance;
mod exchange;
mod farewell;
mod file;
#[cfg(test)]
mod fixtures;
mod handshake;
mod identity;
mod invitation;
mod issue;
mod key;
mod locked;
mod prefix;
mod roots;
mod seal;
mod secrets;
mod tls;
#[cfg(test)]
mod vectors;
mod version;
mod window;

pub use acquaintance::{Acquaintance, Introduction};
pub use authority::{Audit, Authority, Kept, Sealed};
pub use cert::{CertError, MemberCert, issuer_key, issuer_name};
pub use exchange::KeyExchange;
pub use farewell::{Farewell, Farewells};
pub use file::Corrupt;
pub(crate) use file::{unwrap_file, wrap_file};
pub use handshake::{Handshake, HandshakeError, Outcome};
pub use identity::Identity;
pub use invitation::{Invitation, Joiner};
pub use roots::{Roots, Voice, root_facts};
pub use seal::{
    Aead, FlowKey, MAX_BLOCKS, OpenError, OpenKey, REKEY_BLOCKS, Reserved, SealError, SealKey, TAG,
};
pub use secrets::Secrets;
pub use tls::{Clock, TlsConfig, aes_is_fast};
pub use version::{Agreed, MIN_VERSION, VERSION, Versions};
pub use window::ReplayWindow;

use proto::{Addr, Code, Label, Name, Reason};
use ring::digest;

#[cfg(any(test, feature = "sim"))]
pub(crate) use chance::Seeded;
use chance::random;

/// The address of a member: the first 8 bytes of SHA-256(layer ‖ 0 ‖ member).
pub fn address(layer: &Label, member: &Label) -> Addr {
    let [a, b, c, d, e, f, g, h, ..] =
        sha256(&[layer.as_str().as_bytes(), &[0], member.as_str().as_bytes()]);
    Addr(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// What the directory knows a name by: SHA-256(layer ‖ 0 ‖ name).
pub fn name_hash(layer: &Label, name: &Name) -> [u8; 32] {
    sha256(&[layer.as_str().as_bytes(), &[0], name.as_str().as_bytes()])
}

/// Reads the value of the prefix extension and writes it again, for a fuzzer; `None` if it is refused.
pub fn decode_prefixes(der: &[u8]) -> Option<Vec<u8>> {
    prefix::decode(der)
        .ok()
        .map(|prefixes| prefix::encode(&prefixes))
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Something that fails only if a library or a file of ours is broken.
fn failed(what: impl std::fmt::Display) -> Reason {
    Reason::new(
        Code::Failed,
        format!("can't make a key or a certificate: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::row;

    /// The table of docs/protocol.md.
    #[test]
    fn address_and_name_hash_are_those_of_the_protocol() {
        let layer = Label::new("home").unwrap();
        let alice = address(&layer, &Label::new("alice").unwrap());
        assert_eq!(
            [alice.0.to_be_bytes().to_vec()],
            row("address of member `alice`")
        );
        let hash = name_hash(&layer, &Name::new("echo").unwrap());
        assert_eq!([hash.to_vec()], row("hash of the name `echo`"));
    }
}
