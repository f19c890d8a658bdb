//! A flood of flow requests from sources that don't exist, against B's shim, while flows from A to B and through B go on.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;

use crate::lab::{Host, Process, until};
use crate::line::Line;

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Requests that the sender got rid of.
    pub offered: u64,
    /// The same, a second.
    pub offered_per_s: f64,
    /// Of these, such as the kernel had no room for in B's sockets.
    pub unread: u64,
    /// What the shim counted meanwhile, by word.
    pub counted: Value,
    /// The most sockets that the shim had.
    pub most_sockets: usize,
    /// Resident memory of the shim in KiB, two seconds after the begin and at the end.
    pub memory_kib: [u64; 2],
    /// A→B over the shim alone, and A→C through the layer.
    pub flows: [Live; 2],
    /// Bytes a second of a raw flow A→C through the layer that is paced.
    pub bulk: Live,
    /// How long a new flow A→C took in the midst of it, with its first answer, in ms.
    pub new_flow_ms: f64,
}

/// A flow whose SDUs are echoed, 200 a second or as many as the timers make of that; or one that is paced.
#[derive(Debug, Serialize)]
pub struct Live {
    /// Echoes, or bytes, a second before the flood.
    pub quiet_per_s: f64,
    /// The same during the flood.
    pub flood_per_s: f64,
}

impl Live {
    /// The part of its rate that it kept.
    pub fn kept(&self) -> f64 {
        self.flood_per_s / self.quiet_per_s
    }
}

/// Offers so many requests a second, beside a flow of so many bytes a second. The line needs its daemons, shims and overlay.
pub fn flood(line: &Line, rate: u32, seconds: u32, bulk: u64) -> anyhow::Result<Outcome> {
    let (a, b, c) = (line.host("a")?, line.host("b")?, line.host("c")?);
    let (from, to) = (line.links[0].v4[0], line.links[0].v4[1]);
    // Without a way back, the kernel would drop them as martians before the shim sees one.
    b.net(&format!("route 10.128.0.0/9 {from}"))?;
    a.irm(&format!("ipcp set udp-ab --host near={to}"))?;
    let _near = b.spawn("irm", ["echo", "near", "--layer", "net-ab"])?;
    let _far = c.spawn("irm", ["echo", "far", "--layer", "overlay"])?;
    for name in NAMES {
        until(FIVE, || a.irm(&format!("ping {name} -c 1 --timeout 500ms")))?;
    }
    let bulk = Bulk::start(a, c, bulk)?;
    let pings = Pings::start(a)?;
    let poured = bulk.bytes()?;
    std::thread::sleep(QUIET);
    let quiet_bulk = bulk.rate(poured)?;
    let quiet = pings.rates()?;
    let pid = shim(b)?;
    let (counted, unread) = (counters(b)?, unread(b)?);
    // They stand before the flood begins.
    let pings = Pings::start(a)?;
    std::thread::sleep(STANDING);
    let mut flood = a.spawn(
        "lab-tool",
        [
            "udp-flood",
            &format!("{to}:3359"),
            "near",
            "--rate",
            &rate.to_string(),
            "--seconds",
            &seconds.to_string(),
        ],
    )?;
    let (begin, mut early, mut most_sockets) = (Instant::now(), 0, 0);
    let (poured, mut new_flow_ms) = (bulk.bytes()?, 0.0);
    while flood.alive() {
        let most = Duration::from_secs(u64::from(seconds)) + FIVE;
        ensure!(begin.elapsed() < most, "the flood does not end");
        most_sockets = most_sockets.max(sockets(pid)?);
        if early == 0 && begin.elapsed() > Duration::from_secs(2) {
            early = memory_kib(pid)?;
            let asked = Instant::now();
            a.irm("ping far --layer overlay -c 1")?;
            new_flow_ms = asked.elapsed().as_secs_f64() * 1e3;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let flood_bulk = bulk.rate(poured)?;
    let during = pings.rates()?;
    let late = memory_kib(pid)?;
    let sent = flood.json()?;
    let number = |name: &str| sent[name].as_f64().context("the flood said nothing");
    Ok(Outcome {
        offered: number("sent")? as u64,
        offered_per_s: number("sent")? / number("seconds")?,
        unread: self::unread(b)?.saturating_sub(unread),
        counted: more(counters(b)?, &counted),
        most_sockets,
        memory_kib: [early, late],
        flows: [0, 1].map(|i| Live {
            quiet_per_s: quiet[i],
            flood_per_s: during[i],
        }),
        bulk: Live {
            quiet_per_s: quiet_bulk,
            flood_per_s: flood_bulk,
        },
        new_flow_ms,
    })
}

/// A paced flow through the layer, while it lasts.
struct Bulk {
    sink: Process,
    _pour: Process,
}

impl Bulk {
    fn start(from: &Host, to: &Host, bytes_per_s: u64) -> anyhow::Result<Self> {
        let talk = |host: &Host, line: &str| host.spawn_piped("lab-talk", line.split(' '));
        let sink = talk(to, "sink bulk --layer overlay")?;
        let line = format!("pour bulk --layer overlay --bytes-per-s {bytes_per_s}");
        std::thread::sleep(STANDING);
        let bulk = Self {
            sink,
            _pour: talk(from, &line)?,
        };
        let begin = Instant::now();
        while bulk.bytes()?.0 == 0 {
            ensure!(begin.elapsed() < FIVE, "the paced flow brings nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(bulk)
    }

    /// What has arrived, and when that was said.
    fn bytes(&self) -> anyhow::Result<(u64, Instant)> {
        let log = self.sink.log();
        let last = log.lines().rev().find_map(|line| {
            let json: Value = serde_json::from_str(line).ok()?;
            json["bytes"].as_u64()
        });
        Ok((last.context("the sink said nothing")?, Instant::now()))
    }

    fn rate(&self, (before, at): (u64, Instant)) -> anyhow::Result<f64> {
        let (bytes, now) = self.bytes()?;
        Ok((bytes - before) as f64 / now.duration_since(at).as_secs_f64())
    }
}

/// One ping on each flow, at the same time.
struct Pings {
    begin: Instant,
    pings: [Process; 2],
}

impl Pings {
    fn start(host: &Host) -> anyhow::Result<Self> {
        let one = |name: &str| {
            let line = format!("--json ping {name} -i 0.005");
            host.spawn("irm", line.split(' '))
        };
        Ok(Self {
            begin: Instant::now(),
            pings: [one(NAMES[0])?, one(NAMES[1])?],
        })
    }

    /// Stops them; the echoes a second of each.
    fn rates(mut self) -> anyhow::Result<[f64; 2]> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut rates = [0.0; 2];
        for ping in &self.pings {
            ping.signal(Signal::SIGINT)?;
        }
        for (rate, ping) in rates.iter_mut().zip(&mut self.pings) {
            ping.wait(FIVE)?;
            let json = ping.json()?;
            *rate = json["received"].as_f64().context("the ping said nothing")? / seconds;
        }
        Ok(rates)
    }
}

/// The shim of B that the flood meets.
fn shim(host: &Host) -> anyhow::Result<u32> {
    let json = host.irm_json("ipcp list")?;
    let all = json["ipcps"].as_array().context("no IPC processes")?;
    let shim = all.iter().find(|ipcp| ipcp["name"] == "udp-ab");
    let pid = shim.and_then(|ipcp| ipcp["pid"].as_u64());
    u32::try_from(pid.context("B has no shim")?).context("no process id")
}

fn counters(host: &Host) -> anyhow::Result<Value> {
    let mut json = host.irm_json("status")?;
    let all = json["ipcps"].as_array_mut().context("no IPC processes")?;
    let shim = all.iter_mut().find(|ipcp| ipcp["name"] == "udp-ab");
    let shim = shim.context("B has no shim")?;
    Ok(shim["status"]["counters"].take())
}

/// What was counted since `before`.
fn more(mut counted: Value, before: &Value) -> Value {
    for (name, n) in counted.as_object_mut().into_iter().flatten() {
        *n = (n.as_u64().unwrap_or(0) - before[name].as_u64().unwrap_or(0)).into();
    }
    counted
}

/// Requests that the kernel had no room for: the last column of its table of sockets.
fn unread(host: &Host) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/net/udp", host.holder());
    let table = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let asked = table.lines().filter(|line| line.contains(":0D1F "));
    let last = |line: &str| line.split_whitespace().last()?.parse::<u64>().ok();
    Ok(asked.filter_map(last).sum())
}

/// Resident, in KiB.
fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the shim is gone")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.context("the kernel says no memory")
}

fn sockets(pid: u32) -> anyhow::Result<usize> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).context("the shim is gone")?;
    let is_socket = |fd: &fs::DirEntry| {
        fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    Ok(all.flatten().filter(is_socket).count())
}

/// Names that are served on B and on C.
const NAMES: [&str; 2] = ["near --layer net-ab --qos raw", "far --layer overlay"];
/// How long the rate without a flood is measured.
const QUIET: Duration = Duration::from_secs(3);
/// How long before the flood the flows are begun.
const STANDING: Duration = Duration::from_millis(500);
const FIVE: Duration = Duration::from_secs(5);
