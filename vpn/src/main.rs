//! The VPN as a program. It must not touch a packet: that is for the library.
//!
//! `irmd` starts it and gives it a secret on standard input; by hand it runs in the foreground.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use libflow::{RunDir, Secret};
use proto::{Code, Reason};
use vpn::control::Hello;

/// Carries IP between the members of a layer.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: irm vpn up --layer ovl   (irmd then starts this program)"
)]
struct Args {
    /// Where irmd lives
    #[arg(long, env = "IRM_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The layer whose members are to be reached
    #[arg(long, value_name = "LAYER")]
    layer: String,
    /// The network device to make
    #[arg(long, value_name = "NAME")]
    dev: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("IRM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::from(reason.code.exit_code())
        }
    }
}

fn run(args: Args) -> Result<(), Reason> {
    let secret = secret()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Reason::new(Code::Failed, format!("can't start: {e}")))?;
    let hello = Hello {
        secret,
        layer: args.layer,
        dev: args.dev,
    };
    runtime.block_on(vpn::run::run(RunDir::find(args.run_dir.as_deref()), hello))
}

/// The secret of a process that irmd started; none where standard input is a terminal or empty.
fn secret() -> Result<Option<Secret>, Reason> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = stdin.lock().take(33).read_to_end(&mut bytes);
    read.map_err(|e| {
        Reason::new(
            Code::Usage,
            format!("can't read the secret from standard input: {e}"),
        )
    })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let secret: [u8; 32] = bytes.try_into().map_err(|_| {
        Reason::new(
            Code::Usage,
            "standard input holds no secret of 32 bytes; by hand, run with </dev/null",
        )
    })?;
    Ok(Some(secret.into()))
}
