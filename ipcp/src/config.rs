//! What an IPC process is told by irmd when it starts.

use std::path::PathBuf;

use anyhow::Context;
use libflow::Secret;
use proto::Label;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Who this process is and where its things are.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name on this host; for a unicast member also its member name.
    pub name: Label,
    /// Its type, as `irm ipcp create --type` has it: `unicast`, `shim-udp`.
    pub kind: &'static str,
    /// The run directory of irmd.
    pub run_dir: PathBuf,
    /// A directory of its own, for what must survive.
    pub state_dir: PathBuf,
    /// By which irmd knows it.
    pub secret: Secret,
}

/// What irmd says on the command line of each IPC process.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its name on this host; that of a member too
    #[arg(long)]
    pub name: Label,
    /// The run directory of irmd
    #[arg(long, env = "IRM_RUN_DIR", value_name = "DIR")]
    pub run_dir: PathBuf,
    /// A directory of its own, for what must survive
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
}

impl Arguments {
    /// What every IPC process begins with: it logs, may have as many descriptors as the system lets it, and learns its secret.
    pub fn begin(self, kind: &'static str) -> anyhow::Result<Config> {
        crate::telemetry::init(self.name.as_str());
        raise_limit();
        Config::with_secret_on_stdin(self.name, kind, self.run_dir, self.state_dir)
    }
}

/// Each flow has a descriptor, and so has each of a shim's unconfirmed requests: the usual limit of 1,024 is too low.
fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(
            "can't raise the limit of open files: {e}; flows beyond it will be refused, and a flood of requests may leave no room for any"
        );
    }
}

impl Config {
    /// The same, with the secret read from standard input, where irmd writes it.
    pub fn with_secret_on_stdin(
        name: Label,
        kind: &'static str,
        run_dir: PathBuf,
        state_dir: PathBuf,
    ) -> anyhow::Result<Self> {
        let secret = Secret::read(&mut std::io::stdin().lock()).context(
            "no instance secret on standard input; irmd starts this program, see irm ipcp create",
        )?;
        Ok(Self {
            name,
            kind,
            run_dir,
            state_dir,
            secret,
        })
    }

    /// Where its data socket listens.
    pub fn data_socket(&self) -> PathBuf {
        self.run_dir
            .join("ipcps")
            .join(format!("{}.sock", self.name))
    }
}

/// Random bytes to seed a machine with.
pub fn seed() -> anyhow::Result<[u8; 32]> {
    random()
}

/// Runs an IPC process on this thread until it ends.
pub fn block_on(process: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let result = runtime.block_on(process);
    // A look-up in the background may hang in the system's resolver.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    result
}

pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .ok()
        .context("the system gives no random bytes")?;
    Ok(bytes)
}
