//! The program itself, attached to an irmd that the test plays, and joined by users as libflow does.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the whole of it is a test: what fails may panic, and it does its own IO"
)]

mod flood;
mod irmd;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use irmd::{Irmd, Shim};
use libflow::port::{Joined, Received, RecordSocket};
use proto::ipcp::{Answer, Command};
use proto::{Batch, Code, FlowId, Framing, Reason};

/// Two shims of one layer; the second has registered `srv`.
async fn pair(irmd: &Irmd) -> (Shim, Shim) {
    let (mut a, mut b) = (irmd.start("a").await, irmd.start("b").await);
    let at = b.bootstrap("127.0.0.1", &[]).await;
    a.bootstrap("127.0.0.1", &[format!("srv={at}")]).await;
    let srv = proto::Name::new("srv").unwrap();
    assert!(b.ask(Command::Register(srv)).await.is_ok());
    (a, b)
}

/// Flow 10 at the first, flow 20 at the second, joined.
async fn joined(a: &mut Shim, b: &mut Shim, ipcp: bool) -> (Joined, Joined) {
    let at_a = a.allocate(10, "srv", ipcp).await.unwrap();
    let request = b.request().await;
    let at_b = b.accept(request.request, 20, ipcp).await.unwrap();
    (a.join(&at_a).await, b.join(&at_b).await)
}

#[tokio::test]
async fn an_ipc_process_gets_the_udp_socket_and_its_datagrams_go_past_the_shim() {
    let irmd = Irmd::new();
    let (mut a, mut b) = pair(&irmd).await;
    let (end_a, end_b) = joined(&mut a, &mut b, true).await;
    let udp = |joined: &mut Joined| {
        let socket = UdpSocket::from(joined.handed.take().unwrap());
        socket.set_nonblocking(false).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    };
    let (mut end_a, mut end_b) = (end_a, end_b);
    let (udp_a, udp_b) = (udp(&mut end_a), udp(&mut end_b));
    assert_eq!(end_a.welcome.mtu, 65_505);
    // Stopped as they are, the shims can't carry anything.
    a.signal(rustix::process::Signal::STOP);
    b.signal(rustix::process::Signal::STOP);
    udp_a.send(b"to b").unwrap();
    udp_b.send(b"to a").unwrap();
    assert_eq!(sdu(&udp_b), b"to b");
    assert_eq!(sdu(&udp_a), b"to a");
    a.signal(rustix::process::Signal::CONT);
    b.signal(rustix::process::Signal::CONT);
    // The user ends the flow by leaving; the other side finds the port closed.
    drop((end_b, udp_b));
    assert_eq!(b.down().await.0, FlowId(20));
    let end = Instant::now() + Duration::from_secs(5);
    while udp_a.send(b"anybody?").is_ok() {
        assert!(Instant::now() < end, "the port is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_program_gets_records() {
    let irmd = Irmd::new();
    let (mut a, mut b) = pair(&irmd).await;
    let (end_a, end_b) = joined(&mut a, &mut b, false).await;
    assert!(end_a.handed.is_none() && end_b.handed.is_none());
    let mut record = Batch::new(Framing::Record);
    for sdu in [&b"one"[..], b"two", &[7; 9000]] {
        record.push(sdu.len()).unwrap().copy_from_slice(sdu);
    }
    end_a.socket.try_send(&record).unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        got.extend(records(&end_b.socket).await.unwrap());
    }
    assert_eq!(got, [b"one".to_vec(), b"two".to_vec(), vec![7; 9000]]);
    // The first leaves; the second is told why its flow is down.
    drop(end_a);
    assert_eq!(a.down().await.0, FlowId(10));
    let reason = records(&end_b.socket).await.unwrap_err();
    assert_eq!(reason.code, Code::Closed, "{reason}");
    assert_eq!(b.down().await.0, FlowId(20));
}

#[tokio::test]
async fn a_thousand_flows_made_and_closed_leave_no_descriptor() {
    let irmd = Irmd::new();
    let (mut a, mut b) = pair(&irmd).await;
    let before = (a.descriptors(), b.descriptors());
    for n in 0..1000 {
        let at_a = a.allocate(2 * n + 100, "srv", true).await.unwrap();
        let request = b.request().await;
        b.accept(request.request, 2 * n + 101, true).await.unwrap();
        drop(a.join(&at_a).await);
        a.down().await;
        let gone = Reason::new(Code::Closed, "done");
        assert!(
            b.ask(Command::Dealloc(FlowId(2 * n + 101), gone))
                .await
                .is_ok()
        );
    }
    let after = (a.descriptors(), b.descriptors());
    assert!(
        after.0 <= before.0 + 2 && after.1 <= before.1 + 2,
        "{before:?} became {after:?}"
    );
}

#[tokio::test]
async fn a_flood_of_requests_leaves_flows_their_rate_and_takes_at_most_1024_sockets() {
    let irmd = Irmd::new();
    let (mut a, mut b) = pair(&irmd).await;
    let (end_a, end_b) = joined(&mut a, &mut b, false).await;
    let flood = flood::start(b.at());
    let (mut written, mut came, mut most, mut memory) = (0_u64, 0_u64, 0, 0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        end_a.socket.try_send_sdu(&written.to_be_bytes()).unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
        came += waiting(&end_b.socket);
        most = most.max(b.descriptors());
        if begin.elapsed() < Duration::from_secs(2) {
            memory = b.memory_kib();
        }
    }
    let sent = flood.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    came += waiting(&end_b.socket);
    assert!(came * 10 >= written * 9, "{came} of {written} SDUs came");
    assert!((200..=1024 + 32).contains(&most), "{most} descriptors");
    assert!(
        b.memory_kib() < memory + 4096,
        "{memory} KiB became {}",
        b.memory_kib()
    );
    let Ok(Answer::Status(status)) = b.ask(Command::Status).await else {
        panic!("no status")
    };
    assert!(sent > 1000 && status.counters["requests"] > 1000);
    // A client that is in earnest gets through.
    assert!(a.allocate(11, "srv", false).await.is_ok());
}

#[tokio::test]
async fn status_counts_and_shutdown_ends_the_process() {
    let irmd = Irmd::new();
    let (mut a, mut b) = pair(&irmd).await;
    let _ends = joined(&mut a, &mut b, false).await;
    let Ok(Answer::Status(status)) = b.ask(Command::Status).await else {
        panic!("no status")
    };
    assert_eq!(
        (status.state.as_str(), status.flows.len(), status.names),
        ("up", 1, vec!["srv".to_owned()])
    );
    assert_eq!(status.counters["confirmed"], 1);
    assert!(b.ask(Command::Shutdown).await.is_ok());
    assert!(b.ended().await.success());
}

/// The next datagram that isn't empty.
fn sdu(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 100];
    loop {
        match socket.recv(&mut bytes).unwrap() {
            0 => {}
            len => return bytes[..len].to_vec(),
        }
    }
}

/// How many SDUs are there now.
fn waiting(socket: &RecordSocket) -> u64 {
    let (mut batch, mut count) = (Batch::new(Framing::Record), 0);
    while let Ok(Received::Data) = socket.try_recv(&mut batch) {
        count += batch.count() as u64;
    }
    count
}

/// The SDUs of the next record, or why the flow is down.
async fn records(socket: &RecordSocket) -> Result<Vec<Vec<u8>>, Reason> {
    let mut batch = Batch::new(Framing::Record);
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match socket.try_recv(&mut batch) {
            Ok(Received::Data) => return Ok(batch.iter().map(<[u8]>::to_vec).collect()),
            Ok(Received::Item(proto::record::Item::Down(reason))) => return Err(reason),
            Ok(Received::Item(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < end, "nothing came");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
}
