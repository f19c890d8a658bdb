//! A VPN between two hosts: over IPv6, with names, and when it has nothing to do.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use tests::look::wakeups;
use tests::{Host, How, PAIR_V4, PAIR_V6, Pair, until};

const TEN: Duration = Duration::from_secs(10);

#[test]
fn a_vpn_of_both_families_goes_over_a_network_of_ipv6_alone() {
    let pair = Pair::new().unwrap();
    for (at, net) in [(0, "10.77.1.1/24"), (1, "10.77.1.2/24")] {
        let dev = &pair.link.dev[at];
        pair.host(at).net(&format!("del-addr {dev} {net}")).unwrap();
    }
    let there = "fd77:1::2";
    pair.overlay(["fd77:1::1", &format!("dev6:{}", pair.link.dev[1])], there)
        .unwrap();
    pair.vpn("").unwrap();
    assert_eq!(pair.shim(1).unwrap()["status"]["settings"]["ip"], there);
    for to in [PAIR_V4[1], PAIR_V6[1]] {
        pair.reaches(to, TEN).unwrap();
        // The last is larger than a packet of the network below.
        for size in ["56", "1300", "4000"] {
            let ping = ["ping", to, "-c", "10", "-i", "10", "-s", size];
            let out = pair.a.run("lab-tool", ping).unwrap();
            let said: Value = serde_json::from_str(&out.stdout).unwrap();
            assert!(said["received"].as_u64() >= Some(9), "{to}, {size}: {said}");
        }
    }
    let flows = pair.a.irm_json("flow list").unwrap();
    let below = flows["flows"].as_array().unwrap().iter();
    let below: Vec<_> = below.filter(|f| f["layer"] == "net").collect();
    assert!(!below.is_empty(), "{flows}");
}

#[test]
fn names_of_members_are_answered_at_the_vpns_own_address() {
    let pair = Pair::new().unwrap();
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    pair.vpn("--dns").unwrap();
    let ask = |at: &str, name: &str, kind: &str| {
        let out = pair.a.run("lab-tool", ["ask-dns", at, name, kind])?;
        anyhow::ensure!(out.code == 0, "{at} {name} {kind}: {}", out.stderr);
        Ok(serde_json::from_str::<Value>(&out.stdout)?)
    };
    let (v4, v6) = ("10.9.1.1:53", "[fd09:1::1]:53");
    until(TEN, || ask(v4, "ovl-b.overlay.internal.", "A")).unwrap();
    for at in [v4, v6] {
        for (member, host) in [("ovl-a", 0), ("ovl-b", 1)] {
            let name = format!("{member}.overlay.internal.");
            let there = [(PAIR_V4[host], "A"), (PAIR_V6[host], "AAAA")];
            for (address, kind) in there {
                let said = ask(at, &name, kind).unwrap();
                assert_eq!(said, json!({ "code": "NoError", "answers": [address] }));
                let said = ask(at, address, "PTR").unwrap();
                assert_eq!(said, json!({ "code": "NoError", "answers": [name] }));
            }
        }
        let said = ask(at, "ovl-c.overlay.internal.", "A").unwrap();
        assert_eq!(said, json!({ "code": "NXDomain", "answers": [] }));
        let said = ask(at, "example.com.", "A").unwrap();
        assert_eq!(said["code"], "Refused");
    }
    pair.a.irm("vpn down").unwrap();
    until(TEN, || {
        anyhow::ensure!(
            ask(v4, "ovl-b.overlay.internal.", "A").is_err(),
            "it still answers"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn systemd_resolved_is_told_of_the_names_of_the_layer_alone() {
    let mut said = None;
    let pair = Pair::prepared(|a| {
        // Where systemd-resolved is, `busctl` speaks with it; here it writes down what it would have said.
        let (dir, log) = (a.dir().join("bin"), a.dir().join("busctl"));
        fs::create_dir(&dir)?;
        let program = dir.join("busctl");
        fs::write(
            &program,
            format!("#!/bin/sh\necho \"$@\" >>{}\n", log.display()),
        )?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        said = Some(log);
        Ok(How {
            path: Some(dir),
            ..How::default()
        })
    })
    .unwrap();
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    pair.vpn("").unwrap();
    assert!(!said.as_ref().unwrap().exists(), "nobody said --dns");
    pair.a.irm("vpn down").unwrap();
    pair.a
        .irm("vpn up --layer overlay --dev strata0 --dns=resolved")
        .unwrap();
    let told = until(TEN, || {
        let told = fs::read_to_string(said.as_ref().unwrap())?;
        anyhow::ensure!(told.contains("SetLinkDefaultRoute"), "{told}");
        Ok(told)
    })
    .unwrap();
    let head = "--system --timeout=2 call org.freedesktop.resolve1 /org/freedesktop/resolve1 org.freedesktop.resolve1.Manager ";
    let told: Vec<&str> = told
        .lines()
        .map(|l| l.strip_prefix(head).unwrap())
        .collect();
    let index = told[0].split(' ').nth(2).unwrap();
    index.parse::<u32>().unwrap();
    let expected = [
        format!(
            "SetLinkDNS ia(iay) {index} 2 2 4 10 9 1 1 10 16 253 9 0 1 0 0 0 0 0 0 0 0 0 0 0 1"
        ),
        format!("SetLinkDomains ia(sb) {index} 1 overlay.internal true"),
        format!("SetLinkDefaultRoute ib {index} false"),
    ];
    assert_eq!(told[..3], expected);
    assert!(
        told[3..]
            .iter()
            .all(|line| expected.iter().any(|e| e == line)),
        "{told:?}"
    );
}

#[test]
fn daemons_that_have_nothing_to_do_sleep() {
    let pair = Pair::new().unwrap();
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    pair.vpn("").unwrap();
    // A link that carried something is awake for 2 s; what a layer settles takes some more.
    std::thread::sleep(TEN);
    let all: Vec<(&str, u64)> = MOST.to_vec();
    let woken = |host: &Host| -> Vec<u64> {
        let pids = |name: &str| host.programs(name);
        let of = |(name, _): &(&str, u64)| pids(name).into_iter().map(wakeups).sum();
        all.iter().map(of).collect()
    };
    let mut last = Vec::new();
    let rests = (0..4).any(|_| {
        let before = woken(&pair.a);
        std::thread::sleep(WINDOW);
        let after = woken(&pair.a);
        last = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        println!("{all:?} at most; woken in {WINDOW:?}: {last:?}");
        last.iter().zip(&all).all(|(n, (_, most))| n <= most)
    });
    assert!(rests, "of {all:?} in {WINDOW:?}: {last:?}");
    for (name, _) in all {
        assert!(!pair.a.programs(name).is_empty(), "no {name}");
    }
}

/// Some three times what was counted: irmd 0.3 a second, the IPC process 1.5, the shim 0.5, the VPN none.
const MOST: [(&str, u64); 4] = [("irmd", 8), ("ipcpd", 24), ("shim-udp", 10), ("vpn", 5)];
const WINDOW: Duration = Duration::from_secs(5);
