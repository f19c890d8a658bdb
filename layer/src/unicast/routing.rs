//! Routes and names as this member knows them.

use std::time::Instant;

use proto::Addr;

use crate::crypt::Identity;

/// What this member knows of its layer.
pub(super) struct Routing {}

impl Routing {
    pub(super) fn new(_identity: &Identity, _incarnation: u64, _now: Instant) -> Self {
        Self {}
    }

    /// The neighbour to send to on the way to a member.
    pub(super) fn next_hop(&self, _dst: Addr) -> Option<Addr> {
        None
    }

    /// The largest PDU that gets all the way to a member.
    pub(super) fn mtu(&self, _dst: Addr) -> Option<u32> {
        None
    }

    /// The members that have a name, the nearest first.
    pub(super) fn resolve(&self, _hash: &[u8; 32]) -> Vec<Addr> {
        Vec::new()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        None
    }
}
