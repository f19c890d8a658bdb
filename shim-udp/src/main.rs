//! The UDP shim as a program: `irmd` starts it. It must not hold logic of its own.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use proto::Label;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shim_udp::{Shim, UdpLower};

/// The IPC process of a layer over UDP. irmd starts it, and tells it the rest.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: irm ipcp bootstrap w1 --type shim-udp --layer net --ip 192.0.2.1"
)]
struct Args {
    /// Its name on this host
    #[arg(long)]
    name: Label,
    /// The run directory of irmd
    #[arg(long, env = "IRM_RUN_DIR", value_name = "DIR")]
    run_dir: PathBuf,
    /// A directory of its own, for what must survive
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ipcp::telemetry::init(args.name.as_str());
    raise_limit();
    let config =
        ipcp::Config::with_secret_on_stdin(args.name, "shim-udp", args.run_dir, args.state_dir)?;
    let shim = Shim::new(ipcp::seed()?);
    let sockets = UdpLower::new().context("can't make the set of sockets")?;
    ipcp::block_on(ipcp::run(shim, sockets, config))
}

/// Each flow has a descriptor, and so has each of up to 1,024 unconfirmed requests: the usual limit of 1,024 is too low.
fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(e) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::warn!(
            "can't raise the limit of open files: {e}; a flood of requests may leave no room for flows"
        );
    }
}
