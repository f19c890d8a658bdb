//! Clients that know nothing but the seed, friendly and hostile.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use proto::ipcp::State;

use crate::host::{Host, bare, program};

async fn a_bare_client_gets_a_flow(ip: &str) {
    let mut host = Host::up(ip, &[]).await;
    // All that a reader of the seed knows: send the name to lp, learn sp from the echo, talk to sp.
    let client = bare(host.ip());
    client.send_to(b"srv", host.at).unwrap();
    host.until("an echo went", |h| h.shim.counter("echoes") == 1)
        .await;
    let mut bytes = [0; 100];
    let (len, sp) = client.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"srv");
    assert_ne!(sp.port(), host.at.port());
    client.connect(sp).unwrap();
    client.send(b"hello").unwrap();
    client.send(b"again").unwrap();
    host.until("the flow is asked for", |h| h.requests().len() == 1)
        .await;
    host.accept(1, 7, program());
    host.until("both SDUs came", |h| h.sdus.len() == 2).await;
    assert_eq!(host.sdus, [b"hello".to_vec(), b"again".to_vec()]);
    host.write(7, &[b"welcome"]);
    let len = client.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"welcome");
    drop(client);
    host.write(7, &[b"anybody?"]);
    host.until("the flow is down", |h| h.down(7).is_some())
        .await;
}

#[tokio::test]
async fn a_client_written_from_the_seed_alone_gets_a_flow_over_ipv4() {
    a_bare_client_gets_a_flow("127.0.0.1").await;
}

#[tokio::test]
async fn a_client_written_from_the_seed_alone_gets_a_flow_over_ipv6() {
    a_bare_client_gets_a_flow("::1").await;
}

#[tokio::test]
async fn what_a_client_sent_before_it_died_is_delivered_before_the_flow_goes_down() {
    let mut host = Host::up("127.0.0.1", &[]).await;
    let client = bare(host.ip());
    client.send_to(b"srv", host.at).unwrap();
    host.until("an echo went", |h| h.shim.counter("echoes") == 1)
        .await;
    let (_, sp) = client.recv_from(&mut [0; 9]).unwrap();
    for _ in 0..20 {
        client.send_to(b"last words", sp).unwrap();
    }
    host.until("the flow is asked for", |h| h.requests().len() == 1)
        .await;
    let cp = client.local_addr().unwrap();
    drop(client);
    // A repeated request, from a port that is closed by now, makes an echo that the kernel answers with an error.
    let again = UdpSocket::bind(cp).unwrap();
    again.send_to(b"srv", host.at).unwrap();
    drop(again);
    host.until("the second echo went", |h| h.shim.counter("echoes") == 2)
        .await;
    host.accept(1, 7, program());
    host.until("the flow is down", |h| h.down(7).is_some())
        .await;
    assert_eq!(host.sdus.len(), 20);
}

#[tokio::test]
async fn datagrams_of_every_size_on_the_request_port_are_counted_and_not_answered() {
    let mut host = Host::up("127.0.0.1", &[]).await;
    let client = bare(host.ip());
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let sizes = [0, 1, 255, 256, 257, 65_507];
    for size in sizes {
        client.send_to(&vec![b'x'; size], host.at).unwrap();
    }
    host.until("all are counted", |h| {
        h.shim.counter("requests") == sizes.len() as u64
    })
    .await;
    let counted = |what| host.shim.counter(what);
    // 1 and 255 bytes are names, of nobody here.
    assert_eq!(
        (counted("drop.unknown-name"), counted("drop.bad-name")),
        (2, 4)
    );
    assert!(
        client.recv_from(&mut [0; 9]).is_err(),
        "something was answered"
    );
    // It still serves.
    client.send_to(b"srv", host.at).unwrap();
    host.until("an echo went", |h| h.shim.counter("echoes") == 1)
        .await;
}

#[tokio::test]
async fn a_datagram_of_65_kb_confirms_and_is_delivered_whole() {
    let mut host = Host::up("127.0.0.1", &[]).await;
    let client = bare(host.ip());
    client.send_to(b"srv", host.at).unwrap();
    host.until("an echo went", |h| h.shim.counter("echoes") == 1)
        .await;
    let (_, sp) = client.recv_from(&mut [0; 9]).unwrap();
    client.send_to(&vec![7; 65_000], sp).unwrap();
    host.until("the flow is asked for", |h| h.requests().len() == 1)
        .await;
    host.accept(1, 7, program());
    host.until("it came", |h| h.sdus.len() == 1).await;
    assert_eq!(host.sdus[0], vec![7; 65_000]);
}

#[tokio::test]
async fn the_echo_of_another_socket_is_not_taken_for_the_flow() {
    let mut host = Host::up("127.0.0.1", &[]).await;
    let (client, stranger) = (bare(host.ip()), bare(host.ip()));
    client.send_to(b"srv", host.at).unwrap();
    host.until("an echo went", |h| h.shim.counter("echoes") == 1)
        .await;
    let (_, sp) = client.recv_from(&mut [0; 9]).unwrap();
    stranger.send_to(b"I am the client", sp).unwrap();
    host.during(Duration::from_millis(100)).await;
    assert!(host.requests().is_empty());
}

#[tokio::test]
async fn a_used_port_is_named_and_waited_for() {
    let used = bare("127.0.0.1".parse().unwrap());
    let at = used.local_addr().unwrap();
    let mut host = Host::bootstrapped(at, &[], None).await;
    host.until("it waits", |h| h.state() == Some(State::Waiting))
        .await;
    let text = format!("{:?}", host.events);
    assert!(
        text.contains("in use") && text.contains(&at.port().to_string()),
        "{text}"
    );
    drop(used);
    host.until("it is up", |h| h.state() == Some(State::Up))
        .await;
}

#[tokio::test]
async fn an_address_of_another_host_is_named_and_waited_for() {
    let at: SocketAddr = "192.0.2.1:3359".parse().unwrap();
    let mut host = Host::bootstrapped(at, &[], None).await;
    host.until("it waits", |h| h.state() == Some(State::Waiting))
        .await;
    assert!(format!("{:?}", host.events).contains("192.0.2.1"));
}

#[tokio::test]
async fn five_hundred_clients_that_never_confirm_cost_64_sockets() {
    let mut host = Host::up("127.0.0.1", &[]).await;
    let mut clients = Vec::new();
    for n in 0..500 {
        clients.push(bare(host.ip()));
        clients[n].send_to(b"srv", host.at).unwrap();
        if n % 100 == 99 {
            host.step().await;
        }
    }
    host.until("all are counted", |h| h.shim.counter("requests") == 500)
        .await;
    assert_eq!(
        (
            host.shim.sockets().0,
            host.shim.counter("drop.source-limit")
        ),
        (64, 436)
    );
}
