//! What goes wrong with hosts and cables beyond a cut: one way only, clocks, disks, slow and lying members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;
use proto::Addr;
use proto::wire::{LinkState, Record, SignedRecord};

use super::acts::Act;
use super::chance::Chance;
use super::programs::name_of;
use super::world::World;
use crate::crypt::name_hash;
use crate::dir::{KEEPERS, nearest};
use crate::{Meddler, Own, Sent};

impl World {
    /// Something that a whole host does belongs into the story.
    pub(super) fn tell_all(&mut self, host: usize, text: impl Into<String>) {
        self.story.tell(self.elapsed, host, host, text);
    }

    pub(super) fn one_way(&mut self, from: usize, to: usize, deaf: bool) {
        if let Some(cable) = self.net.cable_mut(from, to) {
            cable.deaf[usize::from(from > to)] = deaf;
            self.counts.cuts += u64::from(deaf);
            let text = if deaf {
                "nothing gets through"
            } else {
                "it gets through again"
            };
            self.story.tell(self.elapsed, from, to, text);
        }
    }

    /// A machine dies and its files are gone: its name was bound to the key that it had, so it comes back as another
    /// member. The disk of the first holds the layer's authority and is never lost.
    pub(super) fn lose_disk(&mut self, host: usize) {
        if host == 0 || !self.hosts[host].alive() || !self.hosts[host].member {
            return;
        }
        self.act(Act::Crash(host));
        self.tell_all(host, "and loses its disk");
        self.counts.disks += 1;
        self.become_another(host);
    }

    /// All that keep the name of a host die but one, and start again after a while. Neither the host itself is among them nor
    /// the first.
    pub(super) fn lose_keepers(&mut self, host: usize, lasts: Duration) {
        let Some(name) = name_of(host) else { return };
        let hosts = self.hosts.iter().enumerate();
        let members = hosts.filter(|(_, h)| h.alive() && h.member);
        let members: BTreeMap<Addr, usize> = members.map(|(i, h)| (h.address, i)).collect();
        let sorted: Vec<Addr> = members.keys().copied().collect();
        let keepers = nearest(&sorted, &name_hash(&self.layer, &name), KEEPERS);
        let keepers = keepers.into_iter().map(|address| members[&address]);
        for keeper in keepers.skip(1).filter(|k| *k != host && *k != 0) {
            self.act(Act::Crash(keeper));
            self.later(lasts, Act::Restart(keeper));
        }
    }

    /// It joins again, with the files that it has, or by another invitation.
    pub(super) fn return_of(&mut self, host: usize) {
        if self.hosts[host].member {
            return self.restart(host);
        }
        if self.hosts[host].ghost {
            self.stop(host);
            self.become_another(host);
        }
        self.later(Duration::from_millis(1), Act::Enrol(host));
    }

    pub(super) fn lie(&mut self, host: usize, lies: bool) {
        let seed = Chance::new(self.chance.below(usize::MAX) as u64, 2);
        let Some(machine) = self.hosts[host].machine.as_mut() else {
            return;
        };
        machine.meddle(if lies {
            Box::new(Liar::new(seed))
        } else {
            Box::new(Honest)
        });
        self.counts.lies += u64::from(lies);
        self.tell_all(
            host,
            if lies {
                "begins to lie"
            } else {
                "is honest again"
            },
        );
    }
}

struct Honest;

impl Meddler for Honest {}

/// Drops, doubles, alters and repeats what passes through it, claims that others said what they didn't and that it is a
/// neighbour of everybody.
struct Liar {
    chance: Chance,
    old: Vec<u8>,
    others: BTreeSet<u64>,
}

impl Liar {
    fn new(chance: Chance) -> Self {
        Self {
            chance,
            old: Vec::new(),
            others: BTreeSet::new(),
        }
    }

    /// A record of its own that makes it the neighbour of everybody, for nothing.
    fn attract(&self, own: &Own<'_>, record: &mut SignedRecord, mut body: Record) {
        body.counter += 1;
        for link in &mut body.links {
            link.cost = 1;
        }
        let link = |neighbour: &u64| LinkState {
            neighbour: *neighbour,
            cost: 1,
            mtu: 9000,
        };
        body.links.extend(self.others.iter().take(64).map(link));
        record.body = body.encode_to_vec();
        let signed = [
            b"strata record v1",
            own.identity.layer().as_str().as_bytes(),
            &[0],
        ];
        let signed = [signed.concat(), record.body.clone()].concat();
        record.signature = own.identity.sign(&signed).to_vec();
    }
}

impl Meddler for Liar {
    fn forwarded(&mut self, _own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        let whole = || Sent::On(pdu.to_vec());
        let old = std::mem::replace(&mut self.old, pdu.to_vec());
        match self.chance.below(8) {
            0 => Vec::new(),
            1 => vec![whole(), whole()],
            2 if !old.is_empty() => vec![Sent::On(old), whole()],
            3 => {
                let mut altered = pdu.to_vec();
                // What becomes of an altered hello hangs on bytes that differ from run to run; its header does not.
                let most = match pdu.first() {
                    Some(5) => 20.min(pdu.len()),
                    _ => pdu.len(),
                };
                let bit = self.chance.below(most * 8);
                altered[bit / 8] ^= 1 << (bit % 8);
                vec![Sent::On(altered)]
            }
            _ => vec![whole()],
        }
    }

    fn records(&mut self, own: &Own<'_>, records: &mut Vec<SignedRecord>) {
        for record in records.iter_mut() {
            let Ok(body) = Record::decode(record.body.as_slice()) else {
                continue;
            };
            let mine = body.origin == own.identity.address().0;
            if !mine && self.others.len() < 64 {
                self.others.insert(body.origin);
            }
            match self.chance.below(10) {
                // What it says of itself it may sign.
                0..4 if mine && body.kind == 1 => self.attract(own, record, body),
                0 => record.age += 600,
                1 => {
                    let forged = Record {
                        counter: body.counter + 1000,
                        ..body
                    };
                    record.body = forged.encode_to_vec();
                }
                2 => {
                    let at = self.chance.below(record.signature.len());
                    record.signature[at] ^= 1;
                }
                _ => {}
            }
        }
        if self.chance.permille(100) {
            records.clear();
        }
    }
}
