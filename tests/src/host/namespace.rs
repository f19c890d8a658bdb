//! Making and entering namespaces.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a network namespace (in a new user namespace if asked), says `ready`, and holds it until stdin ends.
pub(super) fn hold(user: bool, forever: bool) -> anyhow::Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let flags = if user {
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET
    } else {
        CloneFlags::CLONE_NEWNET
    };
    unshare(flags).with_context(|| {
        if user {
            "can't make a user and network namespace: run as root, or allow unprivileged user namespaces (sysctl user.max_user_namespaces)"
        } else {
            "can't make a network namespace: run as root"
        }
    })?;
    if user {
        fs::write("/proc/self/setgroups", "deny").context("can't write /proc/self/setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
            .context("can't write /proc/self/uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
            .context("can't write /proc/self/gid_map")?;
    }
    // Addresses of IPv6 are usable at once: there is nobody else on these links.
    for which in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0")
            .context("can't set accept_dad")?;
    }
    super::net::apply(&super::net::Change::Up {
        dev: "lo".to_owned(),
    })?;
    let mut out = std::io::stdout();
    out.write_all(b"ready\n")
        .and_then(|()| out.flush())
        .context("can't say ready")?;
    if forever {
        loop {
            nix::unistd::pause();
        }
    }
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("can't wait for the end of stdin")?;
    Ok(())
}

/// Enters the network namespace of a process, and its user namespace if asked.
pub(super) fn enter(pid: u32, user: bool) -> anyhow::Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).with_context(|| format!("can't open {path}: is the holder still there?"))
    };
    // The user namespace last to be opened must be the first to be entered: it gives the right to enter the other.
    let (net, user) = (open("net")?, if user { Some(open("user")?) } else { None });
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER).context("can't enter the user namespace")?;
    }
    setns(net, CloneFlags::CLONE_NEWNET).context("can't enter the network namespace")
}

/// Enters, then becomes the program.
pub(super) fn enter_and_run(
    pid: u32,
    user: bool,
    command: &[OsString],
) -> anyhow::Result<ExitCode> {
    enter(pid, user)?;
    let Some((program, args)) = command.split_first() else {
        bail!("no program was named")
    };
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("can't run {}", program.to_string_lossy()))
}
