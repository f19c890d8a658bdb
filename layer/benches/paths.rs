//! A packet's way through this crate, and through the batches of `proto`: counted by `.ci/counts`.
//!
//! `seal` and `open` are the cipher with its counter and window; `send`, `forward` and `receive` are what a member does with the
//! batch of a raw flow, ciphers included: the flow ends at the neighbour behind the next, so that all of it is sealed twice.
//! `known` is what the layer's process looks up of a packet to a device that was handed over: of a pair of addresses, of a
//! conversation, and of two in turns.

mod association;
#[path = "../../ip/benches/counted/mod.rs"]
mod counted;
#[path = "../../ipcp/src/devices/known.rs"]
#[allow(
    dead_code,
    reason = "of `ipcp`, which is too much to be built for this"
)]
mod known;
mod line;

use std::hint::black_box;
use std::time::Instant;

use layer::crypt::{Secrets, TAG};
use layer::{Input, Ipcp, Output};
use proto::record::{Pair, Talk};
use proto::{Batch, FlowId, Framing, QosSpec};

use self::known::{Known, Way};
use self::line::Line;

fn main() {
    counted::processor();
    let secrets = association::secrets(&association::config());
    for size in [64, 1400] {
        ciphers(&secrets, size);
        records(size);
    }
    let mut line = Line::new(3);
    line.ask(QosSpec::RAW);
    line.settle();
    let flow = line.stand[0];
    look_ups(flow);
    for size in [64, 1400] {
        members(&mut line, flow, size);
    }
}

fn ciphers(secrets: &Secrets, size: usize) {
    let ((mut seal, _), (_, mut open)) = (secrets.hop_keys(true), secrets.hop_keys(false));
    let (mut header, mut body) = ([0; 16], vec![7; size + TAG]);
    counted::path(&format!("seal_{size}"), PACKETS, || {
        for _ in 0..PACKETS {
            seal.seal(&mut header, &mut body).expect("a fresh key");
        }
    });
    let sealed: Vec<_> = (0..2 * PACKETS)
        .map(|_| {
            let (mut header, mut body) = ([0; 16], vec![7; size + TAG]);
            seal.seal(&mut header, &mut body).expect("a fresh key");
            (header, body)
        })
        .collect();
    let mut sealed = sealed.into_iter();
    let mut halves = [(); 2].map(|()| sealed.by_ref().take(PACKETS).collect::<Vec<_>>());
    let mut next = halves.iter_mut();
    counted::path(&format!("open_{size}"), PACKETS, || {
        for (header, body) in next.next().expect("a half for each time") {
            let body = open.open(header, body).expect("as it was sealed");
            black_box(body);
        }
    });
}

fn records(size: usize) {
    let sdu = vec![7; size];
    let mut batch = Batch::new(Framing::Record);
    counted::path(&format!("record_write_{size}"), PACKETS, || {
        for _ in 0..PACKETS / TRAIN {
            batch.clear();
            for _ in 0..TRAIN {
                batch.push(size).expect("room").copy_from_slice(&sdu);
            }
            black_box(&mut batch);
        }
    });
    let bytes = batch.bytes().to_vec();
    counted::path(&format!("record_read_{size}"), PACKETS, || {
        for _ in 0..PACKETS / TRAIN {
            // In place of the system call that reads it.
            batch.space()[..bytes.len()].copy_from_slice(&bytes);
            batch.set_record(bytes.len()).expect("as it was written");
            for sdu in batch.iter() {
                black_box(sdu);
            }
        }
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench is no part of the machine; it needs a beginning of time"
)]
fn look_ups(flow: FlowId) {
    let now = Instant::now();
    let pair = |other| Pair::V4([10, 7, 0, 1], [10, 7, 0, other]);
    let (mut pairs, mut talks) = (Known::new(), Known::new());
    for other in [2, 3] {
        pairs.pair(flow, pair(other), now);
        let talk = Talk {
            out: false,
            protocol: 6,
            ports: (80, 40_000),
            pair: pair(other),
        };
        talks.talk(flow, talk, now);
    }
    for (name, known) in [("pair", &mut pairs), ("talk", &mut talks)] {
        for (more, others) in [("", [2, 2]), ("s", [2, 3])] {
            let packets = others.map(from);
            counted::path(&format!("known_{name}{more}"), PACKETS, || {
                for _ in 0..PACKETS / 2 {
                    for packet in &packets {
                        let found = known.flow_of(Way::In(flow), packet, now);
                        assert_eq!(black_box(found), Some(flow), "it goes by itself");
                    }
                }
            });
        }
    }
}

/// A packet of TCP from another host's port 40,000 to this host's 80.
fn from(other: u8) -> Vec<u8> {
    let mut out = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 63, 6, 0, 0];
    out.extend([10, 7, 0, other, 10, 7, 0, 1, 0x9c, 0x40, 0, 80]);
    out.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    out
}

/// What the first sends, the second forwards and the third receives.
fn members(line: &mut Line, flow: FlowId, size: usize) {
    let now = line.now();
    let record = || {
        let mut batch = Batch::new(Framing::Record);
        for _ in 0..TRAIN {
            batch.push(size).expect("room").fill(7);
        }
        batch
    };
    let fresh = || (0..PACKETS / TRAIN).map(|_| record()).collect::<Vec<_>>();
    let work = |line: &mut Line, at: usize, input| {
        let member = &mut line.members[at];
        let mut out = Vec::with_capacity(1);
        member.handle(now, input);
        while let Some(output) = member.poll() {
            out.push(output);
        }
        out
    };
    let mut runs = [fresh(), fresh()].into_iter();
    let mut sent = Vec::new();
    counted::path(&format!("send_{size}"), PACKETS, || {
        let mut out = Vec::with_capacity(PACKETS);
        for batch in runs.next().expect("one for each time") {
            out.append(&mut work(line, 0, Input::Upper(flow, batch)));
        }
        sent.push(out);
    });
    let margin = line.members[0].margin(flow);
    let train = || {
        let mut batch = Batch::train_within(margin);
        for _ in 0..TRAIN {
            batch.push(size).expect("room").fill(7);
        }
        batch
    };
    let fresh = || (0..PACKETS / TRAIN).map(|_| train()).collect::<Vec<_>>();
    let mut trains = [fresh(), fresh()].into_iter();
    counted::path(&format!("send_train_{size}"), PACKETS, || {
        for batch in trains.next().expect("one for each time") {
            black_box(work(line, 0, Input::Upper(flow, batch)));
        }
    });
    let mut forwarded = Vec::new();
    let mut runs = std::mem::take(&mut sent).into_iter();
    counted::path(&format!("forward_{size}"), PACKETS, || {
        let mut out = Vec::with_capacity(PACKETS);
        for output in runs.next().expect("one for each time") {
            if let Output::Lower(lower, batch) = output {
                out.append(&mut work(line, 1, Input::Lower(lower, batch)));
            }
        }
        forwarded.push(out);
    });
    let mut received = 0;
    let mut runs = forwarded.into_iter();
    counted::path(&format!("receive_{size}"), PACKETS, || {
        received = 0;
        for output in runs.next().expect("one for each time") {
            if let Output::Lower(lower, batch) = output {
                for output in work(line, 2, Input::Lower(lower, batch)) {
                    if let Output::Upper(_, batch) = output {
                        received += batch.count();
                    }
                }
            }
        }
    });
    assert_eq!(received, PACKETS, "packets of {size} bytes were lost");
}

/// Packets of one batch, and of all.
const TRAIN: usize = 40;
const PACKETS: usize = 25 * TRAIN;
