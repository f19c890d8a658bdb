//! All that can happen to two ends with tiny windows when few PDUs are lost, doubled and swapped, step by step.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use proto::QosSpec;

use super::link::sdu;
use crate::frct::{Frct, Params, State};

/// Where all stands. PDUs on their way may come in any order.
#[derive(Clone)]
struct World {
    now: Instant,
    ends: [Frct; 2],
    way: [Vec<Vec<u8>>; 2],
    /// How many SDUs each end has written, and what each has read.
    written: [u32; 2],
    read: [Vec<Vec<u8>>; 2],
    /// How many PDUs may still be lost, doubled, and how many timers may run out before.
    losses: u32,
    doubles: u32,
    timers: u32,
}

/// One step.
#[derive(Debug, Clone, Copy)]
enum Act {
    Deliver(usize, usize),
    Double(usize, usize),
    Lose(usize, usize),
    Read(usize),
    Time,
}

/// Bytes of an SDU: with its length and the header, a PDU.
const LEN: usize = 44;

impl World {
    /// `window` in bytes.
    fn new(
        qos: QosSpec,
        window: u64,
        written: [u32; 2],
        [losses, doubles, timers]: [u32; 3],
    ) -> Self {
        let now = super::start();
        let params = Params {
            receive_buffer: window as usize,
            first_credit: window,
            ..Params::new(qos, Frct::LEAST_PAYLOAD, 7)
        };
        let mut ends = [(); 2].map(|()| Frct::begin(now, params.clone()));
        for (from, end) in ends.iter_mut().enumerate() {
            for n in 0..written[from] {
                assert_eq!(end.write(now, &its_sdu(from, n)), Ok(()));
            }
            end.shut();
        }
        let mut world = Self {
            now,
            ends,
            way: Default::default(),
            written,
            read: Default::default(),
            losses,
            doubles,
            timers,
        };
        world.flush();
        world
    }

    fn flush(&mut self) {
        for (end, way) in self.ends.iter_mut().zip(&mut self.way) {
            let mut pdu = [0; Frct::LEAST_PAYLOAD];
            while let Some(len) = end.poll(self.now, &mut pdu) {
                way.push(pdu[..len].to_vec());
            }
        }
    }

    fn acts(&self) -> Vec<Act> {
        let mut acts = Vec::new();
        for (from, way) in self.way.iter().enumerate() {
            for (i, pdu) in way.iter().enumerate() {
                if way[..i].contains(pdu) {
                    continue;
                }
                acts.push(Act::Deliver(from, i));
                if self.losses > 0 {
                    acts.push(Act::Lose(from, i));
                }
                if self.doubles > 0 {
                    acts.push(Act::Double(from, i));
                }
            }
        }
        let readable = |at: &usize| self.ends[*at].next_len().is_some();
        acts.extend((0..2).filter(readable).map(Act::Read));
        if self.timers > 0 {
            acts.push(Act::Time);
        }
        acts
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Deliver(from, i) => {
                let pdu = self.way[from].remove(i);
                let _ = self.ends[1 - from].receive(self.now, &pdu, false);
            }
            Act::Double(from, i) => {
                self.doubles -= 1;
                let pdu = self.way[from][i].clone();
                let _ = self.ends[1 - from].receive(self.now, &pdu, false);
            }
            Act::Lose(from, i) => {
                self.losses -= 1;
                self.way[from].remove(i);
            }
            Act::Read(at) => self.read(at),
            Act::Time => {
                self.timers -= 1;
                self.wait();
            }
        }
        self.flush();
    }

    fn read(&mut self, at: usize) {
        let Some(read) = self.ends[at].read() else {
            return;
        };
        self.read[at].push(read.to_vec());
    }

    /// Goes to the next deadline; false: there is none.
    fn wait(&mut self) -> bool {
        let Some(at) = self.ends.iter().filter_map(Frct::deadline).min() else {
            return false;
        };
        self.now = self.now.max(at);
        true
    }

    /// What was read is what was written: none twice, none changed, and none left out but by a lossy flow.
    fn check(&self, reliable: bool) -> Result<(), String> {
        for (from, written) in self.written.into_iter().enumerate() {
            let mut sdus = (0..written).map(|n| its_sdu(from, n));
            for (i, read) in self.read[1 - from].iter().enumerate() {
                let right = if reliable {
                    sdus.next().as_ref() == Some(read)
                } else {
                    sdus.any(|sdu| sdu == *read)
                };
                if !right {
                    return Err(format!("SDU {i} of {from} is {read:?}"));
                }
            }
        }
        for end in &self.ends {
            if let State::Failed(failure) = end.state() {
                return Err(failure.to_string());
            }
        }
        Ok(())
    }

    /// Without further losses, all ends well.
    fn finishes(mut self, reliable: bool) -> Result<(), String> {
        let start = self.now;
        for _ in 0..300 {
            if self.ends.iter().all(|end| end.state() == State::Finished) {
                self.check(reliable)?;
                let all = (0..2).all(|at| self.read[at].len() == self.written[1 - at] as usize);
                return if all || !reliable {
                    Ok(())
                } else {
                    Err("some are missing".into())
                };
            }
            for from in 0..2 {
                for pdu in std::mem::take(&mut self.way[from]) {
                    let _ = self.ends[1 - from].receive(self.now, &pdu, false);
                }
            }
            for at in 0..2 {
                while self.ends[at].next_len().is_some() {
                    self.read(at);
                }
            }
            self.flush();
            if self.way.iter().all(Vec::is_empty) && !self.wait() {
                break;
            }
            self.flush();
        }
        Err(format!(
            "no end after {:?}: {:?}",
            self.now - start,
            self.ends.map(|e| e.state())
        ))
    }

    /// What decides the future. What was measured does so only by the deadlines that it leads to.
    fn signature(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for end in &self.ends {
            let (sender, waits) = (&end.sender, end.waits());
            let waits = waits
                .map(|at| at.map(|at| at.saturating_duration_since(self.now).as_micros() / 100));
            let text = format!(
                "{:?} {} {:?} {:?} {waits:?}",
                sender.stream,
                sender.flight.fates(),
                end.incoming,
                end.acks,
            );
            without_times(&text).hash(&mut hasher);
            format!("{:?}", end.state()).hash(&mut hasher);
        }
        let mut way = self.way.clone();
        way.iter_mut().for_each(|way| way.sort());
        (way, &self.read, self.losses, self.doubles, self.timers).hash(&mut hasher);
        hasher.finish()
    }
}

/// An SDU of one end.
fn its_sdu(from: usize, n: u32) -> Vec<u8> {
    sdu(100 * from as u32 + n, LEN)
}

/// The text without times: they say nothing that the deadlines don't.
fn without_times(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("Instant {") {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once('}').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}

/// Explores; gives the number of states.
fn explore(what: &str, world: World, reliable: bool) -> usize {
    let mut seen = HashSet::from([world.signature()]);
    let mut left = vec![(world, Vec::new())];
    let mut deepest = 0;
    while let Some((world, path)) = left.pop() {
        deepest = deepest.max(path.len());
        let checked = world.check(reliable);
        let checked = checked.and_then(|()| world.clone().finishes(reliable));
        assert_eq!(checked, Ok(()), "{what}: after {path:?}");
        for act in world.acts() {
            let mut next = world.clone();
            next.act(act);
            if seen.insert(next.signature()) {
                let path = path.iter().copied().chain([act]).collect();
                left.push((next, path));
            }
        }
    }
    println!("FIGURE {what}: {} states, {deepest} steps deep", seen.len());
    seen.len()
}

#[test]
fn whatever_is_lost_doubled_or_swapped_all_arrives_once_and_in_order() {
    // A window of one SDU closes and opens; in one of all PDUs overtake each other.
    let mut states = 0;
    for (window, written, budget) in [
        (50, [3, 0], [1, 1, 0]),
        (50, [3, 0], [0, 0, 1]),
        (50, [2, 0], [1, 0, 1]),
        (50, [1, 0], [0, 1, 1]),
        (200, [3, 0], [1, 1, 0]),
        (200, [3, 0], [2, 0, 0]),
        (200, [1, 1], [1, 1, 0]),
        (200, [1, 1], [0, 0, 1]),
    ] {
        let [losses, doubles, timers] = budget;
        let what = format!(
            "window of {window}, {written:?} written, {losses} lost, {doubles} doubled, {timers} timers early"
        );
        let world = World::new(QosSpec::DATA, window, written, budget);
        states += explore(&what, world, true);
    }
    assert!(states > 10_000, "{states}");
}

#[test]
fn whatever_is_lost_doubled_or_swapped_a_lossy_flow_ends_and_delivers_in_order() {
    let mut states = 0;
    for budget in [[0, 1, 0], [2, 0, 0]] {
        states += explore(
            "lossy",
            World::new(QosSpec::BEST, 100, [3, 0], budget),
            false,
        );
    }
    assert!(states > 1000, "{states}");
}
