//! What the layer's authority says to all members: numbered, signed, and of each kind the newest holds. It must not keep a
//! decree that no authority signed, nor know what one of them means.
//!
//! Like records, decrees go from neighbour to neighbour when they are new, and two neighbours whose link has come up tell
//! each other what they hold. Unlike records they don't age, and every member keeps them on disk.

mod revoked;
mod signed;
#[cfg(test)]
mod tests;
mod trust;

pub use revoked::Revocation;
pub use trust::{MAX_ISSUERS, Trust};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::Label;
use proto::wire::{self, SignedDecree};

use crate::crypt::{Authority, Roots};
use crate::{UnixTime, crypt};
use signed::{Parsed, parse, sign};

/// What a decree is about; its number is the `kind` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(u32);

impl Kind {
    /// Who may be believed: roots and issuers.
    pub const TRUST: Self = Self(1);
    /// Who may no longer be.
    pub const REVOKED: Self = Self(2);
    /// Who may do what.
    pub const POLICY: Self = Self(3);

    /// Kinds that this version doesn't know are kept and sent on all the same, so that an old member in between doesn't keep
    /// them from newer ones.
    fn from_wire(kind: u32) -> Option<Self> {
        (1..=MAX_KIND).contains(&kind).then_some(Self(kind))
    }
}

/// The decrees that one member holds.
#[derive(Debug)]
pub struct Decrees {
    layer: Label,
    held: BTreeMap<(Kind, Signer), Held>,
}

/// SHA-256 of the SubjectPublicKeyInfo of a key that signs.
type Signer = [u8; 32];

/// One decree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decree {
    /// What it is about.
    pub kind: Kind,
    /// Counts up from 1 in each kind.
    pub number: u64,
    /// Which key signed it.
    pub signer: [u8; 32],
    /// When, in seconds of Unix time; for people.
    pub signed_at: u64,
    /// As the kind wants it.
    pub content: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    decree: Decree,
    /// The first bytes of the SHA-256 of the body: of two with one number the higher holds.
    hash: [u8; 8],
    signed: SignedDecree,
}

/// Lets each neighbour have so many signatures checked, and no more in a while: one that makes them up wastes its own share.
#[derive(Debug, Default)]
pub struct Share {
    spent: u32,
    since: Option<Instant>,
}

impl Share {
    fn spend(&mut self, now: Instant) -> bool {
        let back = self.since.map_or(self.spent, |since| {
            let regained = now.saturating_duration_since(since).as_millis() / REGAIN.as_millis();
            u32::try_from(regained).unwrap_or(u32::MAX)
        });
        if back > 0 || self.since.is_none() {
            self.spent = self.spent.saturating_sub(back);
            self.since = Some(now);
        }
        let left = self.spent < BURST;
        self.spent += u32::from(left);
        left
    }
}

/// What became of a decree that was not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// It was news of this kind: keep the decrees on disk, send it on, and act on it.
    New(Kind),
    /// It was held already.
    Known,
    /// A newer one is held: to be sent back.
    Stale(SignedDecree),
}

/// Why a decree is not taken. Each is counted under [`DecreeError::word`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecreeError {
    /// It has more than its bound.
    #[error("a decree has {found} bytes, more than {MAX_CONTENT}")]
    TooLarge {
        /// How many it has.
        found: usize,
    },
    /// The bytes are no decree.
    #[error("a decree can't be read: {0}")]
    Malformed(&'static str),
    /// The neighbour has sent too many that had to be checked.
    #[error("a neighbour sends too many decrees")]
    TooMany,
    /// The key may not speak for the authority, or not on this.
    #[error("a decree is signed by a key that may not")]
    Signer,
    /// The key didn't sign it.
    #[error("the signature of a decree is forged")]
    Forged,
}

impl DecreeError {
    /// A stable word for counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "drop.decree_too_large",
            Self::Malformed(_) => "drop.decree_malformed",
            Self::TooMany => "drop.decree_rate",
            Self::Signer => "drop.decree_signer",
            Self::Forged => "drop.decree_forged",
        }
    }
}

impl Decrees {
    /// None yet.
    pub fn new(layer: Label) -> Self {
        Self {
            layer,
            held: BTreeMap::new(),
        }
    }

    /// Makes the next decree of a kind and holds it. It is to be kept on disk and flooded.
    pub fn publish(
        &mut self,
        authority: &Authority,
        kind: Kind,
        content: Vec<u8>,
        now: UnixTime,
    ) -> Result<SignedDecree, DecreeError> {
        self.publish_as(authority, authority.voice(), kind, content, now)
    }

    /// The same, signed by one of the keys that the authority holds.
    pub fn publish_as(
        &mut self,
        authority: &Authority,
        signer: [u8; 32],
        kind: Kind,
        content: Vec<u8>,
        now: UnixTime,
    ) -> Result<SignedDecree, DecreeError> {
        if content.len() > MAX_CONTENT {
            return Err(DecreeError::TooLarge {
                found: content.len(),
            });
        }
        let last = self.of(kind).map(|held| held.decree.number).max();
        let decree = Decree {
            kind,
            number: last.unwrap_or(0).saturating_add(1),
            signer,
            signed_at: now.secs(),
            content,
        };
        let signed = sign(authority, &self.layer, &decree);
        self.hold(decree, signed.clone());
        Ok(signed)
    }

    /// Takes a decree that came from a neighbour. What is held is looked at first: that costs nothing, and most come more
    /// than once.
    pub fn insert(
        &mut self,
        now: Instant,
        share: &mut Share,
        trusted: &Roots,
        signed: SignedDecree,
    ) -> Result<Taken, DecreeError> {
        let Parsed { decree, hash } = parse(&signed)?;
        if let Some(held) = self.held.get(&(decree.kind, decree.signer)) {
            match (decree.number, hash).cmp(&(held.decree.number, held.hash)) {
                std::cmp::Ordering::Less => return Ok(Taken::Stale(held.signed.clone())),
                std::cmp::Ordering::Equal => return Ok(Taken::Known),
                std::cmp::Ordering::Greater => {}
            }
        }
        if !share.spend(now) {
            return Err(DecreeError::TooMany);
        }
        let voice = trusted.voice(&decree.signer).ok_or(DecreeError::Signer)?;
        if !voice.is_root() && decree.kind != Kind::REVOKED {
            return Err(DecreeError::Signer);
        }
        voice
            .check(
                &signed::signed_bytes(&self.layer, &signed.body),
                &signed.signature,
            )
            .map_err(|_| DecreeError::Forged)?;
        let kind = decree.kind;
        self.hold(decree, signed);
        Ok(Taken::New(kind))
    }

    /// The newest decree of a kind, whoever signed it: what holds, of kinds of which one holds at a time.
    pub fn current(&self, kind: Kind) -> Option<&Decree> {
        let newest = self
            .of(kind)
            .max_by_key(|held| (held.decree.number, held.hash));
        newest.map(|held| &held.decree)
    }

    /// The newest decree of each signer: what holds, of kinds of which all hold together.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Decree> {
        self.of(kind).map(|held| &held.decree)
    }

    /// Forgets the decrees of whoever may no longer speak for the authority. Says whether there were any.
    pub fn retain_trusted(&mut self, trusted: &Roots) -> bool {
        let before = self.held.len();
        self.held
            .retain(|(_, signer), _| trusted.voice(signer).is_some());
        self.held.len() != before
    }

    /// What is held, for a neighbour whose link came up.
    pub fn digest(&self) -> wire::DecreeDigest {
        let version = |((kind, signer), held): (&(Kind, Signer), &Held)| wire::DecreeVersion {
            kind: kind.0,
            signer: signer.to_vec(),
            number: held.decree.number,
            hash: held.hash.to_vec(),
        };
        wire::DecreeDigest {
            versions: self.held.iter().map(version).collect(),
        }
    }

    /// What the neighbour that sent this digest lacks: what says whom to trust comes first. It would refuse what nobody has
    /// signed that may speak now.
    pub fn missing(&self, digest: &wire::DecreeDigest, trusted: &Roots) -> Vec<SignedDecree> {
        let theirs: BTreeMap<_, _> = digest
            .versions
            .iter()
            .map(|v| ((v.kind, &v.signer[..]), (v.number, &v.hash[..])))
            .collect();
        let newer = self.held.iter().filter(|((kind, signer), held)| {
            let speaks = trusted.voice(signer).is_some();
            speaks
                && theirs
                    .get(&(kind.0, &signer[..]))
                    .is_none_or(|has| *has < (held.decree.number, &held.hash[..]))
        });
        newer.map(|(_, held)| held.signed.clone()).collect()
    }

    /// The bytes to keep on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let decrees = self.held.values().map(|held| held.signed.clone());
        let kept = wire::Decrees {
            decrees: decrees.collect(),
        };
        signed::seal_file(&prost::Message::encode_to_vec(&kept))
    }

    /// Reads what [`Decrees::to_bytes`] wrote. It was believed once and lies where only the owner writes, so that only its
    /// checksum is looked at: the keys that signed may be gone since.
    pub fn from_bytes(layer: Label, bytes: &[u8]) -> Result<Self, crypt::Corrupt> {
        let kept = signed::open_file(bytes)?;
        let mut decrees = Self::new(layer);
        for signed in kept.decrees {
            if let Ok(Parsed { decree, .. }) = parse(&signed) {
                decrees.hold(decree, signed);
            }
        }
        Ok(decrees)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Held> {
        self.held
            .range((kind, [0; 32])..=(kind, [0xff; 32]))
            .map(|(_, held)| held)
    }

    fn hold(&mut self, decree: Decree, signed: SignedDecree) {
        let held = Held {
            hash: signed::hash(&signed.body),
            signed,
            decree,
        };
        self.held
            .insert((held.decree.kind, held.decree.signer), held);
    }
}

/// The most bytes in a decree: a channel's message holds one, and a link's queue all of them.
pub const MAX_CONTENT: usize = 128 * 1024;
const MAX_KIND: u32 = 15;
/// Decrees of one neighbour that are checked at once: all kinds of all signers there can be.
const BURST: u32 = 64;
/// One more after this time.
const REGAIN: Duration = Duration::from_millis(250);
