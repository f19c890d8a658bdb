//! The Lab itself: hosts reach each other over a link, and impairments do what they say.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab::processes_of;
use tests::{Host, Impairment, Lab, Process, eventually, until};

#[test]
fn hosts_on_a_veth_reach_each_other_and_nobody_else() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.veth(&a, &b).unwrap();
    let sink = a
        .spawn("lab-tool", ["udp-echo", &format!("{}:7000", link.v4[0])])
        .unwrap();
    let at = format!("{}:7000", link.v4[0]);
    let count = |host: &Host, n: &str| {
        let out = host.run("lab-tool", ["udp-send", &at, n]).unwrap();
        format!("{}{}", out.stdout.trim(), out.stderr.trim())
    };
    echoes(|| count(&b, "1"));
    assert_eq!(count(&b, "20"), "20 of 20", "{}", sink.log());
    // A host of the same lab has no way there.
    let c = lab.host("c").unwrap();
    let said = count(&c, "1");
    assert!(said.contains("unreachable"), "{said}");
    // Nor has the one that runs the test; what it sends goes no further than a neighbour.
    let outside = UdpSocket::bind("0.0.0.0:0").unwrap();
    outside.set_ttl(1).unwrap();
    outside
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let heard = outside
        .send_to(b"x", (link.v4[0], 7000))
        .and_then(|_| outside.recv(&mut [0; 8]));
    assert!(
        heard.is_err(),
        "the link leaks to the host that runs the test"
    );
    let devices = fs::read_to_string("/proc/self/net/dev").unwrap();
    for dev in &link.dev {
        assert!(!devices.contains(&format!("{dev}:")), "{dev} is outside");
    }
}

#[test]
fn an_impaired_link_loses_every_third_datagram_and_can_be_cut() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let mut link = lab.link(&a, &b, 7).unwrap();
    let at = format!("{}:7000", link.v4[1]);
    let _echo = b.spawn("lab-tool", ["udp-echo", &at]).unwrap();
    let count = |n: &str| {
        a.run("lab-tool", ["udp-send", &at, n])
            .unwrap()
            .stdout
            .trim()
            .to_owned()
    };
    echoes(|| count("1"));
    assert_eq!(count("30"), "30 of 30");
    link.impair(Impairment {
        drop_every: 3,
        ..Impairment::default()
    })
    .unwrap();
    assert_eq!(count("30"), "20 of 30");
    link.impair(Impairment {
        cut: true,
        ..Impairment::default()
    })
    .unwrap();
    assert_eq!(count("3"), "0 of 3");
    link.impair(Impairment {
        delay_us: 2_000,
        jitter_us: 1_000,
        ..Impairment::default()
    })
    .unwrap();
    assert_eq!(count("10"), "10 of 10");
    let to = link.ip(1).to_string();
    let ping = a.run("lab-tool", ["ping", &to, "-c", "10"]).unwrap();
    let ping: serde_json::Value = serde_json::from_str(&ping.stdout).unwrap();
    assert_eq!(ping["received"], 10);
    // There and back.
    assert!(ping["rtt_us"]["min"].as_u64() >= Some(4_000), "{ping}");
}

#[test]
fn a_test_that_panics_leaves_no_process_behind_but_its_logs() {
    let mut was = None;
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new().unwrap();
        let host = lab.host("a").unwrap();
        let _irmd = orphan(&host);
        was = Some((lab.dir().to_owned(), processes_of(host.holder())));
        // As a failed assertion, but without its words on stderr.
        resume_unwind(Box::new(()));
    }));
    assert!(panic.is_err());
    let (dir, pids) = was.unwrap();
    assert!(!pids.is_empty(), "there was nothing to end");
    gone(&pids).unwrap();
    assert!(dir.join("a").exists(), "the logs are gone too");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_test_that_is_killed_leaves_no_process_behind() {
    if let Some(file) = std::env::var_os(VICTIM) {
        return victim(Path::new(&file));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("victim");
    // Built now, so that the other has them at once.
    tests::lab::binaries().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_test_that_is_killed_leaves_no_process_behind",
            "--nocapture",
        ])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let up = eventually(Duration::from_secs(30), "its host is up", || file.exists());
    other.kill().unwrap();
    other.wait().unwrap();
    up.unwrap();
    let said = fs::read_to_string(file).unwrap();
    let (lab, pids) = said.split_once('\n').unwrap();
    let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(!pids.is_empty(), "there was nothing to end");
    gone(&pids).unwrap();
    fs::remove_dir_all(lab).unwrap();
}

#[test]
fn hosts_that_may_be_left_up_go_with_their_caller_unless_they_are_left() {
    let dirs = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let dir = dirs.path().join(name);
        fs::create_dir(&dir).unwrap();
        let lab = Lab::in_dir(dir, true).unwrap();
        let host = lab.host("a").unwrap();
        (lab, host)
    };
    let up = |holder: u32| fs::read_link(format!("/proc/{holder}/ns/net")).is_ok();

    let (lab, host) = make("gone");
    let (_irmd, holder) = (orphan(&host), host.holder());
    let pids = processes_of(holder);
    assert!(!pids.is_empty(), "there was nothing to end");
    drop((host, lab));
    gone(&pids).unwrap();
    assert!(!up(holder) && !dirs.path().join("gone").exists());

    let (mut lab, mut host) = make("left");
    let holders = [Some(host.holder()), lab.user_holder()];
    host.leave().unwrap();
    lab.leave().unwrap();
    drop((host, lab));
    // One that goes with its caller has gone when it is dropped.
    let stays = up(holders[0].unwrap()) && dirs.path().join("left").exists();
    for holder in holders.into_iter().flatten() {
        kill(Pid::from_raw(holder as i32), Signal::SIGKILL).unwrap();
    }
    assert!(stays, "what was left up is gone");
}

/// Makes a host with daemons, tells of them in a file, and waits to be killed.
fn victim(file: &Path) {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let _irmd = orphan(&host);
    let pids = processes_of(host.holder());
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let text = format!("{}\n{}\n", lab.dir().display(), pids.join("\n"));
    let new = PathBuf::from(file).with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, file).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// The worst case: an irmd that was killed, and an IPC process that waits for the next one.
fn orphan(host: &Host) -> Process {
    let irmd = host.irmd().unwrap();
    host.irm("ipcp bootstrap udp --type shim-udp --layer net --ip 127.0.0.1")
        .unwrap();
    kill(Pid::from_raw(irmd.pid() as i32), Signal::SIGKILL).unwrap();
    assert_eq!(host.programs("shim-udp").len(), 1);
    irmd
}

/// Waits until one datagram comes back: the echo needs a moment before it listens.
fn echoes(count: impl Fn() -> String) {
    until(Duration::from_secs(10), || {
        let said = count();
        ensure!(said == "1 of 1", "no echo: {said}");
        Ok(())
    })
    .unwrap();
}

fn gone(pids: &[u32]) -> anyhow::Result<()> {
    eventually(Duration::from_secs(10), "all processes are gone", || {
        // One that nobody has waited for has no namespaces any more.
        pids.iter()
            .all(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_err())
    })
}

/// Where the test that is to be killed tells what it has made.
const VICTIM: &str = "STRATA_LAB_VICTIM";
