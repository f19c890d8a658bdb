//! Allocates many flows to one name through `libflow`, at once or one after the other, and says how long each took.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use futures_util::future::join_all;
use libflow::{AllocOptions, Irm, Label, QosSpec};

#[derive(Parser)]
#[command(about = "Allocates many flows to a name and prints how long it took, as JSON")]
struct Args {
    name: String,
    /// The layer; by default any
    #[arg(long)]
    layer: Option<Label>,
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// One after the other, each closed before the next
    #[arg(long)]
    in_turn: bool,
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let irm = Irm::connect(None).await.context("can't reach irmd")?;
    let took = if args.in_turn {
        let mut took = Vec::new();
        for _ in 0..args.count {
            took.push(one(&irm, &args).await.map(|(took, _)| took));
        }
        took
    } else {
        // All are held until the last one stands.
        let all = join_all((0..args.count).map(|_| one(&irm, &args))).await;
        all.iter()
            .map(|r| match r {
                Ok((took, _)) => Ok(*took),
                Err(e) => Err(e.clone()),
            })
            .collect()
    };
    let mut good: Vec<f64> = took
        .iter()
        .flatten()
        .map(|t| t.as_secs_f64() * 1e3)
        .collect();
    good.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = (good.len() as f64 * part) as usize;
        good.get(place.min(good.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0.0)
    };
    let failed: Vec<&String> = took.iter().filter_map(|t| t.as_ref().err()).collect();
    let json = serde_json::json!({
        "allocated": good.len(),
        "failed": failed,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "slowest_ms": at(1.0),
    });
    writeln!(std::io::stdout(), "{json}").context("can't print")
}

async fn one(irm: &Irm, args: &Args) -> Result<(Duration, libflow::Flow), String> {
    let options = AllocOptions {
        qos: QosSpec::RAW,
        layer: args.layer.clone(),
        timeout: Duration::from_millis(args.timeout_ms),
        ..AllocOptions::default()
    };
    let start = Instant::now();
    match irm.allocate(&args.name, options).await {
        Ok(flow) => Ok((start.elapsed(), flow)),
        Err(error) => Err(error.to_string()),
    }
}
