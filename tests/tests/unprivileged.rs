//! Ports and a proxy over flows for who is not root, where there is no device for a VPN.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{Host, How, Lab, Process, eventually, until};

const TEN: Duration = Duration::from_secs(10);
const BYTES: u64 = 300_000;

/// A has daemons of root, B those of a user; neither has a /dev/net/tun. Programs on both are that user's.
struct Hosts {
    a: Host,
    b: Host,
    user: How,
    _daemons: [Process; 2],
    _lab: Lab,
}

impl Hosts {
    fn new() -> Self {
        let disks = vec![(1 << 16, "/dev/net".into())];
        let root = How {
            disks: disks.clone(),
            ..How::default()
        };
        let user = How {
            disks,
            ..How::somebody_else().unwrap()
        };
        let lab = Lab::new().unwrap();
        // Else the user would not even get to the sockets.
        fs::set_permissions(lab.dir(), Permissions::from_mode(0o755)).unwrap();
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.veth(&a, &b).unwrap();
        // Where the programs lie that irmd starts, the user may be kept out.
        let folder = lab.with_ipcpd(&lab.bins().join("ipcpd")).unwrap();
        let run = b.run_dir();
        fs::create_dir(&run).unwrap();
        chown(&run, user.uid, user.uid).unwrap();
        let irmd = folder.join("irmd");
        let args = ["--run-dir".as_ref(), run.as_os_str()];
        let of_user = b.spawn_as(&user, irmd.to_str().unwrap(), args).unwrap();
        until(TEN, || b.irm("status")).unwrap_or_else(|e| panic!("{e}: {}", of_user.log()));
        let daemons = [a.irmd_as(&root).unwrap(), of_user];
        link.overlay(&a, &b).unwrap();
        let this = Self {
            a,
            b,
            user,
            _daemons: daemons,
            _lab: lab,
        };
        this.is_what_it_says();
        this
    }

    fn is_what_it_says(&self) {
        for host in [&self.a, &self.b] {
            let look = ["-c", "id -u; : </dev/net/tun"];
            let out = host.run_as(&self.user, "/bin/sh", look).unwrap();
            assert!(out.code != 0, "there is a /dev/net/tun");
            assert_eq!(out.stdout.trim(), self.user.uid.unwrap().to_string());
        }
        for program in ["irmd", "ipcpd", "shim-udp"] {
            let pids = self.b.programs(program);
            assert_eq!(pids.len(), 1, "{program}");
            let status = fs::read_to_string(format!("/proc/{}/status", pids[0])).unwrap();
            let uid = format!("Uid:\t{}\t", self.user.uid.unwrap());
            assert!(status.contains(&uid), "{program}: {status}");
        }
    }

    /// Starts a part of `irm` as the user, and waits until it says that it is ready.
    fn begin(&self, host: &Host, line: &str) -> Process {
        let process = host.spawn_as(&self.user, "irm", line.split(' ')).unwrap();
        let ready = || process.newest()["event"] == "ready";
        eventually(TEN, "irm is ready", ready)
            .unwrap_or_else(|e| panic!("{line}: {e}: {}", process.log()));
        process
    }

    /// What a tool of the user on A said.
    fn tool(&self, line: &str) -> String {
        let args = line.split_whitespace();
        let out = self.a.run_as(&self.user, "lab-tool", args).unwrap();
        assert_eq!(out.code, 0, "{line}: {}", out.stderr);
        out.stdout.trim().to_owned()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.tool(line)).unwrap()
    }
}

fn end(mut process: Process) -> Value {
    process.signal(Signal::SIGTERM).unwrap();
    assert_eq!(process.wait(TEN).unwrap(), 0, "{}", process.log());
    process.newest()
}

fn at(process: &Process, kind: &str) -> String {
    process.newest()[kind].as_str().unwrap().to_owned()
}

#[test]
fn bytes_pass_both_ways_without_root_and_without_a_device() {
    let hosts = Hosts::new();
    let Hosts { a, b, user, .. } = &hosts;
    let serve = ["tcp-serve", "127.0.0.1:8080", "--manner", "answer"];
    let server = b.spawn_as(user, "lab-tool", serve).unwrap();
    eventually(TEN, "the server listens", || !server.newest().is_null()).unwrap();
    let echo = ["udp-echo", "127.0.0.1:8080"];
    let _echo = b.spawn_as(user, "lab-tool", echo).unwrap();
    let web = hosts.begin(b, "--json expose web --layer overlay --tcp 8080");
    let dns = hosts.begin(b, "--json expose dns --layer overlay --udp 127.0.0.1:8080");

    let tcp = hosts.begin(a, "--json forward --tcp 0 web --timeout 5s");
    let to = at(&tcp, "tcp");
    let exchange = format!("tcp-exchange {to} --bytes {BYTES}");
    until(TEN, || {
        let said = hosts.json(&exchange);
        anyhow::ensure!(said["ends"] == json!({"right": 1}), "{said} {}", tcp.log());
        Ok(())
    })
    .unwrap();
    let udp = hosts.begin(a, "--json forward --udp 0 dns --timeout 5s");
    let said = hosts.tool(&format!("udp-send {} 50", at(&udp, "udp")));
    assert_eq!(said, "50 of 50", "{}", udp.log());

    let proxy = hosts.begin(a, "--json proxy --socks5 0 --layer overlay --timeout 5s");
    let to = at(&proxy, "socks5");
    let said = hosts.json(&format!(
        "tcp-exchange {to} --bytes {BYTES} --socks web.overlay.internal:80"
    ));
    assert_eq!(said["ends"], json!({"right": 1}), "{}", proxy.log());
    let said = hosts.json(&format!("socks-udp {to} dns.overlay.internal:53 20 900"));
    assert_eq!(said, json!({"back": 20, "gone": true}), "{}", proxy.log());

    for (process, bytes) in [(tcp, BYTES), (udp, 200), (proxy, BYTES + 18_000)] {
        let said = end(process);
        println!("{said}");
        assert!(said["tx_bytes"].as_u64() >= Some(bytes), "{said}");
        assert!(said["rx_bytes"].as_u64() >= Some(bytes), "{said}");
    }
    // There is no VPN to be had, and it is said why.
    let up = a.run("irm", "vpn up --layer overlay".split(' ')).unwrap();
    assert_eq!(up.code, 1, "{up:?}");
    assert!(up.stderr.contains("modprobe tun"), "{up:?}");
    drop((web, dns));
}
