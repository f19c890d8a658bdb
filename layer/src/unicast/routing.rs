//! Routes as this member knows them: the records of all, and what follows from them.

use std::time::{Duration, Instant};

use proto::Addr;

use crate::crypt::{Identity, MemberCert};
use crate::route::{Fib, Hop, Lsdb, Spf};

/// What this member knows of its layer.
pub(super) struct Routing {
    pub(super) lsdb: Lsdb,
    pub(super) fib: Fib,
    spf: Spf,
    /// When the routes are to be found anew: records come in groups.
    spf_at: Option<Instant>,
}

impl Routing {
    pub(super) fn new(identity: &Identity, incarnation: u64) -> Self {
        let me = identity.address();
        let lsdb = Lsdb::new(me, identity.layer().clone(), incarnation);
        Self {
            lsdb,
            fib: Fib::default(),
            spf: Spf::new(me),
            spf_at: None,
        }
    }

    /// The neighbour to send to on the way to a member.
    pub(super) fn next_hop(&self, dst: Addr) -> Option<Addr> {
        self.fib.next_hop(dst).map(|hop| hop.via)
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
            self.spf_at.get_or_insert(now + DEBOUNCE);
        }
        let due = self.spf_at.is_some_and(|at| at_once || at <= now);
        if due {
            self.spf_at = None;
            self.fib = self.lsdb.reroute(&mut self.spf);
        }
        due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.spf_at, self.lsdb.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// How long more news is waited for before the routes are found anew.
const DEBOUNCE: Duration = Duration::from_millis(5);
