//! The command line of Strata. It must not decide anything: it tells irmd what is wanted and shows what it answers.
//!
//! It keeps no state, and what it knows comes from irmd or from a flow.
//!
//! | module | holds |
//! |---|---|
//! | `keywords` | Ouroboros-style words, before clap |
//! | `args` | what can be typed |
//! | `client` | the way to irmd |
//! | `cmd` | one file a noun |
//! | `out` | tables and JSON on stdout |
//! | `failure` | one line on stderr and the exit code |

mod args;
mod client;
mod cmd;
mod duration;
mod failure;
mod keywords;
mod out;
mod progress;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use proto::{Code, Reason};

use args::Cli;

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    // What clap refuses must be told in JSON too, and then there is no parsed flag.
    let json = argv
        .iter()
        .take_while(|a| *a != "--")
        .any(|a| a == "--json");
    let cli = match parse(argv) {
        Ok(cli) => cli,
        Err(Refusal::Told(code)) => return code,
        Err(Refusal::Usage(reason)) => return failure::report(&reason, json),
    };
    let json = cli.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => failure::report(&reason, json),
    }
}

enum Refusal {
    /// Help or version: printed.
    Told(ExitCode),
    Usage(Reason),
}

fn parse(argv: Vec<OsString>) -> Result<Cli, Refusal> {
    let argv = keywords::translate(argv, &Cli::command()).map_err(Refusal::Usage)?;
    Cli::try_parse_from(argv).map_err(|error| match failure::usage(&error) {
        Some(reason) => Refusal::Usage(reason),
        None => {
            // A reader that left has seen enough of the help.
            let _ = error.print();
            Refusal::Told(ExitCode::SUCCESS)
        }
    })
}

fn run(cli: Cli) -> Result<(), Reason> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Reason::new(Code::Failed, format!("can't start: {e}")))?;
    let done = runtime.block_on(cmd::run(cli));
    // A thread may still wait for stdin.
    runtime.shutdown_background();
    done
}
