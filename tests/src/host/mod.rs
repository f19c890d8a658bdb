//! What `lab-host` does: hold a namespace, enter one, set up its network, carry an impaired link, keep a daemon alive.

mod fate;
mod keep;
mod namespace;
mod net;
mod relay;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use fate::Impairment;
pub(crate) use namespace::STAY;

#[derive(Parser)]
#[command(
    name = "lab-host",
    about = "Makes and enters network namespaces for the Lab and the demo"
)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a network namespace and hold it until stdin ends; after the word `stay` on it, until killed
    Hold {
        /// Make a user namespace first, in which the caller is root
        #[arg(long)]
        user: bool,
    },
    /// Run a program in the namespaces of a holder
    Enter {
        /// The holder's process id
        pid: u32,
        #[command(flatten)]
        how: namespace::How,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Change the network of the namespace that it runs in
    Net {
        #[command(subcommand)]
        what: net::Change,
    },
    /// Start a program again whenever it dies by a signal or an error
    Keep {
        /// Where the process ids of the keeper and the program are written
        #[arg(long)]
        pid_file: std::path::PathBuf,
        /// Where its output goes
        #[arg(long)]
        log: std::path::PathBuf,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Join two hosts by a link that loses, delays, doubles, reorders and corrupts
    Relay {
        /// Holder of the first host
        a: u32,
        /// Its device
        a_dev: String,
        /// Holder of the second host
        b: u32,
        /// Its device
        b_dev: String,
        /// Enter the user namespace first
        #[arg(long)]
        user: bool,
        /// Of all chance
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// Runs the program; its exit code is that of the command it runs, if it runs one.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match Args::parse_from(args).verb {
        Verb::Hold { user } => namespace::hold(user)?,
        Verb::Enter { pid, how, command } => return namespace::enter_and_run(pid, &how, &command),
        Verb::Net { what } => net::apply(&what)?,
        Verb::Keep {
            pid_file,
            log,
            command,
        } => keep::run(&pid_file, &log, &command)?,
        Verb::Relay {
            a,
            a_dev,
            b,
            b_dev,
            user,
            seed,
        } => relay::run((a, &a_dev), (b, &b_dev), user, seed)?,
    }
    Ok(ExitCode::SUCCESS)
}
