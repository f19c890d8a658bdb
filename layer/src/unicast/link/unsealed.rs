//! PDUs whose time to leave has come and whose seal is missing. It must not know links: whatever thread has it puts the seal on.

use proto::Batch;

use super::keys::Hop;
use crate::crypt::Reserved;
use crate::unicast::pdu::{self, SEALED_LEN};

/// A batch for one lower flow with all that its seals need. They are the same whoever puts them on, and when.
#[derive(Debug)]
pub struct Unsealed {
    batch: Batch,
    version: u8,
    session: u32,
    counters: Reserved,
    free: bool,
}

impl Unsealed {
    /// With the next counters of these keys; the error is the reason of the drop.
    pub(super) fn new(hop: &mut Hop, batch: Batch, free: bool) -> Result<Self, &'static str> {
        let lens = batch.iter().map(|pdu| pdu.len() - SEALED_LEN);
        let counters = hop.seal.reserve(lens);
        Ok(Self {
            version: hop.version,
            session: hop.session,
            counters: counters.map_err(|_| "drop.key_exhausted")?,
            batch,
            free,
        })
    }

    /// Whether it may wait for others that leave in the same turn: where a lower flow is full at times, what has priority would
    /// come to wait behind it.
    pub(in crate::unicast) fn may_wait(&self) -> bool {
        self.free
    }

    /// How much there is to seal, in bytes.
    pub fn bytes(&self) -> usize {
        self.batch.bytes().len()
    }

    /// Puts the seals on.
    pub fn seal(mut self) -> Batch {
        for pdu in self.batch.iter_mut() {
            let (header, body) = pdu.split_at_mut(SEALED_LEN);
            pdu::write_sealed(header, self.version, self.session);
            let sealed = self.counters.seal(header, body);
            debug_assert_eq!(sealed, Ok(()), "counters were set apart for each PDU");
            if sealed.is_err() {
                // Whatever else may be wrong then, it doesn't leave as it is.
                pdu.fill(0);
            }
        }
        self.batch
    }
}
