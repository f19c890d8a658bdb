//! What is left of VPNs whose processes are killed while nobody starts them again: nothing that the host would notice.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::look::pings;
use tests::{Host, Pair, until};

const FIVE: Duration = Duration::from_secs(5);
const TEN: Duration = Duration::from_secs(10);
/// Of a host that A reaches by the VPN's way out, and without it by its default route.
const FAR: [&str; 2] = ["198.51.100.1", "2001:db8::1"];
/// What a host has that has both VPNs, as [`has`] says it.
const ALL: [&str; 10] = [
    "port 53 in tcp",
    "port 53 in tcp6",
    "port 53 in udp",
    "port 53 in udp6",
    "strata0 in dev",
    "strata0 in if_inet6",
    "strata0 in ipv6_route",
    "strata0 in route",
    "tap0 in dev",
    "tap0 in route",
];

#[test]
fn vpns_that_are_killed_with_irmd_leave_nothing_though_the_layers_process_holds_a_device_too() {
    let mut pair = up();
    let killed = ["irmd", "vpn"];
    kill_all(&pair.a, &killed);
    is_as_without(&pair.a, &killed);
    assert_eq!(pair.a.programs("ipcpd").len(), 1);
    comes_back_and_goes(&mut pair);
}

#[test]
fn a_host_whose_daemons_are_all_killed_has_nothing_left_of_its_vpns() {
    let mut pair = up();
    let killed = ["irmd", "vpn", "ipcpd", "shim-udp"];
    kill_all(&pair.a, &killed);
    is_as_without(&pair.a, &killed);
    comes_back_and_goes(&mut pair);
}

/// Two hosts. All of A goes out by B over a VPN that answers names as well, beside a segment of Ethernet. Without them A goes out by B,
/// too: by the network below.
fn up() -> Pair {
    let pair = Pair::new().unwrap();
    let Pair { a, b, .. } = &pair;
    a.net("route 0.0.0.0/0 10.77.1.2").unwrap();
    a.net("route ::/0 fd77:1::2").unwrap();
    b.net("addr lo 198.51.100.1/32").unwrap();
    b.net("addr lo 2001:db8::1/128").unwrap();
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    let up = "vpn up --layer overlay --dev strata0";
    b.irm(&format!("{up} --offer 0.0.0.0/0 --offer ::/0"))
        .unwrap();
    a.irm(&format!("{up} --dns --exit ovl-b")).unwrap();
    for (host, at) in [(a, 1), (b, 2)] {
        let tap = "vpn up --layer overlay --tap --dev tap0 --address";
        host.irm(&format!("{tap} 192.168.50.{at}/24")).unwrap();
    }
    stand(a);
    // Else it would prove little that they go.
    until(TEN, || {
        for to in FAR {
            pings(a, to)?;
        }
        let status = a.irm_json("vpn status --dev strata0")?;
        let handed = status["vpns"][0]["counters"]["handed_packets"].as_u64();
        anyhow::ensure!(handed > Some(0), "nothing goes past its process: {status}");
        Ok(())
    })
    .unwrap();
    let devices = a.programs("ipcpd").into_iter().map(devices_of);
    assert!(devices.sum::<usize>() > 0, "ipcpd holds no device");
    pair
}

/// Waits until both VPNs carry packets, and all of them is there.
fn stand(a: &Host) {
    until(2 * TEN, || {
        for to in [FAR[0], FAR[1], "192.168.50.2"] {
            pings(a, to)?;
        }
        let has = has(a);
        let lacks: Vec<_> = ALL.iter().filter(|what| !has.contains(**what)).collect();
        anyhow::ensure!(lacks.is_empty(), "it lacks {lacks:?}");
        let rules = rules(a);
        anyhow::ensure!(!rules.is_empty(), "no rules lead to the way out");
        Ok(())
    })
    .unwrap();
}

/// Nothing is left, and the host reaches all that it reached without a VPN.
fn is_as_without(a: &Host, killed: &[&str]) {
    let begin = Instant::now();
    until(FIVE, || {
        let left = has(a);
        anyhow::ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
    .unwrap();
    eprintln!(
        "nothing is left after {:?}, but rules that lead nowhere: {:?}",
        begin.elapsed(),
        rules(a)
    );
    for to in ["10.77.1.2", "fd77:1::2", FAR[0], FAR[1]] {
        pings(a, to).unwrap();
    }
    for program in killed {
        assert!(a.programs(program).is_empty(), "{program} is back");
    }
}

/// irmd starts anew, and its VPNs with it, which have nothing to complain of; taken down, they take all with them.
fn comes_back_and_goes(pair: &mut Pair) {
    pair.restart_a().unwrap();
    stand(&pair.a);
    for dev in ["strata0", "tap0"] {
        pair.a.irm(&format!("vpn down --dev {dev}")).unwrap();
    }
    until(FIVE, || {
        let (left, rules) = (has(&pair.a), rules(&pair.a));
        anyhow::ensure!(left.is_empty() && rules.is_empty(), "{left:?} {rules:?}");
        Ok(())
    })
    .unwrap();
}

/// The first of them first, so that none is started anew for another.
fn kill_all(host: &Host, programs: &[&str]) {
    let pids: Vec<_> = programs.iter().flat_map(|p| host.programs(p)).collect();
    assert!(pids.len() > programs.len(), "two VPNs: {pids:?}");
    for pid in pids {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }
}

/// What there is of VPNs, as the kernel says it.
fn has(host: &Host) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let read = |table: &str| {
        let path = format!("/proc/{}/net/{table}", host.holder());
        fs::read_to_string(path).unwrap()
    };
    for table in ["dev", "route", "ipv6_route", "if_inet6"] {
        let text = read(table);
        for dev in ["strata0", "tap0"] {
            if text.contains(dev) {
                all.insert(format!("{dev} in {table}"));
            }
        }
    }
    for table in ["udp", "udp6", "tcp", "tcp6"] {
        // The port, in hexadecimal digits, is behind the own address.
        let own = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        let is = |line| own(line).is_some_and(|at| at.ends_with(":0035"));
        if read(table).lines().any(is) {
            all.insert(format!("port 53 in {table}"));
        }
    }
    all
}

/// The rules of routing that are not the kernel's own.
fn rules(host: &Host) -> Vec<String> {
    let out = host.run("lab-host", ["net", "rules"]).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
    out.stdout.lines().map(str::to_owned).collect()
}

/// How many TUN and TAP devices a process has open.
fn devices_of(pid: u32) -> usize {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = all.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|to| to.ends_with("net/tun")).count()
}
