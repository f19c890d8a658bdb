//! A member that may issue too: it lets others in while the root's holder is away, within what it was given, until that is taken
//! back.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Host, Line, eventually, until};

const TEN: Duration = Duration::from_secs(10);

#[test]
fn a_delegate_lets_members_in_while_the_root_is_away_and_none_when_that_is_taken_back() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    a.irm("ipcp bootstrap ovl-a --type unicast --layer overlay")
        .unwrap();
    let url = a.irm("layer invite overlay --member ovl-b").unwrap();
    b.irm(&enroll("ovl-b", &url)).unwrap();
    let invite = "layer invite overlay --member ovl-c --prefix 10.9.0.3/32";
    refused(b, invite, "is its authority");

    a.irm("layer delegate overlay ovl-b --prefix 10.9.0.0/24")
        .unwrap();
    let issues = |held: &str| {
        let shown = b.irm_json("layer show overlay").unwrap();
        shown["held"] == held
    };
    eventually(TEN, "b has heard that it may issue", || issues("issuer")).unwrap();
    signal(a, Signal::SIGSTOP);
    let url = b.irm(invite).unwrap();
    c.irm(&enroll("ovl-c", &url)).unwrap();
    let _echo = b
        .spawn("irm", ["echo", "hello", "--layer", "overlay"])
        .unwrap();
    let ping = "ping hello --layer overlay --peer ovl-b -c 1 --timeout 500ms";
    until(TEN, || c.irm(ping)).unwrap();
    let beyond = "layer invite overlay --member ovl-d --prefix 10.10.0.1/32";
    refused(b, beyond, "10.10.0.1/32");

    signal(a, Signal::SIGCONT);
    let ping = "ping hello --layer overlay --peer ovl-b -c 1 --timeout 500ms";
    until(TEN, || a.irm(ping)).unwrap();
    a.irm("layer undelegate overlay ovl-b").unwrap();
    eventually(TEN, "b has heard that it may no more", || !issues("issuer")).unwrap();
    refused(b, "layer invite overlay --member ovl-d", "");
    // What it has issued counts until it ends.
    c.irm(ping).unwrap();
}

fn enroll(member: &str, url: &str) -> String {
    format!(
        "ipcp enroll {member} --type unicast --invite {}",
        url.trim()
    )
}

fn signal(host: &Host, signal: Signal) {
    for pid in host.programs("ipcpd") {
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }
}

/// As not allowed, in one line that says this.
fn refused(host: &Host, line: &str, why: &str) {
    let out = host.run("irm", line.split(' ')).unwrap();
    assert_eq!(out.code, 5, "{line}: {out:?}");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{line}: {out:?}");
    assert!(out.stderr.contains(why), "{line}: {out:?}");
}
