//! The names that this member serves: signed, told to those who keep them, and told again. It must not know who asks for
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::Addr;
use proto::wire::{NameStore, NameStored};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::entry::{Entry, Held, Version};
use super::place::Members;
use super::{KEEPERS, NameHash, SPARE_KEEPERS, Surroundings};

/// Our own entries.
#[derive(Default)]
pub(super) struct Own {
    names: BTreeMap<NameHash, Mine>,
    /// When each name needs something done.
    agenda: BTreeSet<(Instant, NameHash)>,
    /// What was said and not answered yet.
    flight: BTreeMap<u64, Flight>,
    counter: u64,
    /// The incarnation in which all of it was signed.
    life: u64,
    /// Not before then is more said.
    paused: Option<Instant>,
}

struct Mine {
    held: Held,
    keepers: BTreeMap<Addr, Keeper>,
    /// Neighbours, of now or before, that were to be told, as keepers or besides: they hear of the withdrawal.
    beside: BTreeSet<Addr>,
    renew_at: Instant,
    /// What was withdrawn is told until then.
    until: Option<Instant>,
    due: Instant,
}

#[derive(Clone, Copy)]
struct Keeper {
    /// It is told since it is a neighbour, and may do without.
    beside: bool,
    has_it: bool,
    tries: u32,
    next: Instant,
}

struct Flight {
    to: Addr,
    at: Instant,
    names: Vec<(NameHash, Version)>,
}

/// Something to be said: to whom, under which id, what.
pub(super) type Told = (Addr, u64, NameStore);

impl Own {
    /// Serves a name from now on, or no longer. Says whether that is new.
    pub(super) fn set(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        members: &Members,
        hash: NameHash,
        served: bool,
    ) -> bool {
        let before = self
            .names
            .get(&hash)
            .is_some_and(|m| !m.held.entry.withdrawn);
        if before == served {
            return false;
        }
        let held = self.sign(now, around, hash, !served);
        let mut mine = Mine {
            held,
            keepers: BTreeMap::new(),
            beside: BTreeSet::new(),
            renew_at: now + RENEW,
            until: (!served).then_some(now + WITHDRAW),
            due: now,
        };
        if let Some(before) = self.names.remove(&hash) {
            self.agenda.remove(&(before.due, hash));
            mine.beside = before.beside;
        }
        self.names.insert(hash, mine);
        self.place(now, around.me(), members, hash);
        true
    }

    /// The members that can be reached are others: what moves is told to where it belongs now.
    pub(super) fn moved(&mut self, now: Instant, me: Addr, members: &Members) {
        let all: Vec<NameHash> = self.names.keys().copied().collect();
        for hash in all {
            self.place(now, me, members, hash);
        }
    }

    /// A member has forgotten what it was told.
    pub(super) fn forgotten(&mut self, now: Instant, by: Addr) {
        for (hash, mine) in &mut self.names {
            if let Some(keeper) = mine.keepers.get_mut(&by) {
                *keeper = Keeper::new(now, keeper.beside);
                mine.schedule(*hash, &mut self.agenda);
            }
        }
    }

    /// What is to be said now.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        chance: &mut ChaCha20Rng,
    ) -> Vec<Told> {
        if self.life != around.life() {
            // What was signed in a life that others know to be over is believed by nobody.
            for hash in self.names.keys().copied().collect::<Vec<_>>() {
                self.renew(now, around, chance, hash);
            }
        }
        if self.paused.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.paused = None;
        let mut told: BTreeMap<Addr, Vec<NameHash>> = BTreeMap::new();
        let mut most = BURST;
        while let Some((_, hash)) = self.agenda.first().filter(|(at, _)| *at <= now).copied() {
            if most == 0 {
                self.paused = Some(now + PAUSE);
                break;
            }
            self.agenda.pop_first();
            let Some(mine) = self.names.get(&hash) else {
                continue;
            };
            if mine.is_done(now) {
                self.names.remove(&hash);
                continue;
            }
            if mine.renew_at <= now {
                self.renew(now, around, chance, hash);
            }
            let Some(mine) = self.names.get_mut(&hash) else {
                continue;
            };
            for (to, keeper) in &mut mine.keepers {
                if !keeper.has_it && keeper.next <= now {
                    keeper.again(now, chance);
                    told.entry(*to).or_default().push(hash);
                    most = most.saturating_sub(1);
                }
            }
            mine.schedule(hash, &mut self.agenda);
        }
        self.pack(now, told, chance)
    }

    /// A member says what it has kept.
    pub(super) fn stored(&mut self, now: Instant, from: Addr, id: u64, answer: &NameStored) {
        let Some(flight) = self.flight.get(&id).filter(|f| f.to == from) else {
            return;
        };
        let names = flight.names.clone();
        self.flight.remove(&id);
        for (hash, version) in names {
            let Some(mine) = self.names.get_mut(&hash) else {
                continue;
            };
            let current = mine.held.entry.version == version;
            let Some(keeper) = mine.keepers.get_mut(&from).filter(|_| current) else {
                continue;
            };
            let refused = answer.refused.iter().any(|r| r.name_hash == hash);
            if refused && !keeper.beside {
                keeper.next = keeper.next.max(now + REFUSED);
            } else {
                keeper.has_it = true;
            }
            mine.schedule(hash, &mut self.agenda);
        }
    }

    /// Our entry for a name that we serve.
    pub(super) fn get(&self, hash: &NameHash) -> Option<&Held> {
        let mine = self.names.get(hash)?;
        (!mine.held.entry.withdrawn).then_some(&mine.held)
    }

    /// The names that we serve.
    pub(super) fn iter(&self) -> impl Iterator<Item = &NameHash> {
        let served = self.names.iter().filter(|(_, m)| !m.held.entry.withdrawn);
        served.map(|(hash, _)| hash)
    }

    /// How many of the members that are to keep our names say that they do, and how many they are.
    pub(super) fn kept(&self) -> (usize, usize) {
        let all = || self.names.values().flat_map(|m| m.keepers.values());
        let keepers = || all().filter(|k| !k.beside);
        (keepers().filter(|k| k.has_it).count(), keepers().count())
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        let young = |f: &Flight| now.saturating_duration_since(f.at) < FLIGHT;
        self.flight.retain(|_, flight| young(flight));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self.agenda.first().map(|(at, _)| *at);
        due.map(|at| self.paused.map_or(at, |paused| at.max(paused)))
    }

    fn sign(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        hash: NameHash,
        withdrawn: bool,
    ) -> Held {
        self.life = around.life();
        self.counter += 1;
        let entry = Entry {
            hash,
            origin: around.me(),
            version: Version {
                incarnation: self.life,
                counter: self.counter,
            },
            life: if withdrawn { GONE_LIFE } else { LIFE },
            withdrawn,
        };
        let signed = entry.sign(around.layer(), |bytes| around.sign(bytes));
        Held::new(now, entry, signed)
    }

    /// Signs an entry anew, to be told to all that keep it.
    fn renew(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        chance: &mut ChaCha20Rng,
        hash: NameHash,
    ) {
        let withdrawn = self
            .names
            .get(&hash)
            .is_some_and(|m| m.held.entry.withdrawn);
        let held = self.sign(now, around, hash, withdrawn);
        let Some(mine) = self.names.get_mut(&hash) else {
            return;
        };
        mine.held = held;
        // Members that started together must not renew together: 90 to 110 % of the time.
        mine.renew_at = now + RENEW * (900 + chance.next_u32() % 201) / 1000;
        for keeper in mine.keepers.values_mut() {
            *keeper = Keeper::new(now, keeper.beside);
        }
        mine.schedule(hash, &mut self.agenda);
    }

    /// Finds out who is to keep an entry.
    fn place(&mut self, now: Instant, me: Addr, members: &Members, hash: NameHash) {
        let Some(mine) = self.names.get_mut(&hash) else {
            return;
        };
        // Some that kept it before the members changed may have it still.
        let gone = mine.until.is_some();
        let k = if gone { SPARE_KEEPERS } else { KEEPERS };
        let mut keepers = members.keepers(&hash, k);
        keepers.retain(|keeper| *keeper != me);
        let mut beside = Vec::new();
        if gone || !members.has_keeper_beside(me, &hash) {
            beside = members.beside(&hash);
        }
        // One whose link was lost for a while still has it.
        if mine.beside.len() > MAX_BESIDE {
            mine.beside.retain(|addr| members.is_beside(*addr));
        }
        // A neighbour holds what it was told as a keeper, too, for as long as it is one.
        let near = keepers.iter().filter(|addr| members.is_beside(**addr));
        mine.beside.extend(beside.iter().chain(near));
        if gone {
            let told = mine.beside.iter().copied();
            beside = told.filter(|addr| members.is_beside(*addr)).collect();
        }
        beside.retain(|addr| !keepers.contains(addr));
        let before = std::mem::take(&mut mine.keepers);
        let keeper = |(addr, beside): (Addr, bool)| {
            // One that is told as a neighbour only may have done without.
            let known = before.get(&addr).filter(|k| beside || !k.beside);
            let known = known.map(|known| Keeper { beside, ..*known });
            (addr, known.unwrap_or_else(|| Keeper::new(now, beside)))
        };
        let keepers = keepers.into_iter().map(|addr| (addr, false));
        let all = keepers.chain(beside.into_iter().map(|addr| (addr, true)));
        mine.keepers = all.map(keeper).collect();
        mine.schedule(hash, &mut self.agenda);
    }

    fn pack(
        &mut self,
        now: Instant,
        told: BTreeMap<Addr, Vec<NameHash>>,
        chance: &mut ChaCha20Rng,
    ) -> Vec<Told> {
        let mut messages = Vec::new();
        for (to, hashes) in told {
            for part in hashes.chunks(PER_MESSAGE) {
                let mine = || part.iter().filter_map(|hash| self.names.get(hash));
                let names = mine().map(|m| m.held.aged(now)).collect();
                let said = mine().map(|m| (m.held.entry.hash, m.held.entry.version));
                let (at, said) = (now, said.collect());
                let id = chance.next_u64();
                if self.flight.len() >= MAX_FLIGHT {
                    self.flight.pop_first();
                }
                self.flight.insert(
                    id,
                    Flight {
                        to,
                        at,
                        names: said,
                    },
                );
                messages.push((to, id, NameStore { names }));
            }
        }
        messages
    }
}

impl Mine {
    /// Whether it was withdrawn, and nobody is left to be told so.
    fn is_done(&self, now: Instant) -> bool {
        self.until
            .is_some_and(|until| until <= now || self.keepers.values().all(|k| k.has_it))
    }

    fn schedule(&mut self, hash: NameHash, agenda: &mut BTreeSet<(Instant, NameHash)>) {
        agenda.remove(&(self.due, hash));
        let waiting = self.keepers.values().filter(|k| !k.has_it);
        let next = waiting.map(|k| k.next).min();
        self.due = match (self.until, next) {
            // It is forgotten at the next look.
            (Some(_), None) => self.held.signed_at,
            (Some(until), Some(next)) => next.min(until),
            (None, next) => next.map_or(self.renew_at, |next| next.min(self.renew_at)),
        };
        agenda.insert((self.due, hash));
    }
}

impl Keeper {
    fn new(now: Instant, beside: bool) -> Self {
        Self {
            beside,
            has_it: false,
            tries: 0,
            next: now,
        }
    }

    /// Says when it is told again, unless it answers.
    fn again(&mut self, now: Instant, chance: &mut ChaCha20Rng) {
        let wait = (FIRST_WAIT * 2u32.pow(self.tries.min(8))).min(MAX_WAIT);
        let jitter = wait * (chance.next_u32() % 256) / 1024;
        self.tries += 1;
        self.next = now + wait + jitter;
    }
}

/// After this time, give or take a tenth, an entry is signed anew.
const RENEW: Duration = Duration::from_secs(600);
/// After this time an entry that nobody renews is forgotten.
const LIFE: Duration = Duration::from_secs(1800);
/// Neighbours, of now or before, that are remembered as having been told of a name.
const MAX_BESIDE: usize = 64;
/// How long it is remembered that an entry was withdrawn, and for how long that is told.
const GONE_LIFE: Duration = Duration::from_secs(120);
const WITHDRAW: Duration = Duration::from_secs(60);
/// The pauses before a member that has not answered is told again, to which up to a quarter is added by chance.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const MAX_WAIT: Duration = Duration::from_secs(20);
/// How long one that refused an entry is left alone.
const REFUSED: Duration = Duration::from_secs(2);
/// Entries in one message.
pub(super) const PER_MESSAGE: usize = 32;
/// Entries that are told at once, and the pause before the next: the channels of links hold no more than 1 MiB.
const BURST: usize = 512;
const PAUSE: Duration = Duration::from_millis(20);
const FLIGHT: Duration = Duration::from_secs(60);
const MAX_FLIGHT: usize = 16_384;
