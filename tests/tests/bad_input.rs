//! What nobody should type, send or store: it is refused in one line, counted, and nothing else suffers.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{Host, How, Lab, Output, eventually, until};

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
fn a_disk_without_a_page_left_is_named_and_what_runs_goes_on() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let (run, state) = (host.run_dir(), host.dir().join("disk"));
    fs::create_dir(&state).unwrap();
    // A page for each file that is written here: the incarnation, the IPC processes, the children, the names.
    let how = How {
        disks: vec![(4 * 4096, state.clone())],
        ..How::default()
    };
    let dirs = [("--run-dir", &run), ("--state-dir", &state)];
    let args = dirs.map(|(flag, dir)| [OsStr::new(flag), dir.as_os_str()]);
    let mut irmd = host.spawn_as(&how, "irmd", args.as_flattened()).unwrap();
    until(TEN, || host.irm("status")).unwrap();
    shim(&host, "127.0.0.1", "");
    host.irm("name create kept").unwrap();
    let list = || {
        let ipcps = host.irm_json("ipcp list").unwrap();
        let ipcps = ipcps["ipcps"].as_array().unwrap().len();
        (ipcps, host.irm_json("name list").unwrap())
    };
    let before = list();
    for line in [
        "name create other",
        "name destroy kept",
        "ipcp create other --type unicast",
    ] {
        let out = host.run("irm", line.split(' ')).unwrap();
        assert_eq!(out.code, 1, "{line}: {out:?}");
        one_line(&out);
        for word in ["cannot write the state file", "No space left", "free space"] {
            assert!(out.stderr.contains(word), "{line}: {out:?}");
        }
        // Nothing that can't be kept is half done.
        assert_eq!(list(), before, "{line}");
    }
    // Flows need no disk, and an IPC process that dies is started again.
    let pid = host.programs("shim-udp")[0];
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    eventually(FIVE, "the shim is back", || {
        let now = host.programs("shim-udp");
        now.len() == 1 && now[0] != pid
    })
    .unwrap();
    host.irm("wait ipcp udp --state up --timeout 5s").unwrap();
    let _echo = host.spawn("irm", ["echo", "kept"]).unwrap();
    until(FIVE, || host.irm("ping kept -c 1")).unwrap();
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
    irmd.signal(Signal::SIGTERM).unwrap();
    assert_eq!(irmd.wait(Duration::from_secs(15)).unwrap(), 0);
}

#[test]
fn an_irmd_that_can_write_nothing_at_all_does_not_start() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let run = host.run_dir().display().to_string();
    let irmd = lab.bins().join("irmd").display().to_string();
    let script = r#"trap "" XFSZ; ulimit -f 0; exec "$0" --run-dir "$1""#;
    let out = host.run("sh", ["-c", script, &irmd, &run]).unwrap();
    assert_eq!(out.code, 1, "{out:?}");
    one_line(&out);
    assert!(
        out.stderr.contains("incarnation.json") && out.stderr.contains("free space"),
        "{out:?}"
    );
}

#[test]
fn without_tun_the_vpn_says_what_to_do_and_is_forgotten() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let run = host.run_dir();
    // An empty disk over the directory of the device file.
    let how = How {
        disks: vec![(4096, "/dev/net".into())],
        ..How::default()
    };
    let args = ["--run-dir".as_ref(), run.as_os_str()];
    let irmd = host.spawn_as(&how, "irmd", args).unwrap();
    until(TEN, || host.irm("status")).unwrap();
    host.irm("ipcp bootstrap ovl-a --type unicast --layer ovl --prefix 10.9.0.1/32")
        .unwrap();
    let up = "vpn up --layer ovl --dev strata0";
    let out = host.run("irm", up.split(' ')).unwrap();
    assert_eq!(out.code, 1, "{out:?}");
    one_line(&out);
    assert!(out.stderr.contains("modprobe tun"), "{out:?}");
    let vpns = host.irm_json("vpn status").unwrap();
    assert_eq!(vpns["vpns"].as_array().unwrap().len(), 0, "{vpns}");
    assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
}

#[test]
fn without_permission_irmd_names_the_file_and_what_to_do() {
    let how = How::somebody_else().unwrap();
    let lab = Lab::new().unwrap();
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let host = lab.host("a").unwrap();
    let irmd = |dir: &Path| {
        let args = ["--run-dir".as_ref(), dir.as_os_str()];
        host.run_as(&how, "irmd", args).unwrap()
    };
    // The directory is root's.
    let out = irmd(&host.run_dir());
    assert_eq!(out.code, 1, "{out:?}");
    one_line(&out);
    for word in [
        "Permission denied",
        "--run-dir",
        &*host.run_dir().to_string_lossy(),
    ] {
        assert!(out.stderr.contains(word), "{word}: {out:?}");
    }
    // The directories are its own, a file in it is not.
    let own = host.dir().join("own");
    for dir in [&own, &own.join("state")] {
        fs::create_dir(dir).unwrap();
        chown(dir, how.uid, how.uid).unwrap();
    }
    let names = own.join("state/names.json");
    fs::write(&names, r#"{"version":1,"data":{"names":[]}}"#).unwrap();
    fs::set_permissions(&names, fs::Permissions::from_mode(0o600)).unwrap();
    let out = irmd(&own);
    assert_eq!(out.code, 1, "{out:?}");
    one_line(&out);
    for word in ["names.json", "Permission denied", "mend permissions"] {
        assert!(out.stderr.contains(word), "{word}: {out:?}");
    }
}

#[test]
fn a_state_file_cut_anywhere_or_of_a_later_version_is_never_a_fresh_start() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let irmd = host.irmd().unwrap();
    host.irm("name create kept").unwrap();
    host.irm("ipcp bootstrap ovl-a --type unicast --layer ovl --prefix 10.9.0.1/32")
        .unwrap();
    host.irm("vpn up --layer ovl --dev strata0").unwrap();
    // Killed, so that none of its files is empty; what it had started ends with a daemon that comes to itself.
    kill(Pid::from_raw(irmd.pid() as i32), Signal::SIGKILL).unwrap();
    drop(irmd);
    let state = host.run_dir().join("state");
    for concern in ["names", "ipcps", "vpns", "running", "incarnation"] {
        let file = state.join(format!("{concern}.json"));
        let whole = fs::read(&file).unwrap();
        let newer = String::from_utf8(whole.clone()).unwrap();
        let newer = newer.replacen(r#""version": 1"#, r#""version": 7"#, 1);
        let cuts = [0, 1, whole.len() / 2, whole.len() - 2].map(|end| whole[..end].to_vec());
        for (bytes, what) in cuts
            .iter()
            .map(|cut| (&**cut, "damaged"))
            .chain([(newer.as_bytes(), "version 7")])
        {
            fs::write(&file, bytes).unwrap();
            let out = host.run("irmd", ["--run-dir", host.run_dir().to_str().unwrap()]);
            let out = out.unwrap();
            assert_eq!(out.code, 1, "{concern}, {} bytes: {out:?}", bytes.len());
            one_line(&out);
            for word in [&*file.to_string_lossy(), what, "remove"] {
                assert!(out.stderr.contains(word), "{word}: {out:?}");
            }
            assert_eq!(fs::read(&file).unwrap(), bytes);
            assert_eq!(fs::read(file.with_extension("json.bad")).unwrap(), bytes);
        }
        fs::write(&file, &whole).unwrap();
    }
    // Mended, all of it is there again, and what outlived the first irmd was left in peace by those that did not start.
    let before = [host.programs("ipcpd"), host.programs("vpn")];
    assert!(before.iter().all(|pids| pids.len() == 1), "{before:?}");
    let _irmd = host.irmd().unwrap();
    assert!(host.irm("name list").unwrap().contains("kept"));
    host.irm("wait ipcp ovl-a --state up --timeout 5s").unwrap();
    host.irm("wait vpn strata0 --state up --timeout 5s")
        .unwrap();
    assert_eq!([host.programs("ipcpd"), host.programs("vpn")], before);
}

#[test]
fn a_cut_file_of_an_ipc_process_is_told_and_never_replaced() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let mut irmd = host.irmd().unwrap();
    host.irm("ipcp bootstrap ovl-a --type unicast --layer ovl")
        .unwrap();
    let file = host.run_dir().join("state/ipcps/ovl-a/identity");
    let whole = fs::read(&file).unwrap();
    for end in [0, whole.len() / 2] {
        irmd.signal(Signal::SIGTERM).unwrap();
        irmd.wait(Duration::from_secs(15)).unwrap();
        fs::write(&file, &whole[..end]).unwrap();
        irmd = host.irmd().unwrap();
        eventually(FIVE, "it says what is wrong", || {
            let ipcps = host.irm_json("ipcp list").unwrap();
            let said = ipcps["ipcps"][0]["detail"].as_str().unwrap_or_default();
            said.contains("the file identity") && said.contains("restore it")
        })
        .unwrap_or_else(|e| panic!("{e}: {}", host.irm_json("ipcp list").unwrap()));
        assert_eq!(fs::read(&file).unwrap(), &whole[..end]);
        assert!(!irmd.log().contains("panicked"), "{}", irmd.log());
    }
    // Put back, it is what it was, with nobody to tell it.
    fs::write(&file, &whole).unwrap();
    kill(
        Pid::from_raw(host.programs("ipcpd")[0] as i32),
        Signal::SIGKILL,
    )
    .unwrap();
    host.irm("wait ipcp ovl-a --state up --timeout 5s").unwrap();
    assert_eq!(fs::read(&file).unwrap(), whole);
}

#[test]
fn a_config_file_cut_anywhere_starts_nothing_and_is_told_with_its_place() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let file = host.dir().join("irm.toml");
    let whole = "[[name]]\nname = \"wéb\"\n\n[[ipcp]]\nname = \"udp\"\ntype = \"shim-udp\"\n";
    // Unfinished: a table, a key, a text, a letter, and what a table must hold.
    for (end, at) in [
        (5, "1:"),
        (12, "2:"),
        (20, "2:"),
        (19, "2:"),
        (28, "4:"),
        (45, "4:"),
    ] {
        fs::write(&file, &whole.as_bytes()[..end]).unwrap();
        let run = host.run_dir();
        let args = [OsStr::new("--run-dir"), run.as_os_str()];
        let args = args
            .into_iter()
            .chain(["--config".as_ref(), file.as_os_str()]);
        let out = host.run("irmd", args).unwrap();
        assert_eq!(out.code, 2, "cut at {end}: {out:?}");
        one_line(&out);
        let place = format!("irm.toml:{at}");
        assert!(out.stderr.contains(&place), "cut at {end}: {out:?}");
        assert!(!host.run_dir().exists(), "cut at {end}");
    }
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
