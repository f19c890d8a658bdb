//! What the pump needs of a flow, and the flow that has it: the record socket as it was joined. A pump waits on all its
//! flows at once, so it has no use for one that waits by itself.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use frames::TunPort;
use libflow::port::{Joined, Received, RecordSocket, misplaced};
use proto::record::{Device, Item, Moved, Pair, Talk};
use proto::{Batch, Code, FlowId, Reason};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::class::Class;

/// A flow that the pump reads and writes without waiting; its descriptor says when there is something to do.
pub trait FlowPort: AsFd {
    /// Takes one record. An error says that the flow is down.
    fn try_read(&mut self, into: &mut Batch) -> Result<Heard, Reason>;

    /// Sends a record.
    fn try_write(&mut self, record: &Batch) -> Sent;

    /// Hands a device over to the IPC process behind the flow, or has it forget the pairs of this flow if it has it already, or says
    /// that its frames are written here. Where it can't be told what it should forget, [`FlowPort::owes`] says so, until it was told.
    fn hand(&mut self, device: &Handle, now: Instant);

    /// Since when pairs of this flow stand that should be forgotten. No other is said as long.
    fn owes(&self) -> Option<Instant>;

    /// Whether a device was handed over.
    fn is_handed(&self) -> bool;

    /// Packets between this host's address and the other's go between device and flow by themselves from now on.
    fn pair(&mut self, own: IpAddr, other: IpAddr);

    /// Packets of one way of a conversation go by themselves from now on, where the IPC process can tell them.
    fn talk(&mut self, talk: Talk);

    /// The largest SDU in bytes, as far as is known now.
    fn mtu(&self) -> u32;

    /// Its id on this host.
    fn id(&self) -> FlowId;

    /// What it is good for.
    fn class(&self) -> Class;
}

/// What a record was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// SDUs; they are in the batch now.
    Sdus,
    /// A packet of the device, of which no pair speaks.
    Frame(Vec<u8>),
    /// So much more has moved by itself.
    Moved(Moved),
    /// Some of this has.
    Talk(Talk),
    /// The flow is down, for this reason of the other side's or of a process between.
    Down(Reason),
    /// None is there.
    Nothing,
}

/// A device as it is handed over.
#[derive(Debug)]
pub struct Handle {
    /// None: it is kept.
    fd: Option<OwnedFd>,
    /// Packets go by the flow of their class.
    classes: bool,
    said: Device,
}

/// What became of a record that was to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it.
    Yes,
    /// The kernel holds as much as it takes.
    Full,
    /// The flow is down.
    Down(Reason),
}

/// A joined flow.
#[derive(Debug)]
pub struct Lane {
    socket: RecordSocket,
    id: FlowId,
    class: Class,
    mtu: u32,
    handed: bool,
    /// Packets of its class have it.
    carries: bool,
    /// What was said of the device holds as long as this is open.
    line: Option<OwnedFd>,
    owes: Option<Instant>,
    moved: Moved,
    /// The IPC process takes devices.
    takes: bool,
    /// It can tell conversations.
    tells: bool,
}

impl Handle {
    /// A handle of a device, if it is one that can be handed over.
    pub fn of(device: &impl TunPort) -> Option<Self> {
        let offloads = device.offloads()?;
        let fd = device.as_fd().try_clone_to_owned().ok()?;
        let said = Device {
            id: drawn(),
            tcp: offloads.tcp,
            udp: offloads.udp,
            frames: false,
            code_points: 0,
        };
        Some(Self {
            fd: Some(fd),
            classes: false,
            said,
        })
    }

    /// That of a device whose frames are written to flows by whoever has it.
    pub fn of_frames() -> Self {
        let said = Device {
            id: drawn(),
            tcp: false,
            udp: false,
            frames: true,
            code_points: 0,
        };
        Self {
            fd: None,
            classes: false,
            said,
        }
    }

    /// Packets go by the flow of their class, or all by the plain one. Gives whether that is new.
    pub fn set_classes(&mut self, classes: bool) -> bool {
        !self.said.frames && std::mem::replace(&mut self.classes, classes) != classes
    }

    /// What is said of it on a flow of this class: none of its packets, where all go by the plain one.
    fn said_of(&self, class: Class) -> Device {
        let code_points = match (self.classes, class) {
            (true, class) => class.code_points(),
            (false, Class::Plain) => u64::MAX,
            (false, Class::Video | Class::Voice) => 0,
        };
        Device {
            code_points,
            ..self.said
        }
    }
}

impl From<Joined> for Lane {
    fn from(joined: Joined) -> Self {
        Self {
            socket: joined.socket,
            id: joined.welcome.flow,
            class: Class::of_qos(&joined.welcome.qos),
            mtu: usable(joined.welcome.mtu),
            handed: false,
            carries: false,
            line: None,
            owes: None,
            moved: Moved::default(),
            takes: joined.welcome.devices,
            tells: false,
        }
    }
}

impl Lane {
    /// Whether what may go by itself can be said now.
    fn may_say(&self) -> bool {
        self.handed && self.carries && self.owes.is_none()
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FlowPort for Lane {
    fn try_read(&mut self, into: &mut Batch) -> Result<Heard, Reason> {
        loop {
            match self.socket.try_recv(into) {
                Ok(Received::Data) => return Ok(Heard::Sdus),
                Ok(Received::Item(Item::Mtu(mtu))) => self.mtu = usable(mtu),
                Ok(Received::Item(Item::Down(reason))) => return Ok(Heard::Down(reason)),
                Ok(Received::Bad(reason)) => return Err(reason),
                Ok(Received::Item(Item::Frame(packet))) if packet.is_empty() => self.tells = true,
                Ok(Received::Item(Item::Frame(packet))) => return Ok(Heard::Frame(packet)),
                Ok(Received::Item(Item::Talk(talk))) => return Ok(Heard::Talk(talk)),
                Ok(Received::Item(Item::Moved(now))) => {
                    let before = std::mem::replace(&mut self.moved, now);
                    return Ok(Heard::Moved(Moved {
                        rx_packets: now.rx_packets.saturating_sub(before.rx_packets),
                        rx_bytes: now.rx_bytes.saturating_sub(before.rx_bytes),
                        tx_packets: now.tx_packets.saturating_sub(before.tx_packets),
                        tx_bytes: now.tx_bytes.saturating_sub(before.tx_bytes),
                    }));
                }
                Ok(Received::Item(
                    Item::Join(_) | Item::Welcome(_) | Item::Shut | Item::Device(_) | Item::Pair(_),
                )) => {
                    return Err(misplaced());
                }
                Ok(Received::End) => {
                    return Err(Reason::new(
                        Code::Unreachable,
                        "the flow ended without a word",
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                Err(e) => {
                    return Err(Reason::new(
                        Code::Failed,
                        format!("reading the flow's socket failed: {e}"),
                    ));
                }
            }
        }
    }

    fn try_write(&mut self, record: &Batch) -> Sent {
        match self.socket.try_send(record) {
            Ok(()) => Sent::Yes,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(e) => Sent::Down(Reason::new(
                Code::Unreachable,
                format!("the flow's socket takes nothing more: {e}"),
            )),
        }
    }

    fn hand(&mut self, device: &Handle, now: Instant) {
        if !self.takes {
            return;
        }
        let Some(fd) = &device.fd else {
            // Nothing hangs on it but where frames wait: they do in the socket until it has been said.
            let _ = (self.socket).try_send_item(&Item::Device(device.said_of(self.class)), None);
            return;
        };
        let said = device.said_of(self.class);
        self.carries = said.code_points != 0;
        if !self.carries && !self.handed {
            return;
        }
        // Heard at once, by who knows lines, however full the socket is.
        self.line = None;
        let item = Item::Device(said);
        // Without descriptors for another, what is taken back next is heard behind what lies in the socket.
        let (near, far) = line().unzip();
        let tun = fd.as_fd();
        let said = match &far {
            Some(far) => (self.socket).try_send_item_with(&item, &[tun, far.as_fd()]),
            None => self.socket.try_send_item(&item, Some(tun)),
        };
        if said.is_ok() {
            (self.handed, self.line) = (true, near);
        }
        // Whoever has no device has no pairs.
        let owes = self.handed && said.is_err();
        self.owes = owes.then(|| self.owes.unwrap_or(now));
    }

    fn owes(&self) -> Option<Instant> {
        self.owes
    }

    fn is_handed(&self) -> bool {
        self.handed
    }

    fn pair(&mut self, own: IpAddr, other: IpAddr) {
        if self.may_say()
            && let Some(pair) = Pair::new(own, other)
        {
            // If the queue is full, a later packet says it.
            let _ = self.socket.try_send_item(&Item::Pair(pair), None);
        }
    }

    fn talk(&mut self, talk: Talk) {
        if self.may_say() && self.tells {
            // If the queue is full, a later packet says it.
            let _ = self.socket.try_send_item(&Item::Talk(talk), None);
        }
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn id(&self) -> FlowId {
        self.id
    }

    fn class(&self) -> Class {
        self.class
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let reason = Reason::new(Code::Closed, "the VPN closed the flow");
        self.socket.say_last(reason);
    }
}

/// By the standard library, for its hash tables.
fn drawn() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Two ends of which each shows when the other is closed.
fn line() -> Option<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()
}

/// What a record can hold, if the flow can carry more.
fn usable(mtu: u32) -> u32 {
    mtu.min(Batch::MAX_PACKET as u32)
}
