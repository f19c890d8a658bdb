//! Devices that users have handed over: packets between a TUN and flows that need not pass through the user. It must not judge: of
//! two addresses the user has said that packets go between them and a flow, or they are the user's. A device that its user keeps, of
//! whose frames it writes all itself, is a place to wait at, and no more.

mod known;
mod line;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use frames::{Offloads, Tally, Tun, TunPort};
use ip::upper::dscp;
use proto::record::{Device as Said, Moved, Pair, Talk};
use proto::{Batch, FlowId, Framing, Margin};
use rustc_hash::FxHashMap;

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
    known: Known,
    /// What was counted of its super-packets.
    tally: Tally,
}

#[derive(Debug)]
struct Bound {
    device: Id,
    mtu: usize,
    /// Its device was handed over.
    handed: bool,
    /// Packets with other code points are the user's.
    code_points: u64,
    line: Line,
    /// Its link is slow: packets wait beside the device, not behind one another in the machine or in the kernel.
    slow: bool,
    moved: Moved,
    /// It is to be told soon.
    moves: bool,
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
            source.known.forget(flow);
        }
        if !device.flows.contains(&flow) {
            device.flows.push(flow);
        }
        let bound = Bound {
            device: id,
            mtu: mtu as usize,
            handed: device.source.is_some(),
            code_points,
            line: Line::None,
            slow: false,
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
        self.known_of(flow).map(Known::signs).unwrap_or_default()
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
            source.known.forget(flow);
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
        let bound = self.flows.get(&flow).filter(|bound| bound.slow);
        let device = bound.and_then(|bound| self.devices.get_mut(&bound.device));
        let Some(device) = device else {
            return Some(batch);
        };
        for packet in batch.iter() {
            device.waiting.put(flow, now, packet.to_vec());
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
        (id, now): (Id, Instant),
        margin: impl Fn(FlowId) -> Margin,
        room: impl Fn(FlowId) -> Option<usize>,
    ) -> Option<Read> {
        let device = self.devices.get_mut(&id)?;
        if device.read.is_empty() {
            device.fill(io, &mut self.flows, now, &margin);
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
        let (known, mut others) = (&mut source.known, None);
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
        let device = self.devices.get_mut(&self.flows.get(&flow)?.device)?;
        device.source.as_mut().map(|source| &mut source.known)
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
            known: Known::new(),
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
            let flow = source.known.flow_of(Way::Out, frame.packet(), now);
            let bound = flow.and_then(|flow| Some((flow, flows.get_mut(&flow)?)));
            let may = |bound: &Bound| {
                frame.longest() <= bound.mtu && bound.code_points >> dscp(frame.packet()) & 1 == 1
            };
            match bound.filter(|(_, bound)| may(bound)) {
                Some((flow, bound)) if bound.slow => {
                    bound.moved.tx_packets += frame.packets() as u64;
                    for packet in frame {
                        bound.moved.tx_bytes += packet.len() as u64;
                        self.waiting.put(flow, now, packet);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use frames::FrameFd;
    use proto::record::{FORGOTTEN, SIGN};
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    const ME: [u8; 4] = [10, 7, 0, 1];
    const OTHER: [u8; 4] = [10, 7, 0, 2];
    const THIRD: [u8; 4] = [10, 7, 0, 3];
    const FLOW: FlowId = FlowId(1);
    const NEXT: FlowId = FlowId(2);
    const ID: Id = (0, 7);
    const MARGIN: Margin = Margin { head: 28, tail: 16 };

    struct Bench {
        io: Io,
        devices: Devices<FrameFd<OwnedFd>>,
        /// The host's end of the device.
        host: OwnedFd,
        now: Instant,
    }

    /// A device that was handed over with two flows.
    fn bench() -> Bench {
        let (device, host) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let (mut io, mut devices) = (Io::new().unwrap(), Devices::default());
        let open = || Ok(Some(FrameFd::new(device)));
        devices
            .bind(&mut io, (FLOW, 1400), (ID, u64::MAX), open)
            .unwrap();
        let again = || panic!("it is known");
        devices
            .bind(&mut io, (NEXT, 1400), (ID, u64::MAX), again)
            .unwrap();
        Bench {
            io,
            devices,
            host,
            now: Instant::now(),
        }
    }

    fn packet(src: [u8; 4], dst: [u8; 4], len: u16) -> Vec<u8> {
        let mut out = vec![0; len.into()];
        out[0] = 0x45;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        out[12..16].copy_from_slice(&src);
        out[16..20].copy_from_slice(&dst);
        out
    }

    impl Bench {
        fn talk(&mut self, flow: FlowId, talk: Talk) -> bool {
            self.devices.talk(&mut self.io, flow, talk, self.now)
        }

        /// What comes of packets that the host sends.
        fn send(&mut self, packets: &[Vec<u8>]) -> Vec<(bool, FlowId, Vec<Vec<u8>>)> {
            self.send_with(packets, |_| None)
        }

        /// The same, where flows have this room each time that it is asked.
        fn send_with(
            &mut self,
            packets: &[Vec<u8>],
            room: impl Fn(FlowId) -> Option<usize>,
        ) -> Vec<(bool, FlowId, Vec<Vec<u8>>)> {
            for packet in packets {
                rustix::io::write(&self.host, packet).unwrap();
            }
            let reads = std::iter::from_fn(|| {
                let Self { io, now, .. } = self;
                self.devices.read(io, (ID, *now), |_| MARGIN, &room)
            });
            let said = |read| match read {
                Read::Sdus(flow, batch) => (true, flow, batch.iter().map(<[u8]>::to_vec).collect()),
                Read::Frame(flow, packet) => (false, flow, vec![packet]),
            };
            reads.map(said).collect()
        }

        /// What the host gets of SDUs of a flow, and what is the user's.
        fn arrive(&mut self, flow: FlowId, sdus: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
            let mut batch = Batch::new(Framing::Record);
            for sdu in sdus {
                batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
            }
            let left = self.devices.write(&mut self.io, (flow, self.now), batch);
            let left = left.map(|l| l.iter().map(<[u8]>::to_vec).collect());
            let mut got = Vec::new();
            let mut buf = [0; 2000];
            while let Ok(len) = rustix::io::read(&self.host, &mut buf[..]) {
                got.push(buf[..len].to_vec());
            }
            (got, left.unwrap_or_default())
        }

        fn pair(&mut self, flow: FlowId, other: [u8; 4]) {
            let pair = Pair::V4(ME, other);
            assert!(self.devices.pair(&mut self.io, flow, pair, self.now));
        }
    }

    #[test]
    fn only_what_a_pair_speaks_of_goes_by_itself_and_the_rest_is_the_users() {
        let mut bench = bench();
        bench.pair(NEXT, OTHER);
        let (known, back) = (packet(ME, OTHER, 60), packet(OTHER, ME, 60));
        let (unknown, large) = (packet(ME, THIRD, 60), packet(ME, OTHER, 1401));
        let junk = b"\x45junk".to_vec();
        let sent = [&known, &known, &unknown, &back, &large, &junk].map(Vec::clone);
        let said = bench.send(&sent);
        let users = [unknown, back, large, junk].map(|packet| (false, FLOW, vec![packet]));
        assert_eq!(said[0], (true, NEXT, vec![known.clone(), known]));
        assert_eq!(said[1..], users);
        assert_eq!(bench.devices.news(NEXT).unwrap().tx_packets, 2);
    }

    #[test]
    fn what_waits_for_a_slow_link_holds_no_other_up_and_is_not_overtaken() {
        let mut bench = bench();
        bench.pair(FLOW, OTHER);
        bench.pair(NEXT, THIRD);
        let numbered = |n| {
            let mut packet = packet(ME, OTHER, 100);
            packet[30] = n;
            packet
        };
        let numbers = |said: Vec<(bool, FlowId, Vec<Vec<u8>>)>| -> Vec<u8> {
            let all = said.iter().flat_map(|(_, _, packets)| packets);
            all.map(|packet| packet[30]).collect()
        };
        bench.devices.set_slow(FLOW, true);
        let other = packet(ME, THIRD, 60);
        let sent = [numbered(1), numbered(2), other.clone(), numbered(3)];
        let full = |flow| (flow == FLOW).then_some(0);
        let said = bench.send_with(&sent, full);
        assert_eq!(said, [(true, NEXT, vec![other])]);
        assert!(bench.devices.waits(ID));
        // Who is slow no longer goes past nothing that waits.
        bench.devices.set_slow(FLOW, false);
        assert_eq!(numbers(bench.send_with(&[numbered(4)], full)), []);
        // What its user writes is one of them, but nothing that went by itself.
        let written = |n| Batch::of(&numbered(n)).unwrap();
        assert!(bench.devices.wait(FLOW, written(5), bench.now).is_none());
        assert!(bench.devices.wait(NEXT, written(0), bench.now).is_some());
        assert_eq!(numbers(bench.send(&[])), [1, 2, 3, 4, 5]);
        bench.devices.set_slow(FLOW, false);
        assert!(!bench.devices.waits(ID));
        assert_eq!(numbers(bench.send_with(&[numbered(6)], full)), [6]);
        assert!(bench.devices.wait(FLOW, written(0), bench.now).is_some());
        assert_eq!(bench.devices.news(FLOW).unwrap().tx_packets, 5);
        // As much as there is room for, and one packet in any case.
        bench.devices.set_slow(FLOW, true);
        let sent = [7, 8, 9].map(numbered);
        let (now, io) = (bench.now, &mut bench.io);
        for packet in &sent {
            rustix::io::write(&bench.host, packet).unwrap();
        }
        let mut look = |bytes| {
            let room = |_| Some(bytes);
            bench.devices.read(io, (ID, now), |_| MARGIN, room)
        };
        let Some(Read::Sdus(_, batch)) = look(101) else {
            panic!("nothing went");
        };
        assert_eq!(batch.count(), 2);
        bench.devices.unbind(io, FLOW);
        assert_eq!(io.counters.get("drop.device_silent"), 1);
    }

    #[test]
    fn frames_of_a_device_that_its_user_keeps_wait_for_a_slow_link_and_else_pass() {
        let (mut io, mut devices) = (Io::new().unwrap(), Devices::<Tun>::default());
        let now = Instant::now();
        for flow in [FLOW, NEXT] {
            let bound = (ID, u64::MAX);
            devices
                .bind(&mut io, (flow, 1400), bound, || Ok(None))
                .unwrap();
        }
        assert_eq!((devices.descriptors(), devices.offloads().count()), (0, 0));
        let frame = |n: u8| [&[n; 14][..], &packet(ME, OTHER, 60)].concat();
        let sdus = |n| Batch::of(&frame(n)).unwrap();
        assert!(devices.wait(FLOW, sdus(1), now).is_some());
        devices.set_slow(FLOW, true);
        assert!(devices.wait(FLOW, sdus(1), now).is_none());
        assert!(devices.wait(FLOW, sdus(2), now).is_none());
        assert!(devices.wait(NEXT, sdus(3), now).is_some());
        assert_eq!(devices.waiting().collect::<Vec<_>>(), [ID]);
        let mut look = |devices: &mut Devices<Tun>, room| {
            let read = devices.read(&mut io, (ID, now), |_| MARGIN, |_| Some(room));
            read.map(|read| match read {
                Read::Sdus(flow, batch) => (flow, batch.iter().map(|frame| frame[0]).collect()),
                Read::Frame(..) => panic!("nothing was handed over"),
            })
        };
        assert_eq!(look(&mut devices, 0), None);
        assert_eq!(look(&mut devices, 1), Some((FLOW, vec![1])));
        // Nobody is told what it has written itself.
        assert!(!devices.begins_to_move(FLOW));
        let arrived = devices.write(&mut Io::new().unwrap(), (FLOW, now), sdus(4));
        assert_eq!(arrived.map(|batch| batch.count()), Some(1));
        devices.set_slow(FLOW, false);
        assert!(devices.wait(FLOW, sdus(5), now).is_none());
        assert_eq!(look(&mut devices, 1000), Some((FLOW, vec![2, 5])));
        devices.set_slow(FLOW, false);
        assert!(devices.wait(FLOW, sdus(6), now).is_some());
        let mut io = Io::new().unwrap();
        devices.unbind(&mut io, FLOW);
        devices.unbind(&mut io, NEXT);
        assert!(devices.devices.is_empty() && devices.closed.is_empty());
    }

    #[test]
    fn what_opens_a_connection_or_has_another_code_point_is_the_users() {
        let mut bench = bench();
        let (io, again) = (&mut bench.io, || panic!("it is known"));
        let bound = (ID, !(1 << 46));
        bench.devices.bind(io, (NEXT, 1400), bound, again).unwrap();
        bench.pair(NEXT, OTHER);
        let tcp = |src, dst, flags: u8| {
            let mut packet = packet(src, dst, 60);
            (packet[9], packet[20 + 13]) = (6, flags);
            packet
        };
        let (syn, data) = (tcp(ME, OTHER, 0x02), tcp(ME, OTHER, 0x10));
        let mut voice = data.clone();
        voice[1] = 46 << 2 | 1;
        let said = bench.send(&[syn.clone(), voice.clone(), data.clone()]);
        let users = [syn, voice].map(|packet| (false, FLOW, vec![packet]));
        assert_eq!(said[..2], users);
        assert_eq!(said[2], (true, NEXT, vec![data]));
        let (answer, data) = (tcp(OTHER, ME, 0x12), tcp(OTHER, ME, 0x10));
        let (got, left) = bench.arrive(NEXT, &[answer.clone(), data.clone()]);
        assert_eq!((got, left), (vec![data], vec![answer]));
    }

    #[test]
    fn a_flow_writes_to_the_device_only_from_the_other_address_of_its_own_pairs() {
        let mut bench = bench();
        bench.pair(FLOW, OTHER);
        bench.pair(NEXT, THIRD);
        let good = packet(OTHER, ME, 60);
        let others = [
            packet(THIRD, ME, 60),
            packet(OTHER, THIRD, 60),
            packet(ME, OTHER, 60),
            b"\x45junk".to_vec(),
        ];
        let all = [&others[..2], std::slice::from_ref(&good), &others[2..]].concat();
        assert_eq!(bench.arrive(FLOW, &all), (vec![good], others.to_vec()));
        let moved = bench.devices.news(FLOW).unwrap();
        assert_eq!((moved.rx_packets, moved.rx_bytes), (1, 60));
    }

    #[test]
    fn what_was_said_of_a_flow_ends_with_it_or_when_its_device_is_said_again() {
        let mut bench = bench();
        let out = packet(ME, OTHER, 60);
        let by_itself = |said: &[(bool, FlowId, Vec<Vec<u8>>)]| said[0].0;
        bench.pair(NEXT, OTHER);
        assert!(by_itself(&bench.send(std::slice::from_ref(&out))));
        let again = || panic!("it is known");
        let io = &mut bench.io;
        bench
            .devices
            .bind(io, (NEXT, 1400), (ID, u64::MAX), again)
            .unwrap();
        assert!(!by_itself(&bench.send(std::slice::from_ref(&out))));
        bench.pair(NEXT, OTHER);
        assert!(by_itself(&bench.send(std::slice::from_ref(&out))));
        bench.devices.unbind(&mut bench.io, NEXT);
        assert!(!by_itself(&bench.send(std::slice::from_ref(&out))));
        bench.devices.unbind(&mut bench.io, FLOW);
        assert!(bench.devices.keys.is_empty() && bench.devices.devices.is_empty());
        assert!(bench.send(&[]).is_empty());
        let pair = Pair::V4(ME, OTHER);
        assert!(!bench.devices.pair(&mut bench.io, FLOW, pair, bench.now));
        // Nobody holds the device any more.
        assert!(rustix::io::write(&bench.host, &out).is_err());
    }

    #[test]
    fn who_speaks_of_anothers_device_opens_one_of_his_own() {
        let mut bench = bench();
        let (other_uid, third) = ((1, ID.1), FlowId(3));
        let no = || Err(io::ErrorKind::InvalidInput.into());
        let io = &mut bench.io;
        assert!(
            bench
                .devices
                .bind(io, (third, 1400), (other_uid, u64::MAX), no)
                .is_err()
        );
        let pair = Pair::V4(ME, OTHER);
        assert!(!bench.devices.pair(&mut bench.io, third, pair, bench.now));
    }

    #[test]
    fn who_says_more_pairs_than_its_flows_share_loses_its_own_idle_ones_only() {
        let mut bench = bench();
        bench.pair(NEXT, OTHER);
        let own = [10, 8, 0, 1];
        bench.pair(FLOW, own);
        let all = [packet(ME, own, 60), packet(ME, OTHER, 60)];
        for n in 0..2 * known::PAIRS as u32 {
            bench.pair(FLOW, Ipv4Addr::from_bits(n).octets());
        }
        assert!(bench.io.counters.get("limit.device_pairs") >= known::PAIRS as u64);
        bench.now += Duration::from_secs(1);
        bench.pair(FLOW, THIRD);
        let said = bench.send(&all);
        assert_eq!(said[0], (false, FLOW, vec![all[0].clone()]));
        assert_eq!(said[1], (true, NEXT, vec![all[1].clone()]));
    }

    /// A packet of TCP between port 40000 here and 443 there.
    fn tcp(out: bool, flags: u8) -> Vec<u8> {
        let (src, dst) = if out { (ME, OTHER) } else { (OTHER, ME) };
        let (near, far) = if out {
            (40_000_u16, 443_u16)
        } else {
            (443, 40_000)
        };
        let mut packet = packet(src, dst, 60);
        (packet[9], packet[20 + 13]) = (6, flags);
        packet[20..22].copy_from_slice(&near.to_be_bytes());
        packet[22..24].copy_from_slice(&far.to_be_bytes());
        packet
    }

    fn talk(out: bool) -> Talk {
        Talk {
            out,
            protocol: 6,
            ports: (40_000, 443),
            pair: Pair::V4(ME, OTHER),
        }
    }

    const ACK: u8 = 0x10;

    #[test]
    fn one_way_of_one_conversation_goes_by_itself_and_nothing_else_between_the_two() {
        let mut bench = bench();
        assert!(bench.talk(NEXT, talk(true)));
        let known = tcp(true, ACK);
        let (mut port, mut protocol, mut fragment) = (known.clone(), known.clone(), known.clone());
        port[23] += 1;
        protocol[9] = 17;
        fragment[6] = 0x20;
        let syn = tcp(true, 0x02);
        let others = [port, protocol, fragment, syn];
        let said = bench.send(&[std::slice::from_ref(&known), &others[..3]].concat());
        assert_eq!(said[0], (true, NEXT, vec![known.clone()]));
        assert_eq!(
            said[1..],
            others[..3]
                .iter()
                .map(|p| (false, FLOW, vec![p.clone()]))
                .collect::<Vec<_>>()
        );
        // The other way was not said.
        let back = tcp(false, ACK);
        assert_eq!(
            bench.arrive(NEXT, std::slice::from_ref(&back)),
            (vec![], vec![back.clone()])
        );
        assert!(bench.talk(NEXT, talk(false)));
        assert_eq!(
            bench.arrive(NEXT, std::slice::from_ref(&back)),
            (vec![back.clone()], vec![])
        );
        // Nor is it another flow's.
        assert_eq!(
            bench.arrive(FLOW, std::slice::from_ref(&back)),
            (vec![], vec![back])
        );
    }

    #[test]
    fn what_ends_a_conversation_is_the_users_and_so_is_what_comes_behind_it() {
        for flags in [0x11, 0x04, 0x02] {
            let mut bench = bench();
            assert!(bench.talk(NEXT, talk(true)));
            let all = [tcp(true, ACK), tcp(true, flags), tcp(true, ACK)];
            let by_itself: Vec<bool> = bench.send(&all).iter().map(|said| said.0).collect();
            assert_eq!(by_itself, [true, false, false], "{flags:#x}");
        }
    }

    #[test]
    fn a_conversation_that_goes_on_is_said_to_the_user_and_one_that_rests_is_forgotten() {
        let mut bench = bench();
        let all = [tcp(true, ACK)];
        assert!(bench.talk(NEXT, talk(true)));
        for _ in 0..5 {
            bench.now += SIGN - Duration::from_millis(1);
            assert!(bench.send(&all)[0].0);
            assert!(bench.devices.signs(NEXT).is_empty());
            bench.now += Duration::from_millis(1);
            assert!(bench.send(&all)[0].0);
            assert_eq!(bench.devices.signs(FLOW), [(NEXT, talk(true))]);
            bench.devices.told(NEXT, &talk(true), bench.now);
            assert!(bench.send(&all)[0].0);
            assert!(bench.devices.signs(NEXT).is_empty());
        }
        bench.now += FORGOTTEN;
        assert!(!bench.send(&all)[0].0);
        // Nor does it come back by itself.
        assert!(!bench.send(&all)[0].0);
        assert!(bench.devices.signs(NEXT).is_empty());
    }

    #[test]
    fn a_conversation_of_which_the_user_cant_hear_goes_on_until_it_would_be_forgotten() {
        let mut bench = bench();
        let all = [tcp(true, ACK)];
        assert!(bench.talk(NEXT, talk(true)));
        let start = bench.now;
        bench.now += SIGN;
        // It is tried once a second, not with each packet.
        for second in 0..(FORGOTTEN - SIGN).as_secs() {
            bench.now = start + SIGN + Duration::from_secs(second);
            for _ in 0..3 {
                assert!(bench.send(&all)[0].0);
            }
            assert_eq!(bench.devices.signs(NEXT), [(NEXT, talk(true))]);
        }
        bench.now = start + FORGOTTEN;
        assert!(!bench.send(&all)[0].0);
    }

    #[test]
    fn what_a_member_sends_in_the_name_of_another_changes_nothing_of_its_conversations() {
        let mut bench = bench();
        let back = [tcp(false, ACK)];
        for flags in [ACK, 0x11, 0x04, 0x02] {
            assert!(bench.talk(NEXT, talk(false)));
            let feigned = [tcp(false, flags)];
            let left = (vec![], feigned.to_vec());
            assert_eq!(bench.arrive(FLOW, &feigned), left, "{flags:#x}");
            assert_eq!(bench.arrive(NEXT, &back), (back.to_vec(), vec![]));
            // Nor does it keep one alive.
            bench.now += SIGN;
            assert_eq!(bench.arrive(FLOW, &feigned), left, "{flags:#x}");
            assert!(bench.devices.signs(NEXT).is_empty());
        }
    }

    #[test]
    fn conversations_end_with_their_flow_or_when_its_device_is_said_again() {
        let mut bench = bench();
        let all = [tcp(true, ACK)];
        assert!(bench.talk(NEXT, talk(true)));
        assert!(bench.send(&all)[0].0);
        let (io, again) = (&mut bench.io, || panic!("it is known"));
        bench
            .devices
            .bind(io, (NEXT, 1400), (ID, u64::MAX), again)
            .unwrap();
        assert!(!bench.send(&all)[0].0);
        assert!(bench.talk(NEXT, talk(true)));
        assert!(bench.send(&all)[0].0);
        bench.devices.unbind(&mut bench.io, NEXT);
        assert!(!bench.send(&all)[0].0);
        assert!(!bench.talk(NEXT, talk(true)));
    }

    #[test]
    fn conversations_of_a_flow_are_bounded_and_the_dead_take_no_place() {
        let mut bench = bench();
        assert!(bench.talk(NEXT, talk(true)));
        let of_port = |n: usize| Talk {
            ports: (n as u16, 1),
            ..talk(true)
        };
        for n in 0..known::TALKS {
            assert!(bench.talk(FLOW, of_port(n)));
        }
        let held = |bench: &mut Bench| bench.devices.known_of(FLOW).unwrap().talks();
        assert_eq!(held(&mut bench), known::TALKS + 1);
        // One more is not taken, and costs no other its place.
        assert!(bench.talk(FLOW, of_port(known::TALKS)));
        assert_eq!(held(&mut bench), known::TALKS + 1);
        assert_eq!(bench.io.counters.get("limit.device_talks"), 1);
        assert!(bench.send(&[tcp(true, ACK)])[0].0);
        bench.now += FORGOTTEN;
        assert!(bench.talk(FLOW, of_port(7)));
        assert_eq!(held(&mut bench), 1);
    }

    #[test]
    fn an_offload_that_has_ended_stays_so_when_its_device_comes_back() {
        let (mut io, mut devices) = (Io::new().unwrap(), Devices::default());
        let said = Said {
            id: ID.1,
            tcp: true,
            udp: true,
            frames: false,
            code_points: u64::MAX,
        };
        let first = devices.as_it_was(ID.0, said);
        assert_eq!(first, said);
        for id in [ID.1, 8, 9] {
            let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
            let worn = Offloads {
                tcp: false,
                udp: true,
            };
            let open = || Ok(Some(Tun::new(end.into(), worn)));
            devices
                .bind(&mut io, (FLOW, 1400), ((ID.0, id), u64::MAX), open)
                .unwrap();
            devices.unbind(&mut io, FLOW);
        }
        let again = devices.as_it_was(ID.0, said);
        assert_eq!(again, Said { tcp: false, ..said });
        // Another user's, and one that was never here, are as they say.
        assert_eq!(devices.as_it_was(1, said), said);
        let new = Said { id: 10, ..said };
        assert_eq!(devices.as_it_was(ID.0, new), new);
        assert_eq!(devices.closed.len(), 3);
    }

    #[test]
    fn what_is_no_tun_device_is_refused() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let said = Said {
            id: 7,
            tcp: true,
            udp: true,
            frames: false,
            code_points: u64::MAX,
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        for fd in [None, Some(a.into()), Some(null.into())] {
            assert!(open(said, fd).is_err());
        }
    }
}
