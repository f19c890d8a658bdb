//! `cargo sim`: runs the simulator over many seeds. It must not know more of the machine than the report says.

mod args;
mod large;
mod plot;
mod trace;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use args::{Args, Todo, USAGE, scenarios};
use layer::sim::{Failure, Options, Report, play, run};

fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1)) {
        Ok(Todo::Run(args)) => {
            let code = seeds(&args);
            match trace::close(args.draw.as_deref()) {
                Ok(()) => code,
                Err(why) => {
                    say(&format!("sim: {why}"));
                    ExitCode::FAILURE
                }
            }
        }
        Ok(Todo::Scale(wanted)) => large::run(&wanted),
        Ok(Todo::List) => list(),
        Ok(Todo::Help) => {
            say(USAGE);
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&format!("sim: {why}\n\n{USAGE}"));
            ExitCode::from(2)
        }
    }
}

fn list() -> ExitCode {
    match scenarios() {
        Ok(all) => {
            for (name, scenario) in all {
                let (members, topology) = (scenario.members, scenario.topology);
                say(&format!(
                    "{name:<16} {members:>2} {topology:<10} {}",
                    scenario.description
                ));
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&format!("sim: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn one(args: &Args, seed: u64) -> Result<Report, Box<Failure>> {
    match &args.scenario {
        Some((_, scenario)) => play(scenario, seed, args.options.trace),
        None => run(&Options {
            seed,
            ..args.options
        }),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long the simulator takes is told, never used"
)]
fn seeds(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let (first, last) = (
        args.options.seed,
        args.options.seed.saturating_add(args.seeds),
    );
    let (next, told) = (AtomicU64::new(first), Mutex::new(Duration::ZERO));
    let work = || {
        let (mut reports, mut failed) = (Vec::new(), 0_usize);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                return (reports, failed);
            }
            match one(args, seed) {
                Ok(report) => reports.push((seed, report)),
                Err(failure) => {
                    failed += 1;
                    tell_failure(args, seed, &failure);
                }
            }
            let mut told = told
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if begun.elapsed() - *told > Duration::from_secs(5) {
                *told = begun.elapsed();
                let (done, secs) = (seed - first + 1, told.as_secs());
                say(&format!("{done} of {} seeds, {secs} s", args.seeds));
            }
        }
    };
    let (mut reports, mut failed) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (some, bad) = worker.join().unwrap_or_else(|_| (Vec::new(), 1));
            reports.extend(some);
            failed += bad;
        }
    });
    reports.sort_by_key(|(seed, _)| *seed);
    let reports: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
    say(&summary(&reports, failed, begun.elapsed()));
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell_failure(args: &Args, seed: u64, failure: &Failure) {
    say(&format!(
        "seed {seed} failed after {:.3} s: {}\n  repeat: {} (hash {:016x})",
        failure.at.as_secs_f64(),
        failure.what,
        args.repeat(seed),
        failure.hash
    ));
    if let Some(file) = &args.mermaid {
        match std::fs::write(file, &failure.mermaid) {
            Ok(()) => say(&format!("  picture: {file}")),
            Err(why) => say(&format!("  no picture: can't write {file}: {why}")),
        }
    }
}

fn summary(reports: &[Report], failed: usize, took: Duration) -> String {
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let mut converged: Vec<_> = reports
        .iter()
        .flat_map(|r| r.convergence.iter().copied())
        .collect();
    converged.sort_unstable();
    let at = |i: usize| converged.get(i).map_or(0.0, Duration::as_secs_f64);
    let all = reports
        .iter()
        .fold(0, |hash: u64, r| hash.rotate_left(1) ^ r.hash);
    format!(
        "{} seeds held, {failed} failed, in {:.1} s: {} members, {} of {} flows stood, {} of {} SDUs arrived, {} packets, \
         {} of the attacker, {} cuts, {} partitions, {} crashes, {} disks lost, {} lies, {} lower flows died; quiet to agreement p50 {:.2} s, max {:.2} s; \
         {} events, hash {all:016x}",
        reports.len(),
        took.as_secs_f64(),
        sum(|r| r.members as u64),
        sum(|r| r.counts.allocated),
        sum(|r| r.counts.asked),
        sum(|r| r.sdus.1),
        sum(|r| r.sdus.0),
        sum(|r| r.packets.0),
        sum(|r| r.packets.1),
        sum(|r| r.counts.cuts),
        sum(|r| r.counts.partitions),
        sum(|r| r.counts.crashes),
        sum(|r| r.counts.disks),
        sum(|r| r.counts.lies),
        sum(|r| r.counts.deaths),
        at(converged.len() / 2),
        at(converged.len().saturating_sub(1)),
        sum(|r| r.events),
    )
}

/// Where nobody reads, nothing need be said.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
