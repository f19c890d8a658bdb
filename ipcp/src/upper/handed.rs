//! What users say of devices that they have handed over, and what those devices have to say. It must not read or write one.

use std::os::fd::OwnedFd;
use std::time::Instant;

use proto::record::Item;
use proto::{Code, FlowId, Margin, Reason};

use super::{Did, MOVED, Timer, Upper, Uppers};
use crate::devices;
use crate::io::{Io, Key};

impl Uppers {
    /// What a device that was handed over has for flows, with the margin that `margin` says; what it has for its user is given to
    /// that.
    pub(crate) fn read_device(
        &mut self,
        io: &mut Io,
        key: Key,
        now: Instant,
        margin: impl Fn(FlowId) -> Margin,
    ) -> Option<Did> {
        loop {
            match self.devices.read(io, key, &margin)? {
                devices::Read::Sdus(flow, batch) => {
                    let takes = |upper: &Upper| !upper.silent && !upper.ended;
                    if !self.flows.get(&flow).is_some_and(takes) {
                        io.counters.add("drop.device_silent", batch.count() as u64);
                        continue;
                    }
                    if self.devices.begins_to_move(flow) {
                        self.timers.set(Timer::Moved(flow), now + MOVED);
                    }
                    return Some(Did::Wrote(flow, batch));
                }
                devices::Read::Frame(flow, packet) => {
                    if !self.tell(flow, &Item::Frame(packet)) {
                        io.counters.add("drop.device_user_full", 1);
                    }
                }
            }
        }
    }

    pub(super) fn tell_moved(&mut self, flow: FlowId) {
        if let Some(moved) = self.devices.news(flow) {
            // Totals: the next says it too.
            self.tell(flow, &Item::Moved(moved));
        }
    }

    /// Takes a user's device, or what it says of it; else says why the flow ends.
    pub(super) fn device_item(
        &mut self,
        io: &mut Io,
        flow: FlowId,
        item: Item,
        handed: Option<OwnedFd>,
    ) -> Result<(), Reason> {
        let upper = self.flows.get(&flow);
        let (mtu, uid) = upper.map_or((0, 0), |upper| (upper.welcome.mtu, upper.user.uid));
        let misuse =
            |why: &dyn std::fmt::Display| Err(Reason::new(Code::PeerMisbehaved, why.to_string()));
        match item {
            Item::Device(said) => {
                let open = || devices::open(said, handed);
                let bound =
                    self.devices
                        .bind(io, (flow, mtu), ((uid, said.id), said.code_points), open);
                bound.or_else(|e| misuse(&e))
            }
            Item::Pair(pair) if self.devices.pair(flow, pair) => Ok(()),
            Item::Pair(_) => misuse(&"a Pair came before the Device"),
            Item::Join(_)
            | Item::Welcome(_)
            | Item::Mtu(_)
            | Item::Down(_)
            | Item::Shut
            | Item::Frame(_)
            | Item::Moved(_) => misuse(
                &"a user sends SDUs, then Shut where the flow is ordered, then Down, nothing else",
            ),
        }
    }
}
