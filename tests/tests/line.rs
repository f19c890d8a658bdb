//! Three hosts in a line, real daemons: flows and IP from A to C through B, and what happens when parts die.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Host, Line, Process, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
const SECRET: &str = "the quick brown fox of strata";

#[test]
fn names_and_ip_reach_c_from_a_and_nothing_shows_on_the_wire() {
    let line = Line::up().unwrap();
    let b = line.host("b").unwrap();
    let capture = b.spawn_piped("lab-tool", ["capture", SECRET]).unwrap();
    ready(&capture);

    let ping = line.flow_ping().unwrap();
    assert_eq!(ping["received"], ping["sent"]);
    let http = line.http(5_000_000, SECRET).unwrap();
    assert_eq!(http["bytes"], 5_000_000);
    for to in ["10.9.0.3", "fd09::3"] {
        let ping = line.ping(to).unwrap();
        assert!(ping["received"].as_u64() >= Some(18), "{ping}");
    }
    // The eavesdropper would have seen it: here it goes in the clear, below the layer.
    let clear = line.host("a").unwrap();
    let at = format!("{}:9000", line.links[0].v4[1]);
    let _server = b
        .spawn(
            "lab-tool",
            ["http-serve", &at, "100000", "--text", "in the clear"],
        )
        .unwrap();
    let seen = b
        .spawn_piped("lab-tool", ["capture", "in the clear"])
        .unwrap();
    ready(&seen);
    eventually(FIVE, "the file is served in the clear", || {
        clear
            .run("lab-tool", ["http-get", &at])
            .is_ok_and(|out| out.code == 0)
    })
    .unwrap();
    assert!(
        hits(&seen.finish(FIVE).unwrap()).0 > 0,
        "the eavesdropper is blind"
    );
    let (secret, bytes) = hits(&capture.finish(FIVE).unwrap());
    assert!(
        bytes > 5_000_000,
        "the transfer did not go through B: {bytes} bytes"
    );
    assert_eq!(secret, 0, "plaintext was seen on the wire");
}

#[test]
fn a_killed_process_is_back_and_the_vpn_heals() {
    let line = Line::up().unwrap();
    for (host, program) in [
        ("b", "ipcpd"),
        ("a", "ipcpd"),
        ("c", "ipcpd"),
        ("a", "vpn"),
        ("c", "vpn"),
        ("b", "shim-udp"),
        ("a", "shim-udp"),
        ("c", "shim-udp"),
    ] {
        let pids = line.host(host).unwrap().programs(program);
        assert!(!pids.is_empty(), "there is no {program} on {host}");
        kill(Pid::from_raw(pids[0] as i32), Signal::SIGKILL).unwrap();
        let healed = line.heals_within(5);
        assert!(healed.is_ok(), "{program} on {host} was killed: {healed:?}");
        // It is another process, and the next kill meets a settled network.
        eventually(FIVE, &format!("{program} on {host} is back"), || {
            let now = line.host(host).unwrap().programs(program);
            now.len() == pids.len() && !now.contains(&pids[0])
        })
        .unwrap();
        line.heals_within(5).unwrap();
    }
}

#[test]
fn killing_irmd_costs_nothing() {
    let line = Line::up().unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let _echo = c
        .spawn("irm", ["echo", "steady", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || a.irm("ping steady --layer overlay -c 1")).unwrap();
    let ping = a
        .spawn(
            "irm",
            [
                "--json", "ping", "steady", "--layer", "overlay", "-c", "300", "-i", "0.01",
            ],
        )
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = [a, c].map(flows);
    assert!(before.iter().all(|ids| !ids.is_empty()));
    for host in [a, c] {
        let (_, irmd) = tests::line::pids(host).unwrap();
        kill(Pid::from_raw(irmd), Signal::SIGKILL).unwrap();
    }
    let killed = Instant::now();
    for host in [a, c] {
        until(FIVE, || host.irm("status")).unwrap();
    }
    // The listener is back and a new allocation works.
    until(FIVE, || {
        a.irm("ping steady --layer overlay -c 1 --timeout 500ms")
    })
    .unwrap();
    let back = killed.elapsed();
    assert!(
        back < Duration::from_secs(3),
        "listeners took {back:?} to be back"
    );
    let after = [a, c].map(flows);
    for (before, after) in before.iter().zip(&after) {
        assert!(
            before.iter().all(|id| after.contains(id)),
            "flows were {before:?} and are {after:?}"
        );
    }
    let mut ping = ping;
    assert_eq!(
        ping.wait(Duration::from_secs(10)).unwrap(),
        0,
        "{}",
        ping.log()
    );
    let json = ping.json().unwrap();
    assert_eq!(
        (json["sent"].as_u64(), json["received"].as_u64()),
        (Some(300), Some(300)),
        "{}",
        ping.log()
    );
    assert!(line.heals_within(1).is_ok(), "the VPN did not go on");
}

#[test]
fn a_link_that_was_cut_is_used_again_within_three_seconds_of_its_mend() {
    let line = Line::up().unwrap();
    let (a, dev) = (line.host("a").unwrap(), &line.links[0].dev[0]);
    for gone in [1, 4] {
        a.net(&format!("down {dev}")).unwrap();
        std::thread::sleep(Duration::from_secs(gone));
        a.net(&format!("up {dev}")).unwrap();
        let healed = line.heals_within(3);
        assert!(healed.is_ok(), "cut for {gone} s: {healed:?}");
    }
}

#[test]
fn sigterm_ends_all_and_leaves_nothing() {
    let mut line = Line::up().unwrap();
    let start = Instant::now();
    line.down().unwrap();
    assert!(start.elapsed() < Duration::from_secs(15));
    // Devices and routes of the VPN are gone from the namespace.
    for host in ["a", "c"] {
        let out = line
            .host(host)
            .unwrap()
            .run("cat", ["/proc/net/dev", "/proc/net/route"])
            .unwrap();
        assert!(!out.stdout.contains("strata0"), "{}", out.stdout);
    }
}

fn ready(capture: &Process) {
    eventually(FIVE, "the capture runs", || {
        capture.log().contains("capturing")
    })
    .unwrap();
}

/// Frames that held the needle, and all bytes.
fn hits(log: &str) -> (u64, u64) {
    let last = log.lines().last().unwrap();
    let json: serde_json::Value = serde_json::from_str(last).unwrap();
    (
        json["hits"].as_u64().unwrap(),
        json["bytes"].as_u64().unwrap(),
    )
}

fn flows(host: &Host) -> Vec<u64> {
    let json = host.irm_json("flow list").unwrap();
    let flows = json["flows"].as_array().unwrap();
    let mut ids: Vec<u64> = flows.iter().map(|f| f["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids
}
