//! Files over reliable flows, by `irm cat` at both ends, compared byte for byte.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::lab::Host;

/// `irm cat` on a host; killed when dropped.
pub struct Cat {
    child: Child,
    out: PathBuf,
}

impl Cat {
    /// Starts it with the words behind `cat`, and with bytes to say, if any.
    pub fn start(host: &Host, args: &str, input: Option<&[u8]>) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let out = host.dir().join(format!("cat.{count}.out"));
        let args = ["cat"].into_iter().chain(args.split_whitespace());
        let mut command = host.command("irm", args);
        if let Some(bytes) = input {
            let from = host.dir().join(format!("cat.{count}.in"));
            fs::write(&from, bytes).context("can't write the input")?;
            command.stdin(File::open(from).context("can't open the input")?);
        }
        let create = |path: &PathBuf| {
            File::create(path).with_context(|| format!("can't make {}", path.display()))
        };
        command
            .stdout(create(&out)?)
            .stderr(create(&out.with_extension("log"))?);
        let child = command.spawn().context("can't start irm cat")?;
        Ok(Self { child, out })
    }

    /// How many bytes it has written so far.
    pub fn got(&self) -> u64 {
        fs::metadata(&self.out).map_or(0, |of| of.len())
    }

    /// What it wrote until its end, which must be a good one.
    pub fn end(mut self, most: Duration) -> anyhow::Result<Vec<u8>> {
        let status = self.status(most)?;
        let log = fs::read_to_string(self.out.with_extension("log")).unwrap_or_default();
        ensure!(status.success(), "irm cat: {status}: {log}");
        fs::read(&self.out).context("can't read what came")
    }

    /// How it ended.
    pub fn status(&mut self, most: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + most;
        loop {
            if let Some(status) = self.child.try_wait().context("can't wait for irm cat")? {
                return Ok(status);
            }
            if Instant::now() > end {
                let got = self.got();
                bail!("irm cat did not end within {most:?}; {got} bytes were written");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Two files that are on their way, one each direction.
pub struct Carry {
    there: Vec<u8>,
    back: Vec<u8>,
    near: Cat,
    far: Cat,
    begin: Instant,
}

impl Carry {
    /// Begins: `there` goes from one host to a name on another, `back` the other way.
    pub fn start(
        from: &Host,
        to: &Host,
        name: &str,
        there: Vec<u8>,
        back: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let far = format!("{name} --listen --layer overlay");
        let far = Cat::start(to, &far, Some(&back))?;
        to.irm(&format!("wait name {name}"))?;
        let begin = Instant::now();
        let near = format!("{name} --layer overlay --timeout 30s");
        let near = Cat::start(from, &near, Some(&there))?;
        Ok(Self {
            there,
            back,
            near,
            far,
            begin,
        })
    }

    /// How many bytes have arrived, there and back.
    pub fn got(&self) -> [u64; 2] {
        [self.far.got(), self.near.got()]
    }

    /// Waits until both have ended, and compares what arrived; says how long it took since the begin.
    pub fn end(self, most: Duration) -> anyhow::Result<Duration> {
        let came = self.near.end(most)?;
        ensure!(came == self.back, "what came back is something else");
        let came = self.far.end(most)?;
        ensure!(came == self.there, "what arrived is something else");
        Ok(self.begin.elapsed())
    }
}

/// Bytes that nobody guesses, the same for the same seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}
