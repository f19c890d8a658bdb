//! Reliable flows over links that lose and corrupt: what goes in comes out, byte for byte, and ends when both sides do.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use std::fs::{self, File};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use tests::{Host, Impairment, Lab, Line};

/// `irm cat` on a host, from a file (none: nothing) and to another.
struct Cat {
    child: Child,
    out: std::path::PathBuf,
}

impl Cat {
    fn start(host: &Host, args: &str, input: Option<&[u8]>) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let out = host.dir().join(format!("cat.{count}.out"));
        let mut command = host.command("irm", args.split_whitespace());
        if let Some(bytes) = input {
            let from = host.dir().join(format!("cat.{count}.in"));
            fs::write(&from, bytes).unwrap();
            command.stdin(File::open(from).unwrap());
        }
        let log = host.dir().join(format!("cat.{count}.log"));
        command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(log).unwrap());
        let child = command.spawn().unwrap();
        Self { child, out }
    }

    /// What it wrote until its end, which must be a good one.
    fn end(mut self, most: Duration) -> Vec<u8> {
        let end = Instant::now() + most;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let got = fs::metadata(&self.out).unwrap().len();
                panic!("it did not end within {most:?}; {got} bytes were written");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let log = fs::read_to_string(self.out.with_extension("log")).unwrap();
        assert!(status.success(), "{status}: {log}");
        fs::read(&self.out).unwrap()
    }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Carries bytes from A to a host, and others back.
fn carry(line: &Line, to: &str, there: &[u8], back: &[u8], most: Duration) {
    let (a, b) = (line.host("a").unwrap(), line.host(to).unwrap());
    let name = format!("file-{to}");
    let listen = format!("cat {name} --listen --layer overlay");
    let far = Cat::start(b, &listen, Some(back));
    b.irm(&format!("wait name {name}")).unwrap();
    let begin = Instant::now();
    let near = Cat::start(
        a,
        &format!("cat {name} --layer overlay --timeout 30s"),
        Some(there),
    );
    assert!(near.end(most) == back, "what came back is something else");
    assert!(far.end(most) == there, "what arrived is something else");
    eprintln!(
        "{} + {} bytes to {to}: {:?}",
        there.len(),
        back.len(),
        begin.elapsed()
    );
}

fn lossy(loss: f64) -> Impairment {
    Impairment {
        loss,
        ..Impairment::default()
    }
}

#[test]
fn programs_on_one_host_end_each_direction_by_itself() {
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let _irmd = host.irmd().unwrap();
    let far = Cat::start(&host, "cat here --listen", Some(b"an answer"));
    host.irm("wait name here").unwrap();
    let there = bytes(1, 3_000_000);
    let near = Cat::start(&host, "cat here", Some(&there));
    assert_eq!(near.end(TEN), b"an answer");
    assert!(far.end(TEN) == there);
}

#[test]
fn a_file_passes_a_neighbour_whose_link_loses_or_corrupts_a_third() {
    let mut line = Line::impairable(11).unwrap();
    let (there, back) = (bytes(1, 2_000_000), bytes(2, 300_000));
    for loss in [0.0, 0.01, 0.1, 0.3] {
        line.impair(lossy(loss)).unwrap();
        carry(&line, "b", &there, &back, TWENTY);
    }
    line.impair(Impairment {
        corrupt: 0.3,
        ..Impairment::default()
    })
    .unwrap();
    carry(&line, "b", &there, &back, TWENTY);
}

#[test]
fn a_file_passes_a_member_in_between_with_two_links_that_lose_a_third() {
    let mut line = Line::impairable(12).unwrap();
    let (there, back) = (bytes(3, 100_000), bytes(4, 10_000));
    line.impair(lossy(0.3)).unwrap();
    carry(&line, "c", &there, &back, TWENTY);
}

#[test]
fn a_direction_ends_while_the_other_goes_on_and_what_was_written_before_a_close_arrives() {
    let line = Line::impairable(13).unwrap();
    let (a, b) = (line.host("a").unwrap(), line.host("b").unwrap());
    // Nothing to say on one side, and its end is heard long before the other has said all.
    let far = Cat::start(b, "cat last --listen --layer overlay", None);
    b.irm("wait name last").unwrap();
    let there = bytes(5, 1_000_000);
    let near = Cat::start(a, "cat last --layer overlay", Some(&there));
    assert_eq!(near.end(TEN), b"");
    assert!(far.end(TEN) == there);
    // A sender that is stopped leaves the reader with a failure, not with a file that looks whole.
    let far = Cat::start(b, "cat cut --listen --layer overlay", None);
    b.irm("wait name cut").unwrap();
    let mut near = a
        .spawn_piped("irm", ["cat", "cut", "--layer", "overlay"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    near.signal(Signal::SIGTERM).unwrap();
    assert_eq!(near.wait(TEN).unwrap(), 1);
    let mut child = far.child;
    let end = Instant::now() + TEN;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "the reader waits for ever");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(1));
}

const TEN: Duration = Duration::from_secs(10);
const TWENTY: Duration = Duration::from_secs(20);
