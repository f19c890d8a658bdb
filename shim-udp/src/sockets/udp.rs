//! One UDP socket of a flow.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcp::Counters;
use ipcp::udp::{Offloads, Received, Sent, UdpPort, path_mtu, widen};
use proto::{Batch, Framing};
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Reading, Tell};

/// One UDP socket of a flow.
pub(super) struct Udp {
    socket: Bound,
    remote: Option<SocketAddr>,
    given_away: bool,
    /// Trains that wait for room in the kernel's buffer, and how much of the first has gone.
    unsent: VecDeque<Batch>,
    gone: usize,
    pub(super) reading: Reading,
    /// The peer's port is unreachable, which is told when the queue is empty.
    pub(super) refused: bool,
    /// It is in the epoll set, for this.
    pub(super) watched: Option<EventFlags>,
}

/// A socket before and after it carries trains.
enum Bound {
    Plain(UdpSocket),
    Port(UdpPort),
}

/// What a read gave.
pub(super) enum Arrived {
    Front(SocketAddr, Vec<u8>),
    Datagram(SocketAddr, Vec<u8>),
    Train(Batch),
    Empty,
    Mtu(u32),
    Refused,
}

impl Udp {
    /// A socket at this address, on a port of the system's choice or on one of a range: the first free one after the
    /// given beginning.
    pub(super) fn open(ip: IpAddr, ports: Option<(u16, u16, u16)>) -> io::Result<Self> {
        let socket = match ports {
            None => bind(SocketAddr::new(ip, 0))?,
            Some((lo, hi, begin)) => {
                let mut tries = (begin..=hi)
                    .chain(lo..begin)
                    .take(PORTS_TRIED)
                    .map(|port| bind(SocketAddr::new(ip, port)));
                let taken = |r: &io::Result<UdpSocket>| matches!(r, Err(e) if e.kind() == io::ErrorKind::AddrInUse);
                tries.find(|r| !taken(r)).unwrap_or_else(|| {
                    let text = format!(
                        "no free port was found among {lo}-{hi}; close flows or widen --flow-ports"
                    );
                    Err(io::Error::new(io::ErrorKind::AddrInUse, text))
                })?
            }
        };
        dont_fragment(&socket, ip)?;
        Ok(Self {
            socket: Bound::Plain(socket),
            remote: None,
            given_away: false,
            unsent: VecDeque::new(),
            gone: 0,
            reading: Reading::Off,
            refused: false,
            watched: None,
        })
    }

    pub(super) fn connect(&mut self, to: SocketAddr) -> io::Result<()> {
        rustix::net::connect(&self.socket, &to)?;
        self.remote = Some(to);
        Ok(())
    }

    /// Forgets all that was received.
    pub(super) fn drain(&self) {
        // Bounded, since a stranger may send as fast as this reads; once connected, nothing of theirs is added.
        for _ in 0..MOST_DRAINED {
            if self
                .skip()
                .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
            {
                return;
            }
        }
    }

    /// Takes the first datagram away. An error is as good as a datagram: it is taken away too.
    pub(super) fn skip(&self) -> io::Result<()> {
        let got = rustix::net::recv(&self.socket, &mut [0_u8; 1][..], RecvFlags::DONTWAIT);
        Ok(got.map(drop)?)
    }

    /// The largest SDU on the way to the peer, in bytes.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.remote.map(|peer| path_mtu(&self.socket, peer))
    }

    pub(super) fn send_one(&self, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<()> {
        let sent = match to {
            Some(to) => rustix::net::sendto(&self.socket, bytes, SendFlags::DONTWAIT, &to),
            None => rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT),
        };
        Ok(sent.map(drop)?)
    }

    /// From now on another process reads and writes; this one keeps the descriptor for its MTU and the first empties.
    pub(super) fn give_away(&mut self) {
        self.given_away = true;
        // What comes before that process has joined waits here.
        widen(&self.socket);
    }

    pub(super) fn is_given_away(&self) -> bool {
        self.given_away
    }

    /// The socket as one that carries trains.
    pub(super) fn into_port(mut self, offloads: Offloads, now: Instant) -> io::Result<Self> {
        if let Bound::Plain(socket) = self.socket {
            self.socket = Bound::Port(UdpPort::new(socket, offloads, now)?);
        }
        Ok(self)
    }

    pub(super) fn set_offloads(&mut self, offloads: Offloads) {
        if let Bound::Port(port) = &mut self.socket {
            port.set_offloads(offloads);
        }
    }

    /// The socket if it carries trains here.
    pub(super) fn port(&self) -> Option<&UdpPort> {
        match &self.socket {
            Bound::Port(port) => Some(port),
            Bound::Plain(_) => None,
        }
    }

    /// Sends a train, or keeps it if the kernel's buffer is full; beyond [`MOST_UNSENT`] it is dropped and counted.
    pub(super) fn send(&mut self, train: Batch, counters: &mut Counters, now: Instant) {
        if self.unsent.len() >= MOST_UNSENT {
            counters.add("drop.udp_full", train.count() as u64);
        } else {
            self.unsent.push_back(train);
            self.flush(counters, now);
        }
    }

    /// Sends what waits, as far as it goes.
    pub(super) fn flush(&mut self, counters: &mut Counters, now: Instant) {
        let Bound::Port(port) = &mut self.socket else {
            return;
        };
        while let Some(train) = self.unsent.front() {
            match port.send(train, self.gone, counters, now) {
                Sent::Full(at) => {
                    self.gone = at;
                    return;
                }
                Sent::Done => {
                    self.gone = 0;
                    self.unsent.pop_front();
                }
            }
        }
    }

    /// Whether trains wait for room.
    pub(super) fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether a read has something to say though nothing came.
    pub(super) fn has_news(&self) -> bool {
        match &self.socket {
            Bound::Plain(_) => self.refused,
            Bound::Port(port) => port.has_news(),
        }
    }

    /// What the epoll set is to watch it for.
    pub(super) fn interest(&self) -> Option<EventFlags> {
        if self.given_away {
            return None;
        }
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.reading != Reading::Off);
        flags.set(EventFlags::OUT, self.is_full());
        (!flags.is_empty()).then_some(flags)
    }

    /// Reads once, in the way that the socket is read; `None` if there is nothing.
    pub(super) fn take(&mut self, now: Instant) -> Option<Arrived> {
        if let (Bound::Port(port), Reading::Trains) = (&mut self.socket, self.reading) {
            let mut batch = Batch::new(Framing::Train);
            return match port.recv(&mut batch, now) {
                Received::Packets => Some(Arrived::Train(batch)),
                Received::KeepAlive => Some(Arrived::Empty),
                Received::Mtu(mtu) => Some(Arrived::Mtu(mtu)),
                Received::Refused => Some(Arrived::Refused),
                Received::Nothing => None,
                // A shim's flows have no other way; what it reads comes all the same.
                Received::Faulty => self.take(now),
            };
        }
        let Bound::Plain(socket) = &self.socket else {
            return None;
        };
        for _ in 0..ERRORS {
            let got = match self.reading {
                Reading::Front => {
                    shown(|b| socket.peek_from(b)).map(|(from, bytes)| Arrived::Front(from, bytes))
                }
                Reading::Datagrams => shown(|b| socket.recv_from(b))
                    .map(|(from, bytes)| Arrived::Datagram(from, bytes)),
                Reading::Off | Reading::Trains => return None,
            };
            match got {
                Ok(arrived) => return Some(arrived),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return std::mem::take(&mut self.refused).then_some(Arrived::Refused);
                }
                // The error comes before the data that was queued when it came.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => self.refused = true,
                // Of one datagram (host unreachable and such): the next may do better, silence tells otherwise.
                Err(_) => {}
            }
        }
        None
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Port(port) => port.as_fd(),
        }
    }
}

/// A socket that doesn't block, bound to a specific address: the kernel gives it no broadcast and no multicast.
pub(super) fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(at),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Reads one datagram, cut at what is shown of it.
fn shown(
    read: impl Fn(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
) -> io::Result<(SocketAddr, Vec<u8>)> {
    let mut bytes = [0; Tell::SHOWN];
    let (len, from) = read(&mut bytes)?;
    Ok((from, bytes[..len].to_vec()))
}

/// Routers must not fragment, and the kernel's idea of the path's MTU must not keep probes from being sent.
fn dont_fragment(socket: &UdpSocket, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => {
            sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::PROBE)?
        }
        IpAddr::V6(_) => {
            sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::PROBE)?
        }
    }
    Ok(())
}

/// Ports that are tried before the range counts as full.
const PORTS_TRIED: usize = 128;
/// Datagrams that are thrown away in one go.
const MOST_DRAINED: usize = 4096;
/// Trains that wait for room in the kernel's buffer; the runtime stops reading users at the first.
const MOST_UNSENT: usize = 32;
/// Pending errors that one read passes over.
const ERRORS: usize = 4;
