//! Watches every frame on every device of a host for some bytes, as an eavesdropper would.

use std::time::{Duration, Instant};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

/// Counts frames, and frames that hold the needle, until stdin ends or the time is over.
pub(super) fn run(needle: &str, seconds: u64) -> anyhow::Result<()> {
    // ETH_P_ALL, in network order as packet(7) wants it.
    let all = Protocol::from(i32::from(3u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))
        .context("can't capture: root of the host is needed")?;
    socket
        .set_recv_buffer_size(64 << 20)
        .context("can't set the buffer's size")?;
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .context("can't set a time-out")?;
    let (done, stop) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        // Whatever ends stdin ends the capture; dropping the sender says so.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(done);
    });
    super::print("{\"capturing\":true}")?;
    let (end, needle) = (
        Instant::now() + Duration::from_secs(seconds),
        needle.as_bytes(),
    );
    let (mut frames, mut bytes, mut hits, mut buf) = (0u64, 0u64, 0u64, vec![0u8; 1 << 17]);
    while Instant::now() < end && stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
        let Ok(len) = std::io::Read::read(&mut &socket, &mut buf) else {
            continue;
        };
        frames += 1;
        bytes += len as u64;
        hits += u64::from(buf[..len].windows(needle.len()).any(|w| w == needle));
    }
    super::print(&format!(
        "{{\"frames\":{frames},\"bytes\":{bytes},\"hits\":{hits}}}"
    ))
}
