//! Underlays that carry little and much, and one that swallows from one moment to the next what it took before.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use tests::cat::{Carry, bytes};
use tests::{Host, Impairment, Line, until};

const TEN: Duration = Duration::from_secs(10);
const TWENTY: Duration = Duration::from_secs(20);
/// The headers of IPv4 and UDP.
const BELOW: u64 = 28;

#[test]
fn sdus_larger_than_the_path_pass_jumbo_frames_and_576_bytes() {
    passes([9000, 576]);
}

#[test]
fn sdus_larger_than_the_path_pass_1500_and_1280_bytes() {
    passes([1500, 1280]);
}

/// Between A and B, and between A and C over both links.
fn passes(mtus: [u32; 2]) {
    let line = Line::impairable_with_mtus(31, mtus).unwrap();
    let (a, b, c) = (
        line.host("a").unwrap(),
        line.host("b").unwrap(),
        line.host("c").unwrap(),
    );
    let least = u64::from(mtus[1]) - BELOW;
    // The kernel knows the devices, and probes have not contradicted it.
    until(TEN, || {
        let found = [(a, "ovl-b"), (c, "ovl-b")].map(|(host, to)| mtu(host, to));
        let right = mtus.map(|mtu| Some(u64::from(mtu) - BELOW));
        anyhow::ensure!(found == right, "links take {found:?}");
        Ok(())
    })
    .unwrap();
    for (to, host) in [("b", b), ("c", c)] {
        let echo = format!("echo-{to}");
        let _echo = host
            .spawn("irm", ["echo", &echo, "--layer", "overlay"])
            .unwrap();
        let ping = |how: &str| a.irm_json(&format!("ping {echo} --layer overlay {how}"));
        until(TEN, || ping("-c 1 --timeout 500ms")).unwrap();
        // Larger than any of the paths, and larger than all of them.
        for size in [1400, 9000, 40_000] {
            let got = ping(&format!("-c 5 -i 0.02 -s {size} --qos data")).unwrap();
            assert_eq!(got["received"], 5, "{size} bytes to {to}: {got}");
        }
        // Nothing cuts an SDU of a raw flow: one that fits passes, and one that doesn't is refused with the reason.
        let most = if to == "b" {
            u64::from(mtus[0]) - BELOW - 44
        } else {
            least - 88
        };
        let fits = ping(&format!("-c 5 -i 0.02 -s {most} --qos raw")).unwrap();
        assert_eq!(fits["received"], 5, "{most} bytes to {to}: {fits}");
        let refused = ping(&format!("-c 1 -s {} --qos raw", most + 1)).unwrap_err();
        assert!(refused.to_string().contains("don't fit"), "{refused}");
        let (there, back) = (bytes(1, 300_000), bytes(2, 50_000));
        let file = Carry::start(a, host, &format!("file-{to}"), there, back).unwrap();
        file.end(TWENTY).unwrap();
    }
}

#[test]
fn a_path_that_becomes_a_black_hole_under_traffic_is_found_out_and_left() {
    let mut line = Line::impairable(32).unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let sink = ["sink", "much", "--layer", "overlay"];
    let sink = c.spawn_piped("lab-talk", sink).unwrap();
    until(TEN, || c.irm("wait name much --timeout 1s")).unwrap();
    let pour = "pour much --layer overlay --qos data --bytes-per-s 300000 --size 6000";
    let _pour = a.spawn_piped("lab-talk", pour.split(' ')).unwrap();
    let more = |than: u64| {
        until(TWENTY, || {
            let now = sink.newest()["bytes"].as_u64().unwrap_or(0);
            anyhow::ensure!(now > than, "no more than {now} bytes arrive");
            Ok(now)
        })
        .unwrap()
    };
    more(300_000);
    assert!(mtu(c, "ovl-b") > Some(1400), "before the hole");
    // Not a word of ICMP: what is larger is gone.
    let hole = Impairment {
        largest: 1000,
        ..Impairment::default()
    };
    line.links[1].impair(hole).unwrap();
    let begin = Instant::now();
    // What is under way still comes.
    std::thread::sleep(Duration::from_millis(300));
    let had = sink.newest()["bytes"].as_u64().unwrap_or(0);
    more(had + 100_000);
    let found = begin.elapsed();
    eprintln!("the hole was left after {found:?}");
    // What docs/protocol.md promises, what was missed in that time, and what a busy machine adds.
    assert!(found < Duration::from_secs(10), "{found:?}");
    let (b, c) = (line.host("b").unwrap(), line.host("c").unwrap());
    let small = mtu(b, "ovl-c").unwrap();
    assert!((508..=1000 - BELOW).contains(&small), "{small} are used");
    // New flows, and SDUs of any size, the other way too.
    let file = Carry::start(c, b, "file", bytes(3, 200_000), bytes(4, 200_000)).unwrap();
    file.end(TWENTY).unwrap();
}

/// The largest packet of a host's link to a member.
fn mtu(host: &Host, member: &str) -> Option<u64> {
    let status = host.irm_json("status").unwrap();
    let ipcps = status["ipcps"].as_array()?.iter();
    let mut links = ipcps
        .filter_map(|i| i["status"]["links"].as_array())
        .flatten();
    let link = links.find(|l| l["member"] == member && l["state"] == "up")?;
    link["mtu"].as_u64()
}
