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
