//! Requests from everywhere: loopback lets a socket claim any address of 127.0.0.0/8.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSocketState};

/// A flood that runs until it is stopped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

/// Begins to send 20,000 requests a second, each from another address.
pub(crate) fn start(to: SocketAddr) -> Flood {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        let begin = Instant::now();
        let mut sent = 0_u32;
        while !seen.load(Ordering::Relaxed) {
            while f64::from(sent) < begin.elapsed().as_secs_f64() * 20_000.0 {
                sent += 1;
                let source = Ipv4Addr::from(0x7f10_0000 + sent % 0x20_0000);
                let src_ip = Some(IpAddr::V4(source));
                let (ecn, segment_size) = (None, None);
                let transmit = Transmit {
                    destination: to,
                    ecn,
                    contents: b"srv",
                    segment_size,
                    src_ip,
                };
                state.try_send((&socket).into(), &transmit).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        sent.into()
    });
    Flood { stop, thread }
}

impl Flood {
    /// Ends it; how many requests it sent.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
