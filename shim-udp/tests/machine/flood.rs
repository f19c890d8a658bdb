//! What anybody may throw at the request port: the machine stays alive, its memory bounded, its flows untouched.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use layer::{Input, Ipcp, Now, Output};
use proptest::prelude::*;
use proto::ipcp::Event;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use shim_udp::{Ask, Shim, SocketKey, Tell};

use crate::bench::{Wire, ipcp, name};

/// Feeds one input and tells the machine that whatever it opens is open; the sockets that are open then.
fn feed(shim: &mut Shim, now: Now, input: Input<SocketKey, Tell>, open: &mut BTreeSet<SocketKey>) {
    shim.handle(now, input);
    while let Some(output) = shim.poll() {
        match output {
            Output::Ask(Ask::Open(o)) => {
                assert!(open.insert(o.key), "a key was used twice");
                shim.handle(now, Input::Tell(Tell::Opened(o.key, 1472)));
            }
            Output::Ask(Ask::Close(key)) => {
                assert!(open.remove(&key), "an unknown socket is closed")
            }
            _ => {}
        }
    }
}

fn server() -> (Shim, Now) {
    let mut wire = Wire::pair();
    wire.request("10.0.0.9:5000", b"srv");
    let sp = wire.sent_to("10.0.0.9:5000")[0].from;
    wire.inject("10.0.0.9:5000", sp, b"");
    wire.accept(1, 1, 7, ipcp());
    (wire.hosts.remove(1).shim, wire.now)
}

#[test]
fn a_limit_that_bites_is_told_at_once_and_then_once_a_minute() {
    let (mut shim, mut now) = server();
    let (start, mut told) = (now.mono, Vec::new());
    for n in 0..13_000_u16 {
        now.mono = start + Duration::from_millis(10) * u32::from(n);
        let from = SocketAddr::from(([11, 0, 0, 1], 1024 + n));
        let request = Tell::Request(from, b"srv".to_vec());
        for input in [Input::Timeout, Input::Tell(request)] {
            shim.handle(now, input);
            while let Some(output) = shim.poll() {
                if let Output::Control(Event::Notice(notice)) = output {
                    assert_eq!(notice.kind, "limit.reached");
                    told.push(now.mono.duration_since(start).as_secs());
                }
            }
        }
    }
    // 64 of one source in 640 ms.
    assert_eq!(told, [0, 60, 120]);
    assert!(shim.counter("drop.source-limit") > 1000);
}

#[test]
fn a_flood_of_20_000_sources_a_second_leaves_flows_alone_and_holds_at_most_1024_sockets() {
    let (mut shim, mut now) = server();
    let (mut open, mut rng) = (BTreeSet::from([SocketKey(1)]), ChaCha8Rng::seed_from_u64(7));
    let (start, mut most) = (now.mono, 0);
    for n in 0..600_000_u32 {
        now.mono = start + Duration::from_micros(50) * n;
        if shim.deadline().is_some_and(|at| at <= now.mono) {
            feed(&mut shim, now, Input::Timeout, &mut open);
        }
        let from = SocketAddr::from((
            Ipv4Addr::from(0x0b00_0000 | rng.next_u32() >> 8),
            1024 + (n % 60_000) as u16,
        ));
        feed(
            &mut shim,
            now,
            Input::Tell(Tell::Request(from, b"srv".to_vec())),
            &mut open,
        );
        most = most.max(shim.sockets().0);
        assert!(shim.sockets().1 <= 1025);
    }
    assert!(
        open.contains(&SocketKey(1)),
        "the flow that stood before is gone"
    );
    assert!(
        most <= 1024 && open.len() <= 1025,
        "{most} unconfirmed, {} open",
        open.len()
    );
    now.mono += Duration::from_secs(5);
    feed(&mut shim, now, Input::Timeout, &mut open);
    assert_eq!(
        (open.len(), shim.sockets().0),
        (1, 0),
        "something is left of the flood"
    );
}

#[test]
fn a_client_that_is_known_gets_a_new_flow_in_the_middle_of_a_flood() {
    let (mut shim, mut now) = server();
    let mut open = BTreeSet::from([SocketKey(1)]);
    feed(
        &mut shim,
        now,
        Input::Tell(Tell::Request(
            "10.0.0.9:5001".parse().unwrap(),
            b"srv".to_vec(),
        )),
        &mut open,
    );
    let mine = *open.last().unwrap();
    for n in 0..20_000_u32 {
        now.mono += Duration::from_micros(50);
        let from = SocketAddr::from((Ipv4Addr::from(0x0b00_0000 + n), 4000));
        feed(
            &mut shim,
            now,
            Input::Tell(Tell::Request(from, b"srv".to_vec())),
            &mut open,
        );
    }
    shim.handle(
        now,
        Input::Tell(Tell::Front(mine, "10.0.0.9:5001".parse().unwrap(), vec![])),
    );
    assert_eq!(shim.counter("confirmed"), 2);
}

#[test]
fn a_hundred_thousand_random_datagrams_open_nothing_and_are_all_counted() {
    let (mut shim, now) = server();
    let (mut open, mut rng) = (BTreeSet::from([SocketKey(1)]), ChaCha8Rng::seed_from_u64(9));
    let before = shim.counter("requests");
    for _ in 0..100_000 {
        let mut bytes = vec![0; (rng.next_u32() % 257) as usize];
        rng.fill_bytes(&mut bytes);
        let from = SocketAddr::from((Ipv4Addr::from(rng.next_u32()), rng.next_u32() as u16));
        feed(
            &mut shim,
            now,
            Input::Tell(Tell::Request(from, bytes)),
            &mut open,
        );
    }
    let count = |what: &str| shim.counter(what);
    assert_eq!(count("requests") - before, 100_000);
    assert_eq!(
        count("drop.bad-name") + count("drop.bad-source") + count("drop.unknown-name"),
        100_000
    );
    assert_eq!(open.len(), 1);
}

fn tells() -> impl Strategy<Value = Tell> {
    let key = || (0u64..12).prop_map(SocketKey);
    let at =
        || (0u8..4, 0u16..4).prop_map(|(ip, port)| SocketAddr::from(([10, 0, 0, ip], 3358 + port)));
    let bytes = || {
        prop_oneof![
            Just(b"srv".to_vec()),
            Just(vec![]),
            prop::collection::vec(any::<u8>(), 0..300)
        ]
    };
    prop_oneof![
        8 => (at(), bytes()).prop_map(|(a, b)| Tell::Request(a, b)),
        4 => (key(), at(), bytes()).prop_map(|(k, a, b)| Tell::Front(k, a, b)),
        4 => (key(), at(), bytes()).prop_map(|(k, a, b)| Tell::Datagram(k, a, b)),
        1 => (key(), 0u32..70_000).prop_map(|(k, mtu)| Tell::Opened(k, mtu)),
        1 => key().prop_map(|k| Tell::NotOpened(k, "no".into())),
        1 => key().prop_map(Tell::Empty),
        1 => key().prop_map(Tell::Unreachable),
        1 => (key(), any::<u32>()).prop_map(|(k, mtu)| Tell::Mtu(k, mtu)),
        1 => key().prop_map(|k| Tell::NotSent(k, "no".into())),
        1 => Just(Tell::Listening),
    ]
}

proptest! {
    #[test]
    fn no_order_of_events_panics_or_leaks(steps in prop::collection::vec((tells(), 0u64..3000, 0u8..6), 1..120)) {
        let (mut shim, mut now) = server();
        let mut open = BTreeSet::from([SocketKey(1)]);
        for (n, (tell, wait, act)) in (100u64..).zip(steps) {
            now.mono += Duration::from_millis(wait);
            let command = match act {
                0 => Some(proto::ipcp::Command::Allocate(proto::ipcp::Allocate {
                    flow: proto::FlowId(n), name: name("srv"), source: None, qos: proto::QosSpec::RAW,
                    peer: None, user: crate::bench::program(), timeout_ms: 2000, at: Vec::new(),
                })),
                1 => Some(proto::ipcp::Command::Respond(proto::ipcp::Respond {
                    request: n % 8, verdict: Ok((proto::FlowId(n), crate::bench::program())),
                })),
                2 => Some(proto::ipcp::Command::Set(proto::ipcp::Settings { hosts: vec!["srv=10.0.0.3".parse().unwrap()], ..Default::default() })),
                _ => None,
            };
            if let Some(command) = command {
                feed(&mut shim, now, Input::Control(n, command), &mut open);
            }
            feed(&mut shim, now, Input::Tell(tell), &mut open);
            if shim.deadline().is_some_and(|at| at <= now.mono) {
                feed(&mut shim, now, Input::Timeout, &mut open);
            }
            // No deadline is left in the past.
            prop_assert!(shim.deadline().is_none_or(|at: Instant| at > now.mono));
            prop_assert_eq!(open.len(), shim.sockets().1);
        }
        feed(&mut shim, now, Input::Control(1, proto::ipcp::Command::Shutdown), &mut open);
        prop_assert!(open.is_empty());
    }
}
