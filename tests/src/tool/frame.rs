//! Whole frames of Ethernet, as no program that knows only IP sends them.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, Socket, Type};

/// Prints the address of a device on layer 2.
pub(super) fn mac(device: &str) -> anyhow::Result<()> {
    let address = link(device)?.addr().context("it has no address")?;
    super::print(&hex(&address))
}

/// Sends a frame so many times, at most so many a second.
pub(super) fn send(device: &str, frame: &str, count: u64, rate: u32) -> anyhow::Result<()> {
    let (to, frame) = (link(device)?, super::bytes(frame)?);
    let (socket, begin) = (socket()?, Instant::now());
    let mut refused = 0u64;
    for n in 0..count {
        let due = Duration::from_secs_f64(n as f64 / f64::from(rate));
        // Sleeping for each frame alone would take too long.
        if let Some(early) = due.checked_sub(begin.elapsed()).filter(|e| *e > SLICE) {
            std::thread::sleep(early);
        }
        match sendto(socket.as_raw_fd(), &frame, &to, MsgFlags::empty()) {
            Ok(_) => {}
            Err(Errno::ENOBUFS) => refused += 1,
            Err(error) => return Err(error).context("can't send the frame"),
        }
    }
    let ms = begin.elapsed().as_millis();
    super::print(&format!("{{\"sent\":{},\"ms\":{ms}}}", count - refused))
}

/// Prints each frame that a device gets for the host, until stdin ends.
pub(super) fn watch(device: &str) -> anyhow::Result<()> {
    let (index, socket) = (link(device)?.ifindex(), socket()?);
    socket
        .set_recv_buffer_size(16 << 20)
        .context("can't set the buffer's size")?;
    std::thread::spawn(|| {
        // Whatever ends stdin ends the watch.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    super::print("watching")?;
    let mut buf = vec![0u8; 1 << 17];
    loop {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buf) {
            Ok((len, Some(from))) if from.ifindex() == index && from.pkttype() != OUTGOING => {
                super::print(&hex(&buf[..len]))?;
            }
            // A device that goes down says so here.
            Ok(_) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => return Err(error).context("can't watch"),
        }
    }
}

fn link(device: &str) -> anyhow::Result<LinkAddr> {
    let all = getifaddrs().context("can't list the devices")?;
    all.filter(|one| one.interface_name == device)
        .find_map(|one| one.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device}"))
}

fn socket() -> anyhow::Result<Socket> {
    // ETH_P_ALL, in network order as packet(7) wants it.
    let all = Protocol::from(i32::from(3u16.to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(all))
        .context("can't open a packet socket: root of the host is needed")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;
const SLICE: Duration = Duration::from_millis(2);
