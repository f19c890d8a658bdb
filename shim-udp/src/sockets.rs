//! The sockets of a shim: carries out what the machine asks and says what arrives.
//!
//! All sockets are watched by one epoll set of their own, which is waited on as one descriptor: a thousand sockets that
//! wait for a confirmation cost no task each, and one that is not read is not even watched.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is where the shim does its IO"
)]

mod udp;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipcp::Counters;
use ipcp::udp::{Offloads, Usage, overflowed, widen};
use proto::irm::IpcpStatus;
use proto::{Batch, FlowId};
use rustc_hash::FxHashMap;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::place::Places;
use crate::resolve::Resolver;
use crate::{Ask, Open, Reading, SocketKey, Tell, Unbound};
use udp::{Arrived, Udp};

/// All sockets of one shim. Dropping it closes them.
pub struct Sockets {
    epoll: OwnedFd,
    listen: Option<UdpSocket>,
    open: FxHashMap<SocketKey, Udp>,
    /// Watched sockets that may be readable, as the epoll set said last.
    ready: VecDeque<u64>,
    heard: VecDeque<Heard>,
    /// Sockets whose trains wait for room in the kernel's buffer, and since when.
    full: BTreeMap<SocketKey, Instant>,
    handed: FxHashMap<FlowId, SocketKey>,
    resolver: Resolver,
    places: Places,
    offloads: Offloads,
    counters: Counters,
    /// What the kernel has dropped at sockets that are gone.
    overflowed: u64,
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
    /// No socket yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listen: None,
            open: FxHashMap::default(),
            ready: VecDeque::new(),
            heard: VecDeque::new(),
            full: BTreeMap::new(),
            handed: FxHashMap::default(),
            resolver: Resolver::default(),
            places: Places::default(),
            offloads: Offloads::default(),
            counters: Counters::default(),
            overflowed: 0,
        })
    }

    /// Where the answers to look-ups go, and what the host says of places; until then none can be made.
    pub fn answer_to(&mut self, answers: mpsc::Sender<Tell>) {
        self.places.tell(answers.clone());
        self.resolver.answer_to(answers);
    }

    /// Carries an ask out at once; the answer, if it has one, is the next thing heard.
    pub fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Listen(at) => self.listen(at),
            Ask::Follow(place) => self.places.follow(place),
            Ask::Open(open) => self.open(&open),
            Ask::Connect(key, to) => self.connect(key, to),
            Ask::Send(key, to, bytes) => self.send_one(key, to, &bytes),
            Ask::Read(key, reading) => self.read_as(key, reading),
            Ask::Skip(key) => {
                if let Some(udp) = self.open.get(&key) {
                    // Nothing there is as good as taken away.
                    let _ = udp.skip();
                }
            }
            Ask::Mtu(key) => {
                if let Some(mtu) = self.open.get(&key).and_then(Udp::mtu) {
                    self.tell(Tell::Mtu(key, mtu));
                }
            }
            Ask::Close(key) => self.close(key),
            Ask::HandOver(key, flow) => self.give_away(key, flow),
            Ask::Resolve(key, name, dns, own) => self.resolver.look_up(key, name, (dns, own)),
            Ask::Offload(switches) => {
                self.offloads.apply(&switches);
                for udp in self.open.values_mut() {
                    udp.set_offloads(self.offloads);
                }
            }
        }
    }

    /// Sends the packets of a train, or keeps them until the kernel has room.
    pub fn send(&mut self, key: SocketKey, train: Batch) {
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        udp.send(train, &mut self.counters, Instant::now());
        self.sent(key);
    }

    /// The next thing that the machine is to be told, if there is one now. When there is none, [`Sockets::as_fd`] can be
    /// waited on.
    pub fn hear(&mut self) -> io::Result<Option<Heard>> {
        loop {
            if let Some(heard) = self.hear_more() {
                return Ok(Some(heard));
            }
            let mut events = [const { MaybeUninit::uninit() }; EVENTS];
            let (events, _) =
                match epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) {
                    Err(Errno::INTR) => continue,
                    other => other?,
                };
            if events.is_empty() {
                return Ok(None);
            }
            self.ready.extend(events.iter().map(|e| e.data.u64()));
        }
    }

    /// The same, but only of what the last look at the sockets found or an ask brought about.
    pub fn hear_more(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Some(heard);
            }
            let token = self.ready.pop_front()?;
            self.take(token);
        }
    }

    /// The socket of a flow that an IPC process is to get.
    pub fn handed_over(&self, flow: FlowId) -> Option<BorrowedFd<'_>> {
        self.handed
            .get(&flow)
            .and_then(|key| self.open.get(key))
            .map(Udp::as_fd)
    }

    /// Until when users should not write, because trains wait for room in the kernel's buffers. A socket that doesn't move
    /// must not stop the others for longer: what goes to it then is dropped and counted.
    pub fn congested_until(&self) -> Option<Instant> {
        let now = Instant::now();
        let until = self.full.values().map(|since| *since + STUCK);
        until.filter(|at| *at > now).min()
    }

    /// What was dropped on the way out, and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Adds to a status how offloads are switched and which of them the sockets use that the shim reads and writes itself.
    pub fn tell_offloads(&self, status: &mut IpcpStatus) {
        let usage: Usage = self.open.values().filter_map(Udp::port).collect();
        usage.tell(self.offloads, status);
    }

    /// How often the kernel has dropped what came to the shim's own sockets, because they were full. Those that it has given
    /// away count with those who have them.
    pub fn overflowed(&self) -> u64 {
        let own = self.open.values().filter(|udp| !udp.is_given_away());
        let own = own.map(overflowed).sum::<u64>();
        self.overflowed + own + self.listen.as_ref().map_or(0, overflowed)
    }

    fn tell(&mut self, tell: Tell) {
        self.heard.push_back(Heard::Tell(tell));
    }

    fn listen(&mut self, at: SocketAddr) {
        // One that is bound elsewhere hears nothing more.
        self.overflowed += self.listen.take().as_ref().map_or(0, overflowed);
        let listening = udp::bind(at).and_then(|socket| {
            widen(&socket);
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
            return self.tell(Tell::Unreachable(key));
        }
        udp.refused = true;
        if udp.reading != Reading::Off {
            self.ready.push_back(key.0);
        }
    }

    fn read_as(&mut self, key: SocketKey, reading: Reading) {
        let Some(mut udp) = self.open.remove(&key) else {
            return;
        };
        udp.reading = reading;
        if reading == Reading::Trains {
            self.unwatch(&mut udp);
            udp = match udp.into_port(self.offloads, Instant::now()) {
                Ok(udp) => udp,
                Err(e) => return self.tell(Tell::NotOpened(key, e.to_string())),
            };
        }
        if udp.has_news() && reading != Reading::Off {
            self.ready.push_back(key.0);
        }
        self.open.insert(key, udp);
        self.watch(key);
    }

    fn give_away(&mut self, key: SocketKey, flow: FlowId) {
        if let Some(udp) = self.open.get_mut(&key) {
            udp.give_away();
            self.handed.insert(flow, key);
            self.watch(key);
        }
    }

    fn close(&mut self, key: SocketKey) {
        self.resolver.forget(key);
        self.full.remove(&key);
        let Some(mut udp) = self.open.remove(&key) else {
            return;
        };
        if udp.is_given_away() {
            self.handed.retain(|_, k| *k != key);
        } else {
            self.overflowed += overflowed(&udp);
        }
        // By itself it would leave the set only when the last copy of its descriptor is closed.
        self.unwatch(&mut udp);
    }

    /// Something was sent: trains may wait now, or no longer, and an error may have come to light.
    fn sent(&mut self, key: SocketKey) {
        let Some(udp) = self.open.get(&key) else {
            return;
        };
        if udp.is_full() {
            self.full.entry(key).or_insert_with(Instant::now);
        } else {
            self.full.remove(&key);
        }
        if udp.has_news() {
            self.ready.push_back(key.0);
        }
        self.watch(key);
    }

    /// Brings the epoll set in line with what a socket is read and written for.
    fn watch(&mut self, key: SocketKey) {
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        let (is, wanted) = (udp.watched, udp.interest());
        let data = epoll::EventData::new_u64(key.0);
        let changed = match (is, wanted) {
            (None, Some(flags)) => epoll::add(&self.epoll, &*udp, data, flags),
            (Some(old), Some(flags)) if old != flags => {
                epoll::modify(&self.epoll, &*udp, data, flags)
            }
            (Some(_), None) => epoll::delete(&self.epoll, &*udp),
            (Some(_), Some(_)) | (None, None) => Ok(()),
        };
        udp.watched = wanted;
        if let Err(e) = changed {
            self.tell(Tell::NotOpened(key, e.to_string()));
        }
    }

    fn unwatch(&self, udp: &mut Udp) {
        if udp.watched.take().is_some() {
            // It fails only for a descriptor that isn't in the set.
            let _ = epoll::delete(&self.epoll, &*udp);
        }
    }

    /// Reads a socket that may be readable: some of what it has, so that no socket starves another.
    fn take(&mut self, token: u64) {
        if token == LISTEN {
            return self.take_requests();
        }
        let (key, now) = (SocketKey(token), Instant::now());
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        if udp.is_full() {
            udp.flush(&mut self.counters, now);
            self.sent(key);
        }
        let Some(udp) = self.open.get_mut(&key) else {
            return;
        };
        let most = if udp.reading == Reading::Trains {
            TRAINS_AT_ONCE
        } else {
            1
        };
        for _ in 0..most {
            let Some(arrived) = udp.take(now) else { return };
            if let Arrived::Train(batch) = &arrived {
                let train = u64::from(batch.count() > 1);
                self.counters.add("udp.gro_trains", train);
            }
            self.heard.push_back(match arrived {
                Arrived::Train(batch) => Heard::Train(key, batch),
                Arrived::Front(from, bytes) => Heard::Tell(Tell::Front(key, from, bytes)),
                Arrived::Datagram(from, bytes) => Heard::Tell(Tell::Datagram(key, from, bytes)),
                Arrived::Empty => Heard::Tell(Tell::Empty(key)),
                Arrived::Mtu(mtu) => Heard::Tell(Tell::Mtu(key, mtu)),
                Arrived::Refused => return self.tell(Tell::Unreachable(key)),
            });
        }
        if udp.has_news() {
            // The queue isn't drained yet.
            self.ready.push_back(token);
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
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Whether this host can send from an address.
pub(crate) fn has_address(ip: IpAddr) -> bool {
    let bound = udp::bind(SocketAddr::new(ip, 0));
    // Out of descriptors or ports is another matter.
    !bound.is_err_and(|e| e.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The request socket's token; keys count from 1.
const LISTEN: u64 = 0;
/// Sockets that one look at the epoll set gives.
const EVENTS: usize = 64;
/// How long a full socket holds users up.
const STUCK: Duration = Duration::from_millis(100);
/// Requests, and trains of one socket, that are read before the next socket has its turn.
const REQUESTS_AT_ONCE: usize = 16;
const TRAINS_AT_ONCE: usize = 4;
