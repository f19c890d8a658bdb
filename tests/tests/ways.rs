//! Networks behind members, and the way out by one: over real daemons and routers.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::line::{VPN_V4, VPN_V6};
use tests::look::pings;
use tests::{Host, Lab, Line, Link, PAIR_V4, Pair, until};

const TEN: Duration = Duration::from_secs(10);

fn forward(host: &Host, on: u8) {
    let script = format!(
        "echo {on} > /proc/sys/net/ipv4/ip_forward; echo {on} > /proc/sys/net/ipv6/conf/all/forwarding"
    );
    let out = host.run("sh", ["-c", &script]).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
}

/// Whether a network is taken, and why or why not, by the host's VPN.
fn taken(host: &Host, network: &str) -> anyhow::Result<(bool, String)> {
    let status = host.irm_json("vpn status")?;
    let offers = status["vpns"][0]["offers"].as_array().cloned();
    let offer = offers
        .unwrap_or_default()
        .into_iter()
        .find(|o| o["network"] == network);
    let offer = offer.ok_or_else(|| anyhow::anyhow!("{network} is not offered: {status}"))?;
    let why = offer["why"].as_str().unwrap_or_default().to_owned();
    Ok((offer["taken"] == true, why))
}

/// Waits until a network is taken, or isn't, for this reason.
fn becomes(host: &Host, network: &str, is: bool, because: &str) {
    until(TEN, || {
        let (taken, why) = taken(host, network)?;
        let fits = taken == is && why.contains(because);
        anyhow::ensure!(fits, "{network}: {taken}, {why}");
        Ok(())
    })
    .unwrap();
}

fn policy(line: &Line, rules: &str) {
    let b = line.host("b").unwrap();
    let file = b.dir().join("rules");
    fs::write(&file, rules).unwrap();
    b.irm(&format!("policy set --layer overlay {}", file.display()))
        .unwrap();
}

/// The line with its layer, and behind C a host D, which sends by C what is for the VPN.
fn with_a_network() -> (Line, Host, Link) {
    let mut line = Line::new(None).unwrap();
    let d = line.lab.host("d").unwrap();
    let lan = line.lab.veth(line.host("c").unwrap(), &d).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    d.net(&format!("route 10.9.0.0/24 {}", lan.ip(0))).unwrap();
    d.net("route fd09::/64 fd77:3::1").unwrap();
    (line, d, lan)
}

#[test]
fn a_network_behind_a_member_is_reached_where_it_is_taken_and_nowhere_else() {
    let (line, _d, _lan) = with_a_network();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    let (v4, v6) = ("10.77.3.0/24", "fd77:3::/64");
    forward(c, 0);
    c.irm(&format!(
        "vpn up --layer overlay --dev strata0 --offer {v4} --offer {v6}"
    ))
    .unwrap();
    let said = c.irm("vpn status").unwrap();
    assert!(said.contains("sysctl -w net.ipv4.ip_forward=1"), "{said}");
    forward(c, 1);
    let said = c.irm("vpn status").unwrap();
    assert!(!said.contains("sysctl"), "{said}");

    // Nobody takes what nobody said is to be taken.
    a.irm("vpn up --layer overlay --dev strata0").unwrap();
    becomes(a, v4, false, "--accept-routes");
    assert!(pings(a, "10.77.3.2").is_err());
    a.irm("vpn down").unwrap();
    a.irm("vpn up --layer overlay --dev strata0 --accept-routes")
        .unwrap();
    becomes(a, v4, true, "--accept-routes");
    becomes(a, v6, true, "--accept-routes");
    until(TEN, || pings(a, "10.77.3.2")).unwrap();
    until(TEN, || pings(a, "fd77:3::2")).unwrap();

    // What the policy denies is not taken, whatever this host says.
    policy(
        &line,
        "allow * * by any\ndeny offer 10.77.0.0/16 by any\nallow offer fd77::/16 by member ovl-c\nallow take * by member ovl-a\n",
    );
    becomes(a, v4, false, "rule 2 of policy 1 denies it");
    becomes(a, v6, true, "rule 3 of policy 1 allows it");
    assert!(pings(a, "10.77.3.2").is_err());
    pings(a, "fd77:3::2").unwrap();
    let check = format!("policy check --from ovl-c --offer {v4} --at ovl-a");
    let said = a.irm(&check).unwrap_err().to_string();
    assert!(said.contains("ovl-c may not offer 10.77.3.0/24"), "{said}");
    // What it allows is taken, though this host says nothing.
    policy(
        &line,
        "allow * * by any\nallow offer 10.77.0.0/16 by member ovl-c\nallow take * by member ovl-a\n",
    );
    a.irm("vpn down").unwrap();
    a.irm("vpn up --layer overlay --dev strata0").unwrap();
    becomes(a, v4, true, "rule 2 of policy 2 allows it");
    becomes(a, v6, false, "no rule of policy 2 is of it");
    until(TEN, || pings(a, "10.77.3.2")).unwrap();
    a.irm(&check).unwrap();

    // It goes with the VPN that offered it.
    c.irm("vpn down").unwrap();
    until(TEN, || match taken(a, v4) {
        Ok(still) => anyhow::bail!("{still:?}"),
        Err(_) => Ok(()),
    })
    .unwrap();
}

#[test]
fn a_network_that_both_sides_route_by_hand_is_reached_both_ways_and_who_does_not_drops_and_counts()
{
    let (line, d, _lan) = with_a_network();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    forward(c, 0);
    let theirs = ["10.77.3.2", "fd77:3::2"];
    let alone = "vpn up --layer overlay --dev strata0";
    let by_hand = format!("{alone} --route 10.77.3.0/24=ovl-c --route fd77:3::/64=ovl-c");
    let dropped = |host: &Host, why: &str, least: u64| {
        until(TEN, || {
            let status = host.irm_json("vpn status")?;
            let counters = &status["vpns"][0]["counters"];
            let n = counters[format!("drop.{why}")].as_u64();
            anyhow::ensure!(n >= Some(least), "{why}: {counters}");
            Ok(())
        })
        .unwrap();
    };

    // C takes nothing for a network that it was not told of, and lets nothing out of it.
    a.irm(&by_hand).unwrap();
    c.irm(alone).unwrap();
    line.first_ping().unwrap();
    forward(c, 1);
    for to in theirs {
        assert!(pings(a, to).is_err(), "{to}");
    }
    dropped(c, "foreign_destination", 4);
    for to in [VPN_V4[0], VPN_V6[0]] {
        assert!(pings(&d, to).is_err(), "{to}");
    }
    dropped(c, "own_source", 2);

    // Told so, it is the router of that network, if its kernel forwards.
    c.irm("vpn down").unwrap();
    forward(c, 0);
    c.irm(&by_hand).unwrap();
    let said = c.irm("vpn status").unwrap();
    assert!(said.contains("sysctl -w net.ipv4.ip_forward=1"), "{said}");
    forward(c, 1);
    for to in theirs {
        until(TEN, || pings(a, to)).unwrap();
    }
    for to in [VPN_V4[0], VPN_V6[0]] {
        until(TEN, || pings(&d, to)).unwrap();
    }
    for (server, at, client) in [(&d, theirs[0], a), (a, VPN_V4[0], &d)] {
        let at = format!("{at}:8080");
        let _server = server.spawn("lab-tool", ["tcp-serve", &at]).unwrap();
        let exchange = ["tcp-exchange", &at, "--bytes", "2000000"];
        until(TEN, || {
            let out = client.run("lab-tool", exchange)?;
            let json: Value = serde_json::from_str(&out.stdout)?;
            anyhow::ensure!(json["ends"]["right"] == 1, "{json}");
            Ok(())
        })
        .unwrap();
    }

    // A believes nobody who sends from a network that A was not told is there.
    a.irm("vpn down").unwrap();
    a.irm(alone).unwrap();
    line.first_ping().unwrap();
    for to in [VPN_V4[0], VPN_V6[0]] {
        assert!(pings(&d, to).is_err(), "{to}");
    }
    dropped(a, "spoofed_source", 4);
    assert!(pings(a, theirs[0]).is_err());
}

/// A client, the router of its underlay, the exit, and a host of the Internet. The client reaches all by its default route,
/// the exit's underlay address too.
struct Out {
    hosts: [Host; 4],
    _daemons: Vec<tests::Process>,
    _lab: Lab,
}

impl Out {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let hosts = ["a", "r", "e", "i"].map(|name| lab.host(name).unwrap());
        let [a, r, e, i] = &hosts;
        let _links = [(a, r), (r, e), (e, i)].map(|(x, y)| lab.veth(x, y).unwrap());
        for router in [r, e] {
            forward(router, 1);
        }
        a.net("route 0.0.0.0/0 10.77.1.2").unwrap();
        e.net("route 10.77.1.0/24 10.77.2.1").unwrap();
        for (host, to) in [(e, "198.51.100.0/24"), (e, "2001:db8::/32")] {
            let via = if to.contains(':') {
                "fd77:3::2"
            } else {
                "10.77.3.2"
            };
            host.net(&format!("route {to} {via}")).unwrap();
        }
        i.net("up lo").unwrap();
        i.net("addr lo 198.51.100.1/32").unwrap();
        i.net("addr lo 2001:db8::1/128").unwrap();
        i.net("route 10.9.0.0/24 10.77.3.1").unwrap();
        i.net("route fd09::/64 fd77:3::1").unwrap();
        let daemons = [a, e].map(|host| host.irmd().unwrap()).into();
        let shim = "ipcp bootstrap udp --type shim-udp --layer net";
        e.irm(&format!("{shim} --ip 10.77.2.2")).unwrap();
        a.irm(&format!("{shim} --ip 10.77.1.1 --host ovl-e=10.77.2.2"))
            .unwrap();
        e.irm("ipcp bootstrap ovl-e --type unicast --layer overlay --prefix 10.9.0.2/32 --prefix fd09::2/128")
            .unwrap();
        let invite =
            "layer invite overlay --member ovl-a --prefix 10.9.0.1/32 --prefix fd09::1/128";
        let url = e.irm(invite).unwrap();
        a.irm(&format!(
            "ipcp enroll ovl-a --type unicast --invite {}",
            url.trim()
        ))
        .unwrap();
        Self {
            hosts,
            _daemons: daemons,
            _lab: lab,
        }
    }
}

fn e_host(out: &Out) -> &Host {
    &out.hosts[2]
}

const INTERNET: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

#[test]
fn all_goes_out_by_the_exit_while_what_carries_the_vpn_goes_by_the_underlay() {
    let out = Out::new();
    let [a, _, e, _] = &out.hosts;
    e.irm("vpn up --layer overlay --dev strata0 --offer 0.0.0.0/0 --offer ::/0")
        .unwrap();
    // An offer alone sends nobody anywhere.
    a.irm("vpn up --layer overlay --dev strata0 --accept-routes")
        .unwrap();
    becomes(a, "0.0.0.0/0", false, "--exit ovl-e");
    assert!(pings(a, INTERNET[0]).is_err());
    a.irm("vpn down").unwrap();
    a.irm("vpn up --layer overlay --dev strata0 --exit ovl-e")
        .unwrap();
    becomes(a, "0.0.0.0/0", true, "--exit ovl-e");
    for to in INTERNET {
        until(TEN, || pings(a, to)).unwrap();
    }
    // New flows and links are made with the rules in place.
    let pid = |program| Pid::from_raw(a.programs(program)[0] as i32);
    for program in ["vpn", "ipcpd", "shim-udp"] {
        kill(pid(program), Signal::SIGKILL).unwrap();
        for to in INTERNET {
            until(TEN, || pings(a, to)).unwrap_or_else(|e| {
                let [here, there] = [a, e_host(&out)].map(|host| host.irm("--json vpn status"));
                panic!("{program}: {e}: {here:?} and there {there:?}")
            });
        }
    }
    a.irm("vpn down").unwrap();
    assert!(pings(a, INTERNET[0]).is_err());
    // The underlay is as before: the exit's address is reached by the default route.
    pings(a, "10.77.2.2").unwrap();
}

#[test]
fn two_layers_have_a_vpn_each_on_the_same_hosts_and_what_clashes_is_named() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    b.irm("ipcp bootstrap two-b --type unicast --layer second --over overlay --prefix 10.8.0.2/32")
        .unwrap();
    // C's is also that of ovl-b in the first layer.
    for (host, member, prefix) in [(a, "two-a", "10.8.0.1/32"), (c, "two-c", "10.9.0.2/32")] {
        let invite = format!("layer invite second --member {member} --prefix {prefix}");
        let url = b.irm(&invite).unwrap();
        let enroll = "--type unicast --over overlay --invite";
        host.irm(&format!("ipcp enroll {member} {enroll} {}", url.trim()))
            .unwrap();
    }
    for host in [a, b] {
        for layer in ["overlay", "second"] {
            host.irm(&format!("vpn up --layer {layer}")).unwrap();
        }
    }
    for to in ["10.9.0.2", "10.8.0.2"] {
        until(TEN, || pings(a, to)).unwrap();
    }
    let said = until(TEN, || {
        let status = a.irm_json("vpn status --layer second")?;
        let said = status["vpns"][0]["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        anyhow::ensure!(!said.is_empty(), "{status}");
        Ok(said)
    })
    .unwrap();
    let both = "the prefix 10.9.0.2/32 of two-c is the network 10.9.0.2/32 of vpn-overlay";
    assert!(said.contains(both), "{said}");
    pings(a, "10.9.0.2").unwrap();
    // One whose own address is the other's is refused.
    c.irm("vpn up --layer overlay").unwrap();
    until(TEN, || pings(c, "10.9.0.2")).unwrap();
    let said = c.irm("vpn up --layer second").unwrap_err().to_string();
    assert!(
        said.contains("the VPN's address 10.9.0.2 lies in the network 10.9.0.2/32 of vpn-overlay"),
        "{said}"
    );
    pings(c, "10.9.0.2").unwrap();
    // And one goes while the other stays.
    a.irm("vpn down --layer overlay").unwrap();
    pings(a, "10.8.0.2").unwrap();
    assert!(pings(a, "10.9.0.2").is_err());
}

#[test]
fn who_is_looked_up_behind_the_default_route_is_found_again_while_all_goes_out_by_the_exit() {
    const SERVER: &str = "198.51.100.53";
    let pair = Pair::new().unwrap();
    let Pair { a, b, .. } = &pair;
    a.net("route 0.0.0.0/0 10.77.1.2").unwrap();
    b.net(&format!("addr lo {SERVER}/32")).unwrap();
    let at = format!("{SERVER}:53");
    let serve = ["dns-serve", &at, "ovl-b", "10.77.1.2"];
    let server = b.spawn("lab-tool", serve).unwrap();
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    // Where B is, A's shim has been told. The next one must ask.
    a.irm("ipcp destroy udp").unwrap();
    let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip 10.77.1.1 --dns";
    a.irm(&format!("{shim} {SERVER}")).unwrap();
    let up = "vpn up --layer overlay --dev strata0";
    b.irm(&format!("{up} --offer 0.0.0.0/0")).unwrap();
    a.irm(&format!("{up} --exit ovl-b")).unwrap();
    becomes(a, "0.0.0.0/0", true, "--exit ovl-b");
    until(TEN, || pings(a, PAIR_V4[1])).unwrap();
    let asked = || server.newest()["asked"].as_u64().unwrap();
    for program in ["ipcpd", "shim-udp"] {
        let (before, pid) = (asked(), a.programs(program)[0]);
        assert!(before > 0, "nobody was looked up");
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        until(TEN, || {
            anyhow::ensure!(!a.programs(program).contains(&pid), "it lives");
            pings(a, PAIR_V4[1])
        })
        .unwrap_or_else(|e| panic!("{program}: {e}: {:?}", a.irm("status")));
        becomes(a, "0.0.0.0/0", true, "--exit ovl-b");
        assert!(asked() > before, "{program}: it was not looked up again");
    }
}
