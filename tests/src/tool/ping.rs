//! ICMP echo over a raw socket, both families.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

pub(super) fn run(
    to: IpAddr,
    count: u16,
    interval_ms: u64,
    manner: Manner,
    first_within_ms: Option<u64>,
) -> anyhow::Result<()> {
    if let Some(most) = first_within_ms {
        return first(to, manner, Duration::from_millis(interval_ms), most);
    }
    let mut ping = Ping::new(to, manner)?;
    let mut rtt = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        rtt.extend(ping.once(Duration::from_secs(1)));
        std::thread::sleep(Duration::from_millis(interval_ms).saturating_sub(start.elapsed()));
    }
    rtt.sort_unstable();
    let at = |part: f64| {
        rtt.get(((rtt.len() as f64 * part) as usize).min(rtt.len().saturating_sub(1)))
            .map_or(0, Duration::as_micros)
    };
    super::print(&format!(
        "{{\"sent\":{count},\"received\":{},\"rtt_us\":{{\"min\":{},\"p50\":{},\"p99\":{},\"max\":{}}}}}",
        rtt.len(),
        at(0.0),
        at(0.5),
        at(0.99),
        at(1.0)
    ))
}

/// Tries until an answer comes, also while there is no route yet.
fn first(to: IpAddr, manner: Manner, interval: Duration, most_ms: u64) -> anyhow::Result<()> {
    let (start, most) = (Instant::now(), Duration::from_millis(most_ms));
    let mut ping = None;
    while start.elapsed() < most {
        if ping.is_none() {
            ping = Ping::new(to, manner).ok();
        }
        if ping
            .as_mut()
            .and_then(|p: &mut Ping| p.once(interval))
            .is_some()
        {
            let ms = start.elapsed().as_secs_f64() * 1e3;
            return super::print(&format!("{{\"first_ms\":{ms:.1}}}"));
        }
        // Without a route nothing has waited yet.
        if ping.is_none() {
            std::thread::sleep(interval);
        }
    }
    anyhow::bail!("{to} did not answer within {most:?}")
}

/// What requests are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) size: usize,
    pub(super) dscp: u8,
}

struct Ping {
    socket: Socket,
    v6: bool,
    id: u16,
    sequence: u16,
    size: usize,
}

impl Ping {
    fn new(to: IpAddr, Manner { size, dscp }: Manner) -> anyhow::Result<Self> {
        let v6 = to.is_ipv6();
        let (domain, protocol) = if v6 {
            (Domain::IPV6, Protocol::ICMPV6)
        } else {
            (Domain::IPV4, Protocol::ICMPV4)
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))
            .context("can't open a raw socket: root of the host is needed")?;
        socket
            .connect(&SocketAddr::new(to, 0).into())
            .with_context(|| format!("there is no route to {to}"))?;
        if dscp > 0 && !v6 {
            socket.set_tos_v4(u32::from(dscp) << 2)?;
        }
        Ok(Self {
            socket,
            v6,
            id: std::process::id() as u16,
            sequence: 0,
            size,
        })
    }

    /// One request; how long its answer took, if it came in time.
    fn once(&mut self, patience: Duration) -> Option<Duration> {
        self.sequence = self.sequence.wrapping_add(1);
        let start = Instant::now();
        self.socket.send(&self.request()).ok()?;
        loop {
            let left = patience
                .checked_sub(start.elapsed())
                .filter(|d| !d.is_zero())?;
            self.socket.set_read_timeout(Some(left)).ok()?;
            let mut bytes = [0u8; 2048];
            let len = std::io::Read::read(&mut &self.socket, &mut bytes).ok()?;
            if self.is_answer(&bytes[..len]) {
                return Some(start.elapsed());
            }
        }
    }

    fn request(&self) -> Vec<u8> {
        let mut out = vec![if self.v6 { 128 } else { 8 }, 0, 0, 0];
        out.extend(self.id.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.resize(8 + self.size, 0x5a);
        // The kernel fills in the sum of ICMPv6.
        if !self.v6 {
            let sum = checksum(&out);
            out[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }

    fn is_answer(&self, bytes: &[u8]) -> bool {
        // A raw IPv4 socket gives the IP header too.
        let skip = if self.v6 {
            0
        } else {
            bytes.first().map_or(0, |b| usize::from(b & 15) * 4)
        };
        let Some([kind, 0, _, _, id @ .., s0, s1]) = bytes.get(skip..skip + 8) else {
            return false;
        };
        *kind == if self.v6 { 129 } else { 0 }
            && *id == self.id.to_be_bytes()
            && [*s0, *s1] == self.sequence.to_be_bytes()
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
