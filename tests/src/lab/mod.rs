//! Hosts, links between them, and processes on them. All of it goes with the [`Lab`], also when a test panics.

mod bins;
mod cgroup;
mod clock;
mod layer;
mod process;

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

pub use bins::{binaries, crowd, example, hostile};
pub use cgroup::Group;
pub use clock::Clock;
pub use process::{Output, Process, processes_of, programs_of};

use crate::Impairment;
use crate::host::STAY;

/// A network of hosts of its own.
pub struct Lab {
    dir: PathBuf,
    own_group: bool,
    left: bool,
    bins: PathBuf,
    /// The user namespace that owns the hosts, when the caller isn't root.
    user: Option<Holder>,
    links: Cell<u8>,
}

/// One host: a network namespace and a run directory.
pub struct Host {
    /// Its name.
    pub name: String,
    holder: Holder,
    dir: PathBuf,
    bins: PathBuf,
    user: bool,
}

/// What a program on a host has or lacks besides its network.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// Runs as this user and the group of the same number, with no right beyond. Takes a Lab of root.
    pub uid: Option<u32>,
    /// Sees disks of so many bytes over directories.
    pub disks: Vec<(u32, PathBuf)>,
    /// Has no more than so many bytes of memory of its own; each process that it starts has as many.
    pub memory: Option<u64>,
    /// Lives in a [`Group`] that is here, with all that it starts.
    pub group: Option<PathBuf>,
    /// Has no more than so many descriptors; each process that it starts has as many.
    pub descriptors: Option<u64>,
    /// Has a clock of its own.
    pub clock: Option<Clock>,
    /// Finds programs here before it looks where everybody does.
    pub path: Option<PathBuf>,
}

impl How {
    /// As a user that is neither who runs the test nor the one that stands for all strangers. Takes root: the user namespace of
    /// somebody else has one user.
    pub fn somebody_else() -> anyhow::Result<Self> {
        anyhow::ensure!(
            nix::unistd::geteuid().is_root(),
            "this test starts a program as a second user, which takes root: run it as root"
        );
        Ok(Self {
            uid: Some(SOMEBODY),
            ..Self::default()
        })
    }
}

/// A link between two hosts.
pub struct Link {
    /// The addresses of the first and the second host on it, IPv4.
    pub v4: [Ipv4Addr; 2],
    /// The same, IPv6.
    pub v6: [Ipv6Addr; 2],
    /// The devices.
    pub dev: [String; 2],
    relay: Option<Relay>,
}

impl Lab {
    /// A lab whose files go with it. Builds the programs first, if need be.
    pub fn new() -> anyhow::Result<Self> {
        // Short, because a socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("strata-")
            .tempdir_in("/tmp")
            .context("can't make a directory in /tmp")?;
        Self::in_dir(dir.keep(), false)
    }

    /// A lab in a directory that goes with it; with `own_group`, Ctrl-C does not reach its hosts, which may be left up then.
    pub fn in_dir(dir: PathBuf, own_group: bool) -> anyhow::Result<Self> {
        let bins = binaries()?;
        let user = match nix::unistd::geteuid().is_root() {
            true => None,
            false => Some(Holder::start(&bins, None, true, own_group)?),
        };
        Ok(Self {
            dir,
            own_group,
            left: false,
            bins,
            user,
            links: Cell::new(0),
        })
    }

    /// The folder of the programs under test.
    pub fn bins(&self) -> &Path {
        &self.bins
    }

    /// A directory that goes with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its files and its user namespace outlive the caller from now on.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        self.left = true;
        self.user.as_mut().map_or(Ok(()), Holder::leave)
    }

    /// The process that holds the user namespace, when the caller isn't root.
    pub fn user_holder(&self) -> Option<u32> {
        self.user.as_ref().map(Holder::pid)
    }

    /// A folder in which irmd finds another program in the place of `ipcpd`: only there, and only this irmd.
    pub fn with_ipcpd(&self, ipcpd: &Path) -> anyhow::Result<PathBuf> {
        let folder = self.dir.join("bins");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("can't make {}", folder.display()))?;
        let own = |name| (self.bins.join(name), name);
        for (from, name) in [own("irmd"), own("shim-udp"), (ipcpd.to_owned(), "ipcpd")] {
            let to = folder.join(name);
            // A link, where it is the same disk: these are large.
            std::fs::hard_link(&from, &to)
                .or_else(|_| std::fs::copy(&from, &to).map(drop))
                .with_context(|| format!("can't put {} there", to.display()))?;
        }
        Ok(folder)
    }

    /// A new host.
    pub fn host(&self, name: &str) -> anyhow::Result<Host> {
        let holder = Holder::start(&self.bins, self.user.as_ref(), false, self.own_group)?;
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        Ok(Host {
            name: name.to_owned(),
            holder,
            dir,
            bins: self.bins.clone(),
            user: self.user.is_some(),
        })
    }

    /// Joins two hosts by a veth pair: 10.77.N.1 and .2, fd77:N::1 and ::2.
    pub fn veth(&self, a: &Host, b: &Host) -> anyhow::Result<Link> {
        let link = self.plan(a, b)?;
        let [here, there] = &link.dev;
        a.lab_host(["net", "veth", here, there, &b.holder.pid().to_string()])?;
        link.configure(a, b)?;
        Ok(link)
    }

    /// Joins two hosts by a link that can be impaired; all its chance comes from the seed.
    pub fn link(&self, a: &Host, b: &Host, seed: u64) -> anyhow::Result<Link> {
        let mut link = self.plan(a, b)?;
        link.relay = Some(Relay::start(a, b, &link.dev, seed)?);
        link.configure(a, b)?;
        Ok(link)
    }

    fn plan(&self, a: &Host, b: &Host) -> anyhow::Result<Link> {
        let n = self.links.get() + 1;
        self.links.set(n);
        ensure!(
            a.name.len() + b.name.len() <= 10,
            "host names are too long for a device name"
        );
        Ok(Link {
            v4: [1, 2].map(|end| Ipv4Addr::new(10, 77, n, end)),
            v6: [1, 2].map(|end| Ipv6Addr::new(0xfd77, u16::from(n), 0, 0, 0, 0, 0, end)),
            dev: [
                format!("{}-{}", a.name, b.name),
                format!("{}-{}", b.name, a.name),
            ],
            relay: None,
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if std::thread::panicking() {
            eprintln!("lab: logs of the failed test are in {}", self.dir.display());
            return;
        }
        // What can't be removed stays in /tmp; the test's result does not depend on it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Host {
    /// The run directory of its irmd.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Its own directory, with the logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process that holds its namespace.
    pub fn holder(&self) -> u32 {
        self.holder.pid()
    }

    /// It and all that runs on it outlive the caller from now on.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        self.holder.leave()
    }

    /// A command that runs a program of the workspace, or of the system, on this host.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        self.command_as(&How::default(), program, args)
    }

    /// As [`Host::command`], but not as everybody.
    pub fn command_as<S: AsRef<OsStr>>(
        &self,
        how: &How,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let own = self.bins.join(program);
        let mut command = Command::new(self.bins.join("lab-host"));
        command.args(["enter", &self.holder.pid().to_string()]);
        if self.user {
            command.arg("--user");
        }
        if let Some(uid) = how.uid {
            command.args(["--uid", &uid.to_string()]);
        }
        if let Some(most) = how.memory {
            command.args(["--memory", &most.to_string()]);
        }
        if let Some(dir) = &how.group {
            command.arg("--group").arg(dir);
        }
        if let Some(most) = how.descriptors {
            command.args(["--descriptors", &most.to_string()]);
        }
        if let Some(clock) = &how.clock {
            command.envs(clock.env());
        }
        if let Some(first) = &how.path {
            let all = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(first.clone()).chain(std::env::split_paths(&all));
            // No folder of a Lab has a colon in its name.
            command.env("PATH", std::env::join_paths(all).unwrap_or_default());
        }
        for (bytes, dir) in &how.disks {
            command.args(["--disk", &format!("{bytes}:{}", dir.display())]);
        }
        command
            .arg("--")
            .arg(if own.exists() {
                own.as_os_str()
            } else {
                OsStr::new(program)
            })
            .args(args);
        command
            .env("IRM_RUN_DIR", self.run_dir())
            .stdin(Stdio::null());
        command
    }

    /// Starts a program; its output goes to a log in [`Host::dir`]. It is killed when the handle is dropped.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Process> {
        self.spawn_as(&How::default(), program, args)
    }

    /// As [`Host::spawn`], but not as everybody.
    pub fn spawn_as<S: AsRef<OsStr>>(
        &self,
        how: &How,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Process> {
        Process::spawn(self.command_as(how, program, args), program, &self.dir)
    }

    /// Starts a program that runs until its stdin ends ([`Process::finish`]).
    pub fn spawn_piped<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Process> {
        let mut command = self.command(program, args);
        command.stdin(Stdio::piped());
        Process::spawn(command, program, &self.dir)
    }

    /// The process ids of the programs of that name on this host.
    pub fn programs(&self, name: &str) -> Vec<u32> {
        programs_of(self.holder(), name)
    }

    /// Runs a program to its end, at most a minute.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Output> {
        self.run_as(&How::default(), program, args)
    }

    /// As [`Host::run`], but not as everybody.
    pub fn run_as<S: AsRef<OsStr>>(
        &self,
        how: &How,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Output> {
        process::run(self.command_as(how, program, args), Duration::from_secs(60))
    }

    /// Runs `irm` and gives what it printed; an exit code other than 0 is an error.
    pub fn irm(&self, line: &str) -> anyhow::Result<String> {
        let out = self.run("irm", line.split_whitespace())?;
        ensure!(
            out.code == 0,
            "on {}: irm {line} ended with {}: {}{}",
            self.name,
            out.code,
            out.stderr.trim(),
            out.stdout
        );
        Ok(out.stdout)
    }

    /// Runs `irm --json` and parses what it printed.
    pub fn irm_json(&self, line: &str) -> anyhow::Result<Value> {
        let text = self.irm(&format!("--json {line}"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("irm --json {line} printed no JSON: {text:?}"))
    }

    /// Starts irmd and waits until it answers.
    pub fn irmd(&self) -> anyhow::Result<Process> {
        self.irmd_in(&self.bins)
    }

    /// The same, but not as everybody.
    pub fn irmd_as(&self, how: &How) -> anyhow::Result<Process> {
        let run = self.run_dir();
        let mut irmd = self.spawn_as(how, "irmd", [OsStr::new("--run-dir"), run.as_os_str()])?;
        self.wait_irmd(&mut irmd)?;
        Ok(irmd)
    }

    /// The same with the irmd of another folder ([`Lab::with_ipcpd`]), which starts the programs beside it.
    pub fn irmd_in(&self, folder: &Path) -> anyhow::Result<Process> {
        let (irmd, run) = (folder.join("irmd"), self.run_dir());
        let irmd = irmd.to_str().context("the path of irmd is not UTF-8")?;
        let mut irmd = self.spawn(irmd, [OsStr::new("--run-dir"), run.as_os_str()])?;
        self.wait_irmd(&mut irmd)?;
        Ok(irmd)
    }

    fn wait_irmd(&self, irmd: &mut Process) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let out = self.run("irm", ["status"])?;
            if out.code == 0 {
                return Ok(());
            }
            ensure!(irmd.alive(), "irmd on {} ended: {}", self.name, irmd.log());
            ensure!(
                Instant::now() < end,
                "irmd on {} doesn't answer: {}",
                self.name,
                out.stderr
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes this host's network (`lab-host net …`).
    pub fn net(&self, line: &str) -> anyhow::Result<()> {
        self.lab_host(["net"].into_iter().chain(line.split_whitespace()))
    }

    fn lab_host<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
        let out = self.run("lab-host", args)?;
        ensure!(out.code == 0, "on {}: {}", self.name, out.stderr.trim());
        Ok(())
    }
}

impl Link {
    /// From now on the link does this to frames. Only for links made by [`Lab::link`].
    pub fn impair(&mut self, how: Impairment) -> anyhow::Result<()> {
        self.relay
            .as_mut()
            .context("a veth can't be impaired; make the link with Lab::link")?
            .say(&how)
    }

    /// The CIDR of one end.
    pub fn cidr(&self, end: usize) -> String {
        format!("{}/24", self.v4[end])
    }

    /// The address of one end.
    pub fn ip(&self, end: usize) -> IpAddr {
        IpAddr::V4(self.v4[end])
    }

    fn configure(&self, a: &Host, b: &Host) -> anyhow::Result<()> {
        for (end, host) in [a, b].into_iter().enumerate() {
            let dev = &self.dev[end];
            host.net(&format!("addr {dev} {}/24", self.v4[end]))?;
            host.net(&format!("addr {dev} {}/64", self.v6[end]))?;
            host.net(&format!("up {dev}"))?;
        }
        Ok(())
    }
}

/// Repeats something until it works or the time is over; the last error counts.
pub fn until<T>(most: Duration, mut what: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let end = Instant::now() + most;
    loop {
        match what() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

/// Waits until something is so; an error that names it after the time.
pub fn eventually(most: Duration, what: &str, is: impl Fn() -> bool) -> anyhow::Result<()> {
    until(most, || {
        ensure!(is(), "it was not so within {most:?}: {what}");
        Ok(())
    })
}

/// A process that holds namespaces.
struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Holder {
    fn start(
        bins: &Path,
        inside: Option<&Self>,
        user: bool,
        own_group: bool,
    ) -> anyhow::Result<Self> {
        let lab_host = bins.join("lab-host");
        let mut command = Command::new(&lab_host);
        if let Some(outer) = inside {
            command
                .args(["enter", &outer.pid().to_string(), "--user", "--"])
                .arg(&lab_host);
        }
        command.arg("hold");
        if user {
            command.arg("--user");
        }
        if own_group {
            command.process_group(0);
        }
        let (child, stdin, _) = started(command)?;
        Ok(Self {
            child,
            stdin: Some(stdin),
        })
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        let stdin = self.stdin.take();
        let mut stdin = stdin.context("a host can be left up once only")?;
        write!(stdin, "{STAY}").context("the process that holds a host is gone")
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The end of its stdin ends it, and it all processes of its namespace; one that was left up has none and stays.
        if self.stdin.take().is_some() {
            let _ = self.child.wait();
        }
    }
}

/// The program that carries an impaired link.
struct Relay {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl Relay {
    fn start(a: &Host, b: &Host, dev: &[String; 2], seed: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(a.bins.join("lab-host"));
        command.args([
            "relay",
            &a.holder.pid().to_string(),
            &dev[0],
            &b.holder.pid().to_string(),
            &dev[1],
        ]);
        command.args(["--seed", &seed.to_string()]);
        if a.user {
            command.arg("--user");
        }
        let (child, stdin, answers) = started(command)?;
        Ok(Self {
            child,
            stdin,
            answers,
        })
    }

    fn say(&mut self, how: &Impairment) -> anyhow::Result<()> {
        let line = serde_json::to_string(how).context("can't write an impairment as JSON")?;
        writeln!(self.stdin, "{line}").context("the link's program is gone")?;
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .context("the link's program is gone")?;
        ensure!(answer == "ok\n", "the link's program did not take {line}");
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a part of `lab-host` and waits until it says `ready`.
fn started(
    mut command: Command,
) -> anyhow::Result<(Child, ChildStdin, BufReader<std::process::ChildStdout>)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("can't start lab-host")?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("lab-host has no pipes")
    };
    let (mut answers, mut line) = (BufReader::new(stdout), String::new());
    answers
        .read_line(&mut line)
        .context("can't hear lab-host")?;
    if line != "ready\n" {
        let out = child.wait_with_output().context("lab-host is gone")?;
        bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok((child, stdin, answers))
}

/// The uid of a user that nobody is.
const SOMEBODY: u32 = 4711;
