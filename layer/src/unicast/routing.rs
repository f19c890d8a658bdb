//! Routes as this member knows them: the records of all, and what follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Addr, EndpointId};
use rustc_hash::FxHashMap;

use crate::crypt::{Identity, MemberCert};
use crate::route::{Fib, Hop, Lsdb, Moves, Repair, Spf, flow_hash};

/// What this member knows of its layer.
pub(super) struct Routing {
    pub(super) lsdb: Lsdb,
    pub(super) fib: Fib,
    spf: Spf,
    me: Addr,
    /// Ways round neighbours that were lost, and until when they hold.
    repairs: Arc<FxHashMap<Addr, Repair>>,
    repaired_until: Option<Instant>,
    /// When the routes are to be found anew: records come in groups.
    spf_at: Option<Instant>,
    /// When they were found last after others had said something, and how long the next such time is put off.
    found: Option<Instant>,
    wait: Duration,
}

impl Routing {
    pub(super) fn new(identity: &Identity, incarnation: u64) -> Self {
        let me = identity.address();
        let lsdb = Lsdb::new(me, identity.layer().clone(), incarnation);
        Self {
            lsdb,
            fib: Fib::default(),
            spf: Spf::new(me),
            me,
            repairs: Arc::default(),
            repaired_until: None,
            spf_at: None,
            found: None,
            wait: FIRST_WAIT,
        }
    }

    /// The neighbour to send to on the way to a member: the same for all packets from a member to an end at another.
    pub(super) fn next_hop(&self, dst: Addr, flow: u64) -> Option<Addr> {
        self.fib.pick(dst, flow)
    }

    /// What tells the packets of a flow from those of others.
    pub(super) fn flow_hash(&self, src: Addr, dst: Addr, endpoint: EndpointId) -> u64 {
        flow_hash(self.me, src, dst, endpoint)
    }

    /// Whether a neighbour lies on one of the best ways to a member.
    pub(super) fn leads_over(&self, dst: Addr, neighbour: Addr) -> bool {
        self.fib.ways(dst).any(|way| way == neighbour)
    }

    /// Over whom each member would be reached if the neighbour on its way died.
    pub(super) fn spares(&self) -> BTreeMap<Addr, Addr> {
        self.lsdb.spares(&self.spf).into_iter().collect()
    }

    /// Neighbours are lost, which nobody else knows yet: until they do, what went over them goes over neighbours that are
    /// sure not to send it back. To be called before our record says so.
    pub(super) fn repair(&mut self, now: Instant, lost: &[Addr]) {
        self.lsdb.reroute(&mut self.spf);
        let mut repairs = Arc::unwrap_or_clone(std::mem::take(&mut self.repairs));
        repairs.retain(|_, repair| !lost.contains(&repair.via));
        repairs.extend(self.lsdb.repairs(&self.spf, lost));
        self.repaired_until = (!repairs.is_empty()).then_some(now + HOLD);
        self.repairs = Arc::new(repairs);
    }

    /// Whether packets to a member go round a neighbour that others don't yet know to be lost.
    #[cfg(test)]
    pub(super) fn is_repaired(&self, dst: Addr) -> bool {
        self.repairs.contains_key(&dst)
    }

    /// The newest life in which a member was seen.
    pub(super) fn life(&self, member: Addr) -> Option<u64> {
        self.lsdb.life(member)
    }

    /// The neighbour on the way to a member, and what that way costs.
    pub(super) fn way(&self, dst: Addr) -> Option<(Addr, u64)> {
        self.fib.next_hop(dst).map(|hop| (hop.via, hop.cost))
    }

    /// The largest PDU that gets all the way to a member.
    pub(super) fn mtu(&self, dst: Addr) -> Option<u32> {
        self.fib.next_hop(dst).map(|hop| hop.mtu)
    }

    /// What a member has shown of itself.
    pub(super) fn member(&self, address: Addr) -> Option<&MemberCert> {
        self.lsdb.member(address)
    }

    /// All ways, in the order of the members' addresses.
    pub(super) fn ways(&self) -> impl Iterator<Item = (Addr, Hop)> {
        self.fib.iter()
    }

    /// The links may have changed: finds the routes anew, at once or soon. Says whether it did.
    pub(super) fn refresh(&mut self, now: Instant, at_once: bool) -> bool {
        if self.lsdb.changed() {
            let quiet = |found| now.saturating_duration_since(found) >= QUIET;
            if self.found.is_none_or(quiet) {
                self.wait = FIRST_WAIT;
            }
            self.spf_at.get_or_insert(now + self.wait);
        }
        let over = self.repaired_until.take_if(|until| *until <= now).is_some();
        if over {
            self.repairs = Arc::default();
        }
        let due = over || self.spf_at.is_some_and(|at| at_once || at <= now);
        if due {
            if self.spf_at.take().is_some_and(|at| at <= now) {
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
                self.found = Some(now);
            }
            // What is shared is copied before it is changed, so the old table goes first.
            self.fib = Fib::default();
            let fib = self.lsdb.reroute(&mut self.spf);
            self.fib = fib.repaired(self.repairs.clone());
        }
        due
    }

    /// Who can be reached, compared with the last time that this was asked; `None`: nearly everybody may be another.
    pub(super) fn moves(&mut self) -> Option<Moves> {
        self.lsdb.moves(&mut self.spf)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.spf_at, self.repaired_until, self.lsdb.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// How long more news is waited for before the routes are found anew: the longer the more of it keeps coming (RFC 8405), but
/// never so long that a repair ends before.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(80);
const QUIET: Duration = Duration::from_secs(1);
/// How long a way round a lost neighbour is used: by then all others have heard of the loss and found their new ways, so that
/// ours can't lead through one who would send back (RFC 8333).
const HOLD: Duration = Duration::from_millis(250);
