//! The command line, and where it puts the run and the state directory.

use std::path::{Path, PathBuf};

use clap::Parser;

/// The daemon of a host: owns names, programs, IPC processes and the allocation of flows.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "irmd",
    version,
    after_help = "Example: irmd --run-dir /run/irm --config /etc/irm.toml"
)]
pub(crate) struct Args {
    /// Where the sockets are; else IRM_RUN_DIR, /run/irm for root, $XDG_RUNTIME_DIR/irm for a user
    #[arg(long, env = "IRM_RUN_DIR", value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// What must survive a reboot; else DIR/state of --run-dir DIR, /var/lib/irm for root, $XDG_STATE_HOME/irm for a user
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// A TOML file that says what to set up; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only check the config file: exit 0 if it is good, else 2 with line and column
    #[arg(long, requires = "config")]
    pub(crate) check_config: bool,
}

/// The two directories of a daemon, both absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dirs {
    /// Sockets and what else ends with the daemon.
    pub(crate) run: PathBuf,
    /// What survives a reboot.
    pub(crate) state: PathBuf,
}

impl Dirs {
    /// Chooses the directories; `home` looks up environment variables, `root` says whether the system's own are used.
    pub(crate) fn choose(
        args: &Args,
        root: bool,
        env: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, String> {
        let state = match (&args.state_dir, &args.run_dir, root) {
            (Some(dir), _, _) => dir.clone(),
            (None, Some(dir), _) => dir.join("state"),
            (None, None, true) => PathBuf::from("/var/lib/irm"),
            (None, None, false) => env("XDG_STATE_HOME")
                .or_else(|| env("HOME").map(|home| home.join(".local/state")))
                .ok_or("neither XDG_STATE_HOME nor HOME is set; give --state-dir DIR")?
                .join("irm"),
        };
        let run = match (&args.run_dir, root) {
            (Some(dir), _) => dir.clone(),
            (None, true) => PathBuf::from("/run/irm"),
            (None, false) => env("XDG_RUNTIME_DIR")
                .ok_or("XDG_RUNTIME_DIR is not set; give --run-dir DIR")?
                .join("irm"),
        };
        Ok(Self {
            run: absolute(&run)?,
            state: absolute(&state)?,
        })
    }

    /// Everybody's socket.
    pub(crate) fn irm_sock(&self) -> PathBuf {
        self.run.join("irm.sock")
    }

    /// Where programs listen for direct flows: everybody may make a socket there, nobody remove another's.
    pub(crate) fn flows(&self) -> PathBuf {
        self.run.join("flows")
    }

    /// Where IPC processes listen for those who join their flows.
    pub(crate) fn ipcps(&self) -> PathBuf {
        self.run.join("ipcps")
    }

    /// The administrators' socket.
    pub(crate) fn admin_sock(&self) -> PathBuf {
        self.run.join("admin.sock")
    }
}

fn absolute(dir: &Path) -> Result<PathBuf, String> {
    std::path::absolute(dir)
        .map_err(|e| format!("cannot use {}: {e}; give an absolute path", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(line: &[&str], root: bool) -> Result<Dirs, String> {
        let args = Args {
            run_dir: None,
            ..Args::parse_from(["irmd"])
        };
        let given = Args::parse_from([&["irmd"], line].concat());
        let args = if line.is_empty() { args } else { given };
        Dirs::choose(&args, root, |key| {
            (key == "HOME").then(|| PathBuf::from("/home/u"))
        })
    }

    #[test]
    fn the_state_lies_below_a_run_directory_that_was_given() {
        let d = dirs(&["--run-dir", "/tmp/r"], true).unwrap();
        assert_eq!(
            (d.run.to_str(), d.state.to_str()),
            (Some("/tmp/r"), Some("/tmp/r/state"))
        );
        let d = dirs(&["--run-dir", "/tmp/r", "--state-dir", "/s"], false).unwrap();
        assert_eq!(d.state.to_str(), Some("/s"));
    }

    #[test]
    fn a_user_without_a_runtime_directory_is_told_what_to_give() {
        assert!(dirs(&[], false).unwrap_err().contains("--run-dir"));
    }
}
