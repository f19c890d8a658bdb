//! Everybody's newest records. It must not keep a record that its originator didn't sign.
//!
//! A record is flooded when it is new. Two neighbours whose link has come up tell each other what they hold (digests),
//! and each sends what the other lacks. Records age: their originator renews them, and what nobody renews is forgotten.

mod clash;
mod digest;
#[cfg(any(test, feature = "sim"))]
mod pool;
mod store;
mod sums;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use proto::wire::SignedRecord;
use proto::{Addr, Label};
use rustc_hash::FxHashMap;

use super::fib::{Fib, Repair};
use super::graph::{LinkState, Links, tidy};
use super::lfa;
use super::record::{
    self, Content, Kind, MAX_LINKS, MAX_MEMBERS, MAX_OFFERS, Parsed, RecordError, Version,
};
use super::spf::{Moves, Spf};
use crate::crypt::{CertError, Identity, MemberCert};
use crate::{Now, UnixTime};
use clash::Clashes;
pub use clash::{Clash, yields};
pub(crate) use digest::packed;
#[cfg(any(test, feature = "sim"))]
pub use pool::Pool;
use store::{Believed, Store};
use sums::Sums;

/// The records of all members, our own among them.
pub struct Lsdb {
    me: Addr,
    layer: Label,
    version: Version,
    store: Store,
    sums: Sums,
    /// Members that were found to run anew, and the life that they are in.
    reborn: Vec<(Addr, u64)>,
    renew_at: Option<Instant>,
    sweep_at: Option<Instant>,
    clashes: Clashes,
    changed: bool,
    /// When the newest certificate begins that was believed.
    newest: UnixTime,
    /// Members that are known at once.
    most: usize,
    #[cfg(any(test, feature = "sim"))]
    pool: Option<Pool>,
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
            store: Store::default(),
            sums: Sums::default(),
            reborn: Vec::new(),
            renew_at: None,
            sweep_at: None,
            clashes: Clashes::default(),
            changed: false,
            newest: UnixTime(Duration::ZERO),
            most: MAX_MEMBERS,
            #[cfg(any(test, feature = "sim"))]
            pool: None,
        }
    }

    /// Lets no more members be known at once than that.
    #[cfg(test)]
    pub(crate) fn hold_at_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Shares records with the other members of the layer in this process.
    #[cfg(any(test, feature = "sim"))]
    pub fn share(&mut self, pool: Pool) {
        if let Some(names) = pool.names() {
            self.store.number(names);
        }
        self.pool = Some(pool);
    }

    /// Takes over all that another member holds, what it holds of us included; for members of one process.
    #[cfg(any(test, feature = "sim"))]
    pub fn adopt(&mut self, now: Now, known: &Self) {
        self.store = known.store.grown();
        self.sums = known.sums.clone();
        self.changed = true;
        self.sweep_at.get_or_insert(now.mono + SWEEP);
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

    /// Says which networks we offer, at most [`MAX_OFFERS`] of them. The record is to be flooded; `None` if nothing changed.
    pub fn set_offers(
        &mut self,
        now: Now,
        identity: &Identity,
        mut offers: Vec<IpNet>,
    ) -> Option<SignedRecord> {
        offers.iter_mut().for_each(|net| *net = net.trunc());
        offers.sort_unstable();
        offers.dedup();
        offers.truncate(MAX_OFFERS);
        if offers.is_empty() && self.own(Kind::OFFERS).is_none() {
            return None;
        }
        self.set(now, identity, Kind::OFFERS, Content::Offers(offers))
    }

    /// The networks that a member offers.
    pub fn offers(&self, addr: Addr) -> &[IpNet] {
        let stored = self.store.get(addr, Kind::OFFERS);
        match stored.map(|stored| &stored.record.parsed.content) {
            Some(Content::Offers(offers)) => offers,
            Some(Content::Links(_)) | None => &[],
        }
    }

    /// When the newest certificate begins of all that were believed here: it is later than that now, whatever a clock says.
    pub fn newest_certificate(&self) -> UnixTime {
        self.newest
    }

    /// Takes a record that came from a neighbour.
    pub fn insert(
        &mut self,
        now: Now,
        identity: &Identity,
        mut record: SignedRecord,
    ) -> Result<Inserted, RecordError> {
        let read = self.read(&record)?;
        let right =
            |parsed: &Parsed| parsed.origin == self.me || parsed.is_valid(now.wall, Self::FORGET);
        if !right(read.parsed()) {
            return Err(RecordError::WrongTime(read.parsed().origin));
        }
        let Parsed {
            origin,
            kind,
            version,
            ..
        } = *read.parsed();
        let age = Duration::from_secs(record.age.into());
        if age >= Self::FORGET {
            return Err(RecordError::TooOld(origin));
        }
        let signed_at = now.mono.checked_sub(age).unwrap_or(now.mono);
        if !self.store.knows(origin) && self.store.len() >= self.most {
            return Err(RecordError::TooManyMembers);
        }
        // What we hold is looked at first: it costs nothing, and most records come more than once.
        let rival = self.is_rival(identity, origin, &record.certificate);
        if let Some(stored) = self.store.get(origin, kind).filter(|_| !rival) {
            match version.cmp(&stored.version()) {
                Ordering::Less => {
                    return Ok(Inserted::Stale(self.store.aged(now.mono, stored)));
                }
                Ordering::Equal => {
                    // The age isn't signed: one who makes a record old can't have it forgotten while others say otherwise.
                    self.store.renewed(origin, kind, signed_at);
                    return Ok(Inserted::Known);
                }
                Ordering::Greater => {}
            }
        }
        if record.certificate.is_empty() {
            self.complete(&mut record, origin)?;
        }
        let believed = self.believe(now, identity, &record, read)?;
        if rival {
            self.judge_rival(now.mono, identity, &believed.cert)?;
        }
        if origin == self.me {
            let own = self.outlive(now, identity, kind, version);
            return Ok(Inserted::OwnFromBefore(own));
        }
        if self
            .store
            .life(origin)
            .is_some_and(|life| life < version.incarnation)
        {
            self.reborn.push((origin, version.incarnation));
        }
        self.put(now, believed, signed_at);
        Ok(Inserted::New(record))
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

    /// Forgets the records of members whose certificates aren't believed any more, but our own. Says whether there were any.
    pub fn expel(&mut self, now: Instant, gone: impl Fn(&MemberCert) -> bool) -> bool {
        self.settle(now, &gone);
        self.forget(now, |record, _| !gone(&record.cert))
    }

    /// When [`Lsdb::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        [self.renew_at, self.sweep_at].into_iter().flatten().min()
    }

    /// Whether links have changed since the last call: the routes have to be found anew.
    pub fn changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The members that run anew since the last call, and their new lives.
    pub(crate) fn take_reborn(&mut self) -> Vec<(Addr, u64)> {
        std::mem::take(&mut self.reborn)
    }

    /// The newest life in which a member was seen.
    pub(crate) fn life(&self, addr: Addr) -> Option<u64> {
        self.store.life(addr)
    }

    /// The certificates of all members that have said anything, ourselves among them, by address.
    pub fn members(&self) -> impl Iterator<Item = &MemberCert> {
        let sorted = self.store.sorted(Addr(0), Addr(u64::MAX));
        sorted.into_iter().filter_map(|(addr, _)| self.member(addr))
    }

    /// How many members those are.
    pub(crate) fn count(&self) -> usize {
        self.store.len()
    }

    /// The certificate of a member.
    pub fn member(&self, addr: Addr) -> Option<&MemberCert> {
        Some(&**self.store.cert(addr)?)
    }

    /// What a member says of its links.
    pub fn links(&self, addr: Addr) -> &[LinkState] {
        let slot = self.store.index().find(addr);
        slot.map_or(&[], |slot| self.store.links(slot))
    }

    /// The record of one kind that a member has signed, to be sent.
    pub fn record(&self, now: Instant, origin: Addr, kind: u32) -> Option<SignedRecord> {
        let stored = self.store.get(origin, Kind::from_wire(kind)?)?;
        Some(self.store.aged(now, stored))
    }

    /// The way to every member that can be reached from `me`, over links that both ends name.
    pub fn routes(&self, me: Addr) -> Fib {
        Spf::new(me).full(&self.store)
    }

    /// The same without the certificate of its originator, for those who have that.
    pub fn bare_record(&self, now: Instant, origin: Addr, kind: u32) -> Option<SignedRecord> {
        let stored = self.store.get(origin, Kind::from_wire(kind)?)?;
        Some(self.store.bare(now, stored))
    }

    /// Brings ways up to date that are kept with all that has changed since the last call.
    pub fn reroute(&mut self, spf: &mut Spf) -> Fib {
        let dirty = self.store.take_dirty();
        spf.update(&self.store, &dirty)
    }

    /// Who can be reached by these ways, compared with the last time that this was asked; `None`: nearly everybody may be
    /// another.
    pub(crate) fn moves(&self, spf: &mut Spf) -> Option<Moves> {
        spf.moves(self.store.index())
    }

    /// Over whom to send to members that were reached over neighbours that are lost; to be asked before our record of links
    /// says so.
    pub(crate) fn repairs(&self, spf: &Spf, lost: &[Addr]) -> FxHashMap<Addr, Repair> {
        lfa::repairs(&self.store, spf, lost)
    }

    /// Over whom each member would be reached if the neighbour on its way died.
    pub(crate) fn spares(&self, spf: &Spf) -> Vec<(Addr, Addr)> {
        lfa::spares(&self.store, spf)
    }

    fn own(&self, kind: Kind) -> Option<&Content> {
        let stored = self.store.get(self.me, kind)?;
        Some(&stored.record.parsed.content)
    }

    fn set(
        &mut self,
        now: Now,
        identity: &Identity,
        kind: Kind,
        content: Content,
    ) -> Option<SignedRecord> {
        if self.own(kind) == Some(&content) {
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
        let signed = record::sign(identity, kind, self.version, &content, now.wall);
        let cert = match self.store.cert(self.me) {
            Some(cert) if cert.der() == identity.cert().der() => cert.clone(),
            _ => Arc::new(identity.cert().clone()),
        };
        let parsed = Parsed {
            origin: self.me,
            kind,
            version: self.version,
            content,
            signed_at: UnixTime(Duration::from_secs(now.wall.secs())),
        };
        let believed = self.kept(Believed::new(parsed, signed.clone(), cert));
        self.put(now, believed, now.mono);
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
        let slot = self.store.index().find(self.me);
        let own = slot.into_iter().flat_map(|slot| self.store.records(slot));
        let own: Vec<(Kind, Content)> = own
            .map(|stored| &stored.record.parsed)
            .map(|parsed| (parsed.kind, parsed.content.clone()))
            .collect();
        own.into_iter()
            .map(|(kind, content)| self.publish(now, identity, kind, content))
            .collect()
    }

    /// Signs all our records anew, with the certificate that we have now. They are to be flooded.
    pub fn reissue(&mut self, now: Now, identity: &Identity) -> Vec<SignedRecord> {
        self.renew(now, identity)
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
        let empty = Content::empty(kind);
        let missing = self
            .own(kind)
            .is_none()
            .then(|| self.publish(now, identity, kind, empty));
        missing
            .into_iter()
            .chain(self.renew(now, identity))
            .collect()
    }

    /// Adds the certificate that an earlier record of the same originator came with.
    fn complete(&self, record: &mut SignedRecord, origin: Addr) -> Result<(), RecordError> {
        let earlier = self.store.newest(origin).map(|earlier| &earlier.signed);
        let earlier = earlier.ok_or(RecordError::NoCertificate(origin))?;
        record.certificate.clone_from(&earlier.certificate);
        record.intermediates.clone_from(&earlier.intermediates);
        Ok(())
    }

    /// A record whose form is right, or that a neighbour in this process has judged already.
    fn read(&self, record: &SignedRecord) -> Result<Read, RecordError> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(believed) = self.pool.as_ref().and_then(|pool| pool.find(record)) {
            return Ok(Read::Shared(believed));
        }
        Ok(Read::Fresh(record::parse(record)?))
    }

    /// Lets others in this process have a record.
    fn kept(&self, believed: Believed) -> Arc<Believed> {
        let believed = Arc::new(believed);
        #[cfg(any(test, feature = "sim"))]
        if let Some(pool) = &self.pool {
            pool.keep(&believed);
        }
        believed
    }

    /// A record of whose originator we know that it has signed it.
    fn believe(
        &self,
        now: Now,
        identity: &Identity,
        record: &SignedRecord,
        read: Read,
    ) -> Result<Arc<Believed>, RecordError> {
        let roots = identity.roots();
        let holds = |cert: &MemberCert| !cert.is_over(now.wall) && !cert.is_revoked(roots);
        let parsed = match read {
            Read::Shared(known) if holds(&known.cert) && known.came_with(record) => {
                return Ok(known);
            }
            Read::Shared(_) => record::parse(record)?,
            Read::Fresh(parsed) => parsed,
        };
        let known = self
            .store
            .cert(parsed.origin)
            .filter(|cert| cert.der() == record.certificate && holds(cert));
        let cert = match known {
            Some(cert) => cert.clone(),
            None => {
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
        let signed = record::signed_bytes(&self.layer, &record.body);
        match cert.check(&signed, &record.signature) {
            Ok(()) => {}
            Err(CertError::BadSignature) => return Err(RecordError::Forged(parsed.origin)),
            Err(other) => return Err(RecordError::Certificate(other)),
        }
        Ok(self.kept(Believed::new(parsed, record.clone(), cert)))
    }

    fn put(&mut self, now: Now, believed: Arc<Believed>, signed_at: Instant) {
        let old = self.store.put(believed.clone(), signed_at);
        self.newest = self.newest.max(believed.cert.not_before());
        let new = &believed.parsed;
        self.sums.add(new.origin, believed.hash);
        if let Some(old) = &old {
            self.sums.take(new.origin, old.hash);
        }
        let first = new.kind == Kind::LINKS && old.is_none();
        self.changed |= first || self.store.is_dirty();
        self.sweep_at.get_or_insert(now.mono + SWEEP);
    }

    /// Forgets records that are too old, and those of members whose certificate has expired.
    fn sweep(&mut self, now: Now) {
        self.sweep_at = Some(now.mono + SWEEP);
        self.settle(now.mono, |cert| cert.is_over(now.wall));
        self.forget(now.mono, |record, age| {
            let expired = record.cert.is_over(now.wall);
            let valid = record.parsed.is_valid(now.wall, Self::FORGET);
            valid && !expired && age < Self::FORGET
        });
    }

    /// Forgets the records of others for which `keep` says no. Says whether there were any.
    fn forget(&mut self, now: Instant, keep: impl Fn(&Believed, Duration) -> bool) -> bool {
        let me = self.me;
        let gone = self.store.sweep(now, |record, age| {
            record.parsed.origin == me || keep(record, age)
        });
        let any = !gone.is_empty();
        self.changed |= any;
        for record in gone {
            self.sums.take(record.parsed.origin, record.hash);
        }
        any
    }
}

/// A record that came.
enum Read {
    /// Its form is right.
    Fresh(Parsed),
    /// It is true as well.
    #[cfg_attr(
        not(any(test, feature = "sim")),
        expect(dead_code, reason = "nobody shares records outside of the simulator")
    )]
    Shared(Arc<Believed>),
}

impl Read {
    fn parsed(&self) -> &Parsed {
        match self {
            Self::Fresh(parsed) => parsed,
            Self::Shared(believed) => &believed.parsed,
        }
    }
}

const SWEEP: Duration = Duration::from_secs(30);
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
