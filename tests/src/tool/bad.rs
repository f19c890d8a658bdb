//! What nobody should send: noise, a flood from sources that don't exist, echoes of an impostor, another's token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use libflow::{IRM_SOCKET, RunDir};
use proto::irm::AllocFlowRequest;
use proto::irm::programs_client::ProgramsClient;
use proto::{QosSpec, Token};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};

use crate::door::Guest;

/// One empty datagram, one of a byte, one as large as UDP takes, and random ones up to the count; at most `rate` a second, so
/// that it is the receiver who drops them and not its buffer.
pub(super) fn noise(to: SocketAddr, count: u32, rate: u32, seed: u64) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("can't bind")?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0; LARGEST];
    let mut pace = Pace::new(rate, BURST);
    for i in 0..count {
        pace.wait();
        let len = match i {
            0 => 0,
            1 => 1,
            2 => LARGEST,
            _ => (rng.next_u32() % 600) as usize,
        };
        rng.fill_bytes(&mut bytes[..len]);
        socket.send_to(&bytes[..len], to).context("can't send")?;
    }
    super::print(&count.to_string())
}

/// Requests, each from another address of 10.128.0.0/9, which the sender doesn't have.
pub(super) fn flood(to: SocketAddrV4, text: &str, rate: u32, seconds: f64) -> anyhow::Result<()> {
    let raw = Protocol::from(RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw))
        .context("can't open a raw socket: it takes CAP_NET_RAW")?;
    let at = SocketAddr::V4(to).into();
    let (mut sent, mut refused) = (0_u32, 0_u32);
    let (mut pace, begin) = (Pace::new(rate, FLOOD_BURST), Instant::now());
    while begin.elapsed().as_secs_f64() < seconds {
        pace.wait();
        let source = Ipv4Addr::from(0x0a80_0000 | (sent & 0x7f_ffff));
        let packet = packet(SocketAddrV4::new(source, 4000), to, text.as_bytes());
        match socket.send_to(&packet, &at) {
            Ok(_) => sent += 1,
            Err(_) => refused += 1,
        }
    }
    let json = serde_json::json!({
        "sent": sent,
        "refused": refused,
        "seconds": begin.elapsed().as_secs_f64(),
    });
    super::print(&json.to_string())
}

/// Answers each datagram twice: with its bytes from another address, and with other bytes from the address that was asked.
pub(super) fn impostor(at: SocketAddr, other: IpAddr) -> anyhow::Result<()> {
    let bind = |at: SocketAddr| UdpSocket::bind(at).with_context(|| format!("can't bind {at}"));
    let (asked, wrong) = (bind(at)?, bind((other, 0).into())?);
    let here = bind((at.ip(), 0).into())?;
    let mut buf = [0; 2048];
    loop {
        let (len, from) = asked.recv_from(&mut buf).context("can't receive")?;
        wrong.send_to(&buf[..len], from).context("can't send")?;
        buf[len] = b'!';
        here.send_to(&buf[..=len], from).context("can't send")?;
        super::print(&String::from_utf8_lossy(&buf[..len]))?;
    }
}

/// Shows a token at a data socket and prints what it hears.
pub(super) fn join(socket: &Path, token: &str) -> anyhow::Result<()> {
    let token = Token::from_slice(&super::bytes(token)?).context("a token has 16 bytes")?;
    let (_, heard) = Guest::join(socket, &token)?;
    super::print(&format!("{heard:?}"))
}

/// Asks irmd for a flow in a session of another program; an error is its refusal.
pub(super) fn borrow(name: String, session: &str) -> anyhow::Result<()> {
    let request = AllocFlowRequest {
        name,
        qos: Some(QosSpec::BEST.into()),
        timeout_ms: 1000,
        session: super::bytes(session)?,
        ..AllocFlowRequest::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start a runtime")?;
    let end = runtime.block_on(async {
        let channel = RunDir::find(None).channel(IRM_SOCKET)?;
        let answer = ProgramsClient::new(channel).alloc_flow(request).await;
        answer.context("refused")
    })?;
    super::print(&format!("flow {}", end.into_inner().flow))
}

/// An IPv4 packet with a UDP datagram; the kernel fills in the length and the checksum of the header, UDP's stays empty.
fn packet(from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((8 + bytes.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(bytes);
    packet
}

/// So many a second; what could not go in its time follows in a burst, but no more than that time holds.
pub(super) struct Pace {
    gap: Duration,
    burst: Duration,
    next: Instant,
}

impl Pace {
    pub(super) fn new(rate: u32, burst: Duration) -> Self {
        Self {
            gap: Duration::from_secs(1) / rate,
            burst,
            next: Instant::now(),
        }
    }

    pub(super) fn wait(&mut self) {
        let now = Instant::now();
        if self.next > now + NAP {
            std::thread::sleep(NAP);
        }
        let oldest = now.checked_sub(self.burst).unwrap_or(now);
        self.next = self.next.max(oldest) + self.gap;
    }
}

const NAP: Duration = Duration::from_millis(1);
/// Short enough for a receiver's buffer.
const BURST: Duration = Duration::from_millis(10);
/// A flood spares nobody, and on a busy machine its sender has to wait like all others.
const FLOOD_BURST: Duration = Duration::from_millis(100);
/// The largest payload of UDP over IPv4.
const LARGEST: usize = 65_507;
/// `IPPROTO_RAW`: the caller writes the header.
const RAW: i32 = 255;
