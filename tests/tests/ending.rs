//! A certificate of the layer's own authority, of 90 days, whose issuer is gone: `irm status`, the log, an event and the metric
//! say that it ends, by a clock that is set ahead.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Clock, Host, How, Lab, Process, eventually};

const DAY: i64 = 86_400;
const HOUR: i64 = 3600;
/// A member looks at its certificate once a minute.
const LOOK: Duration = Duration::from_secs(70);
const TEN: Duration = Duration::from_secs(10);

#[test]
fn a_member_whose_issuer_is_gone_says_everywhere_that_its_certificate_ends_and_that_it_has_ended() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let clock = Clock::new(a.dir()).unwrap();
    let how = How {
        clock: Some(clock.clone()),
        ..How::default()
    };
    let irmd = a.irmd_as(&how).unwrap();
    let gone = b.irmd().unwrap();
    link.overlay(&a, &b).unwrap();
    drop(gone);
    // Two minutes have passed at most.
    let left = |seconds: i64| assert!((seconds - 120..=seconds).contains(&metric(&a)));
    left(90 * DAY);
    assert_eq!(shown(&a), [""; 0]);

    for (day, warned, said) in [(60, 1, "29 days"), (84, 2, "5 days")] {
        clock.set(day * DAY + HOUR).unwrap();
        left((90 - day) * DAY - HOUR);
        let said = format!("the certificate of ovl-a expires in {said}");
        let shown = shown(&a);
        assert!(shown.len() == 1 && shown[0].contains(&said), "{shown:?}");
        eventually(LOOK, "a warning", || logged(&irmd).len() == warned).unwrap();
        let log = logged(&irmd);
        assert!(log[warned - 1].contains(&said), "{log:?}");
        let events = a.irm("events").unwrap();
        let told = |line: &&str| line.contains("certificate.ends") && line.contains(&said);
        assert_eq!(events.lines().filter(told).count(), 1, "{events}");
    }

    clock.set(91 * DAY).unwrap();
    left(-DAY);
    for pid in a.programs("ipcpd") {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    }
    eventually(TEN, "it looks anew", || logged(&irmd).len() > 2).unwrap();
    let said = "the certificate of ovl-a has expired";
    let log = logged(&irmd);
    assert!(log.len() == 3 && log[2].contains(said), "{log:?}");
    let shown = shown(&a);
    assert!(shown.len() == 1 && shown[0].contains(said), "{shown:?}");
}

/// What the log of an irmd warns of the ends of certificates.
fn logged(irmd: &Process) -> Vec<String> {
    let of_end = |line: &&str| line.contains("WARN") && line.contains("certificate.ends");
    let log = irmd.log();
    log.lines().filter(of_end).map(str::to_owned).collect()
}

/// What `status` warns of the end of a certificate.
fn shown(host: &Host) -> Vec<String> {
    let warnings = host.irm_json("status").unwrap()["warnings"].clone();
    let warnings: Vec<String> = serde_json::from_value(warnings).unwrap();
    let of_end = |text: &String| text.contains("the certificate of");
    warnings.into_iter().filter(of_end).collect()
}

/// How many seconds the certificate lives yet, as Prometheus hears.
fn metric(host: &Host) -> i64 {
    let text = tests::look::metrics(&host.run_dir().join("admin.sock")).unwrap();
    let find = |line: &str| {
        let rest = line.strip_prefix("strata_certificate_expires_in_seconds{")?;
        rest.split(' ').next_back()?.parse().ok()
    };
    let found = text.lines().find_map(find);
    found.unwrap_or_else(|| panic!("{text}"))
}
