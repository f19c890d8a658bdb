//! Handshakes of somebody who sees and spoofs a neighbour's packets, or who speaks for another member.

use proto::{Addr, QosSpec};

use super::super::out::Class;
use super::super::pdu::{self, RoutedHandshake, TTL};
use super::flows::{flow, line, read, register, wait, write};
use super::*;
use crate::crypt::{Clock, Handshake, Invitation, Outcome, Secrets, TlsConfig};

/// `b` has dialled `a`, and a flow goes from `a` to `b`.
fn pair() -> (Net, FlowId) {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    register(&mut net, "b", "server");
    net.seconds(1);
    flow(&mut net, "a", "b", "server", 5, QosSpec::RAW);
    let links = &net.node("a").machine.links;
    let lower = links.values().find(|l| l.dialled.is_none()).unwrap().lower;
    (net, lower)
}

/// What somebody without certificate shakes hands with.
fn stranger(net: &mut Net) -> TlsConfig {
    let url = invite(net, "a", "x").unwrap();
    let clock = Clock::new();
    clock.set(net.now().wall);
    let invitation = Invitation::parse(&url, net.now().wall).unwrap();
    let joiner = invitation.start(&label("x")).unwrap();
    joiner.tls(&clock).unwrap()
}

fn client(net: &Net, tls: &TlsConfig, session: u32) -> Handshake {
    Handshake::client(tls, session, 1000, net.now().mono).unwrap()
}

/// Shakes hands with `a` in the place of whoever is at the other end of the link.
fn shake_hands(net: &mut Net, lower: FlowId, tls: &TlsConfig, session: u32) -> Secrets {
    shake_hands_while(net, lower, tls, session, false)
}

/// The same; where `mute`, nothing of anybody else arrives meanwhile.
fn shake_hands_while(
    net: &mut Net,
    lower: FlowId,
    tls: &TlsConfig,
    session: u32,
    mute: bool,
) -> Secrets {
    let seen = record_from_a(net);
    if let Some(mut record) = net.tamper.take_if(|_| mute) {
        net.tamper = Some(Box::new(move |from, to, pdu| {
            record(from, to, pdu);
            pdu.clear();
        }));
    }
    let mut handshake = client(net, tls, session);
    for _ in 0..50 {
        let now = net.now().mono;
        while let Some(pdu) = handshake.poll(now) {
            net.input("a", Input::Lower(lower, train(&pdu)));
        }
        for mut pdu in seen.take() {
            if pdu[0] == pdu::Kind::HANDSHAKE {
                // What is meant for the neighbour is none of its own.
                let _ = handshake.handle(now, &mut pdu);
            }
        }
        net.run(Duration::from_millis(10));
    }
    net.tamper = None;
    match handshake.outcome() {
        Some(Outcome::Done(secrets)) => *secrets,
        other => panic!("{other:?}"),
    }
}

fn record_from_a(net: &mut Net) -> std::rc::Rc<std::cell::RefCell<Vec<Vec<u8>>>> {
    let kept = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let list = kept.clone();
    net.tamper = Some(Box::new(move |from, _, pdu| {
        if from == "a" {
            list.borrow_mut().push(pdu.clone());
        }
    }));
    kept
}

fn count(net: &mut Net, at: &'static str, name: &str) -> u64 {
    status(net, at).counters.get(name).copied().unwrap_or(0)
}

/// Somebody with this certificate begins a handshake on the link of `a` and `b`, and is not answered at all.
fn is_not_answered(net: &mut Net, lower: FlowId, tls: &TlsConfig) {
    let before = count(net, "a", "drop.plain_handshake");
    let seen = record_from_a(net);
    let mut handshake = client(net, tls, 77);
    for _ in 0..20 {
        while let Some(pdu) = handshake.poll(net.now().mono) {
            net.input("a", Input::Lower(lower, train(&pdu)));
        }
        write(net, "a", 5, &[b"under load"]);
        assert_eq!(read(net, "b", 5), [b"under load".to_vec()]);
        net.run(Duration::from_millis(100));
    }
    net.tamper = None;
    let answers = seen.take();
    let answers = answers
        .iter()
        .filter(|pdu| pdu::handshake_session(pdu).is_some());
    assert_eq!(answers.count(), 0);
    assert!(count(net, "a", "drop.plain_handshake") > before + 2);
    let link = &net.node("a").machine.links[&lower];
    assert!(link.up().is_some() && link.joining.is_empty() && link.handshakes.is_empty());
}

#[test]
fn whoever_begins_a_handshake_on_the_link_of_others_is_not_answered() {
    let (mut net, lower) = pair();
    net.boot("c", Files::new());
    net.cut("b", "c");
    join(&mut net, "a", "c");
    // Longer than what has ended still answers repetitions.
    net.seconds(11);
    let (stranger, own) = (stranger(&mut net), "c");
    is_not_answered(&mut net, lower, &stranger);
    let member = net.node(own).machine.me.as_ref().unwrap().tls.clone();
    is_not_answered(&mut net, lower, &member);
}

#[test]
fn a_stranger_can_not_take_over_the_link_of_somebody_who_is_enrolling() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    let tls = stranger(&mut net);
    // b's request gets lost at first.
    net.tamper = Some(Box::new(|from, _, pdu| {
        if from == "b" && pdu[0] == pdu::Kind::SEALED {
            pdu.clear();
        }
    }));
    let ask = Enroll {
        entry: Entry::Invitation(url),
        over: vec![label("net")],
        timeout_ms: 20_000,
    };
    let command = net.command("b", Command::Enroll(ask));
    net.run(Duration::from_millis(500));
    let lower = *net.node("a").machine.links.keys().next().unwrap();
    shake_hands(&mut net, lower, &tls, 77);
    let answer = wait(&mut net, "b", command);
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    assert!(
        net.node("a").machine.links[&lower].up().is_some(),
        "it took another link"
    );
}

#[test]
fn strangers_who_come_first_do_not_shut_out_who_is_enrolling() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    let tls = stranger(&mut net);
    let ask = Enroll {
        entry: Entry::Invitation(url),
        over: vec![label("net")],
        timeout_ms: 8_000,
    };
    let command = net.command("b", Command::Enroll(ask));
    net.run(LATENCY);
    let lower = *net.node("a").machine.links.keys().next().unwrap();
    // Before anything of b has come.
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let list = seen.clone();
    net.tamper = Some(Box::new(move |from, _, pdu| {
        if from == "a" {
            list.borrow_mut().push(pdu.clone());
        }
        pdu.clear();
    }));
    for session in [70, 71, 72, 73] {
        let mut first = client(&net, &tls, session);
        for _ in 0..10 {
            let now = net.now().mono;
            while let Some(pdu) = first.poll(now) {
                net.input("a", Input::Lower(lower, train(&pdu)));
            }
            for mut pdu in seen.take() {
                let _ = first.handle(now, &mut pdu);
            }
            net.run(Duration::from_millis(5));
        }
        assert!(matches!(first.outcome(), Some(Outcome::Done(_))));
    }
    assert_eq!(net.node("a").machine.links[&lower].joining.len(), 4);
    net.tamper = None;
    let answer = wait(&mut net, "b", command);
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    assert!(net.node("a").machine.links[&lower].up().is_some());
}

#[test]
fn handshakes_that_never_end_do_not_keep_neighbours_from_fresh_keys() {
    let (mut net, lower) = pair();
    let tls = stranger(&mut net);
    for round in 0..220 {
        for i in 0..3 {
            let first = client(&net, &tls, 1000 + round * 3 + i)
                .poll(net.now().mono)
                .unwrap();
            net.input("a", Input::Lower(lower, train(&first)));
        }
        net.seconds(1);
        let running = &net.node("a").machine.links[&lower].handshakes;
        assert!(running.iter().filter(|r| !r.done).count() <= 1);
    }
    assert!(net.node("a").machine.links[&lower].up().is_some());
    write(&mut net, "a", 5, &[b"with fresh keys"]);
    assert_eq!(read(&mut net, "b", 5), [b"with fresh keys".to_vec()]);
    assert!(count(&mut net, "a", "drop.plain_handshake") > 100);
}

#[test]
fn a_link_whose_keys_can_not_be_renewed_ends_with_them() {
    let (mut net, lower) = pair();
    // What is large in a quiet link is a handshake, as far as anybody can tell.
    net.tamper = Some(Box::new(|_, _, pdu| {
        if pdu.len() > 500 {
            pdu.clear();
        }
    }));
    net.seconds(170);
    assert!(net.node("a").machine.links[&lower].up().is_some());
    net.seconds(15);
    assert!(!net.node("a").machine.links.contains_key(&lower));
}

#[test]
fn handshakes_of_strangers_that_have_ended_are_kept_in_small_number() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    let tls = stranger(&mut net);
    let ask = Enroll {
        entry: Entry::Invitation(url),
        over: vec![label("net")],
        timeout_ms: 20_000,
    };
    let command = net.command("b", Command::Enroll(ask));
    net.run(LATENCY);
    let lower = *net.node("a").machine.links.keys().next().unwrap();
    for session in 100..116 {
        shake_hands_while(&mut net, lower, &tls, session, true);
        let link = &net.node("a").machine.links[&lower];
        assert!(link.handshakes.len() <= 8 && link.joining.len() <= 8);
    }
    net.tamper = None;
    let answer = wait(&mut net, "b", command);
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
}

fn address(net: &mut Net, of: &'static str) -> Addr {
    net.node(of).machine.me.as_ref().unwrap().address
}

/// The neighbour `at` of `a` begins a handshake with it in the name of another member.
pub(super) fn forge(net: &mut Net, at: &'static str, name: &'static str, session: u32) {
    let header = RoutedHandshake {
        ttl: TTL,
        dst: address(net, "a"),
        src: address(net, name),
    };
    let tls = net.node(at).machine.me.as_ref().unwrap().tls.clone();
    let first = client(net, &tls, session).poll(net.now().mono).unwrap();
    hand_on(net, at, header, &first);
}

/// `at`, a neighbour, hands on a handshake PDU.
pub(super) fn hand_on(net: &mut Net, at: &'static str, header: RoutedHandshake, pdu: &[u8]) {
    let machine = &mut net.node(at).machine;
    let lower = machine.adjacent[&header.dst];
    let link = machine.links.get_mut(&lower).unwrap();
    let sent = link.send(Class::Control, RoutedHandshake::LEN + pdu.len(), |body| {
        header.write(body);
        body[RoutedHandshake::LEN..].copy_from_slice(pdu);
        Ok(())
    });
    assert_eq!(sent, Ok(()));
    net.input(at, Input::Timeout);
}

#[test]
fn a_handshake_in_the_name_of_another_member_that_fails_refuses_nothing_that_is_asked_of_it() {
    let mut net = line();
    register(&mut net, "c", "server");
    net.seconds(1);
    forge(&mut net, "b", "c", 77);
    net.run(LATENCY + Duration::from_secs(10) - Duration::from_millis(3));
    let failed = count(&mut net, "a", "handshake.failed");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    assert_eq!(count(&mut net, "a", "handshake.failed"), failed + 1);
}

#[test]
fn what_the_other_side_says_of_a_handshake_that_was_forgotten_begins_none_and_ends_none() {
    let mut net = line();
    forge(&mut net, "b", "c", 77);
    let header = RoutedHandshake {
        ttl: TTL,
        dst: address(&mut net, "a"),
        src: address(&mut net, "c"),
    };
    let (now, tls) = (
        net.now().mono,
        net.node("c").machine.me.as_ref().unwrap().tls.clone(),
    );
    let mut server = Handshake::server(&tls, 78, 1200, now).unwrap();
    let mut forgotten = client(&net, &tls, 78);
    while let Some(mut hello) = forgotten.poll(now) {
        server.handle(now, &mut hello).unwrap();
    }
    let answer = server.poll(now).unwrap();
    // An alert, at the initial level.
    let close = [&[0x11, 0, 0, 0, 0, 79, 0, 0, 0, 0][..], &[3, 10]].concat();
    for pdu in [answer, close] {
        hand_on(&mut net, "b", header, &pdu);
    }
    net.run(Duration::from_millis(100));
    assert_eq!(count(&mut net, "a", "drop.unknown_handshake"), 2);
    let running = &net.node("a").machine.peers[&header.src].handshakes;
    let sessions = running.iter().map(|r| r.handshake.session());
    assert_eq!(sessions.collect::<Vec<_>>(), [77]);
}

#[test]
fn handshakes_in_the_name_of_another_member_do_not_keep_it_out() {
    let mut net = line();
    register(&mut net, "a", "server");
    net.seconds(1);
    for session in 0..50 {
        forge(&mut net, "b", "c", session);
    }
    net.run(Duration::from_millis(100));
    let c = address(&mut net, "c");
    assert!(net.node("a").machine.peers[&c].handshakes.len() <= 2);
    flow(&mut net, "c", "a", "server", 5, QosSpec::RAW);
}

#[test]
fn handshakes_that_are_forged_behind_one_neighbour_take_no_place_from_those_behind_another() {
    let mut net = Net::new(&["a", "b", "c", "d"]);
    net.cut("a", "c");
    net.cut("b", "c");
    net.cut("b", "d");
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    join(&mut net, "a", "d");
    net.seconds(1);
    join(&mut net, "a", "c");
    net.seconds(1);
    // The true one comes through d, and its end is lost.
    net.cut("d", "c");
    forge(&mut net, "d", "c", 500);
    net.run(LATENCY * 2);
    for session in 0..50 {
        forge(&mut net, "b", "c", session);
        net.run(LATENCY * 2);
    }
    let c = address(&mut net, "c");
    let open = net.node("a").machine.peers[&c]
        .handshakes
        .iter()
        .filter_map(|r| r.open());
    let sessions: Vec<u32> = open.map(|(session, ..)| session).collect();
    assert_eq!(sessions, [500, 49]);
}

/// What a member of another layer of the same name has.
fn foreign() -> TlsConfig {
    let mut net = Net::new(&["a"]);
    bootstrap(&mut net, "a");
    net.node("a").machine.me.as_ref().unwrap().tls.clone()
}

/// Lets `b` hear of nobody but somebody who sees its packets, and answers in the place of whom it has dialled with `tls`,
/// until that is counted so often as `counter`. Gives the link.
fn answered_by_another(net: &mut Net, tls: &TlsConfig, counter: &str) -> FlowId {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let list = seen.clone();
    net.tamper = Some(Box::new(move |from, _, pdu| {
        if from == "b" && pdu[0] == pdu::Kind::HANDSHAKE {
            list.borrow_mut().push(std::mem::take(pdu));
        }
    }));
    let before = count(net, "b", counter);
    let mut servers: BTreeMap<u32, Handshake> = BTreeMap::new();
    // Until it dials again, some seconds may pass.
    for _ in 0..5000 {
        net.run(Duration::from_millis(1));
        let now = net.now().mono;
        let mut links = net.node("b").machine.links.values();
        let Some(lower) = links.find(|l| l.dialled.is_some()).map(|l| l.lower) else {
            continue;
        };
        for mut pdu in seen.take() {
            let (session, _) = pdu::handshake_session(&pdu).unwrap();
            let server = servers
                .entry(session)
                .or_insert_with(|| Handshake::server(tls, session, 1000, now).unwrap());
            let _ = server.handle(now, &mut pdu);
            while let Some(answer) = server.poll(now) {
                net.input("b", Input::Lower(lower, train(&answer)));
            }
        }
        if count(net, "b", counter) >= before + 3 {
            net.tamper = None;
            return lower;
        }
    }
    panic!("{counter} was counted {} times", count(net, "b", counter));
}

#[test]
fn a_spoofed_answer_to_a_joiner_ends_nothing() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    let ask = Enroll {
        entry: Entry::Invitation(url),
        over: vec![label("net")],
        timeout_ms: 20_000,
    };
    let command = net.command("b", Command::Enroll(ask));
    let lower = answered_by_another(&mut net, &foreign(), "handshake.failed");
    let answer = wait(&mut net, "b", command);
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    assert!(
        net.node("b").machine.links[&lower].up().is_some(),
        "it took another link"
    );
}

/// `b`, a member, starts anew and dials `a`.
fn restarted() -> Net {
    let (mut net, _) = pair();
    let files = net.node("b").files.clone();
    net.boot("b", files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5_000,
    };
    net.command("b", Command::Enroll(rejoin));
    net
}

#[test]
fn a_spoofed_answer_to_a_member_ends_nothing() {
    let mut net = restarted();
    let lower = answered_by_another(&mut net, &foreign(), "handshake.failed");
    net.seconds(2);
    assert!(net.node("b").machine.links[&lower].up().is_some());
}

#[test]
fn an_answer_of_another_member_than_was_dialled_ends_nothing_and_is_told() {
    let (mut net, _) = pair();
    net.boot("c", Files::new());
    net.cut("b", "c");
    join(&mut net, "a", "c");
    let tls = net.node("c").machine.me.as_ref().unwrap().tls.clone();
    net.cut("a", "b");
    net.seconds(3);
    net.mend("a", "b");
    let lower = answered_by_another(&mut net, &tls, "drop.wrong_peer");
    let why = net.node("b").machine.dialling.why(&label("a")).unwrap();
    assert!(why.text.contains("c answered where a was dialled"), "{why}");
    net.seconds(2);
    assert!(net.node("b").machine.links[&lower].up().is_some());
}

#[test]
fn handshakes_that_fail_do_not_end_the_link_of_somebody_who_is_enrolling() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    let (stranger, foreign) = (stranger(&mut net), foreign());
    // b's request gets lost at first.
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let list = seen.clone();
    net.tamper = Some(Box::new(move |from, _, pdu| {
        if from == "a" {
            list.borrow_mut().push(pdu.clone());
        } else if pdu[0] == pdu::Kind::SEALED {
            pdu.clear();
        }
    }));
    let ask = Enroll {
        entry: Entry::Invitation(url),
        over: vec![label("net")],
        timeout_ms: 25_000,
    };
    let command = net.command("b", Command::Enroll(ask));
    net.run(Duration::from_millis(500));
    let lower = *net.node("a").machine.links.keys().next().unwrap();
    // One that never ends, and one with a certificate of another layer.
    let first = client(&net, &stranger, 78).poll(net.now().mono).unwrap();
    net.input("a", Input::Lower(lower, train(&first)));
    let mut refused = client(&net, &foreign, 77);
    for _ in 0..50 {
        let now = net.now().mono;
        while let Some(pdu) = refused.poll(now) {
            net.input("a", Input::Lower(lower, train(&pdu)));
        }
        for mut pdu in seen.take() {
            let _ = refused.handle(now, &mut pdu);
        }
        net.run(Duration::from_millis(10));
    }
    net.seconds(11);
    net.tamper = None;
    assert_eq!(count(&mut net, "a", "handshake.failed"), 2);
    let answer = wait(&mut net, "b", command);
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    assert!(
        net.node("a").machine.links[&lower].up().is_some(),
        "it took another link"
    );
}

#[test]
fn a_link_is_known_when_it_was_dialled_or_a_member_has_shown_whose_it_is() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    let stranger = FlowId(900);
    let up = FlowTell::Up {
        lower: stranger,
        over: label("net"),
        mtu: MTU,
        framing: Framing::Train,
        via: Via::Accepted(None),
    };
    net.input("a", Input::Tell(up));
    for at in ["a", "b"] {
        let machine = &net.node(at).machine;
        for lower in machine.links.keys() {
            assert_eq!(machine.knows(*lower), *lower != stranger, "{at}: {lower}");
        }
    }
    assert!(net.node("a").machine.links.contains_key(&stranger));
    assert!(!net.node("a").machine.knows(FlowId(901)));
}
