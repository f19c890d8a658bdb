//! Just enough HTTP/1.1 to move one file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use ring::digest;

pub(super) fn serve(at: SocketAddr, bytes: u64, seed: u64, text: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("can't listen on {at}"))?;
    super::print(&format!(
        "{{\"sha256\":\"{}\"}}",
        hex(&hash_of(bytes, seed, text))
    ))?;
    for stream in listener.incoming() {
        // A client that went away is no reason to stop serving.
        if let Err(error) = stream
            .map_err(anyhow::Error::from)
            .and_then(|s| answer(s, bytes, seed, text))
        {
            eprintln!("lab-tool: {error:#}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, bytes: u64, seed: u64, text: &str) -> anyhow::Result<()> {
    // The whole request is read: closing with a part of it unread would reset the connection.
    let (mut reader, mut request) = (BufReader::new(&stream), String::new());
    while !request.ends_with("\r\n\r\n") {
        let more = reader.read_line(&mut request);
        let len = more.context("can't read the request")?;
        ensure!(len > 0 && request.len() < 8192, "the request has no end");
    }
    ensure!(request.starts_with("GET "), "not a GET: {request:?}");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    )
    .context("can't answer")?;
    blocks(bytes, seed, text, |block| {
        stream.write_all(block).context("can't send the file")
    })
}

pub(super) fn get(from: SocketAddr) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream = connect(from)?;
    write!(
        stream,
        "GET /file HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n"
    )
    .context("can't ask")?;
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let mut want = 0u64;
    loop {
        let mut line = String::new();
        ensure!(
            reader
                .read_line(&mut line)
                .context("can't read the answer")?
                > 0,
            "the answer has no end of its header"
        );
        if let Some(length) = line.strip_prefix("Content-Length: ") {
            want = length.trim().parse().context("the length is no number")?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let (mut hash, mut got, mut buf) = (
        digest::Context::new(&digest::SHA256),
        0u64,
        vec![0; 1 << 18],
    );
    loop {
        match reader.read(&mut buf).context("the transfer broke off")? {
            0 => break,
            len => {
                hash.update(&buf[..len]);
                got += len as u64;
            }
        }
    }
    ensure!(got == want, "{got} of {want} bytes came");
    let seconds = start.elapsed().as_secs_f64();
    super::print(&format!(
        "{{\"bytes\":{got},\"seconds\":{seconds:.3},\"sha256\":\"{}\"}}",
        hex(hash.finish().as_ref())
    ))
}

fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)
        .with_context(|| format!("can't connect to {to}"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("can't set a time-out")?;
    Ok(stream)
}

fn hash_of(bytes: u64, seed: u64, text: &str) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA256);
    // Hashing can't fail.
    let _ = blocks(bytes, seed, text, |block| {
        hash.update(block);
        Ok(())
    });
    hash.finish().as_ref().to_vec()
}

/// The file, block by block: chance out of the seed; every other KiB, the first one too, is the text over and over.
fn blocks(
    bytes: u64,
    seed: u64,
    text: &str,
    mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut block = vec![0u8; 1 << 16];
    chance.fill_bytes(&mut block);
    for plain in block.chunks_mut(1024).step_by(2) {
        // Without a text nothing is replaced.
        for (byte, letter) in plain.iter_mut().zip(text.bytes().cycle()) {
            *byte = letter;
        }
    }
    let mut left = bytes;
    while left > 0 {
        let len = left.min(block.len() as u64) as usize;
        each(&block[..len])?;
        left -= len as u64;
        // No two are the same, but a new one each time would measure the generator, not the network.
        block[(left / 65_536 % 65_536) as usize] ^= 0x55;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const PATIENCE: Duration = Duration::from_secs(10);
