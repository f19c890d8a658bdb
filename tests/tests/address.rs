//! The addresses of an underlay come, go and change while flows stand: links are made anew, flows go on.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cat::{Carry, bytes};
use tests::talk::Talk;
use tests::{Host, Line, until};

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
