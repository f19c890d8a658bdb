//! A segment of Ethernet over a layer: three hosts that find each other by ARP and by neighbour discovery, beside a VPN of packets.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::line::VPN_V4;
use tests::look::pings;
use tests::{Host, Line, Process, until};

const TEN: Duration = Duration::from_secs(10);
/// The segment's addresses, that nobody has certified.
const V4: [&str; 3] = ["192.168.50.1", "192.168.50.2", "192.168.50.3"];
const V6: [&str; 3] = ["fd50::1", "fd50::2", "fd50::3"];
/// Addresses of layer 2.
const ALL: &str = "ffffffffffff";
const GUEST: &str = "525400000009";
/// A kind of frames that is nobody's (IEEE 802).
const KIND: &str = "88b5";

/// Three hosts on a segment.
fn segment() -> Line {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    for (host, (v4, v6)) in line.hosts.iter().zip(V4.iter().zip(V6)) {
        let up = format!("vpn up --layer overlay --tap --dev tap0 --address {v4}/24");
        host.irm(&up).unwrap();
        host.net(&format!("addr tap0 {v6}/64")).unwrap();
    }
    line
}

fn three(line: &Line) -> [&Host; 3] {
    ["a", "b", "c"].map(|name| line.host(name).unwrap())
}

fn status(host: &Host) -> Value {
    let all = host.irm_json("vpn status --dev tap0").unwrap();
    all["vpns"][0].clone()
}

fn counter(host: &Host, name: &str) -> u64 {
    status(host)["counters"][name].as_u64().unwrap()
}

fn all_ping(line: &Line) {
    for to in V4.iter().chain(&V6) {
        for from in three(line) {
            until(TEN, || pings(from, to)).unwrap();
        }
    }
}

fn mac(host: &Host) -> String {
    let out = host.run("lab-tool", ["mac", "tap0"]).unwrap();
    out.stdout.trim().to_owned()
}

fn send(host: &Host, frame: &str) {
    let out = host.run("lab-tool", ["frame-send", "tap0", frame]).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
}

/// What the hosts get from now on.
fn watch(line: &Line) -> [Process; 3] {
    three(line).map(|host| {
        let watch = host.spawn_piped("lab-tool", ["frame-watch", "tap0"]);
        let watch = watch.unwrap();
        until(TEN, || {
            anyhow::ensure!(watch.log().contains("watching"), "{}", watch.log());
            Ok(())
        })
        .unwrap();
        watch
    })
}

/// Which of the hosts have seen a frame.
fn seen_by(watches: &[Process; 3], frame: &str) -> Vec<&'static str> {
    let saw = |watch: &Process| watch.log().lines().any(|line| line == frame);
    let all = ["a", "b", "c"].into_iter().zip(watches);
    let saw = all.filter(|(_, watch)| saw(watch));
    saw.map(|(name, _)| name).collect()
}

/// Sends a frame until these hosts have got it.
fn reaches(watches: &[Process; 3], sender: &Host, frame: &str, seen: &str, all: &[&str]) {
    until(TEN, || {
        send(sender, frame);
        std::thread::sleep(Duration::from_millis(200));
        let saw = seen_by(watches, seen);
        anyhow::ensure!(all.iter().all(|name| saw.contains(name)), "only {saw:?}");
        Ok(())
    })
    .unwrap();
}

/// The same, and nobody else gets it.
fn reaches_only(watches: &[Process; 3], sender: &Host, frame: &str, all: &[&str]) {
    reaches(watches, sender, frame, frame, all);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(seen_by(watches, frame), all);
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

/// A frame with a text of its own.
fn frame(to: &str, from: &str, text: &str) -> String {
    format!("{to}{from}{KIND}{}", hex(text))
}

#[test]
fn three_hosts_share_a_segment_that_learns_beside_a_vpn_of_packets() {
    let line = segment();
    let [a, b, c] = three(&line);
    for host in [a, c] {
        host.irm("vpn up --layer overlay --dev strata0").unwrap();
    }
    all_ping(&line);
    line.first_ping().unwrap();
    let said = status(a);
    assert_eq!(
        (&said["mode"], &said["state"]),
        (&"tap".into(), &"up".into())
    );
    assert_eq!(said["macs"], 3, "{said}");
    let routers = "/proc/sys/net/ipv6/conf/tap0/accept_ra";
    assert_eq!(a.run("cat", [routers]).unwrap().stdout.trim(), "0");
    for peer in said["peers"].as_array().unwrap() {
        assert_eq!((&peer["state"], &peer["macs"]), (&"up".into(), &1.into()));
    }
    let packets = a.irm_json("vpn status --dev strata0").unwrap();
    assert_eq!(packets["vpns"][0]["mode"], "tun");

    // To one that is known, alone; to all, all; and each as it was sent, whatever it holds.
    let [mac_a, mac_b, mac_c] = [a, b, c].map(mac);
    let watches = watch(&line);
    let one = frame(&mac_b, &mac_a, "for B alone");
    reaches_only(&watches, a, &one, &["b"]);
    // The kernel takes the outer tag off where it arrives. Nobody has said where the guest is; of C's device all know, in any VLAN.
    let inner = format!("81000008{KIND}{}", hex(&"tagged".repeat(200)));
    for (to, who) in [(GUEST, &["b", "c"][..]), (&mac_c, &["c"])] {
        let [tagged, seen] = ["88a80007", ""].map(|tag| format!("{to}{mac_a}{tag}{inner}"));
        reaches(&watches, a, &tagged, &seen, who);
        assert_eq!(seen_by(&watches, &seen), who);
    }
    let floods = counter(a, "flooded");
    let all = frame(ALL, &mac_a, "for everybody");
    reaches_only(&watches, a, &all, &["b", "c"]);
    assert!(counter(a, "flooded") > floods);
    // As large as the device takes them.
    let size = (status(a)["mtu"].as_u64().unwrap() - 28).to_string();
    let args = ["ping", V4[2], "-c", "3", "-s", &size];
    let out = a.run("lab-tool", args).unwrap();
    let json: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(json["received"], 3, "{json}");
    assert_eq!(counter(a, "drop.too_big"), 0);
    follows(&line, &watches);
    refuses(&line, &watches, &[mac_a, mac_b]);
    drop(watches);
    floods_are_bounded(&line);

    let down = |host: &Host| host.irm("vpn down --layer overlay --dev tap0");
    for host in [a, b, c] {
        down(host).unwrap();
    }
    for host in [a, b, c] {
        assert_ne!(host.run("lab-tool", ["mac", "tap0"]).unwrap().code, 0);
    }
    line.first_ping().unwrap();
}

/// A guest of A moves to B.
fn follows(line: &Line, watches: &[Process; 3]) {
    let [a, b, c] = three(line);
    let hello = |text: &str| frame(ALL, GUEST, text);
    let to_guest = |text: &str| frame(GUEST, &mac(c), text);
    reaches_only(watches, a, &hello("I am at A"), &["b", "c"]);
    reaches_only(watches, c, &to_guest("at A?"), &["a"]);
    let moved = hello("I am at B");
    reaches(watches, b, &moved, &moved, &["c"]);
    reaches_only(watches, c, &to_guest("at B?"), &["b"]);
    assert!(counter(c, "mac_moves") >= 1);
    // A has heard it on its own side a moment ago, and believes it only then.
    let from_a = |text: &str| frame(GUEST, &mac(a), text);
    let begin = Instant::now();
    until(TEN, || {
        let n = begin.elapsed().as_millis();
        send(b, &hello(&format!("still at B {n}")));
        let asked = from_a(&format!("at B, too? {n}"));
        send(a, &asked);
        std::thread::sleep(Duration::from_millis(200));
        anyhow::ensure!(watches[1].log().contains(&asked), "A doesn't follow");
        Ok(())
    })
    .unwrap();
}

/// What no switch forwards, and addresses of devices in others' mouths.
fn refuses(line: &Line, watches: &[Process; 3], [mac_a, mac_b]: &[String; 2]) {
    let [a, b, c] = three(line);
    let before = [a, b, c].map(|host| counter(host, "drop.stolen_source"));
    let theft = frame(ALL, mac_a, "I am A, says B");
    send(b, &theft);
    let control = frame("0180c2000000", mac_b, "spanning tree");
    send(b, &control);
    let group = frame(ALL, "33330000000a", "from a group");
    send(b, &group);
    // What comes behind them arrives.
    let good = frame(ALL, mac_b, "good ones pass");
    reaches_only(watches, b, &good, &["a", "c"]);
    for watch in watches {
        for bad in [&theft, &control, &group] {
            assert!(!watch.log().contains(bad));
        }
    }
    // B's own switch knows as well as the others whose it is.
    let after = [a, b, c].map(|host| counter(host, "drop.stolen_source"));
    assert!(after[1] > before[1], "{before:?} {after:?}");
    assert!(counter(b, "drop.bridge_control") >= 1 && counter(b, "drop.bad_source") >= 1);
}

/// More than the bound is dropped where it comes from.
fn floods_are_bounded(line: &Line) {
    let [a, ..] = three(line);
    let before = counter(a, "flooded");
    let (many, begin) = (frame(ALL, &mac(a), "again and again"), Instant::now());
    let args = [
        "frame-send",
        "tap0",
        &many,
        "--count",
        "60000",
        "--rate",
        "20000",
    ];
    let sent = a.run("lab-tool", args).unwrap();
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let flooded = counter(a, "flooded") - before;
    // 20,000 copies at once and 10,000 a second, to two others; and a few for what else is flooded meanwhile.
    let most = 10_000 + 5_000.0f64.mul_add(begin.elapsed().as_secs_f64(), 100.0) as u64;
    assert!(flooded <= most, "{flooded} of at most {most}");
    // Most of the burst, however busy the machine is.
    assert!(flooded > 5_000, "{flooded} of {}", sent.stdout.trim());
    assert!(counter(a, "drop.flood_limited") > 0);
    until(TEN, || pings(a, V4[2])).unwrap();
}

#[test]
fn a_segment_comes_back_when_a_process_is_killed_and_follows_the_policy() {
    let line = segment();
    let [a, b, c] = three(&line);
    until(TEN, || pings(a, V4[1])).unwrap();
    until(TEN, || pings(a, V4[2])).unwrap();
    let (before, pid) = (mac(b), status(b)["pid"].as_i64().unwrap());
    assert_eq!(b.run("kill", ["-9", &pid.to_string()]).unwrap().code, 0);
    until(TEN, || {
        let now = status(b)["pid"].as_i64().unwrap_or(pid);
        anyhow::ensure!(now != pid, "it is not back");
        pings(a, V4[1])
    })
    .unwrap();
    // Who knew it finds it where it was.
    assert_eq!(mac(b), before);

    let file = b.dir().join("rules");
    let set = |rules: &str| {
        std::fs::write(&file, rules).unwrap();
        let set = format!("policy set --layer overlay {}", file.display());
        b.irm(&set).unwrap();
    };
    let policy = |rules: &str| set(&format!("allow * * by any\n{rules}"));
    let state = |host: &Host, member: &str| {
        let said = status(host);
        let peers = said["peers"].as_array().unwrap();
        let peer = peers.iter().find(|p| p["name"] == member).unwrap();
        peer["state"].as_str().unwrap().to_owned()
    };
    // Rules about packets can't be kept for frames, so who is bound by them has no part.
    policy("deny send tcp/22 to member ovl-c by member ovl-a\nallow send * to any by any\n");
    until(TEN, || {
        let said = (state(a, "ovl-c"), state(c, "ovl-a"), state(a, "ovl-b"));
        let denied = "denied".to_owned();
        anyhow::ensure!(
            said == (denied.clone(), denied, "up".to_owned()),
            "{said:?}"
        );
        pings(a, V4[1])?;
        anyhow::ensure!(pings(a, V4[2]).is_err(), "A reaches C");
        Ok(())
    })
    .unwrap();
    policy("allow send * to any by any\n");
    until(TEN, || pings(a, V4[2])).unwrap();
    // Who allows packets has not allowed frames.
    set("allow * vpn/* by any\n");
    until(TEN, || {
        anyhow::ensure!(pings(a, V4[1]).is_err(), "A reaches B");
        Ok(())
    })
    .unwrap();
    b.irm("policy unset --layer overlay").unwrap();
    for to in &V4[1..] {
        until(2 * TEN, || pings(a, to)).unwrap();
    }

    let refused = a.irm("vpn up --layer overlay --tap --dev tap1 --dns --exit ovl-b");
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("leave --exit, --dns out"), "{why}");
    assert!(!VPN_V4.iter().any(|own| status(a).to_string().contains(own)));
}
