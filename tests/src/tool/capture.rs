//! Watches every frame on every device of a host for some bytes, as an eavesdropper would.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{LinkAddr, recvfrom};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// Counts frames, bytes, frames that hold the needle, and packets of each class, by device, until stdin ends or the time is over.
pub(super) fn run(needle: &str, seconds: u64) -> anyhow::Result<()> {
    // ETH_P_ALL, in network order as packet(7) wants it.
    let all = Protocol::from(i32::from(3u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))
        .context("can't capture: root of the host is needed")?;
    socket
        .set_recv_buffer_size(64 << 20)
        .context("can't set the buffer's size")?;
    socket
        .set_read_timeout(Some(QUIET))
        .context("can't set a time-out")?;
    let (done, stop) = channel::<()>();
    std::thread::spawn(move || {
        // Whatever ends stdin ends the capture; dropping the sender says so.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(done);
    });
    // Looking for the needle takes longer than the socket's buffer has room.
    let (frames, inbox) = sync_channel(MOST);
    let needle = needle.as_bytes().to_owned();
    let search = std::thread::spawn(move || count(&inbox, &needle));
    super::print("{\"capturing\":true}")?;
    read(&socket, &stop, Duration::from_secs(seconds), &frames)?;
    drop(frames);
    let Ok(seen) = search.join() else {
        anyhow::bail!("the search for the text failed");
    };
    let seen: BTreeMap<String, Seen> = seen.into_iter().map(|(dev, s)| (name(dev), s)).collect();
    super::print(&serde_json::to_string(&seen).context("can't write JSON")?)
}

/// Takes frames from the socket, to the last that it holds when the end is near.
fn read(
    socket: &Socket,
    stop: &Receiver<()>,
    most: Duration,
    frames: &SyncSender<(usize, Vec<u8>)>,
) -> anyhow::Result<()> {
    let (end, mut buf) = (Instant::now() + most, vec![0u8; 1 << 17]);
    let mut last = None;
    loop {
        if Instant::now() > end || stop.try_recv() == Err(TryRecvError::Disconnected) {
            // Others may go on talking.
            let last = *last.get_or_insert_with(|| Instant::now() + DRAIN);
            if Instant::now() > last {
                return Ok(());
            }
        }
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buf) {
            Ok((len, from)) => {
                let dev = from.map_or(0, |from| from.ifindex());
                let frame = (dev, buf[..len].to_vec());
                frames.send(frame).context("the search ended early")?;
            }
            Err(Errno::EAGAIN) if last.is_some() => return Ok(()),
            // A device that goes down says so here.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => return Err(error).context("can't capture"),
        }
    }
}

/// What went over one device, in and out.
#[derive(Default, Serialize)]
struct Seen {
    frames: u64,
    bytes: u64,
    hits: u64,
    /// IP packets of each class (DSCP).
    classes: BTreeMap<u8, u64>,
}

/// The class in the header of an IP packet behind that of Ethernet.
fn class(frame: &[u8]) -> Option<u8> {
    let (kind, packet) = frame.get(12..)?.split_first_chunk()?;
    let field = match (u16::from_be_bytes(*kind), packet) {
        (0x0800, [_, field, ..]) => *field,
        (0x86dd, [first, second, ..]) => first << 4 | second >> 4,
        _ => return None,
    };
    Some(field >> 2)
}

fn count(inbox: &Receiver<(usize, Vec<u8>)>, needle: &[u8]) -> BTreeMap<usize, Seen> {
    let mut all = BTreeMap::<usize, Seen>::new();
    for (dev, frame) in inbox {
        let seen = all.entry(dev).or_default();
        seen.frames += 1;
        seen.bytes += frame.len() as u64;
        if let Some(class) = class(&frame) {
            *seen.classes.entry(class).or_default() += 1;
        }
        seen.hits += u64::from(frame.windows(needle.len()).any(|w| w == needle));
    }
    all
}

/// The device's name, or its number if it is gone.
fn name(dev: usize) -> String {
    let index = dev.try_into().unwrap_or(0);
    if_indextoname(index).map_or_else(|_| dev.to_string(), |n| n.to_string_lossy().into_owned())
}

/// How long no frame comes when there are no more.
const QUIET: Duration = Duration::from_millis(50);
/// How long what is left may take.
const DRAIN: Duration = Duration::from_secs(1);
/// Frames that wait to be searched.
const MOST: usize = 100_000;
