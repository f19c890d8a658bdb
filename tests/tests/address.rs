//! The addresses of an underlay come, go and change while flows stand: links are made anew, flows go on.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cat::{Carry, bytes};
use tests::talk::Talk;
use tests::{Host, Line, PAIR_V4, Pair, until};

const TEN: Duration = Duration::from_secs(10);
const TWENTY: Duration = Duration::from_secs(20);

#[test]
fn flows_outlive_addresses_that_go_come_back_and_change_at_both_ends() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let talks = [Talk::begin(a, b).unwrap(), Talk::begin(a, c).unwrap()];
    let pour = "pour much --layer overlay --qos data --bytes-per-s 200000";
    let sink = ["sink", "much", "--layer", "overlay"];
    let sink = c.spawn_piped("lab-talk", sink).unwrap();
    until(TEN, || c.irm("wait name much --timeout 1s")).unwrap();
    let _pour = a.spawn_piped("lab-talk", pour.split(' ')).unwrap();
    let go_on = |what: &str| {
        let begin = Instant::now();
        let had = sink.newest()["bytes"].as_u64().unwrap_or(0);
        for talk in &talks {
            talk.goes_on(what).unwrap();
        }
        until(TEN, || {
            let now = sink.newest()["bytes"].as_u64().unwrap_or(0);
            anyhow::ensure!(now > had + 100_000, "{what}: no more than {now} bytes");
            Ok(())
        })
        .unwrap();
        eprintln!("{what}: all go on after {:?}", begin.elapsed());
    };
    go_on("at first");
    let (here, there) = (&line.links[0].dev[0], &line.links[0].dev[1]);

    // The same address again, as of an interface that was set up anew.
    a.net(&format!("del-addr {here} 10.77.1.1/24")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    a.net(&format!("addr {here} 10.77.1.1/24")).unwrap();
    go_on("the same address again");

    // B moves; A is told where it is now.
    b.net(&format!("del-addr {there} 10.77.1.2/24")).unwrap();
    b.net(&format!("addr {there} 10.77.1.9/24")).unwrap();
    b.irm("ipcp set udp-ab --ip 10.77.1.9").unwrap();
    a.irm("ipcp set udp-ab --host ovl-b=10.77.1.9").unwrap();
    go_on("another address of the peer");

    // A moves, and nobody needs to be told: it dials.
    a.net(&format!("del-addr {here} 10.77.1.1/24")).unwrap();
    a.net(&format!("addr {here} 10.77.1.8/24")).unwrap();
    a.irm("ipcp set udp-ab --ip 10.77.1.8").unwrap();
    go_on("another address of its own");

    // What was set outlives the process.
    let before = shim(a)["pid"].as_u64().unwrap();
    let pid = Pid::from_raw(before.try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    until(TEN, || {
        let shim = shim(a);
        let back = shim["state"] == "up" && shim["pid"] != before;
        let ip = &shim["status"]["settings"]["ip"];
        anyhow::ensure!(back && ip == "10.77.1.8", "{shim}");
        Ok(())
    })
    .unwrap();
    go_on("the shim anew");

    for talk in talks {
        eprintln!("{}", talk.end().unwrap());
    }
    let file = Carry::start(a, c, "file", bytes(1, 200_000), bytes(2, 20_000)).unwrap();
    file.end(TWENTY).unwrap();
}

/// What A says of its shim.
fn shim(host: &Host) -> Value {
    let status = host.irm_json("status").unwrap();
    let all = status["ipcps"].as_array().unwrap();
    let shim = all.iter().find(|i| i["name"] == "udp-ab");
    shim.unwrap().clone()
}

#[test]
fn a_shim_that_follows_an_interface_moves_with_its_address_and_the_vpn_heals() {
    let mut pair = Pair::new().unwrap();
    let [here, there] = pair.link.dev.clone();
    let places = [&*format!("dev:{here}"), "auto"];
    pair.b.net("route 0.0.0.0/0 10.77.1.1").unwrap();
    pair.overlay(places, "10.77.1.2").unwrap();
    pair.vpn("").unwrap();
    assert_eq!(
        pair.shim(0).unwrap()["status"]["settings"]["ip"],
        "10.77.1.1"
    );
    assert_eq!(
        pair.shim(0).unwrap()["status"]["settings"]["follows"],
        places[0]
    );
    let is_at = |pair: &Pair, at: usize, ip: &str| {
        until(TEN, || {
            let shim = pair.shim(at)?;
            let there = shim["state"] == "up" && shim["status"]["settings"]["ip"] == ip;
            anyhow::ensure!(there, "{shim}");
            Ok(())
        })
    };
    let heals = |pair: &Pair, at: usize, ip: &str| {
        let took = pair.reaches(PAIR_V4[1], TEN).unwrap();
        println!("{ip}: pings pass again after {} ms", took.as_millis());
        assert!(took < HEALED, "{ip}: it took {took:?}");
        is_at(pair, at, ip).unwrap();
    };

    // Taken away and given anew, as by a DHCP server that has another pool.
    pair.a
        .net(&format!("del-addr {here} 10.77.1.1/24"))
        .unwrap();
    pair.a.net(&format!("addr {here} 10.77.1.7/24")).unwrap();
    heals(&pair, 0, "10.77.1.7");
    // Another one first: nothing changes until the old one goes.
    pair.a.net(&format!("addr {here} 10.77.1.8/24")).unwrap();
    heals(&pair, 0, "10.77.1.7");
    // The kernel takes the second ones of a network away with the first, and here gives them anew.
    pair.a
        .net(&format!("del-addr {here} 10.77.1.7/24"))
        .unwrap();
    let _ = pair.a.net(&format!("addr {here} 10.77.1.8/24"));
    heals(&pair, 0, "10.77.1.8");
    // The other end, which goes by its default route and dials too; A's table of hosts doesn't hear of it.
    pair.b.irm("ipcp set udp --host ovl-a=10.77.1.8").unwrap();
    pair.b.irm("ipcp connect ovl-b --dst ovl-a").unwrap();
    pair.b
        .net(&format!("del-addr {there} 10.77.1.2/24"))
        .unwrap();
    pair.b.net(&format!("addr {there} 10.77.1.9/24")).unwrap();
    pair.b.net("route 0.0.0.0/0 10.77.1.1").unwrap();
    heals(&pair, 1, "10.77.1.9");

    // It is kept on the disk, and none is taken for the one that it had.
    pair.restart_a().unwrap();
    is_at(&pair, 0, "10.77.1.8").unwrap();
    pair.a
        .net(&format!("del-addr {here} 10.77.1.8/24"))
        .unwrap();
    let why = format!("the interface {here} has no IPv4 address");
    says(&pair, "waiting", &why).unwrap();
    pair.a.net(&format!("addr {here} 10.77.1.8/24")).unwrap();
    is_at(&pair, 0, "10.77.1.8").unwrap();
    pair.reaches(PAIR_V4[1], TEN).unwrap();
}

#[test]
fn a_shim_whose_address_is_gone_says_so_until_it_is_back() {
    let pair = Pair::new().unwrap();
    let here = &pair.link.dev[0];
    pair.overlay(["10.77.1.1", "10.77.1.2"], "10.77.1.2")
        .unwrap();
    pair.a
        .net(&format!("del-addr {here} 10.77.1.1/24"))
        .unwrap();
    let begin = Instant::now();
    says(&pair, "waiting", "has the address 10.77.1.1 no longer").unwrap();
    println!("it said so after {:?}", begin.elapsed());
    assert!(begin.elapsed() < HEALED);
    pair.a.net(&format!("addr {here} 10.77.1.1/24")).unwrap();
    says(&pair, "up", "").unwrap();
    let events = pair.a.irm("events").unwrap();
    for told in ["10.77.1.1 no longer", "the shim is at 10.77.1.1:3359"] {
        assert!(events.contains(told), "{told}: {events}");
    }
    // Told where to be, it follows from then on.
    pair.a
        .irm(&format!("ipcp set udp --ip dev6:{here}"))
        .unwrap();
    let at = || pair.shim(0).unwrap()["status"]["settings"]["ip"].clone();
    until(TEN, || {
        anyhow::ensure!(at() == "fd77:1::1", "{}", at());
        Ok(())
    })
    .unwrap();
}

/// Waits until A's shim is in a state and says so, in its own words and in the warnings of the host; empty: until it warns no more.
fn says(pair: &Pair, state: &str, why: &str) -> anyhow::Result<()> {
    until(TEN, || {
        let status = pair.a.irm_json("status")?;
        let warnings = status["warnings"].to_string();
        let shim = pair.shim(0)?;
        let detail = shim["detail"].as_str().unwrap_or_default();
        let said = detail.contains(why) && warnings.contains(why);
        let quiet = !why.is_empty() || !warnings.contains("udp: ");
        anyhow::ensure!(said && quiet && shim["state"] == state, "{shim} {warnings}");
        Ok(())
    })
}

/// The goal is 2 s; these programs may not be optimised, and others use the machine.
const HEALED: Duration = Duration::from_secs(3);
