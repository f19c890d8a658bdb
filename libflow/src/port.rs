//! The data socket of a flow: a Unix `SOCK_SEQPACKET` socket that carries records (see [`proto::record`]).
//!
//! Programs use it through [`crate::Flow`]; IPC processes use it as it is. A descriptor must not be trusted further than
//! its token and uid: records are checked here, and a bad one ends the flow.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::libc;
use proto::record::{Item, Record, Welcome};
use proto::{Batch, Code, FlowId, Reason, Token};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

/// One end of a record socket. All calls with `try_` return at once, with `WouldBlock` where nothing can be done.
#[derive(Debug)]
pub struct RecordSocket(OwnedFd);

/// What one received record was.
#[derive(Debug)]
pub enum Received {
    /// SDUs; they are in the batch now.
    Data,
    /// A control item.
    Item(Item),
    /// The other side closed its end or died.
    End,
    /// The other side broke the rules of records; the flow is to be closed with this reason.
    Bad(Reason),
}

/// A flow that was joined: its socket, what the Welcome said, and the descriptor that came with it, if one did.
#[derive(Debug)]
pub struct Joined {
    /// Carries records, or only control items where a descriptor was handed over.
    pub socket: RecordSocket,
    /// The flow.
    pub welcome: Welcome,
    /// The UDP socket of a shim; only IPC processes get one.
    pub handed: Option<OwnedFd>,
}

/// The descriptors that came with a record, in their order.
pub type Handed = [Option<OwnedFd>; 2];

impl RecordSocket {
    /// What is asked for as `SO_SNDBUF`: about 16 full records (the default holds 3).
    pub const SEND_BUFFER: usize = 1 << 20;

    /// Connects to the data socket at `path`. A listener whose queue is full is an error, not a wait.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = Self::new()?;
        rustix::net::connect(&socket.0, &address(path)?)?;
        Ok(socket)
    }

    /// Two ends that are connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::from_fd(a), Self::from_fd(b)))
    }

    /// Takes a connected `SOCK_SEQPACKET` socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        // Beyond the system's limit only for who may; otherwise as much as allowed. The default works too, but slower.
        if sockopt::set_socket_send_buffer_size_force(&fd, Self::SEND_BUFFER).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&fd, Self::SEND_BUFFER);
            // The kernel says twice what was set.
            let got = sockopt::socket_send_buffer_size(&fd).map_or(0, |twice| twice / 2);
            if (LAST_WORD + 1..Self::SEND_BUFFER + LAST_WORD).contains(&got) {
                let _ = sockopt::set_socket_send_buffer_size(&fd, got - LAST_WORD);
            }
        }
        Self(fd)
    }

    /// Joins the flow that `token` stands for at the data socket `path`, waiting for the Welcome until `deadline`. A descriptor
    /// comes only to who may be `handed` one.
    pub async fn join(
        path: &Path,
        token: &Token,
        handed: bool,
        deadline: tokio::time::Instant,
    ) -> Result<Joined, Reason> {
        let failed = |what: &str, why: &dyn std::fmt::Display| {
            Reason::new(
                Code::Unreachable,
                format!("can't join the flow at {}: {what}: {why}", path.display()),
            )
        };
        let socket = Self::new().map_err(|e| failed("making a socket", &e))?;
        if !handed {
            refuse_descriptors(&socket);
        }
        connect_until(&socket, path, deadline)
            .await
            .map_err(|e| failed("connecting", &e))?;
        socket
            .try_send_item(&Item::Join(token.clone()), None)
            .map_err(|e| failed("sending the token", &e))?;
        let socket = crate::watch(socket, tokio::io::Interest::READABLE)
            .map_err(|e| failed("waiting for the Welcome", &e))?;
        let first = async {
            loop {
                let mut guard = socket.readable().await?;
                match socket.get_ref().try_recv_first() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                    other => return other,
                }
            }
        };
        let first = tokio::time::timeout_at(deadline, first).await;
        let (item, handed) = first
            .map_err(|_| {
                Reason::new(
                    Code::TimedOut,
                    format!("no Welcome came from {} in time", path.display()),
                )
            })?
            .map_err(|e| failed("waiting for the Welcome", &e))?;
        match item {
            Item::Welcome(welcome) => Ok(Joined {
                socket: socket.into_inner(),
                welcome,
                handed,
            }),
            Item::Down(reason) => Err(reason),
            Item::Join(_)
            | Item::Mtu(_)
            | Item::Shut
            | Item::Device(_)
            | Item::Pair(_)
            | Item::Frame(_)
            | Item::Moved(_)
            | Item::Talk(_) => Err(Reason::new(
                Code::PeerMisbehaved,
                format!(
                    "{} answered with something else than a Welcome",
                    path.display()
                ),
            )),
        }
    }

    /// Sends a record of SDUs.
    pub fn try_send(&self, batch: &Batch) -> io::Result<()> {
        self.send_bytes(batch.bytes(), SendFlags::DONTWAIT)
    }

    /// Sends one SDU as a record of its own; `sdu` has 1..=[`Batch::MAX_PACKET`] bytes.
    pub fn try_send_sdu(&self, sdu: &[u8]) -> io::Result<()> {
        self.send_sdu(sdu, SendFlags::DONTWAIT)
    }

    /// Sends a control item, and a descriptor with it if there is one.
    pub fn try_send_item(&self, item: &Item, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.try_send_item_with(item, fd.as_slice())
    }

    /// The same, with up to two descriptors.
    pub fn try_send_item_with(&self, item: &Item, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = item.encode();
        if fds.is_empty() {
            return self.send_bytes(&bytes, SendFlags::DONTWAIT);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Says why this end closes, and that nothing more comes: also where no other record has room, lest a good close look like a
    /// death.
    pub fn say_last(&self, reason: Reason) {
        let item = Item::Down(reason);
        let full = |e: io::Error| e.kind() == io::ErrorKind::WouldBlock;
        if self.try_send_item(&item, None).is_err_and(full) {
            let more = Self::SEND_BUFFER + LAST_WORD;
            if sockopt::set_socket_send_buffer_size_force(&self.0, more).is_err() {
                let _ = sockopt::set_socket_send_buffer_size(&self.0, more);
            }
            // The end of the file says the rest.
            let _ = self.try_send_item(&item, None);
        }
    }

    /// Receives one record into `batch`. Descriptors that somebody sends along are closed by the kernel, while this waits.
    pub fn try_recv(&self, batch: &mut Batch) -> io::Result<Received> {
        self.recv(batch, RecvFlags::DONTWAIT)
    }

    /// The same, and the first two descriptors that came with the record, as far as some did.
    pub fn try_recv_with(&self, batch: &mut Batch) -> io::Result<(Received, Handed)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
        let got = retry(|| {
            let mut parts = [IoSliceMut::new(batch.space())];
            rustix::net::recvmsg(&self.0, &mut parts, &mut control, flags)
        })?;
        let handed = descriptors(&mut control);
        Ok((received(batch, got.bytes), handed))
    }

    /// Receives the first record, which must be a control item, and the descriptor that came with it.
    pub fn try_recv_first(&self) -> io::Result<(Item, Option<OwnedFd>)> {
        let mut bytes = [0; FIRST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = retry(|| {
            rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags,
            )
        })?;
        if got.bytes == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the other side closed the socket",
            ));
        }
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        if got.flags.contains(rustix::net::ReturnFlags::TRUNC) {
            return Err(bad("the first record is too long"));
        }
        let [handed, _] = descriptors(&mut control);
        match Record::parse(&bytes[..got.bytes]) {
            Ok(Record::Control(item)) => Ok((item, handed)),
            Ok(Record::Data) => Err(bad("the first record holds SDUs")),
            Err(e) => Err(bad(&e.to_string())),
        }
    }

    /// From now on descriptors may come: on the sockets of a [`Door`] none do.
    pub fn take_descriptors(&self) {
        // Where the kernel can't, they always may.
        let _ = nix::sys::socket::setsockopt(&self.0, Rights, &true);
    }

    /// The uid of the process at the other end, as the kernel knows it.
    pub fn peer_uid(&self) -> io::Result<u32> {
        // Not by rustix, whose Pid can't be 0: the kernel says 0 for a process of another pid namespace.
        Ok(
            nix::sys::socket::getsockopt(&self.0, nix::sys::socket::sockopt::PeerCredentials)?
                .uid(),
        )
    }

    /// Why the other side closed, if its last word is the next record; takes nothing off the queue.
    pub(crate) fn peek_down(&self) -> Option<Reason> {
        let mut bytes = [0; FIRST];
        let (_, len) = retry(|| {
            rustix::net::recv(
                &self.0,
                &mut bytes[..],
                RecvFlags::PEEK | RecvFlags::DONTWAIT,
            )
        })
        .ok()?;
        match Record::parse(bytes.get(..len)?) {
            Ok(Record::Control(Item::Down(reason))) => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn recv(&self, batch: &mut Batch, flags: RecvFlags) -> io::Result<Received> {
        // TRUNC: the kernel tells a record's true length, so that a cut one shows.
        let (_, len) =
            retry(|| rustix::net::recv(&self.0, batch.space(), flags | RecvFlags::TRUNC))?;
        Ok(received(batch, len))
    }

    pub(crate) fn send(&self, batch: &Batch) -> io::Result<()> {
        self.send_bytes(batch.bytes(), SendFlags::empty())
    }

    pub(crate) fn send_sdu(&self, sdu: &[u8], flags: SendFlags) -> io::Result<()> {
        // One copy of what is small is cheaper than two parts that the kernel has to gather.
        if sdu.len() <= GATHERED
            && let Some(batch) = Batch::of(sdu)
        {
            return self.send_bytes(batch.bytes(), flags);
        }
        // The callers have checked the size against MAX_PACKET, which is below u16::MAX.
        let head = (sdu.len() as u16).to_be_bytes();
        let parts = [IoSlice::new(&head), IoSlice::new(sdu)];
        let flags = flags | SendFlags::NOSIGNAL;
        unbroken(|| {
            rustix::net::sendmsg(&self.0, &parts, &mut SendAncillaryBuffer::default(), flags)
        })?;
        Ok(())
    }

    fn send_bytes(&self, bytes: &[u8], flags: SendFlags) -> io::Result<()> {
        unbroken(|| rustix::net::send(&self.0, bytes, flags | SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits until the socket is readable or writable; `false` at the deadline.
    pub(crate) fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut [PollFd::new(&self.0, flags)], Some(&left)) {
                Err(Errno::INTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }

    /// Ends both directions, also for who holds a copy of the descriptor.
    pub(crate) fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    fn new() -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self::from_fd(fd))
    }
}

impl AsFd for RecordSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for RecordSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The first two descriptors that came with a record; others are closed.
fn descriptors(control: &mut RecvAncillaryBuffer<'_>) -> Handed {
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return [fds.next(), fds.next()];
        }
    }
    [None, None]
}

/// What the record is whose bytes lie in the batch, and which has so many.
fn received(batch: &mut Batch, len: usize) -> Received {
    if len == 0 {
        return Received::End;
    }
    let bad = |why: &dyn std::fmt::Display| {
        Received::Bad(Reason::new(
            Code::PeerMisbehaved,
            format!("bad record: {why}"),
        ))
    };
    if len > Batch::CAPACITY {
        return bad(&format_args!(
            "it has {len} bytes; at most {} are allowed",
            Batch::CAPACITY
        ));
    }
    if let Err(why) = batch.set_record(len) {
        let control = batch.space();
        return match Record::parse(&control[..len]) {
            Ok(Record::Control(item)) => Received::Item(item),
            Ok(Record::Data) => bad(&why),
            Err(why) => bad(&why),
        };
    }
    Received::Data
}

/// Has the kernel refuse descriptors that somebody sends to this Unix socket, or to those that it will accept: whoever sends one
/// chooses how long it takes to close it, and it is closed by who receives, also if nobody asked for it. `false`: it can't, before
/// Linux 6.16.
pub fn refuse_descriptors(socket: &impl AsFd) -> bool {
    nix::sys::socket::setsockopt(socket, Rights, &false).is_ok()
}

/// `SO_PASSRIGHTS`; irmd has it too, for its own sockets.
#[derive(Debug, Clone, Copy)]
struct Rights;
nix::setsockopt_impl!(
    Rights,
    libc::SOL_SOCKET,
    RIGHTS,
    bool,
    nix::sys::socket::sockopt::SetBool
);
/// Everywhere but on SPARC and PA-RISC, which have no option of this number.
const RIGHTS: libc::c_int = 83;

/// A listening data socket; its file goes away with it. Nobody sends descriptors to those whom it lets in.
#[derive(Debug)]
pub struct Door {
    fd: OwnedFd,
    path: PathBuf,
}

impl Door {
    /// Listens at `path`, which everybody may connect to: the token and the uid decide. What lies there is replaced if
    /// `replace`, else an error.
    pub fn open(path: &Path, replace: bool) -> io::Result<Self> {
        if replace {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        refuse_descriptors(&fd);
        rustix::net::bind(&fd, &address(path)?)?;
        let door = Self {
            fd,
            path: path.to_owned(),
        };
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        rustix::net::listen(&door.fd, BACKLOG)?;
        Ok(door)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next process that connected, and its uid.
    pub fn try_accept(&self) -> io::Result<(RecordSocket, u32)> {
        let fd = retry(|| rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC))?;
        let socket = RecordSocket::from_fd(fd);
        let uid = socket.peer_uid()?;
        Ok((socket, uid))
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The key that opens one flow, once: a token and the uid of the process that may show it.
#[derive(Debug)]
pub struct Key {
    /// The flow.
    pub flow: FlowId,
    /// The secret.
    pub token: Token,
    /// Who may show it.
    pub uid: u32,
}

impl Key {
    /// Whether `token`, shown by a process of `uid`, fits. Takes as long for a nearly right token as for a wrong one.
    pub fn fits(&self, token: &Token, uid: u32) -> bool {
        let differs = self
            .token
            .0
            .iter()
            .zip(token.0)
            .fold(0, |d, (a, b)| std::hint::black_box(d | (a ^ b)));
        // The overflow uid stands for whoever has no uid in this user namespace, so it owns nothing.
        differs == 0 && uid == self.uid && uid != OVERFLOW_UID
    }
}

/// What a process hears that showed a token which opens nothing.
pub fn no_such_token() -> Reason {
    Reason::new(
        Code::Denied,
        "the token opens no flow for this user; it works once, for 10 s; allocate again",
    )
}

/// Why a flow ends in which the other side says what is said at its beginning only, or to the other side of a flow.
pub fn misplaced() -> Reason {
    Reason::new(
        Code::PeerMisbehaved,
        "an item came in the midst of the flow that has no place there",
    )
}

/// Why a flow is down whose other side closed its socket without a last word.
pub fn died() -> Reason {
    Reason::new(
        Code::Unreachable,
        "the other side of the flow ended without a word; allocate a new one",
    )
}

async fn connect_until(
    socket: &RecordSocket,
    path: &Path,
    deadline: tokio::time::Instant,
) -> io::Result<()> {
    let address = address(path)?;
    // A Unix connect waits only while the listener's queue is full; it is asked again rather than blocking the thread.
    rustix::io::ioctl_fionbio(&socket.0, true)?;
    loop {
        match rustix::net::connect(&socket.0, &address) {
            Err(Errno::AGAIN) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(CONNECT_AGAIN).await
            }
            Err(Errno::INTR) => {}
            other => {
                other?;
                break;
            }
        }
    }
    // Blocking again, since the blocking face reads and writes it as it is; `try_` calls say DONTWAIT each.
    rustix::io::ioctl_fionbio(&socket.0, false)?;
    Ok(())
}

fn address(path: &Path) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|e| match e {
        Errno::NAMETOOLONG | Errno::INVAL => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the path {} is too long for a socket (107 bytes); use a shorter run directory",
                path.display()
            ),
        ),
        e => e.into(),
    })
}

/// Repeats a receiving call after a signal, and after the reset that a Unix peer leaves when it closes with records
/// unread: what it had sent before is still in the queue behind that error.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    let mut reset = false;
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) if !reset => reset = true,
            other => return Ok(other?),
        }
    }
}

/// A call that no signal ends.
fn unbroken<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// What is left of the system's limit for a socket's last word, half of what the kernel counts: a record that was begun with room
/// left takes more than its bytes.
const LAST_WORD: usize = 1 << 16;
/// SDUs of more bytes are sent from where they lie.
const GATHERED: usize = 2048;
/// The most bytes of a first record: a Welcome with three names of 255 bytes, a Down with its text.
const FIRST: usize = 2048;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
const CONNECT_AGAIN: std::time::Duration = std::time::Duration::from_millis(2);
/// `/proc/sys/kernel/overflowuid`, which nobody changes.
const OVERFLOW_UID: u32 = 65_534;

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Framing;

    fn raw(socket: &RecordSocket, bytes: &[u8]) {
        rustix::net::send(&socket.0, bytes, SendFlags::empty()).unwrap();
    }

    #[test]
    fn sdus_cross_as_they_were_batched() {
        let (a, b) = RecordSocket::pair().unwrap();
        let mut batch = Batch::new(Framing::Record);
        batch.push(3).unwrap().copy_from_slice(b"one");
        batch.push(5).unwrap().copy_from_slice(b"three");
        a.try_send(&batch).unwrap();
        a.try_send_sdu(b"alone").unwrap();
        let mut got = Batch::new(Framing::Record);
        assert!(matches!(b.try_recv(&mut got), Ok(Received::Data)));
        assert_eq!(got.iter().collect::<Vec<_>>(), [&b"one"[..], b"three"]);
        assert!(matches!(b.try_recv(&mut got), Ok(Received::Data)));
        assert_eq!(got.iter().collect::<Vec<_>>(), [b"alone"]);
        assert_eq!(
            b.try_recv(&mut got).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn records_that_lie_are_named_and_not_taken() {
        let (a, b) = RecordSocket::pair().unwrap();
        let mut got = Batch::new(Framing::Record);
        let long = vec![1; Batch::CAPACITY + 1];
        for bytes in [
            &[0, 9, 1][..],
            &[0],
            &[0, 0],
            &[0, 1, 7, 0xff, 0xff],
            &[0xff, 0xff, 99],
            &long,
        ] {
            raw(&a, bytes);
            let received = b.try_recv(&mut got).unwrap();
            assert!(
                matches!(&received, Received::Bad(r) if r.code == Code::PeerMisbehaved),
                "{received:?}"
            );
            assert!(got.is_empty());
        }
    }

    #[test]
    fn the_last_word_is_heard_though_records_were_left_unread() {
        let (a, b) = RecordSocket::pair().unwrap();
        b.try_send_sdu(b"never read").unwrap();
        a.try_send_sdu(b"data").unwrap();
        a.try_send_item(&Item::Down(Reason::new(Code::Closed, "enough")), None)
            .unwrap();
        drop(a);
        let mut got = Batch::new(Framing::Record);
        assert!(matches!(b.try_recv(&mut got), Ok(Received::Data)));
        assert_eq!(b.peek_down().unwrap().text, "enough");
        assert!(
            matches!(b.try_recv(&mut got), Ok(Received::Item(Item::Down(r))) if r.text == "enough")
        );
        assert!(matches!(b.try_recv(&mut got), Ok(Received::End)));
    }

    #[test]
    fn the_last_word_is_heard_though_nothing_else_had_room() {
        for size in [1, 1400, Batch::MAX_PACKET] {
            let (a, b) = RecordSocket::pair().unwrap();
            let sdu = vec![7; size];
            let mut sent = 0;
            while a.try_send_sdu(&sdu).is_ok() {
                sent += 1;
            }
            a.say_last(Reason::new(Code::Closed, "enough".repeat(100)));
            drop(a);
            let mut got = Batch::new(Framing::Record);
            for _ in 0..sent {
                assert!(matches!(b.try_recv(&mut got), Ok(Received::Data)));
            }
            let last = b.try_recv(&mut got).unwrap();
            assert!(
                matches!(&last, Received::Item(Item::Down(r)) if r.code == Code::Closed),
                "{size}: {last:?}"
            );
        }
    }

    #[test]
    fn a_descriptor_travels_with_the_welcome_only() {
        let (a, b) = RecordSocket::pair().unwrap();
        let (_, gift) = RecordSocket::pair().unwrap();
        let down = Item::Down(Reason::new(Code::Closed, "x"));
        a.try_send_item(&down, Some(gift.as_fd())).unwrap();
        let (item, fd) = b.try_recv_first().unwrap();
        assert_eq!(item, down);
        assert!(fd.is_some());
        a.try_send_item(&down, Some(gift.as_fd())).unwrap();
        let mut got = Batch::new(Framing::Record);
        assert!(matches!(b.try_recv(&mut got), Ok(Received::Item(_))));
    }

    /// Says so, if this kernel can't do it yet.
    fn passed_over() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().unwrap().parse::<u32>().unwrap();
        assert!((number(), number()) < (6, 16), "Linux {release} can");
        eprintln!("passed over: this kernel is older than Linux 6.16");
    }

    #[test]
    fn nobody_sends_a_descriptor_to_a_door_and_who_asks_for_them_gets_them() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(&dir.path().join("door"), false).unwrap();
        if !refuse_descriptors(&RecordSocket::pair().unwrap().0) {
            return passed_over();
        }
        let client = RecordSocket::connect(door.path()).unwrap();
        let gift = std::fs::File::open("/dev/null").unwrap();
        let shut = || client.try_send_item(&Item::Shut, Some(gift.as_fd()));
        let denied =
            |got: io::Result<()>| got.unwrap_err().kind() == io::ErrorKind::PermissionDenied;
        assert!(denied(shut()));
        let (server, _) = door.try_accept().unwrap();
        assert!(denied(shut()));
        server.take_descriptors();
        shut().unwrap();
        let (item, fd) = server.try_recv_first().unwrap();
        assert!(item == Item::Shut && fd.is_some());
        // The other way nothing has changed.
        server
            .try_send_item(&item, fd.as_ref().map(AsFd::as_fd))
            .unwrap();
    }

    #[tokio::test]
    async fn nobody_sends_a_descriptor_to_a_program_that_joins_a_flow() {
        if !refuse_descriptors(&RecordSocket::pair().unwrap().0) {
            return passed_over();
        }
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(&dir.path().join("door"), false).unwrap();
        let gift = std::fs::File::open("/dev/null").unwrap();
        let welcome = Item::Welcome(Welcome {
            flow: FlowId(1),
            mtu: 1400,
            qos: proto::QosSpec::RAW,
            peer: proto::record::Peer::default(),
            devices: false,
        });
        for handed in [false, true] {
            let accept = async {
                let socket = loop {
                    match door.try_accept() {
                        Ok((socket, _)) => break socket,
                        Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
                    }
                    tokio::task::yield_now().await;
                };
                let sent = socket.try_send_item(&welcome, Some(gift.as_fd()));
                if sent.is_err() {
                    socket.try_send_item(&welcome, None).unwrap();
                }
                (socket, sent.err().map(|e| e.kind()))
            };
            let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
            let token = Token([7; 16]);
            let join = RecordSocket::join(door.path(), &token, handed, soon);
            let ((_socket, refused), joined) = tokio::join!(accept, join);
            let denied = (!handed).then_some(io::ErrorKind::PermissionDenied);
            assert_eq!(refused, denied);
            assert_eq!(joined.unwrap().handed.is_some(), handed);
        }
    }

    #[test]
    fn a_key_fits_one_token_and_one_user() {
        let key = Key {
            flow: FlowId(1),
            token: Token([7; 16]),
            uid: 1000,
        };
        assert!(key.fits(&Token([7; 16]), 1000));
        assert!(!key.fits(&Token([7; 16]), 1001));
        let mut near = [7; 16];
        near[15] = 8;
        assert!(!key.fits(&Token(near), 1000));
        let nobody = Key {
            uid: OVERFLOW_UID,
            ..key
        };
        assert!(!nobody.fits(&Token([7; 16]), OVERFLOW_UID));
    }

    #[test]
    fn the_kernel_tells_who_connected() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(&dir.path().join("door"), false).unwrap();
        let _client = RecordSocket::connect(door.path()).unwrap();
        let (_, uid) = door.try_accept().unwrap();
        assert_eq!(uid, rustix::process::getuid().as_raw());
        let path = door.path().to_owned();
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_said_to_be_so() {
        let path = PathBuf::from("/tmp").join("x".repeat(120));
        assert!(
            RecordSocket::connect(&path)
                .unwrap_err()
                .to_string()
                .contains("shorter run directory")
        );
    }
}
