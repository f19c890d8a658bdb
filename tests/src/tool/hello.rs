//! First handshake messages of the layer, caught from one who means them and said again by one who doesn't: a stranger that knows
//! docs/protocol.md and has no certificate. Each makes a member compute an answer, and costs its sender nothing.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::bad::Pace;

/// Answers flow requests as a UDP shim does that has every name, and writes the first PDUs of a handshake into a file.
pub(super) fn catch(at: SocketAddr, file: &Path) -> anyhow::Result<()> {
    let listen = UdpSocket::bind(at).with_context(|| format!("can't bind {at}"))?;
    listen.set_read_timeout(Some(PATIENCE))?;
    let mut buf = [0; 2048];
    let (len, from) = listen.recv_from(&mut buf).context("nobody asked")?;
    let flow = UdpSocket::bind((at.ip(), 0)).context("can't bind")?;
    flow.connect(from).context("can't connect")?;
    flow.set_read_timeout(Some(PATIENCE))?;
    flow.send(&buf[..len]).context("can't echo")?;
    let mut caught: Vec<Vec<u8>> = Vec::new();
    loop {
        match flow.recv(&mut buf) {
            Ok(len) if buf[..len].starts_with(&INITIAL) => caught.push(buf[..len].to_vec()),
            // It confirms the flow.
            Ok(_) => continue,
            Err(_) if !caught.is_empty() => break,
            Err(e) => return Err(e).context("no handshake began"),
        }
        // All of a hello goes at once; what comes later is said again.
        flow.set_read_timeout(Some(FLIGHT))?;
    }
    let mut bytes = Vec::new();
    for pdu in &caught {
        bytes.extend((pdu.len() as u16).to_be_bytes());
        bytes.extend(pdu);
    }
    fs::write(file, bytes).context("can't write what was caught")?;
    super::print(&serde_json::json!({ "pdus": caught.len() }).to_string())
}

/// Says what was caught again and again over so many flows to a name, as ever other handshakes.
pub(super) fn flood(
    to: SocketAddr,
    name: &str,
    file: &Path,
    rate: u32,
    seconds: f64,
    flows: usize,
) -> anyhow::Result<()> {
    let mut hello = read(file)?;
    let mut all = Vec::new();
    for _ in 0..flows {
        all.push(Stranger::new(to, name)?);
    }
    let (mut starts, mut pace, begin) = (0_u32, Pace::new(rate, BURST), Instant::now());
    while begin.elapsed().as_secs_f64() < seconds {
        pace.wait();
        let stranger = &mut all[starts as usize % flows];
        // Ever other sessions, of which no two strangers' are alike.
        let session = starts.wrapping_mul(2_654_435_761);
        for pdu in &mut hello {
            pdu[SESSION].copy_from_slice(&session.to_be_bytes());
        }
        starts += u32::from(stranger.say(&hello, name)?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let sum = |of: fn(&Stranger) -> u64| all.iter().map(of).sum::<u64>();
    let json = serde_json::json!({
        "starts": starts,
        "seconds": seconds,
        "asked_again": sum(|s| s.asked),
        "answers": sum(|s| s.heard),
        "bytes_heard": sum(|s| s.bytes),
    });
    super::print(&json.to_string())
}

/// One flow of somebody whom nobody knows.
struct Stranger {
    to: SocketAddr,
    socket: UdpSocket,
    /// Whether the request was echoed, and when it went.
    stands: bool,
    at: Instant,
    /// Requests beyond the first.
    asked: u64,
    heard: u64,
    bytes: u64,
}

impl Stranger {
    fn new(to: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let mut stranger = Self {
            to,
            socket: socket()?,
            stands: false,
            at: Instant::now(),
            asked: 0,
            heard: 0,
            bytes: 0,
        };
        stranger.ask(name)?;
        Ok(stranger)
    }

    fn ask(&mut self, name: &str) -> anyhow::Result<()> {
        (self.socket, self.stands, self.at) = (socket()?, false, Instant::now());
        let sent = self.socket.send_to(name.as_bytes(), self.to);
        sent.map(drop).context("can't ask for a flow")
    }

    /// Begins a handshake; `false`: there is no flow for it at this moment.
    fn say(&mut self, hello: &[Vec<u8>], name: &str) -> anyhow::Result<bool> {
        if !self.listen(name) || (!self.stands && self.at.elapsed() > AGAIN) {
            self.asked += 1;
            self.ask(name)?;
        }
        if !self.stands {
            return Ok(false);
        }
        for pdu in hello {
            match self.socket.send(pdu) {
                Ok(_) => {}
                // It was hung up: the next turn sees it too.
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(false),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e).context("can't send a hello"),
            }
        }
        Ok(true)
    }

    /// Takes what has come; `false`: the other side has hung up.
    fn listen(&mut self, name: &str) -> bool {
        let mut buf = [0; 2048];
        loop {
            match self.socket.recv_from(&mut buf) {
                Ok((len, from)) if !self.stands => {
                    self.stands = buf[..len] == *name.as_bytes()
                        && from.ip() == self.to.ip()
                        && self.socket.connect(from).is_ok();
                }
                Ok((len, _)) => {
                    self.heard += 1;
                    self.bytes += len as u64;
                }
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

fn socket() -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0)).context("can't bind")?;
    socket.set_nonblocking(true).context("can't not wait")?;
    Ok(socket)
}

fn read(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let bytes = fs::read(file).context("can't read what was caught")?;
    let (mut rest, mut pdus) = (&bytes[..], Vec::new());
    while let Some((len, more)) = rest.split_first_chunk() {
        let pdu = more.get(..usize::from(u16::from_be_bytes(*len)));
        let pdu = pdu.filter(|pdu| pdu.len() >= SESSION.end);
        let pdu = pdu.context("what was caught is cut")?;
        pdus.push(pdu.to_vec());
        rest = &more[pdu.len()..];
    }
    ensure!(!pdus.is_empty(), "nothing was caught");
    Ok(pdus)
}

/// How a handshake PDU of the initial level begins, and where its session stands.
const INITIAL: [u8; 2] = [0x11, 0];
const SESSION: std::ops::Range<usize> = 2..6;
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the PDUs of one hello may take to come. They are said again after 100 ms.
const FLIGHT: Duration = Duration::from_millis(50);
/// When a request that was not echoed is made again.
const AGAIN: Duration = Duration::from_millis(300);
const BURST: Duration = Duration::from_millis(100);
