//! A member that does with what passes through it whatever it likes (feature `hostile`: for tests only).
//!
//! It has the keys of a true member and no others; no program that is released has this.

use proto::FlowId;
use proto::wire::message::Body;

use super::Unicast;
use super::out::Class;
use crate::crypt::Identity;

/// What a hostile member does.
pub trait Meddler: Send {
    /// Something came from a neighbour and was opened for this member: all that it can read.
    fn saw(&mut self, bytes: &[u8]);

    /// A PDU of others passes through; gives what is sent on in its stead, in this order.
    fn forwarded(&mut self, pdu: &[u8]) -> Vec<Vec<u8>>;

    /// Signed records go to a neighbour, and may be changed before. The identity is this member's own.
    fn records(&mut self, me: &Identity, records: &mut Vec<proto::wire::SignedRecord>);
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

    /// Lets the meddler have a PDU in transit. Says whether it saw to what is sent on.
    pub(super) fn meddler_forwards(&mut self, class: Class, lower: FlowId, pdu: &[u8]) -> bool {
        let (Some(meddler), Some(link)) = (&mut self.meddler, self.links.get_mut(&lower)) else {
            return false;
        };
        for pdu in meddler.forwarded(pdu) {
            let sent = link.send(class, pdu.len(), |to| {
                to.copy_from_slice(&pdu);
                Ok(())
            });
            match sent {
                Ok(()) => self.forwarded += 1,
                Err(reason) => self.stats.count(reason),
            }
        }
        true
    }

    pub(super) fn meddler_tells(&mut self, body: &mut Body) {
        if let (Some(meddler), Some(me), Body::Records(records)) =
            (&mut self.meddler, &self.me, body)
        {
            meddler.records(&me.identity, &mut records.records);
        }
    }
}
