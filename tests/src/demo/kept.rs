//! A demo that was left up: where it is, how to look around in it, how to take it down.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, geteuid};
use serde_json::{Value, json};

use super::show::Show;
use crate::line::Line;

/// An empty directory, the user's alone, for a demo that is to be kept.
pub(super) fn fresh() -> anyhow::Result<PathBuf> {
    let dir = dir();
    clear()?;
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("can't make {}", dir.display()))?;
    Ok(dir)
}

pub(super) fn exists() -> bool {
    file().exists()
}

pub(super) fn save(net: &Line) -> anyhow::Result<()> {
    let hosts: Vec<Value> = net
        .hosts
        .iter()
        .map(|h| json!({ "name": h.name, "holder": h.holder(), "dir": h.dir() }))
        .collect();
    let links: Vec<Value> = net.links.iter().map(|l| json!({ "dev": l.dev })).collect();
    let kept = json!({ "hosts": hosts, "links": links, "bins": net.lab.bins(), "user": net.lab.user_holder() });
    fs::write(file(), kept.to_string()).context("can't write down what was kept")
}

pub(super) fn hints(net: &Line) -> String {
    let run = |host: usize| net.hosts[host].run_dir().display().to_string();
    let irm = net.lab.bins().join("irm").display().to_string();
    format!(
        "\nIt is up. Look around:\n  {irm} --run-dir {a} status\n  {irm} --run-dir {b} layer members overlay\n  {irm} --run-dir {a} vpn status\n  \
         cargo demo -- --on a -- lab-tool ping 10.9.0.3      a program on host A (or b, c)\n  \
         cargo demo -- --cut ab                              cut the link A–B; --mend ab mends it\n  \
         cargo demo -- --down                                take it down\n",
        a = run(0),
        b = run(1),
    )
}

/// Runs a program on one of the hosts; this process becomes it.
pub(super) fn run_on(host: &str, command: &[OsString]) -> anyhow::Result<()> {
    let kept = load()?;
    let entry = host_of(&kept, host)?;
    let bins = PathBuf::from(
        kept["bins"]
            .as_str()
            .context("the file of the kept demo is damaged")?,
    );
    let path = std::env::join_paths([bins.clone()].into_iter().chain(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    )))?;
    let mut enter = Command::new(bins.join("lab-host"));
    enter.arg("enter").arg(entry["holder"].to_string());
    if !kept["user"].is_null() {
        enter.arg("--user");
    }
    enter.arg("--").args(command).env("PATH", path);
    enter.env(
        "IRM_RUN_DIR",
        PathBuf::from(entry["dir"].as_str().unwrap_or_default()).join("run"),
    );
    Err(enter.exec()).context("can't enter the host")
}

pub(super) fn set_link(link: &str, state: &str) -> anyhow::Result<()> {
    let kept = load()?;
    let (at, host) = match link {
        "ab" => (0, "a"),
        "bc" => (1, "c"),
        _ => bail!("there is no link {link:?}; there are ab and bc"),
    };
    let end = usize::from(host == "c");
    let dev = kept["links"][at]["dev"][end]
        .as_str()
        .context("the file of the kept demo is damaged")?
        .to_owned();
    run_on(host, &["lab-host", "net", state, &dev].map(OsString::from))
}

pub(super) fn down(show: &Show) -> anyhow::Result<()> {
    if !exists() {
        clear()?;
        show.text("No demo is up.");
        return Ok(());
    }
    let kept = load()?;
    let hosts = kept["hosts"].as_array().cloned().unwrap_or_default();
    let done = show.step("Taking the demo down", || {
        hosts.iter().try_for_each(end_irmd)
    });
    for holder in hosts.iter().map(|h| &h["holder"]).chain([&kept["user"]]) {
        if let Some(pid) = holder.as_i64()
            && is_ours(pid, "lab-host")
        {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
    clear()?;
    done
}

/// Removes the files of a demo, also of one that was killed before it was up.
fn clear() -> anyhow::Result<()> {
    let dir = dir();
    if dir.symlink_metadata().is_err() {
        return Ok(());
    }
    trusted(&dir, geteuid())?;
    fs::remove_dir_all(&dir).context("can't remove the files of the demo")
}

fn end_irmd(host: &Value) -> anyhow::Result<()> {
    let dir = PathBuf::from(host["dir"].as_str().unwrap_or_default());
    let text = fs::read_to_string(dir.join("irmd.pid")).unwrap_or_default();
    let ids: Vec<i64> = text
        .split_whitespace()
        .filter_map(|t| t.parse().ok())
        .collect();
    let [keeper, irmd] = ids[..] else {
        return Ok(());
    };
    if is_ours(irmd, "irmd") {
        let _ = kill(Pid::from_raw(irmd as i32), Signal::SIGTERM);
    }
    let end = Instant::now() + Duration::from_secs(16);
    while is_ours(keeper, "lab-host") {
        ensure!(
            Instant::now() < end,
            "irmd on {} did not end within 16 s",
            host["name"]
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether the process of this id is still the program that was started under it, and runs.
fn is_ours(pid: i64, program: &str) -> bool {
    // "PID (NAME) STATE …", proc_pid_stat(5); one that is only to be reaped has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.contains(&format!("({program}) ")) && !stat.contains(") Z "))
}

fn load() -> anyhow::Result<Value> {
    if exists() {
        trusted(&dir(), geteuid())?;
    }
    let text = fs::read_to_string(file())
        .context("no demo is up; start one with `cargo demo -- --keep`")?;
    serde_json::from_str(&text).context("the file of the kept demo is damaged")
}

fn host_of<'a>(kept: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let hosts = kept["hosts"]
        .as_array()
        .context("the file of the kept demo is damaged")?;
    hosts
        .iter()
        .find(|h| h["name"] == name)
        .with_context(|| format!("there is no host {name:?}; there are a, b and c"))
}

/// Others may write to /tmp too: what stands in a directory there counts only if nobody but its user can have put it there.
fn trusted(dir: &Path, user: Uid) -> anyhow::Result<()> {
    let data = dir
        .symlink_metadata()
        .with_context(|| format!("can't look at {}", dir.display()))?;
    ensure!(
        data.is_dir() && data.uid() == user.as_raw() && data.mode() & 0o022 == 0,
        "{} is no directory that only user {user} can write to; look who made it, and remove it",
        dir.display()
    );
    Ok(())
}

fn file() -> PathBuf {
    dir().join("demo.json")
}

/// Where a kept demo lives; one a user.
fn dir() -> PathBuf {
    format!("/tmp/strata-demo-{}", geteuid()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_directory_that_nobody_else_can_write_to_is_trusted() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("demo");
        DirBuilder::new().mode(0o700).create(&dir).unwrap();
        let set = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        assert!(trusted(&dir, geteuid()).is_ok());
        for mode in [0o720, 0o702, 0o1777] {
            set(mode);
            assert!(trusted(&dir, geteuid()).is_err(), "{mode:o}");
        }
        set(0o755);
        assert!(trusted(&dir, geteuid()).is_ok());
        let other = Uid::from_raw(geteuid().as_raw() + 1);
        assert!(trusted(&dir, other).is_err());
        let link = tmp.path().join("link");
        symlink(&dir, &link).unwrap();
        assert!(trusted(&link, geteuid()).is_err());
        let file = tmp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(trusted(&file, geteuid()).is_err());
        assert!(trusted(&tmp.path().join("nothing"), geteuid()).is_err());
    }
}
