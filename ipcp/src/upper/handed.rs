//! What users say of devices that they have handed over, and what those devices have to say. It must not read or write one.

use std::time::{Duration, Instant};

use libflow::port::Handed;
use proto::record::Item;
use proto::{Batch, Code, FlowId, Margin, Reason};

use super::{Did, MOVED, Timer, Upper, Uppers};
use crate::devices::{self, Id, Look};
use crate::io::{Io, Key};

impl Uppers {
    /// What is done with super-packets at each device that users have handed over.
    pub(crate) fn offloads(&self) -> impl Iterator<Item = frames::Offloads> {
        self.devices.offloads()
    }

    /// The device that a user has handed over with this descriptor.
    pub(crate) fn device(&self, key: Key) -> Option<Id> {
        self.devices.at(key)
    }

    /// Whether something was read from a device that no step has given yet.
    pub(crate) fn has_read(&self, device: Id) -> bool {
        self.devices.has_read(device)
    }

    /// Devices at which packets wait for room.
    pub(crate) fn waiting_devices(&self) -> impl Iterator<Item = Id> {
        self.devices.waiting()
    }

    /// Whether a flow has a device, be it one that its user keeps.
    pub(crate) fn has_device(&self, flow: FlowId) -> bool {
        self.devices.has(flow)
    }

    /// Lets what the user of a device has written for a slow link wait beside that; else gives it back.
    pub(crate) fn wait(&mut self, flow: FlowId, batch: Batch) -> Option<Batch> {
        self.devices.wait(flow, batch, Instant::now())
    }

    /// Whether packets wait at this device.
    pub(crate) fn waits(&self, device: Id) -> bool {
        self.devices.waits(device)
    }

    /// Whether the link of a flow is slow, so that packets should wait at its device.
    pub(crate) fn set_slow(&mut self, flow: FlowId, slow: bool) {
        self.devices.set_slow(flow, slow);
    }

    /// What a device has for flows, with the margin that `margin` says and as far as `room` does; what it has for its user is given to
    /// that.
    pub(crate) fn read_device(
        &mut self,
        io: &mut Io,
        (device, look, now): (Id, Look, Instant),
        margin: impl Fn(FlowId) -> Margin,
        room: impl Fn(FlowId) -> Option<usize>,
    ) -> Option<Did> {
        loop {
            match self.devices.read(io, (device, look, now), &margin, &room)? {
                devices::Read::Sdus(flow, batch) => {
                    self.tell_signs(flow, now);
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
                    self.tell_signs(flow, now);
                    if !self.tell(flow, &Item::Frame(packet)) {
                        io.counters.add("drop.device_user_full", 1);
                    }
                }
            }
        }
    }

    /// Writes those SDUs of a flow to its device that may go by themselves; gives the others back, as a record.
    pub(super) fn write_device(
        &mut self,
        io: &mut Io,
        flow: FlowId,
        batch: Batch,
    ) -> Option<Batch> {
        if !self.devices.is_handed(flow) {
            return Some(batch.into_record());
        }
        let now = Instant::now();
        let left = self.devices.write(io, (flow, now), batch);
        if self.devices.begins_to_move(flow) {
            self.timers.set(Timer::Moved(flow), now + MOVED);
        }
        self.tell_signs(flow, now);
        left.map(Batch::into_record)
    }

    /// Tells the user of a device of which conversations something has moved.
    pub(super) fn tell_signs(&mut self, flow: FlowId, now: Instant) {
        for (flow, talk) in self.devices.signs(flow) {
            // If the user has no room for it, it is told soon; if it has none for long, the talk is forgotten before the user ends it.
            if self.tell(flow, &Item::Talk(talk)) {
                self.devices.told(flow, &talk, now);
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
        (item, now): (Item, Instant),
        [handed, line]: Handed,
    ) -> Result<(), Reason> {
        let upper = self.flows.get(&flow);
        let Some(Upper { welcome, user, .. }) = upper else {
            return Ok(());
        };
        let (mtu, uid, trusted) = (welcome.mtu, user.uid, welcome.devices);
        let late = u64::from(welcome.qos.max_delay_ms);
        let misuse =
            |why: &dyn std::fmt::Display| Err(Reason::new(Code::PeerMisbehaved, why.to_string()));
        match item {
            Item::Device(_) if !trusted => misuse(&"devices are taken from the VPN's user alone"),
            Item::Device(said) => {
                let id = (uid, said.id);
                if !self.devices.may_be(id, said.frames, handed.is_some()) {
                    return misuse(&"a device of frames stays with its user, and is no other's");
                }
                let said = self.devices.as_it_was(uid, said);
                let open = || devices::open(said, handed);
                let bound = self
                    .devices
                    .bind(io, (flow, mtu), (id, said.code_points), open);
                let bound = bound.and_then(|()| self.devices.tie(io, flow, line));
                if bound.is_ok() {
                    if late > 0 {
                        self.devices.set_late(flow, Duration::from_millis(late));
                    }
                    // It may say Talks. If it doesn't hear, it says none.
                    self.tell(flow, &Item::Frame(Vec::new()));
                }
                bound.or_else(|e| misuse(&e))
            }
            Item::Pair(pair) if self.devices.pair(io, flow, pair, now) => Ok(()),
            Item::Talk(talk) if self.devices.talk(io, flow, talk, now) => Ok(()),
            Item::Pair(_) | Item::Talk(_) => {
                misuse(&"a Pair or Talk came before the Device that was handed over")
            }
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
