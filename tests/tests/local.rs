//! Programs on one host: direct flows, what `irm` says, and a thousand flows without a leak.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Lab, eventually, example, until};

const FIVE: Duration = Duration::from_secs(5);

#[test]
fn a_thousand_local_flows_come_and_go_without_a_leak() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let irmd = host.irmd().unwrap();
    let echo = host.spawn("irm", ["echo", "here"]).unwrap();
    until(FIVE, || host.irm("ping here -c 1")).unwrap();
    let descriptors = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = [irmd.pid(), echo.pid()].map(descriptors);
    let out = host
        .run("lab-flows", ["here", "--count", "1000", "--in-turn"])
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(json["allocated"], 1000, "{json}");
    eventually(
        FIVE,
        "descriptors and flows are back to what they were",
        || {
            let after = [irmd.pid(), echo.pid()].map(descriptors);
            let flows = host.irm_json("flow list").unwrap();
            flows["flows"].as_array().unwrap().is_empty()
                && after.iter().zip(&before).all(|(a, b)| a <= &(b + 2))
        },
    )
    .unwrap();
}

#[test]
fn the_example_of_the_first_page_of_libflow_greets() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let hello = example("hello").unwrap();
    let greet = || host.run(hello.to_str().unwrap(), [""; 0]).unwrap();
    // Without irmd it says what is missing, and so the test can fail.
    let alone = greet();
    assert!(
        alone.code == 1 && alone.stderr.contains("irmd"),
        "{alone:?}"
    );
    let _irmd = host.irmd().unwrap();
    let out = greet();
    assert_eq!(out.code, 0, "{out:?}");
}

#[test]
fn a_direct_flow_outlives_a_killed_irmd_which_knows_it_again() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let irmd = host.irmd().unwrap();
    let _echo = host.spawn("irm", ["echo", "here"]).unwrap();
    until(FIVE, || host.irm("ping here -c 1")).unwrap();
    let mut ping = host
        .spawn("irm", ["--json", "ping", "here", "-c", "300", "-i", "0.01"])
        .unwrap();
    let ids = || -> Vec<u64> {
        let json = host.irm_json("flow list").unwrap_or_default();
        let flows = json["flows"].as_array().cloned().unwrap_or_default();
        flows.iter().filter_map(|f| f["id"].as_u64()).collect()
    };
    eventually(FIVE, "the flow is listed", || ids().len() == 1).unwrap();
    let before = ids();
    kill(Pid::from_raw(irmd.pid() as i32), Signal::SIGKILL).unwrap();
    drop(irmd);
    let _irmd = host.irmd().unwrap();
    eventually(
        Duration::from_secs(2),
        "the same flow is listed again",
        || ids() == before,
    )
    .unwrap();
    until(Duration::from_secs(2), || {
        host.irm("ping here -c 1 --timeout 300ms")
    })
    .unwrap();
    assert_eq!(
        ping.wait(Duration::from_secs(10)).unwrap(),
        0,
        "{}",
        ping.log()
    );
    let (json, log) = (ping.json().unwrap(), ping.log());
    assert_eq!(
        (json["sent"].as_u64(), json["received"].as_u64()),
        (Some(300), Some(300)),
        "{log}"
    );
}

#[test]
fn a_second_irmd_ends_with_exit_code_six() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let _irmd = host.irmd().unwrap();
    let run = host.run_dir();
    let second = host
        .run("irmd", ["--run-dir".as_ref(), run.as_os_str()])
        .unwrap();
    assert_eq!(second.code, 6, "{}", second.stderr);
    assert!(second.stderr.trim().lines().count() >= 1);
}
