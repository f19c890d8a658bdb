//! What a policy lets pass between members of two groups over the VPN: one way with its answers, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::line::VPN_V4;
use tests::{Host, Line, until};

const TEN: Duration = Duration::from_secs(10);

/// Three hosts: A in the group of clients, C in that of servers, B in none.
fn line() -> Line {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let found = "ipcp bootstrap ovl-b --type unicast --layer overlay --prefix";
    b.irm(&format!("{found} {}/32", VPN_V4[1])).unwrap();
    for (host, group, address) in [(a, "clients", VPN_V4[0]), (c, "servers", VPN_V4[2])] {
        let member = format!("ovl-{}", host.name);
        let invite =
            format!("layer invite overlay --member {member} --group {group} --prefix {address}/32");
        let url = b.irm(&invite).unwrap();
        let enroll = format!(
            "ipcp enroll {member} --type unicast --invite {}",
            url.trim()
        );
        host.irm(&enroll).unwrap();
    }
    for host in [a, b, c] {
        host.irm("vpn up --layer overlay --dev strata0").unwrap();
    }
    line
}

fn policy(line: &Line, rules: &str) {
    let b = line.host("b").unwrap();
    let file = b.dir().join("rules");
    fs::write(&file, format!("allow * * by any\n{rules}")).unwrap();
    let set = format!("policy set --layer overlay {}", file.display());
    b.irm(&set).unwrap();
}

/// What a tool of the lab said in JSON; nothing if it failed.
fn tool(host: &Host, args: &[&str]) -> Value {
    let out = host.run("lab-tool", args).unwrap();
    serde_json::from_str(&out.stdout).unwrap_or_default()
}

fn exchanges(host: &Host, to: &str) -> anyhow::Result<()> {
    let said = tool(host, &["tcp-exchange", to, "--bytes", "20000"]);
    anyhow::ensure!(said["ends"]["right"] == 1, "{to}: {said}");
    Ok(())
}

fn echoed(host: &Host, to: &str) -> String {
    let out = host.run("lab-tool", ["udp-send", to, "3"]).unwrap();
    out.stdout.trim().to_owned()
}

fn pings(host: &Host, to: &str) -> u64 {
    pings_of(host, to, "56")
}

fn pings_of(host: &Host, to: &str, size: &str) -> u64 {
    let said = tool(host, &["ping", to, "-c", "3", "-i", "10", "-s", size]);
    said["received"].as_u64().unwrap_or_default()
}

fn status(host: &Host) -> Value {
    host.irm_json("vpn status").unwrap()["vpns"][0].take()
}

fn dropped(host: &Host) -> u64 {
    let counters = &status(host)["counters"];
    let of = |name: &str| counters[name].as_u64().unwrap();
    of("drop.filter_out") + of("drop.filter_in")
}

/// What a host has got from a member.
fn received(host: &Host, member: &str) -> u64 {
    let status = status(host);
    let peers = status["peers"].as_array().unwrap();
    let peer = peers.iter().find(|p| p["name"] == member).unwrap();
    peer["rx_bytes"].as_u64().unwrap()
}

/// Waits until A and C judge each other by rules, or don't.
fn filtered(line: &Line, is: bool) {
    for (host, other) in [("a", "ovl-c"), ("c", "ovl-a")] {
        let host = line.host(host).unwrap();
        until(TEN, || {
            let status = status(host);
            let peers = status["peers"].as_array().unwrap();
            let peer = peers.iter().find(|p| p["name"] == other).unwrap();
            anyhow::ensure!(peer["filtered"] == is, "{peer}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn one_group_may_ask_another_over_tcp_and_gets_answers_and_nothing_else_passes() {
    let line = line();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let (web, back) = (format!("{}:8080", VPN_V4[2]), format!("{}:8080", VPN_V4[0]));
    let _servers = [(a, &back), (c, &web)].map(|(host, at)| {
        let server = host.spawn("lab-tool", ["tcp-serve", "--", at]);
        server.unwrap()
    });
    let udp = format!("{}:9", VPN_V4[2]);
    let _echo = c.spawn("lab-tool", ["udp-echo", &udp]).unwrap();
    // Without a policy everything passes.
    line.first_ping().unwrap();
    until(TEN, || exchanges(a, &web)).unwrap();
    until(TEN, || exchanges(c, &back)).unwrap();
    assert_eq!(echoed(a, &udp), "3 of 3");
    assert_eq!(status(a)["peers"][0]["filtered"], false);

    policy(
        &line,
        "allow send tcp/8080 to group servers by group clients\n",
    );
    filtered(&line, true);
    for _ in 0..3 {
        exchanges(a, &web).unwrap();
    }
    exchanges(c, &back).unwrap_err();
    assert_eq!(echoed(a, &udp), "0 of 3");
    assert_eq!((pings(a, VPN_V4[2]), pings(c, VPN_V4[0])), (0, 0));
    let other = format!("{}:8081", VPN_V4[2]);
    exchanges(a, &other).unwrap_err();
    assert!(dropped(a) > 0 && dropped(c) > 0);
    // B is in no group, and so shares none with either.
    assert_eq!(pings(a, VPN_V4[1]), 0);

    // Why, said wherever one asks.
    for host in [a, b, c] {
        let check = |from: &str, at: &str, what: &str| {
            let check = format!("policy check --from {from} --at {at} --send {what}");
            host.irm(&check).map_err(|e| e.to_string())
        };
        let said = check("ovl-a", "ovl-c", "tcp/8080").unwrap();
        assert!(
            said.contains("rule 2 of policy 1 allows it, line 2"),
            "{said}"
        );
        let said = check("ovl-a", "ovl-c", "udp/9").unwrap_err();
        assert!(said.contains("ovl-a may not send udp/9 to ovl-c"), "{said}");
        assert!(said.contains("they share no group"), "{said}");
        check("ovl-c", "ovl-a", "tcp/8080").unwrap_err();
    }
    what_is_under_way_follows_the_policy(&line, &web);
}

/// Another policy holds for what is under way; without one it goes on.
fn what_is_under_way_follows_the_policy(line: &Line, web: &str) {
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let args = ["tcp-exchange", web, "--bytes", "200000000"];
    let mut long = a.spawn("lab-tool", args).unwrap();
    let before = received(c, "ovl-a");
    let handed = |host: &Host| status(host)["counters"]["handed_packets"].as_u64().unwrap();
    let handed_before = [a, c].map(handed);
    until(TEN, || {
        anyhow::ensure!(received(c, "ovl-a") > before + 1_000_000, "{}", long.log());
        Ok(())
    })
    .unwrap();
    // Both ways of the one conversation go by themselves, though the rules allow little else.
    until(TEN, || {
        let more = [handed(a) - handed_before[0], handed(c) - handed_before[1]];
        anyhow::ensure!(more.iter().all(|n| *n > 500), "{more:?} packets");
        Ok(())
    })
    .unwrap();
    let rules = "deny send tcp to any by group clients\nallow send icmp to any by any\n";
    policy(line, rules);
    until(TEN, || {
        anyhow::ensure!(
            pings(a, VPN_V4[2]) == 3 && pings(c, VPN_V4[0]) == 3,
            "no ping"
        );
        Ok(())
    })
    .unwrap();
    // What the kernel cuts passes in all its fragments.
    until(TEN, || {
        anyhow::ensure!(pings_of(a, VPN_V4[2], "6000") == 3, "no large ping");
        Ok(())
    })
    .unwrap();
    for host in [a, c] {
        assert_eq!(status(host)["counters"]["drop.filter_overlap"], 0);
    }
    std::thread::sleep(Duration::from_millis(1500));
    let quiet = received(c, "ovl-a");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(received(c, "ovl-a"), quiet, "it goes on");
    assert!(long.alive(), "{}", long.log());
    b.irm("policy unset --layer overlay").unwrap();
    filtered(line, false);
    until(3 * TEN, || {
        anyhow::ensure!(received(c, "ovl-a") > quiet + 1_000_000, "{}", long.log());
        Ok(())
    })
    .unwrap();
    let before = handed(a);
    until(TEN, || {
        anyhow::ensure!(handed(a) > before, "all goes through the VPN's process");
        Ok(())
    })
    .unwrap();
}
