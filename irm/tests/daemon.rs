//! `irm` with a real irmd: names, and a flow between two programs of this host. No IPCP, no network.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An irmd of its own in a directory of its own; both end with the test.
struct Host {
    dir: tempfile::TempDir,
    irmd: Child,
}

impl Host {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let irmd = Command::new(irmd())
            .arg("--run-dir")
            .arg(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let host = Self { dir, irmd };
        until("irmd answers", || host.irm("status").status.success());
        host
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_irm"));
        command
            .arg("--run-dir")
            .arg(self.dir.path())
            .args(line.split(' '))
            .stdin(Stdio::null());
        command
    }

    fn irm(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What `irm --json` answers; it must succeed.
    fn json(&self, line: &str) -> Value {
        let output = self.irm(&format!("--json {line}"));
        assert!(
            output.status.success(),
            "irm {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn code(&self, line: &str) -> Option<i32> {
        self.irm(line).status.code()
    }

    /// Runs a command that serves until it is stopped.
    fn serve(&self, line: &str) -> Server {
        Server(self.command(line).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        end(&mut self.irmd);
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// SIGTERM, and after ten seconds SIGKILL; whether the first was enough and the process said it ended well.
fn end(child: &mut Child) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) else {
        return false;
    };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < limit, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The irmd beside this irm; built here, since testing one package builds no other's programs.
fn irmd() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let dir = Path::new(env!("CARGO_BIN_EXE_irm")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--locked", "--workspace"])
            .args(["--bin", "irmd", "--target-dir"])
            .arg(dir.parent().unwrap());
        if dir.ends_with("release") {
            cargo.arg("--release");
        }
        // What cargo tells a test would have ring built anew, and with the next build again.
        for (name, _) in std::env::vars_os() {
            let known = name.to_string_lossy();
            if known.starts_with("CARGO_PKG_") || known.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        assert!(cargo.status().unwrap().success(), "irmd can't be built");
        dir.join("irmd")
    };
    BUILT.get_or_init(build).clone()
}

#[test]
fn names_are_created_listed_and_destroyed_and_repeating_is_no_failure() {
    let host = Host::start();
    assert_eq!(host.json("name create web")["ok"], true);
    assert_eq!(host.code("name create web"), Some(0), "the same again");
    let names = host.json("name list");
    assert_eq!(
        (&names["names"][0]["name"], &names["names"][0]["state"]),
        (&"web".into(), &"unregistered".into())
    );
    for removal in [
        "name destroy web",
        "name unregister web --layer ovl",
        "unbind process 4711 --name web",
        "unbind program /usr/bin/httpd --name web",
        "ipcp destroy nobody",
        "vpn down --layer ovl",
    ] {
        assert_eq!(host.code(removal), Some(0), "irm {removal}");
        assert_eq!(host.code(removal), Some(0), "irm {removal}, again");
    }
    assert_eq!(host.json("name list")["names"], Value::Array(Vec::new()));
    assert_eq!(host.code("wait name web --timeout 200ms"), Some(7));
    let absent = host.irm("wait ipcp nope --timeout 100ms");
    let told = String::from_utf8(absent.stderr).unwrap();
    assert!(told.contains("there is no ipcp nope yet"), "{told}");
    assert_eq!(host.code("layer members nowhere"), Some(4));
}

#[test]
fn a_ping_comes_back_from_a_program_of_this_host() {
    let host = Host::start();
    let mut echo = host.serve("echo hello");
    until("hello is there", || host.code("ping hello -c 1") == Some(0));
    let json = host.json("ping hello -c 20 -i 1ms -s 1000");
    assert_eq!(
        (&json["sent"], &json["received"], &json["corrupt"]),
        (&20.into(), &20.into(), &0.into())
    );
    let rtt = |key: &str| json["rtt_us"][key].as_u64().unwrap();
    assert!(rtt("min") <= rtt("p50") && rtt("p50") <= rtt("p99") && rtt("p99") <= rtt("max"));
    let people = String::from_utf8(host.irm("ping hello -f -c 100").stdout).unwrap();
    assert!(
        people.contains("100 sent, 100 received, 0.000 % lost"),
        "{people}"
    );
    assert!(end(&mut echo.0), "echo did not end well");
    assert_eq!(
        host.code("ping hello -c 1 --timeout 300ms"),
        Some(4),
        "nobody serves it any more"
    );
}

#[test]
fn a_ping_without_a_count_says_what_it_counted_when_it_is_interrupted() {
    let host = Host::start();
    let _echo = host.serve("echo hello");
    until("hello is there", || host.code("ping hello -c 1") == Some(0));
    let ping = host
        .command("--json ping hello -i 10ms")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = rustix::process::Pid::from_raw(ping.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = ping.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        output.status.success() && json["received"].as_u64() > Some(0),
        "{json}"
    );
}

#[test]
fn what_does_not_fit_the_flow_is_a_usage_error_that_names_the_largest() {
    let host = Host::start();
    let _echo = host.serve("echo hello");
    until("hello is there", || host.code("ping hello -c 1") == Some(0));
    assert_eq!(
        host.code("ping hello -c 1 -s 65505"),
        Some(0),
        "the largest SDU of a local flow"
    );
    assert_eq!(host.code("ping hello -c 1 -s 65506"), Some(2));
}

#[test]
fn a_flow_that_stands_is_listed_with_its_bytes() {
    let host = Host::start();
    let _echo = host.serve("echo hello");
    until("hello is there", || host.code("ping hello -c 1") == Some(0));
    let _ping = Server(
        host.command("ping hello -i 10ms")
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    until("the flow is listed", || {
        let flows = host.json("flow list");
        let found = flows["flows"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["name"] == "hello" && f["state"] == "allocated");
        found
            && host.json("status")["flows"]
                .as_array()
                .is_some_and(|f| !f.is_empty())
    });
    // What has happened is told afterwards too, in as many lines of JSON.
    let events = host.irm("events");
    assert_eq!(events.status.code(), Some(0));
    let lines = String::from_utf8(events.stdout).unwrap();
    let events: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let of_flow = |e: &Value| e["kind"] == "flow.allocated" && e["fields"]["name"] == "hello";
    assert!(events.iter().any(of_flow), "{lines}");
}

#[test]
fn throughput_is_counted_by_the_receiver_in_both_directions() {
    let host = Host::start();
    let _server = host.serve("perf meter --server");
    until("meter is there", || {
        host.code("ping meter -c 1 --timeout 1s") != Some(4)
    });
    for line in [
        "perf meter -t 300ms",
        "perf meter -t 300ms --reverse -s 100 --qos raw",
    ] {
        let json = host.json(line);
        let number = |key: &str| json[key].as_f64().unwrap();
        assert!(
            number("bytes") > 0.0 && number("sdus_received") > 0.0 && number("gbit_per_s") > 0.0,
            "{line}: {json}"
        );
        assert_eq!(
            number("sdus_sent"),
            number("sdus_received"),
            "a local flow loses nothing: {json}"
        );
        assert!((0.2..2.0).contains(&number("seconds")), "{json}");
    }
}

#[test]
fn several_flows_are_measured_at_once_and_share() {
    let host = Host::start();
    let _server = host.serve("perf meter --server");
    until("meter is there", || {
        host.code("ping meter -c 1 --timeout 1s") != Some(4)
    });
    for way in ["", " --reverse"] {
        let json = host.json(&format!("perf meter -t 500ms --flows 3 --qos data{way}"));
        let flows = json["flows"].as_array().unwrap();
        assert_eq!(flows.len(), 3, "{json}");
        for key in ["bytes", "sdus_sent", "sdus_received"] {
            let each: Vec<u64> = flows.iter().map(|f| f[key].as_u64().unwrap()).collect();
            assert_eq!(json[key], each.iter().sum::<u64>(), "{key}: {json}");
            // None of them is starved by another of the same process.
            let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
            assert!(least * 10 > *most, "{key}: {each:?}");
        }
        assert_eq!(json["sdus_lost"], 0, "a local flow loses nothing: {json}");
    }
    let output = host.irm("perf meter -t 100ms --flows 2");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["flow 1: ", "flow 2: ", "all 2: "] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn several_are_measured_at_once() {
    let host = Host::start();
    let _server = host.serve("perf meter --server");
    until("meter is there", || {
        host.code("ping meter -c 1 --timeout 1s") != Some(4)
    });
    let clients: Vec<Child> = (0..4)
        .map(|_| {
            host.command("--json perf meter -t 300ms")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            output.status.success() && json["bytes"].as_u64() > Some(0),
            "{json}"
        );
    }
}

#[test]
fn a_reader_that_leaves_ends_irm_quietly() {
    let host = Host::start();
    let _echo = host.serve("echo hello");
    until("hello is there", || host.code("ping hello -c 1") == Some(0));
    let mut ping = host
        .command("ping hello -i 5ms")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(ping.stdout.take());
    until("ping ended", || ping.try_wait().unwrap().is_some());
    let output = ping.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_irmd_that_dies_in_the_midst_is_unreachable() {
    let mut host = Host::start();
    let mut wait = host
        .command("wait name never --timeout 20s")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut events = host
        .command("events --follow")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    host.irmd.kill().unwrap();
    assert_eq!(wait.wait().unwrap().code(), Some(3));
    assert_eq!(events.wait().unwrap().code(), Some(3));
}

#[test]
fn the_daemon_is_restarted_and_a_flow_goes_on() {
    let host = Host::start();
    let _echo = host.serve("echo hello");
    until("hello is there", || host.code("ping hello -c 1") == Some(0));
    let ping = host
        .command("--json ping hello -i 10ms -c 150")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.json("daemon restart")["ok"], true);
    let output = ping.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["received"], &json["lost"]),
        (&150.into(), &0.into()),
        "a restart costs no SDU: {json}"
    );
    until("the listener is back", || {
        host.code("ping hello -c 1") == Some(0)
    });
}
