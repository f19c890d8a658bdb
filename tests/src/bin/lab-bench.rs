//! Measures what `docs/benchmarks.md` quotes of programs' flows, on the three hosts of the demo: throughput between
//! neighbours and through a member in between, allocation of flows, memory and idle CPU of each process, live flows in a flood.
//!
//! Run it with `cargo run --release -p tests --bin lab-bench`. It prints one JSON document.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tests::flood::flood;
use tests::{Host, Line, until};

fn main() -> anyhow::Result<()> {
    let line = Line::up()?;
    std::thread::sleep(FIVE);
    let fresh = processes(&line)?;
    let result = json!({
        "perf_neighbours": rounds(|| perf(&line, "b"))?,
        "perf_through_b": rounds(|| perf(&line, "c"))?,
        "allocate_a_c": rounds(|| allocate(&line, &["--count", "300", "--in-turn"]))?,
        "allocate_1000": allocate(&line, &["--count", "1000", "--in-turn"])?,
        "ping_flow_a_c": ping(&line)?,
        "processes_fresh": fresh,
        "processes_after": processes(&line)?,
        "flood": flood(&line, 22_000, 30)?,
    });
    let text = serde_json::to_string_pretty(&result).context("can't write JSON")?;
    writeln!(std::io::stdout(), "{text}").context("can't print")
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

fn ping(line: &Line) -> anyhow::Result<Value> {
    let _echo = line
        .host("c")?
        .spawn("irm", ["echo", "rtt", "--layer", "overlay"])?;
    let ping = "ping rtt --layer overlay -c 500 -i 0.002";
    until(FIVE, || line.host("a")?.irm_json(ping))
}

/// Resident memory in kB, and CPU as a part of one core over ten idle seconds.
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
    let before: Vec<u64> = found.iter().map(|(_, (_, pid))| ticks(*pid)).collect();
    std::thread::sleep(IDLE);
    Ok(found
        .iter()
        .zip(before)
        .map(|((host, (name, pid)), before)| {
            // 100 ticks a second, everywhere that Linux runs programs.
            let cpu = (ticks(*pid) - before) as f64 / 100.0 / IDLE.as_secs_f64();
            json!({ "host": host, "program": name, "rss_kb": rss(*pid), "idle_cpu": cpu })
        })
        .collect())
}

fn ticks(pid: u32) -> u64 {
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

fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

const FIVE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;
