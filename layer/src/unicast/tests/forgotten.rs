//! Handshakes whose server has forgotten them half way.

use std::time::Duration;

use proto::ipcp::Command;
use proto::{Addr, Code, EndpointId, Reason};

use super::super::pdu::{RoutedHandshake, TTL};
use super::flows::line;
use super::intruder::hand_on;
use super::{Net, bootstrap, join, label};
use crate::Input;

fn address(net: &mut Net, of: &'static str) -> Addr {
    net.node(of).machine.me.as_ref().unwrap().address
}

fn count(net: &mut Net, at: &'static str, name: &str) -> u64 {
    net.node(at).machine.stats.get(name)
}

/// Lets time pass until something is so, at most so long; gives how long that took.
fn until(net: &mut Net, most: Duration, is: impl Fn(&mut Net) -> bool) -> Duration {
    let (begin, step) = (net.now().mono, Duration::from_micros(500));
    while !is(net) {
        let took = net.now().mono - begin;
        assert!(took < most, "not within {most:?}");
        net.run(step);
    }
    net.now().mono - begin
}

/// `a` has something to say to `c`, whom it reaches through `b`, and `c` forgets the handshake for that half way.
fn half_way() -> (Net, Addr, Addr) {
    let mut net = line();
    let (a, c) = (address(&mut net, "a"), address(&mut net, "c"));
    let (now, end) = (net.now(), EndpointId(9));
    let over = Reason::new(Code::Closed, "over");
    let machine = &mut net.node("a").machine;
    machine.end_remote(now, c, end, &over);
    net.input("a", Input::Timeout);
    until(&mut net, Duration::from_secs(1), |net| {
        let peers = &net.node("c").machine.peers;
        peers.contains_key(&a)
    });
    // The answer is on its way by now, so that what comes next is sealed.
    net.run(Duration::from_millis(2));
    let machine = &mut net.node("c").machine;
    assert!(!machine.peers[&a].sessions.usable(now.mono));
    machine.peers.remove(&a);
    (net, a, c)
}

#[test]
fn a_routed_handshake_that_its_server_has_forgotten_is_begun_again_at_once() {
    let (mut net, _, c) = half_way();
    let took = until(&mut net, Duration::from_secs(9), |net| {
        let now = net.now().mono;
        let peers = &net.node("a").machine.peers;
        peers.get(&c).is_some_and(|peer| peer.sessions.usable(now))
    });
    assert!(took < Duration::from_millis(1200), "{took:?}");
    assert!(count(&mut net, "c", "handshake.told_forgotten") >= 1);
    assert_eq!(count(&mut net, "a", "handshake.forgotten"), 1);
}

#[test]
fn a_handshake_of_a_link_that_its_server_has_forgotten_is_begun_again_on_that_link() {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    join(&mut net, "a", "c");
    net.seconds(2);
    let b = address(&mut net, "b");
    let lower = |net: &mut Net| {
        let links = net.node("c").machine.links.values();
        links.filter(|l| l.peer().is_none()).map(|l| l.lower).next()
    };
    net.command("b", Command::Connect(label("c"), None));
    until(&mut net, Duration::from_secs(1), |net| {
        lower(net).is_some_and(|l| !net.node("c").machine.links[&l].handshakes.is_empty())
    });
    net.run(Duration::from_millis(2));
    let at_c = lower(&mut net).unwrap();
    let link = net.node("c").machine.links.get_mut(&at_c).unwrap();
    link.handshakes.clear();
    let took = until(&mut net, Duration::from_secs(9), |net| {
        net.node("c").machine.links[&at_c].up() == Some(b)
    });
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_eq!(count(&mut net, "c", "handshake.told_forgotten"), 1);
    assert_eq!(count(&mut net, "b", "handshake.forgotten"), 1);
}

#[test]
fn who_asks_for_handshakes_that_never_were_is_told_nothing_nor_is_one_that_asks_too_often() {
    let mut net = line();
    let header = RoutedHandshake {
        ttl: TTL,
        dst: address(&mut net, "a"),
        src: address(&mut net, "c"),
    };
    for session in 0..500u32 {
        let sealed = [&[0x11, 1][..], &session.to_be_bytes(), &[0; 30]].concat();
        hand_on(&mut net, "b", header, &sealed);
        // Neither is what could be such an answer itself.
        let answer = [
            &[0x11, 0][..],
            &session.to_be_bytes(),
            &[0; 4],
            &[5],
            &[7; 16],
        ]
        .concat();
        hand_on(&mut net, "b", header, &answer);
    }
    net.run(Duration::from_millis(100));
    assert_eq!(count(&mut net, "a", "drop.unknown_handshake"), 1000);
    assert_eq!(count(&mut net, "a", "handshake.told_forgotten"), 0);
    // One that was begun, and forgotten.
    net.node("a")
        .machine
        .farewells
        .promise([2, header.src.0, 0], 7);
    let sealed = [&[0x11, 1][..], &7u32.to_be_bytes(), &[0; 30]].concat();
    (0..500).for_each(|_| hand_on(&mut net, "b", header, &sealed));
    net.run(Duration::from_millis(100));
    let told = count(&mut net, "a", "handshake.told_forgotten");
    assert!((20..=24).contains(&told), "{told}");
    // Who is told and has begun none says nothing back.
    assert_eq!(count(&mut net, "c", "drop.unknown_handshake"), told);
    assert_eq!(count(&mut net, "c", "handshake.told_forgotten"), 0);
}
