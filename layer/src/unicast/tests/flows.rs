//! Flows: allocated, used, refused, ended.

use proto::ipcp::{Allocate, Allocated, FlowRequest, Respond, User};
use proto::{Name, QosSpec};

use super::*;

/// A layer over a line a–b–c: a and c reach only b.
pub(super) fn line() -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    join(&mut net, "b", "c");
    net.seconds(1);
    net
}

pub(super) fn register(net: &mut Net, at: &'static str, name: &str) {
    assert_eq!(
        net.ask(at, Command::Register(Name::new(name).unwrap())),
        Ok(Answer::Ok)
    );
}

pub(super) fn allocate(name: &str, flow: u64, qos: QosSpec) -> Allocate {
    Allocate {
        flow: FlowId(flow),
        name: Name::new(name).unwrap(),
        source: Some(Name::new("client").unwrap()),
        qos,
        peer: None,
        user: User {
            uid: 1000,
            ipcp: false,
        },
        timeout_ms: 5_000,
        at: Vec::new(),
    }
}

/// The next flow request that a machine has reported.
pub(super) fn request(net: &mut Net, at: &'static str) -> FlowRequest {
    for _ in 0..500 {
        let events = &mut net.node(at).events;
        let found = events
            .iter()
            .position(|e| matches!(e, Event::FlowRequest(_)));
        if let Some(Event::FlowRequest(request)) = found.map(|i| events.remove(i)) {
            return request;
        }
        net.run(Duration::from_millis(10));
    }
    panic!("no flow request came to {at}");
}

pub(super) fn wait(net: &mut Net, at: &'static str, id: CommandId) -> Result<Answer, Reason> {
    for _ in 0..4000 {
        if let Some(answer) = net.node(at).answers.remove(&id) {
            return answer;
        }
        net.run(Duration::from_millis(10));
    }
    panic!("{at} never answered");
}

/// Allocates a flow and accepts it; both ends get the same number.
pub(super) fn flow(
    net: &mut Net,
    from: &'static str,
    to: &'static str,
    name: &str,
    id: u64,
    qos: QosSpec,
) -> Allocated {
    let command = net.command(from, Command::Allocate(allocate(name, id, qos)));
    let request = request(net, to);
    assert_eq!((request.name.as_str(), request.qos), (name, qos));
    assert_eq!(request.peer.member, Some(label(from)));
    let verdict = Ok((
        FlowId(id),
        User {
            uid: 1000,
            ipcp: false,
        },
    ));
    let answer = net.ask(
        to,
        Command::Respond(Respond {
            request: request.request,
            verdict,
        }),
    );
    assert!(matches!(answer, Ok(Answer::Allocated(_))), "{answer:?}");
    match wait(net, from, command) {
        Ok(Answer::Allocated(allocated)) => allocated,
        other => panic!("{other:?}"),
    }
}

/// Writes SDUs, one record each.
pub(super) fn write(net: &mut Net, at: &'static str, flow: u64, sdus: &[&[u8]]) {
    for sdu in sdus {
        net.input(at, Input::Upper(FlowId(flow), Batch::of(sdu).unwrap()));
    }
}

/// What has come on a flow since the last look.
pub(super) fn read(net: &mut Net, at: &'static str, flow: u64) -> Vec<Vec<u8>> {
    net.run(Duration::from_millis(50));
    net.node(at)
        .received
        .remove(&FlowId(flow))
        .unwrap_or_default()
}

fn counters(net: &mut Net, at: &'static str) -> std::collections::HashMap<String, u64> {
    status(net, at).counters
}

#[test]
fn a_flow_carries_sdus_both_ways_through_another_member() {
    let mut net = line();
    register(&mut net, "c", "server");
    for (id, qos) in [(10, QosSpec::RAW), (11, QosSpec::BEST)] {
        let allocated = flow(&mut net, "a", "c", "server", id, qos);
        assert_eq!(allocated.qos, qos);
        assert_eq!(allocated.peer.member, Some(label("c")));
        let raw = qos == QosSpec::RAW;
        let most = if raw { MTU - 88 } else { 65_505 };
        assert_eq!(allocated.mtu, most, "what FRCT serves is cut as needed");
        let whole = vec![7; allocated.mtu as usize];
        write(&mut net, "a", id, &[b"one", b"two", &whole]);
        assert_eq!(
            read(&mut net, "c", id),
            [b"one".to_vec(), b"two".to_vec(), whole]
        );
        write(&mut net, "c", id, &[b"back"]);
        assert_eq!(read(&mut net, "a", id), [b"back".to_vec()]);
    }
    assert!(status(&mut net, "b").counters["forwarded"] > 0);
    let route = status(&mut net, "a")
        .routes
        .into_iter()
        .find(|r| r.member == "c")
        .unwrap();
    assert_eq!((route.next_hop.as_str(), route.hops), ("b", 2));
}

#[test]
fn links_and_flows_tell_of_the_hybrid_key_exchange_that_protects_them() {
    let mut net = line();
    for (to, id) in [("b", 5), ("c", 6)] {
        register(&mut net, to, &format!("server-{to}"));
        flow(&mut net, "a", to, &format!("server-{to}"), id, QosSpec::RAW);
        write(&mut net, "a", id, &[b"x"]);
        assert_eq!(read(&mut net, to, id).len(), 1);
    }
    let told = status(&mut net, "a");
    let links = told.links.iter().map(|l| l.key_exchange.as_str());
    assert_eq!(links.collect::<Vec<_>>(), ["X25519MLKEM768"]);
    let flows = told.flows.iter().map(|f| f.key_exchange.as_str());
    assert_eq!(flows.collect::<Vec<_>>(), ["X25519MLKEM768"; 2]);
}

#[test]
fn many_sdus_in_one_record_arrive_in_order() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::BEST);
    let mut record = Batch::new(Framing::Record);
    let sdus: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; 1000]).collect();
    for sdu in &sdus {
        record.push(sdu.len()).unwrap().copy_from_slice(sdu);
    }
    net.input("a", Input::Upper(FlowId(5), record));
    assert_eq!(read(&mut net, "c", 5), sdus);
}

#[test]
fn what_contradicts_itself_is_refused_with_advice_and_never_lowered() {
    let mut net = line();
    register(&mut net, "c", "server");
    for qos in [
        QosSpec {
            ordered: false,
            ..QosSpec::DATA
        },
        QosSpec {
            max_delay_ms: 80,
            ..QosSpec::DATA
        },
    ] {
        let reason = net
            .ask("a", Command::Allocate(allocate("server", 5, qos)))
            .unwrap_err();
        assert_eq!(reason.code, Code::QosNotGranted);
        assert!(reason.text.contains("ask for data"), "{reason}");
    }
}

#[test]
fn a_name_that_nobody_has_is_not_found_within_a_second() {
    let mut net = line();
    let before = net.now().mono;
    let reason = net
        .ask("a", Command::Allocate(allocate("nobody", 5, QosSpec::RAW)))
        .unwrap_err();
    assert_eq!(reason.code, Code::NotFound);
    assert!(net.now().mono - before <= Duration::from_millis(1100));
}

#[test]
fn a_name_may_turn_up_while_it_is_waited_for() {
    let mut net = line();
    let command = net.command("a", Command::Allocate(allocate("late", 5, QosSpec::RAW)));
    net.run(Duration::from_millis(500));
    register(&mut net, "c", "late");
    let request = request(&mut net, "c");
    let verdict = Ok((
        FlowId(5),
        User {
            uid: 0,
            ipcp: false,
        },
    ));
    net.ask(
        "c",
        Command::Respond(Respond {
            request: request.request,
            verdict,
        }),
    )
    .unwrap();
    assert!(wait(&mut net, "a", command).is_ok());
}

#[test]
fn a_pinned_flow_goes_to_that_member_or_nowhere() {
    let mut net = line();
    register(&mut net, "b", "server");
    register(&mut net, "c", "server");
    net.run(Duration::from_millis(100));
    let pinned = |member| Allocate {
        peer: Some(label(member)),
        ..allocate("server", 5, QosSpec::RAW)
    };
    let command = net.command("a", Command::Allocate(pinned("c")));
    let request = request(&mut net, "c");
    let refusal = Reason::new(Code::Refused, "no room");
    net.ask(
        "c",
        Command::Respond(Respond {
            request: request.request,
            verdict: Err(refusal.clone()),
        }),
    )
    .unwrap();
    assert_eq!(wait(&mut net, "a", command), Err(refusal));
    let reason = net.ask("a", Command::Allocate(pinned("d"))).unwrap_err();
    assert_eq!(reason.code, Code::Denied);
    assert!(
        !net.node("b")
            .events
            .iter()
            .any(|e| matches!(e, Event::FlowRequest(_))),
        "b was asked"
    );
}

#[test]
fn the_end_of_a_flow_leaves_nothing_on_either_side() {
    let mut net = line();
    register(&mut net, "c", "server");
    for id in 1..=20 {
        flow(&mut net, "a", "c", "server", id, QosSpec::RAW);
        write(&mut net, "a", id, &[b"last words"]);
        let (closer, other) = if id % 2 == 0 { ("a", "c") } else { ("c", "a") };
        let done = Reason::new(Code::Closed, "done");
        let reason = vec![left(), died(), done].swap_remove(id as usize % 3);
        if id % 3 < 2 {
            net.input(closer, Input::UpperGone(FlowId(id), reason.clone()));
            net.node(closer).open.remove(&FlowId(id));
            let down = |e: &Event| matches!(e, Event::FlowDown(flow, r) if flow.0 == id && r.code == reason.code);
            assert!(net.node(closer).events.iter().any(down));
        } else {
            net.ask(closer, Command::Dealloc(FlowId(id), reason.clone()))
                .unwrap();
        }
        net.run(Duration::from_millis(100));
        assert_eq!(net.node(other).closed[&FlowId(id)], reason);
    }
    for name in ["a", "c"] {
        assert!(status(&mut net, name).flows.is_empty());
        assert!(net.node(name).open.is_empty());
        let machine = &net.node(name).machine;
        assert!(
            machine.flows.closing.len() == 0
                && machine.flows.outgoing.len() == 0
                && machine.flows.incoming.len() == 0
        );
    }
}

#[test]
fn a_caller_that_gives_up_leaves_no_half_of_a_flow() {
    let mut net = line();
    register(&mut net, "c", "server");
    let command = net.command("a", Command::Allocate(allocate("server", 5, QosSpec::RAW)));
    let request = request(&mut net, "c");
    net.cut("a", "b");
    let reason = wait(&mut net, "a", command).unwrap_err();
    assert_eq!(reason.code, Code::TimedOut);
    net.mend("a", "b");
    net.seconds(3);
    let verdict = Ok((
        FlowId(5),
        User {
            uid: 0,
            ipcp: false,
        },
    ));
    let _ = net.ask(
        "c",
        Command::Respond(Respond {
            request: request.request,
            verdict,
        }),
    );
    net.seconds(1);
    assert!(status(&mut net, "c").flows.is_empty());
    assert!(status(&mut net, "a").flows.is_empty());
}

#[test]
fn a_flow_to_a_member_that_stays_away_goes_down_with_a_reason() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    net.cut("b", "c");
    net.seconds(20);
    assert!(net.node("a").closed.is_empty());
    net.seconds(14);
    let reason = net.node("a").closed[&FlowId(5)].clone();
    assert_eq!(reason.code, Code::Unreachable);
    assert!(
        net.node("a")
            .events
            .contains(&Event::FlowDown(FlowId(5), reason))
    );
    assert!(counters(&mut net, "a").contains_key("routes.found"));
}

#[test]
fn a_layer_over_a_layer_carries_flows_in_records_and_with_what_its_headers_leave() {
    let mut net = Net::new(&["a", "b", "c"]);
    (net.framing, net.mtu) = (Framing::Record, MTU - 88);
    net.cut("a", "c");
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    join(&mut net, "b", "c");
    net.seconds(1);
    register(&mut net, "c", "server");
    let mtu = flow(&mut net, "a", "c", "server", 5, QosSpec::RAW).mtu;
    assert_eq!(mtu, MTU - 2 * 88);
    let sdus: Vec<Vec<u8>> = (1..=20).map(|i| vec![i as u8; 60 * i]).collect();
    for sdu in &sdus {
        write(&mut net, "a", 5, &[sdu]);
    }
    assert_eq!(read(&mut net, "c", 5), sdus);
    // One that is too large is dropped and counted, not cut.
    write(&mut net, "a", 5, &[&vec![1; mtu as usize + 1]]);
    assert!(read(&mut net, "c", 5).is_empty());
    assert_eq!(counters(&mut net, "a")["drop.too_big"], 1);
}

#[test]
fn a_thousand_flows_come_and_go() {
    let mut net = line();
    register(&mut net, "c", "server");
    for round in 0..20u64 {
        let commands: Vec<CommandId> = (1..=50)
            .map(|i| {
                net.command(
                    "a",
                    Command::Allocate(allocate("server", round * 50 + i, QosSpec::RAW)),
                )
            })
            .collect();
        for _ in 0..50 {
            let request = request(&mut net, "c");
            let verdict = Ok((
                FlowId(request.request),
                User {
                    uid: 0,
                    ipcp: false,
                },
            ));
            net.command(
                "c",
                Command::Respond(Respond {
                    request: request.request,
                    verdict,
                }),
            );
        }
        for id in commands {
            assert!(wait(&mut net, "a", id).is_ok());
        }
        for i in 1..=50 {
            net.input("a", Input::UpperGone(FlowId(round * 50 + i), left()));
            net.node("a").open.remove(&FlowId(round * 50 + i));
        }
    }
    net.seconds(1);
    for name in ["a", "c"] {
        let machine = &net.node(name).machine;
        let flows = &machine.flows;
        assert_eq!(
            (
                flows.all().len(),
                flows.outgoing.len(),
                flows.incoming.len(),
                flows.closing.len()
            ),
            (0, 0, 0, 0)
        );
        assert!(machine.peers.len() <= 2);
    }
}

#[test]
fn flows_that_two_members_give_each_other_do_not_mix() {
    let mut net = line();
    register(&mut net, "a", "at-a");
    register(&mut net, "c", "at-c");
    flow(&mut net, "a", "c", "at-c", 1, QosSpec::RAW);
    flow(&mut net, "c", "a", "at-a", 2, QosSpec::BEST);
    flow(&mut net, "a", "c", "at-c", 3, QosSpec::BEST);
    for id in 1..=3u64 {
        write(&mut net, "a", id, &[format!("from a on {id}").as_bytes()]);
        write(&mut net, "c", id, &[format!("from c on {id}").as_bytes()]);
    }
    for id in 1..=3u64 {
        assert_eq!(
            read(&mut net, "c", id),
            [format!("from a on {id}").into_bytes()]
        );
        assert_eq!(
            read(&mut net, "a", id),
            [format!("from c on {id}").into_bytes()]
        );
    }
}

#[test]
fn the_round_trip_to_a_member_is_known_at_both_ends_and_forgotten_with_the_way() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    net.seconds(1);
    let rtt = |net: &mut Net, at| status(net, at).flows[0].rtt_us;
    for at in ["a", "c"] {
        let rtt = rtt(&mut net, at);
        assert!((7_000..10_000).contains(&rtt), "{at}: {rtt} µs");
    }
    // The way is another from now on, and nothing was said on it yet.
    net.mend("a", "c");
    net.cut("b", "c");
    let (a, c) = (net.command("a", Command::Connect(label("c"), None)), "c");
    assert_eq!(wait(&mut net, "a", a), Ok(Answer::Ok));
    net.seconds(1);
    let rtt = rtt(&mut net, c);
    assert!((3_000..6_000).contains(&rtt), "{rtt} µs to a neighbour");
}

/// How many flow requests a machine has reported.
fn requests(net: &mut Net, at: &'static str) -> usize {
    let events = net.node(at).events.iter();
    events
        .filter(|e| matches!(e, Event::FlowRequest(_)))
        .count()
}

#[test]
fn a_member_that_has_just_restarted_is_asked_once() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    register(&mut net, "b", "server");
    flow(&mut net, "a", "b", "server", 5, QosSpec::RAW);
    let files = net.node("b").files.clone();
    net.boot("b", files);
    // Asked for while b is away; the channel to its earlier life goes on.
    let command = net.command("a", Command::Allocate(allocate("server", 6, QosSpec::RAW)));
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5_000,
    };
    assert!(net.ask("b", Command::Enroll(rejoin)).is_ok());
    register(&mut net, "b", "server");
    let request = request(&mut net, "b");
    let respond = Respond {
        request: request.request,
        verdict: Err(Reason::new(Code::Refused, "the program said no")),
    };
    assert_eq!(net.ask("b", Command::Respond(respond)), Ok(Answer::Ok));
    assert_eq!(
        wait(&mut net, "a", command).unwrap_err().code,
        Code::Refused
    );
    net.seconds(2);
    assert_eq!(
        requests(&mut net, "b"),
        0,
        "besides the one that was answered"
    );
}

#[test]
fn a_request_that_comes_again_makes_no_second_end_nor_asks_anybody() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    let (remote, local) = {
        let flow = net.node("c").machine.flows.iter().next().unwrap();
        (flow.remote, flow.local)
    };
    let again = |net: &mut Net| {
        let (now, request) = (
            net.now(),
            proto::wire::FlowRequest {
                source_endpoint: remote.0,
                name: "server".to_owned(),
                timeout_ms: 5_000,
                ..proto::wire::FlowRequest::default()
            },
        );
        let from = net.node("a").machine.me.as_ref().unwrap().address;
        net.node("c").machine.flow_request(now, from, request);
        net.input("c", Input::Timeout);
    };
    again(&mut net);
    net.run(Duration::from_millis(100));
    let ends: Vec<_> = net
        .node("c")
        .machine
        .flows
        .iter()
        .map(|f| f.local)
        .collect();
    assert_eq!(ends, [local], "the same answer, and no other end");
    assert!(net.node("a").open.contains(&FlowId(5)));
    // Its user at c closes it; before a says that it heard so, the request comes again.
    net.input("c", Input::UpperGone(FlowId(5), left()));
    again(&mut net);
    net.seconds(1);
    assert_eq!(requests(&mut net, "c"), 0);
    assert_eq!(counters(&mut net, "c")["drop.repeated_request"], 1);
    for at in ["a", "c"] {
        let flows = &net.node(at).machine.flows;
        assert_eq!((flows.len(), flows.closing.len()), (0, 0), "{at}");
    }
}

/// a has asked b for a flow, which it knows as 6.
fn asked() -> (Net, CommandId) {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    register(&mut net, "b", "server");
    net.seconds(1);
    let command = net.command("a", Command::Allocate(allocate("server", 6, QosSpec::RAW)));
    (net, command)
}

/// b says yes, and nothing arrives yet.
fn grant(net: &mut Net, id: u64) {
    let request = request(net, "b").request;
    let user = User {
        uid: 1000,
        ipcp: false,
    };
    let verdict = Ok((FlowId(id), user));
    net.command("b", Command::Respond(Respond { request, verdict }));
}

#[test]
fn an_answer_to_what_was_asked_before_a_member_forgot_makes_no_half_of_a_flow() {
    let (mut net, command) = asked();
    grant(&mut net, 6);
    // The answer is on its way when a hears that b has begun anew.
    let now = net.now();
    let machine = &mut net.node("a").machine;
    let b = machine.me.as_ref().unwrap().address_of(&label("b"));
    machine.ask_again(now, b, true);
    net.input("a", Input::Timeout);
    grant(&mut net, 7);
    assert!(wait(&mut net, "a", command).is_ok());
    net.run(Duration::from_millis(100));
    assert_eq!(net.node("b").open, BTreeSet::from([FlowId(7)]));
    write(&mut net, "a", 6, &[b"to the end that is there"]);
    assert_eq!(read(&mut net, "b", 7).len(), 1);
}

#[test]
fn what_a_member_has_granted_in_its_new_life_stands_though_one_hears_of_that_life_later() {
    let (mut net, command) = asked();
    grant(&mut net, 6);
    write(&mut net, "b", 6, &[b"what follows the answer"]);
    // Both are on their way when a hears that b runs anew, and knows no names of it for a while.
    let now = net.now();
    let machine = &mut net.node("a").machine;
    let me = machine.me.as_mut().unwrap();
    let b = me.address_of(&label("b"));
    me.dir.reborn(now.mono, b, u64::MAX);
    machine.ask_again(now, b, false);
    net.input("a", Input::Timeout);
    assert!(wait(&mut net, "a", command).is_ok());
    net.run(Duration::from_millis(100));
    assert_eq!(requests(&mut net, "b"), 0);
    assert_eq!(net.node("b").open, BTreeSet::from([FlowId(6)]));
    assert_eq!(read(&mut net, "a", 6), [b"what follows the answer"]);
}

#[test]
fn members_of_whom_one_seals_with_keys_that_the_other_has_not_agree_on_others() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    net.seconds(5);
    // Both have two sessions, then c the first of them only.
    let machine = &mut net.node("c").machine;
    let a = machine.me.as_ref().unwrap().address_of(&label("a"));
    machine.peers.get_mut(&a).unwrap().estranged = true;
    machine.wants_session.insert(a);
    net.input("c", Input::Timeout);
    net.seconds(2);
    let peer = net.node("c").machine.peers.get_mut(&a).unwrap();
    peer.sessions.forget_newest();
    write(&mut net, "a", 5, &[b"lost"]);
    net.seconds(2);
    assert!(read(&mut net, "c", 5).is_empty());
    assert!(counters(&mut net, "c")["drop.no_session"] > 0);
    write(&mut net, "a", 5, &[b"with keys that both have"]);
    assert_eq!(read(&mut net, "c", 5).len(), 1);
}
