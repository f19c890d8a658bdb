//! A TUN device, with segmentation offload where the kernel has it.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ip::offload::{BadFrame, Frame, GsoKind, Joiner, Segments, Vnet};
use proto::Batch;
use rustix::io::Errno;

use super::{LONGEST, Tally, TunPort, Written, retry};

/// A TUN device without packet information; it and its routes go away with this value, also when the process is killed.
#[derive(Debug)]
pub struct Tun {
    port: Port,
    joiner: Joiner,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Port {
    fd: OwnedFd,
    offloads: Offloads,
    tally: Tally,
}

/// What is done with super-packets at a device, each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// TCP is given and taken so.
    pub tcp: bool,
    /// UDP is given and taken so.
    pub udp: bool,
}

impl Tun {
    /// Takes a device that was made with `IFF_VNET_HDR`, whose kernel has these offloads. The descriptor must not block.
    pub fn new(fd: OwnedFd, offloads: Offloads) -> Self {
        Self {
            port: Port {
                fd,
                offloads,
                tally: Tally::default(),
            },
            joiner: Joiner::new(offloads.tcp, offloads.udp),
            frame: vec![0; Vnet::LEN + LONGEST],
        }
    }

    /// The number of frames that may wait in the device: those of small packets that come in the milliseconds in which the reader is
    /// kept from running. Where a frame is one packet, more than 500 of them would make TCP wait (decision 5).
    pub fn queue(&self) -> u32 {
        if self.port.offloads.tcp { 2000 } else { 500 }
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.port.fd.as_raw_fd()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.fd.as_fd()
    }
}

impl TunPort for Tun {
    fn read(&mut self) -> io::Result<Result<Segments<'_>, BadFrame>> {
        let len = retry(|| Ok(rustix::io::read(&self.port.fd, &mut self.frame[..])?))?;
        let tally = &mut self.port.tally;
        let Some((head, packet)) = self.frame[..len].split_first_chunk() else {
            tally.bad += 1;
            return Ok(Err(BadFrame::Contradiction));
        };
        let frame = Vnet::parse(head).and_then(|vnet| {
            tally.cut += u64::from(vnet.gso.is_some());
            Segments::new(&vnet, packet)
        });
        tally.bad += u64::from(frame.is_err());
        Ok(frame)
    }

    fn write(&mut self, batch: &Batch, mut allowed: impl FnMut(&[u8]) -> bool) -> Written {
        let (mut written, bytes) = (Written::default(), batch.bytes());
        let port = &mut self.port;
        let mut give = |frame: &Frame<'_>| written.add(port.write_frame(bytes, frame));
        for place in batch.places() {
            if allowed(&bytes[place.clone()]) {
                self.joiner.push(bytes, place, &mut give);
            }
        }
        self.joiner.flush(&mut give);
        self.joiner.restrict(port.offloads.tcp, port.offloads.udp);
        written
    }

    fn write_one(&mut self, packet: &[u8]) -> Written {
        Written::of(self.port.write_whole(packet).is_ok(), 1, packet.len())
    }

    fn offloads(&self) -> Option<Offloads> {
        Some(self.port.offloads)
    }

    fn tally(&self) -> Tally {
        self.port.tally
    }
}

impl Port {
    fn write_whole(&self, packet: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(&[0; Vnet::LEN]), IoSlice::new(packet)];
        retry(|| Ok(rustix::io::writev(&self.fd, &parts)?)).map(drop)
    }

    fn write_frame(&mut self, batch: &[u8], frame: &Frame<'_>) -> Written {
        if let ([whole], []) = (frame.parts, frame.head) {
            let taken = self.write_whole(&batch[whole.clone()]).is_ok();
            return Written::of(taken, 1, frame.bytes);
        }
        let mut parts = [IoSlice::new(&[]); Joiner::PACKETS + 2];
        parts[0] = IoSlice::new(&frame.vnet);
        parts[1] = IoSlice::new(frame.head);
        for (to, part) in parts[2..].iter_mut().zip(frame.parts) {
            *to = IoSlice::new(&batch[part.clone()]);
        }
        let parts = &parts[..2 + frame.parts.len()];
        match retry(|| Ok(rustix::io::writev(&self.fd, parts)?)) {
            Ok(_) => {
                self.tally.joined += 1;
                Written::of(true, frame.packets, frame.bytes)
            }
            Err(error) => self.write_apart(&parts[1..], frame, &error),
        }
    }

    /// What the kernel doesn't take as one, it may take one by one; then the offload is at fault, and ends, unless it was memory that
    /// lacked for a moment.
    fn write_apart(
        &mut self,
        parts: &[IoSlice<'_>],
        frame: &Frame<'_>,
        error: &io::Error,
    ) -> Written {
        let packet: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let vnet = Vnet::parse(&frame.vnet).unwrap_or_default();
        let mut written = Written::default();
        if let Ok(mut segments) = Segments::new(&vnet, &packet) {
            for packet in segments.by_ref() {
                let taken = self.write_whole(&packet).is_ok();
                written.add(Written::of(taken, 1, packet.len()));
            }
        }
        if written.packets > 0 {
            self.tally.refused += 1;
            let error = Errno::from_io_error(error);
            if matches!(error, Some(Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN)) {
                return written;
            }
            match vnet.gso.map(|gso| gso.kind) {
                Some(GsoKind::Udp) => self.offloads.udp = false,
                Some(GsoKind::Tcp4 | GsoKind::Tcp6) | None => self.offloads.tcp = false,
            }
        }
        written
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.tcp, self.udp) {
            (true, true) => "tcp,udp",
            (true, false) => "tcp",
            (false, true) => "udp",
            (false, false) => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ip::sum::Sum;
    use proto::Framing;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

    use super::*;

    /// A socket that takes frames of packets and none that are larger than a buffer: a kernel without this offload. It waits where
    /// a device would not, so that no packet is lost for that.
    fn small() -> (OwnedFd, OwnedFd) {
        let (flags, unix) = (SocketFlags::empty(), AddressFamily::UNIX);
        let (a, b) = rustix::net::socketpair(unix, SocketType::SEQPACKET, flags, None).unwrap();
        sockopt::set_socket_send_buffer_size(&a, 4096).unwrap();
        (a, b)
    }

    /// So many packets of one flow of TCP or UDP.
    fn flow(tcp: bool, packets: u16) -> Vec<Vec<u8>> {
        let one = |n: u16| {
            let (number, head) = if tcp { (6, 20) } else { (17, 8) };
            let mut out = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, number, 0, 0];
            out.extend(Ipv4Addr::new(10, 7, 0, 1).octets());
            out.extend(Ipv4Addr::new(10, 7, 0, 2).octets());
            out.extend([0, 1, 0, 2]);
            out.resize(20 + head, 0);
            out.resize(20 + head + usize::from(SIZE), n as u8);
            let len = out.len() as u16;
            out[2..4].copy_from_slice(&len.to_be_bytes());
            out[4..6].copy_from_slice(&n.to_be_bytes());
            let sum = Sum::default().bytes(&out[..20]).checksum();
            out[10..12].copy_from_slice(&sum);
            if tcp {
                let seq = u32::from(n) * u32::from(SIZE);
                out[24..28].copy_from_slice(&seq.to_be_bytes());
                out[32..34].copy_from_slice(&[0x50, 0x10]);
            } else {
                out[24..26].copy_from_slice(&(len - 20).to_be_bytes());
            }
            let pseudo = Sum::default().bytes(&out[12..20]).field(number.into());
            let sum = pseudo.field(len - 20).bytes(&out[20..]).checksum();
            let at = if tcp { 36 } else { 26 };
            out[at..at + 2].copy_from_slice(&sum);
            out
        };
        (0..packets).map(one).collect()
    }

    /// Writes a batch of these, and gives the frames that came of it.
    fn write(tun: &mut Tun, host: &OwnedFd, packets: &[Vec<u8>]) -> (Written, Vec<Vec<u8>>) {
        let mut batch = Batch::new(Framing::Record);
        for packet in packets {
            let room = batch.push(packet.len()).unwrap();
            room.copy_from_slice(packet);
        }
        let last = &packets[packets.len() - 1];
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut frames, mut buf) = (Vec::new(), vec![0; 70_000]);
                loop {
                    let len = rustix::io::read(host, &mut buf[..]).unwrap();
                    frames.push(buf[..len].to_vec());
                    if buf[..len].ends_with(&last[40..]) {
                        return frames;
                    }
                }
            });
            let written = tun.write(&batch, |_| true);
            (written, reader.join().unwrap())
        })
    }

    #[test]
    fn the_first_frame_that_is_refused_ends_its_offload_and_loses_nothing() {
        for (tcp, left) in [(true, "udp"), (false, "tcp")] {
            let (device, host) = small();
            let mut tun = Tun::new(
                device,
                Offloads {
                    tcp: true,
                    udp: true,
                },
            );
            // One that is small enough is joined.
            let few = flow(tcp, 3);
            let (written, frames) = write(&mut tun, &host, &few);
            assert_eq!((written.packets, written.refused, frames.len()), (3, 0, 1));
            assert_eq!(tun.tally().joined, 1);
            for round in 0..3 {
                let many = flow(tcp, 40);
                let (written, frames) = write(&mut tun, &host, &many);
                assert_eq!((written.packets, written.refused), (40, 0));
                let plain = |p: &Vec<u8>| [&[0; Vnet::LEN], &p[..]].concat();
                let all: Vec<_> = many.iter().map(plain).collect();
                assert!(frames == all, "round {round}: other packets came");
                assert_eq!(tun.offloads().unwrap().to_string(), left);
                assert_eq!((tun.tally().joined, tun.tally().refused), (1, 1));
            }
        }
    }

    #[test]
    fn what_a_device_refuses_altogether_says_nothing_of_an_offload() {
        let (device, host) = small();
        let both = Offloads {
            tcp: true,
            udp: true,
        };
        let mut tun = Tun::new(device, both);
        drop(host);
        let mut batch = Batch::new(Framing::Record);
        for packet in flow(true, 5) {
            let room = batch.push(packet.len()).unwrap();
            room.copy_from_slice(&packet);
        }
        let written = tun.write(&batch, |_| true);
        assert_eq!((written.packets, written.refused), (0, 5));
        assert_eq!(tun.offloads(), Some(both));
        assert_eq!(tun.tally(), Tally::default());
    }

    #[test]
    fn a_frame_that_cannot_be_is_counted() {
        let (device, host) = small();
        let mut tun = Tun::new(
            device,
            Offloads {
                tcp: true,
                udp: true,
            },
        );
        let packet = flow(true, 1).remove(0);
        // Of a kind that was not asked for; of one, but without a size; and shorter than the header.
        let heads: [&[u8]; 3] = [
            &[1, 3, 0, 0, 9, 0, 20, 0, 6, 0],
            &[1, 1, 0, 0, 0, 0, 20, 0, 16, 0],
            &[1],
        ];
        for (n, head) in (1..).zip(heads) {
            let frame = if n < 3 {
                [head, &packet].concat()
            } else {
                head.to_vec()
            };
            rustix::io::write(&host, &frame).unwrap();
            assert!(tun.read().unwrap().is_err());
            assert_eq!(tun.tally().bad, n);
        }
    }

    const SIZE: u16 = 1000;
}
