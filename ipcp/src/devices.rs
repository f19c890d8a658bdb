//! Devices that users have handed over: packets between a TUN and flows that need not pass through the user. It must not judge: of
//! two addresses the user has said that packets go between them and a flow, or they are the user's. A device that its user keeps, of
//! whose frames it writes all itself, is a place to wait at, and no more.

mod classes;
mod known;
mod line;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use frames::{Offloads, Tally, Tun, TunPort};
use proto::record::{Device as Said, Moved, Pair, Talk};
use proto::{Batch, FlowId, Framing, Margin};
use rustc_hash::FxHashMap;

use self::classes::Classes;
use self::known::{Known, Way};
use self::line::Line;
use self::waiting::Waiting;
use crate::io::{Interest, Io, Key, Side, Watch};

/// All devices of the process; `T` is one.
#[derive(Debug)]
pub(crate) struct Devices<T> {
    devices: FxHashMap<Id, Device<T>>,
    keys: FxHashMap<Key, Id>,
    flows: FxHashMap<FlowId, Bound>,
    /// Whose lines are waited on.
    lines: FxHashMap<Key, FlowId>,
    /// What devices still took when they were closed, as of who may come back; the newest last.
    closed: VecDeque<(Id, Offloads)>,
}

/// What of a device is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// What it has, then what waits.
    Whole,
    /// Only what waits.
    Waiting,
}

/// What a look at a device gave.
#[derive(Debug)]
pub(crate) enum Read {
    /// SDUs of a flow.
    Sdus(FlowId, Batch),
    /// A packet for the user of a flow.
    Frame(FlowId, Vec<u8>),
}

/// Who says that it is his, by uid, and what he calls it: nobody may speak of another's.
pub(crate) type Id = (u32, u64);

#[derive(Debug)]
struct Device<T> {
    /// None: the user keeps it.
    source: Option<Source<T>>,
    /// The flows that it was handed over with; the user hears by the first of packets that belong to none.
    flows: Vec<FlowId>,
    read: VecDeque<Read>,
    waiting: Waiting,
}

/// What was handed over.
#[derive(Debug)]
struct Source<T> {
    tun: T,
    watch: Watch,
    known: Classes,
    /// What was counted of its super-packets.
    tally: Tally,
}

#[derive(Debug)]
struct Bound {
    device: Id,
    mtu: usize,
    /// Its device was handed over.
    handed: bool,
    /// Packets of the device with other code points are not this flow's.
    code_points: u64,
    line: Line,
    /// Its link is slow: packets wait beside the device, not behind one another in the machine or in the kernel.
    slow: bool,
    /// How long a packet may wait.
    late: Duration,
    moved: Moved,
    /// It is to be told soon.
    moves: bool,
}

impl Bound {
    /// How many code points it carries.
    fn points(&self) -> u32 {
        self.code_points.count_ones()
    }
}

impl<T> Default for Devices<T> {
    fn default() -> Self {
        Self {
            devices: FxHashMap::default(),
            keys: FxHashMap::default(),
            flows: FxHashMap::default(),
            lines: FxHashMap::default(),
            closed: VecDeque::new(),
        }
    }
}

impl<T: TunPort> Devices<T> {
    /// Takes the device that came with a flow of this MTU, and its code points; if it is known, what was said of the flow is forgotten.
    pub(crate) fn bind(
        &mut self,
        io: &mut Io,
        (flow, mtu): (FlowId, u32),
        (id, code_points): (Id, u64),
        open: impl FnOnce() -> io::Result<Option<T>>,
    ) -> io::Result<()> {
        let same = self.flows.get(&flow).is_some_and(|b| b.device == id);
        if !same {
            self.unbind(io, flow);
        }
        if !self.devices.contains_key(&id) {
            let source = open()?.map(|tun| Source::new(io, tun)).transpose()?;
            if let Some(source) = &source {
                self.keys.insert(source.watch.key(), id);
            }
            self.devices.insert(id, Device::new(source));
        }
        let Some(device) = self.devices.get_mut(&id) else {
            return Ok(());
        };
        // What was read is not lost: it is of a moment ago.
        if let Some(source) = &mut device.source {
            if !source.known.come(code_points) {
                let why = "the flows of one device carry too many sets of code points";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            if let Some(before) = self.flows.get(&flow) {
                source.known.gone(before.code_points, flow);
            }
        }
        if !device.flows.contains(&flow) {
            // The first has most of the device's packets, so that those that are its user's don't come between others of a class.
            let points = |flow: &FlowId| self.flows.get(flow).map_or(0, Bound::points);
            let first = device.flows.first().map_or(0, points);
            let at = match first < code_points.count_ones() {
                true => 0,
                false => device.flows.len(),
            };
            device.flows.insert(at, flow);
        }
        let bound = Bound {
            device: id,
            mtu: mtu as usize,
            handed: device.source.is_some(),
            code_points,
            line: Line::None,
            slow: false,
            late: waiting::LATE,
            moved: Moved::default(),
            moves: false,
        };
        self.flows.entry(flow).or_insert(bound).code_points = code_points;
        Ok(())
    }

    /// Whether this may be said of a device: one of frames comes without a descriptor, and none becomes or ceases to be one.
    pub(crate) fn may_be(&self, id: Id, frames: bool, came: bool) -> bool {
        let known = self.devices.get(&id);
        !(frames && came) && known.is_none_or(|device| device.source.is_none() == frames)
    }

    /// What is said of a device, without the offloads that have ended when it was here before.
    pub(crate) fn as_it_was(&self, uid: u32, said: Said) -> Said {
        let before = self.closed.iter().find(|(id, _)| *id == (uid, said.id));
        let ended = |still: fn(&Offloads) -> bool| before.is_some_and(|(_, o)| !still(o));
        Said {
            tcp: said.tcp && !ended(|o| o.tcp),
            udp: said.udp && !ended(|o| o.udp),
            ..said
        }
    }

    /// Whether a flow has a device, be it one that its user keeps.
    pub(crate) fn has(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    /// Whether a flow's device was handed over.
    pub(crate) fn is_handed(&self, flow: FlowId) -> bool {
        self.flows.get(&flow).is_some_and(|bound| bound.handed)
    }

    /// Packets between these two go by themselves from now on. `false`: none was handed over with the flow.
    pub(crate) fn pair(&mut self, io: &mut Io, flow: FlowId, pair: Pair, now: Instant) -> bool {
        if self.is_cut(flow) {
            return true;
        }
        let known = self.known_of(flow);
        let taken = known.map(|known| known.pair(flow, pair, now));
        if taken == Some(false) {
            io.counters.add("limit.device_pairs", 1);
        }
        taken.is_some()
    }

    /// Packets of this go by themselves from now on. `false`: none was handed over with the flow.
    pub(crate) fn talk(&mut self, io: &mut Io, flow: FlowId, talk: Talk, now: Instant) -> bool {
        if self.is_cut(flow) {
            return true;
        }
        let known = self.known_of(flow);
        let taken = known.map(|known| known.talk(flow, talk, now));
        if taken == Some(false) {
            io.counters.add("limit.device_talks", 1);
        }
        taken.is_some()
    }

    /// The user was told that something of this moves.
    pub(crate) fn told(&mut self, flow: FlowId, talk: &Talk, now: Instant) {
        if let Some(known) = self.known_of(flow) {
            known.told(talk, now);
        }
    }

    /// The talks at a flow's device of which the user must hear that something moves.
    pub(crate) fn signs(&mut self, flow: FlowId) -> Vec<(FlowId, Talk)> {
        let bound = self.flows.get(&flow);
        let device = bound.and_then(|bound| self.devices.get_mut(&bound.device));
        let source = device.and_then(|device| device.source.as_mut());
        source
            .map(|source| source.known.signs())
            .unwrap_or_default()
    }

    /// The flow is gone, and with the last one the device.
    pub(crate) fn unbind(&mut self, io: &mut Io, flow: FlowId) {
        self.untie(io, flow, Line::None);
        let Some(bound) = self.flows.remove(&flow) else {
            return;
        };
        let Some(device) = self.devices.get_mut(&bound.device) else {
            return;
        };
        if let Some(source) = &mut device.source {
            source.known.gone(bound.code_points, flow);
        }
        let lost = device.waiting.forget(flow);
        io.counters.add("drop.device_silent", lost as u64);
        device.flows.retain(|other| *other != flow);
        if !device.flows.is_empty() {
            return;
        }
        let device = self.devices.remove(&bound.device);
        if let Some(source) = device.and_then(|device| device.source) {
            self.keys.remove(&source.watch.key());
            if let Some(offloads) = source.tun.offloads() {
                self.closed.retain(|(id, _)| *id != bound.device);
                self.closed.push_back((bound.device, offloads));
                if self.closed.len() > CLOSED {
                    self.closed.pop_front();
                }
            }
            // The user has the descriptor too, so that closing ours would not end the waiting.
            io.forget(source.watch, &source.tun);
        }
    }

    /// The device that has this descriptor.
    pub(crate) fn at(&self, key: Key) -> Option<Id> {
        self.keys.get(&key).copied()
    }

    /// Whether something was read that was not given yet.
    pub(crate) fn has_read(&self, id: Id) -> bool {
        let device = self.devices.get(&id);
        device.is_some_and(|device| !device.read.is_empty())
    }

    /// How many descriptors came from users.
    pub(crate) fn descriptors(&self) -> usize {
        self.keys.len() + self.lines.len()
    }

    /// Devices at which packets wait for room.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Id> {
        let waits = self.devices.iter().filter(|(_, d)| !d.waiting.is_empty());
        waits.map(|(id, _)| *id)
    }

    /// Lets what the user of a slow flow has written wait as what comes from its device; gives back what is of another flow.
    pub(crate) fn wait(&mut self, flow: FlowId, batch: Batch, now: Instant) -> Option<Batch> {
        let Some(bound) = self.flows.get(&flow).filter(|bound| bound.slow) else {
            return Some(batch);
        };
        let Some(device) = self.devices.get_mut(&bound.device) else {
            return Some(batch);
        };
        for packet in batch.iter() {
            let packet = packet.to_vec();
            device.waiting.put((flow, bound.late), now, packet);
        }
        None
    }

    /// Whether packets wait at this device.
    pub(crate) fn waits(&self, id: Id) -> bool {
        let device = self.devices.get(&id);
        device.is_some_and(|device| !device.waiting.is_empty())
    }

    /// Whether the link of a flow is slow, so that packets should wait here. Those that do are overtaken by none.
    pub(crate) fn set_slow(&mut self, flow: FlowId, slow: bool) {
        let Some(bound) = self.flows.get_mut(&flow).filter(|b| b.slow != slow) else {
            return;
        };
        let device = self.devices.get_mut(&bound.device);
        bound.slow = slow || device.is_some_and(|device| !device.waiting.clear(flow));
    }

    /// A packet of this flow is worth nothing after so long.
    pub(crate) fn set_late(&mut self, flow: FlowId, late: Duration) {
        if let Some(bound) = self.flows.get_mut(&flow) {
            bound.late = late.min(waiting::LATE);
        }
    }

    /// The largest SDU of a flow has changed.
    pub(crate) fn set_mtu(&mut self, flow: FlowId, mtu: u32) {
        if let Some(bound) = self.flows.get_mut(&flow) {
            bound.mtu = mtu as usize;
        }
    }

    /// The next of what is ready at a device; `None`: nothing is left that may go on now. `margin` says what should lie around the
    /// packets of a flow, and `room` how many bytes of it may go on (`None`: all).
    pub(crate) fn read(
        &mut self,
        io: &mut Io,
        (id, look, now): (Id, Look, Instant),
        margin: impl Fn(FlowId) -> Margin,
        room: impl Fn(FlowId) -> Option<usize>,
    ) -> Option<Read> {
        let device = self.devices.get_mut(&id)?;
        if device.read.is_empty() {
            if look == Look::Whole {
                device.fill(io, &mut self.flows, now, &margin);
            }
            if !device.waiting.is_empty() {
                device.serve(io, now, margin, room);
            }
            if let Some(source) = &mut device.source {
                source.count(io);
            }
        }
        device.read.pop_front()
    }

    /// Writes those SDUs of a flow to its device that may go by themselves; gives the others back.
    pub(crate) fn write(
        &mut self,
        io: &mut Io,
        (flow, now): (FlowId, Instant),
        batch: Batch,
    ) -> Option<Batch> {
        let Some(bound) = self.flows.get_mut(&flow) else {
            return Some(batch);
        };
        let device = self.devices.get_mut(&bound.device);
        let Some(source) = device.and_then(|device| device.source.as_mut()) else {
            return Some(batch);
        };
        let Some(known) = source.known.of_flow(bound.code_points) else {
            return Some(batch);
        };
        let mut others = None;
        let mut lost = 0;
        let written = source.tun.write(&batch, |packet| {
            if known.flow_of(Way::In(flow), packet, now).is_some() {
                return true;
            }
            let others = others.get_or_insert_with(|| Batch::new(Framing::Record));
            match others.push(packet.len()) {
                Some(room) => room.copy_from_slice(packet),
                None => lost += 1,
            }
            false
        });
        io.counters.add("drop.device_full", lost);
        io.counters.add("drop.device_write", written.refused as u64);
        source.count(io);
        bound.moved.rx_packets += written.packets;
        bound.moved.rx_bytes += written.bytes;
        others
    }

    /// What is done with super-packets at each device.
    pub(crate) fn offloads(&self) -> impl Iterator<Item = Offloads> {
        let handed = self.devices.values().filter_map(|d| d.source.as_ref());
        handed.filter_map(|source| source.tun.offloads())
    }

    /// Whether something has moved since the user was told; says so once.
    pub(crate) fn begins_to_move(&mut self, flow: FlowId) -> bool {
        let bound = self.flows.get_mut(&flow).filter(|bound| bound.handed);
        bound.is_some_and(|bound| !std::mem::replace(&mut bound.moves, true))
    }

    /// What has moved, to be told now.
    pub(crate) fn news(&mut self, flow: FlowId) -> Option<Moved> {
        let bound = self.flows.get_mut(&flow)?;
        bound.moves = false;
        Some(bound.moved)
    }

    fn known_of(&mut self, flow: FlowId) -> Option<&mut Known> {
        let bound = self.flows.get(&flow)?;
        let device = self.devices.get_mut(&bound.device)?;
        device.source.as_mut()?.known.of_flow(bound.code_points)
    }
}

/// The TUN device of a descriptor that came with an item; none if the user keeps it.
pub(crate) fn open(said: Said, fd: Option<OwnedFd>) -> io::Result<Option<Tun>> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    if said.frames {
        return Ok(None);
    }
    let fd = fd.ok_or_else(|| refused("no descriptor came with the device"))?;
    // Any other descriptor could make this process wait.
    if !is_tun(&fd)? {
        return Err(refused("the descriptor is no TUN device"));
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    let Said { tcp, udp, .. } = said;
    Ok(Some(Tun::new(fd, Offloads { tcp, udp })))
}

impl<T: TunPort> Source<T> {
    fn new(io: &mut Io, tun: T) -> io::Result<Self> {
        let watch = io.watch_on(Side::Upper, &tun, Interest::READ)?;
        Ok(Self {
            tun,
            watch,
            known: Classes::new(),
            tally: Tally::default(),
        })
    }

    /// Takes what was done with super-packets into the counters.
    fn count(&mut self, io: &mut Io) {
        let now = self.tun.tally();
        let before = std::mem::replace(&mut self.tally, now);
        if now != before {
            for (name, n) in now.since(&before).named() {
                io.counters.add(name, n);
            }
        }
    }
}

impl<T: TunPort> Device<T> {
    fn new(source: Option<Source<T>>) -> Self {
        let waiting = match source {
            Some(_) => Waiting::of_packets(),
            None => Waiting::of_frames(),
        };
        Self {
            source,
            flows: Vec::new(),
            read: VecDeque::new(),
            waiting,
        }
    }

    /// Reads what is ready, up to a bound.
    fn fill(
        &mut self,
        io: &mut Io,
        flows: &mut FxHashMap<FlowId, Bound>,
        now: Instant,
        margin: impl Fn(FlowId) -> Margin,
    ) {
        let Some(source) = &mut self.source else {
            return;
        };
        let mut bytes = 0;
        for _ in 0..READS {
            let mut frame = match source.tun.read() {
                Ok(Ok(frame)) => frame,
                Ok(Err(_)) => {
                    io.counters.add("drop.device_frame", 1);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    // The user sees it too, and ends.
                    tracing::debug!("a device can't be read: {e}");
                    let _ = io.set(&mut source.watch, &source.tun, Interest::NONE);
                    return;
                }
            };
            bytes += frame.packet().len();
            let known = source.known.of_packet(frame.packet());
            let flow = known.and_then(|known| known.flow_of(Way::Out, frame.packet(), now));
            let bound = flow.and_then(|flow| Some((flow, flows.get_mut(&flow)?)));
            match bound.filter(|(_, bound)| frame.longest() <= bound.mtu) {
                Some((flow, bound)) if bound.slow => {
                    bound.moved.tx_packets += frame.packets() as u64;
                    for packet in frame {
                        bound.moved.tx_bytes += packet.len() as u64;
                        self.waiting.put((flow, bound.late), now, packet);
                    }
                }
                Some((flow, bound)) => {
                    while let Some(len) = frame.next_len() {
                        let Some(room) = room(&mut self.read, flow, len, &margin) else {
                            break;
                        };
                        frame.write(room);
                        bound.moved.tx_packets += 1;
                        bound.moved.tx_bytes += len as u64;
                    }
                }
                None => {
                    let Some(flow) = self.flows.first() else {
                        return;
                    };
                    self.read
                        .extend(frame.map(|packet| Read::Frame(*flow, packet)));
                }
            }
            if bytes >= BYTES {
                return;
            }
        }
    }

    /// Takes of what waits as much as there is room for.
    fn serve(
        &mut self,
        io: &mut Io,
        now: Instant,
        margin: impl Fn(FlowId) -> Margin,
        rooms: impl Fn(FlowId) -> Option<usize>,
    ) {
        let mut last = None;
        self.waiting.serve(now, |flow, packet| {
            let left = match last {
                Some((of, left)) if of == flow => left,
                _ => rooms(flow).unwrap_or(BYTES),
            };
            last = Some((flow, left.saturating_sub(packet.len())));
            if left == 0 {
                return false;
            }
            if let Some(place) = room(&mut self.read, flow, packet.len(), &margin) {
                place.copy_from_slice(packet);
            }
            true
        });
        let lost = self.waiting.lost();
        io.counters.add("drop.device_aged", lost.aged);
        io.counters.add("drop.device_queue", lost.full);
    }
}

/// Where an SDU of a flow is to be written, behind others of the same flow if that has room.
fn room(
    read: &mut VecDeque<Read>,
    flow: FlowId,
    len: usize,
    margin: impl Fn(FlowId) -> Margin,
) -> Option<&mut [u8]> {
    let fits = match read.back() {
        Some(Read::Sdus(last, batch)) => *last == flow && batch.fits(len),
        Some(Read::Frame(..)) | None => false,
    };
    if !fits {
        read.push_back(Read::Sdus(flow, sdus(len, margin(flow))));
    }
    match read.back_mut() {
        Some(Read::Sdus(_, batch)) => batch.push(len),
        Some(Read::Frame(..)) | None => None,
    }
}

/// Where SDUs are put of which the first has so many bytes.
fn sdus(len: usize, margin: Margin) -> Batch {
    let train = Batch::train_within(margin);
    if !margin.is_empty() && train.fits(len) {
        train
    } else {
        Batch::new(Framing::Record)
    }
}

/// Whether a descriptor is that of a TUN device (`/dev/net/tun`: 10, 200).
fn is_tun(fd: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let number = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    Ok(kind == rustix::fs::FileType::CharacterDevice && number == (10, 200))
}

/// Devices that are remembered when they are closed.
const CLOSED: usize = 64;
/// Frames and bytes that are read before others have their turn.
const READS: usize = 64;
const BYTES: usize = 4 * Batch::CAPACITY;
