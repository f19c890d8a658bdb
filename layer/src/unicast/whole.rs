//! Batches that go to one place whole, from the lower network to a user or to the next member, and from a user to the network,
//! without their packets being moved. What lies around a packet is its [`Margin`]. It must not open or seal anything.

use proto::{Batch, EndpointId, FlowId, Framing, Margin};

use super::Unicast;
use super::dt::Path;
use super::out::Class;
use super::pdu::{Direct, Routed, SEALED_LEN, TAG_LEN};

/// Where a PDU goes that was opened where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// Its payload goes up to the user of a raw flow; how it lies in the PDU.
    Up(EndpointId, Margin),
    /// To the next member over this link, to be sealed anew.
    On(FlowId, Class),
}

/// The packets of a batch up to the one at hand, while all of them go to one place.
#[derive(Debug, Default)]
pub(super) struct Whole {
    to: Option<Lies>,
    count: usize,
    /// Something else was among them.
    parted: bool,
}

impl Whole {
    /// Counts the next packet among them, if it goes to the same place and all before it do.
    pub(super) fn takes(&mut self, next: Option<Lies>) -> bool {
        let same = !self.parted && next.is_some() && (self.count == 0 || self.to == next);
        if same {
            self.to = next;
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
        let path = self.path_between(me.address, flow.peer, flow.remote);
        let trains = |path: &Path| {
            let link = self.links.get(&path.lower);
            link.is_some_and(|link| link.tx.sends_trains())
        };
        match path.filter(trains) {
            Some(path) if path.direct => DIRECT,
            Some(_) => ROUTED,
            None => Margin::NONE,
        }
    }

    /// How many bytes of a raw flow's next packets should come now; `None`: all.
    pub(super) fn room_of(&self, id: FlowId) -> Option<usize> {
        let flow = self.flows.endpoint(id).and_then(|e| self.flows.get(e))?;
        let me = self.me.as_ref()?.address;
        let path = self.path_between(me, flow.peer, flow.remote)?;
        let link = self.links.get(&path.lower)?;
        link.tx.room(&flow.lot(self.now?, me))
    }

    /// Another packet goes elsewhere: those before it are copied to where they go.
    pub(super) fn part(&mut self, batch: &Batch, whole: &mut Whole) {
        if std::mem::replace(&mut whole.parted, true) {
            return;
        }
        let count = std::mem::take(&mut whole.count);
        if let Some(lies) = whole.to.take() {
            for place in batch.places().take(count) {
                self.copy(lies, &batch.bytes()[place]);
            }
        }
    }

    /// Copies what matters of an opened PDU to where it goes.
    pub(super) fn copy(&mut self, lies: Lies, pdu: &[u8]) {
        match lies {
            Lies::Up(endpoint, margin) => self.copy_up(endpoint, &pdu[margin.within(0..pdu.len())]),
            Lies::On(lower, class) => {
                let Some(link) = self.links.get_mut(&lower) else {
                    return self.stats.count("drop.no_route");
                };
                let body = &pdu[SEALED.within(0..pdu.len())];
                let sent = link.send(class, body.len(), |to| {
                    to.copy_from_slice(body);
                    Ok(())
                });
                match sent {
                    Ok(()) => self.forwarded += 1,
                    Err(reason) => self.stats.count(reason),
                }
            }
        }
    }

    /// All that is left of a batch goes to one place.
    pub(super) fn go_whole(&mut self, batch: Batch, whole: &Whole) {
        match whole.to {
            Some(Lies::Up(endpoint, margin)) => self.whole_up(batch, endpoint, margin),
            Some(lies @ Lies::On(lower, class)) => {
                let link = self.links.get_mut(&lower);
                match link.filter(|link| link.takes_batch(class, &batch, usize::MAX)) {
                    Some(link) => {
                        self.forwarded += batch.count() as u64;
                        link.send_batch(class, batch);
                    }
                    None => batch.iter().for_each(|pdu| self.copy(lies, pdu)),
                }
            }
            None => {}
        }
    }

    fn whole_up(&mut self, mut batch: Batch, endpoint: EndpointId, margin: Margin) {
        let Some(flow) = self.flows.get_mut(endpoint) else {
            return self.stats.add("drop.unknown_flow", batch.count() as u64);
        };
        let before = flow.rx.take().map(|record| (flow.id, record));
        self.uppers.extend(before);
        if !batch.set_margin(margin) {
            return self.stats.add("drop.malformed", batch.count() as u64);
        }
        flow.rx_bytes += batch.payload() as u64;
        self.uppers.push_back((flow.id, batch));
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
