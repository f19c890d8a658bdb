//! What `irm` does without an irmd: usage, help, exit codes.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};

fn irm(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_irm"));
    command
        .env_remove("IRM_RUN_DIR")
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null());
    command
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn without_irmd_every_command_ends_with_3_and_one_line_of_advice() {
    for line in [
        "",
        "status",
        "ipcp list",
        "ipcp create w1 --type shim-udp",
        "name list",
        "layer members ovl",
        "flow list",
        "vpn status",
    ] {
        let mut args = vec!["--run-dir", "/nonexistent/irm"];
        args.extend(line.split(' ').filter(|w| !w.is_empty()));
        let output = irm(&args);
        assert_eq!(output.status.code(), Some(3), "irm {line}");
        assert!(output.stdout.is_empty(), "irm {line} answered");
        let told = told(&output);
        assert!(
            told.starts_with("irm: can't reach irmd at /nonexistent/irm/admin.sock")
                && told.contains("start irmd"),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn in_json_a_failure_is_one_document_on_stderr() {
    let output = irm(&["--json", "--run-dir", "/nonexistent/irm", "status"]);
    assert_eq!(output.status.code(), Some(3));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["exit"]),
        (&"unreachable".into(), &3.into())
    );
    let output = irm(&["ipcp", "create", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["exit"]),
        (&"usage".into(), &2.into())
    );
}

#[test]
fn what_makes_no_sense_ends_with_2_and_one_line() {
    let long = "x".repeat(256);
    for args in [
        &["frobnicate"][..],
        &["ipcp", "create", "w1"],
        &["ipcp", "create", "w1", "--type", "telepathy"],
        &[
            "ipcp",
            "bootstrap",
            "w1",
            "--type",
            "shim-udp",
            "--layer",
            "net",
        ],
        &["ipcp", "bootstrap", "w1", "--layer", "NET"],
        &["ipcp", "create", "name", "w1", "tipe", "unicast"],
        &["ipcp", "enroll", "b", "--type", "unicast"],
        &["name", "create", ""],
        &["name", "create", &long],
        &["name", "create", "a\nb"],
        &["layer", "invite", "ovl", "--prefix", "10.0.0.0/33"],
        &["wait", "ipcp", "a", "--state", "asleep"],
        &["wait", "ipcp", "a", "--timeout", "soon"],
        &["vpn", "up", "--layer", "ovl", "--route", "10.0.0.0/8"],
    ] {
        let output = irm(args);
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(
            told.starts_with("irm: ") && told.lines().count() == 1,
            "{args:?}: {told}"
        );
    }
}

#[test]
fn a_bad_prefix_or_process_is_told_what_a_good_one_is() {
    for (args, advice) in [
        (
            &["layer", "invite", "ovl", "--prefix", "10.0.0.0/99"][..],
            "use ADDR/LENGTH",
        ),
        (
            &["bind", "process", "abc", "--name", "web"],
            "use the number of a process",
        ),
    ] {
        let output = irm(args);
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(advice), "{told}");
    }
}

#[test]
fn a_name_that_is_not_utf8_is_a_usage_error() {
    let output = command()
        .args(["name", "create"])
        .arg(OsString::from_vec(vec![b'a', 0xff]))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("UTF-8"), "{}", told(&output));
}

#[test]
fn help_is_an_answer() {
    let output = irm(&["ipcp", "bootstrap", "--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("Examples:\n  irm ipcp bootstrap w1")
    );
}
