//! Flows between two shims, and between a shim and a server that knows nothing but the seed.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use proto::Code;
use proto::ipcp::{Command, Dns, Offload, OffloadKind, OffloadMode, Settings, ShimUdp};

use crate::host::{Host, bare, both, ipcp, program};

/// A client, and the server that it knows as `srv`.
async fn pair(ip: &str) -> (Host, Host) {
    let server = Host::up(ip, &[]).await;
    let client = Host::up(ip, &[format!("srv={}", server.at)]).await;
    (client, server)
}

/// A pair with flow 10 at the client and flow 20 at the server.
async fn flow(ip: &str) -> (Host, Host) {
    let (mut a, mut b) = pair(ip).await;
    a.allocate(10, "srv", program(), 5000);
    both(&mut a, &mut b, "allocated and asked for", |a, b| {
        a.allocated(10).is_some() && b.requests().len() == 1
    })
    .await;
    b.accept(1, 20, program());
    (a, b)
}

async fn trains_arrive_whole(ip: &str, offload: &[(OffloadKind, OffloadMode)]) {
    let (mut a, mut b) = flow(ip).await;
    let offload: Vec<_> = offload
        .iter()
        .map(|(kind, mode)| Offload {
            kind: *kind,
            mode: *mode,
        })
        .collect();
    a.control(
        3,
        Command::Set(Settings {
            offload: offload.clone(),
            ..Settings::default()
        }),
    );
    b.control(
        3,
        Command::Set(Settings {
            offload,
            ..Settings::default()
        }),
    );
    let sdus: Vec<Vec<u8>> = (0..50u8)
        .map(|n| vec![n; 1200 - usize::from(n % 10 == 9) * 300])
        .collect();
    let slices: Vec<&[u8]> = sdus.iter().map(Vec::as_slice).collect();
    a.write(10, &slices);
    both(&mut a, &mut b, "50 SDUs came", |_, b| b.sdus.len() == 50).await;
    assert_eq!(b.sdus, sdus);
}

#[tokio::test]
async fn a_train_arrives_whole_and_in_order_over_ipv4() {
    trains_arrive_whole("127.0.0.1", &[]).await;
}

#[tokio::test]
async fn a_train_arrives_whole_and_in_order_over_ipv6() {
    trains_arrive_whole("::1", &[]).await;
}

#[tokio::test]
async fn a_train_arrives_whole_without_offloads() {
    trains_arrive_whole(
        "127.0.0.1",
        &[
            (OffloadKind::Gso, OffloadMode::Off),
            (OffloadKind::Gro, OffloadMode::Off),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_shim_that_moves_answers_at_its_new_address_alone_and_its_flows_go_on() {
    let (mut a, mut b) = flow("127.0.0.1").await;
    let to = |ip: [u8; 4]| Settings {
        ip: Some(IpAddr::from(ip).into()),
        ..Settings::default()
    };
    b.control(7, Command::Set(to([0, 0, 0, 0])));
    assert!(matches!(b.answer(7), Some(Err(e)) if e.code == Code::Usage));
    b.control(8, Command::Set(to([127, 0, 0, 2])));
    assert!(matches!(b.answer(8), Some(Ok(_))));
    // A's requests go to where B was.
    a.allocate(11, "srv", program(), 300);
    both(&mut a, &mut b, "given up", |a, _| a.answer(11).is_some()).await;
    assert!(matches!(a.answer(11), Some(Err(_))) && b.requests().len() == 1);
    let hosts = vec![format!("srv=127.0.0.2:{}", b.at.port()).parse().unwrap()];
    a.control(
        9,
        Command::Set(Settings {
            hosts,
            ..Settings::default()
        }),
    );
    a.allocate(12, "srv", program(), 5000);
    both(&mut a, &mut b, "asked for", |_, b| b.requests().len() == 2).await;
    a.write(10, &[b"still here"]);
    both(&mut a, &mut b, "it came", |_, b| !b.sdus.is_empty()).await;
    assert_eq!(b.sdus, [b"still here"]);
    // A moves as well: what it asks for then comes from there.
    a.control(10_000, Command::Set(to([127, 0, 0, 3])));
    a.allocate(13, "srv", program(), 5000);
    both(&mut a, &mut b, "asked for", |_, b| b.requests().len() == 3).await;
}

#[tokio::test]
async fn the_mtu_is_that_of_the_path() {
    let (a, b) = flow("127.0.0.1").await;
    // Loopback has 65536, more than a record holds.
    assert_eq!(
        (a.allocated(10), b.requests()[0].mtu),
        (Some(65_505), 65_505)
    );
}

#[tokio::test]
async fn the_handed_over_socket_carries_datagrams_and_the_shim_is_off_it() {
    let (mut a, mut b) = pair("127.0.0.1").await;
    a.allocate(10, "srv", ipcp(), 5000);
    both(&mut a, &mut b, "asked for", |_, b| b.requests().len() == 1).await;
    b.accept(1, 20, ipcp());
    let (at_a, at_b) = (
        UdpSocket::from(a.handed.remove(0)),
        UdpSocket::from(b.handed.remove(0)),
    );
    at_b.set_nonblocking(false).unwrap();
    at_b.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for n in 0..100u8 {
        at_a.send(&[n; 1400]).unwrap();
    }
    b.during(Duration::from_millis(50)).await;
    let mut got = Vec::new();
    let mut bytes = [0; 2000];
    while got.len() < 100 {
        let len = at_b.recv(&mut bytes).unwrap();
        // The client's empty datagrams may come in between.
        if len > 0 {
            got.push(bytes[0]);
        }
    }
    assert_eq!(got, (0..100).collect::<Vec<u8>>());
    assert!(b.sdus.is_empty());
}

#[tokio::test]
async fn a_refused_flow_goes_down_with_that_reason() {
    let (mut a, mut b) = pair("127.0.0.1").await;
    a.allocate(10, "srv", program(), 5000);
    both(&mut a, &mut b, "asked for", |_, b| b.requests().len() == 1).await;
    b.refuse(1);
    both(&mut a, &mut b, "down", |a, _| a.down(10).is_some()).await;
    assert_eq!(a.down(10).unwrap().code, Code::Refused);
}

#[tokio::test]
async fn an_echo_from_elsewhere_or_of_something_else_is_ignored() {
    let (lp, sp) = (
        bare("127.0.0.1".parse().unwrap()),
        bare("127.0.0.1".parse().unwrap()),
    );
    let elsewhere = bare("127.0.0.2".parse().unwrap());
    let mut client = Host::up("127.0.0.1", &[format!("srv={}", lp.local_addr().unwrap())]).await;
    client.allocate(10, "srv", program(), 5000);
    client
        .until("a request went", |h| h.shim.counter("requests.sent") > 0)
        .await;
    let mut bytes = [0; 100];
    let (len, cp) = lp.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"srv");
    elsewhere.send_to(b"srv", cp).unwrap();
    lp.send_to(b"srv", cp).unwrap();
    sp.send_to(b"other", cp).unwrap();
    client
        .until("they are counted", |h| {
            h.shim.counter("drop.echo-source") + h.shim.counter("drop.echo-payload") == 3
        })
        .await;
    assert!(client.answer(10).is_none());
    sp.send_to(b"srv", cp).unwrap();
    client
        .until("allocated", |h| h.allocated(10).is_some())
        .await;
    // The server that knows the seed alone gets the empty datagram, and the flow works.
    assert_eq!(sp.recv(&mut bytes).unwrap(), 0);
    sp.send_to(b"hello", cp).unwrap();
    client
        .until("an SDU came", |h| h.sdus == [b"hello".to_vec()])
        .await;
}

#[tokio::test]
async fn nobody_there_is_a_timeout_that_says_what_to_look_at() {
    let nobody = bare("127.0.0.1".parse().unwrap()).local_addr().unwrap();
    let mut client = Host::up("127.0.0.1", &[format!("srv={nobody}")]).await;
    client.allocate(10, "srv", program(), 300);
    client.until("it failed", |h| h.answer(10).is_some()).await;
    let reason = client.answer(10).unwrap().as_ref().unwrap_err();
    assert_eq!(reason.code, Code::TimedOut);
    assert!(reason.text.contains("firewall"), "{reason}");
}

#[tokio::test]
async fn flows_stay_within_the_flow_ports_and_say_so_when_they_are_used_up() {
    let first = bare("127.0.0.1".parse().unwrap())
        .local_addr()
        .unwrap()
        .port()
        .clamp(2000, 60_000);
    let server = Host::up("127.0.0.1", &[]).await;
    let at = bare("127.0.0.1".parse().unwrap()).local_addr().unwrap();
    let mut client = Host::bootstrapped(
        at,
        &[format!("srv={}", server.at)],
        Some((first, first + 3)),
    )
    .await;
    client.until("up", |h| h.state().is_some()).await;
    for flow in 10..15 {
        client.allocate(flow, "srv", program(), 5000);
    }
    client
        .until("one fails", |h| (10..15).any(|f| h.answer(f).is_some()))
        .await;
    let failed = (10..15)
        .find_map(|f| client.answer(f))
        .unwrap()
        .as_ref()
        .unwrap_err();
    assert_eq!(failed.code, Code::Busy);
    assert!(failed.text.contains("--flow-ports"), "{failed}");
}

#[tokio::test]
async fn two_hundred_flows_at_once_all_stand() {
    let (mut a, mut b) = pair("127.0.0.1").await;
    for flow in 100..300 {
        a.allocate(flow, "srv", ipcp(), 5000);
    }
    both(&mut a, &mut b, "all are allocated", |a, b| {
        (100..300).all(|f| a.allocated(f).is_some()) && b.requests().len() == 200
    })
    .await;
}

#[tokio::test]
async fn a_host_name_is_looked_up_in_the_dns() {
    let server = bare("127.0.0.1".parse().unwrap());
    let at = bare("127.0.0.1".parse().unwrap()).local_addr().unwrap();
    let dns = Some(Dns::Server(server.local_addr().unwrap()));
    let config = ShimUdp {
        ip: at.ip().into(),
        port: at.port(),
        hosts: vec![],
        dns,
        flow_ports: None,
        offload: vec![],
    };
    let mut client = Host::with(at, config).await;
    client.until("up", |h| h.state().is_some()).await;
    client.allocate(10, "host.example", program(), 1000);
    let answering = std::thread::spawn(move || answer_with_127_0_0_2(&server));
    client
        .until("a request went", |h| h.shim.counter("requests.sent") > 0)
        .await;
    client.until("in vain", |h| h.answer(10).is_some()).await;
    assert!(
        client
            .answer(10)
            .unwrap()
            .as_ref()
            .unwrap_err()
            .text
            .contains("127.0.0.2")
    );
    answering.join().unwrap();
}

/// Answers questions for A records with 127.0.0.2 and others with nothing, until none comes for a while (RFC 1035).
fn answer_with_127_0_0_2(server: &UdpSocket) {
    server
        .set_read_timeout(Some(Duration::from_millis(1500)))
        .unwrap();
    let mut query = [0; 512];
    while let Ok((len, from)) = server.recv_from(&mut query) {
        let name_end = 12 + query[12..len].iter().position(|b| *b == 0).unwrap() + 1;
        let is_a = query[name_end..name_end + 2] == [0, 1];
        let mut reply = query[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        reply.extend(&query[12..name_end + 4]);
        if is_a {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 2]);
        }
        server.send_to(&reply, from).unwrap();
    }
}
