//! What members say of names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use layer::crypt::Identity;
use layer::dir::{Body, Directory, EntryError, NameHash, Output, Surroundings};
use prost::Message;
use proto::wire::{self, NameStore};
use proto::{Addr, Label, Reason};

use super::member::Layer;
use super::script::{Script, edited, write};

struct Around<'a> {
    me: &'a Identity,
    other: &'a Identity,
}

impl Surroundings for Around<'_> {
    fn me(&self) -> Addr {
        self.me.address()
    }

    fn layer(&self) -> &Label {
        self.me.layer()
    }

    fn life(&self) -> u64 {
        1
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.me.sign(bytes).to_vec()
    }

    fn cost(&self, member: Addr) -> Option<u64> {
        let known = [self.me.address(), self.other.address()];
        let place = known.iter().position(|addr| *addr == member)?;
        Some(place as u64)
    }

    fn life_of(&self, member: Addr) -> Option<u64> {
        self.cost(member).map(|_| 1)
    }

    fn check(&self, member: Addr, bytes: &[u8], signature: &[u8]) -> Result<(), EntryError> {
        let of = [self.me, self.other];
        let of = of.iter().find(|i| i.address() == member);
        let cert = of.ok_or(EntryError::Stranger)?.cert();
        cert.check(bytes, signature).map_err(|_| EntryError::Forged)
    }

    fn may_serve(&self, _member: Addr, _hash: &NameHash) -> Result<(), Reason> {
        Ok(())
    }
}

/// A list of acts of two members: messages as they are, names served and taken back, look-ups, time. What one says reaches
/// the other changed. Whom the first finds has said so.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let (a, b) = (&layer.issuer, &layer.member);
    let around = [Around { me: a, other: b }, Around { me: b, other: a }];
    let start = layer.at(Duration::ZERO).mono;
    let mut dirs = [a, b].map(|i| Directory::new(i.address(), [7; 32]));
    for (i, other) in [(0, b), (1, a)] {
        let all = || [other.address()].into_iter();
        dirs[i].set_members(start, around[i].me(), all(), all());
    }
    let mut script = Script(bytes);
    let mut after = Duration::ZERO;
    let mut said: BTreeSet<NameHash> = BTreeSet::new();
    for _ in 0..64 {
        let Some(act) = script.act() else { break };
        let now = layer.at(after).mono;
        let mut edits: &[u8] = &[];
        match act {
            0 => {
                if let Ok(message) = wire::Directory::decode(script.bytes()) {
                    let (src, id) = (Addr(message.src), message.id);
                    if let Some(body) = message.body {
                        dirs[0].handle(now, &around[0], b.address(), src, id, body);
                    }
                }
            }
            1 | 2 => {
                let hash = [script.byte(); 32];
                said.insert(hash);
                dirs[1].serve(now, &around[1], hash, act == 1);
                edits = script.bytes();
            }
            3 => {
                let hash = [script.byte(); 32];
                dirs[0].find(now, hash, None, true, now + Duration::from_secs(1));
                edits = script.bytes();
            }
            4 => dirs[0].reborn(now, b.address(), script.short().into()),
            _ => after += Duration::from_secs(script.short().into()),
        }
        let now = layer.at(after).mono;
        talk(now, &mut dirs, &around, edits);
        for hash in 0..=255 {
            let hash = [hash; 32];
            let found = dirs[0].resolve(now, &around[0], &hash);
            assert!(found.is_empty() || said.contains(&hash), "{found:?}");
        }
    }
}

/// Lets both say what they have to say, a few times.
fn talk(
    now: std::time::Instant,
    dirs: &mut [Directory; 2],
    around: &[Around<'_>; 2],
    edits: &[u8],
) {
    for round in 0..4 {
        let mut sent: BTreeMap<usize, Vec<(u64, Body)>> = BTreeMap::new();
        for (i, dir) in dirs.iter_mut().enumerate() {
            dir.tick(now, &around[i]);
            while let Some(output) = dir.poll() {
                if let Output::Send(_, id, body) = output {
                    sent.entry(1 - i).or_default().push((id, body));
                }
            }
        }
        for (to, all) in sent {
            for (id, mut body) in all {
                if let (Body::Store(NameStore { names }), 0) = (&mut body, round) {
                    for name in names {
                        name.body = edited(&name.body, edits);
                    }
                }
                let from = around[1 - to].me();
                dirs[to].handle(now, &around[to], from, from, id, body);
            }
        }
    }
}

/// Names that are served, changed on the way, taken back, looked for, renewed; messages that nobody has asked for.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let serve = |edits: &[u8]| {
        let mut out = Vec::new();
        write(&mut out, &[1, 5], edits);
        out
    };
    let mut gone = serve(&[]);
    write(&mut gone, &[2, 5], &[]);
    let mut found = serve(&[]);
    write(&mut found, &[3, 5], &[]);
    write(&mut found, &[3, 6], &[]);
    let mut later = found.clone();
    later.extend([9, 0x02, 0xbc, 9, 0x0e, 0x10]);
    later.extend([4, 0, 2]);
    let message = |body: Body| {
        let message = wire::Directory {
            dst: 1,
            src: 2,
            ttl: 64,
            id: 3,
            body: Some(body),
        };
        let mut out = Vec::new();
        write(&mut out, &[0], &message.encode_to_vec());
        out
    };
    let names = vec![wire::SignedName::default()];
    vec![
        ("served", serve(&[])),
        ("changed", serve(&[3, 0, 3, 1])),
        ("gone", gone),
        ("found", found),
        ("later", later),
        (
            "store",
            message(Body::Store(NameStore {
                names: names.clone(),
            })),
        ),
        ("unasked", message(Body::Found(wire::NameFound { names }))),
        ("find", message(Body::Find(wire::NameFind::default()))),
    ]
}
