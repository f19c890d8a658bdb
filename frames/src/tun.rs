//! A TUN device, with segmentation offload where the kernel has it.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ip::offload::{BadFrame, Frame, GsoKind, Joiner, Segments, Vnet};
use proto::Batch;

use super::{LONGEST, TunPort, Written, retry};

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
    /// Super-packets that the kernel refused though it takes their packets one by one.
    refused: u64,
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
                refused: 0,
            },
            joiner: Joiner::new(offloads.tcp, offloads.udp),
            frame: vec![0; Vnet::LEN + LONGEST],
        }
    }

    /// The number of frames that should wait in the device at most. Where a frame is one packet of an MTU, that is 0.7 MB: with 20
    /// a TCP stream loses half of its packets here and runs at a fifth of the rate. Where it has up to 64 kB, 20 would do for TCP, but
    /// not for a burst of small datagrams.
    pub fn queue(&self) -> u32 {
        if self.port.offloads.tcp { 128 } else { 500 }
    }

    /// Super-packets that the kernel refused though it took their packets one by one; at the first of a kind, that offload ends.
    pub fn refused_frames(&self) -> u64 {
        self.port.refused
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
        let Some((head, packet)) = self.frame[..len].split_first_chunk() else {
            return Ok(Err(BadFrame::Contradiction));
        };
        Ok(Vnet::parse(head).and_then(|vnet| Segments::new(&vnet, packet)))
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
            Ok(_) => Written::of(true, frame.packets, frame.bytes),
            Err(_) => self.write_apart(&parts[1..], frame),
        }
    }

    /// What the kernel doesn't take as one, it may take one by one; then the offload is at fault, and ends.
    fn write_apart(&mut self, parts: &[IoSlice<'_>], frame: &Frame<'_>) -> Written {
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
            self.refused += 1;
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
