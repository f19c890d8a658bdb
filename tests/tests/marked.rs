//! Packets that ask for a class by their code point, over a VPN: what that is worth on a link that is full, and how it looks outside.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use serde_json::Value;
use tests::narrow::{DATAGRAM, Narrow};
use tests::{PAIR_V4, Pair, Process, eventually};

const TEN: Duration = Duration::from_secs(10);
/// What the link takes, in Mbit/s.
const LINK: u32 = 20;
/// Of a hundred marked ones all but one are back by then; some 10 ms is usual, and 250 ms is what a queue may hold.
const WORST: Duration = Duration::from_millis(40);
/// What a busy machine may add; a queue of others that fill the link would add a hundred times as much.
const NOISE: Duration = Duration::from_millis(2);
/// Code points: one of voice, one of video.
const EF: u8 = 46;
const AF41: u8 = 34;

fn ping(pair: &Pair, dscp: u8, count: u32) -> Process {
    let (count, dscp) = (count.to_string(), dscp.to_string());
    let args = [
        "ping", PAIR_V4[1], "-c", &count, "-i", "20", "--dscp", &dscp,
    ];
    pair.a.spawn("lab-tool", args).unwrap()
}

/// What a ping said at its end.
fn said(mut ping: Process) -> Value {
    assert_eq!(ping.wait(6 * TEN).unwrap(), 0, "{}", ping.log());
    ping.json().unwrap()
}

/// The median and the worst of a hundred, in µs.
fn rtt(said: &Value) -> [u64; 2] {
    ["p50", "p99"].map(|key| said["rtt_us"][key].as_u64().unwrap())
}

#[test]
fn marked_packets_wait_no_longer_than_others_beside_what_fills_the_link() {
    let narrow = Narrow::new(LINK).unwrap();
    let pair = &narrow.pair;
    // The flow of their class.
    said(ping(pair, EF, 5));
    // Past the VPN's process, there and back, as others.
    let handed = || {
        let status = pair.a.irm_json("vpn status").unwrap();
        let counters = &status["vpns"][0]["counters"];
        counters["handed_packets"].as_u64().unwrap()
    };
    let before = handed();
    said(ping(pair, EF, 100));
    let past = || handed() >= before + 190;
    eventually(TEN, "marked packets go by themselves", past).unwrap();
    // Both at once, so that both meet the same.
    let both = || [0, EF].map(|dscp| ping(pair, dscp, 250)).map(said);
    let mut rounds = Vec::new();
    let good = (0..3).any(|_| {
        let alone = both();
        let (sink, mut pour) = narrow.pour(DATAGRAM).unwrap();
        let beside = both();
        assert!(pour.alive(), "it was over too soon: {}", pour.log());
        drop((pour, sink));
        println!("alone and beside what fills the link: {alone:?} {beside:?}");
        for all in &beside {
            assert!(all["received"].as_u64() >= Some(235), "{all}");
        }
        let waited = |at: usize| rtt(&beside[at])[0].saturating_sub(rtt(&alone[at])[0]);
        let round = (waited(0), waited(1), rtt(&beside[1])[1]);
        rounds.push(round);
        round.1 <= round.0 + NOISE.as_micros() as u64 && round.2 < WORST.as_micros() as u64
    });
    println!("{rounds:?}");
    assert!(
        good,
        "median waits in µs of unmarked and of marked ones, and the p99 of these: {rounds:?}"
    );
}

#[test]
fn packets_that_carry_marked_ones_are_marked_on_the_wire_unless_it_is_switched_off() {
    let narrow = Narrow::new(LINK).unwrap();
    let pair = &narrow.pair;
    let filled = narrow.pour(DATAGRAM).unwrap();
    let dev = &pair.link.dev[1];
    let on_the_wire = |dscp: u8| {
        let capture = pair.b.spawn_piped("lab-tool", ["capture", "no such text"]);
        let capture = capture.unwrap();
        eventually(TEN, "the capture runs", || {
            capture.log().contains("capturing")
        })
        .unwrap();
        let said = said(ping(pair, dscp, 100));
        let seen = capture.finish(2 * TEN).unwrap();
        let mut seen: Value = serde_json::from_str(seen.lines().last().unwrap()).unwrap();
        let seen = seen[dev].take();
        println!("marked {dscp}: {said}, on the wire {seen}");
        let of = move |class: u8| seen["classes"][class.to_string()].as_u64();
        (said["received"].as_u64().unwrap(), [EF, AF41].map(of))
    };
    let idle = "vpn up --layer overlay --dev strata0 --idle 5m";
    for (dscp, at) in [(EF, 0), (AF41, 1)] {
        let (back, seen) = on_the_wire(dscp);
        // There and back.
        assert!(back >= 90 && seen[at] >= Some(2 * back), "{dscp}: {seen:?}");
        assert_eq!(seen[1 - at], None, "{dscp}: {seen:?}");
    }
    assert_eq!(on_the_wire(0).1, [None, None]);
    for host in [&pair.a, &pair.b] {
        host.irm(&format!("{idle} --dscp off")).unwrap();
    }
    assert_eq!(on_the_wire(EF).1, [None, None]);
    drop(filled);
}
