//! What those do that keep entries: which they take, and what they answer. It must not keep one that its originator didn't
//! sign.

use std::time::Instant;

use proto::wire::{self, NameFound, NameGone, NameRefusal, NameStore, NameStored, SignedName};
use proto::{Addr, Code, Reason};

use super::entry::{self, Entry, EntryError, Held};
use super::store::Kept;
use super::{Body, Directory, NameHash, PER_ANSWER, SPARE_KEEPERS, SWEEP, Surroundings};

/// Of those that keep entries.
impl Directory {
    pub(super) fn store(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        via: Addr,
        (from, id): (Addr, u64),
        store: NameStore,
    ) {
        let mut refused = Vec::new();
        for signed in store.names {
            let entry = match Entry::parse(&signed) {
                Ok(entry) => entry,
                Err(error) => {
                    self.count(error.word());
                    continue;
                }
            };
            if let Err(reason) = self.keep(now, around, via, &entry, signed) {
                refused.push(NameRefusal {
                    name_hash: entry.hash.to_vec(),
                    code: reason.code as u32,
                    text: reason.text,
                });
            }
        }
        self.send(from, id, Body::Stored(NameStored { refused }));
    }

    fn keep(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        via: Addr,
        entry: &Entry,
        signed: SignedName,
    ) -> Result<(), Reason> {
        // What a neighbour serves itself belongs here too: its other neighbours ask this one.
        let guest = !self.keeps(around.me(), &entry.hash, 2 * SPARE_KEEPERS);
        self.judge(now, around, via, entry, &signed, guest)
            .map_err(|error| {
                self.count(error.word());
                Reason::new(Code::Busy, error.to_string())
            })
            .and_then(|kept| {
                if kept == Kept::Known {
                    return Ok(());
                }
                around
                    .may_serve(entry.origin, &entry.hash)
                    .inspect_err(|_| self.count("drop.name_denied"))?;
                if entry.withdrawn {
                    self.tell_askers(now, entry, &signed);
                    self.cache.gone(entry);
                }
                let mut held = Held::new(now, *entry, signed);
                held.guest = guest;
                self.store.keep(held);
                self.sweep_at.get_or_insert(now + SWEEP);
                self.count("directory.kept");
                self.look_here(now, around, entry.hash);
                Ok(())
            })
    }

    /// Whether an entry is to be kept, and true.
    fn judge(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        via: Addr,
        entry: &Entry,
        signed: &SignedName,
        guest: bool,
    ) -> Result<Kept, EntryError> {
        if entry.origin == around.me() {
            return Err(EntryError::Stale);
        }
        // Two members need not agree on who can be reached; but nobody may be made to keep whatever somebody likes.
        // What is held is changed by whatever way its originator's word comes: that to a neighbour may lead over others.
        if guest && via != entry.origin && !self.store.has(&entry.hash, entry.origin) {
            return Err(EntryError::NotHere);
        }
        if self.store.would_keep(now, entry, signed, guest)? == Kept::Known {
            return Ok(Kept::Known);
        }
        self.believe(now, around, via, entry, signed)?;
        Ok(Kept::New)
    }

    /// Whether an entry is its originator's, in its present life.
    pub(super) fn believe(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        via: Addr,
        entry: &Entry,
        signed: &SignedName,
    ) -> Result<(), EntryError> {
        let life = around.life_of(entry.origin).ok_or(EntryError::Stranger)?;
        if entry.version.incarnation < life {
            return Err(EntryError::EarlierLife);
        }
        if !self.rates.origin(now, via, entry.origin) {
            return Err(EntryError::TooMany);
        }
        let bytes = entry::signed_bytes(around.layer(), &signed.body);
        around.check(entry.origin, &bytes, &signed.signature)
    }

    /// Whether this member is one of the `k` nearest to a name.
    pub(super) fn keeps(&self, me: Addr, hash: &NameHash, k: usize) -> bool {
        self.members.keepers(hash, k).contains(&me)
    }

    /// Those that asked for a name are told that an entry was withdrawn: they may remember the answer.
    fn tell_askers(&mut self, now: Instant, entry: &Entry, signed: &SignedName) {
        for asker in self.store.take_askers(now, &entry.hash) {
            self.count("directory.gone_told");
            let name = Some(signed.clone());
            self.send(asker, 0, Body::Gone(NameGone { name }));
        }
    }

    pub(super) fn answer(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        (from, id): (Addr, u64),
        find: &wire::NameFind,
    ) {
        let Ok(hash) = NameHash::try_from(find.name_hash.as_slice()) else {
            return self.count("drop.name_malformed");
        };
        let own = self.own.get(&hash);
        let mut known: Vec<&Held> = self.store.alive(now, &hash).chain(own).collect();
        // Of many that serve one name each asker hears of others first, but of those that it wants and that can be reached.
        known.sort_by_key(|held| {
            let origin = held.entry.origin;
            let wanted = origin.0 == find.member;
            let near = around.cost(origin).is_some();
            (!wanted, !near, origin.0 ^ from.0)
        });
        let names = known.iter().take(PER_ANSWER).map(|held| held.aged(now));
        let names: Vec<_> = names.collect();
        if !names.is_empty() {
            self.store.asked(now, hash, from);
        }
        self.count("directory.answered");
        self.send(from, id, Body::Found(NameFound { names }));
    }
}
