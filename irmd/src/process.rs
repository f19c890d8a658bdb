//! Child processes: started beside this program, watched through a pidfd, ended in good order.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::session::start_time;

/// A process that this daemon, or the one before it, has started.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its number.
    pub(crate) pid: u32,
    /// When it began, in clock ticks since boot.
    pub(crate) start: u64,
    fd: AsyncFd<OwnedFd>,
}

impl Child {
    /// Starts a program in a process group of its own; `secret` is what it reads from its standard input.
    pub(crate) fn spawn(
        program: &Path,
        args: &[OsString],
        run_dir: &Path,
        secret: &[u8],
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .env("IRM_RUN_DIR", run_dir)
            .process_group(0)
            .stdin(if secret.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A pipe holds far more than a secret: this never blocks. A child that died already is noticed below.
            let _ = stdin.write_all(secret);
        }
        let pid = child.id();
        let start = start_time(pid);
        match Self::open(pid, start.unwrap_or_default()) {
            Ok(this) => Ok(this),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Finds a process again that was started before; `None` if it is gone.
    pub(crate) fn adopt(pid: u32, start: u64) -> Option<Self> {
        let this = Self::open(pid, start).ok()?;
        // Compared after the descriptor stands: from then on the number means this process.
        (start_time(pid) == Some(start)).then_some(this)
    }

    /// Waits for its end and reaps it.
    pub(crate) async fn wait(&self) {
        // A pidfd is readable when its process has ended.
        while let Err(error) = self.fd.ready(Interest::READABLE).await.map(|_| ()) {
            tracing::error!(%error, pid = self.pid, "cannot wait for a process");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // One that an earlier daemon started is not ours to reap.
        let _ = waitid(
            WaitId::PidFd(rustix::fd::AsFd::as_fd(self.fd.get_ref())),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }

    /// Waits for its end at most so long; false if it still runs.
    pub(crate) async fn wait_for(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.wait()).await.is_ok()
    }

    /// Ends it: asked first, after `grace` by force.
    pub(crate) async fn end(&self, grace: Duration) {
        self.signal(Signal::TERM);
        if !self.wait_for(grace).await {
            self.signal(Signal::KILL);
            self.wait_for(Duration::from_secs(2)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(self.fd.get_ref(), signal);
    }

    fn open(pid: u32, start: u64) -> io::Result<Self> {
        let number = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("no process number"))?;
        let fd = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        Ok(Self {
            pid,
            start,
            fd: watchable(fd)?,
        })
    }
}

/// Finds one of our programs: beside this one first, then on the path.
pub(crate) fn find(exe: &Path, program: &str) -> Result<PathBuf, String> {
    let beside = exe.parent().map(|dir| dir.join(program));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(program));
    let found = beside.into_iter().chain(on_path).find(|p| p.is_file());
    found.ok_or_else(|| {
        format!(
            "the program {program} is neither beside {} nor on the PATH; install it there",
            exe.display()
        )
    })
}

/// A descriptor that tokio watches.
// What was deprecated in its favour is unsafe, for the sake of types that may close their descriptor early; an `OwnedFd` keeps
// its own open until it is dropped.
#[expect(
    deprecated,
    reason = "the replacement is unsafe, which this workspace forbids"
)]
fn watchable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Waits until a flag is set.
pub(crate) async fn set(flag: &watch::Sender<bool>) {
    // The flag lives as long as its owner, who waits here: this can't fail.
    let _ = flag.subscribe().wait_for(|set| *set).await;
}

/// How long to wait before a process is started again.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(10);
    const GOOD: Duration = Duration::from_secs(60);

    /// Begins short.
    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The process lived that long: how long to wait now.
    pub(crate) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= Self::GOOD {
            self.next = Self::FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(Self::LAST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_child_gets_its_secret_is_found_again_and_ended() {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let script = format!("cat > {}; exec sleep 60", out.display());
            let child = Child::spawn(
                Path::new("/bin/sh"),
                &["-c".into(), script.into()],
                dir.path(),
                &[b'x'; 32],
            )
            .unwrap();
            assert!(!child.wait_for(Duration::from_millis(300)).await);
            assert_eq!(std::fs::read(&out).unwrap(), [b'x'; 32]);
            let again = Child::adopt(child.pid, child.start).unwrap();
            assert!(Child::adopt(child.pid, child.start + 1).is_none());
            again.end(Duration::from_secs(2)).await;
            assert!(child.wait_for(Duration::from_secs(1)).await);
            assert!(Child::adopt(child.pid, child.start).is_none());
        });
    }

    #[test]
    fn a_program_that_is_nowhere_is_named() {
        assert!(
            find(Path::new("/nowhere/irmd"), "no-such-program")
                .unwrap_err()
                .contains("no-such-program")
        );
        assert_eq!(
            find(Path::new("/bin/irmd"), "sh").unwrap(),
            Path::new("/bin/sh")
        );
    }

    #[test]
    fn the_pause_doubles_up_to_ten_seconds_and_begins_anew_after_a_good_minute() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..9)
            .map(|_| backoff.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(backoff.after(Duration::from_secs(60)).as_millis(), 100);
    }
}
