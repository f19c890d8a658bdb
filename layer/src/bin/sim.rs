//! `cargo sim`: runs the simulator over many seeds. It must not know more of the machine than the report says.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use layer::sim::{Failure, Options, Report, Scenario, run};

fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => seeds(&args),
        Ok(None) => {
            say(USAGE);
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&format!("sim: {why}\n\n{USAGE}"));
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Args {
    seeds: u64,
    options: Options,
    mermaid: Option<String>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Self {
            seeds: 10,
            ..Self::default()
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--seeds" => args.seeds = number(&value()?)?,
                "--from" => args.options.seed = number(&value()?)?,
                "--scenario" => args.options.scenario = Some(value()?.parse::<Scenario>()?),
                "--members" => {
                    let members = number(&value()?)?;
                    let in_bounds = usize::try_from(members)
                        .ok()
                        .filter(|m| (2..=64).contains(m));
                    args.options.members = Some(in_bounds.ok_or("--members is from 2 to 64")?);
                }
                "--trace" => args.options.trace = Some(say),
                "--mermaid" => args.mermaid = Some(value()?),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{word:?} is no option")),
            }
        }
        Ok(Some(args))
    }

    /// The command that repeats one seed.
    fn repeat(&self, seed: u64) -> String {
        let mut text = format!("cargo sim --from {seed} --seeds 1");
        if let Some(scenario) = self.options.scenario {
            text += &format!(" --scenario {scenario}");
        }
        if let Some(members) = self.options.members {
            text += &format!(" --members {members}");
        }
        text
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long the simulator takes is told, never used"
)]
fn seeds(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let mut told = begun.elapsed();
    let (mut reports, mut failed) = (Vec::new(), 0);
    for seed in args.options.seed..args.options.seed.saturating_add(args.seeds) {
        match run(&Options {
            seed,
            ..args.options
        }) {
            Ok(report) => reports.push(report),
            Err(failure) => {
                failed += 1;
                tell_failure(args, seed, &failure);
            }
        }
        if begun.elapsed() - told > Duration::from_secs(5) {
            told = begun.elapsed();
            say(&format!(
                "{} of {} seeds, {failed} failed, {} s",
                seed - args.options.seed + 1,
                args.seeds,
                told.as_secs()
            ));
        }
    }
    say(&summary(&reports, failed, begun.elapsed()));
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell_failure(args: &Args, seed: u64, failure: &Failure) {
    say(&format!(
        "seed {seed} failed after {:.3} s: {}\n  repeat: {}",
        failure.at.as_secs_f64(),
        failure.what,
        args.repeat(seed)
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
         {} of the attacker, {} cuts, {} partitions, {} crashes, {} lower flows died; quiet to agreement p50 {:.2} s, max {:.2} s; \
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
        sum(|r| r.counts.deaths),
        at(converged.len() / 2),
        at(converged.len().saturating_sub(1)),
        sum(|r| r.events),
    )
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// Where nobody reads, nothing need be said.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

const USAGE: &str = "cargo sim [--seeds N] [--from SEED] [--scenario line|ring|star|grid|random] [--members N] [--trace] [--mermaid FILE]

Runs N seeds (10) from SEED (0) and exits 0 if everything held.
  cargo sim --seeds 100
  cargo sim --from 17 --seeds 1 --trace --mermaid failure.mmd";
