//! A client of SOCKS 5, made from RFC 1928 and RFC 1929 alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

/// Asks for a connection to `HOST:PORT`; the code of the answer, or how the login failed.
pub(super) fn connect(stream: &mut TcpStream, to: &str, user: Option<&str>) -> io::Result<String> {
    if let Some(failure) = login(stream, user)? {
        return Ok(failure);
    }
    Ok(request(stream, 1, to)?.0.to_string())
}

/// Sends so many datagrams to `HOST:PORT` through the proxy and prints how many came back as they went.
pub(super) fn datagrams(
    proxy: SocketAddr,
    to: &str,
    count: u32,
    size: usize,
) -> anyhow::Result<()> {
    let mut control = TcpStream::connect(proxy).context("can't connect to the proxy")?;
    ensure!(
        login(&mut control, None)?.is_none(),
        "no login is wanted, and one was asked for"
    );
    let (code, relay) = request(&mut control, 3, "0.0.0.0:0")?;
    ensure!(code == 0, "UDP is refused: {code}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("can't bind")?;
    socket
        .connect(relay)
        .context("can't connect to the relay")?;
    let patience = Some(Duration::from_secs(5));
    socket
        .set_read_timeout(patience)
        .context("can't set a time-out")?;
    let header = [&[0, 0, 0][..], &address(to)?].concat();
    let fragment = [&[0, 0, 1][..], &address(to)?, b"part"].concat();
    socket.send(&fragment).context("can't send")?;
    // Neither the fragment nor what somebody else sends is passed on.
    let stranger = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("can't bind")?;
    let (mut back, mut buf) = (0, vec![0; 65_536]);
    for i in 0..count {
        let mut whole = header.clone();
        whole.extend((0..size).map(|at| (at as u32 ^ i) as u8));
        socket.send(&whole).context("can't send")?;
        stranger.send_to(&whole, relay).context("can't send")?;
        back += u32::from(socket.recv(&mut buf).is_ok_and(|len| buf[..len] == whole));
    }
    drop(control);
    // The association ends with its connection.
    std::thread::sleep(Duration::from_millis(300));
    let short = Some(Duration::from_millis(300));
    socket
        .set_read_timeout(short)
        .context("can't set a time-out")?;
    let gone = socket.send(&header).is_err() || socket.recv(&mut buf).is_err();
    super::print(&json!({"back": back, "gone": gone}).to_string())
}

/// Says hello, and who it is; what was wrong with that.
fn login(stream: &mut TcpStream, user: Option<&str>) -> io::Result<Option<String>> {
    let method = if user.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    if answer != [5, method] {
        return Ok(Some(format!("method {}", answer[1])));
    }
    let Some((name, password)) = user.and_then(|u| u.split_once(':')) else {
        return Ok(None);
    };
    let mut said = vec![1, name.len() as u8];
    said.extend_from_slice(name.as_bytes());
    said.push(password.len() as u8);
    said.extend_from_slice(password.as_bytes());
    stream.write_all(&said)?;
    stream.read_exact(&mut answer)?;
    Ok((answer != [1, 0]).then(|| format!("login {}", answer[1])))
}

fn request(stream: &mut TcpStream, command: u8, to: &str) -> io::Result<(u8, SocketAddr)> {
    let whole = [&[5, command, 0][..], &address(to)?].concat();
    stream.write_all(&whole)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let ip: IpAddr = match head[3] {
        1 => {
            let mut ip = [0; 4];
            stream.read_exact(&mut ip)?;
            ip.into()
        }
        4 => {
            let mut ip = [0; 16];
            stream.read_exact(&mut ip)?;
            ip.into()
        }
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    Ok((head[1], (ip, u16::from_be_bytes(port)).into()))
}

fn address(to: &str) -> io::Result<Vec<u8>> {
    if let Ok(at) = to.parse::<SocketAddr>() {
        let (kind, ip) = match at.ip() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (4, ip.octets().to_vec()),
        };
        return Ok([&[kind][..], &ip, &at.port().to_be_bytes()].concat());
    }
    let bad = || io::Error::from(ErrorKind::InvalidInput);
    let (host, port) = to.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    Ok([&[3, host.len() as u8], host.as_bytes(), &port.to_be_bytes()].concat())
}
