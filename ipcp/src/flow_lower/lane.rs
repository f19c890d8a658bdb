//! One lower flow: its sockets, and what waits to be sent on them.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use libflow::port::{Received, RecordSocket, misplaced};
use proto::record::Item;
use proto::{Batch, Code, Framing, Label, Reason};

use crate::io::{Interest, Io, Key, Watch};
use crate::udp::{Offloads, Sent, UdpPort};

/// One lower flow.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) over: Label,
    pub(super) data: Data,
    pub(super) held: VecDeque<(Batch, usize)>,
}

/// The way of the packets.
#[derive(Debug)]
pub(super) enum Data {
    Records {
        socket: RecordSocket,
        watch: Watch,
    },
    /// The shim's own socket; what it was handed over with stays for control items.
    Udp {
        port: Box<UdpPort>,
        watch: Watch,
        control: RecordSocket,
        control_key: Key,
    },
}

/// What a record socket says.
pub(super) enum Heard {
    Sdus,
    Mtu(u32),
    Down(Reason),
    Nothing,
}

/// What a record socket says, in the words of a lower network.
pub(super) fn control_item(received: io::Result<Received>) -> Heard {
    match received {
        Ok(Received::Data) => Heard::Sdus,
        Ok(Received::Item(Item::Mtu(mtu))) => Heard::Mtu(mtu),
        Ok(Received::Item(Item::Down(reason)) | Received::Bad(reason)) => Heard::Down(reason),
        // Both sides of a link write: half of one is none.
        Ok(Received::Item(Item::Shut)) => Heard::Down(Reason::new(
            Code::Closed,
            "the other side writes nothing more",
        )),
        Ok(Received::Item(
            Item::Join(_)
            | Item::Welcome(_)
            | Item::Device(_)
            | Item::Pair(_)
            | Item::Frame(_)
            | Item::Moved(_)
            | Item::Talk(_),
        )) => Heard::Down(misplaced()),
        Ok(Received::End) => Heard::Down(Reason::new(
            Code::Unreachable,
            "the IPC process below ended",
        )),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Err(e) => Heard::Down(Reason::new(
            Code::Failed,
            format!("reading the socket failed: {e}"),
        )),
    }
}

impl Data {
    /// Takes the socket of a flow, and the one that was handed over with it. Little waits there until [`Data::widen`].
    pub(super) fn new(
        io: &mut Io,
        socket: RecordSocket,
        handed: Option<OwnedFd>,
        offloads: Offloads,
    ) -> io::Result<Self> {
        let Some(fd) = handed else {
            let watch = io.watch(&socket, Interest::READ)?;
            return Ok(Self::Records { socket, watch });
        };
        let port = UdpPort::narrow(UdpSocket::from(fd), offloads, Instant::now())?;
        let port = Box::new(port);
        let watch = io.watch(&port.as_fd(), Interest::READ)?;
        let control_key = io.watch(&socket, Interest::READ)?.key();
        Ok(Self::Udp {
            port,
            watch,
            control: socket,
            control_key,
        })
    }

    /// Sends a batch from byte `from` on.
    pub(super) fn send(&mut self, io: &mut Io, batch: &Batch, from: usize, now: Instant) -> Sent {
        match self {
            Self::Udp { port, .. } => port.send(batch, from, &mut io.counters, now),
            Self::Records { socket, .. } => match socket.try_send(batch) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Full(0),
                Ok(()) => Sent::Done,
                // The end of the file, which comes in by itself, says why.
                Err(_) => {
                    io.counters.add("drop.lower_gone", batch.count() as u64);
                    Sent::Done
                }
            },
        }
    }

    /// The batch as this way takes it: a train is put into records for a record socket, which costs a copy.
    pub(super) fn framed(&self, batch: Batch) -> (Batch, Option<Batch>) {
        if matches!(self, Self::Udp { .. }) || batch.framing() == Framing::Record {
            return (batch, None);
        }
        // Two lengths more a packet: what one train holds, two records do.
        let (mut first, mut second) = (Batch::new(Framing::Record), None);
        for packet in batch.iter() {
            let room = match first.fits(packet.len()) && second.is_none() {
                true => first.push(packet.len()),
                false => second
                    .get_or_insert_with(|| Batch::new(Framing::Record))
                    .push(packet.len()),
            };
            if let Some(room) = room {
                room.copy_from_slice(packet);
            }
        }
        (first, second)
    }

    /// The shim's own socket, if it has one.
    pub(super) fn port(&self) -> Option<&UdpPort> {
        match self {
            Self::Udp { port, .. } => Some(port),
            Self::Records { .. } => None,
        }
    }

    /// Whether sending found something that only receiving reports.
    pub(super) fn has_news(&self) -> bool {
        match self {
            Self::Udp { port, .. } => port.has_news(),
            Self::Records { .. } => false,
        }
    }

    /// It is known whose it is: more may wait to be read.
    pub(super) fn widen(&self) {
        if let Self::Udp { port, .. } = self {
            port.widen();
        }
    }

    /// Has room again, after so long.
    pub(super) fn was_full(&mut self, waited: Duration) {
        if let Self::Udp { port, .. } = self {
            port.was_full(waited);
        }
    }

    /// Waits for packets, and for room if something waits to be sent.
    pub(super) fn arm(&mut self, io: &mut Io, waits: bool) {
        let interest = Interest {
            read: true,
            write: waits,
        };
        let armed = match self {
            Self::Records { socket, watch } => io.set(watch, &socket.as_fd(), interest),
            Self::Udp { port, watch, .. } => io.set(watch, &port.as_fd(), interest),
        };
        if let Err(e) = armed {
            tracing::error!("can't wait on a lower flow: {e}");
        }
    }
}
