//! The line of a flow: a socket that comes with its device, and whose other end the user keeps. What was said of the device holds as
//! long as that end is open. Closing it has always room, and waits behind nothing. It must not read or write: there is nothing to hear.

use std::io;
use std::os::fd::OwnedFd;

use frames::TunPort;
use proto::FlowId;
use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};

use super::Devices;
use crate::io::{Interest, Io, Key, Side, Watch};

/// What one flow has.
#[derive(Debug)]
pub(super) enum Line {
    /// The user gave none: what it takes back it says on the flow's socket.
    None,
    /// What is said of the device holds.
    Open(OwnedFd, Watch),
    /// Nothing does, until a Device comes that the user said after that.
    Cut,
}

impl<T: TunPort> Devices<T> {
    /// What is said of a flow's device from now on holds as long as the other end of this is open.
    pub(crate) fn tie(
        &mut self,
        io: &mut Io,
        flow: FlowId,
        line: Option<OwnedFd>,
    ) -> io::Result<()> {
        let line = match line {
            Some(line) => {
                check(&line)?;
                let watch = io.watch_on(Side::Upper, &line, Interest::READ)?;
                self.lines.insert(watch.key(), flow);
                Line::Open(line, watch)
            }
            None => Line::None,
        };
        self.untie(io, flow, line);
        Ok(())
    }

    /// Whether the descriptor is a flow's line.
    pub(crate) fn is_line(&self, key: Key) -> bool {
        self.lines.contains_key(&key)
    }

    /// Something happened to this descriptor: if it is a flow's line, all that was said of that flow is forgotten.
    pub(crate) fn cut(&mut self, io: &mut Io, key: Key) -> bool {
        let Some(flow) = self.lines.get(&key).copied() else {
            return false;
        };
        self.untie(io, flow, Line::Cut);
        if let Some(known) = self.known_of(flow) {
            known.forget(flow);
        }
        true
    }

    /// Whether what is said of a flow was taken back before it came.
    pub(super) fn is_cut(&self, flow: FlowId) -> bool {
        let line = self.flows.get(&flow).map(|bound| &bound.line);
        matches!(line, Some(Line::Cut))
    }

    /// Has a flow have this line instead of its own.
    pub(super) fn untie(&mut self, io: &mut Io, flow: FlowId, line: Line) {
        let Some(bound) = self.flows.get_mut(&flow) else {
            return;
        };
        if let Line::Open(fd, watch) = std::mem::replace(&mut bound.line, line) {
            self.lines.remove(&watch.key());
            // The user may hold a copy of it, so that closing ours would not end the waiting.
            io.forget(watch, &fd);
        }
    }
}

/// Any other descriptor could make this process wait.
fn check(line: &OwnedFd) -> io::Result<()> {
    match sockopt::socket_domain(line) {
        Ok(AddressFamily::UNIX) => Ok(()),
        Ok(_) | Err(Errno::NOTSOCK) => {
            let why = "what came with the device to take it back by is no Unix socket";
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use frames::FrameFd;
    use proto::Margin;
    use proto::record::{Pair, Talk};
    use rustix::net::{SocketFlags, SocketType};

    use super::*;
    use crate::devices::{Id, Look, Read};

    const FLOW: FlowId = FlowId(1);
    const ID: Id = (0, 7);
    const PAIR: Pair = Pair::V4([10, 7, 0, 1], [10, 7, 0, 2]);

    struct Bench {
        io: Io,
        devices: Devices<FrameFd<OwnedFd>>,
        host: OwnedFd,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let flags = SocketFlags::NONBLOCK;
            let kind = SocketType::SEQPACKET;
            let ends = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
            let (device, host) = ends.unwrap();
            let mut bench = Self {
                io: Io::new().unwrap(),
                devices: Devices::default(),
                host,
                now: Instant::now(),
            };
            bench.bind(|| Ok(Some(FrameFd::new(device))));
            bench
        }

        fn bind(&mut self, open: impl FnOnce() -> io::Result<Option<FrameFd<OwnedFd>>>) {
            let bound = (ID, u64::MAX);
            let flow = (FLOW, 1400);
            self.devices.bind(&mut self.io, flow, bound, open).unwrap();
        }

        /// The device is said again; the end of its line that the user keeps.
        fn again(&mut self) -> UnixStream {
            self.bind(|| panic!("it is known"));
            let (near, far) = UnixStream::pair().unwrap();
            let line = Some(far.into());
            self.devices.tie(&mut self.io, FLOW, line).unwrap();
            near
        }

        fn pair(&mut self) -> bool {
            self.devices.pair(&mut self.io, FLOW, PAIR, self.now)
        }

        /// Serves the lines of which the epoll speaks; how many.
        fn cut(&mut self) -> usize {
            let mut ready = Vec::new();
            let _ = self.io.reactor_end().unwrap().poll(&mut ready);
            let cut = |r: &&crate::io::Ready| self.devices.cut(&mut self.io, r.key);
            ready.iter().filter(cut).count()
        }

        /// Whether a packet of the host's goes by itself.
        fn goes(&mut self) -> bool {
            let mut packet = vec![0; 60];
            (packet[0], packet[3]) = (0x45, 60);
            packet[12..20].copy_from_slice(&[10, 7, 0, 1, 10, 7, 0, 2]);
            rustix::io::write(&self.host, &packet).unwrap();
            let (margin, room) = (|_| Margin::NONE, |_| None);
            let read = self
                .devices
                .read(&mut self.io, (ID, Look::Whole, self.now), margin, room);
            let read = read.unwrap();
            matches!(read, Read::Sdus(..))
        }
    }

    #[test]
    fn what_was_said_ends_with_its_line_and_what_comes_late_is_overlooked() {
        let mut bench = Bench::new();
        // Without a line it holds until the device is said again.
        assert!(bench.pair() && bench.goes());
        let first = bench.again();
        assert!(!bench.goes());
        assert!(bench.pair() && bench.goes());
        assert_eq!(bench.cut(), 0);
        drop(first);
        assert_eq!(bench.cut(), 1);
        assert!(!bench.goes());
        // It was on its way, and the user takes it back with the line.
        assert!(bench.pair() && !bench.goes());
        let talk = Talk {
            out: true,
            protocol: 17,
            ports: (0, 0),
            pair: PAIR,
        };
        assert!(bench.devices.talk(&mut bench.io, FLOW, talk, bench.now));
        assert_eq!(bench.devices.known_of(FLOW).unwrap().talks(), 0);
        let second = bench.again();
        assert!(bench.pair() && bench.goes());
        // One that another has replaced says nothing any more.
        let third = bench.again();
        assert!(bench.pair());
        drop(second);
        assert_eq!(bench.cut(), 0);
        assert!(bench.goes());
        drop(third);
        bench.devices.unbind(&mut bench.io, FLOW);
        assert_eq!((bench.cut(), bench.devices.lines.len()), (0, 0));
    }

    #[test]
    fn a_user_who_says_something_on_a_line_or_keeps_a_copy_of_it_wakes_nobody_again() {
        let mut bench = Bench::new();
        bench.bind(|| panic!("it is known"));
        let (near, far) = UnixStream::pair().unwrap();
        let copy = far.try_clone().unwrap();
        let line = Some(far.into());
        bench.devices.tie(&mut bench.io, FLOW, line).unwrap();
        assert!(bench.pair() && bench.goes());
        rustix::io::write(&near, b"!").unwrap();
        assert_eq!(bench.cut(), 1);
        assert!(!bench.goes());
        let mut ready = Vec::new();
        let end = bench.io.reactor_end().unwrap();
        assert!(end.poll(&mut ready).is_err(), "{ready:?}");
        drop(copy);
    }

    #[test]
    fn what_is_no_unix_socket_is_no_line() {
        let mut bench = Bench::new();
        let null = std::fs::File::open("/dev/null").unwrap();
        let pipe = rustix::pipe::pipe().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for fd in [null.as_fd(), pipe.0.as_fd(), udp.as_fd()] {
            let line = Some(fd.try_clone_to_owned().unwrap());
            let why = bench.devices.tie(&mut bench.io, FLOW, line).unwrap_err();
            assert!(why.to_string().contains("no Unix socket"), "{why}");
        }
        assert!(bench.devices.lines.is_empty());
    }
}
