//! What it costs a host to know many members: real daemons whose layer consists of simulated members (`layer/examples/crowd.rs`), with a
//! VPN that has no packets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::lab::{Host, Lab, crowd, until};
use crate::look::{DAEMONS, memory_kib, ticks};

/// What daemons of one host took.
#[derive(Debug, Serialize)]
pub struct Known {
    /// Members that it knows, itself included.
    pub members: u64,
    /// Its neighbours.
    pub neighbours: u64,
    /// From the request to join until it knew all of them, and had its neighbours, in seconds.
    pub seconds_until_known: f64,
    /// For how long it was watched since.
    pub seconds: u32,
    /// Per cent of a core, by program and together.
    pub cpu_percent: BTreeMap<String, f64>,
    /// Resident memory in KiB at the end, by program and together.
    pub memory_kib: BTreeMap<String, u64>,
}

/// Lets a host join so many simulated members, up to `neighbours` of them directly, and watches its daemons for so long.
pub fn known(members: usize, neighbours: usize, seconds: u32) -> anyhow::Result<Known> {
    let program = crowd()?;
    let lab = Lab::new()?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let link = lab.veth(&a, &b)?;
    let to = link.ip(1).to_string();
    let program = program.to_str().context("a path that is not UTF-8")?;
    let (count, gates) = (members.to_string(), neighbours.to_string());
    let args = [&to, &count, &gates, "real", "10.9.0.1/32"];
    let mut crowd = b.spawn(program, args)?;
    let said = until(Duration::from_secs(300), || {
        let said = crowd.newest();
        ensure!(
            said["invitation"].is_string() || !crowd.alive(),
            "the crowd is not there yet"
        );
        Ok(said)
    })?;
    let url = said["invitation"].as_str();
    let url = url.with_context(|| format!("the crowd ended: {}", crowd.log()))?;
    let _irmd = a.irmd()?;
    let gates: Vec<_> = (0..neighbours).map(|n| format!("m{n}")).collect();
    let hosts = gates.iter().map(|gate| format!(" --host {gate}={to}"));
    let hosts: String = hosts.collect();
    let here = link.ip(0);
    a.irm(&format!(
        "ipcp bootstrap udp --type shim-udp --layer net --ip {here}{hosts}"
    ))?;
    let begin = Instant::now();
    a.irm(&format!(
        "ipcp enroll real --type unicast --invite {url} --timeout 50s"
    ))?;
    for gate in &gates {
        // All of the crowd share one core, and each hears of each new link.
        until(Duration::from_secs(120), || {
            a.irm(&format!("ipcp connect real --dst {gate} --timeout 20s"))
        })?;
    }
    a.irm("vpn up --layer scale --dev strata0")?;
    let all = members as u64 + 1;
    let seen = until(Duration::from_secs(300), || {
        let seen = knows(&a)?;
        ensure!(seen.0 >= all, "{} of {all} members are known", seen.0);
        Ok(seen)
    })?;
    let seconds_until_known = begin.elapsed().as_secs_f64();
    // What has come is put in order, and signs of life become slow.
    std::thread::sleep(SETTLE);
    let before = programs(&a, ticks);
    std::thread::sleep(Duration::from_secs(seconds.into()));
    ensure!(crowd.alive(), "the crowd ended: {}", crowd.log());
    let cpu = programs(&a, ticks).into_iter().map(|(name, after)| {
        let used = after - before.get(&name).copied().unwrap_or(0);
        // 100 ticks a second.
        (name, used as f64 / f64::from(seconds))
    });
    let mut cpu_percent: BTreeMap<_, _> = cpu.collect();
    let mut memory_kib = programs(&a, memory_kib);
    cpu_percent.insert(ALL.to_owned(), cpu_percent.values().sum());
    memory_kib.insert(ALL.to_owned(), memory_kib.values().sum());
    let still = knows(&a)?;
    ensure!(still.0 == seen.0, "it has forgotten members: {still:?}");
    Ok(Known {
        members: still.0,
        neighbours: still.1,
        seconds_until_known,
        seconds,
        cpu_percent,
        memory_kib,
    })
}

/// How many members its IPC process knows a way to, itself included, and its neighbours.
fn knows(host: &Host) -> anyhow::Result<(u64, u64)> {
    let said = host.irm_json("layer members scale")?;
    let members = said["members"].as_array().context("no members")?;
    let real = members.iter().find(|member| member["name"] == "real");
    let near = real.and_then(|real| real["neighbours"].as_array());
    let near = near.context("it does not know itself")?.len();
    Ok((members.len() as u64, near as u64))
}

/// Something of each program of a host, together for those of one name.
fn programs(host: &Host, of: fn(u32) -> u64) -> BTreeMap<String, u64> {
    let names = DAEMONS.into_iter().chain(["vpn"]);
    let one = |name: &str| {
        (
            name.to_owned(),
            host.programs(name).into_iter().map(of).sum(),
        )
    };
    names.map(one).collect()
}

/// The members of a run, and of one beside which memory is compared.
pub const MANY: usize = 1_000;
/// No more than the neighbours, so that these cost the same.
pub const FEW: usize = 16;
const ALL: &str = "together";
const SETTLE: Duration = Duration::from_secs(20);

/// What a member more costs in kB, by program and together.
pub fn each(few: &Known, many: &Known) -> BTreeMap<String, Value> {
    let members = (many.members - few.members) as f64;
    let more = |(name, kib): (&String, &u64)| {
        let less = few.memory_kib.get(name).copied().unwrap_or(0);
        let more = (*kib as f64 - less as f64) * 1.024 / members;
        (name.clone(), Value::from(more))
    };
    many.memory_kib.iter().map(more).collect()
}
