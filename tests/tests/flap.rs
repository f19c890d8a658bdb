//! A link that goes and comes back every two seconds under traffic: what is reliable arrives whole, what is not goes on, and
//! nothing is left over afterwards.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::cat::{Carry, bytes};
use tests::look::{leaks, settled};
use tests::{Host, Impairment, Line, Process, until};

/// What the links carry, in Mbit/s, so that a file is under way during all of it.
const RATE: u64 = 12;
/// How often the link goes.
const TIMES: u32 = 3;
const TWO: Duration = Duration::from_secs(2);
const TEN: Duration = Duration::from_secs(10);
const THIRTY: Duration = Duration::from_secs(30);
const TEXT: &str = "flap";

#[test]
fn flows_outlive_the_only_link_that_goes_every_two_seconds() {
    let mut line = Line::impairable(21).unwrap();
    line.impair(narrow()).unwrap();
    let traffic = Traffic::begin(&line, 4_000_000);
    for n in 0..TIMES {
        // Without a word, and so that its host knows.
        let known = n % 2 == 1;
        let dev = line.links[1].dev[1].clone();
        let c = line.host("c").unwrap();
        match known {
            true => c.net(&format!("down {dev}")).unwrap(),
            false => line.links[1].impair(cut()).unwrap(),
        }
        std::thread::sleep(TWO);
        match known {
            true => line.host("c").unwrap().net(&format!("up {dev}")).unwrap(),
            false => line.links[1].impair(narrow()).unwrap(),
        }
        std::thread::sleep(TWO);
    }
    traffic.end(&line, None);
}

#[test]
fn flows_take_the_other_way_while_the_straight_link_goes_every_two_seconds() {
    let mut line = Line::impairable(22).unwrap();
    line.impair(narrow()).unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let mut straight = line.lab.link(a, c, 23).unwrap();
    straight.impair(narrow()).unwrap();
    let shim = "ipcp bootstrap udp-ac --type shim-udp --layer net-ac --ip";
    c.irm(&format!("{shim} {}", straight.ip(1))).unwrap();
    let knows = format!("--host ovl-c={}", straight.ip(1));
    a.irm(&format!("{shim} {} {knows}", straight.ip(0)))
        .unwrap();
    a.irm("ipcp connect ovl-a --dst ovl-c").unwrap();
    until(TEN, || hops(a, 1)).unwrap();
    let traffic = Traffic::begin(&line, 4_000_000);
    for _ in 0..TIMES {
        straight.impair(cut()).unwrap();
        std::thread::sleep(TWO);
        straight.impair(narrow()).unwrap();
        std::thread::sleep(TWO);
    }
    // Hellos under traffic notice within a second; on a busy machine it may be more.
    traffic.end(&line, Some(2_500));
    until(TEN, || hops(line.host("a").unwrap(), 1)).unwrap();
}

/// A file and back over a reliable flow, and SDUs that are echoed over a raw one, from A to C.
struct Traffic {
    before: tests::look::Look,
    file: Carry,
    serve: Process,
    send: Process,
    begin: Instant,
}

impl Traffic {
    fn begin(line: &Line, len: usize) -> Self {
        let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
        // What a process gets once and keeps is no leak.
        let warm = Carry::start(a, c, "warm", bytes(1, 100_000), bytes(2, 1000)).unwrap();
        warm.end(TEN).unwrap();
        let before = settled(&line.hosts, "overlay", TEN).unwrap();
        let serve = ["serve", "talk", "--layer", "overlay", "--text", TEXT];
        let serve = c.spawn_piped("lab-talk", serve).unwrap();
        until(TEN, || c.irm("wait name talk --timeout 1s")).unwrap();
        let send = "send talk --layer overlay --interval-ms 10 --text";
        let send = send.split(' ').chain([TEXT]);
        let send = a.spawn_piped("lab-talk", send).unwrap();
        until(TEN, || {
            anyhow::ensure!(said(&send, "right") > 0, "no echo: {}", send.log());
            Ok(())
        })
        .unwrap();
        let file = Carry::start(a, c, "file", bytes(3, len), bytes(4, len / 8)).unwrap();
        Self {
            before,
            file,
            serve,
            send,
            begin: Instant::now(),
        }
    }

    /// All is well again, and was, if there was another way, after so many milliseconds each time.
    fn end(self, line: &Line, most_silent: Option<u64>) {
        let flapped = self.begin.elapsed();
        // The same flow goes on.
        let right = said(&self.send, "right");
        until(TEN, || {
            let now = said(&self.send, "right");
            anyhow::ensure!(now > right + 20, "no echo any more: {}", self.send.newest());
            Ok(())
        })
        .unwrap();
        let took = self.file.end(THIRTY).unwrap();
        let said = self.send.finish(TEN).unwrap();
        let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        eprintln!("file after {took:?}, of which flapped {flapped:?}; raw: {said}");
        assert!(took > TWO, "the file came before the link went");
        assert_eq!(said["end"], "", "the raw flow ended");
        assert_eq!([&said["wrong"], &said["repeated"]], [0, 0], "{said}");
        let silent = said["longest_silence_ms"].as_u64().unwrap();
        assert!(most_silent.is_none_or(|most| silent <= most), "{said}");
        self.serve.finish(TEN).unwrap();
        let after = settled(&line.hosts, "overlay", THIRTY).unwrap();
        let leaks = leaks(&self.before, &after, TOLERANCE_KIB);
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
}

fn said(talk: &Process, what: &str) -> u64 {
    talk.newest()[what].as_u64().unwrap_or_default()
}

/// Whether C is so many hops from A.
fn hops(a: &Host, hops: u64) -> anyhow::Result<()> {
    let json = a.irm_json("layer routes overlay")?;
    let routes = json["routes"].as_array().into_iter().flatten();
    let there = routes.filter(|r| r["member"] == "ovl-c" && r["hops"] == hops);
    anyhow::ensure!(there.count() == 1, "not {hops} hops: {json}");
    Ok(())
}

fn narrow() -> Impairment {
    Impairment {
        rate_mbit: RATE,
        ..Impairment::default()
    }
}

fn cut() -> Impairment {
    Impairment {
        cut: true,
        ..narrow()
    }
}

/// Buffers of a reliable flow that the heap keeps.
const TOLERANCE_KIB: u64 = 8192;
