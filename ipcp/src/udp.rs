//! A connected UDP socket that moves trains: segmentation offload out, coalescing in, with fall-backs.

mod overflow;
mod usage;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessage, MsgFlags};
use proto::ipcp::{Offload, OffloadKind, OffloadMode};
use proto::{Batch, Framing};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::io::Counters;

pub use overflow::{count_overflowed, overflowed};
pub use usage::Usage;

/// A UDP socket that is connected to its peer. It sets don't-fragment, buffers, the class of what it sends and the offloads.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    peer: SocketAddr,
    state: UdpSocketState,
    offloads: Offloads,
    gso_works: bool,
    /// The kernel coalesces what comes.
    gro: bool,
    /// What the probe said; the state's own number falls to 1 for good at any EINVAL, such as that of an address that is away.
    most_segments: usize,
    mtu: u32,
    mtu_changed: bool,
    refused: bool,
    fault: Fault,
    strangers: u64,
    peer_keeps_alive: bool,
    send_buffer: usize,
    last_sent: Instant,
    last_heard: Instant,
}

/// The switches of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Sending trains in one call.
    pub gso: OffloadMode,
    /// Receiving trains in one call.
    pub gro: OffloadMode,
}

impl Offloads {
    /// Turns some switches.
    pub fn apply(&mut self, switches: &[Offload]) {
        for switch in switches {
            match switch.kind {
                OffloadKind::Gso => self.gso = switch.mode,
                OffloadKind::Gro => self.gro = switch.mode,
                // That is no matter of sockets.
                OffloadKind::Seal => {}
            }
        }
    }

    /// What holds where two have a say.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            gso: self.gso.and(other.gso),
            gro: self.gro.and(other.gro),
        }
    }
}

/// What a receiving call gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Packets; they are in the batch now.
    Packets,
    /// An empty datagram: the peer lives.
    KeepAlive,
    /// The largest packet that fits has changed to this.
    Mtu(u32),
    /// Nothing is left in the queue.
    Nothing,
    /// Nothing is left, and the peer's host says that nobody listens there any more.
    Refused,
    /// This host has no way to the peer's: an interface is down, or a route is gone. Said once until it has one again.
    Faulty,
}

/// Whether this host can send to the peer's at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It can't, and nobody was told.
    New,
    Told,
}

/// What became of a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Sent, or dropped and counted.
    Done,
    /// The kernel's queue is full; the rest begins at this byte: send again from there when the socket is writable.
    Full(usize),
}

impl UdpPort {
    /// After this long without sending, an empty datagram is due.
    pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
    /// After this long without hearing from a peer that keeps alive, it is gone.
    pub const SILENCE: Duration = Duration::from_secs(20);
    /// What is asked for as the socket's buffer of what arrives, in bytes.
    pub const BUFFER: usize = 1 << 20;
    /// The same while nobody knows whose the socket is: a few dozen packets.
    pub const NARROW: usize = 104 << 10;
    /// The same of what is sent: a few trains, so that what waits does so where it is put in order, and not in the kernel.
    pub const SEND_BUFFER: usize = 256 << 10;

    /// How long the kernel may take to send half of what waits in its buffer.
    const DRAIN: Duration = Duration::from_millis(2);

    /// Takes a connected socket.
    pub fn new(socket: UdpSocket, offloads: Offloads, now: Instant) -> io::Result<Self> {
        let port = Self::narrow(socket, offloads, now)?;
        port.widen();
        Ok(port)
    }

    /// Takes a connected socket of which nobody knows whose it is: little waits in it until [`UdpPort::widen`].
    pub fn narrow(socket: UdpSocket, offloads: Offloads, now: Instant) -> io::Result<Self> {
        let peer = socket.peer_addr()?;
        // Where the kernel can, it coalesces from here on.
        let state = UdpSocketState::new((&socket).into())?;
        widen_sent(&socket);
        // It holds memory of the kernel: a failure leaves more than is wanted.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, Self::NARROW);
        let mut port = Self {
            socket,
            peer,
            offloads,
            gso_works: true,
            gro: state.gro_segments() > 1,
            most_segments: state.max_gso_segments(),
            state,
            mtu: 0,
            mtu_changed: false,
            refused: false,
            fault: Fault::None,
            strangers: 0,
            peer_keeps_alive: false,
            send_buffer: Self::SEND_BUFFER,
            last_sent: now,
            last_heard: now,
        };
        port.mtu = port.path_mtu();
        port.settle_gro();
        Ok(port)
    }

    /// Lets as much wait to be read as [`UdpPort::BUFFER`] says.
    pub fn widen(&self) {
        widen_received(&self.socket);
    }

    /// The kernel's queue was full for so long. It is made smaller where that was long, so that what waits does so with the
    /// sender, who puts it in order, and larger again where it was short.
    pub fn was_full(&mut self, waited: Duration) {
        let size = if waited > 2 * Self::DRAIN {
            self.send_buffer / 2
        } else if waited < Self::DRAIN / 2 {
            self.send_buffer * 2
        } else {
            return;
        };
        let size = size.clamp(Self::SEND_BUFFER / 32, Self::SEND_BUFFER);
        if size != self.send_buffer {
            self.send_buffer = size;
            // It is an optimisation.
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, size);
        }
    }

    /// What is asked for as the buffer of what is sent, at this moment.
    pub fn send_buffer(&self) -> usize {
        self.send_buffer
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of this host that it sends from.
    pub fn local(&self) -> Option<IpAddr> {
        self.socket.local_addr().ok().map(|at| at.ip())
    }

    /// The largest packet in bytes, as the kernel knows the path.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Turns the switches while running. Coalescing ends when all is read that was coalesced before.
    pub fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = offloads;
        self.gso_works = true;
        self.settle_gro();
    }

    /// The switches, and whether segmentation is in use right now.
    pub fn offloads(&self) -> (Offloads, bool) {
        (self.offloads, self.segments() > 1)
    }

    /// Whether the kernel coalesces what comes right now.
    pub fn coalesces(&self) -> bool {
        self.gro
    }

    /// Whether segmentation was in use and has ended by itself, at its first error.
    pub fn gso_ended(&self) -> bool {
        self.offloads.gso == OffloadMode::Auto && !self.gso_works
    }

    /// The socket back, for instance to hand it over.
    pub fn into_socket(self) -> UdpSocket {
        self.socket
    }

    /// Receives once into `batch`, which is a train afterwards.
    pub fn recv(&mut self, batch: &mut Batch, now: Instant) -> Received {
        if std::mem::take(&mut self.mtu_changed) {
            return Received::Mtu(self.mtu);
        }
        if self.fault == Fault::New {
            self.fault = Fault::Told;
            return Received::Faulty;
        }
        // A queue of errors is as short as that of the kernel: one pending error a socket.
        for _ in 0..ERRORS {
            let mut meta = [RecvMeta::default()];
            let got = self.state.recv(
                (&self.socket).into(),
                &mut [IoSliceMut::new(batch.space())],
                &mut meta,
            );
            match got {
                // From before the socket was connected, when everybody could send to it.
                Ok(_)
                    if meta[0].addr.ip() != self.peer.ip()
                        || meta[0].addr.port() != self.peer.port() =>
                {
                    self.strangers += 1
                }
                Ok(_) if meta[0].len == 0 => {
                    (self.last_heard, self.peer_keeps_alive) = (now, true);
                    return Received::KeepAlive;
                }
                Ok(_) => {
                    self.last_heard = now;
                    batch.set_train(meta[0].len, meta[0].stride);
                    batch.set_waited(meta[0].timestamp.map_or(Duration::ZERO, waited));
                    return Received::Packets;
                }
                Err(e) => match Errno::from_io_error(&e) {
                    Some(Errno::AGAIN) => {
                        self.settle_gro();
                        return if self.refused {
                            Received::Refused
                        } else {
                            Received::Nothing
                        };
                    }
                    // The error overtakes what was queued before it: read on.
                    Some(Errno::CONNREFUSED) => self.refused = true,
                    Some(Errno::MSGSIZE) if self.learn_mtu() => {
                        self.mtu_changed = false;
                        return Received::Mtu(self.mtu);
                    }
                    // Nothing about this peer: an interface that is down, a filter. Silence will tell if it lasts.
                    _ => {}
                },
            }
        }
        Received::Nothing
    }

    /// Sends a batch from byte `from` on. Trains go in as few calls as the offload allows, records packet by packet.
    pub fn send(
        &mut self,
        batch: &Batch,
        from: usize,
        counters: &mut Counters,
        now: Instant,
    ) -> Sent {
        self.last_sent = now;
        if batch.framing() == Framing::Record {
            return self.send_record(batch, from, counters);
        }
        let (bytes, stride) = (batch.bytes(), batch.stride().max(1));
        let mut at = from;
        while at < bytes.len() {
            let most = self.segments().min(Batch::TRAIN_BYTES / stride).max(1);
            let end = bytes.len().min(at + most * stride);
            let part = &bytes[at..end];
            match self.try_send(part, (part.len() > stride).then_some(stride), batch.dscp()) {
                Ok(()) => {
                    at = end;
                    counters.add("udp.gso_trains", u64::from(part.len() > stride));
                }
                Err(Errno::AGAIN) => return Sent::Full(at),
                Err(error) if part.len() > stride => {
                    match self.send_singly(part, batch, error, counters) {
                        Sent::Done => at = end,
                        Sent::Full(within) => return Sent::Full(at + within),
                    }
                }
                Err(error) => {
                    self.drop_one(error, counters);
                    at = end;
                }
            }
        }
        Sent::Done
    }

    /// Sends an empty datagram.
    pub fn keep_alive(&mut self, now: Instant) {
        self.last_sent = now;
        // If it does not go out, the next one may; the error of an earlier one is seen when receiving.
        if self
            .socket
            .send(&[])
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        {
            self.refused = true;
        }
    }

    /// When [`UdpPort::timeout`] has something to do.
    pub fn deadline(&self) -> Instant {
        let keep_alive = self.last_sent + Self::KEEP_ALIVE;
        if self.peer_keeps_alive {
            keep_alive.min(self.last_heard + Self::SILENCE)
        } else {
            keep_alive
        }
    }

    /// Sends the empty datagram that is due; `false` if the peer, which kept alive before, has been silent for too long.
    pub fn timeout(&mut self, now: Instant) -> bool {
        if self.peer_keeps_alive && now >= self.last_heard + Self::SILENCE {
            return false;
        }
        if now >= self.last_sent + Self::KEEP_ALIVE {
            self.keep_alive(now);
        }
        true
    }

    /// When something last came.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Packets that came from another address than the peer's, before the socket was connected.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Whether sending found something that only [`UdpPort::recv`] reports: call it, though the socket isn't readable.
    pub fn has_news(&self) -> bool {
        self.refused || self.mtu_changed || self.fault == Fault::New
    }

    /// A train whose call failed, packet by packet: what is too large is dropped alone.
    fn send_singly(
        &mut self,
        part: &[u8],
        train: &Batch,
        error: Errno,
        counters: &mut Counters,
    ) -> Sent {
        let (mut at, mut went) = (0, false);
        let mut ended = Sent::Done;
        for packet in part.chunks(train.stride().max(1)) {
            match self.try_send(packet, None, train.dscp()) {
                Ok(()) => went = true,
                Err(Errno::AGAIN) => {
                    ended = Sent::Full(at);
                    break;
                }
                Err(error) => self.drop_one(error, counters),
            }
            at += packet.len();
        }
        // The device or the kernel can't segment. EINVAL may also say that this host has the address no longer: then nothing goes.
        if went && matches!(error, Errno::IO | Errno::INVAL) {
            counters.add("udp.gso_failed", 1);
            self.gso_works = false;
        }
        ended
    }

    fn send_record(&mut self, batch: &Batch, from: usize, counters: &mut Counters) -> Sent {
        let mut at = 0;
        for packet in batch.iter() {
            if at >= from {
                match self.try_send(packet, None, batch.dscp()) {
                    Ok(()) => {}
                    Err(Errno::AGAIN) => return Sent::Full(at),
                    Err(error) => self.drop_one(error, counters),
                }
            }
            at += 2 + packet.len();
        }
        Sent::Done
    }

    fn drop_one(&mut self, error: Errno, counters: &mut Counters) {
        let reason = match error {
            Errno::MSGSIZE => {
                self.learn_mtu();
                "drop.udp_too_big"
            }
            Errno::NOBUFS | Errno::NOMEM => "drop.udp_no_buffers",
            // INVAL: this host has the address no longer that the socket is bound to.
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::INVAL => {
                if self.fault == Fault::None {
                    self.fault = Fault::New;
                }
                "drop.udp_unreachable"
            }
            Errno::PERM | Errno::ACCESS => "drop.udp_forbidden",
            Errno::CONNREFUSED => "drop.udp_refused",
            _ => "drop.udp_send",
        };
        counters.add(reason, 1);
    }

    fn try_send(
        &mut self,
        contents: &[u8],
        segment_size: Option<usize>,
        dscp: u8,
    ) -> Result<(), Errno> {
        for _ in 0..ERRORS {
            match self.send_once(contents, segment_size, dscp) {
                // Left over from a datagram before: this one was not sent yet.
                Err(Errno::CONNREFUSED) => self.refused = true,
                Err(Errno::INTR) => {}
                Ok(()) => {
                    self.fault = Fault::None;
                    return Ok(());
                }
                other => return other,
            }
        }
        Err(Errno::CONNREFUSED)
    }

    fn send_once(
        &self,
        contents: &[u8],
        segment_size: Option<usize>,
        dscp: u8,
    ) -> Result<(), Errno> {
        if dscp > 0 {
            return self.send_classed(contents, segment_size, dscp);
        }
        let transmit = Transmit {
            destination: self.peer,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        let sent = self.state.try_send((&self.socket).into(), &transmit);
        sent.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }

    /// quinn-udp says class 0 with every datagram, whatever the socket's own is.
    fn send_classed(
        &self,
        contents: &[u8],
        segment_size: Option<usize>,
        dscp: u8,
    ) -> Result<(), Errno> {
        let (tos, class) = (dscp << 2, i32::from(dscp << 2));
        let segment = segment_size.and_then(|size| u16::try_from(size).ok());
        let class = match self.peer {
            SocketAddr::V4(_) => ControlMessage::Ipv4Tos(&tos),
            SocketAddr::V6(_) => ControlMessage::Ipv6TClass(&class),
        };
        let segment = segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let messages: &[ControlMessage<'_>] = match segment {
            Some(segment) => &[class, segment],
            None => &[class],
        };
        nix::sys::socket::sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(contents)],
            messages,
            MsgFlags::MSG_DONTWAIT,
            None,
        )
        .map(drop)
        .map_err(|e| Errno::from_raw_os_error(e as i32))
    }

    /// How many packets may go in one call.
    fn segments(&self) -> usize {
        match self.offloads.gso {
            OffloadMode::Off => 1,
            OffloadMode::Auto if !self.gso_works => 1,
            OffloadMode::Auto => self.most_segments.min(Batch::TRAIN_PACKETS),
            OffloadMode::On => Batch::TRAIN_PACKETS,
        }
    }

    /// Has the kernel coalesce, or not, as the switch stands. Once it doesn't, it says no more how long the packets are of what it
    /// has coalesced before: that is read first.
    fn settle_gro(&mut self) {
        let wanted = self.offloads.gro != OffloadMode::Off && self.state.gro_segments() > 1;
        if self.gro == wanted {
            return;
        }
        self.coalesce(wanted);
        if !wanted && self.is_readable() {
            self.coalesce(true);
        }
    }

    fn coalesce(&mut self, on: bool) {
        let option = nix::sys::socket::sockopt::UdpGroSegment;
        if nix::sys::socket::setsockopt(&self.socket, option, &on).is_ok() {
            self.gro = on;
        }
    }

    fn is_readable(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::IN)];
        rustix::event::poll(&mut socket, Some(&Timespec::default())).is_ok_and(|n| n > 0)
    }

    /// Asks the kernel for the path's MTU; whether it has changed.
    fn learn_mtu(&mut self) -> bool {
        let mtu = self.path_mtu();
        let changed = mtu != self.mtu;
        self.mtu = mtu;
        self.mtu_changed |= changed;
        changed
    }

    fn path_mtu(&self) -> u32 {
        path_mtu(&self.socket, self.peer)
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The largest packet in bytes that the kernel knows to fit the path of a connected socket.
pub fn path_mtu(socket: &impl AsFd, peer: SocketAddr) -> u32 {
    let (mtu, headers) = match peer {
        SocketAddr::V4(_) => (sockopt::ip_mtu(socket), 20 + 8),
        SocketAddr::V6(_) => (sockopt::ipv6_mtu(socket), 40 + 8),
    };
    // 1280 is what every path carries that IPv6 goes over.
    mtu.unwrap_or(1280)
        .saturating_sub(headers)
        .min(Batch::MAX_PACKET as u32)
}

/// Gives a socket buffers of [`UdpPort::BUFFER`] and [`UdpPort::SEND_BUFFER`]: beyond the system's limit only for who may, else as much as is allowed.
pub fn widen(socket: &impl AsFd) {
    widen_sent(socket);
    widen_received(socket);
}

fn widen_sent(socket: &impl AsFd) {
    if sockopt::set_socket_send_buffer_size_force(socket, UdpPort::SEND_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, UdpPort::SEND_BUFFER);
    }
}

fn widen_received(socket: &impl AsFd) {
    if sockopt::set_socket_recv_buffer_size_force(socket, UdpPort::BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, UdpPort::BUFFER);
    }
}

/// How long ago that was by the host's clock; zero where its clock was set meanwhile.
fn waited(since: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let waited = now.ok().and_then(|now| now.checked_sub(since));
    waited.filter(|w| *w < LONGEST).unwrap_or_default()
}

/// A packet that seems to have waited for longer came before the clock was set.
const LONGEST: Duration = Duration::from_secs(1);
/// Pending errors, and packets of strangers, that are passed over in one call.
const ERRORS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// Before Linux 6.11 a device without checksums gave EIO; since then only IPsec does, which not every kernel has. So the error is
    /// given here, and all else is real.
    #[test]
    #[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    fn segmentation_ends_where_its_error_is_one_of_devices_and_packets_go_singly() {
        for (error, ends) in [
            (Errno::IO, true),
            (Errno::INVAL, true),
            (Errno::NOBUFS, false),
            (Errno::PERM, false),
        ] {
            let [near, far] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
            near.connect(far.local_addr().unwrap()).unwrap();
            let mut port = UdpPort::new(near, Offloads::default(), Instant::now()).unwrap();
            let (mut train, mut counters) = (Batch::new(Framing::Train), Counters::default());
            for n in 0..5 {
                train.push(1000).unwrap().fill(n);
            }
            let sent = port.send_singly(train.bytes(), &train, error, &mut counters);
            assert_eq!(sent, Sent::Done);
            let mut packet = [0; 2000];
            for n in 0..5 {
                assert_eq!(far.recv(&mut packet).unwrap(), 1000);
                assert_eq!(packet[..1000], [n; 1000]);
            }
            assert_eq!((port.gso_ended(), !port.offloads().1), (ends, ends));
            assert_eq!(counters.get("udp.gso_failed"), u64::from(ends), "{error}");
        }
    }
}
