//! Many flows between hosts: what they took of the daemons on their way is given back.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use tests::{Host, Line, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
const DAEMONS: [&str; 3] = ["irmd", "ipcpd", "shim-udp"];

#[test]
fn a_thousand_flows_from_a_to_c_come_and_go_without_a_leak() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let _echo = c
        .spawn("irm", ["echo", "many", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || a.irm("ping many --layer overlay -c 1")).unwrap();
    // What a process allocates once is no leak; more at once than afterwards takes the most of it.
    thousand(a, 300);
    let before = settled(&line);
    thousand(a, 100);
    let after = settled(&line);
    let all = format!("before: {before:#?}\nafter: {after:#?}");
    assert_eq!(
        before.len(),
        11,
        "A and C have three daemons and B four, C an echo beside: {all}"
    );
    for (who, was) in &before {
        let is = after
            .get(who)
            .unwrap_or_else(|| panic!("{who:?} is gone: {all}"));
        assert_eq!(is.descriptors, was.descriptors, "{who:?}: {all}");
        // The program that serves is no daemon: how much of its heap it gives back is chance.
        let grown = is.kib.saturating_sub(was.kib);
        assert!(who.1 == "irm" || grown <= TOLERANCE_KIB, "{who:?}: {all}");
        assert_eq!(is.ports, was.ports, "{who:?}: {all}");
    }
}

/// Flows to a name on C: most one after the other, some at once.
fn thousand(host: &Host, at_once: u64) {
    let flows = |how: &[&str]| {
        let args = ["many", "--layer", "overlay"].iter().chain(how);
        let out = host.run("lab-flows", args).unwrap();
        let json: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
        assert!(json["failed"].as_array().unwrap().is_empty(), "{json}");
        json["allocated"].as_u64().unwrap()
    };
    let all = flows(&["--count", &(1000 - at_once).to_string(), "--in-turn"])
        + flows(&["--count", &at_once.to_string()]);
    assert_eq!(all, 1000);
}

/// What one process has.
#[derive(Debug, PartialEq, Eq)]
struct Has {
    descriptors: usize,
    kib: u64,
    /// UDP sockets of its host.
    ports: usize,
}

type Look = BTreeMap<(String, &'static str, u32), Has>;

/// What all daemons, and the program that serves, have once no flow is left and nothing has changed for a second.
fn settled(line: &Line) -> Look {
    for host in ["a", "c"] {
        let host = line.host(host).unwrap();
        eventually(FIVE, "no flow is left", || {
            let json = host.irm_json("flow list").unwrap();
            let mut flows = json["flows"].as_array().unwrap().iter();
            flows.all(|f| f["layer"] != "overlay")
        })
        .unwrap();
    }
    let (mut last, mut since) = (look(line), Instant::now());
    let descriptors = |look: &Look| {
        look.values()
            .map(|h| (h.descriptors, h.ports))
            .collect::<Vec<_>>()
    };
    let end = Instant::now() + 3 * FIVE;
    while since.elapsed() < Duration::from_secs(1) {
        assert!(
            Instant::now() < end,
            "descriptors still come and go: {last:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
        let now = look(line);
        if descriptors(&now) != descriptors(&last) {
            since = Instant::now();
        }
        last = now;
    }
    last
}

fn look(line: &Line) -> Look {
    let mut all = Look::new();
    for host in &line.hosts {
        let ports = ports(host);
        for program in DAEMONS.into_iter().chain(["irm"]) {
            for pid in host.programs(program) {
                let has = Has {
                    descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
                    kib: memory_kib(pid),
                    ports,
                };
                all.insert((host.name.clone(), program, pid), has);
            }
        }
    }
    all
}

fn ports(host: &Host) -> usize {
    let holder = host.holder();
    ["udp", "udp6"]
        .iter()
        .map(|table| {
            let table = fs::read_to_string(format!("/proc/{holder}/net/{table}")).unwrap();
            table.lines().count() - 1
        })
        .sum()
}

/// Resident, in KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// A flow that leaks more than half a KiB shows.
const TOLERANCE_KIB: u64 = 512;
