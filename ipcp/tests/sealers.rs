//! What is sealed on more cores leaves in the order in which the machine gave it, and is what the machine would have sealed.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../../layer/benches/line/mod.rs"]
#[allow(
    unfulfilled_lint_expectations,
    reason = "of `layer`, where a look at the clock is a fault"
)]
mod line;

use ipcp::sealers::Sealers;
use layer::{Input, Ipcp, Output};
use proto::ipcp::{Offload, OffloadKind, OffloadMode};
use proto::irm::IpcpStatus;
use proto::{Batch, FlowId, Framing, QosSpec};

use self::line::Line;

fn switched(mode: OffloadMode) -> Sealers<(FlowId, u32)> {
    let mut sealers = Sealers::new();
    let kind = OffloadKind::Seal;
    sealers.set(&[Offload { kind, mode }]);
    sealers
}

fn told(sealers: &Sealers<(FlowId, u32)>) -> (String, String, u64) {
    let mut status = IpcpStatus::default();
    sealers.status(&mut status);
    let elsewhere = status.counters.get("sealed.elsewhere").copied();
    (
        status.settings["offload.seal"].clone(),
        status.settings["offload.seal_threads"].clone(),
        elsewhere.unwrap_or(0),
    )
}

/// Writes SDUs of that size in one turn of the first member, and gives those that the second one has got.
fn turn(
    line: &mut Line,
    sealers: &mut Sealers<(FlowId, u32)>,
    numbers: &[u32],
    size: usize,
) -> Vec<u32> {
    let (flow, now) = (line.stand[0], line.now());
    for part in numbers.chunks(30) {
        let mut record = Batch::new(Framing::Record);
        for n in part {
            record.push(size).unwrap()[..4].copy_from_slice(&n.to_be_bytes());
        }
        line.members[0].handle(now, Input::Upper(flow, record));
    }
    let (mut sent, mut left, mut next) = (Vec::new(), 0, 0);
    loop {
        let mut full = false;
        while !full && let Some(output) = line.members[0].poll() {
            match output {
                Output::Unsealed(to, unsealed) => {
                    full = sealers.put((to, left), unsealed);
                    left += 1;
                }
                Output::Lower(to, batch) => sent.push((to, batch)),
                other => panic!("{other:?}"),
            }
        }
        sealers.begin();
        let before = sent.len();
        while let Some(((to, number), batch)) = sealers.pop() {
            assert_eq!(number, next, "each goes where it was to go");
            next += 1;
            sent.push((to, batch));
        }
        if sent.len() == before {
            break;
        }
    }
    let mut got = Vec::new();
    for (to, batch) in sent {
        line.members[1].handle(now, Input::Lower(to, batch));
        while let Some(output) = line.members[1].poll() {
            if let Output::Upper(_, batch) = output {
                let number = |sdu: &[u8]| u32::from_be_bytes(sdu[..4].try_into().unwrap());
                got.extend(batch.iter().map(number));
            }
        }
    }
    got
}

fn two() -> Line {
    let mut line = Line::new(2);
    line.ask(QosSpec::RAW);
    line.settle();
    line
}

#[test]
fn whatever_leaves_in_a_turn_leaves_in_its_order() {
    let mut line = two();
    line.members[0].leave_seals(true);
    let mut sealers = switched(OffloadMode::On);
    assert!(sealers.are_used());
    let mut last = 0;
    // From a single packet to far more than one turn holds, and no more than the queue of a link.
    for (count, size) in [
        (1, 1400),
        (2, 64),
        (46, 1400),
        (90, 1400),
        (500, 1000),
        (2000, 1400),
        (7, 9),
    ] {
        let numbers: Vec<u32> = (last..last + count).collect();
        last += count;
        let got = turn(&mut line, &mut sealers, &numbers, size);
        assert!(
            got == numbers,
            "{count} of {size} bytes: {} came",
            got.len()
        );
    }
    let (mode, threads, elsewhere) = told(&sealers);
    assert_eq!(mode, "on");
    assert!(threads.parse::<usize>().unwrap() >= 1, "{threads} threads");
    assert!(elsewhere >= 20, "{elsewhere} batches were sealed elsewhere");
}

#[test]
fn the_switch_is_turned_while_packets_flow() {
    let mut line = two();
    let mut sealers = switched(OffloadMode::On);
    let mut last = 0;
    let mut before = 0;
    for mode in [
        OffloadMode::On,
        OffloadMode::Off,
        OffloadMode::On,
        OffloadMode::Off,
    ] {
        let kind = OffloadKind::Seal;
        sealers.set(&[Offload { kind, mode }]);
        line.members[0].leave_seals(sealers.are_used());
        let numbers: Vec<u32> = (last..last + 400).collect();
        last += 400;
        let got = turn(&mut line, &mut sealers, &numbers, 1400);
        assert!(got == numbers, "{mode:?}: {} came", got.len());
        let (_, threads, elsewhere) = told(&sealers);
        let on = mode == OffloadMode::On;
        assert_eq!((threads != "0", elsewhere > before), (on, on), "{mode:?}");
        before = elsewhere;
    }
}

#[test]
fn little_is_sealed_where_it_is_sent() {
    let mut line = two();
    line.members[0].leave_seals(true);
    let mut sealers = switched(OffloadMode::On);
    for n in 0..50 {
        assert_eq!(turn(&mut line, &mut sealers, &[n], 1400), [n]);
    }
    // A super-packet of the largest kind: a train, and a few packets that had no room in it.
    let numbers: Vec<u32> = (50..99).collect();
    assert_eq!(turn(&mut line, &mut sealers, &numbers, 1400), numbers);
    let (_, threads, elsewhere) = told(&sealers);
    assert_eq!(
        (threads.as_str(), elsewhere),
        ("0", 0),
        "no thread is made before there is use for it"
    );
}
