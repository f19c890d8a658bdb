//! The filter beside a plain model of what may come in, which keeps all that has passed, and beside receivers that put fragments
//! together. Nothing here is the filter's own code but the filter.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use ip::ends::Ends;
use proptest::prelude::*;

use super::rules::tests::rules;
use super::{Both, Filter, Way};
use crate::prefix::PeerId;

/// What one side says to the other.
#[derive(Debug, Clone, Copy)]
struct Said {
    out: bool,
    v4: bool,
    protocol: u8,
    /// The ports of who says it and of who hears it; of an echo its number, and whether it is an answer.
    from: u16,
    to: u16,
    flags: u8,
}

/// A part of it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    number: u8,
    at: usize,
    len: usize,
    more: bool,
}

#[derive(Debug, Clone)]
struct Act {
    pause: u64,
    said: Said,
    /// An ICMP error about it, by who hears it.
    error: bool,
    options: bool,
    piece: Option<Piece>,
}

impl Said {
    fn body(self) -> Vec<u8> {
        let mut out = vec![0; 32];
        if self.protocol == ICMP {
            out[0] = match (self.v4, self.answers()) {
                (true, false) => 8,
                (true, true) => 0,
                (false, false) => 128,
                (false, true) => 129,
            };
            out[4..6].copy_from_slice(&self.from.to_be_bytes());
        } else {
            out[..2].copy_from_slice(&self.from.to_be_bytes());
            out[2..4].copy_from_slice(&self.to.to_be_bytes());
            out[13] = self.flags;
        }
        out
    }

    fn answers(self) -> bool {
        self.to == 443
    }
}

impl Act {
    /// The packet, and whether it goes out.
    fn packet(&self) -> (bool, Vec<u8>) {
        let Said { out, v4, .. } = self.said;
        let (out, mut next, mut body) = match self.error {
            false => (out, on_wire(v4, self.said.protocol), self.said.body()),
            true => {
                let mut body = vec![if v4 { 3 } else { 1 }, 0, 0, 0, 0, 0, 0, 0];
                let next = on_wire(v4, self.said.protocol);
                body.extend(packet(v4, out, next, &self.said.body(), None));
                (!out, on_wire(v4, ICMP), body)
            }
        };
        if self.options && !v4 {
            body.splice(..0, [next, 0, 1, 4, 0, 0, 0, 0]);
            next = OPTIONS;
        }
        (out, packet(v4, out, next, &body, self.piece))
    }
}

fn on_wire(v4: bool, protocol: u8) -> u8 {
    match protocol {
        ICMP if !v4 => 58,
        other => other,
    }
}

fn packet(v4: bool, out: bool, next: u8, whole: &[u8], piece: Option<Piece>) -> Vec<u8> {
    let (src, dst) = if out { (1, 2) } else { (2, 1) };
    let (body, place) = match piece {
        None => (whole, None),
        Some(Piece { at, len, more, .. }) => {
            let begin = at.min(whole.len());
            let end = (begin + len).min(whole.len());
            (&whole[begin..end], Some((begin & !7, more)))
        }
    };
    let number = piece.map_or(0, |piece| piece.number);
    let mut bytes = Vec::new();
    if v4 {
        let place = place.map_or(0, |(at, more)| (at / 8) as u16 | u16::from(more) << 13);
        bytes.extend([0x45, 0, 0, 20 + body.len() as u8, 0, number]);
        bytes.extend(place.to_be_bytes());
        bytes.extend([9, next, 0, 0, 10, 7, 0, src, 10, 7, 0, dst]);
    } else {
        let head = if place.is_some() { 8 } else { 0 };
        let first = if place.is_some() { FRAGMENT } else { next };
        bytes.extend([0x60, 0, 0, 0, 0, (head + body.len()) as u8, first, 9]);
        for end in [src, dst] {
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
        }
        if let Some((at, more)) = place {
            bytes.extend([next, 0]);
            bytes.extend((at as u16 | u16::from(more)).to_be_bytes());
            bytes.extend([0, 0, 0, number]);
        }
    }
    bytes.extend(body);
    bytes
}

/// What a host that gets this takes it for: protocol, kind, ports as in the packet, flags; what is an error in full. `None`: it can't
/// be read so far.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Read {
    v4: bool,
    protocol: u8,
    /// Of ICMP: 0 an answer, 1 a question, 2 an error.
    kind: u8,
    from: u16,
    to: u16,
    flags: u8,
    about: Option<Box<Self>>,
}

fn read(v4: bool, mut next: u8, mut body: &[u8]) -> Option<Read> {
    if next == OPTIONS && !v4 {
        next = *body.first()?;
        body = body.get(8 + 8 * usize::from(body[1])..)?;
    }
    let short = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let mut read = Read {
        v4,
        protocol: next,
        kind: 0,
        from: 0,
        to: 0,
        flags: 0,
        about: None,
    };
    match next {
        TCP => {
            (read.from, read.to) = (short(0)?, short(2)?);
            read.flags = *body.get(13)?;
        }
        UDP => (read.from, read.to) = (short(0)?, short(2)?),
        ICMP | 58 => {
            read.protocol = ICMP;
            match body.first()? {
                0 | 129 => read.to = short(4)?,
                8 | 128 => (read.kind, read.from) = (1, short(4)?),
                _ => {
                    let quoted = body.get(8..)?;
                    let (next, at) = if v4 { (9, 20) } else { (6, 40) };
                    let about = self::read(v4, *quoted.get(next)?, quoted.get(at..)?)?;
                    (read.kind, read.about) = (2, Some(about.into()));
                }
            }
        }
        _ => return None,
    }
    Some(read)
}

/// All that passed, whole or as a first fragment.
#[derive(Default)]
struct Model {
    passed: Vec<(Instant, bool, Read)>,
    sends: Vec<u8>,
    takes: Vec<u8>,
}

impl Model {
    /// Rules allow port 443 of some protocols, and ICMP as a whole.
    fn allow(protocols: &[u8], what: &Read) -> bool {
        protocols.contains(&what.protocol) && (what.protocol == ICMP || what.to == 443)
    }

    /// Whether this may come in now.
    fn takes(&self, now: Instant, what: &Read) -> bool {
        if Self::allow(&self.takes, what) {
            return true;
        }
        if let Some(about) = &what.about {
            return self.since(now, about, |_, _| true);
        }
        let begins = match what.protocol {
            TCP => what.flags & 0x16 == 0x02,
            ICMP => what.kind != 0,
            _ => false,
        };
        let asked = |out: bool, said: &Read| {
            out && (said.protocol != ICMP || said.kind == 1) && Self::allow(&self.sends, said)
        };
        !begins && self.since(now, &turned(what), asked)
    }

    /// Whether such a one was said by either side, since when the two never were silent for longer than any of its kind may.
    fn since(&self, now: Instant, about: &Read, is: impl Fn(bool, &Read) -> bool) -> bool {
        let life = Duration::from_secs(match about.protocol {
            TCP => 7445,
            UDP => 180,
            _ => 30,
        });
        let ends = |read: &Read| (read.v4, read.protocol, read.from, read.to);
        let mut last = now;
        for (at, out, said) in self.passed.iter().rev().filter(|(.., s)| s.about.is_none()) {
            // As this host would say it.
            let own = if *out { said.clone() } else { turned(said) };
            if ends(&own) != ends(about) {
                continue;
            }
            if last.duration_since(*at) > life {
                return false;
            }
            if is(*out, said) {
                return true;
            }
            last = *at;
        }
        false
    }
}

fn turned(read: &Read) -> Read {
    Read {
        from: read.to,
        to: read.from,
        ..read.clone()
    }
}

/// A host that waits for ever, and believes of two fragments that overlap the newer or the older.
#[derive(Default)]
struct Receiver {
    newer: bool,
    /// By family, number, and with IPv4 the protocol.
    waiting: HashMap<(bool, u8, u8), Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: HashMap<usize, u8>,
    next: Option<u8>,
    end: Option<usize>,
}

impl Receiver {
    /// What is whole by this.
    fn take(&mut self, v4: bool, next: u8, piece: Option<Piece>, body: &[u8]) -> Option<Read> {
        let Some(Piece {
            number, at, more, ..
        }) = piece
        else {
            return read(v4, next, body);
        };
        let key = (v4, number, if v4 { next } else { 0 });
        let waiting = self.waiting.entry(key).or_default();
        let newer = self.newer;
        let put = |place: &mut Option<u8>, byte| {
            *place = place.filter(|_| !newer).or(Some(byte));
        };
        let len = if more { body.len() & !7 } else { body.len() };
        for (n, byte) in body[..len].iter().enumerate() {
            let mut place = waiting.bytes.get(&(at + n)).copied();
            put(&mut place, *byte);
            waiting.bytes.extend(place.map(|byte| (at + n, byte)));
        }
        if at == 0 && len > 0 {
            put(&mut waiting.next, next);
        }
        if !more {
            waiting.end = waiting.end.filter(|_| !newer).or(Some(at + len));
        }
        let (next, end) = (waiting.next?, waiting.end?);
        let whole: Option<Vec<u8>> = (0..end).map(|n| waiting.bytes.get(&n).copied()).collect();
        let whole = whole?;
        self.waiting.remove(&key);
        read(v4, next, &whole)
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    let at = prop_oneof![3 => Just(0), 1 => Just(8), 2 => Just(16), 1 => Just(24)];
    let len = prop_oneof![1 => Just(8usize), 1 => Just(13), 3 => Just(16), 2 => Just(32)];
    (0u8..2, at, len, any::<bool>()).prop_map(|(number, at, len, more)| Piece {
        number,
        at,
        len,
        // What is first and all is no fragment.
        more: more || at == 0,
    })
}

fn act() -> impl Strategy<Value = Act> {
    let port = || prop_oneof![Just(443u16), Just(443), Just(0), Just(22)];
    let flags = prop_oneof![
        Just(0x02u8),
        Just(0x12),
        Just(0x10),
        Just(0x11),
        Just(0x04),
        Just(0x06)
    ];
    let protocol = prop_oneof![3 => Just(TCP), 2 => Just(UDP), 2 => Just(ICMP)];
    let said = (
        any::<bool>(),
        any::<bool>(),
        protocol,
        port(),
        port(),
        flags,
    );
    let pause = prop_oneof![12 => Just(0u64), 3 => 1u64..25, 2 => 25u64..200, 1 => 7000u64..8000];
    let rarely = prop::bool::weighted;
    (
        pause,
        said,
        rarely(0.15),
        rarely(0.3),
        prop::option::of(piece()),
    )
        .prop_map(
            |(pause, (out, v4, protocol, from, to, flags), error, options, piece)| Act {
                pause,
                said: Said {
                    out,
                    v4,
                    protocol,
                    from,
                    to,
                    flags,
                },
                error,
                options,
                piece,
            },
        )
}

fn some_protocols() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::subsequence(vec![TCP, UDP, ICMP], 0..=3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_a_receiver_puts_together_was_judged(sends in some_protocols(), takes in some_protocols(), newer: bool, acts in prop::collection::vec(act(), 1..120)) {
        let id = PeerId(0);
        let allow = |protocols: &[u8]| {
            let rule = |p: &u8| if *p == ICMP { (true, 1, 0, 65_535) } else { (true, u32::from(*p), 443, 443) };
            Some(rules(&protocols.iter().map(rule).collect::<Vec<_>>()))
        };
        let mut filter = Filter::default();
        let both = Both { sends: allow(&sends), takes: allow(&takes) };
        filter.set(HashMap::from([(id, both)]));
        let mut model = Model { sends, takes, ..Model::default() };
        let mut receiver = Receiver { newer, ..Receiver::default() };
        let (mut now, mut judged) = (Instant::now(), HashSet::new());
        for act in acts {
            now += Duration::from_secs(act.pause);
            let (out, packet) = act.packet();
            let ends = Ends::parse(&packet).unwrap();
            let way = if out { Way::Out } else { Way::In };
            if filter.pass(now, (id, way), &packet, &ends).is_err() {
                continue;
            }
            let v4 = act.said.v4;
            let (next, at) = match (v4, act.piece) {
                (true, _) => (packet[9], 20),
                (false, None) => (packet[6], 40),
                (false, Some(_)) => (packet[40], 48),
            };
            let body = &packet[at..];
            if act.piece.is_none_or(|piece| piece.at == 0) {
                let what = read(v4, next, body);
                prop_assert!(what.is_some(), "it is too short to be judged: {act:?}");
                let what = what.unwrap();
                prop_assert!(out || model.takes(now, &what), "{what:?}");
                judged.extend((!out).then(|| what.clone()));
                model.passed.push((now, out, what));
            }
            if !out && let Some(got) = receiver.take(v4, next, act.piece, body) {
                prop_assert!(judged.contains(&got), "{got:?} was never judged");
            }
        }
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
