//! Who was revoked is out at once, everywhere and for good; its name is not.

use proto::ipcp::{AuthorityAct, State};
use proto::{Addr, EndpointId, QosSpec};

use super::super::pdu::{RoutedHandshake, TTL};
use super::decrees::line;
use super::flows::{allocate, flow, read, register, wait, write};
use super::*;
use crate::crypt::Handshake;

fn revoke(net: &mut Net, at: &'static str, member: &str) -> Result<Answer, Reason> {
    let act = AuthorityAct::Revoke(label(member));
    net.ask(at, Command::Authority(act))
}

fn rejoin(net: &mut Net, name: &'static str) -> Result<Answer, Reason> {
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.ask(name, Command::Enroll(rejoin))
}

fn restart(net: &mut Net, name: &'static str) {
    let files = net.node(name).files.clone();
    net.boot(name, files);
    rejoin(net, name).unwrap();
}

fn members(net: &mut Net, at: &'static str) -> Vec<String> {
    let members = status(net, at).members;
    members.into_iter().map(|m| m.name).collect()
}

/// Everybody reaches everybody; `a` has the authority.
fn mesh(names: &[&'static str]) -> Net {
    let mut net = Net::new(names);
    bootstrap(&mut net, names[0]);
    for name in &names[1..] {
        join(&mut net, names[0], name);
        net.seconds(1);
    }
    for (i, one) in names.iter().enumerate().skip(1) {
        for other in &names[i + 1..] {
            let connect = Command::Connect(label(other), None);
            net.ask(one, connect).unwrap();
        }
    }
    net.seconds(1);
    net
}

#[test]
fn a_revoked_member_loses_flows_and_adjacencies_on_every_member_at_once_and_knows_why() {
    let mut net = mesh(&["a", "b", "c"]);
    register(&mut net, "c", "server");
    register(&mut net, "b", "other");
    flow(&mut net, "b", "c", "server", 10, QosSpec::RAW);
    flow(&mut net, "c", "b", "other", 11, QosSpec::RAW);
    flow(&mut net, "a", "b", "other", 12, QosSpec::RAW);
    assert_eq!(revoke(&mut net, "a", "c"), Ok(Answer::Ok));
    net.run(Duration::from_millis(50));
    for id in [10, 11] {
        let reason = net.node("b").closed[&FlowId(id)].clone();
        assert_eq!(reason.code, Code::Denied, "{reason}");
        assert!(reason.text.contains("member c was revoked"), "{reason}");
        assert_eq!(net.node("c").closed[&FlowId(id)].code, Code::Denied);
    }
    for at in ["a", "b"] {
        assert_eq!(members(&mut net, at), ["a", "b"], "{at}");
        let links = status(&mut net, at).links;
        assert!(links.iter().all(|l| l.member != "c"), "{at}: {links:?}");
    }
    // Those who stay don't notice.
    write(&mut net, "a", 12, &[b"still"]);
    assert_eq!(read(&mut net, "b", 12), [b"still".to_vec()]);
    let down = net.node("c").events.iter().any(
        |e| matches!(e, Event::State(State::Down, text) if text.contains("was revoked from ovl")),
    );
    assert!(down);
    let reason = rejoin(&mut net, "c").unwrap_err();
    assert!(reason.text.contains("was revoked from ovl"), "{reason}");
    assert_eq!(revoke(&mut net, "a", "c"), Ok(Answer::Ok), "the same again");
}

#[test]
fn what_a_revoked_member_has_begun_on_the_way_comes_to_nothing_though_routes_still_lead_to_it() {
    let mut net = line();
    let now = net.now();
    let [a, b, c] = ["a", "b", "c"].map(|name| address(&mut net, name));
    let tls = &net.node("c").machine.me.as_ref().unwrap().tls;
    let mut client = Handshake::client(tls, 7, 1000, now.mono).unwrap();
    let mut first = client.poll(now.mono).unwrap();
    net.command("a", Command::Authority(AuthorityAct::Revoke(label("c"))));
    let now = net.now();
    let machine = &mut net.node("a").machine;
    assert_eq!(machine.dealings(now, c), None);
    assert!(machine.path(c).is_some(), "routes are found anew later");
    let header = RoutedHandshake {
        ttl: TTL,
        dst: a,
        src: c,
    };
    machine.routed_handshake(now, b, header, &mut first);
    assert_eq!(machine.dealings(now, c), None);
    assert_eq!(machine.stats.get("drop.foreign_handshake"), 1);
}

fn address(net: &mut Net, name: &'static str) -> Addr {
    net.node(name).machine.me.as_ref().unwrap().address
}

#[test]
fn who_closes_a_flow_that_a_revocation_has_ended_says_nothing_to_who_was_revoked() {
    for by_irmd in [false, true] {
        let mut net = mesh(&["a", "b", "c"]);
        let c = address(&mut net, "c");
        register(&mut net, "b", "other");
        flow(&mut net, "c", "b", "other", 11, QosSpec::DATA);
        // What has arrived waits for its user when the flow ends.
        net.input("b", Input::UpperFull(FlowId(11)));
        write(&mut net, "c", 11, &[b"unread"]);
        net.run(Duration::from_millis(50));
        revoke(&mut net, "a", "c").unwrap();
        net.run(Duration::from_millis(50));
        assert_eq!(net.node("b").closed.get(&FlowId(11)), None, "it is kept");
        if by_irmd {
            let reason = Reason::new(Code::Closed, "closed by irmd");
            net.ask("b", Command::Dealloc(FlowId(11), reason)).unwrap();
        } else {
            net.input("b", Input::UpperGone(FlowId(11), left()));
        }
        net.run(Duration::from_millis(50));
        let now = net.now();
        assert_eq!(net.node("b").machine.dealings(now, c), None, "{by_irmd}");
    }
}

#[test]
fn keys_that_are_wanted_with_somebody_who_is_revoked_at_that_moment_are_not_agreed_on() {
    let mut net = line();
    let c = address(&mut net, "c");
    net.node("a").machine.wants_session.insert(c);
    net.command("a", Command::Authority(AuthorityAct::Revoke(label("c"))));
    let now = net.now();
    assert_eq!(net.node("a").machine.dealings(now, c), None);
}

#[test]
fn a_link_whose_handshake_has_all_but_ended_goes_with_who_is_revoked_at_that_moment() {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    // `c` is known through `b` alone, and then dialled.
    net.cut("a", "c");
    join(&mut net, "a", "c");
    net.seconds(2);
    net.mend("a", "c");
    let c = address(&mut net, "c");
    net.command("a", Command::Connect(label("c"), None));
    let shown = |net: &mut Net| {
        let mut links = net.node("a").machine.links.values();
        links.any(|l| l.peer().is_none() && l.is_with(c))
    };
    (0..1000).find(|_| {
        net.run(Duration::from_micros(500));
        shown(&mut net)
    });
    assert!(shown(&mut net), "it has shown its certificate");
    net.command("a", Command::Authority(AuthorityAct::Revoke(label("c"))));
    for _ in 0..100 {
        net.run(Duration::from_millis(1));
        let now = net.now();
        assert_eq!(net.node("a").machine.dealings(now, c), None);
    }
}

#[test]
fn nothing_is_said_to_nor_begun_with_who_was_revoked_whoever_asks_for_it() {
    let mut net = mesh(&["a", "b", "c"]);
    let c = address(&mut net, "c");
    revoke(&mut net, "a", "c").unwrap();
    net.run(Duration::from_millis(50));
    let now = net.now();
    let machine = &mut net.node("b").machine;
    let (end, reason) = (EndpointId(7), Reason::new(Code::Closed, "over"));
    let asks: [&dyn Fn(&mut Unicast); 5] = [
        &|m| m.end_remote(now, c, end, &reason),
        &|m| m.refuse(now, c, end, &reason),
        &|m| m.associate(now, c),
        &|m| m.no_session(now, Some(Addr(1)), c),
        &|m| m.peer_frame(now, c, &[1; 40]),
    ];
    for (i, ask) in asks.iter().enumerate() {
        ask(machine);
        assert_eq!(machine.dealings(now, c), None, "{i}");
    }
    assert!(machine.stats.get("drop.unknown_member") >= 3);
}

#[test]
fn a_revoked_member_that_keeps_its_certificate_gets_nothing_even_after_restarts() {
    let mut net = mesh(&["a", "b", "c"]);
    let thief = net.node("c").files.clone();
    register(&mut net, "b", "other");
    revoke(&mut net, "a", "c").unwrap();
    net.seconds(1);
    restart(&mut net, "a");
    restart(&mut net, "b");
    register(&mut net, "b", "other");
    net.seconds(2);
    net.boot("c", thief);
    rejoin(&mut net, "c").unwrap();
    for dst in ["a", "b"] {
        net.command("c", Command::Connect(label(dst), None));
    }
    register(&mut net, "c", "server");
    net.seconds(10);
    for at in ["a", "b"] {
        assert_eq!(members(&mut net, at), ["a", "b"], "{at}");
    }
    let command = net.command("c", Command::Allocate(allocate("other", 20, QosSpec::RAW)));
    assert!(wait(&mut net, "c", command).is_err());
    let command = net.command("b", Command::Allocate(allocate("server", 21, QosSpec::RAW)));
    assert!(wait(&mut net, "b", command).is_err());
    assert!(status(&mut net, "c").links.iter().all(|l| l.state != "up"));
}

#[test]
fn a_member_that_was_away_parts_with_the_revoked_one_at_its_next_adjacency() {
    let mut net = mesh(&["a", "b", "c"]);
    register(&mut net, "b", "other");
    flow(&mut net, "c", "b", "other", 11, QosSpec::RAW);
    // `b` and `c` are alone with each other.
    net.cut("a", "b");
    net.cut("a", "c");
    net.seconds(3);
    revoke(&mut net, "a", "c").unwrap();
    net.seconds(3);
    write(&mut net, "c", 11, &[b"not known yet"]);
    assert_eq!(read(&mut net, "b", 11).len(), 1);
    net.mend("a", "b");
    net.seconds(5);
    assert_eq!(net.node("b").closed[&FlowId(11)].code, Code::Denied);
    write(&mut net, "c", 11, &[b"too late"]);
    assert!(read(&mut net, "b", 11).is_empty());
    assert_eq!(members(&mut net, "b"), ["a", "b"]);
}

#[test]
fn the_name_of_a_revoked_member_can_be_invited_again_and_its_flows_stand() {
    let mut net = mesh(&["a", "b", "c"]);
    // It has lived several lives: its successor begins with its first.
    restart(&mut net, "c");
    restart(&mut net, "c");
    register(&mut net, "b", "other");
    net.seconds(2);
    revoke(&mut net, "a", "c").unwrap();
    net.boot("c", Files::new());
    join(&mut net, "a", "c");
    net.seconds(2);
    register(&mut net, "c", "server");
    for at in ["a", "b", "c"] {
        assert_eq!(members(&mut net, at), ["a", "b", "c"], "{at}");
    }
    flow(&mut net, "b", "c", "server", 30, QosSpec::RAW);
    flow(&mut net, "c", "b", "other", 31, QosSpec::RAW);
    write(&mut net, "b", 30, &[b"new"]);
    assert_eq!(read(&mut net, "c", 30), [b"new".to_vec()]);
    // And once more: another key of the same name.
    revoke(&mut net, "a", "c").unwrap();
    net.run(Duration::from_millis(50));
    assert_eq!(net.node("b").closed[&FlowId(30)].code, Code::Denied);
}

#[test]
fn only_the_authority_revokes_and_nobody_who_is_not_there_or_holds_it() {
    let mut net = mesh(&["a", "b"]);
    assert_eq!(revoke(&mut net, "b", "a").unwrap_err().code, Code::Denied);
    assert_eq!(revoke(&mut net, "a", "a").unwrap_err().code, Code::Conflict);
    assert_eq!(revoke(&mut net, "a", "x").unwrap_err().code, Code::NotFound);
    // Who never came, or has been away for long, is known by what it was issued.
    let url = invite(&mut net, "a", "d").unwrap();
    net.boot("d", Files::new());
    enroll(&mut net, "d", url).unwrap();
    net.cut("a", "d");
    net.cut("b", "d");
    net.seconds(2000);
    assert_eq!(members(&mut net, "a"), ["a", "b"]);
    assert_eq!(revoke(&mut net, "a", "d"), Ok(Answer::Ok));
}
