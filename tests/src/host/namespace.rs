//! Making and entering namespaces.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Gid, Pid, Uid, fexecve, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::lab::processes_of;

/// Makes a network namespace (in a new user namespace if asked), says `ready`, and holds it until stdin ends. Then all
/// processes in it are ended, whoever they belong to: also when the test that had them was killed. Once it has read
/// [`STAY`], it holds it until it is killed.
pub(super) fn hold(user: bool) -> anyhow::Result<()> {
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
    // Ctrl-C, timeout(1) or a closed terminal end the test, whose end ends this: first what runs here.
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
        .thread_block()
        .context("can't block signals")?;
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("can't wait for the end of stdin")?;
    if rest == STAY.as_bytes() {
        loop {
            nix::unistd::pause();
        }
    }
    clear()
}

/// Ends all processes in the namespace of this one but itself. Those that were killed may have been starting others.
fn clear() -> anyhow::Result<()> {
    let own = std::process::id();
    let end = Instant::now() + CLEARED;
    loop {
        let left = processes_of(own);
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "the processes {left:?} can't be killed"
        );
        for pid in left {
            // It may have ended in this instant.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
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

/// What a program that enters has or lacks besides the network.
#[derive(clap::Args)]
pub(super) struct How {
    /// Enter its user namespace too
    #[arg(long)]
    user: bool,
    /// Run as this user and the group of the same number, with no right beyond
    #[arg(long)]
    uid: Option<u32>,
    /// Lay a disk of so many bytes over a directory, for this program alone
    #[arg(long, value_name = "BYTES:DIR")]
    disk: Vec<String>,
    /// Have no more than so many bytes of memory that is its own, each process for itself
    #[arg(long)]
    memory: Option<u64>,
    /// Live in the cgroup that is here
    #[arg(long)]
    group: Option<PathBuf>,
    /// Have no more than so many descriptors, each process for itself
    #[arg(long)]
    descriptors: Option<u64>,
}

/// Enters, then becomes the program.
pub(super) fn enter_and_run(pid: u32, how: &How, command: &[OsString]) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &how.group {
        // 0 is whoever writes it.
        fs::write(dir.join("cgroup.procs"), "0").context("can't enter the cgroup")?;
    }
    enter(pid, how.user)?;
    if !how.disk.is_empty() {
        disks(&how.disk)?;
    }
    for (what, most) in [
        (Resource::Data, how.memory),
        (Resource::Nofile, how.descriptors),
    ] {
        if let Some(most) = most {
            let limit = Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            setrlimit(what, limit).with_context(|| format!("can't limit {what:?}"))?;
        }
    }
    let Some((program, args)) = command.split_first() else {
        bail!("no program was named")
    };
    let error = match how.uid {
        None => Command::new(program).args(args).exec(),
        Some(uid) => run_as(uid, program, command)?,
    };
    Err(error).with_context(|| format!("can't run {}", program.to_string_lossy()))
}

/// Opens the program before it becomes somebody who may not be allowed into its directory.
fn run_as(uid: u32, program: &OsString, command: &[OsString]) -> anyhow::Result<std::io::Error> {
    let file =
        File::open(program).with_context(|| format!("can't open {}", program.to_string_lossy()))?;
    let text = |text: OsString| CString::new(text.into_vec()).context("an argument holds a zero");
    let args: Vec<_> = command
        .iter()
        .cloned()
        .map(text)
        .collect::<Result<_, _>>()?;
    let env = std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        text(key)
    });
    let env: Vec<_> = env.collect::<Result<_, _>>()?;
    let group = Gid::from_raw(uid);
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| {
            let user = Uid::from_raw(uid);
            setresuid(user, user, user)
        })
        .with_context(|| format!("can't become user {uid}: run as root"))?;
    Ok(match fexecve(&file, &args, &env) {
        Err(error) => error.into(),
    })
}

fn disks(disks: &[String]) -> anyhow::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("can't make a mount namespace")?;
    // Else it would be everybody's disk.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("can't keep mounts to myself")?;
    for disk in disks {
        let (bytes, dir) = disk.split_once(':').context("a disk is BYTES:DIR")?;
        let options = format!("size={bytes},mode=0777");
        mount(
            Some("tmpfs"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&*options),
        )
        .with_context(|| format!("can't lay a disk over {dir}"))?;
    }
    Ok(())
}

/// How long killed processes may take to be gone.
const CLEARED: Duration = Duration::from_secs(10);
/// What a holder of namespaces reads that is to outlive who started it.
pub(crate) const STAY: &str = "stay";
