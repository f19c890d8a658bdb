//! The table and the plot of `docs/benchmarks.md` out of the figures of a run that measured tunnels beside each other.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use tests::report::Run;

#[derive(Parser)]
#[command(
    about = "Medians of a run of tests/bench.sh, or of the results of a harness in JSON, as a table in markdown and as a plot",
    after_help = "Example:\n  lab-report target/bench/vpn.json --svg docs/plots/vpn.svg"
)]
struct Args {
    /// JSON of a harness, or lines ROUND PEER FIGURE VALUE
    results: PathBuf,
    /// Where the plot goes
    #[arg(long)]
    svg: Option<PathBuf>,
    /// The peer that is shown first, and beside which the others stand
    #[arg(long, default_value = "strata")]
    own: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let file = &args.results;
    let text =
        fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let run = Run::read(&text, &args.own).with_context(|| format!("in {}", file.display()))?;
    if let Some(svg) = &args.svg {
        fs::write(svg, run.plot()).with_context(|| format!("can't write {}", svg.display()))?;
    }
    write!(std::io::stdout(), "{}", run.table()).context("can't print")
}
