//! A UDP echo and its client, for tests of the Lab: `lab-udp echo ADDR:PORT`, `lab-udp send ADDR:PORT COUNT`.

use std::io::Write;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, bail};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo", at] => echo(at),
        ["send", to, count] => send(to, count.parse().context("COUNT is no number")?),
        _ => bail!("use: lab-udp echo ADDR:PORT | lab-udp send ADDR:PORT COUNT"),
    }
}

fn echo(at: &str) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("can't bind {at}"))?;
    let mut buf = [0; 65_536];
    loop {
        let (len, from) = socket.recv_from(&mut buf).context("can't receive")?;
        socket.send_to(&buf[..len], from).context("can't send")?;
    }
}

fn send(to: &str, count: u32) -> anyhow::Result<()> {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).context("can't bind")?;
    socket
        .connect(to)
        .with_context(|| format!("can't connect to {to}"))?;
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .context("can't set a time-out")?;
    let (mut back, mut buf) = (0, [0; 64]);
    for i in 0..count {
        // The echo may not listen yet when the first one goes out; a refused send is a lost one.
        let mut tries = 0;
        while socket.send(&i.to_be_bytes()).is_err() && tries < 100 {
            std::thread::sleep(Duration::from_millis(5));
            tries += 1;
        }
        back += u32::from(matches!(socket.recv(&mut buf), Ok(4)) && buf[..4] == i.to_be_bytes());
    }
    writeln!(std::io::stdout(), "{back} of {count}").context("can't print")
}
