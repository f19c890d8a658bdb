//! TCP servers and clients that tell a good end from a reset.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::json;
use socket2::SockRef;

use super::socks;
use crate::cat::bytes;

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Manner {
    /// Sends back what comes, as it comes, and ends when the client has.
    Echo,
    /// Reads until the client has ended, then sends all of it back.
    Answer,
    /// Resets it after the first bytes.
    Reset,
    /// Reads nothing.
    Hold,
}

/// What a client does.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Exchange {
    pub(super) to: SocketAddr,
    /// To be sent on each connection, and to come back
    #[arg(long, default_value_t = 1000)]
    bytes: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Connections
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Of them at once
    #[arg(long, default_value_t = 1)]
    at_once: u32,
    /// By SOCKS: for which host and port
    #[arg(long)]
    socks: Option<String>,
    /// With name and password
    #[arg(long)]
    user: Option<String>,
}

pub(super) fn serve(at: SocketAddr, manner: Manner) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("can't listen at {at}"))?;
    super::print(&json!({"at": at.to_string()}).to_string())?;
    for stream in listener.incoming() {
        let stream = stream.context("can't accept")?;
        // How it ends is for the client to tell.
        std::thread::spawn(move || drop(serve_one(stream, manner)));
    }
    Ok(())
}

fn serve_one(mut stream: TcpStream, manner: Manner) -> io::Result<()> {
    let mut buf = vec![0; 65_536];
    match manner {
        Manner::Echo => loop {
            match stream.read(&mut buf)? {
                0 => return Ok(()),
                len => stream.write_all(&buf[..len])?,
            }
        },
        Manner::Answer => {
            let mut all = Vec::new();
            stream.read_to_end(&mut all)?;
            stream.write_all(&all)
        }
        Manner::Reset => {
            stream.read_exact(&mut buf[..1])?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        }
        Manner::Hold => loop {
            std::thread::sleep(PATIENCE);
        },
    }
}

/// Has its exchanges and prints how many ended in which way.
pub(super) fn exchange(how: Exchange) -> anyhow::Result<()> {
    let (how, left) = (Arc::new(how), Arc::new(AtomicU32::new(0)));
    let ends = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let begin = Instant::now();
    let threads: Vec<_> = (0..how.at_once)
        .map(|_| {
            let (how, left, ends) = (Arc::clone(&how), Arc::clone(&left), Arc::clone(&ends));
            std::thread::spawn(move || {
                while left.fetch_add(1, Ordering::Relaxed) < how.count {
                    let end = one(&how);
                    let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                    *ends.entry(end).or_default() += 1;
                }
            })
        })
        .collect();
    for thread in threads {
        drop(thread.join());
    }
    let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
    super::print(&json!({"ends": *ends, "seconds": begin.elapsed().as_secs_f64()}).to_string())
}

/// How it ended: right, wrong, short, reset, late, or what the proxy answered.
fn one(how: &Exchange) -> String {
    match try_one(how) {
        Ok(end) => end,
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
            ) =>
        {
            "reset".to_owned()
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            "late".to_owned()
        }
        Err(e) => e.to_string(),
    }
}

fn try_one(how: &Exchange) -> io::Result<String> {
    let mut stream = TcpStream::connect(how.to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if let Some(host) = &how.socks {
        let answer = socks::connect(&mut stream, host, how.user.as_deref())?;
        if answer != "0" {
            return Ok(format!("socks {answer}"));
        }
    }
    let sent = bytes(how.seed, how.bytes);
    let (mut there, whole) = (stream.try_clone()?, sent.clone());
    let writer = std::thread::spawn(move || {
        there.write_all(&whole)?;
        there.shutdown(Shutdown::Write)
    });
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    let wrote = writer
        .join()
        .unwrap_or_else(|_| Err(ErrorKind::Other.into()));
    read?;
    if got == sent {
        return Ok("right".to_owned());
    }
    // A reset is told once: to whoever asks first.
    wrote?;
    let end = if got.len() < sent.len() {
        "short"
    } else {
        "wrong"
    };
    Ok(end.to_owned())
}

/// Writes until nothing more is taken for a second, and prints how many bytes that were.
pub(super) fn fill(to: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("can't connect to {to}"))?;
    let second = Some(Duration::from_secs(1));
    stream
        .set_write_timeout(second)
        .context("can't set a time-out")?;
    let (piece, mut taken) = (vec![7; 65_536], 0);
    let end = loop {
        match stream.write(&piece) {
            Ok(len) if taken < TOO_MUCH => taken += len,
            Ok(_) => break "not at all".to_owned(),
            Err(e) if e.kind() == ErrorKind::WouldBlock => break "full".to_owned(),
            Err(e) => break e.to_string(),
        }
    };
    super::print(&json!({"taken": taken, "end": end}).to_string())
}

const PATIENCE: Duration = Duration::from_secs(60);
const TOO_MUCH: usize = 500_000_000;
