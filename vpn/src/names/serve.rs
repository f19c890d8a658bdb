//! The sockets at which names are answered: UDP and TCP, port 53 of the VPN's own addresses. It must not know what a name is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Zone;

/// Answers as long as it lives.
#[derive(Debug)]
pub struct Server {
    zone: watch::Sender<Arc<Zone>>,
    at: Vec<IpAddr>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Binds port 53 of these addresses. Must be called in a tokio runtime with IO.
    pub async fn bind(at: Vec<IpAddr>, zone: Zone) -> io::Result<Self> {
        let (sender, zone) = watch::channel(Arc::new(zone));
        let mut tasks = JoinSet::new();
        let calls = Arc::new(Semaphore::new(CALLS));
        for address in &at {
            let port = SocketAddr::new(*address, PORT);
            let (udp, tcp) = (UdpSocket::bind(port).await?, TcpListener::bind(port).await?);
            tasks.spawn(datagrams(udp, zone.clone()));
            tasks.spawn(streams(tcp, zone.clone(), calls.clone()));
        }
        Ok(Self {
            zone: sender,
            at,
            _tasks: tasks,
        })
    }

    /// The addresses.
    pub fn at(&self) -> &[IpAddr] {
        &self.at
    }

    /// Answers by this from now on.
    pub fn serve(&self, zone: Zone) {
        self.zone.send_replace(Arc::new(zone));
    }
}

async fn datagrams(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut query = [0; QUERY];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut query).await else {
            // An answer that didn't arrive, or the like.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let answer = zone.borrow().answer(&query[..len], UDP);
        if let Some(answer) = answer {
            // Who asked asks again.
            let _ = socket.try_send_to(&answer, from);
        }
    }
}

async fn streams(listener: TcpListener, zone: watch::Receiver<Arc<Zone>>, calls: Arc<Semaphore>) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(call) = calls.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let zone = zone.clone();
        tasks.spawn(async move {
            // However it ends, it ends.
            let _ = tokio::time::timeout(PATIENCE, stream_of(stream, &zone)).await;
            drop(call);
        });
    }
}

/// Queries one after the other, each behind its length (RFC 7766).
async fn stream_of(mut stream: TcpStream, zone: &watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    let mut query = [0; QUERY];
    loop {
        let len = usize::from(stream.read_u16().await?);
        let Some(room) = query.get_mut(..len) else {
            return Ok(());
        };
        stream.read_exact(room).await?;
        let answer = zone.borrow().answer(room, usize::from(u16::MAX));
        let Some(answer) = answer else { return Ok(()) };
        let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_u16(len).await?;
        stream.write_all(&answer).await?;
    }
}

const PORT: u16 = 53;
/// The longest query; names have 255 bytes.
const QUERY: usize = 1_232;
/// The longest answer by UDP: what fits IPv6's least MTU.
const UDP: usize = 1_232;
/// TCP connections at once, and how long each may last.
const CALLS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
/// After an error of a socket.
const PAUSE: Duration = Duration::from_millis(100);
