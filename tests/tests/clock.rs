//! Wall clocks that step by an hour, forth and back, under real daemons: flows, new flows, names and new links don't mind.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::talk::Talk;
use tests::{Clock, Host, How, Lab, until};

const HOUR: i64 = 3600;
const TEN: Duration = Duration::from_secs(10);

#[test]
fn clocks_that_step_an_hour_forth_and_back_harm_no_flow_and_keep_nobody_out() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let clocks = [&a, &b].map(|host| Clock::new(host.dir()).unwrap());
    let [_ia, _ib] = [(&a, &clocks[0]), (&b, &clocks[1])].map(|(host, clock)| {
        let how = How {
            clock: Some(clock.clone()),
            ..How::default()
        };
        host.irmd_as(&how).unwrap()
    });
    link.overlay(&a, &b).unwrap();
    let talks = [Talk::begin(&a, &b).unwrap(), Talk::begin(&b, &a).unwrap()];

    // The issuer's, then the other's, and both: forth, right again, back.
    for (of, hours) in [
        ([1, 0], "the other's"),
        ([0, 1], "the issuer's"),
        ([1, 1], "both"),
    ] {
        for ahead in [HOUR, 0, -HOUR, 0] {
            let what = format!("{hours} clock by {ahead} s");
            for (clock, moves) in clocks.iter().zip(of) {
                clock.set(ahead * moves).unwrap();
            }
            talks.iter().for_each(|talk| talk.goes_on(&what).unwrap());
            for (from, to) in [(&a, &b), (&b, &a)] {
                let name = format!("talk-{}", to.name);
                let ping = format!("ping {name} --layer overlay -c 1 --timeout 2s");
                from.irm(&ping).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            if ahead != 0 {
                links_anew(&a, &what);
                talks.iter().for_each(|talk| talk.goes_on(&what).unwrap());
            }
        }
    }
    // The clocks were theirs indeed.
    clocks[0].set(HOUR).unwrap();
    a.irm("ping talk-b --layer overlay -c 1").unwrap();
    let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let told = a.irm("events").unwrap();
    let newest: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let at = newest["time_ms"].as_i64().unwrap_or_default() / 1000;
    let ahead = at - real.as_secs() as i64;
    assert!((HOUR - 60..=HOUR + 60).contains(&ahead), "{newest}");
    for talk in talks {
        eprintln!("{}", talk.end().unwrap());
    }
}

/// Ends the link of a host with its shim, which comes back: a handshake with certificates of a wrong time.
fn links_anew(host: &Host, what: &str) {
    for pid in host.programs("shim-udp") {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }
    until(TEN, || {
        let status = host.irm_json("status")?;
        let ipcps = status["ipcps"].as_array().into_iter().flatten();
        let mut links = ipcps
            .filter_map(|i| i["status"]["links"].as_array())
            .flatten();
        let up = links.any(|l| l["state"] == "up" && l["member"] == "ovl-b");
        anyhow::ensure!(up, "{what}: no link: {status:#}");
        Ok(())
    })
    .unwrap();
}
