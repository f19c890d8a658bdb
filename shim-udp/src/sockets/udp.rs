//! One UDP socket of a flow.

#![allow(clippy::disallowed_types)]

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use proto::ipcp::OffloadMode;
use proto::{Batch, Framing};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Reading, Tell};

/// One UDP socket of a flow.
pub(super) struct Udp {
    socket: UdpSocket,
    remote: Option<SocketAddr>,
    /// What knows of GSO and GRO; only a socket that carries trains has it.
    state: Option<UdpSocketState>,
    given_away: bool,
    pub(super) reading: Reading,
    /// It is in the epoll set.
    pub(super) watched: bool,
    /// The peer's port is unreachable, which is told when the queue is empty.
    pub(super) refused: bool,
}

/// What a read gave.
pub(super) enum Arrived {
    Front(SocketAddr, Vec<u8>),
    Datagram(SocketAddr, Vec<u8>),
    Train(Batch),
    Empty,
    Refused,
}

/// What became of a train.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) too_big: u64,
    pub(super) full: u64,
    pub(super) failed: u64,
    pub(super) refused: bool,
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
        let (remote, state) = (None, None);
        Ok(Self {
            socket,
            remote,
            state,
            given_away: false,
            reading: Reading::Off,
            watched: false,
            refused: false,
        })
    }

    pub(super) fn connect(&mut self, to: SocketAddr) -> io::Result<()> {
        self.socket.connect(to)?;
        self.remote = Some(to);
        Ok(())
    }

    /// Forgets all that was received.
    pub(super) fn drain(&self) {
        // Bounded, since a stranger may send as fast as this reads; once connected, nothing of theirs is added.
        for _ in 0..MOST_DRAINED {
            if self
                .socket
                .recv(&mut [])
                .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
            {
                return;
            }
        }
    }

    /// Forgets what others than the peer sent before the socket was connected, up to the peer's first.
    pub(super) fn skip_strangers(&self) {
        for _ in 0..MOST_DRAINED {
            match self.socket.peek_from(&mut []) {
                Ok((_, from)) if !self.is_peer(from) => self.skip(),
                Ok(_) => return,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    /// Takes the first datagram away.
    pub(super) fn skip(&self) {
        // An error is as good as a datagram: it is taken away too.
        let _ = self.socket.recv(&mut []);
    }

    /// The largest SDU on the way to the peer, in bytes.
    pub(super) fn mtu(&self) -> Option<u32> {
        let (mtu, headers) = match self.remote? {
            SocketAddr::V4(_) => (sockopt::ip_mtu(&self.socket).ok()?, 28),
            SocketAddr::V6(_) => (sockopt::ipv6_mtu(&self.socket).ok()?, 48),
        };
        Some(mtu.saturating_sub(headers).min(Batch::MAX_PACKET as u32))
    }

    pub(super) fn send_one(&self, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<()> {
        let sent = match to {
            Some(to) => self.socket.send_to(bytes, to),
            None => self.socket.send(bytes),
        };
        sent.map(drop)
    }

    /// From now on another process reads and writes; this one keeps the descriptor for its MTU and the first empties.
    pub(super) fn give_away(&mut self) {
        self.given_away = true;
        widen(&self.socket);
    }

    pub(super) fn is_given_away(&self) -> bool {
        self.given_away
    }

    pub(super) fn ready_for_trains(&mut self, gro: OffloadMode) -> io::Result<()> {
        widen(&self.socket);
        self.state = Some(UdpSocketState::new((&self.socket).into())?);
        self.set_gro(gro);
        Ok(())
    }

    pub(super) fn set_gro(&self, gro: OffloadMode) {
        if self.state.is_some() {
            // A kernel without it has nothing to switch.
            let on = gro != OffloadMode::Off;
            let _ = nix::sys::socket::setsockopt(
                &self.socket,
                nix::sys::socket::sockopt::UdpGroSegment,
                &on,
            );
        }
    }

    /// Sends a train in as few calls as the switches and the kernel allow, and singly what a call refuses.
    pub(super) fn send(&self, train: &Batch, gso: OffloadMode) -> Sent {
        let mut sent = Sent::default();
        let (Some(state), Some(remote)) = (&self.state, self.remote) else {
            sent.failed = train.count() as u64;
            return sent;
        };
        let segments = match gso {
            OffloadMode::Auto => state.max_gso_segments(),
            OffloadMode::On => Batch::TRAIN_PACKETS,
            OffloadMode::Off => 1,
        };
        let stride = train.stride().max(1);
        let mut rest = train.bytes();
        while !rest.is_empty() {
            let (run, after) = rest.split_at(rest.len().min(stride * segments));
            match self.transmit(state, remote, run, stride) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    sent.full = rest.len().div_ceil(stride) as u64;
                    return sent;
                }
                Err(_) if run.len() > stride => {
                    for one in run.chunks(stride) {
                        if let Err(e) = self.transmit(state, remote, one, stride) {
                            sent.count(&e);
                        }
                    }
                }
                Err(e) => sent.count(&e),
            }
            rest = after;
        }
        sent
    }

    /// Reads once, in the way that the socket is read; `None` if there is nothing.
    pub(super) fn take(&mut self) -> Option<Arrived> {
        for _ in 0..MOST_DRAINED {
            let got = match self.reading {
                Reading::Off => return None,
                Reading::Front => shown(|b| self.socket.peek_from(b))
                    .map(|(from, bytes)| Some(Arrived::Front(from, bytes))),
                Reading::Datagrams => shown(|b| self.socket.recv_from(b))
                    .map(|(from, bytes)| Some(Arrived::Datagram(from, bytes))),
                Reading::Trains => self.take_train(),
            };
            match got {
                Ok(Some(arrived)) => return Some(arrived),
                Ok(None) => {}
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

    /// A train of the peer; `None` for one of a stranger, from before the socket was connected.
    fn take_train(&self) -> io::Result<Option<Arrived>> {
        let Some(state) = &self.state else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let mut batch = Batch::new(Framing::Train);
        let mut meta = [RecvMeta::default()];
        state.recv(
            (&self.socket).into(),
            &mut [IoSliceMut::new(batch.space())],
            &mut meta,
        )?;
        let [meta] = meta;
        if !self.is_peer(meta.addr) {
            return Ok(None);
        }
        if meta.len == 0 {
            return Ok(Some(Arrived::Empty));
        }
        batch.set_train(meta.len, meta.stride);
        Ok(Some(Arrived::Train(batch)))
    }

    fn is_peer(&self, from: SocketAddr) -> bool {
        self.remote
            .is_some_and(|r| r.ip() == from.ip() && r.port() == from.port())
    }

    fn transmit(
        &self,
        state: &UdpSocketState,
        to: SocketAddr,
        contents: &[u8],
        stride: usize,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: Some(stride),
            src_ip: None,
        };
        // try_send, since send() hides errors.
        state.try_send((&self.socket).into(), &transmit)
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Sent {
    fn count(&mut self, e: &io::Error) {
        if quinn_udp::is_msg_size_err(e) {
            self.too_big += 1;
        } else if e.kind() == io::ErrorKind::WouldBlock {
            self.full += 1;
        } else {
            self.refused |= e.kind() == io::ErrorKind::ConnectionRefused;
            self.failed += 1;
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

/// Larger buffers for a socket that carries a flow; beyond the system's limit only for who may.
fn widen(socket: &UdpSocket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, BUFFER);
    }
}

/// Ports that are tried before the range counts as full.
const PORTS_TRIED: usize = 128;
/// Datagrams that are thrown away in one go.
const MOST_DRAINED: usize = 4096;
/// What is asked for as `SO_RCVBUF` and `SO_SNDBUF`, in bytes.
const BUFFER: usize = 1 << 20;
