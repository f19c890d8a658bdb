//! Processes on hosts.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// What a program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; 128 + the signal if one ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Process {
    pub(super) fn spawn(mut command: Command, program: &str, dir: &Path) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = Path::new(program)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let log = dir.join(format!(
            "{base}.{}.log",
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let out = File::create(&log).with_context(|| format!("can't make {}", log.display()))?;
        command
            .stderr(out.try_clone().context("can't open the log twice")?)
            .stdout(out);
        let child = command
            .spawn()
            .with_context(|| format!("can't start {program}"))?;
        Ok(Self { child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid() as i32), signal).context("can't send a signal")
    }

    /// Waits for its end; its exit code (128 + signal), or an error after the time.
    pub fn wait(&mut self, most: Duration) -> anyhow::Result<i32> {
        wait(&mut self.child, most)
    }

    /// Writes a line to its stdin ([`Host::spawn_piped`](super::Host::spawn_piped)).
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("its stdin is closed")?;
        writeln!(stdin, "{line}").context("it takes no more lines")
    }

    /// Closes its stdin, waits for its end and gives what it wrote.
    pub fn finish(mut self, most: Duration) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        self.wait(most)?;
        Ok(self.log())
    }

    /// The JSON document that it wrote, behind what it may have said on stderr.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        let log = self.log();
        let start = log.find('{').context("it wrote no JSON")?;
        serde_json::from_str(&log[start..]).with_context(|| format!("it wrote no JSON: {log}"))
    }

    /// The newest line of JSON that it wrote; null if there is none yet.
    pub fn newest(&self) -> serde_json::Value {
        let log = self.log();
        let mut lines = log.lines().rev();
        lines
            .find_map(|line| serde_json::from_str(line).ok())
            .unwrap_or_default()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The whole lines that it wrote behind byte `at`, which moves on.
    pub fn lines_from(&self, at: &mut u64) -> Vec<String> {
        let mut new = Vec::new();
        let read = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(*at))?;
            log.read_to_end(&mut new)
        });
        let end = new.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        if read.is_err() || end == 0 {
            return Vec::new();
        }
        *at += end as u64;
        let text = String::from_utf8_lossy(&new[..end]);
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub(super) fn run(mut command: Command, most: Duration) -> anyhow::Result<Output> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("can't start a program")?;
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("a program has no pipes")
    };
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was read until an error is still worth showing.
        let _ = err.read_to_end(&mut text);
        text
    });
    let watch = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = out.read_to_end(&mut text);
        text
    });
    let code = wait(&mut child, most);
    if code.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |t: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&t.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(watch), text(reader));
    match code {
        Ok(code) => Ok(Output {
            code,
            stdout,
            stderr,
        }),
        Err(e) => Err(e.context(format!("so far it said: {stdout}{stderr}"))),
    }
}

fn wait(child: &mut Child, most: Duration) -> anyhow::Result<i32> {
    use std::os::unix::process::ExitStatusExt;
    let end = Instant::now() + most;
    let mut nap = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().context("can't wait for a program")? {
            return Ok(status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        if Instant::now() > end {
            bail!("the program did not end within {most:?}");
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

/// The process ids of the programs of that name in a holder's network namespace.
pub fn programs_of(holder: u32, name: &str) -> Vec<u32> {
    let is = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    processes_of(holder).into_iter().filter(is).collect()
}

/// The process ids in a namespace holder's network namespace, the holder itself left out.
pub fn processes_of(holder: u32) -> Vec<u32> {
    let Ok(own) = fs::read_link(format!("/proc/{holder}/ns/net")) else {
        return Vec::new();
    };
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            *pid != holder && fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own)
        })
        .collect()
}
