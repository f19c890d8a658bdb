//! A layer's root is changed by hand, with real daemons, under a flow that stays up.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{Host, Line, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
/// Certificates of ten minutes renew within half a minute of hearing of the new root.
const RENEWED: Duration = Duration::from_secs(60);

#[test]
fn the_root_is_changed_under_a_flow_that_stays_up_and_all_come_back_after_a_restart() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    b.irm("ipcp bootstrap ovl-b --type unicast --layer overlay --cert-life 10m")
        .unwrap();
    for host in [a, c] {
        let member = format!("ovl-{}", host.name);
        let url = b.irm(&format!("layer invite overlay --member {member}"));
        let url = url.unwrap();
        let enroll = format!(
            "ipcp enroll {member} --type unicast --invite {}",
            url.trim()
        );
        host.irm(&enroll).unwrap();
    }
    let _echo = c
        .spawn("irm", ["echo", "hello", "--layer", "overlay"])
        .unwrap();
    until(FIVE, || a.irm("ping hello --layer overlay -c 1")).unwrap();
    let old = fingerprints(a);
    assert_eq!(old.len(), 1);
    assert!(a.irm("layer rollover overlay").is_err(), "not its holder");

    let ping = thread::scope(|scope| {
        // One flow for 50 seconds.
        let ping = scope.spawn(|| a.irm_json("ping hello --layer overlay -c 1000 -i 0.05"));
        eventually(FIVE, "the flow stands", || flow(a).is_some()).unwrap();
        let id = flow(a);
        b.irm("layer rollover overlay").unwrap();
        let refused = b.run("irm", "layer rollover overlay --finish".split(' '));
        let refused = refused.unwrap();
        assert_eq!(refused.code, 6, "{refused:?}");
        assert!(refused.stderr.contains("wait until they have renewed"));
        eventually(FIVE, "all believe two roots", || {
            [a, b, c].iter().all(|host| fingerprints(host).len() == 2)
        })
        .unwrap();
        eventually(RENEWED, "all have renewed", || {
            let waiting = shown(b)["waiting"].as_array().map(Vec::len);
            let ends = [a, b, c].iter().any(|host| shown(host)["own_ends"] == true);
            waiting == Some(0) && !ends
        })
        .unwrap();
        b.irm("layer rollover overlay --finish").unwrap();
        eventually(FIVE, "all believe the new one alone", || {
            let is_new = |host: &Host| {
                let now = fingerprints(host);
                now.len() == 1 && now != old
            };
            [a, b, c].into_iter().all(is_new)
        })
        .unwrap();
        assert_eq!(flow(a), id, "the flow is another one");
        ping.join().unwrap().unwrap()
    });
    assert_eq!(ping["sent"], 1000, "{ping}");
    assert_eq!(ping["received"], ping["sent"], "{ping}");
    let warnings = a.irm_json("status").unwrap()["warnings"].to_string();
    assert!(!warnings.contains("root"), "{warnings}");

    for host in [a, b, c] {
        for pid in host.programs("ipcpd") {
            kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
        }
    }
    until(Duration::from_secs(15), || {
        a.irm("ping hello --layer overlay -c 1 --timeout 500ms")
    })
    .unwrap();
}

fn shown(host: &Host) -> Value {
    host.irm_json("layer show overlay").unwrap_or_default()
}

fn fingerprints(host: &Host) -> Vec<String> {
    let roots = shown(host)["roots"].clone();
    let roots = roots.as_array().cloned().unwrap_or_default();
    roots
        .iter()
        .filter_map(|root| root["fingerprint"].as_str().map(str::to_owned))
        .collect()
}

/// The id of the flow to the echo.
fn flow(host: &Host) -> Option<u64> {
    let flows = host.irm_json("flow list").ok()?;
    let mut flows = flows["flows"].as_array()?.iter();
    let hello = flows.find(|flow| flow["name"] == "hello" && flow["state"] == "allocated")?;
    hello["id"].as_u64()
}
