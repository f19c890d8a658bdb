//! The IPC resource manager of a host. It must not touch a flow's data, nor know how a layer works inside.
//!
//! It owns names, programs, IPC processes and the allocation of flows, and depends on `proto` only.
//!
//! | module | holds |
//! |---|---|
//! | [`registry`], [`flows`], [`policy`], [`spec`] | pure: names, flows, who may what, what an IPC process should be |
//! | [`state`], [`running`], [`lock`] | what is on disk |
//! | [`programs`], [`attach`], [`vpns`], [`admin`] | the services, one a kind of caller; [`stream`] is common to the first three |
//! | [`broker`] | allocation |
//! | [`supervise`], [`process`], [`autostart`] | children |

mod admin;
mod args;
mod attach;
mod autostart;
mod broker;
mod config;
mod counters;
mod daemon;
mod events;
mod flows;
mod invitation;
mod ipcps;
mod life;
mod limits;
mod lock;
mod metrics;
mod policy;
mod process;
mod programs;
mod reach;
mod registry;
mod running;
mod server;
mod session;
mod spec;
mod state;
mod status;
mod stream;
mod supervise;
mod vpns;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Dirs};
use crate::lock::{DirLock, LockError};

fn main() -> ExitCode {
    let args = Args::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("IRM_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, text)) => {
            tracing::error!("{text}");
            ExitCode::from(code)
        }
    }
}

/// an exit code of docs/operations.md, and the line that explains it.
struct Failure(u8, String);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(1, format!("{error:#}"))
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let usage = |text: String| Failure(2, text);
    let config = args
        .config
        .as_deref()
        .map(config::Config::read)
        .transpose()
        .map_err(|e| usage(e.to_string()))?;
    if args.check_config {
        return Ok(());
    }
    let exe = std::env::current_exe()
        .map_err(|e| Failure(1, format!("cannot find this program's own file: {e}")))?;
    let root = rustix::process::geteuid().is_root();
    let dirs =
        Dirs::choose(&args, root, |key| std::env::var_os(key).map(Into::into)).map_err(usage)?;
    let locked = |dir, mode| {
        DirLock::take(dir, mode).map_err(|e| match e {
            LockError::InUse { .. } => Failure(6, e.to_string()),
            LockError::Io { .. } => Failure(1, e.to_string()),
        })
    };
    let run_lock = locked(&dirs.run, 0o755)?;
    let state_lock = locked(&dirs.state, 0o700)?;
    raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let ended = runtime.block_on(life::live(dirs.clone(), exe.clone(), args.config, config))?;
    // Tasks that still hold sockets end here, before the directories are given up.
    drop(runtime);
    match ended {
        daemon::Ending::Restart => Err(Failure(1, life::again(&exe))),
        daemon::Ending::Shutdown | daemon::Ending::No => {
            run_lock.remove();
            drop(state_lock);
            // Others may keep files there.
            let _ = std::fs::remove_dir(&dirs.run);
            Ok(())
        }
    }
}

/// Each session has a descriptor: the usual limit of 1,024 is too low.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files stays as it is; programs beyond it will be refused");
    }
}
