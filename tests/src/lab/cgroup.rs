//! A group of processes with a limit of memory that the kernel keeps for all of them together (cgroup v2, or v1 where the memory
//! controller is there). It must not leave the groups of whoever starts it: what holds of that one holds of it too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// The group. It goes when it is dropped, which is to be after all that lives in it.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Group {
    /// One that takes so many bytes and no swap. Takes root, or a group that is one's own.
    pub fn with_memory(bytes: u64) -> anyhow::Result<Self> {
        let made = parent().and_then(|(parent, version)| Self::in_parent(&parent, version, bytes));
        made.context("this test limits memory by a cgroup, which can't be made here")
    }

    fn in_parent(parent: &Path, version: Version, bytes: u64) -> anyhow::Result<Self> {
        let dir = parent.join(format!("strata-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        let group = Self { dir, version };
        let (most, swap) = match version {
            Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
            Version::Two => ("memory.max", "memory.swap.max"),
        };
        group.write(most, bytes)?;
        // Of memory and swap together in version 1; a kernel without swap has no such file.
        if group.dir.join(swap).exists() {
            group.write(swap, if version == Version::One { bytes } else { 0 })?;
        }
        Ok(group)
    }

    /// Where it is, for [`super::How`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn killed(&self) -> anyhow::Result<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = self.read(file)?;
        let killed = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        let killed = killed.with_context(|| format!("{file} doesn't say how many were killed"))?;
        killed.parse().context("no number")
    }

    /// The most that all its processes had together, in bytes.
    pub fn most(&self) -> anyhow::Result<u64> {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        self.read(file)?.trim().parse().context("no number")
    }

    /// The processes in it.
    pub fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let text = self.read("cgroup.procs")?;
        let pids = text.lines().map(|line| line.parse().context("no number"));
        pids.collect()
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    }

    fn write(&self, file: &str, number: u64) -> anyhow::Result<()> {
        let path = self.dir.join(file);
        let text = number.to_string();
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What has been killed takes a moment to leave.
        let begin = Instant::now();
        while fs::remove_dir(&self.dir).is_err() && begin.elapsed() < LEAVE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The group in which another with a limit of memory may be made: the own one, or in version 2, where a group with processes has
/// none below that limit anything, the nearest above that hands the controller on.
fn parent() -> anyhow::Result<(PathBuf, Version)> {
    let own = fs::read_to_string("/proc/self/cgroup").context("no cgroups")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("no mounts")?;
    let own: Vec<[&str; 2]> = own.lines().filter_map(group_line).collect();
    if let Some([_, path]) = own.iter().find(|[names, _]| has(names, "memory")) {
        let is_memory = |kind: &str, options: &str| kind == "cgroup" && has(options, "memory");
        return Ok((mounted(&mounts, is_memory, path)?, Version::One));
    }
    let unified = own.iter().find(|[names, _]| names.is_empty());
    let [_, path] = unified.context("the kernel has no cgroup v2 and no memory controller")?;
    let top = mounted(&mounts, |kind, _| kind == "cgroup2", "/")?;
    let own = top.join(path.trim_start_matches('/'));
    for dir in own.ancestors().take_while(|dir| dir.starts_with(&top)) {
        let handed = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        if handed.split_whitespace().any(|name| name == "memory") {
            return Ok((dir.to_owned(), Version::Two));
        }
    }
    bail!(
        "no group from {} up hands the memory controller on",
        own.display()
    )
}

/// Controllers and path of a line of /proc/self/cgroup.
fn group_line(line: &str) -> Option<[&str; 2]> {
    let mut parts = line.splitn(3, ':').skip(1);
    Some([parts.next()?, parts.next()?])
}

/// A path of the hierarchy whose mount has this type and these options, by a line of mountinfo (proc(5)).
fn mounted(mounts: &str, is: impl Fn(&str, &str) -> bool, path: &str) -> anyhow::Result<PathBuf> {
    let mut all = mounts.lines().filter_map(mount_line);
    let found = all.find(|[_, _, kind, options]| is(kind, options));
    let [root, at, ..] = found.context("the hierarchy isn't mounted")?;
    let path = path.strip_prefix(root.trim_end_matches('/'));
    let path = path.unwrap_or_default().trim_start_matches('/');
    let dir = Path::new(at).join(path);
    ensure!(dir.is_dir(), "there is no {}", dir.display());
    Ok(dir)
}

/// What of a file system is mounted, where, its type, and its options.
fn mount_line(line: &str) -> Option<[&str; 4]> {
    let (mount, kind) = line.split_once(" - ")?;
    let (mut mount, mut kind) = (mount.split(' ').skip(3), kind.split(' '));
    Some([mount.next()?, mount.next()?, kind.next()?, kind.nth(1)?])
}

fn has(names: &str, name: &str) -> bool {
    names.split(',').any(|n| n == name)
}

const LEAVE: Duration = Duration::from_secs(5);
