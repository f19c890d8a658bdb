//! A learning switch whose ports are this host and the other members. It must not know flows, names or devices, nor believe a
//! member about an address of this host.
//!
//! All members are linked with each other, so what comes from one of them goes to the host and never to another.

mod bucket;
mod frame;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

pub use self::frame::{Head, Mac};

use self::bucket::Bucket;
use self::table::{Key, Table};
use crate::prefix::{Owner, PeerId};

/// What was learned, what can't be learned away, and what may still be flooded.
#[derive(Debug)]
pub struct Switch {
    table: Table,
    /// The addresses that members' devices have by their names. They are theirs alone.
    fixed: HashMap<Mac, Owner>,
    /// That of this host's device, if its administrator has given it another.
    own: Option<Mac>,
    /// What may be flooded of frames to groups, and of those to one address that nobody is known to have: who makes the host send many
    /// of those must not keep it from asking who has an address.
    groups: Bucket,
    unknown: Bucket,
}

/// Where a frame of the host goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To this member alone.
    Peer(PeerId),
    /// To all members, if [`Switch::may_flood`] says so.
    All,
}

/// Why a frame goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is shorter than its header.
    Short,
    /// Its source is that of a group, or of nobody.
    Source,
    /// It ends at the next bridge.
    Control,
    /// It comes from an address that is another's: this host's, or that of a member's device.
    Stolen,
    /// Who it is for is on the side that it comes from, or on another member's.
    Elsewhere,
}

impl Switch {
    /// How long an address is remembered that sends nothing, as bridges do.
    pub const AGE: Duration = Duration::from_secs(300);
    /// How long an address that was heard on this host's side is not believed to be a member's: long enough that nobody takes it
    /// away who just says so, short enough that one that moves is followed.
    pub const HOLD: Duration = Duration::from_secs(2);
    /// The most addresses of one port. What comes beyond that is flooded to.
    pub const SHARE: usize = 1024;
    /// The most addresses of all ports.
    pub const MOST: usize = 16_384;
    /// Copies of flooded frames a second, and at once; to groups and to others each.
    pub const FLOOD: (u32, u32) = (10_000, 20_000);

    /// One that knows nothing.
    pub fn new(now: Instant) -> Self {
        Self {
            table: Table::new(now),
            fixed: HashMap::new(),
            own: None,
            groups: Bucket::new(now),
            unknown: Bucket::new(now),
        }
    }

    /// Whose devices have which addresses from now on. Of two that have the same, the first has it.
    pub fn set_fixed(&mut self, all: impl Iterator<Item = (Mac, Owner)>) {
        self.fixed.clear();
        for (mac, owner) in all {
            self.fixed.entry(mac).or_insert(owner);
        }
    }

    /// The address that this host's device really has.
    pub fn set_own(&mut self, mac: Mac) {
        self.own = Some(mac);
    }

    /// Judges a frame that the host sends, and learns from it.
    pub fn from_host(&mut self, now: Instant, frame: &[u8]) -> Result<To, Refused> {
        let head = Head::parse(frame)?;
        if !self.may_be(&head, Owner::Me) {
            return Err(Refused::Stolen);
        }
        self.table.learn(now, Key::from(&head), Owner::Me);
        if head.to.is_group() {
            return Ok(To::All);
        }
        // What a certificate says need not be learned, nor can it be forgotten.
        let fixed = self.fixed.get(&head.to).copied();
        match fixed.or_else(|| self.table.find(now, Key::to(&head))) {
            Some(Owner::Peer(id)) => Ok(To::Peer(id)),
            Some(Owner::Me) => Err(Refused::Elsewhere),
            None => Ok(To::All),
        }
    }

    /// Judges a frame that a member sends, and learns from it; what passes is the host's.
    pub fn from_peer(&mut self, now: Instant, peer: PeerId, frame: &[u8]) -> Result<(), Refused> {
        let head = Head::parse(frame)?;
        let (from, port) = (Key::from(&head), Owner::Peer(peer));
        if !self.may_be(&head, port) || self.table.heard_here(now, from) {
            return Err(Refused::Stolen);
        }
        self.table.learn(now, from, port);
        let to = Key::to(&head);
        match self.table.find(now, to) {
            // Who was on this host's side a while ago may still be there, whatever a member says: once it is spoken to, it speaks.
            Some(Owner::Peer(_)) if !head.to.is_group() && !self.table.was_here(now, to) => {
                Err(Refused::Elsewhere)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a frame, to a group or not, may be flooded to so many members now.
    pub fn may_flood(&mut self, now: Instant, group: bool, copies: usize) -> bool {
        let bucket = if group {
            &mut self.groups
        } else {
            &mut self.unknown
        };
        bucket.take(now, copies)
    }

    /// A member can't be reached any more: what is for its addresses is flooded until somebody has them.
    pub fn forget(&mut self, peer: PeerId) {
        self.table.forget(Owner::Peer(peer));
    }

    /// How many addresses of each port are known.
    pub fn known(&self, now: Instant) -> HashMap<Owner, usize> {
        self.table.known(now)
    }

    /// How many addresses were not learned for lack of room, and how many moved from one port to another.
    pub fn counts(&self) -> (u64, u64) {
        (self.table.overflows, self.table.moves)
    }

    /// Whether the sender of a frame may be behind a port: no device's address is anywhere but there.
    fn may_be(&self, head: &Head, port: Owner) -> bool {
        let fixed = self.fixed.get(&head.from).copied();
        let own = (self.own == Some(head.from)).then_some(Owner::Me);
        own.or(fixed).is_none_or(|owner| owner == port)
    }
}
