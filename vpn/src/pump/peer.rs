//! One peer: its session, the record that is being filled for it, and what moved.

use std::time::Instant;

use ipnet::IpNet;
use proto::record::Moved;
use proto::{Batch, Framing, Label};

use crate::session::Session;

/// All that the pump keeps of one member.
pub(super) struct Peer<F> {
    pub(super) name: Label,
    pub(super) prefixes: Vec<IpNet>,
    pub(super) neighbour: bool,
    /// `false` once it is no member any more; its place is kept as long as a dial may name it by its number.
    pub(super) member: bool,
    pub(super) session: Session<F>,
    /// Packets to be sent, if there are any.
    pub(super) out: Option<Batch>,
    /// Since when the flow's socket takes nothing.
    pub(super) full: Option<Instant>,
    pub(super) moved: Moved,
}

impl<F> Peer<F> {
    pub(super) fn new(me: &Label, name: Label) -> Self {
        let session = Session::new(me, &name);
        Self {
            name,
            prefixes: Vec::new(),
            neighbour: false,
            member: true,
            session,
            out: None,
            full: None,
            moved: Moved::default(),
        }
    }

    /// Where a packet of this length is to be written that is to be sent; `None` if it doesn't fit.
    pub(super) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let out = self.out.get_or_insert_with(|| Batch::new(Framing::Record));
        out.push(len)
    }

    /// The number of packets to be sent.
    pub(super) fn pending(&self) -> usize {
        self.out.as_ref().map_or(0, Batch::count)
    }
}

/// The bytes of the packets in a record.
pub(super) fn payload(record: &Batch) -> u64 {
    (record.bytes().len() - 2 * record.count()) as u64
}
