//! The sockets of a shim: carries out what the machine asks and says what arrives.
//!
//! All sockets are watched by one epoll set of their own, which tokio watches as one descriptor: a thousand sockets that
//! wait for a confirmation cost no task each, and one that is not read is not even watched.

// This is where the shim does its IO.
#![allow(clippy::disallowed_types)]

mod udp;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::Batch;
use proto::ipcp::{Offload, OffloadKind, OffloadMode};
use rustc_hash::FxHashMap;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::resolve::Resolver;
use crate::{Ask, Lost, Open, Reading, SocketKey, Tell, Unbound};
use udp::{Arrived, Udp};

/// All sockets of one shim. Dropping it closes them.
pub struct Sockets {
    epoll: AsyncFd<OwnedFd>,
    listen: Option<UdpSocket>,
    open: FxHashMap<SocketKey, Udp>,
    /// Watched sockets that may be readable, as the epoll set said last.
    ready: Vec<u64>,
    heard: VecDeque<Heard>,
    resolver: Resolver,
    offload: [OffloadMode; 2],
}

/// What the machine is to be told.
#[derive(Debug)]
pub enum Heard {
    /// For `Input::Tell`.
    Tell(Tell),
    /// For `Input::Lower`.
    Train(SocketKey, Batch),
}

impl Sockets {
    /// No socket yet. Must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll: libflow::watch(set, Interest::READABLE)?,
            listen: None,
            open: FxHashMap::default(),
            ready: Vec::new(),
            heard: VecDeque::new(),
            resolver: Resolver::default(),
            offload: [OffloadMode::Auto; 2],
        })
    }

    /// Carries an ask out at once; the answer, if it has one, is the next thing heard.
    pub fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Listen(at) => self.listen(at),
            Ask::Open(open) => self.open(&open),
            Ask::Connect(key, to) => self.connect(key, to),
            Ask::Send(key, to, bytes) => self.send_one(key, to, &bytes),
            Ask::Read(key, reading) => self.read_as(key, reading),
            Ask::Skip(key) => {
                if let Some(udp) = self.open.get(&key) {
                    udp.skip();
                }
            }
            Ask::Mtu(key) => {
                if let Some(mtu) = self.open.get(&key).and_then(Udp::mtu) {
                    self.tell(Tell::Mtu(key, mtu));
                }
            }
            Ask::Close(key) => {
                self.unwatch(key);
                self.open.remove(&key);
                self.resolver.forget(key);
            }
            Ask::HandOver(key, _) => {
                self.unwatch(key);
                if let Some(udp) = self.open.get_mut(&key) {
                    udp.give_away();
                }
            }
            Ask::Resolve(key, name, dns) => self.resolver.look_up(key, name, dns),
            Ask::Offload(switches) => self.switch(&switches),
        }
    }

    /// Sends the packets of a train. `false` if the socket's buffer is full: nothing more goes until it is writable, and
    /// what was not sent has been counted.
    pub fn send(&mut self, key: SocketKey, train: &Batch) -> bool {
        let Some(udp) = self.open.get(&key) else {
            return true;
        };
        let sent = udp.send(train, self.offload[0]);
        for (lost, count) in [
            (Lost::TooBig, sent.too_big),
            (Lost::Full, sent.full),
            (Lost::Error, sent.failed),
        ] {
            if count > 0 {
                self.tell(Tell::Dropped(key, lost, count));
            }
        }
        if sent.too_big > 0 {
            self.carry_out(Ask::Mtu(key));
        }
        if sent.refused {
            self.refused(key);
        }
        sent.full == 0
    }

    /// Waits for the next thing that the machine is to be told. Nothing is lost if the wait is given up.
    pub async fn hear(&mut self) -> io::Result<Heard> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            if let Some(token) = self.ready.pop() {
                self.take(token);
                continue;
            }
            tokio::select! {
                guard = self.epoll.readable() => {
                    let mut guard = guard?;
                    let mut events = Vec::with_capacity(EVENTS);
                    epoll::wait(guard.get_inner(), rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))?;
                    if events.is_empty() {
                        guard.clear_ready();
                    }
                    self.ready.extend(events.iter().map(|e| e.data.u64()));
                }
                tell = self.resolver.answered() => return Ok(Heard::Tell(tell)),
            }
        }
    }

    /// The descriptor of a flow's socket, to be handed over.
    pub fn descriptor(&self, key: SocketKey) -> Option<BorrowedFd<'_>> {
        self.open.get(&key).map(Udp::as_fd)
    }

    fn tell(&mut self, tell: Tell) {
        self.heard.push_back(Heard::Tell(tell));
    }

    fn listen(&mut self, at: SocketAddr) {
        let listening = udp::bind(at).and_then(|socket| {
            epoll::add(
                &self.epoll,
                &socket,
                epoll::EventData::new_u64(LISTEN),
                epoll::EventFlags::IN,
            )?;
            Ok(socket)
        });
        let tell = match listening {
            Ok(socket) => {
                self.listen = Some(socket);
                Tell::Listening
            }
            Err(e) => {
                let why = if e.kind() == io::ErrorKind::AddrNotAvailable {
                    Unbound::NoAddress
                } else if e.kind() == io::ErrorKind::AddrInUse {
                    Unbound::InUse
                } else {
                    Unbound::Failed
                };
                Tell::NotListening(why, e.to_string())
            }
        };
        self.tell(tell);
    }

    fn open(&mut self, open: &Open) {
        let opened = Udp::open(open.ip, open.ports).and_then(|mut udp| {
            if let Some(to) = open.connect {
                udp.connect(to)?;
                // Whatever came before this is not from the peer: it learns of the port by the echo, which is yet to go.
                udp.drain();
            }
            Ok(udp)
        });
        let tell = match opened {
            Ok(udp) => {
                let mtu = udp.mtu().unwrap_or(0);
                self.open.insert(open.key, udp);
                Tell::Opened(open.key, mtu)
            }
            Err(e) => Tell::NotOpened(open.key, e.to_string()),
        };
        self.tell(tell);
    }

    fn connect(&mut self, key: SocketKey, to: SocketAddr) {
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        let connected = udp.connect(to).and_then(|()| {
            udp.mtu()
                .ok_or_else(|| io::Error::other("the path has no MTU"))
        });
        if connected.is_ok() {
            udp.skip_strangers();
        }
        self.tell(match connected {
            Ok(mtu) => Tell::Opened(key, mtu),
            Err(e) => Tell::NotOpened(key, e.to_string()),
        });
    }

    fn send_one(&mut self, key: SocketKey, to: Option<SocketAddr>, bytes: &[u8]) {
        let Some(udp) = self.open.get(&key) else {
            return;
        };
        match udp.send_one(to, bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => self.refused(key),
            Err(e) => self.tell(Tell::NotSent(key, e.to_string())),
        }
    }

    /// The peer's port was unreachable at a send. What it sent before may still be in the queue; a socket that isn't read
    /// has nobody to read it for.
    fn refused(&mut self, key: SocketKey) {
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        if udp.is_given_away() {
            self.tell(Tell::Unreachable(key));
        } else if !udp.refused {
            udp.refused = true;
            if udp.reading != Reading::Off {
                self.ready.push(key.0);
            }
        }
    }

    fn read_as(&mut self, key: SocketKey, reading: Reading) {
        let gro = self.offload[1];
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        let was = std::mem::replace(&mut udp.reading, reading);
        match (was, reading) {
            (_, Reading::Off) => self.unwatch(key),
            (Reading::Off, _) => {
                if reading == Reading::Trains
                    && let Err(e) = udp.ready_for_trains(gro)
                {
                    return self.tell(Tell::NotSent(key, e.to_string()));
                }
                udp.watched = true;
                let flags = epoll::EventFlags::IN;
                if let Err(e) = epoll::add(
                    &self.epoll,
                    udp.as_fd(),
                    epoll::EventData::new_u64(key.0),
                    flags,
                ) {
                    return self.tell(Tell::NotSent(key, e.to_string()));
                }
                if udp.refused {
                    self.ready.push(key.0);
                }
            }
            _ => {}
        }
    }

    fn unwatch(&mut self, key: SocketKey) {
        if let Some(udp) = self.open.get_mut(&key)
            && std::mem::take(&mut udp.watched)
        {
            // It fails only for a descriptor that isn't in the set.
            let _ = epoll::delete(&self.epoll, udp.as_fd());
        }
    }

    /// Reads a socket that may be readable: some of what it has, so that no socket starves another.
    fn take(&mut self, token: u64) {
        if token == LISTEN {
            return self.take_requests();
        }
        let key = SocketKey(token);
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        let most = if udp.reading == Reading::Trains {
            TRAINS_AT_ONCE
        } else {
            1
        };
        for _ in 0..most {
            let Some(arrived) = udp.take() else { return };
            let heard = match arrived {
                Arrived::Front(from, bytes) => Heard::Tell(Tell::Front(key, from, bytes)),
                Arrived::Datagram(from, bytes) => Heard::Tell(Tell::Datagram(key, from, bytes)),
                Arrived::Train(batch) => Heard::Train(key, batch),
                Arrived::Empty => Heard::Tell(Tell::Empty(key)),
                Arrived::Refused => Heard::Tell(Tell::Unreachable(key)),
            };
            self.heard.push_back(heard);
        }
        if udp.refused {
            // The queue isn't drained yet.
            self.ready.push(token);
        }
    }

    fn take_requests(&mut self) {
        let Some(socket) = &self.listen else { return };
        let mut bytes = [0; Tell::SHOWN];
        for _ in 0..REQUESTS_AT_ONCE {
            match socket.recv_from(&mut bytes) {
                Ok((len, from)) => self
                    .heard
                    .push_back(Heard::Tell(Tell::Request(from, bytes[..len].to_vec()))),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // An error of a datagram that was sent before; the next call reads on.
                Err(_) => {}
            }
        }
    }

    fn switch(&mut self, switches: &[Offload]) {
        for switch in switches {
            let which = usize::from(switch.kind == OffloadKind::Gro);
            self.offload[which] = switch.mode;
        }
        for udp in self.open.values_mut() {
            udp.set_gro(self.offload[1]);
        }
    }
}

/// The request socket's token; keys count from 1.
const LISTEN: u64 = 0;
/// Sockets that one look at the epoll set gives.
const EVENTS: usize = 64;
/// Requests, and trains of one socket, that are read before the next socket has its turn.
const REQUESTS_AT_ONCE: usize = 16;
const TRAINS_AT_ONCE: usize = 4;
