//! What happened: a hash of all of it, a trace on demand, and a picture of the last part.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// Something that is told while it happens.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// When, in virtual time.
    pub at: Duration,
    /// The host that does it.
    pub from: usize,
    /// The host that it is done to; often the same.
    pub to: usize,
    /// What: a word for events of machines, a sentence for what people understand.
    pub what: &'a str,
    /// The bytes of an event of a machine.
    pub size: Option<usize>,
}

/// The record of one run.
pub(super) struct Story {
    hash: u64,
    events: u64,
    trace: Option<fn(&Told<'_>)>,
    scenes: VecDeque<Scene>,
}

struct Scene {
    at: Duration,
    from: usize,
    to: usize,
    text: String,
}

impl Story {
    pub(super) fn new(trace: Option<fn(&Told<'_>)>) -> Self {
        Self {
            hash: OFFSET,
            events: 0,
            trace,
            scenes: VecDeque::new(),
        }
    }

    /// Counts an event into the hash: when, at whom, of which kind, and all its bytes.
    pub(super) fn mark(&mut self, at: Duration, host: usize, kind: u8, bytes: &[u8]) {
        self.events += 1;
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        for word in [nanos, host as u64, u64::from(kind), bytes.len() as u64] {
            self.count(word);
        }
        let (words, rest) = bytes.as_chunks();
        words
            .iter()
            .for_each(|w| self.count(u64::from_le_bytes(*w)));
        rest.iter().for_each(|b| self.count(u64::from(*b)));
        if let Some(trace) = self.trace {
            trace(&Told {
                at,
                from: host,
                to: host,
                what: KINDS.get(usize::from(kind)).unwrap_or(&"?"),
                size: Some(bytes.len()),
            });
        }
    }

    /// Something that belongs into the picture: `from` and `to` may be the same host.
    pub(super) fn tell(&mut self, at: Duration, from: usize, to: usize, text: impl Into<String>) {
        let text = text.into();
        if let Some(trace) = self.trace {
            trace(&Told {
                at,
                from,
                to,
                what: &text,
                size: None,
            });
        }
        if self.scenes.len() == SCENES {
            self.scenes.pop_front();
        }
        self.scenes.push_back(Scene { at, from, to, text });
    }

    /// As FNV-1a, but by words, whose upper bits must reach the lower ones, too.
    fn count(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(PRIME);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The last part as a mermaid sequence diagram.
    pub(super) fn mermaid(&self, hosts: usize, title: &str) -> String {
        let clean = |text: &str| text.replace([';', '#', '\n'], " ");
        let mut out = format!("sequenceDiagram\n    %% {}\n", clean(title));
        for host in 0..hosts {
            let _ = writeln!(out, "    participant m{host}");
        }
        for Scene { at, from, to, text } in &self.scenes {
            let line = format!("{:.3} s {}", at.as_secs_f64(), clean(text));
            let _ = if from == to {
                writeln!(out, "    Note over m{from}: {line}")
            } else {
                writeln!(out, "    m{from}->>m{to}: {line}")
            };
        }
        let _ = writeln!(out, "    Note over m0: {}", clean(title));
        out
    }
}

pub(super) const PACKET: u8 = 0;
pub(super) const TELL: u8 = 1;
pub(super) const TIMEOUT: u8 = 2;
pub(super) const COMMAND: u8 = 3;
pub(super) const WRITE: u8 = 4;
pub(super) const DELIVER: u8 = 5;
pub(super) const EVENT: u8 = 6;
pub(super) const SEND: u8 = 7;
const KINDS: [&str; 8] = [
    "packet", "tell", "timeout", "command", "write", "deliver", "event", "send",
];
/// How much of the end a picture shows.
const SCENES: usize = 200;
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;
