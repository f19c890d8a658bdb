//! The device that packets of a host come from and go to, as a data path meets it. It must not make devices, or know where a packet goes.
//!
//! Anything that gives whole frames will do: a TUN, or a socket.

mod tun;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use ip::offload::{BadFrame, Segments, Vnet};
use proto::Batch;

pub use self::tun::{Offloads, Tun};

/// Packets in and out of the host. Calls return at once; `WouldBlock` says that nothing is there.
///
/// Segmentation and joining live behind this face: what is read may be the many packets of one super-packet, all of one flow, and
/// a write may join what goes together.
pub trait TunPort: AsFd + AsRawFd {
    /// Reads one frame. The inner error says that it was none that can be used.
    fn read(&mut self) -> io::Result<Result<Segments<'_>, BadFrame>>;

    /// Gives those packets of a batch to the host that are allowed, each flow's in order. One that the host refuses is left out.
    fn write(&mut self, batch: &Batch, allowed: impl FnMut(&[u8]) -> bool) -> Written;

    /// Gives one packet to the host.
    fn write_one(&mut self, packet: &[u8]) -> Written;

    /// What is done with super-packets now, if this is a TUN device.
    fn offloads(&self) -> Option<Offloads> {
        None
    }

    /// What was done with super-packets so far.
    fn tally(&self) -> Tally {
        Tally::default()
    }
}

/// What was done with super-packets at a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Super-packets that were read, and cut.
    pub cut: u64,
    /// Super-packets that were made and written.
    pub joined: u64,
    /// Those that the kernel refused though it took their packets one by one; at the first of a kind, that offload ends.
    pub refused: u64,
    /// Frames that were read and can't be used: cut in an unknown way, or with a header that contradicts the packet.
    pub bad: u64,
}

impl Tally {
    /// Each by its name, as status and metrics show it.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        [
            ("tun.cut_frames", self.cut),
            ("tun.joined_frames", self.joined),
            ("tun.refused_frames", self.refused),
            ("tun.bad_frames", self.bad),
        ]
    }

    /// What came since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cut: self.cut - before.cut,
            joined: self.joined - before.joined,
            refused: self.refused - before.refused,
            bad: self.bad - before.bad,
        }
    }
}

/// What became of packets that were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Packets that the host took.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that it refused, as a device does that is down.
    pub refused: usize,
}

/// A descriptor that gives and takes one whole packet a call, such as one end of a `SOCK_SEQPACKET` pair. Must be
/// non-blocking.
#[derive(Debug)]
pub struct FrameFd<F> {
    fd: F,
    frame: Vec<u8>,
}

impl<F: AsFd> FrameFd<F> {
    /// Takes the descriptor.
    pub fn new(fd: F) -> Self {
        Self {
            fd,
            frame: vec![0; LONGEST],
        }
    }
}

impl<F: AsFd> AsFd for FrameFd<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> AsRawFd for FrameFd<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

impl<F: AsFd> TunPort for FrameFd<F> {
    fn read(&mut self) -> io::Result<Result<Segments<'_>, BadFrame>> {
        match retry(|| Ok(rustix::io::read(&self.fd, &mut self.frame[..])?))? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => Ok(Segments::new(&Vnet::default(), &self.frame[..len])),
        }
    }

    fn write(&mut self, batch: &Batch, mut allowed: impl FnMut(&[u8]) -> bool) -> Written {
        let mut written = Written::default();
        for packet in batch.iter().filter(|packet| allowed(packet)) {
            written.add(self.write_one(packet));
        }
        written
    }

    fn write_one(&mut self, packet: &[u8]) -> Written {
        let wrote = retry(|| Ok(rustix::io::write(&self.fd, packet)?));
        Written::of(wrote.is_ok(), 1, packet.len())
    }
}

impl Written {
    /// So many packets of so many bytes were taken or refused.
    fn of(taken: bool, packets: usize, bytes: usize) -> Self {
        match taken {
            true => Self {
                packets: packets as u64,
                bytes: bytes as u64,
                refused: 0,
            },
            false => Self {
                refused: packets,
                ..Self::default()
            },
        }
    }

    /// And what became of others.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.refused += other.refused;
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The most bytes of an IP packet.
const LONGEST: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Framing;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    #[test]
    fn any_frame_descriptor_serves() {
        let flags = SocketFlags::NONBLOCK;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let (mut port, mut other) = (FrameFd::new(a), FrameFd::new(b));
        let mut batch = Batch::new(Framing::Record);
        for packet in [&b"one"[..], b"no", b"second"] {
            batch.push(packet.len()).unwrap().copy_from_slice(packet);
        }
        let sent = Written {
            packets: 2,
            bytes: 9,
            refused: 0,
        };
        assert_eq!(other.write(&batch, |packet| packet != b"no"), sent);
        let mut read = || Ok::<_, io::Error>(port.read()?.unwrap().packet().to_vec());
        assert_eq!(
            (read().unwrap(), read().unwrap()),
            (b"one".to_vec(), b"second".to_vec())
        );
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(other);
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(port.write_one(b"x").refused, 1);
    }
}
