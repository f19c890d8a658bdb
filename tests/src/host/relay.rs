//! A link in user space between two hosts: a TAP device in each and this program between them, which loses, delays,
//! doubles, reorders, corrupts and slows down as told, by a seed. Kernels without netem need it.
//!
//! Each line on stdin is a new [`Impairment`](super::Impairment) as JSON; the program ends with stdin.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tun::Writer;

use super::fate::Fates;

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
            Ok(Event::Frame(from, bytes)) => relay.take(from, bytes),
            Ok(Event::Line(line)) => {
                relay.fates.how = serde_json::from_str(&line)
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
    fates: Fates,
    queue: BinaryHeap<Reverse<Frame>>,
    count: u64,
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
            fates: Fates::new(seed, Instant::now()),
            queue: BinaryHeap::new(),
            count: 0,
        }
    }

    fn take(&mut self, from: usize, mut bytes: Vec<u8>) {
        if self.queue.len() >= MOST {
            return;
        }
        let Some(fate) = self.fates.decide(from, &mut bytes, Instant::now()) else {
            return;
        };
        if fate.twice {
            self.push(fate.due, 1 - from, bytes.clone());
        }
        self.push(fate.due, 1 - from, bytes);
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

/// Frames on their way at once.
const MOST: usize = 10_000;
