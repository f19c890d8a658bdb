//! Flow and retransmission control, between two honest ends on a bad way and from a liar.

use std::time::{Duration, Instant};

use layer::frct::{Controller, Frct, Params, Pdu, State};
use proto::QosSpec;

use super::member::Layer;
use super::script::{Script, edited, write};

/// First the kind of flow, then a list of acts on its two ends. Until a PDU was changed or made up, what a reliable flow delivers
/// is what was written, in order, and a lossy one leaves out but changes and swaps nothing.
pub fn run(bytes: &[u8]) {
    let mut script = Script(bytes);
    let kind = script.byte();
    let begin = Layer::get().at(Duration::ZERO).mono;
    let mut talk = Talk {
        ends: [0, 1].map(|n| Frct::new(begin, params(kind, n))),
        reliable: params(kind, 0).qos.reliable,
        sent: Default::default(),
        read: [0, 0],
        honest: true,
        after: Duration::ZERO,
    };
    for _ in 0..256 {
        let Some(act) = script.act() else { break };
        talk.act(act, &mut script);
        talk.read(0, 1);
        talk.read(1, 0);
    }
}

struct Talk {
    ends: [Frct; 2],
    reliable: bool,
    sent: [Vec<Vec<u8>>; 2],
    read: [usize; 2],
    honest: bool,
    after: Duration,
}

impl Talk {
    fn act(&mut self, act: u8, script: &mut Script<'_>) {
        let (from, to) = (usize::from(act >> 7), usize::from(act >> 7 == 0));
        let now = Layer::get().at(self.after).mono;
        let mut pdu = [0; 1500];
        match act & 15 {
            0 | 8 => {
                let mut sdu = script.bytes().to_vec();
                if act & 8 != 0 {
                    sdu.resize(sdu.len() * 20, 7);
                }
                if self.ends[from].write(now, &sdu).is_ok() {
                    self.sent[from].push(sdu);
                }
            }
            1 => {
                let edits = script.bytes();
                self.honest &= edits.len() < 4;
                if let Some(len) = self.ends[from].poll(now, &mut pdu) {
                    let _ = self.ends[to].receive(now, &edited(&pdu[..len], edits), act & 64 != 0);
                }
            }
            2 => {
                self.honest = false;
                let made_up = script.bytes();
                let _ = self.ends[to].receive(now, made_up, false);
                if let Ok(Pdu { ack: Some(ack), .. }) = Pdu::parse(made_up) {
                    assert!(ack.ranges(ack.largest.into()).count() <= 33);
                }
            }
            3 => drop(self.ends[from].poll(now, &mut pdu)),
            4 => self.after += Duration::from_millis(script.short().into()),
            5 => {
                for _ in 0..64 {
                    let Some(len) = self.ends[from].poll(now, &mut pdu) else {
                        break;
                    };
                    let _ = self.ends[to].receive(now, &pdu[..len], false);
                    let _ = self.ends[to].receive(now, &pdu[..len], false);
                }
            }
            6 => self.ends[from].set_payload(usize::from(script.short() % 1500)),
            7 => self.ends[from].shut(),
            9 => self.after += wake(&self.ends[from], now),
            10 => self.ends[from].rerouted(),
            _ => {}
        }
    }

    /// Reads all that has arrived at an end and was written at the other.
    fn read(&mut self, end: usize, other: usize) {
        let (end, read) = (&mut self.ends[end], &mut self.read[end]);
        while let Some(sdu) = end.read() {
            let sdu = sdu.to_vec();
            let left = self.sent[other].iter().skip(*read);
            let place = left.into_iter().position(|s| *s == sdu);
            if self.honest {
                let place = place.expect("what was read was never written, or before");
                assert!(place == 0 || !self.reliable, "an SDU was left out");
            }
            *read += 1 + place.unwrap_or(0);
        }
        let _ = (end.deadline(), end.stats(), end.writable());
        if let State::Failed(failure) = end.state() {
            assert!(!failure.to_string().is_empty());
        }
    }
}

/// How long until an end wants to be polled.
fn wake(end: &Frct, now: Instant) -> Duration {
    end.deadline()
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
}

fn params(kind: u8, number: u32) -> Params {
    let qos = match kind & 3 {
        0 => QosSpec::DATA,
        1 => QosSpec::BEST,
        2 => QosSpec::VOICE,
        _ => QosSpec {
            timeout_ms: 1000,
            ..QosSpec::DATA
        },
    };
    let controller = if kind & 4 == 0 {
        Controller::Cubic
    } else {
        Controller::Bbr
    };
    Params {
        controller,
        // The numbers of one end wrap soon.
        ..Params::new(qos, 200, number.wrapping_sub(3))
    }
}

/// Talks of each kind, losses that are mended, an end, and PDUs of a liar.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let long: Vec<u8> = (0..=255).collect();
    let mut seeds = talks(&long);
    let made_up = |kind: u8, pdu: &[u8]| {
        [
            &[kind][..],
            &said(0, &long),
            &[3],
            &said(0x82, pdu),
            &EXCHANGE,
        ]
        .concat()
    };
    let changed = [
        &[0][..],
        &said(0, &long),
        &said(1, &[3, 0, 1, 1]),
        &EXCHANGE,
    ]
    .concat();
    let data = [1, 5, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];
    let ack = [
        [1, 2, 1, 0, 255, 255, 255, 253],
        [0, 2, 0, 3, 0, 0, 0, 0],
        [0, 0, 0, 4, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 1],
    ];
    seeds.extend([
        ("changed", changed),
        ("data", made_up(0, &data)),
        ("ack", made_up(4, &ack.concat())),
    ]);
    seeds
}

/// What two honest ends do.
fn talks(long: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let wait = |ms: u16| [&[4][..], &ms.to_be_bytes()].concat();
    let talk = |kind: u8| {
        let both = [said(0, b"hello"), said(0x88, long)].concat();
        [&[kind][..], &both, &EXCHANGE, &wait(10), &EXCHANGE].concat()
    };
    let lost = |kind: u8| {
        let sent = [&[kind][..], &said(8, long), &[3, 3], &EXCHANGE].concat();
        [&sent[..], &wait(6), &EXCHANGE, &wait(400), &EXCHANGE].concat()
    };
    let ends = [
        &[0][..],
        &said(0, b"last"),
        &[7, 0x87],
        &EXCHANGE,
        &[9],
        &EXCHANGE,
    ]
    .concat();
    let cut = [
        &[0][..],
        &said(8, long),
        &EXCHANGE,
        &[6, 0, 80, 9, 10],
        &EXCHANGE,
    ]
    .concat();
    let silent = [&[3][..], &EXCHANGE, &[9, 5, 9, 3], &wait(1000), &[3]].concat();
    vec![
        ("talk-data", talk(0)),
        ("talk-best", talk(5)),
        ("talk-voice", talk(2)),
        ("lost-data", lost(4)),
        ("lost-best", lost(1)),
        ("ends", ends),
        ("cut", cut),
        ("silent", silent),
    ]
}

/// An act with bytes.
fn said(act: u8, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, &[act], text);
    out
}

/// Both send all they may, twice.
const EXCHANGE: [u8; 4] = [5, 0x85, 5, 0x85];
