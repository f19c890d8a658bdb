//! A member in between that does with what passes whatever chance says: nothing false arrives, and all is well afterwards.

use std::sync::{Arc, Mutex};

use proto::QosSpec;
use proto::wire::{EnrolRelay, EnrolReply, SignedRecord};

use super::super::out::Class;
use super::super::{Meddler, Own, Sent};
use super::flows::{flow, read, register, write};
use super::*;
use crate::route::LinkState;

/// Pseudo-random numbers of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// With bits changed, cut, made longer or made anew.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        match self.below(6) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => bytes.extend((0..self.below(20)).map(|i| i as u8)),
            2 => bytes
                .iter_mut()
                .skip(1)
                .for_each(|b| *b = self.below(256) as u8),
            _ => {
                for _ in 0..=self.below(3) {
                    let at = self.below(bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
    }
}

struct Mischief {
    dice: Dice,
    old: Vec<Vec<u8>>,
    /// How many in a hundred it leaves alone; shared with the test, which ends it.
    spared: Arc<Mutex<usize>>,
}

impl Mischief {
    fn spares(&mut self) -> bool {
        let spared = *self.spared.lock().unwrap();
        self.dice.below(100) < spared
    }
}

impl Meddler for Mischief {
    fn forwarded(&mut self, _own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        if self.spares() {
            return vec![Sent::On(pdu.to_vec())];
        }
        let mut sent = Vec::new();
        for _ in 0..self.dice.below(4) {
            let mut this = match self.dice.below(3) {
                0 if !self.old.is_empty() => {
                    let at = self.dice.below(self.old.len());
                    self.old[at].clone()
                }
                _ => pdu.to_vec(),
            };
            if self.dice.below(2) == 0 {
                self.dice.spoil(&mut this);
            }
            if self.dice.below(4) == 0 && this.len() > 20 {
                this = [&this[..4], &this[12..20], &this[4..12], &this[20..]].concat();
            }
            sent.push(match self.dice.below(4) {
                0 => Sent::Back(this),
                _ => Sent::On(this),
            });
        }
        if self.old.len() < 500 {
            self.old.push(pdu.to_vec());
        }
        sent
    }

    fn records(&mut self, _own: &Own<'_>, records: &mut Vec<SignedRecord>) {
        if self.spares() {
            return;
        }
        for mut record in records.clone() {
            match self.dice.below(4) {
                0 => self.dice.spoil(&mut record.body),
                1 => self.dice.spoil(&mut record.signature),
                2 => self.dice.spoil(&mut record.certificate),
                _ => record.age = self.dice.below(2000) as u32,
            }
            let at = self.dice.below(records.len() + 1);
            records.insert(at, record);
        }
    }

    fn relayed(&mut self, _own: &Own<'_>, relay: EnrolRelay) -> Vec<EnrolRelay> {
        if self.spares() {
            return vec![relay];
        }
        let mut all = vec![relay.clone()];
        for id in 0..self.dice.below(4) as u64 {
            let mut other = relay.clone();
            other.id += 1000 + id;
            if let Some(request) = &mut other.request {
                match self.dice.below(4) {
                    0 => self.dice.spoil(&mut request.csr),
                    1 => self.dice.spoil(&mut request.seed_signature),
                    2 => self.dice.spoil(&mut request.invitation),
                    _ => self.dice.spoil(&mut other.exporter),
                }
            }
            let at = self.dice.below(all.len() + 1);
            all.insert(at, other);
        }
        all
    }

    fn answered(&mut self, _own: &Own<'_>, reply: &mut EnrolReply) {
        if self.spares() {
            return;
        }
        match self.dice.below(3) {
            0 => self.dice.spoil(&mut reply.certificate),
            1 => reply.chain.iter_mut().for_each(|c| self.dice.spoil(c)),
            _ => reply.chain.clear(),
        }
    }
}

/// The hostile member says something of its own accord, as a neighbour may: bytes of chance behind each first byte.
fn babble(net: &mut Net, dice: &mut Dice) {
    let lowers: Vec<FlowId> = net.node("b").machine.links.keys().copied().collect();
    for lower in lowers {
        let mut bytes = vec![dice.below(7) as u8; 1 + dice.below(60)];
        let len = bytes.len();
        bytes[1..]
            .iter_mut()
            .for_each(|b| *b = dice.below(256) as u8);
        let link = net.node("b").machine.links.get_mut(&lower).unwrap();
        if !link.can_seal() {
            continue;
        }
        let _ = link.send(Class::Control, len, |to| {
            to.copy_from_slice(&bytes);
            Ok(())
        });
    }
    net.input("b", Input::Timeout);
}

#[test]
fn whatever_a_member_in_between_does_nothing_false_arrives_and_nothing_stays_broken() {
    for seed in 1..=SEEDS {
        let mut dice = Dice(seed);
        let spared = Arc::new(Mutex::new(50));
        let mischief = Mischief {
            dice: Dice(seed << 32),
            old: Vec::new(),
            spared: spared.clone(),
        };
        let mut net = Net::new(&["a", "b", "c"]);
        net.cut("a", "c");
        bootstrap(&mut net, "a");
        join(&mut net, "a", "b");
        net.node("b").machine.meddle(Box::new(mischief));
        let url = invite(&mut net, "a", "c").unwrap();
        let joined = enroll(&mut net, "c", url);
        assert!(joined.is_ok(), "seed {seed}: {joined:?}");
        register(&mut net, "c", "server");
        net.seconds(1);
        *spared.lock().unwrap() = 90;
        net.seconds(40);
        flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
        *spared.lock().unwrap() = 40;
        let mut got = [Vec::new(), Vec::new()];
        for i in 0..400u32 {
            let sdu = [b"told ", &i.to_be_bytes()[..]].concat();
            write(&mut net, "a", 5, &[&sdu]);
            write(&mut net, "c", 5, &[&sdu]);
            babble(&mut net, &mut dice);
            got[0].extend(read(&mut net, "c", 5));
            got[1].extend(read(&mut net, "a", 5));
            // Long enough for fresh keys to be needed on the way.
            net.run(Duration::from_millis(300));
        }
        *spared.lock().unwrap() = 100;
        net.seconds(45);
        // What was held back until now still counts, once.
        got[0].extend(read(&mut net, "c", 5));
        got[1].extend(read(&mut net, "a", 5));
        for got in &mut got {
            let all = got.len();
            got.sort();
            got.dedup();
            assert_eq!(got.len(), all, "seed {seed}: an SDU came twice");
            let told = |sdu: &&Vec<u8>| sdu.starts_with(b"told ") && sdu.len() == 9;
            assert_eq!(got.iter().filter(told).count(), all, "seed {seed}");
            assert!(all > 100, "seed {seed}: only {all} arrived");
        }
        for at in ["a", "c"] {
            let status = status(&mut net, at);
            assert_eq!(status.members.len(), 3, "seed {seed}: {at}");
            assert!(status.members.iter().all(|m| m.reachable), "seed {seed}");
            for reason in ["forged", "replayed", "malformed"] {
                let dropped = status.counters.get(&format!("drop.{reason}"));
                assert!(dropped > Some(&0), "seed {seed}: {at} {reason}");
            }
            assert!(
                status.directory.iter().all(|e| e.member == "c"),
                "seed {seed}"
            );
        }
        flow(&mut net, "a", "c", "server", 6, QosSpec::RAW);
        for id in [5, 6] {
            write(&mut net, "a", id, &[b"at last"]);
            assert_eq!(
                read(&mut net, "c", id),
                [b"at last".to_vec()],
                "seed {seed}: flow {id}"
            );
        }
    }
}

#[test]
fn a_member_that_signs_ever_new_records_does_not_keep_those_behind_its_neighbours_busy() {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "a");
    for member in ["b", "c"] {
        join(&mut net, "a", member);
        net.seconds(1);
    }
    net.trace.clear();
    for i in 0..400u32 {
        let now = net.now();
        let machine = &mut net.node("a").machine;
        let link = |neighbour| LinkState {
            neighbour,
            cost: 10 + i,
            mtu: MTU,
        };
        let links = machine.adjacent.keys().copied().map(link).collect();
        // It does not restrain itself.
        machine.damper = Default::default();
        machine.publish_links(now, links, false, &[]);
        net.input("a", Input::Timeout);
        net.run(Duration::from_millis(5));
    }
    let passed_on = net
        .trace
        .iter()
        .filter(|(_, from, to, len)| (*from, *to) == ("b", "c") && *len > 150);
    let passed_on = passed_on.count();
    assert!((20..80).contains(&passed_on), "{passed_on} of 400");
    // The last one gets through all the same, and soon.
    net.run(Duration::from_millis(200));
    let a = net.node("a").machine.me.as_ref().unwrap().address;
    let c = net.node("c").machine.me.as_ref().unwrap();
    let costs: Vec<_> = c.routing.lsdb.links(a).iter().map(|l| l.cost).collect();
    assert_eq!(costs, [409]);
}

const SEEDS: u64 = 6;
