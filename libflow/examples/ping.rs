//! Measures the round trip to a name that echoes, without a runtime.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use libflow::blocking::Irm;
use libflow::{AllocOptions, FlowError, Label, QosSpec};

/// Sends SDUs to NAME, which echoes them, and prints how long each took.
///
/// Example: ping hello -c 5 --qos raw
#[derive(Parser)]
struct Args {
    /// The name to reach
    name: String,
    /// How many
    #[arg(short, default_value_t = 4)]
    count: u32,
    /// Bytes of each
    #[arg(short, default_value_t = 56)]
    size: usize,
    /// The service to ask for
    #[arg(long, default_value = "raw")]
    qos: QosSpec,
    /// The layer to use
    #[arg(long)]
    layer: Option<Label>,
    /// The run directory of irmd
    #[arg(long, env = "IRM_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let irm = Irm::connect(args.run_dir.as_deref())?;
    let options = AllocOptions {
        qos: args.qos,
        layer: args.layer,
        ..AllocOptions::default()
    };
    let flow = irm.allocate(&args.name, options)?;
    flow.set_read_timeout(Some(Duration::from_secs(1)));
    let mut buf = vec![0; flow.mtu() as usize];
    for n in 0..args.count {
        let mut sdu = vec![0; args.size.max(4)];
        sdu[..4].copy_from_slice(&n.to_be_bytes());
        let start = Instant::now();
        flow.write(&sdu)?;
        match flow.read(&mut buf) {
            Ok(len) if buf[..len] == sdu => println!("{n}: {} bytes in {:?}", len, start.elapsed()),
            Ok(len) => println!("{n}: {len} bytes that were not the ones just sent"),
            Err(FlowError::TimedOut(_)) => println!("{n}: lost"),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
