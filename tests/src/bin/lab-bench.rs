//! Measures what `docs/benchmarks.md` quotes of programs' flows, on the three hosts of the demo: throughput between
//! neighbours and through a member in between, what forwarding costs that member, voice beside bulk, allocation of flows, memory and
//! idle CPU and wake-ups of each process, live flows in a flood.
//!
//! Run it with `cargo run --release -p tests --bin lab-bench`, or with `-- forward`, `-- voice`, `-- data` (reliable flows
//! beside bulk transfers by quinn; `-- bulk` those without loss alone, `-- loss` those at 1 %), `-- sharing`, `-- allocate`, `-- flood`, `-- vpn`
//! (a stream through a member in between beside one to the neighbour, a raw flow beside datagrams, how soon a known member is
//! reached; takes iperf3, and is not part of the whole; nor are the next), `-- streams` (TCP over the VPN under rules and with seals on more
//! cores, and a ping beside streams), `-- narrow` (who shares a link of 20 Mbit/s, and one of 200), `-- known [MEMBERS]` (what it costs to know 1,000 members, simulated ones) or `-- churn SECONDS` (200 flows that open and close; 600 s unless said, and not part of
//! the whole) behind it for these alone; `-- rest` for the
//! processes alone, once they have nothing to do. It prints one JSON document.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tests::churn::churn;
use tests::flood::{Offer, counters, flood};
use tests::known::{FEW, MANY, each, known};
use tests::look::{memory_kib, ticks, wakeups};
use tests::narrow::Narrow;
use tests::streams::Streams;
use tests::vpns::Vpns;
use tests::{Host, Impairment, Line, Process, until};

fn main() -> anyhow::Result<()> {
    let only = std::env::args().nth(1);
    match only.as_deref() {
        Some("bulk") => return print(&json!({ "no_loss": bulk()? })),
        Some("loss") => {
            let line = lossy()?;
            return print(&json!({ "loss_1_percent_rtt_20_ms": rounds(|| beside(&line, 15))? }));
        }
        Some("data") => return print(&data()?),
        Some("sharing") => {
            let mut line = lossy()?;
            return print(&json!({ "sharing": rounds(|| sharing(&mut line))? }));
        }
        Some("vpn") => {
            let vpns = Vpns::new(5)?;
            std::thread::sleep(FIVE);
            return print(&json!({ "vpn": rounds(|| vpns.round())? }));
        }
        Some("streams") => {
            let streams = Streams::new()?;
            return print(&json!({ "streams": rounds(|| streams.round())? }));
        }
        Some("narrow") => {
            let narrow = |mbit| rounds(|| Narrow::new(mbit)?.measure());
            return print(&json!({ "narrow": [narrow(20)?, narrow(200)?] }));
        }
        Some("known") => {
            let many = std::env::args().nth(2).map(|n| n.parse()).transpose();
            let many = many.context("known takes a number of members")?;
            let many = known(many.unwrap_or(MANY), FEW, 60)?;
            let few = known(FEW, FEW, 60)?;
            return print(&json!({ "kb_a_member": each(&few, &many), "few": few, "many": many }));
        }
        Some("churn") => return print(&json!({ "churn": churned()? })),
        Some(_) | None => {}
    }
    let line = Line::up()?;
    std::thread::sleep(FIVE);
    if let Some(only) = only {
        return print(&match only.as_str() {
            "forward" => json!({ "forward": rounds(|| forward(&line))? }),
            "voice" => json!({ "voice": rounds(|| voice(&line))? }),
            "allocate" => json!({ "allocate": rounds(|| allocations(&line))? }),
            "flood" => json!({ "flood": flood(&line, OFFER)? }),
            "rest" => {
                std::thread::sleep(IDLE);
                json!({ "processes_at_rest": processes(&line)? })
            }
            other => anyhow::bail!(
                "{other} can't be measured alone; use forward, voice, data, bulk, loss, sharing, allocate, flood, rest, vpn, streams, narrow, known or churn"
            ),
        });
    }
    let fresh = processes(&line)?;
    let result = json!({
        "perf_neighbours": rounds(|| perf(&line, "b"))?,
        "perf_through_b": rounds(|| perf(&line, "c"))?,
        "forward": rounds(|| forward(&line))?,
        "voice": rounds(|| voice(&line))?,
        "allocate_a_c": rounds(|| allocate(&line, &["--count", "300", "--in-turn"]))?,
        "allocate_1000": allocate(&line, &["--count", "1000", "--in-turn"])?,
        "allocate": allocations(&line)?,
        "ping_flow_a_c": ping(&line)?,
        "processes_fresh": fresh,
        "processes_after": processes(&line)?,
        "flood": flood(&line, OFFER)?,
        "data": data()?,
    });
    print(&result)
}

fn print(result: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(result).context("can't write JSON")?;
    writeln!(std::io::stdout(), "{text}").context("can't print")
}

/// Two hundred flows that open and close for so many seconds as the second argument says, or for ten minutes.
fn churned() -> anyhow::Result<tests::churn::Outcome> {
    let seconds = std::env::args().nth(2).map(|s| s.parse()).transpose();
    let seconds = seconds.context("churn takes a number of seconds")?;
    // Without a VPN, whose flows would stay.
    let mut line = Line::new(None)?;
    line.start_daemons()?;
    line.shims()?;
    line.overlay()?;
    let time = Duration::from_secs(seconds.unwrap_or(600));
    churn(&line, 200, time, 1024)
}

/// What B's member forwards of a flow A→C that takes all there is, a second of wall time and a second of B's CPU.
fn forward(line: &Line) -> anyhow::Result<Value> {
    let b = line.host("b")?;
    let pid = *b.programs("ipcpd").first().context("B has no ipcpd")?;
    let count = || -> anyhow::Result<u64> {
        let status = b.irm_json("status")?;
        let ipcps = status["ipcps"].as_array().context("no IPC processes")?;
        let counts = ipcps.iter().map(|i| &i["status"]["counters"]["forwarded"]);
        Ok(counts.filter_map(Value::as_u64).sum())
    };
    let (before, cpu, begin) = (count()?, ticks(pid), Instant::now());
    let perf = perf(line, "c")?;
    let (pdus, cpu) = (count()? - before, (ticks(pid) - cpu) as f64 / 100.0);
    Ok(json!({
        "perf": perf,
        "pdus": pdus,
        "seconds": begin.elapsed().as_secs_f64(),
        "cpu_seconds_of_b": cpu,
        "kpps_a_core": pdus as f64 / 1e3 / cpu,
    }))
}

/// Round trips A→C of voice, alone and while flows of raw and of data take all that the same path carries.
fn voice(line: &Line) -> anyhow::Result<Value> {
    let (a, c) = (line.host("a")?, line.host("c")?);
    let _echo = c.spawn("irm", ["echo", "talk", "--layer", "overlay"])?;
    let _server = c.spawn("irm", ["perf", "load", "--layer", "overlay", "--server"])?;
    let ping = "ping talk --layer overlay --qos voice -c 2000 -i 0.002";
    until(FIVE, || a.irm("ping talk --layer overlay --qos voice -c 1"))?;
    let idle = a.irm_json(ping)?;
    let beside = |qos: &str| -> anyhow::Result<Value> {
        let load = format!("perf load --layer overlay -t 6 -s 1300 --qos {qos}");
        let mut load = a.spawn("irm", load.split(' '))?;
        std::thread::sleep(Duration::from_secs(1));
        let voice = a.irm_json(ping)?;
        load.wait(2 * FIVE)?;
        Ok(voice)
    };
    Ok(json!({ "idle": idle, "beside_raw": beside("raw")?, "beside_data": beside("data")? }))
}

/// Goodput from A to B of a reliable flow and of quinn's bulk, in turn: over a veth, and at 1 % loss and 20 ms round trip; and
/// how two such flows do at once there, and where they share a narrow link.
fn data() -> anyhow::Result<Value> {
    let no_loss = bulk()?;
    let mut lossy = lossy()?;
    let loss = rounds(|| beside(&lossy, 15))?;
    let server = perf_server(&lossy)?;
    let a = lossy.host("a")?;
    let run = || a.irm_json("perf bulk --layer overlay -t 20 --qos data");
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join())
    });
    let two = two.ok().context("a measurement failed")??;
    drop(server);
    Ok(json!({
        "no_loss": no_loss,
        "loss_1_percent_rtt_20_ms": loss,
        "two_flows_so": [one?, two],
        "sharing": rounds(|| sharing(&mut lossy))?,
    }))
}

/// The first of these alone.
fn bulk() -> anyhow::Result<Vec<Value>> {
    let mut plain = Line::new(None)?;
    plain.start_daemons()?;
    plain.shims()?;
    plain.overlay()?;
    rounds(|| beside(&plain, 3))
}

fn lossy() -> anyhow::Result<Line> {
    let mut line = Line::impairable(1)?;
    line.impair(Impairment {
        loss: 0.01,
        delay_us: 10_000,
        ..Impairment::default()
    })?;
    Ok(line)
}

/// How two flows of which one begins 3 s later share 50 Mbit/s of a link with 20 ms there and back and a queue of 40 ms: Mbit/s
/// of each from 10 s to 25 s after the second has begun; and what the sender and the receiver have counted of losses and marks since they are up.
fn sharing(line: &mut Line) -> anyhow::Result<Value> {
    line.impair(Impairment {
        delay_us: 10_000,
        rate_mbit: 50,
        queue_us: 40_000,
        ..Impairment::default()
    })?;
    let _server = perf_server(line)?;
    let (a, b) = (line.host("a")?, line.host("b")?);
    let run = || a.irm_json("perf bulk --layer overlay -t 30 --qos data");
    let received = || -> anyhow::Result<BTreeMap<u64, u64>> {
        let list = b.irm_json("flow list")?;
        let flows = list["flows"].as_array().context("no flows")?.iter();
        let bulk = flows.filter(|flow| flow["name"] == "bulk");
        let bytes = |flow: &Value| Some((flow["id"].as_u64()?, flow["rx_bytes"].as_u64()?));
        Ok(bulk.filter_map(bytes).collect())
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(run);
        std::thread::sleep(Duration::from_secs(3));
        let second = scope.spawn(run);
        std::thread::sleep(Duration::from_secs(10));
        let (before, at) = (received()?, Instant::now());
        std::thread::sleep(Duration::from_secs(15));
        let (after, seconds) = (received()?, at.elapsed().as_secs_f64());
        for run in [first, second] {
            run.join().ok().context("a measurement failed")??;
        }
        let rate = |(id, bytes): (&u64, &u64)| {
            let since = bytes.saturating_sub(before.get(id).copied().unwrap_or(0));
            since as f64 * 8e-6 / seconds
        };
        let rates: Vec<_> = after.iter().map(rate).collect();
        Ok(
            json!({ "mbit_per_s": rates, "sender": congestion(a, "ovl-a")?, "receiver": congestion(b, "ovl-b")? }),
        )
    })
}

/// What a member of the overlay counts of losses and marks.
fn congestion(host: &Host, member: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let all = counters(host, member)?;
    let all = all.as_object().context("no counters")?;
    let of = |name: &str| {
        ["frct.", "congestion.", "drop."]
            .iter()
            .any(|p| name.starts_with(p))
    };
    Ok(all
        .iter()
        .filter(|(name, _)| of(name))
        .map(|(name, n)| (name.clone(), n.clone()))
        .collect())
}

fn perf_server(line: &Line) -> anyhow::Result<Process> {
    let serve = ["perf", "bulk", "--layer", "overlay", "--server"];
    let server = line.host("b")?.spawn("irm", serve)?;
    line.host("b")?.irm("wait name bulk")?;
    Ok(server)
}

/// One after the other for so many seconds each, in Gbit/s that the receiver counted, and the flow's part of quinn's.
fn beside(line: &Line, seconds: u32) -> anyhow::Result<Value> {
    let (a, b) = (line.host("a")?, line.host("b")?);
    let server = perf_server(line)?;
    let flow = until(FIVE, || {
        a.irm_json(&format!(
            "perf bulk --layer overlay -t {seconds} --qos data"
        ))
    })?;
    drop(server);
    let (at, cert) = (
        format!("{}:7443", line.links[0].ip(1)),
        b.dir().join("quic.der"),
    );
    let _ = fs::remove_file(&cert);
    let cert = cert.to_str().context("a path that is not UTF-8")?;
    let _server = b.spawn("lab-quic", ["serve", &at, "--cert", cert])?;
    let time = seconds.to_string();
    let quic = until(FIVE, || {
        let out = a.run("lab-quic", ["send", &at, "--cert", cert, "-t", &time])?;
        serde_json::from_str::<Value>(&out.stdout).with_context(|| out.stderr.clone())
    })?;
    let rate = |of: &Value| of["gbit_per_s"].as_f64().unwrap_or_default();
    Ok(json!({ "flow": rate(&flow), "quinn": rate(&quic), "ratio": rate(&flow) / rate(&quic) }))
}

fn rounds(mut measure: impl FnMut() -> anyhow::Result<Value>) -> anyhow::Result<Vec<Value>> {
    (0..ROUNDS).map(|_| measure()).collect()
}

/// Gbit/s that the receiver on `to` counted of a raw flow from A.
fn perf(line: &Line, to: &str) -> anyhow::Result<Value> {
    let name = format!("speed-{to}");
    let server = ["perf", &name, "--layer", "overlay", "--server"];
    let _server = line.host(to)?.spawn("irm", server)?;
    // Through B a flow has room for less.
    let size = if to == "b" { 1400 } else { 1380 };
    let client = format!("perf {name} --layer overlay -t 3 -s {size} --qos raw");
    until(FIVE, || line.host("a")?.irm_json(&client))
}

fn allocate(line: &Line, how: &[&str]) -> anyhow::Result<Value> {
    let _echo = line
        .host("c")?
        .spawn("irm", ["echo", "many", "--layer", "overlay"])?;
    let a = line.host("a")?;
    until(FIVE, || a.irm("ping many --layer overlay -c 1"))?;
    let out = a.run(
        "lab-flows",
        ["many", "--layer", "overlay"].iter().chain(how),
    )?;
    serde_json::from_str(&out.stdout).with_context(|| out.stderr.clone())
}

/// Flows a second, each closed as soon as it stands, so many asked for at a time; and what each daemon took of a core for one.
fn allocations(line: &Line) -> anyhow::Result<Value> {
    let mut all = Vec::new();
    for at_once in [1, 8, 64] {
        let before = cpu(line);
        let how = format!("--count 4000 --at-once {at_once}");
        let flows = allocate(line, &how.split(' ').collect::<Vec<_>>())?;
        let number = |name: &str| flows[name].as_f64().unwrap_or_default();
        let each = |(who, now): (&String, &u64)| {
            // 100 ticks a second.
            let ticks = now - before.get(who).unwrap_or(now);
            (who.clone(), json!(ticks as f64 * 1e4 / number("allocated")))
        };
        let cpu: serde_json::Map<_, _> = cpu(line).iter().map(each).collect();
        all.push(json!({
            "at_once": at_once,
            "failed": flows["failed"].as_array().map_or(0, Vec::len),
            "per_second": number("allocated") / number("seconds"),
            "p50_ms": flows["p50_ms"],
            "p99_ms": flows["p99_ms"],
            "cpu_us_each": cpu,
        }));
    }
    Ok(all.into())
}

/// Ticks that the daemons have used so far, by program and host.
fn cpu(line: &Line) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for host in &line.hosts {
        for name in ["irmd", "ipcpd"] {
            let ticks: u64 = host.programs(name).into_iter().map(ticks).sum();
            all.insert(format!("{name} on {}", host.name), ticks);
        }
    }
    all
}

fn ping(line: &Line) -> anyhow::Result<Value> {
    let _echo = line
        .host("c")?
        .spawn("irm", ["echo", "rtt", "--layer", "overlay"])?;
    let ping = "ping rtt --layer overlay -c 500 -i 0.002";
    until(FIVE, || line.host("a")?.irm_json(ping))
}

/// Resident memory in kB, CPU as a part of one core over ten idle seconds, and wake-ups a second in these.
fn processes(line: &Line) -> anyhow::Result<Vec<Value>> {
    let all = |host: &Host| {
        let programs = ["irmd", "ipcpd", "shim-udp", "vpn"].into_iter();
        programs
            .flat_map(|name| host.programs(name).into_iter().map(move |pid| (name, pid)))
            .collect::<Vec<_>>()
    };
    let found: Vec<_> = line
        .hosts
        .iter()
        .flat_map(|h| all(h).into_iter().map(|p| (h.name.clone(), p)))
        .collect();
    let now = |(_, (_, pid)): &(String, (&str, u32))| (ticks(*pid), wakeups(*pid));
    let before: Vec<_> = found.iter().map(now).collect();
    std::thread::sleep(IDLE);
    Ok(found
        .iter()
        .zip(before)
        .map(|(process, (ticks, wakeups))| {
            let ((host, (name, pid)), now) = (process, now(process));
            // 100 ticks a second, everywhere that Linux runs programs.
            let cpu = (now.0 - ticks) as f64 / 100.0 / IDLE.as_secs_f64();
            let woken = (now.1 - wakeups) as f64 / IDLE.as_secs_f64();
            let rss = memory_kib(*pid);
            json!({ "host": host, "program": name, "rss_kb": rss, "idle_cpu": cpu, "wakeups_per_s": woken })
        })
        .collect())
}

/// What the flood offers.
const OFFER: Offer = Offer {
    requests: 22_000,
    starts: 2_100,
    seconds: 30,
    bulk: 20_000_000,
};
const FIVE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;
