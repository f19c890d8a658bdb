//! Batches that belong to one raw flow whole: they go from the lower network to the user, and back, without their packets being moved.
//! What lies around a packet is its [`Margin`]. It must not open or seal anything.

use proto::{Batch, EndpointId, FlowId, Framing, Margin};

use super::Unicast;
use super::pdu::{Direct, Routed, SEALED_LEN, TAG_LEN};

/// Whose a payload is, and how it lies in its PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) endpoint: EndpointId,
    pub(super) margin: Margin,
}

/// The packets of a batch up to the one at hand, while all of them are one flow's.
#[derive(Debug, Default)]
pub(super) struct Whole {
    of: Option<Raw>,
    count: usize,
    /// Something else was among them.
    parted: bool,
}

impl Whole {
    /// Counts the next packet among them, if it is of the same flow and all before it are.
    pub(super) fn takes(&mut self, next: Option<Raw>) -> bool {
        let same = !self.parted && next.is_some() && (self.count == 0 || self.of == next);
        if same {
            self.of = next;
            self.count += 1;
        }
        same
    }

    /// Whether there are any.
    pub(super) fn holds(&self) -> bool {
        self.count > 0
    }
}

impl Unicast {
    /// The margin with which the next packets of a flow need no copy.
    pub(super) fn margin_of(&self, id: FlowId) -> Margin {
        let flow = self.flows.endpoint(id).and_then(|e| self.flows.get(e));
        let Some((flow, me)) = flow.filter(|f| f.transfer.is_none()).zip(self.me.as_ref()) else {
            return Margin::NONE;
        };
        match self.path_between(me.address, flow.peer, flow.remote) {
            Some(path) if path.direct => DIRECT,
            Some(_) => ROUTED,
            None => Margin::NONE,
        }
    }

    /// Another packet is no such one: those before it are copied to where it belongs.
    pub(super) fn part(&mut self, batch: &Batch, whole: &mut Whole) {
        if std::mem::replace(&mut whole.parted, true) {
            return;
        }
        let count = std::mem::take(&mut whole.count);
        if let Some(Raw { endpoint, margin }) = whole.of.take() {
            for place in batch.places().take(count) {
                self.copy_up(endpoint, &batch.bytes()[margin.within(place)]);
            }
        }
    }

    /// All of a batch is one flow's.
    pub(super) fn whole_up(&mut self, mut batch: Batch, whole: &Whole) {
        let Some(Raw { endpoint, margin }) = whole.of else {
            return;
        };
        let Some(flow) = self.flows.get_mut(endpoint) else {
            return self.stats.add("drop.unknown_flow", batch.count() as u64);
        };
        let before = flow.rx.take().map(|record| (flow.id, record));
        self.uppers.extend(before);
        if batch.set_margin(margin) {
            flow.rx_bytes += batch.payload() as u64;
            self.uppers.push_back((flow.id, batch));
        }
    }

    /// Copies an SDU into the open record of a raw flow.
    pub(super) fn copy_up(&mut self, endpoint: EndpointId, sdu: &[u8]) {
        let Some(flow) = self.flows.get_mut(endpoint) else {
            return self.stats.count("drop.unknown_flow");
        };
        if flow.rx.as_ref().is_some_and(|open| !open.fits(sdu.len())) {
            let full = flow.rx.take().map(|record| (flow.id, record));
            self.uppers.extend(full);
        }
        let open = flow.rx.get_or_insert_with(|| Batch::new(Framing::Record));
        if let Some(room) = open.push(sdu.len()) {
            room.copy_from_slice(sdu);
            flow.rx_bytes += sdu.len() as u64;
        }
        self.upper_ready.insert(endpoint);
    }
}

/// Around what is sealed for a link.
pub(super) const SEALED: Margin = Margin {
    head: SEALED_LEN,
    tail: TAG_LEN,
};
/// Around the payload of a PDU between neighbours.
pub(super) const DIRECT: Margin = Margin {
    head: SEALED_LEN + Direct::LEN,
    tail: TAG_LEN,
};
/// Around the payload of a PDU that is sealed end to end.
pub(super) const ROUTED: Margin = Margin {
    head: SEALED_LEN + Routed::LEN,
    tail: 2 * TAG_LEN,
};
