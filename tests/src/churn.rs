//! Many flows from A to C through B that open and close without end, and what the daemons hold before and afterwards.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::lab::until;
use crate::line::Line;
use crate::look::{Look, leaks, settled};

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// What the users say: flows, failures, echoes, times.
    pub users: Value,
    /// What the daemons have more than before.
    pub leaks: Vec<String>,
    /// Requests, flows and sockets that daemons still count as under way.
    pub under_way: Vec<String>,
    /// Resident memory in KiB before and after: of all irmd, ipcpd and shim-udp.
    pub memory_kib: [[u64; 2]; 3],
}

/// Lets so many users open and close flows for so long; what the daemons hold may grow by `kib` each. The line needs its daemons,
/// shims and overlay.
pub fn churn(line: &Line, users: usize, time: Duration, kib: u64) -> anyhow::Result<Outcome> {
    let (a, c) = (line.host("a")?, line.host("c")?);
    let _echo = c.spawn("irm", ["echo", "churn", "--layer", "overlay"])?;
    until(FIVE, || a.irm("ping churn --layer overlay -c 1"))?;
    let run = |time: Duration| {
        let how = format!(
            "churn --layer overlay --count {users} --churn {} --timeout-ms 10000",
            time.as_secs_f64()
        );
        let mut flows = a.spawn("lab-flows", how.split(' '))?;
        let code = flows.wait(time + 6 * FIVE)?;
        ensure!(code == 0, "lab-flows ended with {code}: {}", flows.log());
        flows.json()
    };
    // What a process gets once and keeps is no leak.
    run(WARM)?;
    let before = settled(&line.hosts, "overlay", 6 * FIVE)?;
    let users = run(time)?;
    let after = settled(&line.hosts, "overlay", 6 * FIVE)?;
    Ok(Outcome {
        users,
        leaks: leaks(&before, &after, kib),
        under_way: under_way(line)?,
        memory_kib: ["irmd", "ipcpd", "shim-udp"]
            .map(|program| [&before, &after].map(|look| memory(look, program))),
    })
}

/// Counters of what there is of something now, beyond nothing.
fn under_way(line: &Line) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for host in &line.hosts {
        let status = host.irm_json("status")?;
        let ipcps = status["ipcps"].as_array().context("no IPC processes")?;
        for ipcp in ipcps {
            let counters = ipcp["status"]["counters"].as_object();
            for (what, n) in counters.into_iter().flatten() {
                if what.starts_with("now.") && *n != 0 {
                    found.push(format!("{} on {}: {what} {n}", ipcp["name"], host.name));
                }
            }
            if ipcp["restarts"].as_u64() > Some(0) {
                found.push(format!("{} on {} was restarted", ipcp["name"], host.name));
            }
        }
    }
    Ok(found)
}

fn memory(look: &Look, program: &str) -> u64 {
    let of = look.iter().filter(|(who, _)| who.1 == program);
    of.map(|(_, has)| has.kib).sum()
}

const FIVE: Duration = Duration::from_secs(5);
/// Before it is measured.
const WARM: Duration = Duration::from_secs(3);
