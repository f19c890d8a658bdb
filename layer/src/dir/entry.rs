//! One signed entry: how it is signed, what may be in it, and what is wrong with a bad one.

use std::time::{Duration, Instant};

use prost::Message;
use proto::wire::{NameEntry, SignedName};
use proto::{Addr, Label};

use super::NameHash;

/// Why an entry is not taken. Each is counted under [`EntryError::word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes are no entry.
    #[error("the entry can't be read")]
    Malformed,
    /// Nobody has renewed it for too long.
    #[error("the entry is too old; renew it")]
    TooOld,
    /// It is of an earlier life of its originator.
    #[error("the entry is of an earlier life of its originator")]
    EarlierLife,
    /// A newer one is known.
    #[error("a newer entry is known here; sign one with a higher incarnation")]
    Stale,
    /// Its originator has shown no certificate yet.
    #[error("the originator is not known here yet; try again")]
    Stranger,
    /// Its originator didn't sign it.
    #[error("the signature is forged")]
    Forged,
    /// Other members are nearer to the name.
    #[error("this member is not one of those that keep the name; look at the members again")]
    NotHere,
    /// Its originator has, or all have, as many as are kept.
    #[error("no more entries are kept here; unregister some")]
    Full,
    /// Its originator, or the neighbour that it came from, says too much.
    #[error("too many entries at once; try again")]
    TooMany,
}

impl EntryError {
    /// A stable word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "drop.name_malformed",
            Self::TooOld => "drop.name_too_old",
            Self::EarlierLife => "drop.name_earlier_life",
            Self::Stale => "drop.name_stale",
            Self::Stranger => "drop.name_stranger",
            Self::Forged => "drop.name_forged",
            Self::NotHere => "drop.name_not_here",
            Self::Full => "drop.name_limit",
            Self::TooMany => "drop.name_rate",
        }
    }
}

/// Of two entries of one member for one name the one with the higher version holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) incarnation: u64,
    pub(super) counter: u64,
}

/// What an entry says; whether that is true is another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: NameHash,
    pub(super) origin: Addr,
    pub(super) version: Version,
    pub(super) life: Duration,
    pub(super) withdrawn: bool,
}

/// An entry as somebody keeps it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) signed_at: Instant,
    /// When it was told here last.
    pub(super) taken: Instant,
    /// It is here since its originator is a neighbour, and not because this member is to keep it.
    pub(super) guest: bool,
    signed: SignedName,
}

impl Entry {
    /// Reads an entry and checks its bounds, without believing it.
    pub(super) fn parse(signed: &SignedName) -> Result<Self, EntryError> {
        if signed.encoded_len() > MAX_BYTES {
            return Err(EntryError::Malformed);
        }
        let body = NameEntry::decode(signed.body.as_slice()).map_err(|_| EntryError::Malformed)?;
        let hash = NameHash::try_from(body.name_hash).map_err(|_| EntryError::Malformed)?;
        let life = Duration::from_secs(body.life.into());
        if life.is_zero() || life > MAX_LIFE {
            return Err(EntryError::Malformed);
        }
        if Duration::from_secs(signed.age.into()) >= life {
            return Err(EntryError::TooOld);
        }
        Ok(Self {
            hash,
            origin: Addr(body.origin),
            version: Version {
                incarnation: body.incarnation,
                counter: body.counter,
            },
            life,
            withdrawn: body.withdrawn,
        })
    }

    /// Makes a signed entry; `sign` is our key's.
    pub(super) fn sign(self, layer: &Label, sign: impl Fn(&[u8]) -> Vec<u8>) -> SignedName {
        let body = NameEntry {
            name_hash: self.hash.to_vec(),
            origin: self.origin.0,
            incarnation: self.version.incarnation,
            counter: self.version.counter,
            life: u32::try_from(self.life.as_secs()).unwrap_or(u32::MAX),
            withdrawn: self.withdrawn,
        }
        .encode_to_vec();
        SignedName {
            signature: sign(&signed_bytes(layer, &body)),
            body,
            age: 0,
        }
    }
}

impl Held {
    /// Keeps an entry that has come, or was made, now.
    pub(super) fn new(now: Instant, entry: Entry, signed: SignedName) -> Self {
        let age = Duration::from_secs(signed.age.into());
        Self {
            entry,
            signed_at: now.checked_sub(age).unwrap_or(now),
            taken: now,
            guest: false,
            signed,
        }
    }

    /// Whether it may still be told: nobody has taken it back, and its time is not over.
    pub(super) fn lives(&self, now: Instant) -> bool {
        !self.entry.withdrawn && !self.is_over(now)
    }

    /// Whether it may be forgotten.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.signed_at) >= self.entry.life
    }

    /// Whether these are the very bytes that are kept.
    pub(super) fn is(&self, signed: &SignedName) -> bool {
        self.signed.body == signed.body && self.signed.signature == signed.signature
    }

    /// The entry with its present age, rounded up, so that it never grows younger on its way.
    pub(super) fn aged(&self, now: Instant) -> SignedName {
        let age = now.saturating_duration_since(self.signed_at).as_millis();
        SignedName {
            age: u32::try_from(age.div_ceil(1000)).unwrap_or(u32::MAX),
            ..self.signed.clone()
        }
    }
}

/// What the signature covers.
pub(super) fn signed_bytes(layer: &Label, body: &[u8]) -> Vec<u8> {
    [CONTEXT, layer.as_str().as_bytes(), &[0], body].concat()
}

const CONTEXT: &[u8] = b"strata name v1";
/// The most bytes of an entry, encoded: body and signature have less than 160 as we write them.
const MAX_BYTES: usize = 256;
/// The longest that an originator may have its entry kept without renewing it.
const MAX_LIFE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label() -> Label {
        Label::new("home").unwrap()
    }

    proptest! {
        #[test]
        fn what_is_signed_is_read_again(
            hash: [u8; 32], origin: u64, incarnation: u64, counter: u64, life in 1u64..=3600, withdrawn: bool, age: u32,
        ) {
            let version = Version { incarnation, counter };
            let life = Duration::from_secs(life);
            let entry = Entry { hash, origin: Addr(origin), version, life, withdrawn };
            let mut signed = entry.sign(&label(), |_| vec![7; 64]);
            prop_assert_eq!(Entry::parse(&signed), Ok(entry));
            signed.age = age;
            let old = u64::from(age) >= life.as_secs();
            prop_assert_eq!(Entry::parse(&signed).err(), old.then_some(EntryError::TooOld));
        }

        #[test]
        fn no_bytes_break_the_reader(body: Vec<u8>, signature: Vec<u8>, age: u32) {
            let _ = Entry::parse(&SignedName { body, signature, age });
        }
    }

    #[test]
    fn an_entry_is_signed_as_the_document_says() {
        let alice = crate::vectors::member("alice", 0x12);
        let entry = Entry {
            hash: crate::crypt::name_hash(alice.layer(), &proto::Name::new("echo").unwrap()),
            origin: alice.address(),
            version: Version {
                incarnation: 2,
                counter: 4,
            },
            life: Duration::from_secs(1800),
            withdrawn: false,
        };
        let signed = entry.sign(alice.layer(), |bytes| alice.sign(bytes).to_vec());
        assert_eq!(signed.body, crate::vectors::vector("name.body"));
        assert_eq!(signed.signature, crate::vectors::vector("name.signature"));
    }

    #[test]
    fn an_entry_has_these_bytes() {
        let entry = Entry {
            hash: [0xab; 32],
            origin: Addr(0x0102_0304_0506_0708),
            version: Version {
                incarnation: 3,
                counter: 4,
            },
            life: Duration::from_secs(1800),
            withdrawn: true,
        };
        let signed = entry.sign(&label(), |bytes| {
            assert!(bytes.starts_with(b"strata name v1home\0\x0a\x20\xab"));
            vec![7; 64]
        });
        let hex: String = signed.body.iter().map(|b| format!("{b:02x}")).collect();
        let hash = "ab".repeat(32);
        assert_eq!(
            hex,
            format!("0a20{hash}10888e98a8c0e080810118032004 28880e3001").replace(' ', "")
        );
    }
}
