//! Layers of thousands: what each phase took, and what the process needed for it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use layer::sim::{Phase, Scale, grow, stand};

use crate::say;

pub(crate) fn run(scales: &[Scale], stands: bool) -> ExitCode {
    for scale in scales {
        if !one(scale, stands) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long the simulator takes is told, never used"
)]
fn one(scale: &Scale, stands: bool) -> bool {
    let Scale {
        members,
        topology,
        links,
        seed,
    } = scale;
    say(&format!(
        "{members} members, {topology}, {links} links each, seed {seed}"
    ));
    let (empty, mut since, mut worked) = (resident(), Instant::now(), cpu());
    let mut seen = |phase: &Phase| {
        let n = *members as u64;
        say(&format!(
            "  {:<10} wall {:>7.2} s, CPU {:>7.2} s, virtual {:>7.2} s, a member: {:>6} packets, {:>8} bytes, {:>6} KiB resident; hash {:016x}",
            phase.name,
            since.elapsed().as_secs_f64(),
            (cpu() - worked).as_secs_f64(),
            phase.lasted.as_secs_f64(),
            phase.packets / n,
            phase.bytes / n,
            resident().saturating_sub(empty) / n,
            phase.hash,
        ));
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
