//! What an IPC process is told by irmd when it starts.

use std::path::PathBuf;

use anyhow::Context;
use libflow::Secret;
use proto::Label;
use ring::rand::{SecureRandom, SystemRandom};

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
