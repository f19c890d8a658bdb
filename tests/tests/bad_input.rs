//! What nobody should type, send or store: it is refused in one line, counted, and nothing else suffers.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{Host, Lab, Output, eventually, until};

const FIVE: Duration = Duration::from_secs(5);
const TEN: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_thousand_senseless_datagrams_are_counted_and_cost_nothing() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let irmd = b.irmd().unwrap();
    shim(&b, &link.v4[1].to_string(), "");
    let at = format!("{}:3359", link.v4[1]);
    let noise = |count: &str| {
        let out = a.run("lab-tool", ["udp-noise", &at, count]).unwrap();
        assert_eq!(out.code, 0, "{}", out.stderr);
    };
    // What a process allocates once is no leak.
    noise("2000");
    let pid = b.programs("shim-udp")[0];
    let before = memory_kib(pid);
    noise("100000");
    let unread = dropped_below(&b);
    eventually(TEN, "all are counted", || {
        let counters = counters(&b);
        let of = |name: &str| counters[name].as_u64().unwrap_or(0);
        of("requests") + unread == 102_000
            && of("drop.bad-name") + of("drop.unknown-name") == of("requests")
    })
    .unwrap_or_else(|e| panic!("{e}; {unread} were dropped below: {}", counters(&b)));
    assert!(unread < 50_000, "the socket overflowed {unread} times");
    let after = memory_kib(pid);
    assert!(
        after < before + 4096,
        "{before} KiB of memory became {after}"
    );
    assert_eq!(b.programs("shim-udp"), [pid]);
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

#[test]
fn an_echo_of_an_impostor_makes_no_flow() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    b.net(&format!("addr {} 10.77.1.3/24", link.dev[1]))
        .unwrap();
    let irmd = a.irmd().unwrap();
    shim(
        &a,
        &link.v4[0].to_string(),
        &format!("--host srv={}", link.v4[1]),
    );
    let at = format!("{}:3359", link.v4[1]);
    let impostor = b
        .spawn("lab-tool", ["udp-impostor", &at, "10.77.1.3"])
        .unwrap();
    eventually(TEN, "the impostor has answered", || {
        let out = a.run(
            "irm",
            "ping srv --layer net -c 1 --qos raw --timeout 1s".split(' '),
        );
        let out = out.unwrap();
        assert_eq!(out.code, 7, "{out:?}");
        one_line(&out);
        impostor.log().contains("srv")
    })
    .unwrap();
    eventually(FIVE, "both kinds are counted", || {
        let counters = counters(&a);
        ["drop.echo-source", "drop.echo-payload"]
            .iter()
            .all(|name| counters[*name].as_u64() > Some(0))
    })
    .unwrap_or_else(|e| panic!("{e}: {}", counters(&a)));
    assert_eq!(flows(&a), 0);
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

#[test]
fn a_used_port_is_waited_for_and_the_reason_says_what_to_do() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let irmd = host.irmd().unwrap();
    let holder = host
        .spawn("lab-tool", ["udp-echo", "127.0.0.1:3359"])
        .unwrap();
    eventually(FIVE, "the port is in use", || {
        let out = host.run("lab-tool", ["udp-send", "127.0.0.1:3359", "1"]);
        out.unwrap().stdout.trim() == "1 of 1"
    })
    .unwrap();
    let out = bootstrap(&host, "127.0.0.1", "");
    assert!(out.stderr.lines().count() <= 1, "{out:?}");
    let waiting = host.irm_json("status").unwrap();
    let said = &waiting["ipcps"][0];
    assert_eq!(said["state"], "waiting", "{waiting}");
    assert!(waiting.to_string().contains("3359"), "{waiting}");
    drop(holder);
    host.irm("wait ipcp udp --state up --timeout 5s").unwrap();
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

#[test]
fn a_full_disk_fails_what_cannot_be_kept_and_loses_nothing() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    // No file of irmd's may grow beyond 2 or 4 KiB: what a full disk does, for any user.
    let run = host.run_dir().display().to_string();
    let irmd = lab.bins().join("irmd").display().to_string();
    let script = r#"trap "" XFSZ; ulimit -f 4; exec "$0" --run-dir "$1" >/dev/null 2>&1"#;
    let mut limited = host.spawn("sh", ["-c", script, &irmd, &run]).unwrap();
    until(TEN, || host.irm("status")).unwrap();
    let mut kept = Vec::new();
    let refused = loop {
        let name = format!("{}{}", "n".repeat(200), kept.len());
        let out = host.run("irm", ["name", "create", &name]).unwrap();
        if out.code != 0 {
            break out;
        }
        kept.push(name);
        assert!(kept.len() < 200, "the disk was never full");
    };
    assert_eq!(refused.code, 1, "{refused:?}");
    one_line(&refused);
    assert!(refused.stderr.contains("free space"), "{refused:?}");
    assert!(limited.alive() && !kept.is_empty());
    host.irm("status").unwrap();
    limited.signal(Signal::SIGTERM).unwrap();
    limited.wait(Duration::from_secs(15)).unwrap();
    let _irmd = host.irmd().unwrap();
    let names = host.irm("name list").unwrap();
    assert!(kept.iter().all(|name| names.contains(name)), "{names}");
}

#[test]
fn a_state_file_cut_anywhere_is_never_a_fresh_start() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let mut irmd = host.irmd().unwrap();
    host.irm("name create kept").unwrap();
    kill(Pid::from_raw(irmd.pid() as i32), Signal::SIGTERM).unwrap();
    irmd.wait(Duration::from_secs(15)).unwrap();
    let file = host.run_dir().join("state/names.json");
    let whole = fs::read(&file).unwrap();
    for end in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
        fs::write(&file, &whole[..end]).unwrap();
        let out = host
            .run("irmd", ["--run-dir", host.run_dir().to_str().unwrap()])
            .unwrap();
        assert_eq!(out.code, 1, "cut at {end}: {out:?}");
        let said = format!("{}{}", out.stdout, out.stderr);
        assert!(
            said.contains("names.json") && said.contains("damaged"),
            "{said}"
        );
        assert!(!said.contains("panicked"), "{said}");
        let backup = fs::read(file.with_extension("json.bad")).unwrap();
        assert_eq!(backup, &whole[..end]);
    }
    fs::write(&file, &whole).unwrap();
    let _irmd = host.irmd().unwrap();
    assert!(host.irm("name list").unwrap().contains("kept"));
}

/// A shim `udp` of the layer `net`, which is up.
fn shim(host: &Host, ip: &str, more: &str) {
    let out = bootstrap(host, ip, more);
    assert_eq!(out.code, 0, "{}", out.stderr);
}

fn bootstrap(host: &Host, ip: &str, more: &str) -> Output {
    let line = format!("ipcp bootstrap udp --type shim-udp --layer net --ip {ip} {more}");
    host.run("irm", line.split_whitespace()).unwrap()
}

fn one_line(out: &Output) {
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    assert!(!out.stderr.contains("panicked"), "{out:?}");
}

/// What its first IPC process has counted.
fn counters(host: &Host) -> Value {
    host.irm_json("status").unwrap()["ipcps"][0]["status"]["counters"].take()
}

fn flows(host: &Host) -> usize {
    let json = host.irm_json("flow list").unwrap();
    json["flows"].as_array().unwrap().len()
}

/// Datagrams that the kernel had no room for in the sockets of a host: the last column of its table.
fn dropped_below(host: &Host) -> u64 {
    let table = host.run("cat", ["/proc/self/net/udp"]).unwrap().stdout;
    let last = |line: &str| line.split_whitespace().last()?.parse::<u64>().ok();
    table.lines().skip(1).filter_map(last).sum()
}

/// Resident, in KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
