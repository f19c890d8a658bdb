//! A UDP echo and its client.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context;

pub(super) fn echo(at: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("can't bind {at}"))?;
    let mut buf = [0; 65_536];
    loop {
        let (len, from) = socket.recv_from(&mut buf).context("can't receive")?;
        socket.send_to(&buf[..len], from).context("can't send")?;
    }
}

pub(super) fn send(to: SocketAddr, count: u32) -> anyhow::Result<()> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).context("can't bind")?;
    socket
        .connect(to)
        .with_context(|| format!("can't connect to {to}"))?;
    let patience = Some(Duration::from_millis(200));
    socket
        .set_read_timeout(patience)
        .context("can't set a time-out")?;
    let (mut back, mut buf) = (0, [0; 64]);
    for i in 0..count {
        // The echo may not listen yet when the first one goes out; a refused send is tried again.
        let mut tries = 0;
        while socket.send(&i.to_be_bytes()).is_err() && tries < 100 {
            std::thread::sleep(Duration::from_millis(5));
            tries += 1;
        }
        back += u32::from(matches!(socket.recv(&mut buf), Ok(4)) && buf[..4] == i.to_be_bytes());
    }
    super::print(&format!("{back} of {count}"))
}

/// A client of the UDP shim, made from its wire alone: the name goes to the listen port, whoever echoes it is the flow.
pub(super) fn seed_client(to: SocketAddr, name: &str, count: u32) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("can't bind")?;
    let patience = Some(Duration::from_millis(500));
    socket
        .set_read_timeout(patience)
        .context("can't set a time-out")?;
    socket
        .send_to(name.as_bytes(), to)
        .context("can't send the request")?;
    let mut buf = [0; 2048];
    let (len, from) = socket.recv_from(&mut buf).context("no echo came")?;
    anyhow::ensure!(
        &buf[..len] == name.as_bytes() && from.ip() == to.ip() && from.port() != to.port(),
        "no echo of the request"
    );
    socket.connect(from).context("can't connect to the flow")?;
    let mut back = 0;
    for i in 0..count {
        let sdu = format!("sdu {i}");
        socket.send(sdu.as_bytes()).context("can't send an SDU")?;
        // A keep-alive is an empty datagram and no SDU.
        let got = (0..5).find_map(|_| socket.recv(&mut buf).ok().filter(|len| *len > 0));
        back += u32::from(got.is_some_and(|len| &buf[..len] == sdu.as_bytes()));
    }
    super::print(&format!("{back} of {count}"))
}
