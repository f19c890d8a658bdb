//! What is held of each member, in few bytes: with 10,000 members everybody holds 10,000 records. It must not judge them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::Addr;
use proto::wire::SignedRecord;

use super::super::graph::{LinkState, Links, differing};
use super::super::names::{Names, Slot, room};
use super::super::record::{Content, Kind, Parsed, Version};
use super::sums;
use crate::crypt::MemberCert;

/// A record that was believed. It is never changed, so that those who hold the same one can share it.
#[derive(Debug)]
pub(in crate::route) struct Believed {
    pub(super) parsed: Parsed,
    /// As it came; the age in it means nothing.
    pub(super) signed: SignedRecord,
    pub(super) cert: Arc<MemberCert>,
    /// What it adds to the sum of its range of addresses.
    pub(super) hash: u64,
}

impl Believed {
    pub(super) fn new(parsed: Parsed, signed: SignedRecord, cert: Arc<MemberCert>) -> Self {
        let hash = sums::hash(parsed.origin, parsed.kind, parsed.version);
        Self {
            parsed,
            signed,
            cert,
            hash,
        }
    }

    /// Whether it came with the same certificates.
    pub(super) fn came_with(&self, record: &SignedRecord) -> bool {
        self.signed.certificate == record.certificate
            && self.signed.intermediates == record.intermediates
    }
}

/// All records, by member and kind.
#[derive(Clone, Default)]
pub(super) struct Store {
    /// The numbers of these members, and maybe of others: see [`Store::number`].
    names: Arc<Names>,
    members: Vec<Held>,
    /// Of how many members anything is held.
    known: usize,
    /// What times are counted from: the first that was seen.
    epoch: Option<Instant>,
    /// Members whose links are said in another way than when this was last taken.
    dirty: Vec<Slot>,
}

/// What is held of one member. Almost all have links; few of a large layer have names.
#[derive(Clone, Default)]
struct Held {
    links: Option<Stored>,
    /// Behind one pointer, since most have none.
    others: Option<Box<Others>>,
}

/// What a member says besides its links.
#[derive(Clone, Default)]
struct Others(BTreeMap<Kind, Stored>);

/// One record and when it was signed.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) record: Arc<Believed>,
    /// Nanoseconds since the epoch.
    signed_at: i64,
}

impl Store {
    pub(super) fn len(&self) -> usize {
        self.known
    }

    /// Takes over what numbers members have elsewhere. To be called before anything is held.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn number(&mut self, names: Arc<Names>) {
        self.names = names;
    }

    /// A copy with the room that it would have if its members had come one by one.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn grown(&self) -> Self {
        let mut members = Vec::new();
        room(&mut members, self.members.len());
        members.extend_from_slice(&self.members);
        Self {
            names: self.names.clone(),
            members,
            known: self.known,
            epoch: self.epoch,
            dirty: (0..self.members.len() as Slot).collect(),
        }
    }

    pub(super) fn get(&self, addr: Addr, kind: Kind) -> Option<&Stored> {
        self.held(addr)?.get(kind)
    }

    fn held(&self, addr: Addr) -> Option<&Held> {
        self.members.get(self.names.find(addr)? as usize)
    }

    /// The number of a member of whom anything is held.
    fn find(&self, addr: Addr) -> Option<Slot> {
        let held = |slot: &Slot| {
            let held = self.members.get(*slot as usize);
            held.is_some_and(|held| !held.is_empty())
        };
        self.names.find(addr).filter(held)
    }

    /// Whether anything is held of a member.
    pub(super) fn knows(&self, addr: Addr) -> bool {
        self.find(addr).is_some()
    }

    /// The certificate that came with the newest record of a member: a renewed one comes with a newer record.
    pub(super) fn cert(&self, addr: Addr) -> Option<&Arc<MemberCert>> {
        Some(&self.newest(addr)?.cert)
    }

    /// The newest life in which a member was seen.
    pub(super) fn life(&self, addr: Addr) -> Option<u64> {
        Some(self.newest(addr)?.parsed.version.incarnation)
    }

    /// The newest record of a member.
    pub(super) fn newest(&self, addr: Addr) -> Option<&Believed> {
        let all = self.held(addr)?.iter();
        all.map(|(_, stored)| &*stored.record)
            .max_by_key(|record| record.parsed.version)
    }

    /// Keeps a record; gives the one of that member and kind that it replaces.
    pub(super) fn put(
        &mut self,
        record: Arc<Believed>,
        signed_at: Instant,
    ) -> Option<Arc<Believed>> {
        let signed_at = self.since(signed_at);
        let (origin, kind) = (record.parsed.origin, record.parsed.kind);
        let slot = match self.names.find(origin) {
            Some(slot) => slot,
            None => Arc::make_mut(&mut self.names).add(origin),
        };
        let slots = self.members.len().max(slot as usize + 1);
        room(&mut self.members, slots);
        self.members.resize_with(slots, Held::default);
        self.known += usize::from(self.members[slot as usize].is_empty());
        let stored = Stored {
            record: record.clone(),
            signed_at,
        };
        let old = self.members[slot as usize]
            .set(kind, stored)
            .map(|old| old.record);
        if kind == Kind::LINKS {
            self.linked(slot, links_of(old.as_deref()), links_of(Some(&record)));
        }
        old
    }

    /// A record turns out to be younger than was thought.
    pub(super) fn renewed(&mut self, addr: Addr, kind: Kind, signed_at: Instant) {
        let signed_at = self.since(signed_at);
        let slot = self.names.find(addr).map(|slot| slot as usize);
        let held = slot.and_then(|slot| self.members.get_mut(slot));
        if let Some(stored) = held.and_then(|held| held.get_mut(kind)) {
            stored.signed_at = stored.signed_at.max(signed_at);
        }
    }

    /// Forgets the records for which `keep` says no, and gives them.
    pub(super) fn sweep(
        &mut self,
        now: Instant,
        keep: impl Fn(&Believed, Duration) -> bool,
    ) -> Vec<Arc<Believed>> {
        let now = self.since(now);
        let mut gone = Vec::new();
        for slot in 0..self.members.len() {
            let out: Vec<Kind> = self.members[slot]
                .iter()
                .filter(|(_, stored)| !keep(&stored.record, stored.age(now)))
                .map(|(kind, _)| kind)
                .collect();
            for kind in out {
                let Some(stored) = self.members[slot].remove(kind) else {
                    continue;
                };
                if kind == Kind::LINKS {
                    self.linked(slot as Slot, links_of(Some(&stored.record)), &[]);
                }
                if self.members[slot].is_empty() {
                    self.known -= 1;
                    Arc::make_mut(&mut self.names).remove(stored.record.parsed.origin);
                }
                gone.push(stored.record);
            }
        }
        gone
    }

    /// The members of whom anything is held, in the order of their addresses, from `first` to `last`.
    pub(super) fn sorted(&self, first: Addr, last: Addr) -> Vec<(Addr, Slot)> {
        let slots = 0..self.members.len() as Slot;
        let mut all: Vec<_> = slots
            .map(|slot| (self.names.addr(slot), slot))
            .filter(|(addr, slot)| {
                (first..=last).contains(addr) && self.records(*slot).next().is_some()
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// What is held of one member, in the order of the kinds.
    pub(super) fn records(&self, slot: Slot) -> impl Iterator<Item = &Stored> {
        let held = self.members.get(slot as usize);
        held.into_iter()
            .flat_map(|held| held.iter().map(|(_, stored)| stored))
    }

    /// The record as it is sent: with its present age, rounded up, so that it never grows younger on its way.
    pub(super) fn aged(&self, now: Instant, stored: &Stored) -> SignedRecord {
        SignedRecord {
            age: self.age(now, stored),
            ..stored.record.signed.clone()
        }
    }

    /// The same without certificates.
    pub(super) fn bare(&self, now: Instant, stored: &Stored) -> SignedRecord {
        let signed = &stored.record.signed;
        SignedRecord {
            body: signed.body.clone(),
            signature: signed.signature.clone(),
            age: self.age(now, stored),
            ..SignedRecord::default()
        }
    }

    fn age(&self, now: Instant, stored: &Stored) -> u32 {
        let age = stored.age(self.offset(now)).as_millis().div_ceil(1000);
        u32::try_from(age).unwrap_or(u32::MAX)
    }

    /// The members whose edges may be others than when this was last called, some of them twice.
    pub(super) fn take_dirty(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn linked(&mut self, slot: Slot, old: &[LinkState], new: &[LinkState]) {
        let before = self.dirty.len();
        let heads = differing(old, new).filter_map(|addr| self.find(addr));
        let heads: Vec<Slot> = heads.collect();
        self.dirty.extend(heads);
        if self.dirty.len() > before {
            self.dirty.push(slot);
        }
        if self.dirty.len() > self.members.len() * 4 + 64 {
            self.dirty.sort_unstable();
            self.dirty.dedup();
        }
    }

    fn since(&mut self, at: Instant) -> i64 {
        self.epoch.get_or_insert(at);
        self.offset(at)
    }

    fn offset(&self, at: Instant) -> i64 {
        let epoch = self.epoch.unwrap_or(at);
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match at.checked_duration_since(epoch) {
            Some(after) => nanos(after),
            None => -nanos(epoch.saturating_duration_since(at)),
        }
    }
}

impl Links for Store {
    fn index(&self) -> &Arc<Names> {
        &self.names
    }

    fn links(&self, slot: Slot) -> &[LinkState] {
        let held = self.members.get(slot as usize);
        links_of(held.and_then(|held| Some(&*held.links.as_ref()?.record)))
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.links.is_none() && self.others.is_none()
    }

    fn get(&self, kind: Kind) -> Option<&Stored> {
        if kind == Kind::LINKS {
            return self.links.as_ref();
        }
        self.others.as_ref()?.0.get(&kind)
    }

    fn get_mut(&mut self, kind: Kind) -> Option<&mut Stored> {
        if kind == Kind::LINKS {
            return self.links.as_mut();
        }
        self.others.as_mut()?.0.get_mut(&kind)
    }

    fn set(&mut self, kind: Kind, stored: Stored) -> Option<Stored> {
        if kind == Kind::LINKS {
            return self.links.replace(stored);
        }
        self.others.get_or_insert_default().0.insert(kind, stored)
    }

    fn remove(&mut self, kind: Kind) -> Option<Stored> {
        if kind == Kind::LINKS {
            return self.links.take();
        }
        let gone = self.others.as_mut()?.0.remove(&kind);
        self.others.take_if(|others| others.0.is_empty());
        gone
    }

    fn iter(&self) -> impl Iterator<Item = (Kind, &Stored)> {
        let links = self.links.iter().map(|stored| (Kind::LINKS, stored));
        let others = self.others.iter().flat_map(|others| &others.0);
        links.chain(others.map(|(kind, stored)| (*kind, stored)))
    }
}

impl Stored {
    pub(super) fn version(&self) -> Version {
        self.record.parsed.version
    }

    fn age(&self, now: i64) -> Duration {
        let nanos = now.saturating_sub(self.signed_at);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

fn links_of(record: Option<&Believed>) -> &[LinkState] {
    match record.map(|record| &record.parsed.content) {
        Some(Content::Links(links)) => links,
        Some(Content::Offers(_)) | None => &[],
    }
}

const _: () = assert!(
    size_of::<Held>() == 24 && size_of::<Stored>() == 16,
    "10,000 members hold 10,000 of these each"
);
