//! A member that does with what passes through it whatever it likes (feature `hostile`: for tests only).
//!
//! It has the keys of a true member and no others; no program that is released has this.

use proto::wire::message::Body;
use proto::wire::{EnrolRelay, EnrolReply, SignedRecord};
use proto::{Addr, FlowId};

use super::Unicast;
use super::out::Class;
use super::pdu::{Routed, RoutedHandshake};
use crate::crypt::{Identity, TlsConfig};

/// What a hostile member does. What is left out is done as by an honest one.
pub trait Meddler: Send {
    /// Something came from a neighbour and was opened for this member: all that it can read.
    fn saw(&mut self, _bytes: &[u8]) {}

    /// A PDU of others passes through, a flow's or a handshake's; gives what is sent in its stead, in this order.
    fn forwarded(&mut self, _own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        vec![Sent::On(pdu.to_vec())]
    }

    /// Signed records go to a neighbour, and may be changed before.
    fn records(&mut self, _own: &Own<'_>, _records: &mut Vec<SignedRecord>) {}

    /// A joiner's request goes to the issuer; gives what is said to it in its stead, in this order.
    fn relayed(&mut self, _own: &Own<'_>, relay: EnrolRelay) -> Vec<EnrolRelay> {
        vec![relay]
    }

    /// The answer goes to the joiner, and may be changed before.
    fn answered(&mut self, _own: &Own<'_>, _reply: &mut EnrolReply) {}
}

/// What is truly the hostile member's own.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    /// Its key and its certificate.
    pub identity: &'a Identity,
    /// What it shakes hands with.
    pub tls: &'a TlsConfig,
}

/// What a hostile member sends, and to whom.
pub enum Sent {
    /// To where the PDU was going.
    On(Vec<u8>),
    /// To where it came from.
    Back(Vec<u8>),
}

impl Unicast {
    /// Gives this member over to a meddler.
    pub fn meddle(&mut self, meddler: Box<dyn Meddler>) {
        self.meddler = Some(meddler);
    }

    pub(super) fn meddler_saw(&mut self, bytes: &[u8]) {
        if let Some(meddler) = &mut self.meddler {
            meddler.saw(bytes);
        }
    }

    /// Lets the meddler have a flow's PDU in transit. Says whether it saw to what is sent.
    pub(super) fn meddler_forwards(&mut self, class: Class, header: &Routed, pdu: &[u8]) -> bool {
        self.meddler_passes(class, header.src, header.dst, pdu)
    }

    /// The same for a PDU of a handshake, which follows its header.
    pub(super) fn meddler_introduces(&mut self, header: &RoutedHandshake, bytes: &[u8]) -> bool {
        let mut pdu = vec![0; RoutedHandshake::LEN];
        header.write(&mut pdu);
        pdu.extend(bytes);
        self.meddler_passes(Class::Control, header.src, header.dst, &pdu)
    }

    fn meddler_passes(&mut self, class: Class, src: Addr, dst: Addr, pdu: &[u8]) -> bool {
        let (Some(meddler), Some(me)) = (&mut self.meddler, &self.me) else {
            return false;
        };
        let own = Own {
            identity: &me.identity,
            tls: &me.tls,
        };
        for sent in meddler.forwarded(&own, pdu) {
            let (to, pdu) = match sent {
                Sent::On(pdu) => (dst, pdu),
                Sent::Back(pdu) => (src, pdu),
            };
            self.meddler_sends(class, to, &pdu);
        }
        true
    }

    fn meddler_sends(&mut self, class: Class, to: Addr, pdu: &[u8]) {
        let lower: Option<FlowId> = self.path(to).map(|path| path.lower);
        let Some(link) = lower.and_then(|lower| self.links.get_mut(&lower)) else {
            return self.stats.count("drop.no_route");
        };
        let sent = link.send(class, pdu.len(), |to| {
            to.copy_from_slice(pdu);
            Ok(())
        });
        match sent {
            Ok(()) => self.forwarded += 1,
            Err(reason) => self.stats.count(reason),
        }
    }

    /// Lets the meddler have what is said to a neighbour.
    pub(super) fn meddler_tells(&mut self, mut body: Body) -> Body {
        if let (Some(meddler), Some(me)) = (&mut self.meddler, &self.me) {
            let own = Own {
                identity: &me.identity,
                tls: &me.tls,
            };
            if let Body::Records(records) = &mut body {
                meddler.records(&own, &mut records.records);
            } else if let Body::EnrolReply(reply) = &mut body {
                meddler.answered(&own, reply);
            }
        }
        body
    }

    /// Lets the meddler have a joiner's request; gives the last of what is said to the issuer.
    pub(super) fn meddler_relays(&mut self, lower: FlowId, relay: EnrolRelay) -> EnrolRelay {
        let (Some(meddler), Some(me)) = (&mut self.meddler, &self.me) else {
            return relay;
        };
        let own = Own {
            identity: &me.identity,
            tls: &me.tls,
        };
        let mut all = meddler.relayed(&own, relay.clone());
        let last = all.pop().unwrap_or(relay);
        for relay in all {
            self.tell_link(lower, Body::EnrolRelay(relay));
        }
        last
    }
}
