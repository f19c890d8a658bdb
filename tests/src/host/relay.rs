//! A link in user space between two hosts: a TAP device in each and this program between them, which loses, delays,
//! doubles, reorders, corrupts and slows down as told, by a seed. Kernels without netem need it.
//!
//! Each line on stdin is a new [`Impairment`] as JSON; the program ends with stdin.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use tun::Writer;

/// What a link does to frames. Chances are 0.0..=1.0, the same for both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Impairment {
    /// The chance that a frame is lost.
    pub loss: f64,
    /// How long each frame takes, in µs.
    pub delay_us: u64,
    /// At most so much more, in µs; later frames may overtake.
    pub jitter_us: u64,
    /// The chance that a frame comes twice.
    pub duplicate: f64,
    /// The chance that a frame takes 2 ms more than its successors.
    pub reorder: f64,
    /// The chance that one bit of an IP packet is flipped.
    pub corrupt: f64,
    /// Frames beyond so many Mbit/s wait; 0: no bound.
    pub rate_mbit: u64,
    /// Of the UDP datagrams from the second host to the first, each so-manieth is lost; 0: none.
    pub drop_every: u64,
    /// Nothing passes.
    pub cut: bool,
}

/// Carries frames until stdin ends.
pub(super) fn run(a: (u32, &str), b: (u32, &str), user: bool, seed: u64) -> anyhow::Result<()> {
    // No thread before both namespaces were entered.
    let ends = [open_tap(a, user)?, open_tap(b, false)?];
    let (events, inbox) = mpsc::sync_channel(MOST);
    let [a, b] = ends.map(tun::Device::split);
    for (from, mut reader) in [a.0, b.0].into_iter().enumerate() {
        let events = events.clone();
        std::thread::spawn(move || {
            let mut buf = vec![0u8; 65_536];
            loop {
                let event = match reader.read(&mut buf) {
                    Ok(len) => Event::Frame(from, buf[..len].to_vec()),
                    // A device that is down gives EIO until it is up again.
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                };
                if events.send(event).is_err() {
                    return;
                }
            }
        });
    }
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { break };
            if events.send(Event::Line(line)).is_err() {
                return;
            }
        }
        // Nobody is left to hear that it could not be sent.
        let _ = events.send(Event::End);
    });
    say("ready")?;
    carry(&inbox, &mut [a.1, b.1], seed)
}

enum Event {
    Frame(usize, Vec<u8>),
    Line(String),
    End,
}

fn carry(inbox: &mpsc::Receiver<Event>, ends: &mut [Writer; 2], seed: u64) -> anyhow::Result<()> {
    let mut relay = Relay::new(seed);
    loop {
        let wait = match relay.queue.peek() {
            Some(Reverse(frame)) => frame.due.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(3600),
        };
        match inbox.recv_timeout(wait) {
            Ok(Event::Frame(from, bytes)) => relay.decide(from, bytes),
            Ok(Event::Line(line)) => {
                relay.how = serde_json::from_str(&line)
                    .with_context(|| format!("not an impairment: {line:?}"))?;
                say("ok")?;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Event::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
        relay.deliver(ends);
    }
}

fn say(word: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{word}")
        .and_then(|()| out.flush())
        .context("can't answer on stdout")
}

fn open_tap((pid, name): (u32, &str), user: bool) -> anyhow::Result<tun::Device> {
    super::namespace::enter(pid, user)?;
    let mut config = tun::Configuration::default();
    config.tun_name(name).layer(tun::Layer::L2).mtu(1500).up();
    config.platform_config(|p| {
        p.ensure_root_privileges(false);
    });
    tun::create(&config).with_context(|| {
        format!("can't make the TAP device {name}: is /dev/net/tun there and usable?")
    })
}

struct Relay {
    how: Impairment,
    chance: ChaCha8Rng,
    queue: BinaryHeap<Reverse<Frame>>,
    count: u64,
    datagrams: u64,
    free_at: [Instant; 2],
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    due: Instant,
    count: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl Relay {
    fn new(seed: u64) -> Self {
        Self {
            how: Impairment::default(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            count: 0,
            datagrams: 0,
            free_at: [Instant::now(); 2],
        }
    }

    fn hit(&mut self, chance: f64) -> bool {
        chance > 0.0 && (self.chance.next_u64() as f64) < chance * u64::MAX as f64
    }

    fn decide(&mut self, from: usize, mut bytes: Vec<u8>) {
        let how = self.how;
        if from == 1 && how.drop_every > 0 && is_udp(&bytes) {
            self.datagrams += 1;
            if self.datagrams.is_multiple_of(how.drop_every) {
                return;
            }
        }
        if how.cut || self.hit(how.loss) || self.queue.len() >= MOST {
            return;
        }
        // The Ethernet header is spared: a frame for nobody would just be lost.
        if bytes.len() > 34 && self.hit(how.corrupt) {
            let bit = self.chance.next_u64() as usize % ((bytes.len() - 34) * 8);
            bytes[34 + bit / 8] ^= 1 << (bit % 8);
        }
        let twice = self.hit(how.duplicate);
        let mut delay = Duration::from_micros(how.delay_us);
        if how.jitter_us > 0 {
            delay += Duration::from_micros(self.chance.next_u64() % how.jitter_us);
        }
        if self.hit(how.reorder) {
            delay += Duration::from_millis(2);
        }
        let mut sent = Instant::now();
        if let Some(ns) = (bytes.len() as u64 * 8000).checked_div(how.rate_mbit) {
            sent = sent.max(self.free_at[from]) + Duration::from_nanos(ns);
            self.free_at[from] = sent;
        }
        if twice {
            self.push(sent + delay, 1 - from, bytes.clone());
        }
        self.push(sent + delay, 1 - from, bytes);
    }

    fn push(&mut self, due: Instant, to: usize, bytes: Vec<u8>) {
        self.count += 1;
        self.queue.push(Reverse(Frame {
            due,
            count: self.count,
            to,
            bytes,
        }));
    }

    fn deliver(&mut self, ends: &mut [Writer; 2]) {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse(f)| f.due <= now) {
            if let Some(Reverse(frame)) = self.queue.pop() {
                // A device that is down or full loses the frame, as a wire would.
                let _ = ends[frame.to].write(&frame.bytes);
            }
        }
    }
}

fn is_udp(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&17),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&17),
        _ => false,
    }
}

/// Frames on their way at once.
const MOST: usize = 10_000;
