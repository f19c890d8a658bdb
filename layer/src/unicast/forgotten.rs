//! Handshakes that one side has forgotten: what a server says to who goes on with one, and what its client does then. It must
//! not end one that lives: nothing is believed but what that server has promised to say (see [`crate::crypt::Farewell`]).

use proto::{Addr, FlowId, Reason};

use super::Unicast;
use super::out::Class;
use super::pdu::{RoutedHandshake, TTL};
use crate::Now;
use crate::crypt::Handshake;

/// Where a handshake runs: of all that run in one place, no two are of one session.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Over a link, sealed by the neighbour or as it is.
    Link(FlowId, Option<Addr>),
    /// Through other members, in the name of that one.
    Routed(Addr),
}

impl Place {
    pub(super) fn bytes(self) -> [u64; 3] {
        match self {
            Self::Link(lower, None) => [0, lower.0, 0],
            Self::Link(lower, Some(via)) => [1, lower.0, via.0],
            Self::Routed(from) => [2, from.0, 0],
        }
    }
}

/// The server.
impl Unicast {
    /// Takes a PDU of a handshake that doesn't run here, and that begins none; `via`: the neighbour that has sealed it for its
    /// way. If one began here and was forgotten, its client is told so, as far as the rate allows.
    pub(super) fn forgotten(
        &mut self,
        now: Now,
        place: Place,
        via: Option<Addr>,
        session: u32,
        pdu: &[u8],
    ) {
        self.stats.count("drop.unknown_handshake");
        let said = self.farewells.promised(place.bytes(), session);
        let Some(answer) = said.and_then(|said| Handshake::farewell(pdu, said)) else {
            return;
        };
        if !self.gate.tells(now.mono, via) {
            return;
        }
        self.stats.count("handshake.told_forgotten");
        match place {
            Place::Link(lower, sealed) => {
                let link = self.links.get_mut(&lower);
                let sent = link.map(|link| link.send_handshake(sealed.is_some(), &answer));
                if let Some(Err(reason)) = sent {
                    self.stats.count(reason);
                }
            }
            Place::Routed(dst) => {
                let me = self.me.as_ref().map(|me| me.address);
                let Some(src) = me.filter(|_| self.knows_member(dst)) else {
                    return;
                };
                let header = RoutedHandshake { ttl: TTL, dst, src };
                self.send_handshake(now, Class::Control, header, &answer);
            }
        }
    }
}

/// The client.
impl Unicast {
    /// The server of a handshake over a link has forgotten it: it is there, so another begins on the same link.
    pub(super) fn link_forgotten(&mut self, now: Now, lower: FlowId, reason: Reason) {
        self.stats.count("handshake.forgotten");
        // A neighbour's keys serve on, and the link sees to fresh ones itself.
        if self.links.get(&lower).is_some_and(|l| l.peer().is_none()) {
            self.greet_again(now, lower, reason);
        }
    }

    /// The same of one through other members.
    pub(super) fn routed_forgotten(&mut self, member: Addr) {
        self.stats.count("handshake.forgotten");
        if let Some(peer) = self.peers.get_mut(&member) {
            peer.estranged = true;
            self.wants_session.insert(member);
        }
    }
}
