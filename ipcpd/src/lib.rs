//! The unicast IPC process as a program. It must not hold logic of its own: nothing but arguments.

use std::path::PathBuf;

use clap::Parser;
use ipcp::{Config, FlowLower, Store};
use layer::Unicast;
use proto::Label;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The IPC process of a unicast layer. irmd starts it, and tells it the rest.
#[derive(Debug, Parser)]
#[command(
    name = "ipcpd",
    version,
    after_help = "Example: irm ipcp bootstrap ovl-a --type unicast --layer ovl --over net"
)]
struct Args {
    /// Its name on this host, which is its member name too
    #[arg(long)]
    name: Label,
    /// The run directory of irmd
    #[arg(long, env = "IRM_RUN_DIR", value_name = "DIR")]
    run_dir: PathBuf,
    /// A directory of its own, for its identity and what else must survive
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
}

/// Runs the IPC process that the command line says, to its end. `prepare` sees the machine before its first input.
pub fn run(prepare: impl FnOnce(&Config, &mut Unicast)) -> anyhow::Result<()> {
    let args = Args::parse();
    ipcp::telemetry::init(args.name.as_str());
    raise_limit();
    let name = args.name.clone();
    let config = Config::with_secret_on_stdin(args.name, "unicast", args.run_dir, args.state_dir)?;
    let files = Store::open(&config.state_dir)?.files()?;
    let mut machine = Unicast::new(name, ipcp::seed()?, files);
    prepare(&config, &mut machine);
    let flows = FlowLower::new(&config);
    ipcp::block_on(ipcp::run(machine, flows, config))
}

/// Each flow has a descriptor: the usual limit of 1,024 is too low.
fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("can't raise the limit of open files: {e}; flows beyond it will be refused");
    }
}
