//! A layer whose certificates come from a site's own PKI: founded by two members that enroll with each other, warned of the end
//! of each certificate, given others while flows stand. Nothing in it revokes, and it says what to do instead.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::pki::{Issued, Pki};
use tests::{Host, Line, eventually, until};

const TEN: Duration = Duration::from_secs(10);
const THIRTY: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn certificates_of_a_sites_own_pki_are_warned_of_replaced_and_revoked_by_another_authority() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| line.host(name).unwrap());
    let pki = Pki::new().unwrap();
    let ends = [(a, 29 * 24 + 1), (b, 6 * 24 + 1), (c, 23)];
    let enrolling = ends.map(|(host, hours)| {
        let cert = issue(&pki, host, hours);
        let line = format!("{} --type unicast", enroll(host, &pki, &cert));
        host.spawn("irm", line.split(' ')).unwrap()
    });
    for mut enroll in enrolling {
        assert_eq!(enroll.wait(THIRTY).unwrap(), 0, "{}", enroll.log());
    }
    let _echo = c
        .spawn("irm", ["echo", "hello", "--layer", "overlay"])
        .unwrap();
    until(TEN, || a.irm("ping hello --layer overlay -c 1")).unwrap();

    for (host, said) in [(a, "29 days"), (b, "6 days"), (c, "22 h")] {
        is_warned(host, said);
    }
    is_not_revoked(a, "ovl-c");

    // C gets another certificate, of another key, under a flow.
    let cert = issue(&pki, c, 300 * 24);
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| a.irm_json("ping hello --layer overlay -c 200 -i 0.05"));
        std::thread::sleep(Duration::from_secs(2));
        let again = enroll(c, &pki, &cert);
        c.irm(&again).unwrap();
        assert!(of_end(c).is_empty(), "{:?}", of_end(c));
        assert!(metric(c) > 299 * 86_400, "{}", metric(c));
        // Once more is the same again.
        c.irm(&again).unwrap();
        let ping = ping.join().unwrap().unwrap();
        assert_eq!(ping["received"], ping["sent"], "{ping}");
    });
    for pid in c.programs("ipcpd") {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
    until(THIRTY, || {
        a.irm("ping hello --layer overlay -c 1 --timeout 1s")
    })
    .unwrap();
    assert!(metric(c) > 299 * 86_400, "{}", metric(c));

    // What the refusal said: A and B believe another authority, and C is out.
    let other = Pki::new().unwrap();
    for host in [a, b] {
        let cert = issue(&other, host, 300 * 24);
        host.irm(&enroll(host, &other, &cert)).unwrap();
    }
    eventually(THIRTY, "A and B are alone", || {
        [a, b]
            .iter()
            .all(|host| members(host) == ["ovl-a", "ovl-b"])
    })
    .unwrap();
    let _echo = b
        .spawn("irm", ["echo", "near", "--layer", "overlay"])
        .unwrap();
    until(THIRTY, || {
        a.irm("ping near --layer overlay -c 1 --timeout 1s")
    })
    .unwrap();
    let out = a.run(
        "irm",
        "ping hello --layer overlay -c 1 --timeout 2s".split(' '),
    );
    assert_ne!(out.unwrap().code, 0, "C is in still");
    assert!(of_end(a).is_empty() && of_end(b).is_empty());
}

/// With a reason that says what to do instead.
fn is_not_revoked(host: &Host, member: &str) {
    let refused = host.run("irm", ["layer", "revoke", "overlay", member]);
    let refused = refused.unwrap();
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_eq!(refused.stderr.trim().lines().count(), 1, "{refused:?}");
    let why = "nothing in overlay revokes a certificate of the site's own PKI";
    assert!(refused.stderr.contains(why), "{refused:?}");
    let what = "enroll the others again with --ca, --cert and --key of another CA";
    assert!(refused.stderr.contains(what), "{refused:?}");
}

/// For the member of a host.
fn issue(pki: &Pki, host: &Host, hours: u32) -> Issued {
    let uri = format!("strata://overlay/ovl-{}", host.name);
    pki.issue_ending(&uri, HOUR * hours).unwrap()
}

/// B enrolls with A, and the others with B.
fn enroll(host: &Host, pki: &Pki, cert: &Issued) -> String {
    let files = cert.options(host.dir(), &[&pki.root]).unwrap();
    let dst = if host.name == "b" { "a" } else { "b" };
    let name = &host.name;
    format!("ipcp enroll ovl-{name} --layer overlay --dst ovl-{dst} {files}")
}

/// In `status`, in the log, as an event and by the metric.
fn is_warned(host: &Host, said: &str) {
    let member = format!("ovl-{}", host.name);
    let warnings = of_end(host);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let begin = format!("{member}: the certificate of {member} expires in ");
    assert!(warnings[0].starts_with(&begin), "{warnings:?}");
    assert!(warnings[0].contains(said), "{warnings:?}");
    let what = format!("irm ipcp enroll {member} --layer overlay --dst MEMBER --ca FILE");
    assert!(warnings[0].contains(&what), "{warnings:?}");
    let shown = host.irm("status").unwrap();
    assert!(shown.contains(&begin), "{shown}");
    let log = std::fs::read_to_string(host.dir().join("irmd.log")).unwrap();
    let of_log = |line: &str| line.contains("WARN") && line.contains("certificate.ends");
    assert_eq!(log.lines().filter(|line| of_log(line)).count(), 1, "{log}");
    let events = host.irm("events").unwrap();
    assert!(events.contains("certificate.ends"), "{events}");
    let expires = host.irm_json("status").unwrap()["ipcps"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|i| i["status"]["cert_expires"].as_u64().filter(|at| *at > 0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let left = expires.unwrap().cast_signed() - now.unwrap().as_secs().cast_signed();
    assert!((metric(host) - left).abs() < 60, "{} {left}", metric(host));
}

/// What `status` warns of the end of a certificate.
fn of_end(host: &Host) -> Vec<String> {
    let warnings = host.irm_json("status").unwrap()["warnings"].clone();
    let warnings: Vec<String> = serde_json::from_value(warnings).unwrap();
    let of_end = |text: &String| text.contains("the certificate of");
    warnings.into_iter().filter(of_end).collect()
}

/// How many seconds its certificate lives yet, as Prometheus hears.
fn metric(host: &Host) -> i64 {
    let socket = host.run_dir().join("admin.sock");
    let text = tests::look::metrics(&socket).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|l| {
        let rest = l.strip_prefix("strata_certificate_expires_in_seconds{")?;
        rest.split(' ').next_back()?.parse().ok()
    });
    line.unwrap_or_else(|| panic!("{text}"))
}

fn members(host: &Host) -> Vec<String> {
    let said = host.irm_json("layer members overlay").unwrap_or_default();
    let all = said["members"].as_array().cloned().unwrap_or_default();
    let name = |m: &Value| m["name"].as_str().map(str::to_owned);
    let mut all: Vec<String> = all.iter().filter_map(name).collect();
    all.sort();
    all
}
