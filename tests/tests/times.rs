//! What a flow's QoS says of time, over real links: what is past its deadline is dropped where it waits and counted, silence ends
//! a flow and keep-alives hold it up, and a reader that is stuck ends and loses nothing.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cat::{Carry, bytes};
use tests::{Host, Impairment, Line, eventually};

/// What the IPC processes of a host have counted under a name.
fn counter(host: &Host, name: &str) -> u64 {
    let status = host.irm_json("status").unwrap();
    let ipcps = status["ipcps"].as_array().unwrap();
    let counts = ipcps.iter().map(|i| &i["status"]["counters"][name]);
    counts.filter_map(Value::as_u64).sum()
}

#[test]
fn an_sdu_past_its_deadline_is_dropped_by_its_sender_and_counted_and_the_others_arrive() {
    let mut line = Line::impairable(21).unwrap();
    line.impair(Impairment {
        rate_mbit: 2,
        ..Impairment::default()
    })
    .unwrap();
    let (a, b) = (line.host("a").unwrap(), line.host("b").unwrap());
    for qos in ["voice", "video"] {
        let before = counter(a, "drop.deadline");
        let sink = ["sink", qos, "--layer", "overlay"];
        let sink = b.spawn_piped("lab-talk", sink).unwrap();
        b.irm(&format!("wait name {qos}")).unwrap();
        // Four times as much as the link carries.
        let pour = format!("pour {qos} --layer overlay --qos {qos} --bytes-per-s 1000000");
        let pour = a.spawn_piped("lab-talk", pour.split(' ')).unwrap();
        eventually(TEN, "SDUs were too late", || {
            counter(a, "drop.deadline") > before + 100
        })
        .unwrap();
        let got = || sink.newest()["bytes"].as_u64();
        eventually(TEN, "others arrive", || got().is_some_and(|n| n > 50_000)).unwrap();
        println!(
            "{qos}: {} were late, {:?} bytes arrived",
            counter(a, "drop.deadline") - before,
            got()
        );
        pour.finish(TEN).unwrap();
        sink.finish(TEN).unwrap();
    }
}

#[test]
fn keep_alives_hold_an_idle_flow_up_and_silence_ends_it_after_its_time_out() {
    let mut line = Line::impairable(22).unwrap();
    let (a, b) = (line.host("a").unwrap(), line.host("b").unwrap());
    let _sink = b
        .spawn_piped("lab-talk", ["sink", "idle", "--layer", "overlay"])
        .unwrap();
    b.irm("wait name idle").unwrap();
    // An SDU each 20 minutes.
    let pour = "pour idle --layer overlay --qos data,timeout-ms=2000 --bytes-per-s 1";
    let mut pour = a.spawn_piped("lab-talk", pour.split(' ')).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert!(pour.alive() && pour.newest().is_null(), "{}", pour.log());
    line.impair(Impairment {
        cut: true,
        ..Impairment::default()
    })
    .unwrap();
    let begin = Instant::now();
    eventually(TEN, "the flow ends", || !pour.newest().is_null()).unwrap();
    // The layer itself gives a member up after half a minute.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let end = pour.newest()["end"].to_string();
    let why = "nothing was heard of the peer for 2000 ms, the time-out of the flow's QoS";
    assert!(end.contains(why), "{end}");
}

#[test]
fn a_reader_that_is_stuck_shuts_the_window_and_loses_nothing() {
    let mut line = Line::impairable(23).unwrap();
    line.impair(Impairment {
        rate_mbit: 100,
        ..Impairment::default()
    })
    .unwrap();
    let (a, b) = (line.host("a").unwrap(), line.host("b").unwrap());
    let (there, back) = (bytes(1, 24_000_000), bytes(2, 1000));
    let carry = Carry::start(a, b, "stuck", there, back).unwrap();
    eventually(TEN, "it has begun", || carry.got()[0] > 0).unwrap();
    let readers = b.programs("irm");
    let signal = |what| {
        let all = readers.iter();
        all.for_each(|pid| kill(Pid::from_raw(*pid as i32), what).unwrap())
    };
    signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(1));
    let held = carry.got()[0];
    // Longer than any pause between two questions for a wider window.
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(carry.got()[0], held, "it is stopped");
    assert!(held < 24_000_000, "it was over before it was stopped");
    signal(Signal::SIGCONT);
    let took = carry.end(Duration::from_secs(60)).unwrap();
    println!("after {took:?} all has come");
}

const TEN: Duration = Duration::from_secs(10);
