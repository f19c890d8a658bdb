//! Keeps a daemon alive as systemd would: started again when it dies by a signal or an error, not when it ends well.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

pub(super) fn run(pid_file: &Path, log: &Path, command: &[OsString]) -> anyhow::Result<()> {
    let Some((program, args)) = command.split_first() else {
        bail!("no program was named")
    };
    loop {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .context("can't open the log file")?;
        let err = out.try_clone().context("can't open the log file twice")?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("can't start {}", program.to_string_lossy()))?;
        fs::write(pid_file, format!("{} {}\n", std::process::id(), child.id()))
            .context("can't write the pid file")?;
        let status = child.wait().context("can't wait for the program")?;
        // 6 is "in use": another one serves already, and trying again would not help.
        if status.success() || status.code() == Some(6) {
            return Ok(());
        }
        std::thread::sleep(AGAIN);
    }
}

const AGAIN: Duration = Duration::from_millis(200);
