//! How a VPN carries packets: flows by class of service, flows that nobody uses, the largest segment of connections.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::line::VPN_V4;
use tests::{Host, Line, until};

const TEN: Duration = Duration::from_secs(10);

/// Three hosts with their layer.
fn line() -> Line {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    line
}

fn pings(host: &Host, to: &str, more: &[&str]) -> anyhow::Result<()> {
    let ping = ["ping", to, "-c", "5", "-i", "10"];
    let out = host.run("lab-tool", [&ping, more].concat())?;
    let json: Value = serde_json::from_str(&out.stdout)?;
    anyhow::ensure!(json["received"] == 5, "{to}: {json}");
    Ok(())
}

fn counter(host: &Host, name: &str) -> u64 {
    let status = host.irm_json("vpn status").unwrap();
    status["vpns"][0]["counters"][name].as_u64().unwrap()
}

/// Class and state of each flow to a member.
fn flows(host: &Host, member: &str) -> Vec<(String, String)> {
    let status = host.irm_json("vpn status").unwrap();
    let peers = status["peers"].as_array().unwrap();
    let peer = peers.iter().find(|p| p["name"] == member).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let flows = peer["flows"].as_array().unwrap().iter();
    flows
        .map(|f| (text(&f["qos"]), text(&f["state"])))
        .collect()
}

fn said(all: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    owned.collect()
}

#[test]
fn marked_packets_have_their_own_flow_and_idle_flows_go_and_come_back_losing_nothing() {
    let line = line();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    for host in [a, c] {
        host.irm("vpn up --layer overlay --dev strata0 --idle 4s")
            .unwrap();
    }
    line.first_ping().unwrap();
    pings(a, VPN_V4[2], &[]).unwrap();
    pings(a, VPN_V4[2], &["--dscp", "46"]).unwrap();
    pings(a, VPN_V4[2], &["--dscp", "34"]).unwrap();
    // CS1 asks for less than nothing, and shares.
    pings(a, VPN_V4[2], &["--dscp", "8"]).unwrap();
    let up = said(&[("raw", "up"), ("video", "up"), ("voice", "up")]);
    assert_eq!((flows(a, "ovl-c"), flows(c, "ovl-a")), (up.clone(), up));
    let handed = counter(a, "handed_packets");
    println!("moved past the VPN's process: {handed} packets");

    // What goes past the VPN's process keeps its flow as well.
    let ping = ["ping", VPN_V4[2], "-c", "40", "-i", "200"];
    let out = a.run("lab-tool", ping).unwrap();
    let json: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(json["received"], 40, "{json}");
    assert!(counter(a, "handed_packets") >= handed + 40);
    let state = |host: &Host, member| flows(host, member).first().cloned();
    assert_eq!(state(a, "ovl-c"), Some(("raw".into(), "up".into())));
    // The others were idle meanwhile.
    assert_eq!(counter(a, "flows_idle"), 2);

    until(TEN, || {
        for (host, member) in [(a, "ovl-c"), (c, "ovl-a")] {
            let flows = flows(host, member);
            anyhow::ensure!(flows.iter().all(|(_, state)| state == "idle"), "{flows:?}");
        }
        Ok(())
    })
    .unwrap();
    let dialled = || [a, c].map(|host| counter(host, "flows_dialled"));
    let (before, quiet) = (dialled(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(dialled(), before, "nobody asked for a flow");
    // From either side the first packet brings it back and is not lost.
    pings(c, VPN_V4[0], &[]).unwrap();
    pings(a, VPN_V4[2], &[]).unwrap();
    assert_eq!(dialled(), [before[0], before[1] + 1]);
    println!("it came back after {:?}", quiet.elapsed());
    let log = std::fs::read_to_string(a.dir().join("irmd.log")).unwrap_or_default();
    let why = "nothing has moved for long";
    assert!(log.contains(why), "nobody said why: {log}");
}

#[test]
fn a_flow_that_stands_carries_though_no_other_can_be_had_in_its_place() {
    let line = line();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    for host in [a, c] {
        host.irm("vpn up --layer overlay --dev strata0 --idle 4s")
            .unwrap();
    }
    line.first_ping().unwrap();
    let irmd = Pid::from_raw(a.programs("irmd")[0] as i32);
    // A may have closed its flow a moment before the ping, on a slow machine: what is tried then is tried again.
    let carried = (0..3).any(|_| {
        until(2 * TEN, || voice_is(&line, "idle")).unwrap();
        pings(a, VPN_V4[2], &["--dscp", "46"]).unwrap();
        // For C it may be about to go now.
        std::thread::sleep(Duration::from_millis(2600));
        let stands = voice_is(&line, "up");
        kill(irmd, Signal::SIGSTOP).unwrap();
        let ping = "ping 10.9.0.1 --dscp 46 -i 1000 --first-within-ms 4000";
        let out = c.run("lab-tool", ping.split(' ')).unwrap();
        kill(irmd, Signal::SIGCONT).unwrap();
        println!("{stands:?}: {} {}", out.stdout.trim(), out.stderr.trim());
        stands.is_ok() && out.code == 0
    });
    assert!(carried);
}

/// Whether the flow for voice between A and C is so at both ends.
fn voice_is(line: &Line, state: &str) -> anyhow::Result<()> {
    for (host, member) in [("a", "ovl-c"), ("c", "ovl-a")] {
        let flows = flows(line.host(host)?, member);
        let voice = flows.iter().find(|(qos, _)| qos == "voice");
        let is = voice.map_or("idle", |(_, is)| is);
        anyhow::ensure!(is == state, "{host}: {flows:?}");
    }
    Ok(())
}

#[test]
fn who_is_behind_a_member_has_segments_that_fit() {
    let mut line = Line::new(None).unwrap();
    let d = line.lab.host("d").unwrap();
    let lan = line.lab.veth(line.host("c").unwrap(), &d).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let [a, c] = ["a", "c"].map(|name| line.host(name).unwrap());
    d.net(&format!("route 10.9.0.0/24 {}", lan.ip(0))).unwrap();
    let on = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    assert_eq!(c.run("sh", ["-c", on]).unwrap().code, 0);
    c.irm("vpn up --layer overlay --dev strata0 --offer 10.77.3.0/24")
        .unwrap();
    a.irm("vpn up --layer overlay --dev strata0 --accept-routes")
        .unwrap();
    until(TEN, || pings(a, "10.77.3.2", &[])).unwrap();
    let _server = d
        .spawn("lab-tool", ["tcp-serve", "10.77.3.2:8080"])
        .unwrap();
    let exchange = ["tcp-exchange", "10.77.3.2:8080", "--bytes", "2000000"];
    until(TEN, || {
        let out = a.run("lab-tool", exchange)?;
        let json: Value = serde_json::from_str(&out.stdout)?;
        anyhow::ensure!(json["ends"]["right"] == 1, "{json}");
        Ok(())
    })
    .unwrap();
    // What D says of itself is 1460, which is lowered where it enters.
    assert!(counter(c, "mss_lowered") >= 1);
}
