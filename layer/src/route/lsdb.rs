//! Everybody's newest records. It must not keep a record that its originator didn't sign.
//!
//! A record is flooded when it is new. Two neighbours whose link has come up tell each other what they hold (digests),
//! and each sends what the other lacks. Records age: their originator renews them, and what nobody renews is forgotten.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proto::wire::{self, SignedRecord};
use proto::{Addr, Label};
use ring::digest::{SHA256, digest};

use super::record::{
    self, Content, Kind, MAX_LINKS, MAX_MEMBERS, MAX_NAMES, NAMES_PER_RECORD, Parsed, RecordError,
    Version,
};
use super::spf::{Graph, LinkState, tidy};
use crate::Now;
use crate::crypt::{CertError, Identity, MemberCert};
use crate::dir::{Directory, NameHash};

/// The records of all members, our own among them, and the directory that follows from them.
pub struct Lsdb {
    me: Addr,
    layer: Label,
    version: Version,
    members: BTreeMap<Addr, Member>,
    directory: Directory,
    /// Verified certificates by the hash of their DER.
    certs: BTreeMap<[u8; 32], Arc<MemberCert>>,
    renew_at: Option<Instant>,
    sweep_at: Option<Instant>,
    changed: bool,
}

/// What became of a record that was not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// It was news: send it on to all neighbours but the one that it came from.
    New(SignedRecord),
    /// We had it.
    Known,
    /// We hold a newer one: send this back to the neighbour that it came from.
    Stale(SignedRecord),
    /// It is our own from an earlier life. Our counter is above it now: send these to all neighbours, and keep
    /// [`Lsdb::incarnation`] on disk if it has risen.
    OwnFromBefore(Vec<SignedRecord>),
}

struct Member {
    cert: Arc<MemberCert>,
    /// The version of the record that `cert` came with: a renewed certificate comes with a newer record.
    newest: Version,
    records: BTreeMap<Kind, Stored>,
}

struct Stored {
    version: Version,
    signed_at: Instant,
    /// With the age that it had when it came.
    signed: SignedRecord,
    content: Content,
}

impl Lsdb {
    /// Originators renew their records after this time, give or take a tenth.
    pub const RENEW: Duration = Duration::from_secs(600);
    /// Records that nobody renewed for this time are forgotten.
    pub const FORGET: Duration = Duration::from_secs(1800);

    /// An empty one. `incarnation` must be higher at each start of this member.
    pub fn new(me: Addr, layer: Label, incarnation: u64) -> Self {
        Self {
            me,
            layer,
            version: Version {
                incarnation,
                counter: 0,
            },
            members: BTreeMap::new(),
            directory: Directory::default(),
            certs: BTreeMap::new(),
            renew_at: None,
            sweep_at: None,
            changed: false,
        }
    }

    /// Our incarnation; rises above what is left of us from an earlier life.
    pub fn incarnation(&self) -> u64 {
        self.version.incarnation
    }

    /// Says what our links are, at most [`MAX_LINKS`] of them (more are left out, the highest addresses first). The
    /// record is to be flooded; `None` if nothing changed.
    pub fn set_links(
        &mut self,
        now: Now,
        identity: &Identity,
        mut links: Vec<LinkState>,
    ) -> Option<SignedRecord> {
        tidy(&mut links);
        links.truncate(MAX_LINKS);
        self.set(now, identity, Kind::LINKS, Content::Links(links))
    }

    /// Says which names we serve. The records are to be flooded; nothing changes if there are more than [`MAX_NAMES`].
    pub fn set_names(
        &mut self,
        now: Now,
        identity: &Identity,
        mut hashes: Vec<NameHash>,
    ) -> Result<Vec<SignedRecord>, RecordError> {
        hashes.sort_unstable();
        hashes.dedup();
        if hashes.len() > MAX_NAMES {
            return Err(RecordError::TooLarge {
                what: "names",
                max: MAX_NAMES,
            });
        }
        let mut parts = hashes.chunks(NAMES_PER_RECORD);
        let mut flood = Vec::new();
        for kind in (0..).map_while(Kind::names) {
            let part = parts.next().unwrap_or_default();
            // A part that is empty needs a record only if it had one before.
            if !part.is_empty() || self.own(kind).is_some() {
                flood.extend(self.set(now, identity, kind, Content::Names(part.to_vec())));
            }
        }
        Ok(flood)
    }

    /// Takes a record that came from a neighbour.
    pub fn insert(
        &mut self,
        now: Now,
        identity: &Identity,
        record: SignedRecord,
    ) -> Result<Inserted, RecordError> {
        let parsed = record::parse(&record)?;
        let age = Duration::from_secs(record.age.into());
        if age >= Self::FORGET {
            return Err(RecordError::TooOld(parsed.origin));
        }
        let signed_at = now.mono.checked_sub(age).unwrap_or(now.mono);
        let full = self.members.len() >= MAX_MEMBERS;
        let known = self.members.get_mut(&parsed.origin);
        if known.is_none() && full {
            return Err(RecordError::TooManyMembers);
        }
        // What we hold is looked at first: it costs nothing, and most records come more than once.
        if let Some(stored) = known.and_then(|m| m.records.get_mut(&parsed.kind)) {
            match parsed.version.cmp(&stored.version) {
                Ordering::Less => return Ok(Inserted::Stale(stored.aged(now.mono))),
                Ordering::Equal => {
                    // The age isn't signed: one who makes a record old can't have it forgotten while others say otherwise.
                    stored.signed_at = stored.signed_at.max(signed_at);
                    return Ok(Inserted::Known);
                }
                Ordering::Greater => {}
            }
        }
        let cert = self.believe(now, identity, &record, &parsed)?;
        if parsed.origin == self.me {
            return Ok(Inserted::OwnFromBefore(self.outlive(
                now,
                identity,
                parsed.kind,
                parsed.version,
            )));
        }
        self.store(now, cert, parsed, signed_at, record.clone());
        Ok(Inserted::New(record))
    }

    /// What we hold, for a neighbour whose link came up; several messages of at most 64 KiB.
    pub fn digests(&self) -> Vec<wire::Digest> {
        let members: Vec<_> = self.members.iter().collect();
        let mut parts: Vec<_> = members.chunks(DIGEST_MEMBERS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let bounds = |i: usize| {
            let first = if i == 0 { 0 } else { parts[i][0].0.0 };
            // The parts lie without gaps, so that what nobody has is known to be missing too.
            (
                first,
                if i == last {
                    u64::MAX
                } else {
                    parts[i + 1][0].0.0 - 1
                },
            )
        };
        let digest = |i: usize| {
            let versions = parts[i]
                .iter()
                .flat_map(|(addr, member)| member.versions(**addr))
                .collect();
            let (first, last) = bounds(i);
            wire::Digest {
                versions,
                first,
                last,
            }
        };
        (0..parts.len()).map(digest).collect()
    }

    /// What the neighbour that sent this digest lacks, in messages of at most 64 KiB.
    pub fn missing(&self, now: Instant, digest: &wire::Digest) -> Vec<wire::Records> {
        let theirs: BTreeMap<(u64, u32), Version> = digest
            .versions
            .iter()
            .map(|v| {
                (
                    (v.origin, v.kind),
                    Version {
                        incarnation: v.incarnation,
                        counter: v.counter,
                    },
                )
            })
            .collect();
        // A range that ends before it begins holds nobody; BTreeMap would panic.
        let range = (digest.first <= digest.last)
            .then(|| self.members.range(Addr(digest.first)..=Addr(digest.last)));
        let records = range
            .into_iter()
            .flatten()
            .flat_map(|(addr, member)| member.records.iter().map(move |(k, r)| (addr, k, r)));
        let newer = records.filter(|(addr, kind, stored)| {
            theirs
                .get(&(addr.0, kind.to_wire()))
                .is_none_or(|version| *version < stored.version)
        });
        packed(newer.map(|(_, _, stored)| stored.aged(now)))
    }

    /// Forgets what nobody renewed and renews our own; the records are to be flooded. To be called at
    /// [`Lsdb::deadline`]; earlier does no harm.
    pub fn tick(&mut self, now: Now, identity: &Identity) -> Vec<SignedRecord> {
        if self.sweep_at.is_some_and(|at| at <= now.mono) {
            self.sweep(now);
        }
        if self.renew_at.is_some_and(|at| at <= now.mono) {
            self.renew(now, identity)
        } else {
            Vec::new()
        }
    }

    /// When [`Lsdb::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        [self.renew_at, self.sweep_at].into_iter().flatten().min()
    }

    /// Whether links have changed since the last call: the routes have to be found anew.
    pub fn changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The certificates of all members that have said anything, ourselves among them, by address.
    pub fn members(&self) -> impl Iterator<Item = &MemberCert> {
        self.members.values().map(|member| &*member.cert)
    }

    /// The certificate of a member.
    pub fn member(&self, addr: Addr) -> Option<&MemberCert> {
        Some(&*self.members.get(&addr)?.cert)
    }

    /// What a member says of its links.
    pub fn links(&self, addr: Addr) -> &[LinkState] {
        self.members.get(&addr).map_or(&[], Member::links)
    }

    /// The record of one kind that a member has signed, to be sent.
    pub fn record(&self, now: Instant, origin: Addr, kind: u32) -> Option<SignedRecord> {
        let kind = Kind::from_wire(kind)?;
        Some(self.members.get(&origin)?.records.get(&kind)?.aged(now))
    }

    /// Who serves which name.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// All links that anybody names.
    pub fn graph(&self) -> Graph<'_> {
        Graph::new(
            self.members
                .iter()
                .map(|(addr, member)| (*addr, member.links())),
        )
    }

    fn own(&self, kind: Kind) -> Option<&Stored> {
        self.members.get(&self.me)?.records.get(&kind)
    }

    fn set(
        &mut self,
        now: Now,
        identity: &Identity,
        kind: Kind,
        content: Content,
    ) -> Option<SignedRecord> {
        if self.own(kind).is_some_and(|own| own.content == content) {
            return None;
        }
        Some(self.publish(now, identity, kind, content))
    }

    fn publish(
        &mut self,
        now: Now,
        identity: &Identity,
        kind: Kind,
        content: Content,
    ) -> SignedRecord {
        self.version = self.version.next();
        let signed = record::sign(identity, kind, self.version, &content);
        let cert = match self.members.get(&self.me) {
            Some(member) if member.cert.der() == identity.cert().der() => member.cert.clone(),
            _ => Arc::new(identity.cert().clone()),
        };
        let parsed = Parsed {
            origin: self.me,
            kind,
            version: self.version,
            content,
        };
        self.store(now, cert, parsed, now.mono, signed.clone());
        let spread = u32::try_from(
            self.version
                .counter
                .wrapping_mul(PRIME)
                .wrapping_add(self.me.0)
                % 201,
        )
        .unwrap_or(0);
        // Members that started together must not renew together: 90 to 110 % of the time, by address and counter.
        self.renew_at
            .get_or_insert(now.mono + Self::RENEW * (900 + spread) / 1000);
        signed
    }

    fn renew(&mut self, now: Now, identity: &Identity) -> Vec<SignedRecord> {
        self.renew_at = None;
        let own = self.members.get(&self.me).map(|me| {
            me.records
                .iter()
                .map(|(kind, r)| (*kind, r.content.clone()))
                .collect()
        });
        let own: Vec<_> = own.unwrap_or_default();
        own.into_iter()
            .map(|(kind, content)| self.publish(now, identity, kind, content))
            .collect()
    }

    /// Brings all our records above one from an earlier life. One of a kind that we don't have now is emptied.
    fn outlive(
        &mut self,
        now: Now,
        identity: &Identity,
        kind: Kind,
        version: Version,
    ) -> Vec<SignedRecord> {
        self.version = self.version.max(version);
        let empty = if kind == Kind::LINKS {
            Content::Links(Vec::new())
        } else {
            Content::Names(Vec::new())
        };
        let missing = self
            .own(kind)
            .is_none()
            .then(|| self.publish(now, identity, kind, empty));
        missing
            .into_iter()
            .chain(self.renew(now, identity))
            .collect()
    }

    /// The certificate of the originator, if the record is really its.
    fn believe(
        &mut self,
        now: Now,
        identity: &Identity,
        record: &SignedRecord,
        parsed: &Parsed,
    ) -> Result<Arc<MemberCert>, RecordError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &record.certificate).as_ref());
        let cached = self
            .certs
            .get(&hash)
            .filter(|cert| now.wall <= cert.not_after())
            .cloned();
        let cert = match cached {
            Some(cert) => cert,
            None => {
                let roots = identity.roots();
                let cert = MemberCert::verify(
                    &record.certificate,
                    &record.intermediates,
                    roots,
                    &self.layer,
                    now.wall,
                );
                Arc::new(cert.map_err(RecordError::Certificate)?)
            }
        };
        if cert.address() != parsed.origin {
            return Err(RecordError::WrongOrigin {
                claimed: parsed.origin,
                found: cert.address(),
            });
        }
        match cert.check(
            &record::signed_bytes(&self.layer, &record.body),
            &record.signature,
        ) {
            Ok(()) => {}
            Err(CertError::BadSignature) => return Err(RecordError::Forged(parsed.origin)),
            Err(other) => return Err(RecordError::Certificate(other)),
        }
        // Only certificates of true records are kept, so that there are never many more than members.
        self.certs.insert(hash, cert.clone());
        Ok(cert)
    }

    fn store(
        &mut self,
        now: Now,
        cert: Arc<MemberCert>,
        parsed: Parsed,
        signed_at: Instant,
        signed: SignedRecord,
    ) {
        let Parsed {
            origin,
            kind,
            version,
            content,
        } = parsed;
        let empty = || Member {
            cert: cert.clone(),
            newest: version,
            records: BTreeMap::new(),
        };
        let member = self.members.entry(origin).or_insert_with(empty);
        if version >= member.newest {
            (member.newest, member.cert) = (version, cert);
        }
        let old = member.records.remove(&kind);
        match (&content, old.map(|old| old.content)) {
            (Content::Links(new), Some(Content::Links(old))) => self.changed |= *new != old,
            (Content::Links(_), _) => self.changed = true,
            (Content::Names(new), old) => {
                if let Some(Content::Names(old)) = old {
                    self.directory.remove(origin, kind.to_wire(), &old);
                }
                self.directory.add(origin, kind.to_wire(), new);
            }
        }
        member.records.insert(
            kind,
            Stored {
                version,
                signed_at,
                signed,
                content,
            },
        );
        self.sweep_at.get_or_insert(now.mono + SWEEP);
    }

    /// Forgets records that are too old, and members whose certificate has expired.
    fn sweep(&mut self, now: Now) {
        self.sweep_at = Some(now.mono + SWEEP);
        let (me, directory, changed) = (self.me, &mut self.directory, &mut self.changed);
        self.members.retain(|addr, member| {
            let expired = member.cert.not_after() < now.wall;
            member.records.retain(|kind, stored| {
                let keep = *addr == me
                    || !(expired
                        || now.mono.saturating_duration_since(stored.signed_at) >= Self::FORGET);
                match &stored.content {
                    Content::Names(hashes) if !keep => {
                        directory.remove(*addr, kind.to_wire(), hashes)
                    }
                    Content::Links(_) if !keep => *changed = true,
                    Content::Names(_) | Content::Links(_) => {}
                }
                keep
            });
            !member.records.is_empty()
        });
        self.certs.retain(|_, cert| Arc::strong_count(cert) > 1);
    }
}

impl Member {
    fn links(&self) -> &[LinkState] {
        match self.records.get(&Kind::LINKS).map(|stored| &stored.content) {
            Some(Content::Links(links)) => links,
            Some(Content::Names(_)) | None => &[],
        }
    }

    fn versions(&self, addr: Addr) -> impl Iterator<Item = wire::Version> {
        self.records.iter().map(move |(kind, stored)| {
            let Version {
                incarnation,
                counter,
            } = stored.version;
            wire::Version {
                origin: addr.0,
                kind: kind.to_wire(),
                incarnation,
                counter,
            }
        })
    }
}

impl Stored {
    /// The record with its present age, rounded up, so that it never grows younger on its way.
    fn aged(&self, now: Instant) -> SignedRecord {
        let age = now
            .saturating_duration_since(self.signed_at)
            .as_millis()
            .div_ceil(1000);
        SignedRecord {
            age: u32::try_from(age).unwrap_or(u32::MAX),
            ..self.signed.clone()
        }
    }
}

/// As few messages as hold all records.
fn packed(records: impl Iterator<Item = SignedRecord>) -> Vec<wire::Records> {
    let (mut messages, mut room) = (Vec::new(), 0);
    for record in records {
        let len = record.encoded_len() + RECORD_FRAME;
        if messages.is_empty() || len > room {
            messages.push(wire::Records::default());
            room = MESSAGE;
        }
        room = room.saturating_sub(len);
        if let Some(last) = messages.last_mut() {
            last.records.push(record);
        }
    }
    messages
}

const SWEEP: Duration = Duration::from_secs(30);
/// The most bytes of records in a message, less the message's own frame.
const MESSAGE: usize = 65_536 - 16;
/// Tag and length of a record in a message.
const RECORD_FRAME: usize = 5;
/// Members in a digest: five records each, of at most 40 bytes.
const DIGEST_MEMBERS: usize = 320;
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
