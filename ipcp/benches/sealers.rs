//! What more cores bring to whoever seals and sends: `cargo bench -p ipcp --bench sealers`.
//!
//! A turn's trains leave a machine, are sealed and sent, one call each, to a socket on loopback that takes no more. The cutting of
//! super-packets is not in it.

#[path = "../../layer/benches/line/mod.rs"]
#[allow(
    unfulfilled_lint_expectations,
    reason = "of `layer`, where a look at the clock is a fault"
)]
mod line;

use std::net::UdpSocket;
use std::time::Instant;

use divan::Bencher;
use divan::counter::BytesCount;
use ipcp::Counters;
use ipcp::sealers::Sealers;
use ipcp::udp::{Offloads, UdpPort};
use layer::{Input, Ipcp, Output};
use nix::sys::socket::{SetSockOpt, sockopt};
use proto::ipcp::{Offload, OffloadKind, OffloadMode};
use proto::{Batch, FlowId, QosSpec};
use socket2::SockRef;

use self::line::Line;

fn main() {
    divan::main();
}

/// Trains of 46 packets of 1,400 bytes in one turn.
#[divan::bench(args = [1, 2, 4, 8])]
fn one_thread(bencher: Bencher<'_, '_>, trains: usize) {
    turns(bencher, trains, OffloadMode::Off);
}

/// The same with as many threads more as there are cores, at most three.
#[divan::bench(args = [1, 2, 4, 8])]
fn more_threads(bencher: Bencher<'_, '_>, trains: usize) {
    turns(bencher, trains, OffloadMode::On);
}

/// A port, and the socket to which it sends: it takes trains whole, and soon none.
fn port() -> (UdpPort, UdpSocket) {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
    let (near, far) = (bind(), bind());
    let to = far.local_addr().expect("it was bound");
    near.connect(to).expect("loopback");
    SockRef::from(&far)
        .set_recv_buffer_size(4096)
        .expect("a smaller buffer");
    sockopt::UdpGroSegment
        .set(&far, &true)
        .expect("UDP_GRO is there since Linux 5.0");
    let port = UdpPort::new(near, Offloads::default(), Instant::now());
    (port.expect("a port"), far)
}

fn turns(bencher: Bencher<'_, '_>, trains: usize, mode: OffloadMode) {
    let mut line = Line::new(2);
    line.ask(QosSpec::RAW);
    line.settle();
    let (flow, now) = (line.stand[0], line.now());
    let member = &mut line.members[0];
    member.leave_seals(true);
    let margin = member.margin(flow);
    let train = || {
        let mut batch = Batch::train_within(margin);
        for _ in 0..PACKETS {
            batch.push(SIZE).expect("room").fill(7);
        }
        batch
    };
    let (mut port, _sink) = port();
    let mut sealers = Sealers::<FlowId>::new();
    sealers.set(&[Offload {
        kind: OffloadKind::Seal,
        mode,
    }]);
    let mut counters = Counters::default();
    bencher
        .counter(BytesCount::new(trains * PACKETS * SIZE))
        .with_inputs(|| (0..trains).map(|_| train()).collect::<Vec<_>>())
        .bench_local_values(|batches| {
            for batch in batches {
                member.handle(now, Input::Upper(flow, batch));
            }
            while let Some(output) = member.poll() {
                if let Output::Unsealed(to, unsealed) = output {
                    sealers.put(to, unsealed);
                }
            }
            sealers.begin();
            let at = Instant::now();
            while let Some((_, batch)) = sealers.pop() {
                port.send(&batch, 0, &mut counters, at);
            }
        });
}

/// Packets of a train, and their bytes.
const PACKETS: usize = 45;
const SIZE: usize = 1400;
