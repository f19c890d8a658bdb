//! Which packets may pass between this host and each other member, by the rules that the layer has worked out of its policy from
//! who both are. It keeps state, so that answers pass where only questions are allowed. It must not know names or groups.
//!
//! A member of which no rule speaks is open: its packets are not looked at, and may go by themselves.

mod fragments;
#[cfg(test)]
mod model;
mod packet;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Instant;

use ip::ends::Ends;
use ip::upper::{FIN, RST, TCP, UDP};
use proto::record;

pub use self::rules::Rules;

use self::fragments::Fragments;
use self::packet::{Kind, Talk};
use self::table::{Going, Step, Table};
use crate::prefix::PeerId;

/// Rules and conversations of all members.
#[derive(Debug, Default)]
pub struct Filter {
    rules: HashMap<PeerId, Both>,
    table: Table,
    fragments: Fragments,
}

/// What may be sent to a member, and what it may send; `None`: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Both {
    /// By this host.
    pub sends: Option<Rules>,
    /// By the member.
    pub takes: Option<Rules>,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the member.
    Out,
    /// From it.
    In,
}

/// What a packet that passes has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// All packets between this host and the member may pass.
    Open,
    /// So may those that go on with what this one is of.
    Going,
    /// This one.
    Alone,
}

/// Why a packet doesn't pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// No rule allows it, or one denies it.
    Denied,
    /// There are too many conversations.
    Full,
    /// A fragment may lie over what is judged of the first of its packet.
    Overlaps,
}

impl Filter {
    /// Other rules hold from now on. Conversations that they don't allow are over; the others go on.
    pub fn set(&mut self, rules: HashMap<PeerId, Both>) {
        let rules: HashMap<PeerId, Both> = rules
            .into_iter()
            .filter(|(_, both)| *both != Both::default())
            .collect();
        if rules == self.rules {
            return;
        }
        self.rules = rules;
        let rules = &self.rules;
        self.table.keep(|id, talk, entry| {
            let (way, asked) = match entry.ours {
                true => (Way::Out, *talk),
                false => (Way::In, talk.turned()),
            };
            rules.get(&id).is_some_and(|both| both.allow(way, &asked))
        });
    }

    /// The number is another member's from now on: conversations of the one who had it are over.
    pub fn forget(&mut self, id: PeerId) {
        self.table.forget(id);
        self.fragments.forget(id);
    }

    /// Whether other rules than these hold of a member.
    pub fn differs(&self, id: PeerId, from: &Both) -> bool {
        match self.rules.get(&id) {
            Some(both) => both != from,
            None => *from != Both::default(),
        }
    }

    /// Whether everything passes between this host and a member, so that packets need not be looked at.
    pub fn is_open(&self, id: PeerId) -> bool {
        !self.rules.contains_key(&id)
    }

    /// Lets a packet to or from a member pass, or not. Its ends are those that it says.
    pub fn pass(
        &mut self,
        now: Instant,
        (id, way): (PeerId, Way),
        packet: &[u8],
        ends: &Ends,
    ) -> Result<Passed, Stopped> {
        let Some(both) = self.rules.get(&id) else {
            return Ok(Passed::Open);
        };
        let cut = |number| (id, ends.src, ends.dst, number);
        let table = &mut self.table;
        match Kind::of(packet, ends).ok_or(Stopped::Denied)? {
            // A receiver may take what it says for what was judged (RFC 3128).
            Kind::Later(_, place) if place < packet::READ => Err(Stopped::Overlaps),
            Kind::Later(number, _) => {
                let known = self.fragments.has(now, &cut(number));
                known.then_some(Passed::Alone).ok_or(Stopped::Denied)
            }
            Kind::Error(about) => {
                // It is about what went the other way.
                let about = way.of_ours(about.turned());
                let itself = Talk {
                    protocol: packet::ICMP,
                    src: (ends.src, 0),
                    dst: (ends.dst, 0),
                };
                let known = table.has(now, id, about) || both.allow(way, &itself);
                known.then_some(Passed::Alone).ok_or(Stopped::Denied)
            }
            Kind::Talk {
                talk,
                flags,
                answers,
                first,
            } => {
                let step = Step {
                    ours: way == Way::Out,
                    flags,
                };
                let key = way.of_ours(talk);
                let going = table.continues(now, id, key, step);
                if going.is_none() {
                    if !both.allow(way, &talk) {
                        return Err(Stopped::Denied);
                    }
                    // An answer is allowed as such, and asks for none.
                    if !answers && !table.begin(now, id, key, step) {
                        return Err(Stopped::Full);
                    }
                }
                if let Some(number) = first {
                    self.fragments.begin(now, cut(number));
                }
                // What ends one, and what comes after, is looked at; of some that is all there is.
                let ends = flags & (FIN | RST) != 0 || going == Some(Going::Over);
                Ok(if ends { Passed::Alone } else { Passed::Going })
            }
        }
    }

    /// Something of this has moved without being looked at. `false`: it isn't known any more.
    pub fn moves(&mut self, now: Instant, id: PeerId, talk: &record::Talk) -> bool {
        if self.is_open(id) {
            return true;
        }
        let (own, other) = talk.pair.addresses();
        let key = Talk {
            protocol: talk.protocol,
            src: (own, talk.ports.0),
            dst: (other, talk.ports.1),
        };
        let step = Step {
            ours: talk.out,
            flags: 0,
        };
        self.table.continues(now, id, key, step).is_some()
    }

    /// How many conversations are kept.
    pub fn conversations(&self) -> usize {
        self.table.len()
    }
}

impl Both {
    /// Whether everything may pass both ways, of whatever kind.
    pub fn allows_all(&self) -> bool {
        let all = |rules: &Option<Rules>| rules.as_ref().is_none_or(Rules::allow_all);
        all(&self.sends) && all(&self.takes)
    }

    fn allow(&self, way: Way, talk: &Talk) -> bool {
        let rules = match way {
            Way::Out => &self.sends,
            Way::In => &self.takes,
        };
        let port = match talk.protocol {
            TCP | UDP => talk.dst.1,
            _ => 0,
        };
        rules.as_ref().is_none_or(|r| r.allow(talk.protocol, port))
    }
}

impl Way {
    /// A conversation as this host sends.
    fn of_ours(self, talk: Talk) -> Talk {
        match self {
            Self::Out => talk,
            Self::In => talk.turned(),
        }
    }
}
