//! The device that packets of this host come from and go to. Anything that gives whole frames will do: a TUN, or a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use proto::{Batch, Code, Reason};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Packets in batches, in and out of the host. Calls return at once; `WouldBlock` says that nothing is there.
///
/// Segmentation and coalescing live behind this face: a read may add the many segments of one super-packet, all with the
/// same destination, and a write may merge what goes together.
///
/// The descriptor stays open and the same as long as the value lives.
pub trait TunPort: AsRawFd {
    /// Adds the packets of one system call to a record that still has room for `max` bytes, of one packet at most so long.
    fn read(&mut self, into: &mut Batch, max: usize) -> io::Result<()>;

    /// Gives packets to the host, in order. One that it refuses is left out.
    fn write<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> Written;
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

/// A TUN device without packet information; it and its routes go away with this value, also when the process is killed.
pub struct Tun {
    device: tun::Device,
}

/// A descriptor that gives and takes one whole packet a call, such as one end of a `SOCK_SEQPACKET` pair. Must be
/// non-blocking.
#[derive(Debug)]
pub struct FrameFd<F>(pub F);

/// The name of a network device, as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName(String);

impl DeviceName {
    /// The most bytes of a name.
    pub const MAX: usize = 15;

    /// Checks a text.
    pub fn new(text: &str) -> Result<Self, Reason> {
        let good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
        if text.is_empty()
            || text.len() > Self::MAX
            || text == "."
            || text == ".."
            || !text.bytes().all(good)
        {
            let why = format!(
                "{text:?} is no device name; use 1 to 15 printable characters without '/', ':' and '%'"
            );
            return Err(Reason::new(Code::Usage, why));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tun {
    /// Makes the device; it is down and has no address. The caller has made sure that no device has this name.
    pub fn create(name: &DeviceName) -> Result<Self, Reason> {
        let mut config = tun::Configuration::default();
        config.tun_name(name.as_str());
        // What the device is given, it is given by netlink; not by this crate's older calls.
        config.platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let device = tun::create(&config).map_err(|e| refusal(name, &e.into()))?;
        device.set_nonblock().map_err(|e| refusal(name, &e))?;
        Ok(Self { device })
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl TunPort for Tun {
    fn read(&mut self, into: &mut Batch, max: usize) -> io::Result<()> {
        push(into, max, |room| self.device.recv(room))
    }

    fn write<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> Written {
        write_each(packets, |packet| self.device.send(packet))
    }
}

impl<F: AsFd> AsRawFd for FrameFd<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<F: AsFd> TunPort for FrameFd<F> {
    fn read(&mut self, into: &mut Batch, max: usize) -> io::Result<()> {
        push(into, max, |room| match rustix::io::read(&self.0, room)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => Ok(len),
        })
    }

    fn write<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> Written {
        write_each(packets, |packet| Ok(rustix::io::write(&self.0, packet)?))
    }
}

/// Registers a device to be waited on; must be called in a tokio runtime with IO.
pub(crate) fn watch<T: TunPort>(port: T) -> io::Result<AsyncFd<T>> {
    // libflow::watch wants AsFd, which crate tun doesn't offer; the trait's contract says the same.
    #[expect(
        deprecated,
        reason = "the successor needs unsafe, which the contract of TunPort makes needless"
    )]
    AsyncFd::with_interest(port, Interest::READABLE)
}

fn push(
    into: &mut Batch,
    max: usize,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    into.push_with(max, |room| retry(|| read(room)))
        .unwrap_or_else(|| {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the record has no room for {max} bytes"),
            ))
        })?;
    Ok(())
}

fn write_each<'a>(
    packets: impl Iterator<Item = &'a [u8]>,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> Written {
    let mut written = Written::default();
    for packet in packets {
        match retry(|| write(packet)) {
            Ok(_) => {
                written.packets += 1;
                written.bytes += packet.len() as u64;
            }
            Err(_) => written.refused += 1,
        }
    }
    written
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn refusal(name: &DeviceName, error: &io::Error) -> Reason {
    let name = name.as_str();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => Reason::new(
            Code::Failed,
            format!(
                "can't make the device {name}: /dev/net/tun is missing; load the kernel module tun (modprobe tun)"
            ),
        ),
        Some(Errno::PERM | Errno::ACCESS) => Reason::new(
            Code::Denied,
            format!(
                "can't make the device {name}: not permitted; start irmd as root or with CAP_NET_ADMIN"
            ),
        ),
        Some(Errno::BUSY | Errno::INVAL | Errno::EXIST) => Reason::new(
            Code::Conflict,
            format!("can't make the device {name}: the name is in use; choose another with --dev"),
        ),
        _ => Reason::new(
            Code::Failed,
            format!("can't make the device {name}: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Framing;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused_first() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "tun%d",
            "a:1",
            "sixteen-bytes-ab",
            "tün",
        ] {
            assert_eq!(
                DeviceName::new(bad).unwrap_err().code,
                Code::Usage,
                "{bad:?}"
            );
        }
        assert!(DeviceName::new("fifteen-bytes-a").is_ok());
    }

    #[test]
    fn any_frame_descriptor_serves() {
        let flags = SocketFlags::NONBLOCK;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let (mut port, mut other) = (FrameFd(a), FrameFd(b));
        let sent = other.write([&b"one"[..], b"second"].into_iter());
        assert_eq!(
            sent,
            Written {
                packets: 2,
                bytes: 9,
                refused: 0
            }
        );
        let mut batch = Batch::new(Framing::Record);
        port.read(&mut batch, 1500).unwrap();
        port.read(&mut batch, 1500).unwrap();
        assert_eq!(
            port.read(&mut batch, 1500).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&b"one"[..], b"second"]);
        drop(other);
        assert_eq!(
            port.read(&mut batch, 1500).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(port.write([&b"x"[..]].into_iter()).refused, 1);
    }

    #[test]
    fn a_full_record_is_said_to_be_full() {
        let (a, _b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let mut batch = Batch::new(Framing::Record);
        batch.push(60_000).unwrap();
        assert_eq!(
            FrameFd(a).read(&mut batch, 9000).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn refusals_say_what_to_do() {
        let name = DeviceName::new("vpn0").unwrap();
        let say = |e: Errno| refusal(&name, &e.into());
        assert!(say(Errno::NOENT).text.contains("modprobe tun"));
        assert_eq!(say(Errno::PERM).code, Code::Denied);
        assert_eq!(say(Errno::BUSY).code, Code::Conflict);
    }
}
