//! What the daemons of hosts hold, as the kernel sees it: descriptors, memory, ports. It must not ask the daemons.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::lab::{Host, eventually};

/// What one process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Has {
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory, in KiB.
    pub kib: u64,
    /// UDP sockets of its host.
    pub ports: usize,
}

/// What each has, by host, program and process id.
pub type Look = BTreeMap<(String, &'static str, u32), Has>;

/// What all daemons, and programs of `irm` that serve, have at this moment.
pub fn look(hosts: &[Host]) -> anyhow::Result<Look> {
    let mut all = Look::new();
    for host in hosts {
        let ports = ports(host)?;
        for program in DAEMONS.into_iter().chain(["irm"]) {
            for pid in host.programs(program) {
                let has = Has {
                    descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
                    kib: memory_kib(pid),
                    ports,
                };
                all.insert((host.name.clone(), program, pid), has);
            }
        }
    }
    Ok(all)
}

/// The same once no host has a flow in the layer, and descriptors and ports have not changed for a second. Fails after `most`.
pub fn settled(hosts: &[Host], layer: &str, most: Duration) -> anyhow::Result<Look> {
    let end = Instant::now() + most;
    for host in hosts {
        let left = end.saturating_duration_since(Instant::now());
        let what = format!("no flow in {layer} is left on {}", host.name);
        eventually(left, &what, || flows(host, layer).is_ok_and(|n| n == 0))?;
    }
    let held = |look: &Look| -> Vec<_> {
        let all = look.iter();
        all.map(|(who, has)| (who.clone(), has.descriptors, has.ports))
            .collect()
    };
    let (mut last, mut since) = (look(hosts)?, Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        let now = Instant::now();
        ensure!(now < end, "descriptors still come and go: {last:#?}");
        std::thread::sleep(Duration::from_millis(50));
        let seen = look(hosts)?;
        if held(&seen) != held(&last) {
            since = now;
        }
        last = seen;
    }
    Ok(last)
}

/// What the daemons have more after than before: each of these is a leak, or a daemon that died. Memory may be `kib` more.
pub fn leaks(before: &Look, after: &Look, kib: u64) -> Vec<String> {
    let mut leaks = Vec::new();
    for (who, was) in before {
        let Some(is) = after.get(who) else {
            leaks.push(format!("{who:?} is gone"));
            continue;
        };
        // A program that serves is no daemon: how much of its heap it gives back is chance.
        let grown = who.1 != "irm" && is.kib > was.kib + kib;
        if is.descriptors != was.descriptors || is.ports != was.ports || grown {
            leaks.push(format!("{who:?} had {was:?} and has {is:?}"));
        }
    }
    let new = after.keys().filter(|who| !before.contains_key(who));
    leaks.extend(new.map(|who| format!("{who:?} is new")));
    leaks
}

/// What Prometheus would hear of an irmd, by the socket for administrators.
pub fn metrics(socket: &Path) -> anyhow::Result<String> {
    let what = || format!("can't read the metrics of {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(what)?;
    Ok(text)
}

/// The flows of a host in a layer.
pub fn flows(host: &Host, layer: &str) -> anyhow::Result<usize> {
    let json = host.irm_json("flow list")?;
    let flows = json["flows"].as_array().context("no list of flows")?;
    Ok(flows.iter().filter(|f| f["layer"] == layer).count())
}

/// Resident memory of a process, in KiB; 0 if it is gone.
pub fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The CPU that a process has used, user's and kernel's, in hundredths of a second; 0 if it is gone.
pub fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |n: usize| {
        rest.split_whitespace()
            .nth(n)
            .and_then(|t| t.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field(11) + field(12)
}

/// The UDP sockets of a host.
fn ports(host: &Host) -> anyhow::Result<usize> {
    let mut all = 0;
    for table in ["udp", "udp6"] {
        let path = format!("/proc/{}/net/{table}", host.holder());
        let table = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
        // The first line is the heading.
        all += table.lines().count().saturating_sub(1);
    }
    Ok(all)
}

/// The daemons of a host that has no VPN.
pub const DAEMONS: [&str; 3] = ["irmd", "ipcpd", "shim-udp"];

/// How often a process has waited of its own will, all its threads together, and so has been woken up; 0 if it is gone.
pub fn wakeups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let waited = threads.into_iter().flatten().flatten().map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let key = "voluntary_ctxt_switches:";
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.trim().parse().ok()).unwrap_or(0)
    });
    waited.sum()
}

/// Whether an address answers all of three pings of a host's.
pub fn pings(host: &Host, to: &str) -> anyhow::Result<()> {
    let ping = ["ping", to, "-c", "3", "-i", "10"];
    let out = host.run("lab-tool", ping)?;
    let json: serde_json::Value = serde_json::from_str(&out.stdout)?;
    anyhow::ensure!(json["received"] == 3, "{} to {to}: {json}", host.name);
    Ok(())
}
