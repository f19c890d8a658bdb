//! Links that come and go, and what that does to flows.

use proto::QosSpec;

use super::flows::{allocate, flow, line, read, register, request, wait, write};
use super::*;

/// Three members, each linked to both others.
pub(super) fn triangle() -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    join(&mut net, "a", "c");
    assert_eq!(
        net.ask("c", Command::Connect(label("b"), None)),
        Ok(Answer::Ok)
    );
    net.seconds(1);
    net
}

fn connected(net: &mut Net, name: &'static str) -> Vec<String> {
    let mut up: Vec<_> = status(net, name)
        .links
        .into_iter()
        .filter(|l| l.state == "up")
        .map(|l| l.member)
        .collect();
    up.sort();
    up
}

#[test]
fn when_a_link_dies_its_flows_take_another_way_within_a_second_and_nobody_there_reads_them() {
    const SECRET: &[u8] = b"what only a and b may know";
    let mut net = triangle();
    register(&mut net, "b", "server");
    flow(&mut net, "a", "b", "server", 5, QosSpec::BEST);
    write(&mut net, "a", 5, &[SECRET]);
    assert_eq!(read(&mut net, "b", 5).len(), 1);
    assert!(
        net.node("c").machine.seen.is_empty(),
        "a direct flow went through c"
    );
    net.cut("a", "b");
    let mut arrived = None;
    for round in 0..400u64 {
        write(&mut net, "a", 5, &[SECRET]);
        write(&mut net, "b", 5, &[SECRET]);
        net.run(Duration::from_millis(10));
        if arrived.is_none()
            && net.node("b").received.contains_key(&FlowId(5))
            && net.node("a").received.contains_key(&FlowId(5))
        {
            arrived = Some(round * 10);
        }
    }
    assert!(
        arrived.is_some_and(|ms| ms <= 1_000),
        "after {arrived:?} ms"
    );
    let seen = &net.node("c").machine.seen;
    assert!(seen.len() > 100);
    assert!(
        seen.iter()
            .all(|pdu| !pdu.windows(SECRET.len()).any(|w| w == SECRET)),
        "c read a flow of a and b"
    );
    // And back on the straight way once it is mended.
    net.mend("a", "b");
    net.seconds(4);
    net.node("c").machine.seen.clear();
    read(&mut net, "b", 5);
    write(&mut net, "a", 5, &[SECRET]);
    assert_eq!(read(&mut net, "b", 5), [SECRET.to_vec()]);
    assert!(net.node("c").machine.seen.is_empty());
}

#[test]
fn keys_are_renewed_without_losing_an_sdu() {
    for (from, to, mut net) in [("a", "c", line()), ("a", "b", line())] {
        register(&mut net, to, "server");
        flow(&mut net, from, to, "server", 5, QosSpec::BEST);
        let mut sent = 0u32;
        for _ in 0..3_000 {
            write(&mut net, from, 5, &[&sent.to_be_bytes()]);
            sent += 1;
            net.run(Duration::from_millis(200));
        }
        let got = read(&mut net, to, 5);
        assert_eq!(got.len(), sent as usize, "{from} to {to}");
        assert!(status(&mut net, from).counters["handshake.done"] >= 5);
    }
}

#[test]
fn keys_are_renewed_while_sdus_are_on_their_way_both_ways() {
    // An SDU is on its way for 2 ms a link, so some are wherever the keys change.
    for (from, to, mut net) in [("a", "c", line()), ("a", "b", line())] {
        register(&mut net, to, "server");
        flow(&mut net, from, to, "server", 5, QosSpec::RAW);
        let back = net.node(to).open.iter().next().copied().unwrap();
        let done = |net: &mut Net| status(net, from).counters["handshake.done"];
        let before = done(&mut net);
        for half_minute in 0..5 {
            for sent in 0..15_000u32 {
                write(&mut net, from, 5, &[&sent.to_be_bytes()]);
                write(&mut net, to, back.0, &[&sent.to_be_bytes()]);
                net.run(Duration::from_millis(2));
            }
            let there = read(&mut net, to, back.0).len();
            let here = read(&mut net, from, 5).len();
            let got = (there, here);
            assert_eq!(got, (15_000, 15_000), "{from} to {to}, {half_minute}");
        }
        assert!(done(&mut net) > before, "{from} to {to}: no new keys");
    }
}

#[test]
fn a_flow_that_slept_for_long_wakes_with_fresh_keys() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    net.seconds(900);
    write(&mut net, "a", 5, &[b"good morning"]);
    net.run(Duration::from_millis(200));
    assert_eq!(read(&mut net, "c", 5), [b"good morning".to_vec()]);
}

#[test]
fn a_flow_to_a_member_that_restarts_goes_down_and_another_can_be_had() {
    for (client, server) in [("a", "c"), ("a", "b")] {
        let mut net = line();
        register(&mut net, server, "server");
        flow(&mut net, client, server, "server", 5, QosSpec::RAW);
        let files = net.node(server).files.clone();
        net.boot(server, files);
        let rejoin = Enroll {
            entry: Entry::Rejoin,
            over: vec![label("net")],
            timeout_ms: 5_000,
        };
        net.ask(server, Command::Enroll(rejoin)).unwrap();
        net.seconds(4);
        let reason = net.node(client).closed.get(&FlowId(5)).cloned();
        assert!(
            reason.is_some_and(|r| r.text.contains("restarted")),
            "{server}"
        );
        register(&mut net, server, "server");
        net.seconds(1);
        flow(&mut net, client, server, "server", 6, QosSpec::RAW);
        write(&mut net, client, 6, &[b"again"]);
        assert_eq!(read(&mut net, server, 6), [b"again".to_vec()]);
    }
}

#[test]
fn the_same_seeds_give_the_same_packets_at_the_same_times() {
    let run = || {
        let mut net = triangle();
        register(&mut net, "b", "server");
        flow(&mut net, "a", "b", "server", 5, QosSpec::BEST);
        write(&mut net, "a", 5, &[b"x"]);
        net.cut("a", "b");
        net.seconds(200);
        net.trace
    };
    let (one, other) = (run(), run());
    assert_eq!(one.len(), other.len());
    for (a, b) in one.iter().zip(&other) {
        assert_eq!(a, b);
    }
}

#[test]
fn two_members_that_dial_each_other_keep_one_link() {
    let mut net = triangle();
    net.command("b", Command::Connect(label("c"), None));
    net.command("b", Command::Connect(label("a"), None));
    net.command("a", Command::Connect(label("b"), None));
    net.command("a", Command::Connect(label("c"), None));
    net.seconds(2);
    for pair in [("a", "b"), ("b", "c"), ("a", "c")] {
        net.cut(pair.0, pair.1);
    }
    // Nothing is sent, so only idle hellos tell.
    net.seconds(40);
    assert!(connected(&mut net, "a").is_empty());
    for pair in [("a", "b"), ("b", "c"), ("a", "c")] {
        net.mend(pair.0, pair.1);
    }
    net.seconds(4);
    assert_eq!(connected(&mut net, "a"), ["b", "c"]);
    assert_eq!(connected(&mut net, "b"), ["a", "c"]);
    assert_eq!(connected(&mut net, "c"), ["a", "b"]);
    let left = net
        .nodes
        .values()
        .map(|n| n.machine.links.len())
        .sum::<usize>();
    assert_eq!(left, 6);
    assert_eq!(net.wires.len(), 6);
}

#[test]
fn connect_says_why_it_fails_and_disconnect_ends_the_link() {
    let mut net = line();
    let reason = net
        .ask("a", Command::Connect(label("c"), None))
        .unwrap_err();
    assert_eq!(reason.code, Code::TimedOut);
    assert!(reason.text.contains("c is not there"), "{reason}");
    let began = net.now().mono;
    let short = Command::Connect(label("c"), Some(Duration::from_millis(1500)));
    let reason = net.ask("a", short).unwrap_err();
    assert!(reason.text.contains("within 1.5s"), "{reason}");
    assert!(
        net.now().mono - began < Duration::from_secs(3),
        "it waited longer"
    );
    net.mend("a", "c");
    assert_eq!(
        net.ask("a", Command::Connect(label("c"), None)),
        Ok(Answer::Ok)
    );
    assert_eq!(connected(&mut net, "a"), ["b", "c"]);
    assert_eq!(
        net.ask("a", Command::Disconnect(label("c"))),
        Ok(Answer::Ok)
    );
    net.seconds(3);
    assert_eq!(connected(&mut net, "a"), ["b"]);
    assert_eq!(connected(&mut net, "c"), ["b"]);
}

#[test]
fn a_smaller_mtu_below_reaches_the_users_of_flows() {
    let mut net = line();
    register(&mut net, "c", "server");
    let before = flow(&mut net, "a", "c", "server", 5, QosSpec::RAW).mtu;
    let links: Vec<FlowId> = net.node("c").machine.links.keys().copied().collect();
    for lower in links {
        net.input("c", Input::Tell(FlowTell::Mtu(lower, 1300)));
    }
    net.run(Duration::from_millis(200));
    assert_eq!(net.node("a").mtus[&FlowId(5)], before - (MTU - 1300));
}

#[test]
fn a_link_that_loses_large_packets_falls_back_to_small_ones() {
    let mut net = line();
    net.tamper = Some(Box::new(|_, _, pdu| {
        if pdu.len() > 1250 {
            pdu.clear();
        }
    }));
    net.seconds(1);
    let files = net.node("a").files.clone();
    net.boot("a", files);
    net.ask(
        "a",
        Command::Enroll(Enroll {
            entry: Entry::Rejoin,
            over: vec![label("net")],
            timeout_ms: 5_000,
        }),
    )
    .unwrap();
    net.seconds(6);
    assert_eq!(connected(&mut net, "a"), ["b"]);
    register(&mut net, "b", "server");
    net.seconds(1);
    let mtu = flow(&mut net, "a", "b", "server", 5, QosSpec::RAW).mtu;
    assert!((1200 - 44..=1250 - 44).contains(&mtu), "{mtu}");
}

#[test]
fn a_shutdown_is_noticed_at_once_and_leaves_nothing() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    net.command("c", Command::Shutdown);
    net.run(Duration::from_millis(600));
    assert!(net.node("c").exited);
    assert_eq!(net.node("a").closed[&FlowId(5)].code, Code::Closed);
    assert_eq!(connected(&mut net, "b"), ["a"]);
}

#[test]
fn an_answer_that_is_late_by_a_cut_link_still_comes() {
    let mut net = line();
    register(&mut net, "c", "server");
    let command = net.command("a", Command::Allocate(allocate("server", 5, QosSpec::RAW)));
    let request = request(&mut net, "c");
    net.cut("b", "c");
    let verdict = Ok((
        FlowId(5),
        proto::ipcp::User {
            uid: 0,
            ipcp: false,
        },
    ));
    net.command(
        "c",
        Command::Respond(proto::ipcp::Respond {
            request: request.request,
            verdict,
        }),
    );
    net.run(Duration::from_millis(1000));
    net.mend("b", "c");
    assert!(wait(&mut net, "a", command).is_ok());
}

#[test]
fn a_way_that_is_back_after_long_costs_no_flow() {
    let mut net = line();
    register(&mut net, "c", "server");
    for id in [5, 6] {
        flow(&mut net, "a", "c", "server", id, QosSpec::RAW);
    }
    net.cut("b", "c");
    // The word of its end waits all the time.
    net.input("a", Input::UpperGone(FlowId(6), left()));
    net.seconds(25);
    net.mend("b", "c");
    net.seconds(3);
    assert_eq!(net.node("c").open, BTreeSet::from([FlowId(5)]));
    write(&mut net, "a", 5, &[b"still there"]);
    assert_eq!(read(&mut net, "c", 5), [b"still there".to_vec()]);
    assert!(net.node("a").machine.flows.closing.len() == 0);
}
