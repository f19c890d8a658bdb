//! What the machine and its sockets say to each other.

use std::net::{IpAddr, SocketAddr};

use proto::Name;
use proto::ipcp::{Dns, Offload, Place};

/// One UDP socket, named by the machine. A name is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey(pub u64);

/// What the machine asks of its sockets, carried out in order. An ask that names an unknown socket does nothing: its
/// opening failed, and that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Bind the socket that requests come to. Answered by [`Tell::Listening`] or [`Tell::NotListening`].
    Listen(SocketAddr),
    /// Say which address this is, and again whenever that changes: [`Tell::Place`].
    Follow(Place),
    /// Open a socket for a flow. Answered by [`Tell::Opened`] or [`Tell::NotOpened`].
    Open(Open),
    /// Connect a socket and forget what was received before. Answered by [`Tell::Opened`] or [`Tell::NotOpened`].
    Connect(SocketKey, SocketAddr),
    /// Send one datagram, maybe an empty one, to this address or to where the socket is connected.
    Send(SocketKey, Option<SocketAddr>, Vec<u8>),
    /// Read the socket in this way from now on.
    Read(SocketKey, Reading),
    /// Take the datagram away that [`Tell::Front`] showed.
    Skip(SocketKey),
    /// Say the largest SDU of a connected socket. Answered by [`Tell::Mtu`].
    Mtu(SocketKey),
    /// Close the socket; what was sent on it before still leaves.
    Close(SocketKey),
    /// Give the socket to the process that joins the flow, and stay off it but for sending what is asked.
    HandOver(SocketKey, proto::FlowId),
    /// Look a host name up, from this address as well, if the shim has one. Answered by [`Tell::Resolved`] or [`Tell::NotResolved`].
    Resolve(SocketKey, Name, Dns, Option<IpAddr>),
    /// Switch offloads, for sockets that are open too.
    Offload(Vec<Offload>),
}

/// Parameters of [`Ask::Open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its name.
    pub key: SocketKey,
    /// The address that it is bound to.
    pub ip: IpAddr,
    /// The ports that may be tried, both ends included, and where to begin; `None`: the system's choice.
    pub ports: Option<(u16, u16, u16)>,
    /// Connect it at once, and forget what was received before it was connected.
    pub connect: Option<SocketAddr>,
}

/// How a socket is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Not at all: what arrives stays with the kernel.
    Off,
    /// One datagram at a time, with its source: [`Tell::Datagram`].
    Datagrams,
    /// The first datagram is shown but not taken: [`Tell::Front`].
    Front,
    /// In trains: `Input::Lower`, and [`Tell::Empty`] for an empty datagram.
    Trains,
}

/// What the sockets tell the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tell {
    /// The request socket is bound.
    Listening,
    /// It could not be bound.
    NotListening(Unbound, String),
    /// The address of the place that is followed, or why it has none.
    Place(Result<IpAddr, String>),
    /// A datagram arrived at the request socket.
    Request(SocketAddr, Vec<u8>),
    /// A socket is open, and connected if that was asked. The largest SDU of a connected one, else 0.
    Opened(SocketKey, u32),
    /// A socket could not be opened or connected; it is closed.
    NotOpened(SocketKey, String),
    /// A datagram arrived ([`Reading::Datagrams`]). Its bytes may be cut at [`Tell::SHOWN`].
    Datagram(SocketKey, SocketAddr, Vec<u8>),
    /// The first datagram in the queue ([`Reading::Front`]). Its bytes may be cut at [`Tell::SHOWN`].
    Front(SocketKey, SocketAddr, Vec<u8>),
    /// An empty datagram arrived ([`Reading::Trains`]).
    Empty(SocketKey),
    /// The peer's port is unreachable. All that had arrived before was told before.
    Unreachable(SocketKey),
    /// A datagram of the machine's own could not be sent.
    NotSent(SocketKey, String),
    /// The largest SDU.
    Mtu(SocketKey, u32),
    /// The addresses of a host, in the order of preference.
    Resolved(SocketKey, Vec<IpAddr>),
    /// The host's addresses were not found.
    NotResolved(SocketKey, String),
}

impl Tell {
    /// The most bytes of a datagram that are shown; one more than the longest name, so that a longer one is seen to be.
    pub const SHOWN: usize = Name::MAX + 1;
}

/// Why the request socket could not be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unbound {
    /// This host doesn't have the address (yet).
    NoAddress,
    /// Another socket is bound there.
    InUse,
    /// Anything else.
    Failed,
}
