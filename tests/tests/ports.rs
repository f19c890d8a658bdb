//! Programs that know only TCP, UDP or SOCKS, over flows: `irm forward`, `irm expose`, `irm proxy`.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{Host, Impairment, Line, Process, eventually, until};

/// A server on C, its port exposed there as a name, and that name forwarded to a port of A.
struct Ports {
    line: Line,
    server: Option<Process>,
    expose: Process,
    forward: Process,
    /// Where clients on A go.
    at: String,
}

impl Ports {
    fn tcp(line: Line, manner: &str) -> Self {
        let server = serve(line.host("c").unwrap(), manner);
        Self::of(line, Some(server), "tcp")
    }

    fn of(line: Line, server: Option<Process>, kind: &str) -> Self {
        let expose = [
            "--json",
            "expose",
            "web",
            "--layer",
            "overlay",
            &format!("--{kind}"),
            PORT,
        ];
        let expose = begin(line.host("c").unwrap(), &expose);
        let forward = [
            "--json",
            "forward",
            &format!("--{kind}"),
            "0",
            "web",
            "--timeout",
            "5s",
        ];
        let forward = begin(line.host("a").unwrap(), &forward);
        let at = forward.newest()[kind].as_str().unwrap().to_owned();
        Self {
            line,
            server,
            expose,
            forward,
            at,
        }
    }

    /// How exchanges on A end.
    fn exchange(&self, more: &str) -> Value {
        exchange(self.line.host("a").unwrap(), &self.at, more)["ends"].take()
    }

    /// Ends both as an administrator would; what forward and expose counted.
    fn end(self) -> (Value, Value) {
        drop(self.server);
        (end(self.forward), end(self.expose))
    }
}

/// Starts a part of `irm` and waits until it says that it is ready.
fn begin(host: &Host, args: &[&str]) -> Process {
    let process = host.spawn("irm", args).unwrap();
    let ready = || process.newest()["event"] == "ready";
    eventually(TEN, "irm is ready", ready).unwrap_or_else(|e| panic!("{e}: {}", process.log()));
    process
}

fn end(mut process: Process) -> Value {
    process.signal(Signal::SIGTERM).unwrap();
    assert_eq!(process.wait(TEN).unwrap(), 0, "{}", process.log());
    let said = process.newest();
    assert_eq!(said["event"], "end", "{}", process.log());
    said
}

fn serve(host: &Host, manner: &str) -> Process {
    let at = format!("127.0.0.1:{PORT}");
    let server = host
        .spawn("lab-tool", ["tcp-serve", &at, "--manner", manner])
        .unwrap();
    eventually(TEN, "the server listens", || !server.newest().is_null()).unwrap();
    server
}

fn exchange(host: &Host, at: &str, more: &str) -> Value {
    tool(host, &format!("tcp-exchange {at} {more}"))
}

fn tool(host: &Host, line: &str) -> Value {
    let out = host.run("lab-tool", line.split_whitespace()).unwrap();
    assert_eq!(out.code, 0, "{}", out.stderr);
    serde_json::from_str(&out.stdout).unwrap()
}

#[test]
fn fifty_megabytes_go_there_and_back_byte_for_byte() {
    let mut line = Line::new(None).unwrap();
    line.start_daemons().unwrap();
    line.shims().unwrap();
    line.overlay().unwrap();
    let ports = Ports::tcp(line, "echo");
    let a = ports.line.host("a").unwrap();
    let line = ["tcp-exchange", &ports.at, "--bytes", "50000000"];
    let mut client = a.spawn("lab-tool", line).unwrap();
    client.wait(Duration::from_secs(180)).unwrap();
    let said = client.newest();
    eprintln!("50 MB there and back: {said}");
    assert_eq!(said["ends"], json!({"right": 1}));
    let (forward, expose) = ports.end();
    assert_eq!(forward["tx_bytes"], 50_000_000);
    assert_eq!(expose["tx_bytes"], 50_000_000);
    assert_eq!(
        (&forward["flows"], &forward["broken"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn bytes_pass_links_that_lose_a_tenth() {
    let mut line = Line::impairable(22).unwrap();
    let lossy = Impairment {
        loss: 0.1,
        ..Impairment::default()
    };
    line.impair(lossy).unwrap();
    let ports = Ports::tcp(line, "echo");
    assert_eq!(ports.exchange("--bytes 300000"), json!({"right": 1}));
}

#[test]
fn an_answer_comes_after_the_client_has_ended_its_half() {
    let ports = Ports::tcp(Line::impairable(23).unwrap(), "answer");
    assert_eq!(
        ports.exchange("--bytes 200000 --count 3"),
        json!({"right": 3})
    );
    // Nothing to say is a request too.
    assert_eq!(ports.exchange("--bytes 0"), json!({"right": 1}));
}

#[test]
fn a_reset_stays_a_reset() {
    let ports = Ports::tcp(Line::impairable(24).unwrap(), "reset");
    assert_eq!(ports.exchange("--bytes 100 --count 3"), json!({"reset": 3}));
    let (forward, _) = ports.end();
    assert_eq!(forward["broken"], 3);
}

#[test]
fn what_can_not_be_reached_is_a_reset_with_the_reason_told() {
    let line = Line::impairable(25).unwrap();
    let ports = Ports::of(line, None, "tcp");
    // No server there.
    assert_eq!(ports.exchange(""), json!({"reset": 1}));
    let log = ports.forward.log();
    assert!(
        log.contains("what serves web can't be reached: connection refused"),
        "{log}"
    );
    assert!(!log.contains("localhost"), "{log}");
    let log = ports.expose.log();
    assert!(
        log.contains(&format!("can't reach localhost:{PORT}")),
        "{log}"
    );
    // Nobody serves the name.
    let a = ports.line.host("a").unwrap();
    let nobody = begin(a, &["--json", "forward", "--tcp", "0", "nobody"]);
    let at = nobody.newest()["tcp"].as_str().unwrap().to_owned();
    assert_eq!(exchange(a, &at, "")["ends"], json!({"reset": 1}));
    assert_eq!(end(nobody)["failed"], 1);
    // Members that it is not for.
    let strict = begin(
        ports.line.host("b").unwrap(),
        &[
            "--json", "expose", "strict", "--layer", "overlay", "--tcp", PORT, "--peer", "ovl-c",
        ],
    );
    let refused = a.run("irm", ["cat", "strict", "--timeout", "5s"]).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert_eq!(end(strict)["failed"], 1);
    // A port that is taken.
    let taken = a
        .run("irm", ["forward", "--tcp", &ports.at, "web"])
        .unwrap();
    assert_eq!(
        (taken.code, taken.stderr.lines().count()),
        (6, 1),
        "{}",
        taken.stderr
    );
    let (forward, expose) = ports.end();
    assert_eq!(
        (&forward["failed"], &expose["failed"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn who_is_stopped_resets_what_is_open_on_both_sides() {
    let mut ports = Ports::tcp(Line::impairable(26).unwrap(), "hold");
    let a = ports.line.host("a").unwrap();
    let mut client = a.spawn("lab-tool", ["tcp-exchange", &ports.at]).unwrap();
    eventually(TEN, "a flow is open", || flows(&ports.line, "c") > 0).unwrap();
    ports.expose.signal(Signal::SIGTERM).unwrap();
    assert_eq!(ports.expose.wait(TEN).unwrap(), 0);
    client.wait(TEN).unwrap();
    assert_eq!(client.newest()["ends"], json!({"reset": 1}));
    until(TEN, || match flows(&ports.line, "a") {
        0 => Ok(()),
        n => anyhow::bail!("{n} flows are left"),
    })
    .unwrap();
    assert_eq!(end(ports.forward)["broken"], 1);
}

#[test]
fn a_reader_that_does_not_read_stops_the_writer_and_nothing_grows() {
    let ports = Ports::tcp(Line::impairable(27).unwrap(), "hold");
    let a = ports.line.host("a").unwrap();
    let said = tool(a, &format!("tcp-fill {}", ports.at));
    eprintln!("taken by a reader that does not read: {said}");
    assert_eq!(said["end"], "full");
    assert!(said["taken"].as_u64().unwrap() < 100_000_000, "{said}");
    for (host, process) in [("a", &ports.forward), ("c", &ports.expose)] {
        let kib = resident_kib(process);
        assert!(kib < 20_000, "irm on {host} has {kib} KiB");
    }
}

#[test]
fn two_hundred_connections_leave_no_flow_and_no_descriptor() {
    let ports = Ports::tcp(Line::impairable(28).unwrap(), "answer");
    assert_eq!(ports.exchange("--count 5"), json!({"right": 5}));
    let settled = || flows(&ports.line, "a") + flows(&ports.line, "c") == 0;
    eventually(TEN, "the first flows are gone", settled).unwrap();
    let before = [&ports.forward, &ports.expose].map(descriptors);
    assert_eq!(
        ports.exchange("--count 200 --at-once 20"),
        json!({"right": 200})
    );
    eventually(TEN, "all flows are gone", settled).unwrap();
    assert_eq!([&ports.forward, &ports.expose].map(descriptors), before);
    let (forward, expose) = ports.end();
    assert_eq!(
        (&forward["flows"], &expose["flows"]),
        (&json!(205), &json!(205))
    );
}

#[test]
fn what_comes_beyond_the_bounds_is_reset_and_counted() {
    let line = Line::impairable(29).unwrap();
    let server = serve(line.host("c").unwrap(), "hold");
    let exposed = "--json expose web --layer overlay --tcp 8080 --most 3";
    let exposed: Vec<_> = exposed.split(' ').collect();
    let expose = begin(line.host("c").unwrap(), &exposed);
    let a = line.host("a").unwrap();
    let forward = || {
        let args = ["--json", "forward", "--tcp", "0", "web", "--most", "2"];
        let forward = begin(a, &args);
        let at = forward.newest()["tcp"].as_str().unwrap().to_owned();
        (forward, at)
    };
    let hold = |at: &str| a.spawn("lab-tool", ["tcp-exchange", at]).unwrap();
    let (first, at) = forward();
    let mut held = vec![hold(&at), hold(&at)];
    eventually(TEN, "two are held", || flows(&line, "c") == 2).unwrap();
    // Beyond what this one takes.
    assert_eq!(exchange(a, &at, "")["ends"], json!({"reset": 1}));
    let (second, at) = forward();
    held.push(hold(&at));
    eventually(TEN, "three are held", || flows(&line, "c") == 3).unwrap();
    // Beyond what expose takes.
    assert_eq!(exchange(a, &at, "")["ends"], json!({"reset": 1}));
    assert_eq!(end(expose)["busy"], 1);
    drop((held, server));
    let (first, second) = (end(first), end(second));
    assert_eq!((&first["busy"], &first["failed"]), (&json!(1), &json!(0)));
    assert_eq!((&second["busy"], &second["failed"]), (&json!(0), &json!(1)));
}

#[test]
fn datagrams_go_there_and_back_and_silence_closes_their_flows() {
    let line = Line::impairable(30).unwrap();
    let c = line.host("c").unwrap();
    let echo = c
        .spawn("lab-tool", ["udp-echo", &format!("127.0.0.1:{PORT}")])
        .unwrap();
    let expose = [
        "--json",
        "expose",
        "web",
        "--layer",
        "overlay",
        "--udp",
        &format!("127.0.0.1:{PORT}"),
    ];
    let expose = begin(c, &expose);
    let a = line.host("a").unwrap();
    let forward = begin(
        a,
        &["--json", "forward", "--udp", "0", "web", "--idle", "1s"],
    );
    let at = forward.newest()["udp"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let out = a.run("lab-tool", ["udp-send", &at, "50"]).unwrap();
        assert_eq!(out.stdout.trim(), "50 of 50", "{}", forward.log());
    }
    eventually(TEN, "the flows are gone", || {
        flows(&line, "a") + flows(&line, "c") == 0
    })
    .unwrap();
    let said = end(forward);
    // Three clients, three addresses, three flows.
    assert_eq!(
        (&said["flows"], &said["tx_bytes"]),
        (&json!(3), &json!(600))
    );
    drop(echo);
    assert_eq!(end(expose)["flows"], 3);
}

/// The proxy on A, with a file of users if any; and where it listens.
fn proxy(line: &Line, more: &[&str]) -> (Process, String) {
    let args = [&["--json", "proxy", "--timeout", "5s"][..], more].concat();
    let proxy = begin(line.host("a").unwrap(), &args);
    let at = proxy.newest()["socks5"].as_str().unwrap().to_owned();
    (proxy, at.replace("0.0.0.0", "127.0.0.1"))
}

#[test]
fn a_client_of_socks_reaches_names_and_hears_why_it_does_not() {
    let line = Line::impairable(31).unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let _server = serve(c, "answer");
    let exposed = |name: &str, port: &str| {
        let args = [
            "--json", "expose", name, "--layer", "overlay", "--tcp", port,
        ];
        begin(c, &args)
    };
    let _exposed = [
        exposed("web", PORT),
        exposed("ovl-c:22", PORT),
        exposed("web:81", "9"),
    ];
    let (proxy, at) = proxy(&line, &["--socks5", "0", "--layer", "overlay"]);
    for (to, end) in [
        ("web:80", "right"),
        ("web.overlay.internal:80", "right"),
        ("WEB.internal:80", "socks 4"),
        ("web.Overlay.INTERNAL.:80", "right"),
        ("ovl-c.overlay.internal:22", "right"),
        // A name with that very port comes first; nothing listens behind this one.
        ("web.overlay.internal:81", "socks 5"),
        ("nobody.overlay.internal:80", "socks 4"),
        ("web.other.internal:80", "socks 2"),
        ("10.0.0.1:80", "socks 8"),
        ("[fd00::1]:80", "socks 8"),
        // Names of VPNs are reserved.
        ("vpn/ovl-c:80", "socks 2"),
    ] {
        let said = exchange(a, &at, &format!("--bytes 20000 --socks {to}"));
        assert_eq!(said["ends"], json!({end: 1}), "{to}: {}", proxy.log());
    }
    let said = exchange(a, &at, "--count 40 --at-once 8 --socks web:80");
    assert_eq!(said["ends"], json!({"right": 40}));
    let said = end(proxy);
    assert_eq!((&said["flows"], &said["broken"]), (&json!(44), &json!(0)));
}

#[test]
fn a_proxy_for_others_asks_who_they_are() {
    let line = Line::impairable(32).unwrap();
    let a = line.host("a").unwrap();
    let open = a.run("irm", ["proxy", "--socks5", "0.0.0.0:0"]).unwrap();
    assert_eq!(
        (open.code, open.stderr.lines().count()),
        (2, 1),
        "{}",
        open.stderr
    );
    let file = a.dir().join("users");
    std::fs::write(&file, "ann:secret\nbob:other\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let users = file.to_str().unwrap();
    let (proxy, at) = proxy(&line, &["--socks5", "0.0.0.0:0", "--users", users]);
    let server = serve(line.host("c").unwrap(), "answer");
    let expose = [
        "--json", "expose", "web", "--layer", "overlay", "--tcp", PORT,
    ];
    let expose = begin(line.host("c").unwrap(), &expose);
    for (user, end) in [
        ("--user ann:secret", "right"),
        ("--user ann:other", "socks login 1"),
        ("", "socks method 255"),
    ] {
        let said = exchange(a, &at, &format!("--socks web:80 {user}"));
        assert_eq!(said["ends"], json!({end: 1}));
    }
    assert_eq!(end(proxy)["denied"], 2);
    drop((server, expose));
}

#[test]
fn datagrams_of_a_client_of_socks_come_back_and_only_its_own_are_passed_on() {
    let line = Line::impairable(33).unwrap();
    let (a, c) = (line.host("a").unwrap(), line.host("c").unwrap());
    let at = format!("127.0.0.1:{PORT}");
    let _echo = c.spawn("lab-tool", ["udp-echo", &at]).unwrap();
    let expose = [
        "--json", "expose", "dns", "--layer", "overlay", "--udp", &at,
    ];
    let expose = begin(c, &expose);
    let (proxy, at) = proxy(&line, &["--socks5", "0"]);
    let said = tool(a, &format!("socks-udp {at} dns.overlay.internal:53 20 900"));
    assert_eq!(said, json!({"back": 20, "gone": true}), "{}", proxy.log());
    // What is larger than the flow carries is lost, with the flow known and not yet known, and nothing else.
    let said = tool(a, &format!("socks-udp {at} dns:53 2 5000"));
    assert_eq!(said["back"], 0);
    eventually(TEN, "the flows are gone", || flows(&line, "a") == 0).unwrap();
    let said = end(proxy);
    assert_eq!(said["dropped_too_large"], 2);
    let counted = ["flows", "tx_bytes", "dropped_malformed", "dropped_stranger"];
    assert_eq!(
        counted.map(|key| said[key].as_u64().unwrap()),
        [2, 18_000, 2, 22]
    );
    assert_eq!(end(expose)["rx_bytes"], 18_000);
}

/// How many flows of programs a host has.
fn flows(line: &Line, host: &str) -> usize {
    let list = line.host(host).unwrap().irm_json("flow list").unwrap();
    let of_programs = |flow: &&Value| {
        let name = flow["name"].as_str().unwrap_or_default();
        !name.starts_with("ovl-")
    };
    list["flows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(of_programs)
        .count()
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid()))
        .unwrap()
        .count()
}

fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Where servers listen.
const PORT: &str = "8080";
const TEN: Duration = Duration::from_secs(10);
