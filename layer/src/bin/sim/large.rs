//! Layers of thousands: what each phase took, and what the process needed for it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use layer::sim::{Phase, Scale, grow, stand};

use crate::args::Large;
use crate::plot::{Curve, plot};
use crate::say;

/// Its file, its title, its unit and its values.
type Picture = (&'static str, &'static str, &'static str, fn(&Row) -> f64);

/// What a phase took of each member.
struct Row {
    phase: &'static str,
    members: f64,
    kib: f64,
    packets: f64,
    virtual_secs: f64,
    cpu_secs: f64,
}

pub(crate) fn run(wanted: &Large) -> ExitCode {
    // Later layers use the memory that the earlier, smaller ones gave back.
    let (empty, mut rows) = (resident(), Vec::new());
    for scale in &wanted.scales {
        if !one(scale, wanted.stand, empty, &mut rows) {
            return ExitCode::FAILURE;
        }
    }
    let Some(dir) = &wanted.plots else {
        return ExitCode::SUCCESS;
    };
    let kind = if wanted.stand { "stand" } else { "grow" };
    let pictures: [Picture; 4] = [
        ("memory", "Memory of a member", "KiB resident", |row| {
            row.kib
        }),
        (
            "messages",
            "Packets that a member sends",
            "packets",
            |row| row.packets,
        ),
        (
            "convergence",
            "Time until all agree",
            "virtual seconds",
            |row| row.virtual_secs,
        ),
        ("work", "Work of the whole layer", "CPU seconds", |row| {
            row.cpu_secs
        }),
    ];
    for (file, title, unit, value) in pictures {
        let path = format!("{dir}/{kind}-{file}.svg");
        let picture = plot(title, unit, &curves(&rows, value));
        if let Err(why) = std::fs::write(&path, picture) {
            say(&format!("can't write {path}: {why}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A curve for each phase.
fn curves(rows: &[Row], value: fn(&Row) -> f64) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for row in rows {
        let point = (row.members, value(row));
        match curves.iter_mut().find(|(name, _)| name == row.phase) {
            Some((_, points)) => points.push(point),
            None => curves.push((row.phase.to_owned(), vec![point])),
        }
    }
    curves
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long the simulator takes is told, never used"
)]
fn one(scale: &Scale, stands: bool, empty: u64, rows: &mut Vec<Row>) -> bool {
    let Scale {
        members,
        topology,
        links,
        seed,
    } = scale;
    say(&format!(
        "{members} members, {topology}, {links} links each, seed {seed}"
    ));
    let (mut since, mut worked) = (Instant::now(), cpu());
    let mut seen = |phase: &Phase| {
        let n = *members as f64;
        let row = Row {
            phase: phase.name,
            members: n,
            kib: resident().saturating_sub(empty) as f64 / n,
            packets: phase.packets as f64 / n,
            virtual_secs: phase.lasted.as_secs_f64(),
            cpu_secs: (cpu() - worked).as_secs_f64(),
        };
        say(&format!(
            "  {:<10} CPU {:>7.2} s, wall {:>7.2} s, virtual {:>6.2} s; a member: {:>7.0} packets, {:>9.0} bytes, {:>5.0} KiB; hash {:016x}",
            phase.name,
            row.cpu_secs,
            since.elapsed().as_secs_f64(),
            row.virtual_secs,
            row.packets,
            phase.bytes as f64 / n,
            row.kib,
            phase.hash,
        ));
        rows.push(row);
        (since, worked) = (Instant::now(), cpu());
    };
    let told = match stands {
        true => stand(scale, CUTS, JOINS, &mut seen),
        false => grow(scale, &mut seen),
    };
    match told {
        Ok(()) => true,
        Err(failure) => {
            say(&format!(
                "  failed after {:.3} s: {}",
                failure.at.as_secs_f64(),
                failure.what
            ));
            false
        }
    }
}

/// The memory of this process in KiB; 0 where the system doesn't say.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The time that this process has had of all processors; 0 where the system doesn't say. Ticks are those of Linux.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// What a layer that stands goes through.
const CUTS: usize = 100;
const JOINS: usize = 100;
