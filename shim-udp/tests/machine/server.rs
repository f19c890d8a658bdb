//! The server's rules: requests, echoes, confirmation, repetition, refusal, limits.

use std::net::SocketAddr;

use crate::bench::{Wire, ipcp, ms, name, program, secs};
use proto::ipcp::{Command, Respond};
use proto::{Code, FlowId, Reason};

const CLIENT: &str = "10.0.0.9:5000";

fn server() -> Wire {
    Wire::pair()
}

/// Where the latest echo to the client came from.
fn sp(wire: &Wire) -> SocketAddr {
    wire.sent_to(CLIENT).last().unwrap().from
}

#[test]
fn only_a_registered_name_is_echoed() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    assert_eq!(wire.sent_to(CLIENT).len(), 1);
    assert_eq!(wire.sent_to(CLIENT)[0].bytes, b"srv");
    wire.request(CLIENT, b"other");
    wire.control(1, 9, Command::Unregister(name("srv")));
    wire.request("10.0.0.9:5001", b"srv");
    assert_eq!(wire.seen.len(), 1);
    assert_eq!(wire.hosts[1].shim.counter("drop.unknown-name"), 2);
}

#[test]
fn what_is_no_name_is_counted_and_not_answered() {
    let mut wire = server();
    for bytes in [&b""[..], &[b'x'; 256], &[0xff, 0xfe], b"a\0b", b"srv\n"] {
        wire.request(CLIENT, bytes);
    }
    assert_eq!(
        (wire.seen.len(), wire.hosts[1].shim.counter("drop.bad-name")),
        (0, 5)
    );
}

#[test]
fn a_request_that_can_have_no_client_is_dropped() {
    let mut wire = server();
    for from in [
        "10.0.0.9:3359",
        "10.0.0.9:0",
        "255.255.255.255:9",
        "224.0.0.1:9",
        "0.0.0.0:9",
        "[ff02::1]:9",
        "[::]:9",
    ] {
        wire.request(from, b"srv");
    }
    assert_eq!(
        (
            wire.seen.len(),
            wire.hosts[1].shim.counter("drop.bad-source")
        ),
        (0, 7)
    );
}

#[test]
fn irmd_hears_of_a_request_only_when_it_is_confirmed() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    assert!(wire.hosts[1].requests().is_empty());
    let sp = sp(&wire);
    wire.inject(CLIENT, sp, b"");
    let requests = wire.hosts[1].requests();
    assert_eq!(
        (requests.len(), requests[0].name.as_str(), requests[0].mtu),
        (1, "srv", 1472)
    );
    assert!(requests[0].peer.member.is_none() && requests[0].peer.layer.is_some());
}

#[test]
fn what_a_client_sends_before_it_is_accepted_is_delivered_afterwards_in_order() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let sp = sp(&wire);
    for sdu in [&b"one"[..], b"two", b"three"] {
        wire.inject(CLIENT, sp, sdu);
    }
    assert!(wire.hosts[1].sdus.is_empty());
    wire.accept(1, 1, 7, program());
    let sdus: Vec<_> = wire.hosts[1]
        .sdus
        .iter()
        .map(|(_, sdu)| sdu.as_slice())
        .collect();
    assert_eq!(sdus, [&b"one"[..], b"two", b"three"]);
}

#[test]
fn the_socket_of_an_ipc_process_is_handed_over_with_all_that_waits_in_it() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let sp = sp(&wire);
    wire.inject(CLIENT, sp, b"");
    wire.inject(CLIENT, sp, b"one");
    wire.accept(1, 1, 7, ipcp());
    wire.inject(CLIENT, sp, b"two");
    assert_eq!(wire.hosts[1].waiting(), [b"one".to_vec(), b"two".to_vec()]);
    wire.pass(secs(3600));
    assert!(
        wire.hosts[1].downs().is_empty() && wire.sent_to(CLIENT).len() == 1,
        "the shim is not off the data path"
    );
    wire.input(
        1,
        layer::Input::UpperGone(FlowId(7), Reason::new(Code::Closed, "done")),
    );
    assert_eq!(
        (wire.hosts[1].open_sockets(), wire.hosts[1].downs().len()),
        (0, 1)
    );
}

#[test]
fn a_datagram_of_a_stranger_does_not_confirm() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let key = wire.hosts[1]
        .asks
        .iter()
        .find_map(|a| {
            if let shim_udp::Ask::Open(o) = a {
                Some(o.key)
            } else {
                None
            }
        })
        .unwrap();
    let tell = shim_udp::Tell::Front(key, "10.0.0.8:5000".parse().unwrap(), b"hello".to_vec());
    wire.input(1, layer::Input::Tell(tell));
    assert_eq!(wire.hosts[1].shim.counter("drop.stranger"), 1);
    assert!(wire.hosts[1].requests().is_empty());
}

#[test]
fn a_refused_client_finds_the_port_closed() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let sp = sp(&wire);
    wire.inject(CLIENT, sp, b"");
    let verdict = Err(Reason::new(Code::Refused, "no"));
    wire.control(
        1,
        5,
        Command::Respond(Respond {
            request: 1,
            verdict,
        }),
    );
    assert_eq!(wire.hosts[1].open_sockets(), 0);
}

#[test]
fn an_unconfirmed_request_is_reclaimed_after_5_s() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    wire.pass(ms(4999));
    assert_eq!(wire.hosts[1].open_sockets(), 1);
    wire.pass(ms(1));
    assert_eq!(
        (
            wire.hosts[1].open_sockets(),
            wire.hosts[1].shim.counter("drop.unconfirmed")
        ),
        (0, 1)
    );
}

#[test]
fn a_request_that_irmd_does_not_answer_is_reclaimed() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let sp = sp(&wire);
    wire.inject(CLIENT, sp, b"");
    wire.pass(secs(11));
    assert_eq!(
        (
            wire.hosts[1].open_sockets(),
            wire.hosts[1].shim.counter("drop.unanswered")
        ),
        (0, 1)
    );
    wire.accept(1, 1, 7, program());
    let answer = wire.hosts[1].answer(1_000_001).unwrap();
    assert_eq!(answer.as_ref().unwrap_err().code, Code::NotFound);
}

#[test]
fn a_repeated_request_gets_the_same_port_and_one_echo_each() {
    let mut wire = server();
    for _ in 0..4 {
        wire.request(CLIENT, b"srv");
        wire.pass(ms(900));
    }
    let echoes = wire.sent_to(CLIENT);
    assert_eq!(echoes.len(), 4);
    assert!(echoes.iter().all(|e| e.from == echoes[0].from));
    let sp = sp(&wire);
    wire.inject(CLIENT, sp, b"");
    wire.request(CLIENT, b"srv");
    assert_eq!(wire.sent_to(CLIENT)[4].from, echoes[0].from);
    assert_eq!(
        (wire.hosts[1].requests().len(), wire.hosts[1].open_sockets()),
        (1, 1)
    );
}

#[test]
fn the_same_request_after_5_s_is_a_new_flow_and_the_old_one_ends_when_that_is_confirmed() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let old = sp(&wire);
    wire.inject(CLIENT, old, b"");
    wire.accept(1, 1, 7, program());
    wire.pass(secs(6));
    wire.request(CLIENT, b"srv");
    let new = sp(&wire);
    assert_ne!(old, new);
    assert!(
        wire.hosts[1].downs().is_empty(),
        "a request alone, which may be forged, must end nothing"
    );
    wire.inject(CLIENT, new, b"");
    assert_eq!(wire.hosts[1].downs()[0].0, FlowId(7));
    assert_eq!(wire.hosts[1].requests().len(), 2);
}

#[test]
fn a_forged_new_request_that_nobody_confirms_leaves_the_flow_as_it_was() {
    let mut wire = server();
    wire.request(CLIENT, b"srv");
    let old = sp(&wire);
    wire.inject(CLIENT, old, b"");
    wire.accept(1, 1, 7, ipcp());
    for _ in 0..3 {
        wire.pass(secs(6));
        wire.request(CLIENT, b"srv");
    }
    wire.pass(secs(6));
    assert!(wire.hosts[1].downs().is_empty());
    assert_eq!(wire.hosts[1].open_sockets(), 1);
}

#[test]
fn the_same_port_may_ask_for_two_names() {
    let mut wire = server();
    wire.control(1, 3, Command::Register(name("srv2")));
    wire.request(CLIENT, b"srv");
    wire.request(CLIENT, b"srv2");
    let echoes = wire.sent_to(CLIENT);
    assert_ne!(echoes[0].from, echoes[1].from);
}

#[test]
fn a_source_has_64_unconfirmed_at_once() {
    let mut wire = server();
    for port in 1000..1100 {
        wire.request(&format!("10.0.0.9:{port}"), b"srv");
    }
    assert_eq!(wire.hosts[1].open_sockets(), 64);
    assert_eq!(wire.hosts[1].shim.counter("drop.source-limit"), 36);
    wire.request("10.0.0.8:1000", b"srv");
    assert_eq!(wire.hosts[1].open_sockets(), 65);
    wire.pass(secs(5));
    assert_eq!(wire.hosts[1].open_sockets(), 0);
}

#[test]
fn a_flow_id_that_is_taken_is_a_conflict_and_leaves_no_socket() {
    let mut wire = server();
    for (request, client) in [(1, "10.0.0.9:1"), (2, "10.0.0.9:2")] {
        wire.request(client, b"srv");
        let sp = wire.sent_to(client)[0].from;
        wire.inject(client, sp, b"");
        wire.accept(1, request, 7, program());
    }
    assert_eq!(
        wire.hosts[1]
            .answer(1_000_002)
            .unwrap()
            .as_ref()
            .unwrap_err()
            .code,
        Code::Conflict
    );
    assert_eq!(wire.hosts[1].open_sockets(), 1);
}
