//! The directory: which members offer flows to a name. A hash table that is distributed over the members: the entries of a
//! name are kept by the members nearest to it. It must not hold an entry that its member didn't sign, nor know of time,
//! chance or links but what it is told.
//!
//! Who is a member, and can be reached, is known from the routes. So a look-up asks those that keep the name, and nobody
//! in between: a keeper can withhold an entry, but can't make one, and all the others would have to withhold it too. Neighbours
//! are told and asked besides, so that those near to a server find it soon.
//!
//! | file | holds |
//! |---|---|
//! | `entry` | an entry as it is signed, its bounds and what is wrong with a bad one |
//! | `place` | who keeps a name |
//! | `own` | the names of this member: told, told again, withdrawn |
//! | `store` | the entries that this member keeps for others |
//! | `keep` | what those that keep entries do |
//! | `doubt` | which of them to ask about after a cut |
//! | `find` | look-ups |
//! | `cache` | what was found |
//! | `rate` | how much neighbours and originators may ask |

mod cache;
mod doubt;
mod entry;
mod find;
mod keep;
mod own;
mod place;
mod rate;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proto::wire::{self, NameFound, NameGone, NameStore, NameStored, SignedName};
use proto::{Addr, Code, Label, Reason};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use cache::Cache;
use doubt::Doubts;
use entry::{Entry, Held, Version};
use find::{Finds, Step};
use own::Own;
use rate::Rates;
use store::Store;

pub use entry::EntryError;
use place::Members;
pub use place::nearest;
pub use wire::directory::Body;

/// SHA-256(layer ‖ 0 ‖ name).
pub type NameHash = [u8; 32];

/// What one member knows of the names of its layer, as a pure machine.
pub struct Directory {
    members: Members,
    own: Own,
    store: Store,
    cache: Cache,
    finds: Finds,
    doubts: Doubts,
    rates: Rates,
    chance: ChaCha20Rng,
    sweep_at: Option<Instant>,
    /// When all have noticed who can be reached now: until then nothing goes for being others' to keep.
    settled_at: Option<Instant>,
    out: VecDeque<Output>,
}

/// What the directory asks of the member that it belongs to.
pub trait Surroundings {
    /// This member.
    fn me(&self) -> Addr;
    /// Its layer.
    fn layer(&self) -> &Label;
    /// Its incarnation.
    fn life(&self) -> u64;
    /// Signs with its key.
    fn sign(&self, bytes: &[u8]) -> Vec<u8>;
    /// What the way to a member costs; 0 for this one, `None` where there is no way.
    fn cost(&self, member: Addr) -> Option<u64>;
    /// The newest incarnation in which a member was seen.
    fn life_of(&self, member: Addr) -> Option<u64>;
    /// Checks a signature of a member: [`EntryError::Forged`], or [`EntryError::Stranger`] if its key is not known.
    fn check(&self, member: Addr, bytes: &[u8], signature: &[u8]) -> Result<(), EntryError>;
    /// Whether a member may serve any name with that hash; the reason if that is certain not to be so.
    fn may_serve(&self, member: Addr, hash: &NameHash) -> Result<(), Reason>;
}

/// What the directory wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Say this to a member, under this id.
    Send(Addr, u64, Body),
    /// A look-up has found somebody: see [`Directory::resolve`].
    Found(NameHash),
    /// All that would keep the name say that nobody serves it. The look-up goes on until its time is over.
    Denied(NameHash),
    /// The time of a look-up is over.
    Over(NameHash),
    /// A member refuses to keep an entry of ours.
    Refused(NameHash, Addr, Reason),
    /// Something happened that is counted under this word.
    Count(&'static str),
}

/// How an entry comes to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is ours.
    Own,
    /// It is kept here for another member.
    Stored,
    /// Somebody told it to us when we asked.
    Cached,
}

impl Directory {
    /// An empty one, of a member that knows nobody; all its choices by chance come from `seed`.
    pub fn new(me: Addr, seed: [u8; 32]) -> Self {
        Self {
            members: Members::new(me),
            own: Own::default(),
            store: Store::default(),
            cache: Cache::default(),
            finds: Finds::default(),
            doubts: Doubts::default(),
            rates: Rates::default(),
            chance: ChaCha20Rng::from_seed(seed),
            sweep_at: None,
            settled_at: None,
            out: VecDeque::new(),
        }
    }

    /// Serves a name from now on, or no longer. Says whether that is new.
    pub fn serve(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        hash: NameHash,
        served: bool,
    ) -> bool {
        self.own.set(now, around, &self.members, hash, served)
    }

    /// Takes note of who can be reached, all other members to which there is a way, and of those among them that are beside
    /// this one.
    pub fn set_members(
        &mut self,
        now: Instant,
        me: Addr,
        reachable: impl Iterator<Item = Addr>,
        beside: impl Iterator<Item = Addr>,
    ) {
        let all = reachable.chain([me]).collect();
        let beside = beside.filter(|addr| *addr != me).collect();
        if let Some(back) = self.members.set(all, beside) {
            self.moved(now, me, back);
        }
    }

    /// The same, where only these can be reached and could not before, or the other way round.
    pub fn move_members(
        &mut self,
        now: Instant,
        me: Addr,
        come: Vec<Addr>,
        gone: &[Addr],
        beside: impl Iterator<Item = Addr>,
    ) {
        let beside = beside.filter(|addr| *addr != me).collect();
        if let Some(back) = self.members.change(come, gone, beside) {
            self.moved(now, me, back);
        }
    }

    /// Other members can be reached than before, these among them.
    fn moved(&mut self, now: Instant, me: Addr, back: Vec<Addr>) {
        let back: BTreeSet<_> = back.into_iter().collect();
        // What they say of their names since may not have got here; they ask the same of nobody, and tell their own again.
        self.doubts.add(now, self.store.by(&back));
        self.own.moved(now, me, &self.members);
        self.finds.moved(now);
        self.settled_at = Some(now + SETTLE);
    }

    /// Whether these, sorted, are the neighbours that were told of last, as far as they can be reached.
    pub fn is_beside(&self, neighbours: impl Iterator<Item = Addr>) -> bool {
        self.members.are_beside(neighbours)
    }

    /// A member runs anew: what it kept for us is gone, and what it signed before is void.
    pub fn reborn(&mut self, now: Instant, member: Addr, life: u64) {
        self.own.forgotten(now, member);
        let void = |e: &Entry| e.origin == member && e.version.incarnation < life;
        self.store.sweep(now, |entry| !void(entry));
    }

    /// Forgets what may not be served any longer.
    pub fn review(&mut self, now: Instant, around: &impl Surroundings) {
        let may = |e: &Entry| around.may_serve(e.origin, &e.hash).is_ok();
        self.store.sweep(now, may);
    }

    /// Nothing that a member has said counts any longer; its name may be another's from now on.
    pub fn expel(&mut self, now: Instant, member: Addr) {
        self.store.sweep(now, |entry| entry.origin != member);
        self.cache.expel(member);
    }

    /// The members that serve a name, as far as is known here, and can be reached: the nearest first, among equals the
    /// lowest address; never this one.
    pub fn resolve(&self, now: Instant, around: &impl Surroundings, hash: &NameHash) -> Vec<Addr> {
        self.known(now, around, hash, true)
    }

    /// The same; `beside`: with what is known of neighbours, which is not all that keepers know.
    fn known(
        &self,
        now: Instant,
        around: &impl Surroundings,
        hash: &NameHash,
        beside: bool,
    ) -> Vec<Addr> {
        let keeps = self.keeps(around.me(), hash, KEEPERS);
        let guest = |held: &&Held| held.guest && self.members.is_beside(held.entry.origin);
        let stored = self.store.alive(now, hash);
        let stored = stored.filter(|held| keeps || beside && guest(held));
        let stored = stored.map(|held| held.entry.origin);
        let all = stored.chain(self.cache.get(now, hash));
        let mut found: Vec<_> = all
            .filter(|addr| *addr != around.me())
            .filter_map(|addr| Some((around.cost(addr)?, addr)))
            .collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|(_, addr)| addr).collect()
    }

    /// Looks a name up until then; `member`: only that one's entry is wanted; `fresh`: what is remembered is not enough. An
    /// output tells what comes of it. Says whether there was room for one more.
    pub fn find(
        &mut self,
        now: Instant,
        hash: NameHash,
        member: Option<Addr>,
        fresh: bool,
        until: Instant,
    ) -> bool {
        if fresh {
            self.cache.drop_name(&hash);
        }
        self.finds.begin(now, hash, member, !fresh, until)
    }

    /// Lets no more look-ups run at once than that.
    #[cfg(test)]
    pub(crate) fn find_at_most(&mut self, most: usize) {
        self.finds.most = most;
    }

    /// How much it hears of others.
    #[cfg(test)]
    pub(crate) fn hears(&mut self) -> &mut rate::Most {
        &mut self.rates.most
    }

    /// Keeps no more entries of one member than that.
    #[cfg(test)]
    pub(crate) fn keep_at_most(&mut self, most: usize) {
        self.store.most = most;
    }

    /// What the way to the farthest of those that keep a name costs, if there is one.
    pub fn distance(&self, around: &impl Surroundings, hash: &NameHash) -> u64 {
        let keepers = self.members.keepers(hash, KEEPERS).into_iter();
        keepers
            .filter_map(|addr| around.cost(addr))
            .max()
            .unwrap_or(0)
    }

    /// Whether a message that a neighbour sends to another member is handed on.
    pub fn relays(&mut self, now: Instant, via: Addr) -> bool {
        self.rates.relays(now, via)
    }

    /// A member has refused a flow since it doesn't serve a name. What is kept here of it may be younger than that word, and
    /// the member counts on it: so it is asked.
    pub fn refused_by(&mut self, now: Instant, hash: &NameHash, member: Addr) {
        self.cache.forget(hash, member);
        let member = BTreeSet::from([member]);
        let kept = self.store.by(&member);
        self.doubts.add(now, kept.filter(|(_, of)| of == hash));
    }

    /// All that is known here.
    pub fn iter(&self, me: Addr, now: Instant) -> impl Iterator<Item = (&NameHash, Addr, Kind)> {
        let own = self.own.iter().map(move |hash| (hash, me, Kind::Own));
        let stored = self.store.iter(now);
        let stored = stored.map(|entry| (&entry.hash, entry.origin, Kind::Stored));
        let cached = self.cache.iter(now);
        own.chain(stored)
            .chain(cached.map(|(hash, addr)| (hash, addr, Kind::Cached)))
    }

    /// Whether anything is kept that a member has said, withdrawn or not.
    #[cfg(any(test, feature = "sim"))]
    pub fn remembers(&self, member: Addr) -> bool {
        self.store.by(&BTreeSet::from([member])).next().is_some()
    }

    /// How many copies of our entries are known to be kept by others, and how many there are to be.
    pub fn kept(&self) -> (usize, usize) {
        self.own.kept()
    }

    /// How many entries are kept here for others.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether nothing is kept here for others.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When [`Directory::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let all = [
            self.own.deadline(),
            self.finds.deadline(),
            self.doubts.deadline(),
            self.sweep_at,
            self.settled_at,
        ];
        all.into_iter().flatten().min()
    }

    /// Does what the time has come for. To be called at [`Directory::deadline`]; earlier does no harm.
    pub fn tick(&mut self, now: Instant, around: &impl Surroundings) {
        let settled = self.settled_at.take_if(|at| *at <= now).is_some();
        if settled || self.sweep_at.is_none_or(|at| at <= now) {
            self.sweep(now, around.me());
        }
        for (to, id, store) in self.own.poll(now, around, &mut self.chance) {
            self.count("directory.told");
            self.send(to, id, Body::Store(store));
        }
        for (of, id, hash) in self.doubts.poll(now, &self.store, &mut self.chance) {
            self.count("directory.doubted");
            let find = wire::NameFind {
                name_hash: hash.to_vec(),
                member: of.0,
            };
            self.send(of, id, Body::Find(find));
        }
        for hash in self.finds.due(now) {
            self.look_here(now, around, hash);
        }
        let cost = |addr| around.cost(addr);
        let (me, members) = (around.me(), &self.members);
        let steps = self.finds.poll(now, me, members, cost, &mut self.chance);
        for step in steps {
            match step {
                Step::Ask(to, id, hash, member) => {
                    self.count("directory.asked");
                    let find = wire::NameFind {
                        name_hash: hash.to_vec(),
                        member: member.map_or(0, |m| m.0),
                    };
                    self.send(to, id, Body::Find(find));
                }
                Step::Denied(hash) => self.out.push_back(Output::Denied(hash)),
                Step::Over(hash) => self.out.push_back(Output::Over(hash)),
            }
        }
    }

    /// What it wants done, until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Takes what a member said to this one; `via` is the neighbour that it came from, and all of it that is certain.
    pub fn handle(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        via: Addr,
        from: Addr,
        id: u64,
        body: Body,
    ) {
        let weight = match &body {
            Body::Store(store) => store.names.len().max(1),
            Body::Found(found) => found.names.len().max(1),
            Body::Stored(_) | Body::Find(_) | Body::Gone(_) => 1,
        };
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        if weight > own::PER_MESSAGE as u32 {
            return self.count("drop.name_malformed");
        }
        if !self.rates.neighbour(now, via, weight) {
            return self.count("drop.name_rate");
        }
        match body {
            Body::Store(store) => self.store(now, around, via, (from, id), store),
            Body::Stored(answer) => self.stored(now, from, id, &answer),
            Body::Find(find) => self.answer(now, around, (from, id), &find),
            Body::Found(found) => self.found(now, around, (from, id), found),
            Body::Gone(gone) => self.gone(now, around, via, gone),
        }
    }
}

/// Of those that ask and register.
impl Directory {
    fn stored(&mut self, now: Instant, from: Addr, id: u64, answer: &NameStored) {
        for refusal in &answer.refused {
            let reason = Reason::new(Code::from_wire(refusal.code), refusal.text.clone());
            let hash = NameHash::try_from(refusal.name_hash.as_slice());
            if let (Ok(hash), Code::Denied) = (hash, reason.code) {
                self.out.push_back(Output::Refused(hash, from, reason));
            }
        }
        self.own.stored(now, from, id, answer);
    }

    fn found(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        (from, id): (Addr, u64),
        found: NameFound,
    ) {
        if let Some((hash, version)) = self.doubts.answered(from, id) {
            return self.cleared(from, &hash, version, &found);
        }
        let Some(answered) = self.finds.answered(now, from, id) else {
            return self.count("drop.name_unasked");
        };
        let hash = answered.hash;
        let (mut useful, mut true_ones) = (false, Vec::new());
        for signed in found.names.into_iter().take(PER_ANSWER) {
            match self.learn(now, around, from, &hash, &signed) {
                Ok(origin) => {
                    let other = origin != around.me() && around.cost(origin).is_some();
                    // A neighbour knows some that serve a name, a keeper all of them.
                    let wanted = answered.keeper || answered.wanted.is_none_or(|w| w == origin);
                    useful |= other && wanted;
                    true_ones.push(signed);
                }
                Err(error) => self.count(error.word()),
            }
        }
        let lacking = match answered.late {
            Some(known) if true_ones.is_empty() && answered.keeper => {
                true_ones = known.to_vec();
                vec![from]
            }
            None if useful => {
                self.out.push_back(Output::Found(hash));
                self.finds.end(&hash, true_ones.clone())
            }
            None => {
                self.finds.denied(now, &hash, from);
                Vec::new()
            }
            Some(_) => Vec::new(),
        };
        self.mend(&lacking, &true_ones);
    }

    /// Keepers that lack what others have are told: whoever registers a name may not notice that one forgot it.
    fn mend(&mut self, lacking: &[Addr], names: &[SignedName]) {
        for keeper in lacking.iter().filter(|_| !names.is_empty()) {
            self.count("directory.mended");
            let (id, names) = (self.chance.next_u64(), names.to_vec());
            self.send(*keeper, id, Body::Store(NameStore { names }));
        }
    }

    /// A member says whether it still serves a name that it served before it was out of reach. What it has said since it was
    /// asked may have overtaken the answer, and holds.
    fn cleared(&mut self, from: Addr, hash: &NameHash, asked: Version, found: &NameFound) {
        let kept = self.store.version(hash, from);
        if kept.is_some_and(|version| version != asked) {
            return;
        }
        let serves = |signed: &SignedName| {
            Entry::parse(signed).is_ok_and(|e| e.origin == from && e.hash == *hash)
        };
        if !found.names.iter().any(serves) {
            self.count("directory.doubt_right");
            self.cache.forget(hash, from);
            self.store.forget(hash, from);
        }
    }

    fn learn(
        &mut self,
        now: Instant,
        around: &impl Surroundings,
        from: Addr,
        hash: &NameHash,
        signed: &SignedName,
    ) -> Result<Addr, EntryError> {
        let entry = Entry::parse(signed)?;
        if entry.hash != *hash || entry.withdrawn {
            return Err(EntryError::Malformed);
        }
        if entry.origin != around.me() {
            self.believe(now, around, from, &entry, signed)?;
            self.cache.learn(now, &entry);
            self.sweep_at.get_or_insert(now + SWEEP);
        }
        Ok(entry.origin)
    }

    fn gone(&mut self, now: Instant, around: &impl Surroundings, via: Addr, gone: NameGone) {
        let signed = gone.name.unwrap_or_default();
        let told = Entry::parse(&signed).and_then(|entry| {
            self.believe(now, around, via, &entry, &signed)?;
            Ok(entry)
        });
        match told {
            Ok(entry) if entry.withdrawn => self.cache.gone(&entry),
            Ok(_) => self.count("drop.name_malformed"),
            Err(error) => self.count(error.word()),
        }
    }

    /// A name that is looked for may be known here: this member may keep it.
    fn look_here(&mut self, now: Instant, around: &impl Surroundings, hash: NameHash) {
        let Some((member, beside)) = self.finds.wants(&hash) else {
            return;
        };
        let known = self.known(now, around, &hash, beside);
        let keeps = self.keeps(around.me(), &hash, KEEPERS);
        let enough = |addr: &Addr| keeps || member.is_none_or(|wanted| wanted == *addr);
        if known.iter().any(enough) {
            self.finds.end(&hash, Vec::new());
            self.out.push_back(Output::Found(hash));
        }
    }
}

/// What these have in common.
impl Directory {
    fn sweep(&mut self, now: Instant, me: Addr) {
        self.sweep_at = Some(now + SWEEP);
        let members = &self.members;
        let settling = self.settled_at.is_some();
        self.store.sweep_held(now, |held| {
            // Who tells may have noticed before this member that it is to keep an entry, and will not tell again.
            let new = now.saturating_duration_since(held.taken) < SETTLE;
            let keeps = || {
                members
                    .keepers(&held.entry.hash, SPARE_KEEPERS)
                    .contains(&me)
            };
            settling || new || held.guest && members.is_beside(held.entry.origin) || keeps()
        });
        self.cache.sweep(now);
        self.own.sweep(now);
        self.rates.sweep(now);
    }

    fn send(&mut self, to: Addr, id: u64, body: Body) {
        self.out.push_back(Output::Send(to, id, body));
    }

    fn count(&mut self, what: &'static str) {
        self.out.push_back(Output::Count(what));
    }
}

/// How many members keep a name.
pub const KEEPERS: usize = 6;
/// How many of those nearest to a name may have it: some were nearer before the members changed.
pub const SPARE_KEEPERS: usize = 12;
/// Entries in one answer.
const PER_ANSWER: usize = 16;
const SWEEP: Duration = Duration::from_secs(30);
/// How long after a change of members, and after it was told here, what is for others to keep is given up.
const SETTLE: Duration = Duration::from_secs(5);
