//! The directory between members: what the pure machine says is handed on from neighbour to neighbour, and what it finds
//! out is told to the flows that wait for it. It must not judge entries.

use std::time::{Duration, Instant};

use proto::wire::{self, directory, message::Body};
use proto::{Addr, FlowId, Label, Name, Reason, irm};

use super::Unicast;
use super::law::Law;
use super::link::Link;
use super::member::Member;
use super::routing::Routing;
use crate::Now;
use crate::crypt::{CertError, Identity};
use crate::dir::{EntryError, Kind, NameHash, Output, Surroundings};
use crate::route::Moves;

/// What the directory sees of its member.
pub(super) struct Around<'a> {
    identity: &'a Identity,
    routing: &'a Routing,
    law: &'a Law,
}

impl Surroundings for Around<'_> {
    fn me(&self) -> Addr {
        self.identity.address()
    }

    fn layer(&self) -> &Label {
        self.identity.layer()
    }

    fn life(&self) -> u64 {
        self.routing.lsdb.incarnation()
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.identity.sign(bytes).to_vec()
    }

    fn cost(&self, member: Addr) -> Option<u64> {
        let way = || self.routing.way(member).map(|(_, cost)| cost.max(1));
        (member == self.me()).then_some(0).or_else(way)
    }

    fn life_of(&self, member: Addr) -> Option<u64> {
        self.routing.life(member)
    }

    fn check(&self, member: Addr, bytes: &[u8], signature: &[u8]) -> Result<(), EntryError> {
        let cert = self.routing.member(member).ok_or(EntryError::Stranger)?;
        let checked = cert.check(bytes, signature);
        checked.map_err(|_: CertError| EntryError::Forged)
    }

    fn may_serve(&self, member: Addr, hash: &NameHash) -> Result<(), Reason> {
        let cert = self.routing.member(member);
        cert.map_or(Ok(()), |cert| self.law.may_serve(cert, hash))
    }
}

impl Member {
    /// The directory, and what it sees.
    fn directory(&mut self) -> (&mut crate::dir::Directory, Around<'_>) {
        let around = Around {
            identity: &self.identity,
            routing: &self.routing,
            law: &self.law,
        };
        (&mut self.dir, around)
    }

    fn around(&self) -> Around<'_> {
        Around {
            identity: &self.identity,
            routing: &self.routing,
            law: &self.law,
        }
    }

    /// The members that serve a name, as far as is known here, and can be reached: the nearest first.
    pub(super) fn resolve(&self, now: Now, name: &Name) -> Vec<Addr> {
        self.dir.resolve(now.mono, &self.around(), &self.hash(name))
    }

    /// How long a name may take to turn up: where those that keep it are far, their answer is waited for. A way costs no less
    /// than its round trip in milliseconds.
    fn resolves_within(&self, name: &Name) -> Duration {
        let cost = self.dir.distance(&self.around(), &self.hash(name));
        Duration::from_millis(cost).min(FARTHEST)
    }
}

/// What the rest of the machine tells the directory.
impl Unicast {
    /// A name is served here from now on, or no longer. Says whether that is new.
    pub(super) fn serve(&mut self, now: Now, hash: NameHash, served: bool) -> bool {
        self.pump = true;
        self.me.as_mut().is_some_and(|me| {
            let (dir, around) = me.directory();
            dir.serve(now.mono, &around, hash, served)
        })
    }

    /// The policy is another: what may no longer be kept goes.
    pub(super) fn review_directory(&mut self, now: Now) {
        if let Some(me) = &mut self.me {
            let (dir, around) = me.directory();
            dir.review(now.mono, &around);
            self.pump = true;
        }
    }

    /// Other members may be reached than before: these; `None`: any.
    pub(super) fn directory_rerouted(&mut self, now: Now, moves: Option<Moves>) {
        if let Some(me) = &mut self.me {
            let beside = self.adjacent.keys().copied();
            match moves {
                Some(moves) => {
                    me.dir
                        .move_members(now.mono, me.address, moves.come, &moves.gone, beside)
                }
                None => {
                    let reachable = me.routing.ways().map(|(addr, _)| addr);
                    me.dir.set_members(now.mono, me.address, reachable, beside);
                }
            }
            self.pump = true;
        }
    }

    /// Until when a name may still turn up, for a flow that has time until `deadline`.
    pub(super) fn resolve_until(&self, now: Now, name: &Name, deadline: Instant) -> Instant {
        let far = self.me.as_ref().map(|me| me.resolves_within(name));
        deadline.min(now.mono + RESOLVE + far.unwrap_or_default())
    }

    /// Looks for a name until then; `fresh`: what is remembered is not enough. Says whether there was room for that.
    pub(super) fn look_up(
        &mut self,
        now: Now,
        name: &Name,
        member: Option<Addr>,
        fresh: bool,
        until: Instant,
    ) -> bool {
        self.pump = true;
        let Some(me) = &mut self.me else {
            return false;
        };
        let hash = me.hash(name);
        let room = me.dir.find(now.mono, hash, member, fresh, until);
        if !room {
            self.stats.count("limit.look_ups");
        }
        room
    }

    /// Does what the directory has to do, and what follows from it.
    pub(super) fn pump_directory(&mut self, now: Now) {
        let Some(me) = &mut self.me else { return };
        let (dir, around) = me.directory();
        dir.tick(now.mono, &around);
        while let Some(output) = self.me.as_mut().and_then(|me| me.dir.poll()) {
            match output {
                Output::Send(to, id, body) => self.say_directory(to, id, body),
                Output::Found(hash) | Output::Over(hash) => self.looked_up(now, &hash, false),
                Output::Denied(hash) => self.looked_up(now, &hash, true),
                Output::Refused(hash, by, reason) => self.name_refused(&hash, by, &reason),
                Output::Count(what) => self.stats.count(what),
            }
        }
    }

    fn name_refused(&mut self, hash: &NameHash, by: Addr, reason: &Reason) {
        let name = self.me.as_ref().and_then(|me| me.name(hash));
        let Some(name) = name.map(ToString::to_string) else {
            return;
        };
        let by = self.member_name(by);
        let text = format!("member {by} does not keep the registration of {name}: {reason}");
        self.notice("name.refused", text, &name, true);
    }
}

/// Messages.
impl Unicast {
    fn say_directory(&mut self, to: Addr, id: u64, body: directory::Body) {
        let Some(me) = &self.me else { return };
        let message = wire::Directory {
            dst: to.0,
            src: me.address.0,
            ttl: TTL,
            id,
            body: Some(body),
        };
        self.send_directory(message, None);
    }

    /// Sends a message to the next member on its way, but not back to where it came from: the two don't agree on the way yet.
    fn send_directory(&mut self, message: wire::Directory, from: Option<FlowId>) {
        let path = self.path(Addr(message.dst)).map(|path| path.lower);
        match path.filter(|lower| Some(*lower) != from) {
            Some(lower) => self.tell_link(lower, Body::Directory(message)),
            None => self.stats.count("drop.directory_no_way"),
        }
    }

    /// Takes a message of the directory, for this member or for another.
    pub(super) fn take_directory(&mut self, now: Now, lower: FlowId, mut message: wire::Directory) {
        let via = self.links.get(&lower).and_then(Link::peer);
        let (Some(me), Some(via)) = (&mut self.me, via) else {
            return;
        };
        self.pump = true;
        if message.dst != me.address.0 {
            if !me.dir.relays(now.mono, via) {
                return self.stats.count("drop.directory_rate");
            }
            message.ttl = message.ttl.min(TTL).saturating_sub(1);
            if message.ttl == 0 {
                return self.stats.count("drop.ttl");
            }
            self.stats.count("directory.relayed");
            return self.send_directory(message, Some(lower));
        }
        let Some(body) = message.body else {
            return self.stats.count("drop.malformed_message");
        };
        let (dir, around) = me.directory();
        dir.handle(now.mono, &around, via, Addr(message.src), message.id, body);
    }
}

/// What others ask of it.
impl Unicast {
    pub(super) fn status_directory(&self, now: Now) -> Vec<irm::Entry> {
        let Some(me) = &self.me else {
            return Vec::new();
        };
        let entry = |(hash, address, kind): (&NameHash, Addr, Kind)| irm::Entry {
            name_hash: hash.iter().map(|b| format!("{b:02x}")).collect(),
            member: self.member_name(address),
            kind: match kind {
                Kind::Own => "own",
                Kind::Stored => "stored",
                Kind::Cached => "cached",
            }
            .to_owned(),
        };
        let all = me.dir.iter(me.address, now.mono);
        all.take(MAX_SHOWN).map(entry).collect()
    }
}

/// The members that a message may pass.
const TTL: u32 = 64;
/// Entries that a status shows.
const MAX_SHOWN: usize = 10_000;
/// How long a name that is asked for may take to turn up where its keepers are near, and how much longer at most where they
/// are not.
const RESOLVE: Duration = Duration::from_secs(1);
const FARTHEST: Duration = Duration::from_secs(10);
