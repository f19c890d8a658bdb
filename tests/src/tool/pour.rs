//! Datagrams at a rate, and their count where they arrive.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use quinn::udp::{RecvMeta, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::SockRef;

#[derive(clap::Args)]
pub(super) struct Pour {
    to: SocketAddr,
    /// Bytes of each
    #[arg(long, default_value_t = 1200)]
    size: usize,
    /// A second
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Sends for so long, many at a system call, and says how many.
pub(super) fn pour(how: &Pour) -> anyhow::Result<()> {
    let Pour {
        to,
        size,
        rate,
        seconds,
    } = *how;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("can't bind")?;
    socket
        .connect(to)
        .with_context(|| format!("can't connect to {to}"))?;
    let payload = vec![0x5a; size];
    let parts = [IoSlice::new(&payload)];
    let (begin, mut sent, mut refused) = (Instant::now(), 0_u64, 0_u64);
    loop {
        let passed = begin.elapsed().as_secs_f64();
        if passed >= seconds {
            break;
        }
        let due = (f64::from(rate) * passed) as u64;
        let now = due.saturating_sub(sent + refused).min(BURST as u64);
        if now == 0 {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        let mut none: [_; BURST] = std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut all: Vec<_> = none
            .iter_mut()
            .take(now as usize)
            .map(|none| MMsgHdr::new(&parts, none))
            .collect();
        match sendmmsg(&socket, &mut all, SendFlags::empty()) {
            Ok(n) => sent += n as u64,
            // Nobody listens yet, or a queue is full: lost like any other.
            Err(_) => refused += 1,
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    super::print(&format!(
        "{{\"sent\":{sent},\"refused\":{refused},\"seconds\":{seconds:.3}}}"
    ))
}

/// Counts what comes, and says how many so far whenever that has changed, at most every 50 ms.
pub(super) fn sink(at: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("can't bind {at}"))?;
    let state = UdpSocketState::new((&socket).into()).context("can't set the socket up")?;
    SockRef::from(&socket)
        .set_recv_buffer_size(BUFFER)
        .context("can't enlarge the buffer")?;
    super::print("{\"datagrams\":0,\"bytes\":0}")?;
    let mut space = vec![[0_u8; 65_536]; BURST];
    let (mut datagrams, mut bytes, mut said) = (0_u64, 0_u64, (0, Instant::now()));
    loop {
        let wait = Timespec::try_from(SAY).context("no time-out")?;
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&wait)).context("can't wait")?;
        let mut metas = [RecvMeta::default(); BURST];
        let mut slices: Vec<_> = space.iter_mut().map(|s| IoSliceMut::new(s)).collect();
        if let Ok(n) = state.recv((&socket).into(), &mut slices, &mut metas) {
            for meta in &metas[..n] {
                datagrams += meta.len.div_ceil(meta.stride.max(1)) as u64;
                bytes += meta.len as u64;
            }
        }
        if datagrams > said.0 && said.1.elapsed() >= SAY {
            super::print(&format!("{{\"datagrams\":{datagrams},\"bytes\":{bytes}}}"))?;
            said = (datagrams, Instant::now());
        }
    }
}

/// How many at a system call.
const BURST: usize = 32;
const BUFFER: usize = 4 << 20;
const SAY: Duration = Duration::from_millis(50);
