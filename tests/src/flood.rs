//! A flood of flow requests from sources that don't exist, against B's shim, and of handshakes that a stranger begins with B's
//! member, while flows from A to B and through B go on.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;

use crate::lab::{Host, Process, until};
use crate::line::Line;
use crate::look::memory_kib;

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
    /// The same of the member.
    pub member_kib: [u64; 2],
    /// What the stranger says of the handshakes that it began, and what the member counted meanwhile.
    pub starts: [Value; 2],
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

/// What is offered.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Requests a second from sources that don't exist.
    pub requests: u32,
    /// Handshakes a second that a stranger begins.
    pub starts: u32,
    /// For how long.
    pub seconds: u32,
    /// Beside a flow of so many bytes a second.
    pub bulk: u64,
}

/// Offers it. The line needs its daemons, shims and overlay.
pub fn flood(line: &Line, offer: Offer) -> anyhow::Result<Outcome> {
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
    let Offer { seconds, .. } = offer;
    let stranger = Stranger::new(line)?;
    let bulk = Bulk::start(a, c, offer.bulk)?;
    let pings = Pings::start(a)?;
    let poured = bulk.bytes()?;
    std::thread::sleep(QUIET);
    let quiet_bulk = bulk.rate(poured)?;
    let quiet = pings.rates()?;
    let (pid, member) = (process(b, SHIM)?, process(b, MEMBER)?);
    let (counted, unread) = (counters(b, SHIM)?, unread(b)?);
    let shaken = counters(b, MEMBER)?;
    // They stand before the flood begins.
    let pings = Pings::start(a)?;
    std::thread::sleep(STANDING);
    let mut flood = spoofed(a, &format!("{to}:3359"), offer)?;
    let starts = stranger.begin(offer)?;
    let (begin, mut early, mut most_sockets) = (Instant::now(), [0, 0], 0);
    let (poured, mut new_flow_ms) = (bulk.bytes()?, 0.0);
    while flood.alive() {
        let most = Duration::from_secs(u64::from(seconds)) + FIVE;
        ensure!(begin.elapsed() < most, "the flood does not end");
        most_sockets = most_sockets.max(sockets(pid)?);
        if early == [0, 0] && begin.elapsed() > Duration::from_secs(2) {
            early = [memory_kib(pid), memory_kib(member)];
            let asked = Instant::now();
            a.irm("ping far --layer overlay -c 1")?;
            new_flow_ms = asked.elapsed().as_secs_f64() * 1e3;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let flood_bulk = bulk.rate(poured)?;
    let during = pings.rates()?;
    let late = [memory_kib(pid), memory_kib(member)];
    let shaken = more(counters(b, MEMBER)?, &shaken);
    let sent = flood.json()?;
    let number = |name: &str| sent[name].as_f64().context("the flood said nothing");
    Ok(Outcome {
        offered: number("sent")? as u64,
        offered_per_s: number("sent")? / number("seconds")?,
        unread: self::unread(b)?.saturating_sub(unread),
        counted: more(counters(b, SHIM)?, &counted),
        most_sockets,
        memory_kib: [early[0], late[0]],
        member_kib: [early[1], late[1]],
        starts: [stranger_said(starts)?, shaken],
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

/// The requests from sources that don't exist.
fn spoofed(from: &Host, to: &str, offer: Offer) -> anyhow::Result<Process> {
    let (rate, seconds) = (offer.requests.to_string(), offer.seconds.to_string());
    let how = ["--rate", &rate, "--seconds", &seconds];
    from.spawn("lab-tool", ["udp-flood", to, "near"].into_iter().chain(how))
}

/// A host beside the three whose member nobody has invited, and the hello of a handshake that it has caught.
struct Stranger {
    host: Host,
    at: String,
    hello: String,
    _link: crate::Link,
}

impl Stranger {
    fn new(line: &Line) -> anyhow::Result<Self> {
        let (a, b) = (line.host("a")?, line.host("b")?);
        let hello = line.lab.dir().join("hello");
        let hello = hello
            .to_str()
            .context("a path that is not UTF-8")?
            .to_owned();
        // A's own, which it says to a member that isn't there.
        let trap = format!("{}:4359", line.links[0].v4[0]);
        let mut catch = a.spawn("lab-tool", ["hello-catch", &trap, &hello])?;
        std::thread::sleep(STANDING);
        a.irm(&format!("ipcp set udp-ab --host ovl-x={trap}"))?;
        let none = a.irm("ipcp connect ovl-a --dst ovl-x --timeout 1s");
        ensure!(none.is_err(), "somebody answered");
        ensure!(catch.wait(FIVE)? == 0, "{}", catch.log());
        let host = line.lab.host("x")?;
        let link = line.lab.veth(&host, b)?;
        let to = line.links[0].v4[1];
        host.net(&format!("route {to}/32 {}", link.v4[1]))?;
        Ok(Self {
            host,
            at: format!("{to}:3359"),
            hello,
            _link: link,
        })
    }

    fn begin(&self, offer: Offer) -> anyhow::Result<Option<Process>> {
        let (rate, seconds) = (offer.starts.to_string(), offer.seconds.to_string());
        let args = [
            "hello-flood",
            &self.at,
            "ovl-b",
            &self.hello,
            "--rate",
            &rate,
            "--seconds",
            &seconds,
        ];
        (offer.starts > 0)
            .then(|| self.host.spawn("lab-tool", args))
            .transpose()
    }
}

fn stranger_said(starts: Option<Process>) -> anyhow::Result<Value> {
    let Some(mut starts) = starts else {
        return Ok(Value::Null);
    };
    ensure!(starts.wait(FIVE)? == 0, "{}", starts.log());
    starts.json()
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

/// An IPC process of a host.
fn process(host: &Host, name: &str) -> anyhow::Result<u32> {
    let json = host.irm_json("ipcp list")?;
    let all = json["ipcps"].as_array().context("no IPC processes")?;
    let found = all.iter().find(|ipcp| ipcp["name"] == name);
    let pid = found.and_then(|ipcp| ipcp["pid"].as_u64());
    u32::try_from(pid.with_context(|| format!("there is no {name}"))?).context("no process id")
}

/// What an IPC process of a host counts.
pub fn counters(host: &Host, name: &str) -> anyhow::Result<Value> {
    let mut json = host.irm_json("status")?;
    let all = json["ipcps"].as_array_mut().context("no IPC processes")?;
    let found = all.iter_mut().find(|ipcp| ipcp["name"] == name);
    let found = found.with_context(|| format!("there is no {name}"))?;
    Ok(found["status"]["counters"].take())
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

fn sockets(pid: u32) -> anyhow::Result<usize> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).context("the shim is gone")?;
    let is_socket = |fd: &fs::DirEntry| {
        fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    Ok(all.flatten().filter(is_socket).count())
}

/// What B has that is flooded.
const SHIM: &str = "udp-ab";
const MEMBER: &str = "ovl-b";
/// Names that are served on B and on C.
const NAMES: [&str; 2] = ["near --layer net-ab --qos raw", "far --layer overlay"];
/// How long the rate without a flood is measured.
const QUIET: Duration = Duration::from_secs(3);
/// How long before the flood the flows are begun.
const STANDING: Duration = Duration::from_millis(500);
const FIVE: Duration = Duration::from_secs(5);
