//! Writes batches to a name as fast as they go, or counts what comes in.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use libflow::{AllocOptions, Batch, Flow, FlowError, Framing, Irm, Label, QosSpec};

/// Sends to NAME for some seconds, or serves NAME and prints what came in.
///
/// Example: bulk sink --serve --layer overlay
#[derive(Parser)]
struct Args {
    /// The name to reach or to serve
    name: String,
    /// Serve the name
    #[arg(long)]
    serve: bool,
    /// A layer to register the name in, or to reach it through
    #[arg(long)]
    layer: Option<Label>,
    /// How long to send, in seconds
    #[arg(short, default_value_t = 5)]
    time: u64,
    /// Bytes of an SDU
    #[arg(short, default_value_t = 1400)]
    size: usize,
    /// The run directory of irmd
    #[arg(long, env = "IRM_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let irm = Irm::connect(args.run_dir.as_deref()).await?;
    if !args.serve {
        let options = AllocOptions {
            qos: QosSpec::RAW,
            layer: args.layer,
            ..AllocOptions::default()
        };
        let flow = irm.allocate(&args.name, options).await?;
        return Ok(send(&flow, args.size, Duration::from_secs(args.time)).await?);
    }
    let layers: Vec<_> = args.layer.into_iter().collect();
    let mut listener = irm.listen(&args.name, &layers).await?;
    loop {
        let flow = listener.accept().await?.accept().await?;
        println!("flow {}: {}", flow.id(), count(&flow).await);
    }
}

async fn send(flow: &Flow, size: usize, time: Duration) -> Result<(), FlowError> {
    let mut batch = Batch::new(Framing::Record);
    while let Some(room) = batch.push(size) {
        room.fill(0);
    }
    let start = Instant::now();
    while start.elapsed() < time {
        flow.write_batch(&batch).await?;
    }
    println!("sent {} bytes", flow.traffic().1);
    Ok(())
}

async fn count(flow: &Flow) -> FlowError {
    let mut batch = Batch::new(Framing::Record);
    let start = Instant::now();
    loop {
        if let Err(end) = flow.read_batch(&mut batch).await {
            let (bytes, secs) = (flow.traffic().0 as f64, start.elapsed().as_secs_f64());
            println!("{bytes} bytes, {:.2} Gbit/s", bytes * 8e-9 / secs);
            return end;
        }
    }
}
