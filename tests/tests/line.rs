//! Three hosts in a line, real daemons: flows and IP from A to C through B, and what happens when parts die.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::line::VPN_V4;
use tests::{Host, Line, Process, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
const SECRET: &str = "the quick brown fox of strata";
const CLEAR: &str = "in the clear";
/// The bytes of the file that is fetched; every other KiB of it is the secret.
const FILE: u64 = 5_000_000;

#[test]
fn names_and_ip_reach_c_from_a_and_nothing_shows_on_the_wire() {
    let line = Line::up().unwrap();
    let b = line.host("b").unwrap();
    let capture = b.spawn_piped("lab-tool", ["capture", SECRET]).unwrap();
    ready(&capture);

    let ping = line.flow_ping().unwrap();
    assert_eq!(ping["received"], ping["sent"]);
    let http = line.http(FILE, SECRET).unwrap();
    assert_eq!(http["bytes"], FILE);
    for to in ["10.9.0.3", "fd09::3"] {
        let ping = line.ping(to).unwrap();
        assert!(ping["received"].as_u64() >= Some(18), "{ping}");
    }
    // All but the first packets between two addresses go past the VPN's process, which hears of them a second later.
    let a = line.host("a").unwrap();
    until(FIVE, || {
        let counters = &a.irm_json("vpn status")?["vpns"][0]["counters"];
        let count = |name: &str| counters[name].as_u64().unwrap_or(0);
        let all = count("tx_packets") + count("rx_packets");
        let handed = count("handed_packets");
        anyhow::ensure!(handed > 1000 && handed * 10 > all * 9, "{counters}");
        Ok(())
    })
    .unwrap();
    // The eavesdropper would have seen it: here it goes in the clear, below the layer.
    let clear = line.host("a").unwrap();
    let at = format!("{}:9000", line.links[0].v4[1]);
    let _server = b
        .spawn("lab-tool", ["http-serve", &at, "1000000", "--text", CLEAR])
        .unwrap();
    let seen = b.spawn_piped("lab-tool", ["capture", CLEAR]).unwrap();
    ready(&seen);
    eventually(FIVE, "the file is served in the clear", || {
        clear
            .run("lab-tool", ["http-get", &at])
            .is_ok_and(|out| out.code == 0)
    })
    .unwrap();
    let seen = seen.finish(FIVE).unwrap();
    let (hits, bytes) = on_device(&seen, &line.links[0].dev[1]);
    // A frame has at most 64 KiB, and the text is in each.
    assert!(
        hits >= 15 && bytes >= 950_000,
        "the eavesdropper is blind: {seen}"
    );
    let seen = capture.finish(FIVE).unwrap();
    for dev in [&line.links[0].dev[1], &line.links[1].dev[0]] {
        let (hits, bytes) = on_device(&seen, dev);
        // Fewer: it went another way, or the eavesdropper missed too much to say anything.
        assert!(bytes >= FILE / 100 * 95, "on {dev} of the file: {seen}");
        assert_eq!(hits, 0, "plaintext was seen on {dev}: {seen}");
    }
}

#[test]
fn a_killed_process_is_back_and_the_vpn_heals() {
    let line = Line::up().unwrap();
    for (host, program, count) in [
        ("b", "ipcpd", 1),
        ("a", "ipcpd", 1),
        ("c", "ipcpd", 1),
        ("a", "vpn", 1),
        ("c", "vpn", 1),
        ("b", "shim-udp", 2),
        ("a", "shim-udp", 1),
        ("c", "shim-udp", 1),
    ] {
        let host = line.host(host).unwrap();
        // Each of B's two shims in its turn.
        let pids = host.programs(program);
        assert_eq!(pids.len(), count, "{program} on {}", host.name);
        for pid in pids {
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
            let what = format!("{program} {pid} on {}", host.name);
            let healed = line.heals_within(5);
            assert!(healed.is_ok(), "{what} was killed: {healed:?}");
            // It is another process, and the next kill meets a settled network.
            eventually(FIVE, &format!("{what} is back"), || {
                let now = host.programs(program);
                now.len() == count && !now.contains(&pid)
            })
            .unwrap();
            line.heals_within(5).unwrap();
        }
    }
}

#[test]
fn a_device_that_was_removed_by_hand_is_made_again_and_the_vpn_heals() {
    let line = Line::up().unwrap();
    line.ping(VPN_V4[2]).unwrap();
    for name in ["a", "c"] {
        let host = line.host(name).unwrap();
        // The layer's process has it, and tells nobody that it is gone.
        until(FIVE, || {
            let vpn = host.irm_json("vpn status")?["vpns"][0].take();
            let handed = vpn["counters"]["handed_packets"].as_u64();
            anyhow::ensure!(handed > Some(0), "{vpn}");
            Ok(())
        })
        .unwrap();
        host.net("del strata0").unwrap();
        let healed = line.heals_within(5);
        assert!(healed.is_ok(), "removed on {name}: {healed:?}");
        let events = host.irm("events").unwrap();
        let why = "the device strata0 is gone";
        assert!(events.contains(why), "{events}");
        line.ping(VPN_V4[2]).unwrap();
    }
}

#[test]
fn how_a_vpn_carries_packets_changes_while_it_is_up() {
    let line = Line::up().unwrap();
    line.ping(VPN_V4[2]).unwrap();
    let a = line.host("a").unwrap();
    let status = || a.irm_json("vpn status").unwrap()["vpns"][0].take();
    let before = status();
    let up = "vpn up --layer overlay --dev strata0";
    a.irm(&format!("{up} --idle 9s --mss-clamp off --dscp off"))
        .unwrap();
    let now = status();
    let said = ["idle_ms", "mss_clamp", "dscp"].map(|key| now[key].to_string());
    assert_eq!(said, ["9000", "false", "false"], "{now}");
    assert_eq!(now["pid"], before["pid"], "it was started anew");
    assert_eq!(now["counters"]["flows_down"], 0, "{now}");
    line.ping(VPN_V4[2]).unwrap();
    let other = format!("{up} --route 10.66.0.0/16=ovl-b");
    let other = a.run("irm", other.split(' ')).unwrap();
    assert_eq!(other.code, 6, "{}", other.stderr);
    // It is kept, too.
    let pid = now["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    line.heals_within(5).unwrap();
    until(FIVE, || {
        let now = status();
        anyhow::ensure!(now["idle_ms"] == 9000, "{now}");
        Ok(())
    })
    .unwrap();
    a.irm(up).unwrap();
    assert_eq!(status()["idle_ms"], before["idle_ms"]);
}

#[test]
fn killing_irmd_where_a_flow_only_passes_costs_nothing() {
    killing_irmd_costs_nothing(&["b"]);
}

#[test]
fn killing_irmd_at_both_ends_of_a_flow_costs_nothing() {
    killing_irmd_costs_nothing(&["a", "c"]);
}

/// While a flow A–C carries data. C's listener is asked for new flows, and one on each host whose irmd is killed.
fn killing_irmd_costs_nothing(killed: &[&str]) {
    let line = Line::up().unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let killed: Vec<&Host> = killed.iter().map(|h| line.host(h).unwrap()).collect();
    let _steady = c
        .spawn("irm", ["echo", "steady", "--layer", "overlay"])
        .unwrap();
    let there: Vec<_> = killed
        .iter()
        .map(|h| h.spawn("irm", ["echo", &at(h), "--layer", "overlay"]))
        .collect::<Result<_, _>>()
        .unwrap();
    // A layer leads to other hosts only.
    let asked = || -> anyhow::Result<()> {
        let ping = |from: &Host, name: &str| {
            from.irm(&format!("ping {name} --layer overlay -c 1 --timeout 500ms"))
        };
        for host in &killed {
            ping(if host.name == "a" { c } else { a }, &at(host))?;
        }
        ping(a, "steady").map(drop)
    };
    until(FIVE, asked).unwrap();
    let ping = a
        .spawn(
            "irm",
            [
                "--json", "ping", "steady", "--layer", "overlay", "-c", "1000", "-i", "0.004",
            ],
        )
        .unwrap();
    eventually(FIVE, "the flow stands at both ends", || {
        [a, c]
            .iter()
            .all(|h| flow_names(h).contains(&"steady".to_owned()))
    })
    .unwrap();
    let before: Vec<_> = killed.iter().map(|h| holds(h)).collect();
    let some = |(ipcps, flows): &(Vec<_>, Vec<_>)| ipcps.len() >= 2 && !flows.is_empty();
    assert!(before.iter().all(some), "{before:?}");

    let pids: Vec<i32> = killed
        .iter()
        .map(|h| tests::line::pids(h).unwrap().1)
        .collect();
    let start = Instant::now();
    for pid in &pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
    // The listeners are back and new allocations work.
    until(FIVE, asked).unwrap();
    let back = start.elapsed();
    assert!(
        back < Duration::from_secs(2),
        "listeners took {back:?} to be back"
    );
    for (host, pid) in killed.iter().zip(pids) {
        assert_ne!(tests::line::pids(host).unwrap().1, pid, "it was not killed");
    }
    for (host, before) in killed.iter().zip(&before) {
        eventually(FIVE, "IPC processes and flows are what they were", || {
            let after = holds(host);
            after.0 == before.0 && before.1.iter().all(|id| after.1.contains(id))
        })
        .unwrap_or_else(|e| panic!("{e}: on {} {before:?} became {:?}", host.name, holds(host)));
    }
    none_lost(ping, 1000);
    drop(there);
    assert!(line.heals_within(1).is_ok(), "the VPN did not go on");
}

/// Waits for the end of a ping that must have heard every answer.
fn none_lost(mut ping: Process, count: u64) {
    assert_eq!(ping.wait(FIVE).unwrap(), 0, "{}", ping.log());
    let json = ping.json().unwrap();
    assert_eq!(
        (json["sent"].as_u64(), json["received"].as_u64()),
        (Some(count), Some(count)),
        "{}",
        ping.log()
    );
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
fn sigterm_ends_all_and_leaves_nothing_and_after_a_reboot_all_is_back_by_itself() {
    let mut line = Line::up().unwrap();
    // Else it would prove nothing that they are gone.
    for (host, family) in [("a", 4), ("a", 6), ("c", 4), ("c", 6)] {
        let host = line.host(host).unwrap();
        assert!(
            routes_of_vpn(host, family) > 0,
            "{}, IPv{family}",
            host.name
        );
    }
    let start = Instant::now();
    // Processes and sockets are looked for there.
    line.down().unwrap();
    assert!(start.elapsed() < Duration::from_secs(15));
    for host in &line.hosts {
        assert_eq!([4, 6].map(|family| routes_of_vpn(host, family)), [0, 0]);
        for left in ["dev", "if_inet6", "udp", "udp6"] {
            let text = proc_net(host, left);
            assert!(!text.contains("strata0"), "{text}");
            assert!(
                !left.starts_with("udp") || text.lines().count() == 1,
                "sockets are left on {}: {text}",
                host.name
            );
        }
    }
    // With what the disk holds alone they join again, and the VPN stands: nothing is typed.
    line.boot().unwrap();
    let healed = line.heals_within(10);
    assert!(healed.is_ok(), "after the reboot: {healed:?}");
    for host in &line.hosts {
        eventually(FIVE, "each member knows all of them again", || {
            members_on(host) == ["ovl-a", "ovl-b", "ovl-c"]
        })
        .unwrap();
    }
    let ping = line.flow_ping().unwrap();
    assert_eq!(ping["received"], ping["sent"]);
}

#[test]
fn sigterm_ends_those_that_do_not_listen_too() {
    let mut line = Line::up().unwrap();
    let a = line.host("a").unwrap();
    // A program that irmd starts for a name, and that would rather stay.
    let deaf = a.dir().join("deaf");
    fs::write(
        &deaf,
        "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n",
    )
    .unwrap();
    fs::set_permissions(&deaf, fs::Permissions::from_mode(0o755)).unwrap();
    let deaf = deaf.to_str().unwrap();
    a.irm(&format!("bind program {deaf} --name deaf --auto"))
        .unwrap();
    let asked = a.run("irm", "ping deaf -c 1 --timeout 300ms".split(' '));
    assert_eq!(asked.unwrap().code, 7);
    assert_eq!(a.programs("deaf").len(), 1);
    for program in ["ipcpd", "shim-udp", "vpn"] {
        let pids = a.programs(program);
        assert_eq!(pids.len(), 1, "{program}");
        kill(Pid::from_raw(pids[0] as i32), Signal::SIGSTOP).unwrap();
    }
    line.down().unwrap();
    let a = line.host("a").unwrap();
    assert_eq!([4, 6].map(|family| routes_of_vpn(a, family)), [0, 0]);
    assert!(!proc_net(a, "dev").contains("strata0"));
}

/// Routes through the device of the VPN.
fn routes_of_vpn(host: &Host, family: u8) -> usize {
    let table = if family == 4 { "route" } else { "ipv6_route" };
    let text = proc_net(host, table);
    text.lines().filter(|l| l.contains("strata0")).count()
}

fn proc_net(host: &Host, file: &str) -> String {
    let out = host.run("cat", [format!("/proc/self/net/{file}")]).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
    out.stdout
}

/// The members that can be reached, of those that a host knows.
fn members_on(host: &Host) -> Vec<String> {
    let json = host.irm_json("layer members overlay").unwrap_or_default();
    let members = json["members"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<_> = members
        .iter()
        .filter(|m| m["reachable"] == true)
        .filter_map(|m| Some(m["name"].as_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// The name that a program on that host listens to.
fn at(host: &Host) -> String {
    format!("at-{}", host.name)
}

fn ready(capture: &Process) {
    eventually(FIVE, "the capture runs", || {
        capture.log().contains("capturing")
    })
    .unwrap();
}

/// Frames that held the text, and all bytes, on one device of the host that captured.
fn on_device(log: &str, dev: &str) -> (u64, u64) {
    let last = log.lines().last().unwrap();
    let json: serde_json::Value = serde_json::from_str(last).unwrap();
    let number = |what: &str| json[dev][what].as_u64();
    let seen = number("hits").zip(number("bytes"));
    seen.unwrap_or_else(|| panic!("nothing was seen on {dev}: {log}"))
}

/// Name, process and state of its IPC processes, and the ids of its flows.
fn holds(host: &Host) -> (Vec<String>, Vec<u64>) {
    let ipcps = host.irm_json("ipcp list").unwrap();
    let ipcps = ipcps["ipcps"].as_array().unwrap().iter();
    let flows = host.irm_json("flow list").unwrap();
    let flows = flows["flows"].as_array().unwrap().iter();
    (
        ipcps
            .map(|i| format!("{} {} {}", i["name"], i["pid"], i["state"]))
            .collect(),
        flows.filter_map(|f| f["id"].as_u64()).collect(),
    )
}

fn flow_names(host: &Host) -> Vec<String> {
    let json = host.irm_json("flow list").unwrap_or_default();
    let flows = json["flows"].as_array().cloned().unwrap_or_default();
    flows
        .iter()
        .filter_map(|f| Some(f["name"].as_str()?.to_owned()))
        .collect()
}
