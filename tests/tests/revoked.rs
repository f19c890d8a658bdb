//! A member that was revoked is out within seconds, on every host and for good; its name can be invited again.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Host, Line, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
const TEN: Duration = Duration::from_secs(10);
const PING: &str = "ping hello --layer overlay -c 1 --timeout 500ms";

#[test]
fn a_revoked_member_is_out_in_five_seconds_for_good_and_its_name_can_be_invited_again() {
    let line = Line::up().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let _echo = c
        .spawn("irm", ["echo", "hello", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || a.irm_json(PING)).unwrap();
    assert!(
        b.irm("layer revoke overlay ovl-b").is_err(),
        "the authority itself"
    );
    assert!(
        a.irm("layer revoke overlay ovl-c").is_err(),
        "not its authority"
    );

    let before = Instant::now();
    b.irm("layer revoke overlay ovl-c").unwrap();
    eventually(FIVE, "a and b know it no more", || {
        !knows(a) && !knows(b) && flows(a) == 0
    })
    .unwrap();
    eventually(FIVE, "c is down and says why", || {
        c.irm("ipcp list")
            .is_ok_and(|list| list.contains("was revoked"))
    })
    .unwrap();
    assert!(before.elapsed() < FIVE, "{:?}", before.elapsed());
    assert!(a.irm_json(PING).is_err(), "a name of the revoked member");
    assert!(line.ping("10.9.0.3").is_err() || got(&line) == 0, "the VPN");

    // All start again, with what they kept.
    for host in [a, b, c] {
        for pid in host.programs("ipcpd") {
            kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
        }
    }
    let neighbours = || {
        let members = a.irm_json("layer members overlay")?;
        let members = members["members"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(members == 2, "a knows {members}");
        a.irm_json("layer routes overlay")
    };
    let up = until(TEN, || {
        let routes = neighbours()?;
        let routes = routes["routes"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(routes == 1, "a has {routes} ways");
        Ok(())
    });
    up.unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(!knows(a) && !knows(b), "revoked for good");

    let invite = "layer invite overlay --member ovl-c --prefix 10.9.0.3/32 --prefix fd09::3/128";
    let url = b.irm(invite).unwrap();
    let enroll = format!("ipcp enroll ovl-c --type unicast --invite {}", url.trim());
    c.irm(&enroll).unwrap();
    eventually(TEN, "b knows it again", || knows(b)).unwrap();
    eventually(TEN, "a knows it again", || knows(a)).unwrap();
    let got = line.first_ping();
    assert!(got.is_ok(), "the VPN stands again: {got:?}");
}

fn knows(host: &Host) -> bool {
    let members = host.irm("layer members overlay");
    members.is_ok_and(|members| members.contains("ovl-c"))
}

/// Flows of this host with the revoked member.
fn flows(host: &Host) -> usize {
    let list = host.irm("flow list").unwrap_or_default();
    list.matches("ovl-c").count()
}

fn got(line: &Line) -> u64 {
    let ping = line.ping("10.9.0.3");
    ping.ok()
        .and_then(|ping| ping["received"].as_u64())
        .unwrap_or(0)
}
