//! The UDP data port over loopback.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ipcp::Counters;
use ipcp::udp::{Offloads, Received, Sent, UdpPort, overflowed};
use libflow::{Batch, Framing};
use nix::{libc, setsockopt_impl, sockopt_impl};
use proto::ipcp::OffloadMode;

fn sockets(ip: &str) -> (UdpSocket, UdpSocket) {
    let (a, b) = (
        UdpSocket::bind((ip, 0)).unwrap(),
        UdpSocket::bind((ip, 0)).unwrap(),
    );
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    (a, b)
}

fn port(socket: UdpSocket, gso: OffloadMode, gro: OffloadMode) -> UdpPort {
    UdpPort::new(socket, Offloads { gso, gro }, Instant::now()).unwrap()
}

fn train(packets: usize, size: usize, last: usize) -> Batch {
    let mut batch = Batch::new(Framing::Train);
    for n in 0..packets {
        let len = if n + 1 == packets { last } else { size };
        batch.push(len).unwrap().fill(n as u8);
    }
    batch
}

/// All packets that arrive until `count` are there, in as many batches as they came in.
fn receive(port: &mut UdpPort, count: usize) -> Vec<Batch> {
    let (until, mut got, mut all) = (Instant::now() + Duration::from_secs(5), 0, Vec::new());
    while got < count {
        let mut batch = Batch::new(Framing::Train);
        match port.recv(&mut batch, Instant::now()) {
            Received::Packets => {
                got += batch.count();
                all.push(batch);
            }
            Received::Nothing => {
                assert!(Instant::now() < until, "{got} of {count} came");
                std::thread::sleep(Duration::from_millis(1));
            }
            other => panic!("{other:?}"),
        }
    }
    all
}

fn bytes(batches: &[Batch]) -> Vec<Vec<u8>> {
    batches
        .iter()
        .flat_map(|b| b.iter().map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_train_arrives_as_it_was_sent_whatever_the_switches() {
    for ip in ["127.0.0.1", "::1"] {
        for gso in [OffloadMode::Auto, OffloadMode::On, OffloadMode::Off] {
            for gro in [OffloadMode::Auto, OffloadMode::Off] {
                let (a, b) = sockets(ip);
                let (mut a, mut b) = (port(a, gso, gro), port(b, gso, gro));
                let (sent, mut counters) = (train(40, 1400, 900), Counters::default());
                assert_eq!(a.send(&sent, 0, &mut counters, Instant::now()), Sent::Done);
                let got = receive(&mut b, 40);
                assert_eq!(bytes(&got), bytes(&[sent]), "{ip} {gso:?} {gro:?}");
                if gro == OffloadMode::Off {
                    assert_eq!(got.len(), 40);
                } else if gso != OffloadMode::Off {
                    assert!(got.len() < 40, "no coalescing on {ip}");
                }
                let trains = u64::from(gso != OffloadMode::Off);
                assert_eq!(counters.get("udp.gso_trains"), trains);
                assert_eq!(counters.iter().count() as u64, trains);
            }
        }
    }
}

#[test]
fn what_comes_says_how_long_it_waited_to_be_read() {
    for ip in ["127.0.0.1", "::1"] {
        let (a, b) = sockets(ip);
        let auto = OffloadMode::Auto;
        let (mut a, mut b) = (port(a, auto, auto), port(b, auto, auto));
        let (mut counters, begin) = (Counters::default(), Instant::now());
        assert_eq!(
            a.send(&train(4, 1400, 1400), 0, &mut counters, begin),
            Sent::Done
        );
        std::thread::sleep(Duration::from_millis(20));
        let waited = receive(&mut b, 4)[0].waited();
        assert!(waited >= Duration::from_millis(20), "{waited:?} on {ip}");
        assert!(waited <= begin.elapsed(), "{waited:?} on {ip}");
    }
}

#[test]
fn packets_in_records_go_one_by_one() {
    let (a, b) = sockets("127.0.0.1");
    let (mut a, mut b) = (
        port(a, OffloadMode::Auto, OffloadMode::Off),
        port(b, OffloadMode::Auto, OffloadMode::Off),
    );
    let mut batch = Batch::new(Framing::Record);
    for size in [1, 900, 30] {
        batch.push(size).unwrap().fill(size as u8);
    }
    assert_eq!(
        a.send(&batch, 0, &mut Counters::default(), Instant::now()),
        Sent::Done
    );
    assert_eq!(bytes(&receive(&mut b, 3)), bytes(&[batch]));
}

#[test]
fn an_empty_datagram_is_a_sign_of_life_and_silence_after_one_is_the_end() {
    let (a, b) = sockets("127.0.0.1");
    let (mut a, mut b) = (
        port(a, OffloadMode::Auto, OffloadMode::Auto),
        port(b, OffloadMode::Auto, OffloadMode::Auto),
    );
    let start = Instant::now();
    let later = |secs| start + Duration::from_secs(secs);
    // Nobody who never sent an empty one is given up for silence.
    assert!(b.timeout(later(1000)));
    assert!(a.timeout(later(6)));
    let mut batch = Batch::new(Framing::Train);
    assert_eq!(b.recv(&mut batch, later(6)), Received::KeepAlive);
    assert!(b.timeout(later(25)));
    assert_eq!(b.deadline(), later(26));
    assert!(!b.timeout(later(26)));
}

#[test]
fn a_closed_port_shows_only_after_what_was_queued_before() {
    let (a, b) = sockets("127.0.0.1");
    let mut a = port(a, OffloadMode::Auto, OffloadMode::Auto);
    b.send(b"last words").unwrap();
    drop(b);
    // Loopback answers with port unreachable at once; the error is pending on the socket now, before the data.
    let mut counters = Counters::default();
    for _ in 0..3 {
        a.send(&train(1, 10, 10), 0, &mut counters, Instant::now());
    }
    assert!(a.has_news());
    let mut batch = Batch::new(Framing::Train);
    assert_eq!(a.recv(&mut batch, Instant::now()), Received::Packets);
    assert_eq!(batch.bytes(), b"last words");
    assert_eq!(a.recv(&mut batch, Instant::now()), Received::Refused);
}

#[test]
fn a_packet_above_the_path_is_dropped_alone_and_counted() {
    let (a, b) = sockets("127.0.0.1");
    let (mut a, mut b) = (
        port(a, OffloadMode::Auto, OffloadMode::Auto),
        port(b, OffloadMode::Auto, OffloadMode::Auto),
    );
    assert_eq!(a.mtu(), 65_505);
    // Loopback carries all that fits into a datagram; what does not is refused by the kernel with EMSGSIZE.
    let mut batch = Batch::new(Framing::Train);
    batch.space().fill(1);
    batch.set_train(65_536, 65_520);
    let mut counters = Counters::default();
    assert_eq!(a.send(&batch, 0, &mut counters, Instant::now()), Sent::Done);
    assert_eq!(counters.get("drop.udp_too_big"), 1);
    assert_eq!(bytes(&receive(&mut b, 1)), [vec![1; 16]]);
}

#[test]
fn each_train_goes_with_the_class_that_it_has() {
    for ip in ["127.0.0.1", "::1"] {
        for gso in [OffloadMode::Auto, OffloadMode::Off] {
            let (a, b) = sockets(ip);
            let mut sender = port(a, gso, OffloadMode::Auto);
            heed_class(&b);
            let mut counters = Counters::default();
            for dscp in [48, 0, 46, 34, 10, 0] {
                let mut train = train(3, 100, 60);
                train.set_dscp(dscp);
                let sent = sender.send(&train, 0, &mut counters, Instant::now());
                assert_eq!(sent, Sent::Done);
                for len in [100, 100, 60] {
                    assert_eq!(class_of_next(&b), (len, dscp << 2), "{ip} {gso:?}");
                }
            }
            let trains = if gso == OffloadMode::Off { 0 } else { 6 };
            assert_eq!(counters.get("udp.gso_trains"), trains);
            assert!(counters.iter().all(|(name, _)| name == "udp.gso_trains"));
        }
    }
}

#[test]
fn what_the_kernel_drops_at_a_socket_that_is_not_read_is_counted() {
    for ip in ["127.0.0.1", "::1"] {
        let (a, b) = sockets(ip);
        let b = port(b, OffloadMode::Auto, OffloadMode::Auto);
        rustix::net::sockopt::set_socket_recv_buffer_size(&b, 4096).unwrap();
        assert_eq!(overflowed(&b), 0);
        let fits = (0..).find(|_| {
            a.send(&[7; 1000]).unwrap();
            overflowed(&b) > 0
        });
        assert!(
            fits.is_some_and(|n| (1..100).contains(&n)),
            "{ip}: {fits:?}"
        );
        for _ in 0..50 {
            a.send(&[7; 1000]).unwrap();
        }
        assert_eq!(overflowed(&b), 51, "{ip}");
    }
}

fn heed_class(socket: &UdpSocket) {
    use rustix::net::sockopt;
    if socket.local_addr().unwrap().is_ipv4() {
        sockopt::set_ip_recvtos(socket, true).unwrap();
    } else {
        sockopt::set_ipv6_recvtclass(socket, true).unwrap();
    }
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
}

/// The size of the next datagram, and the byte in its IP header that says class and congestion.
fn class_of_next(socket: &UdpSocket) -> (usize, u8) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let (mut bytes, mut space) = ([0; 2000], nix::cmsg_space!(i32, i32));
    let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .unwrap();
    let class = got.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
        ControlMessageOwned::Ipv6TClass(class) => Some(class as u8),
        _ => None,
    });
    (got.bytes, class.unwrap())
}

#[test]
fn a_buffer_that_drains_slowly_becomes_smaller_and_grows_again_when_it_is_fast() {
    let (a, _b) = sockets("127.0.0.1");
    let mut sender = port(a, OffloadMode::Auto, OffloadMode::Auto);
    assert_eq!(sender.send_buffer(), UdpPort::SEND_BUFFER);
    for _ in 0..20 {
        sender.was_full(Duration::from_millis(50));
    }
    assert_eq!(sender.send_buffer(), UdpPort::SEND_BUFFER / 32);
    sender.was_full(Duration::from_millis(2));
    assert_eq!(sender.send_buffer(), UdpPort::SEND_BUFFER / 32);
    for _ in 0..20 {
        sender.was_full(Duration::ZERO);
    }
    assert_eq!(sender.send_buffer(), UdpPort::SEND_BUFFER);
}

#[test]
fn segmentation_ends_at_the_first_error_that_it_causes_and_nothing_is_lost() {
    for ip in ["127.0.0.1", "::1"] {
        let (a, b) = sockets(ip);
        let auto = OffloadMode::Auto;
        // Without checksums the kernel cuts nothing: EINVAL.
        nix::sys::socket::setsockopt(&a, NoCheck, &true).unwrap();
        if ip == "::1" {
            nix::sys::socket::setsockopt(&a, NoCheck6, &true).unwrap();
            nix::sys::socket::setsockopt(&b, NoCheck6Received, &true).unwrap();
        }
        let (mut a, mut b) = (port(a, auto, auto), port(b, auto, auto));
        assert!(a.offloads().1 && !a.gso_ended());
        let (sent, mut counters) = (train(30, 1400, 900), Counters::default());
        for _ in 0..2 {
            assert_eq!(a.send(&sent, 0, &mut counters, Instant::now()), Sent::Done);
            assert_eq!(
                bytes(&receive(&mut b, 30)),
                bytes(std::slice::from_ref(&sent))
            );
            assert!(!a.offloads().1 && a.gso_ended(), "{ip}");
            assert_eq!(counters.get("udp.gso_failed"), 1);
        }
        // Switched on anew, it is tried anew.
        a.set_offloads(a.offloads().0);
        assert!(a.offloads().1);
        assert_eq!(a.send(&sent, 0, &mut counters, Instant::now()), Sent::Done);
        assert_eq!(counters.get("udp.gso_failed"), 2);
    }
}

#[test]
fn coalescing_is_switched_while_packets_come_and_none_is_lost() {
    for ip in ["127.0.0.1", "::1"] {
        let (a, b) = sockets(ip);
        let auto = OffloadMode::Auto;
        let (mut a, mut b) = (port(a, auto, auto), port(b, auto, auto));
        let (sent, mut counters) = (train(40, 1400, 900), Counters::default());
        let off = Offloads {
            gro: OffloadMode::Off,
            ..Offloads::default()
        };
        let mut batch = Batch::new(Framing::Train);
        for switches in [off, Offloads::default(), off] {
            // What waits was coalesced as it stood before the switch.
            let before = b.coalesces();
            a.send(&sent, 0, &mut counters, Instant::now());
            b.set_offloads(switches);
            let got = receive(&mut b, 40);
            assert_eq!(bytes(&got), bytes(std::slice::from_ref(&sent)), "{ip}");
            assert_eq!(got.len() < 40, before, "{ip} {switches:?}");
            assert_eq!(b.recv(&mut batch, Instant::now()), Received::Nothing);
            assert_eq!(b.coalesces(), switches != off);
        }
        a.send(&sent, 0, &mut counters, Instant::now());
        assert_eq!(receive(&mut b, 40).len(), 40);
        // Where nothing waits it is so at once.
        b.set_offloads(Offloads::default());
        assert!(b.coalesces());
        b.set_offloads(off);
        assert!(!b.coalesces());
    }
}

#[test]
fn an_error_of_all_that_is_sent_says_nothing_of_segmentation() {
    let (a, b) = sockets("127.0.0.1");
    let shut = a.try_clone().unwrap();
    let (mut a, _b) = (port(a, OffloadMode::Auto, OffloadMode::Auto), b);
    rustix::net::shutdown(&shut, rustix::net::Shutdown::Write).unwrap();
    let mut counters = Counters::default();
    let sent = train(5, 1400, 1400);
    assert_eq!(a.send(&sent, 0, &mut counters, Instant::now()), Sent::Done);
    assert_eq!(counters.get("drop.udp_send"), 5);
    assert_eq!(counters.get("udp.gso_failed"), 0);
    assert!(a.offloads().1 && !a.gso_ended());
}

sockopt_impl!(
    /// `SO_NO_CHECK`
    NoCheck, SetOnly, libc::SOL_SOCKET, libc::SO_NO_CHECK, bool
);
sockopt_impl!(
    /// `UDP_NO_CHECK6_TX`
    NoCheck6, SetOnly, libc::IPPROTO_UDP, NO_CHECK6_TX, bool
);
sockopt_impl!(
    /// `UDP_NO_CHECK6_RX`
    NoCheck6Received, SetOnly, libc::IPPROTO_UDP, NO_CHECK6_RX, bool
);

/// Of `linux/udp.h`.
const NO_CHECK6_TX: i32 = 101;
const NO_CHECK6_RX: i32 = 102;
