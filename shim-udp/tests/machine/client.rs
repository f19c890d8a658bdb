//! The client's rules: requests, echoes, time-outs, the flow's life.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bench::{PORT, TIMEOUT_MS, Wire, ipcp, ms, name, program, secs};
use layer::Input;
use proto::ipcp::{
    Allocate, Answer, Command, Dns, Event, Offload, OffloadKind, OffloadMode, Respond, Settings,
    State,
};
use proto::{Code, FlowId, Label, QosSpec, Reason};
use shim_udp::{Ask, Tell};

const SERVER: &str = "10.0.0.2:3359";

/// A client whose server is played by the test.
fn client() -> (Wire, SocketAddr) {
    let mut wire = Wire::new(&["10.0.0.1"]);
    wire.bootstrap(0, &["srv=10.0.0.2"]);
    wire.allocate(0, 10, "srv", program());
    let cp = wire.hosts[0].newest();
    (wire, cp)
}

fn allocated(wire: &Wire, id: u64) -> bool {
    matches!(wire.hosts[0].answer(id), Some(Ok(Answer::Allocated(_))))
}

fn error(wire: &Wire, id: u64) -> &Reason {
    wire.hosts[0].answer(id).unwrap().as_ref().unwrap_err()
}

#[test]
fn two_shims_make_a_flow_that_carries_sdus_both_ways() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    assert!(allocated(&wire, 10));
    wire.accept(1, 1, 20, program());
    wire.write(0, 10, &[b"ping", b"pong"]);
    wire.write(1, 20, &[b"back"]);
    assert_eq!(
        wire.hosts[1].sdus,
        [
            (FlowId(20), b"ping".to_vec()),
            (FlowId(20), b"pong".to_vec())
        ]
    );
    assert_eq!(wire.hosts[0].sdus, [(FlowId(10), b"back".to_vec())]);
}

#[test]
fn the_request_is_the_name_and_nothing_else() {
    let (wire, _) = client();
    assert_eq!(wire.seen[0].1.bytes, b"srv");
    assert_eq!(wire.seen[0].1.to, SERVER.parse().unwrap());
}

#[test]
fn requests_are_repeated_with_growing_waits_until_the_callers_deadline() {
    let (mut wire, _) = client();
    wire.pass(ms(TIMEOUT_MS));
    let times: Vec<Duration> = wire.seen.iter().map(|(at, _)| *at).collect();
    assert!(
        (ms(50)..=ms(100)).contains(&times[1]),
        "the second went at {:?}",
        times[1]
    );
    assert!(times.windows(2).all(|w| w[1] - w[0] <= ms(500)));
    assert!((20..50).contains(&times.len()));
    let reason = error(&wire, 10);
    assert_eq!(reason.code, Code::TimedOut);
    for part in ["10.0.0.2", "firewall", "any source port", "registered"] {
        assert!(
            reason.text.contains(part),
            "{part:?} is missing in {:?}",
            reason.text
        );
    }
    assert_eq!(wire.hosts[0].open_sockets(), 0);
}

#[test]
fn an_echo_from_a_wrong_address_or_with_another_payload_is_ignored() {
    let (mut wire, cp) = client();
    wire.inject("10.0.0.3:4000", cp, b"srv");
    wire.inject(SERVER, cp, b"srv");
    for payload in [&b"srw"[..], b"", b"srv2"] {
        wire.inject("10.0.0.2:4000", cp, payload);
    }
    assert!(wire.hosts[0].answer(10).is_none());
    assert_eq!(wire.hosts[0].shim.counter("drop.echo-source"), 2);
    assert_eq!(wire.hosts[0].shim.counter("drop.echo-payload"), 3);
    wire.inject("10.0.0.2:4000", cp, b"srv");
    assert!(allocated(&wire, 10));
}

#[test]
fn the_client_confirms_at_the_echo_and_again_until_it_hears_something() {
    let empties = |wire: &Wire| wire.sent_to("10.0.0.2:4000").len();
    let (mut wire, cp) = client();
    wire.inject("10.0.0.2:4000", cp, b"srv");
    let mut counts = Vec::new();
    for wait in [0, 50, 150, 600, 1000] {
        wire.pass(ms(wait));
        counts.push(empties(&wire));
    }
    assert_eq!(counts, [1, 2, 3, 4, 4]);
    let (mut wire, cp) = client();
    wire.inject("10.0.0.2:4000", cp, b"srv");
    wire.pass(ms(60));
    wire.inject("10.0.0.2:4000", cp, b"hello");
    wire.pass(ms(2000));
    assert_eq!(empties(&wire), 2);
}

#[test]
fn of_k_requests_k_less_one_late_echoes_are_no_sdus() {
    let (mut wire, cp) = client();
    wire.pass(ms(400));
    let requests = wire.sent_to(SERVER).len();
    assert!(requests >= 3);
    for _ in 0..=requests {
        wire.inject("10.0.0.2:4000", cp, b"srv");
    }
    assert_eq!(
        wire.hosts[0].shim.counter("drop.late-echo"),
        requests as u64 - 1
    );
    assert_eq!(wire.hosts[0].sdus, [(FlowId(10), b"srv".to_vec())]);
}

#[test]
fn an_sdu_that_equals_the_request_is_an_sdu_2_s_after_allocation() {
    let (mut wire, cp) = client();
    wire.pass(ms(400));
    wire.inject("10.0.0.2:4000", cp, b"srv");
    wire.pass(ms(2001));
    wire.inject("10.0.0.2:4000", cp, b"srv");
    assert_eq!(wire.hosts[0].sdus.len(), 1);
}

#[test]
fn a_refusal_is_seen_by_the_client_with_its_reason() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    let verdict = Err(Reason::new(Code::Refused, "no"));
    wire.control(
        1,
        5,
        Command::Respond(Respond {
            request: 1,
            verdict,
        }),
    );
    wire.pass(ms(100));
    let downs = wire.hosts[0].downs();
    assert_eq!((downs[0].0, downs[0].1.code), (FlowId(10), Code::Refused));
    assert_eq!(wire.hosts[0].open_sockets(), 0);
}

#[test]
fn a_closed_flow_is_down_at_the_other_end_after_what_was_sent_before() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    wire.accept(1, 1, 20, program());
    wire.write(1, 20, &[b"last words"]);
    let gone = Reason::new(Code::Unreachable, "the program died");
    wire.input(1, Input::UpperGone(FlowId(20), gone.clone()));
    wire.pass(secs(6));
    assert_eq!(wire.hosts[0].sdus, [(FlowId(10), b"last words".to_vec())]);
    // The wire has no place for why, but the own irmd hears it.
    assert_eq!(*wire.hosts[1].downs()[0].1, gone);
    assert_eq!(wire.hosts[0].downs()[0].1.code, Code::Closed);
    assert_eq!(wire.hosts[0].closed[0].0, FlowId(10));
}

#[test]
fn an_idle_flow_is_kept_alive_by_an_empty_datagram_every_5_s() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    wire.accept(1, 1, 20, program());
    wire.pass(secs(1));
    let before = wire.seen.len();
    wire.pass(secs(50));
    let sent = wire.seen.len() - before;
    assert!(
        (19..=22).contains(&sent),
        "{sent} keep-alives in 50 s from two ends"
    );
    wire.pass(secs(3600));
    assert!(wire.hosts[0].downs().is_empty() && wire.hosts[1].downs().is_empty());
    assert!(
        wire.hosts[0].sdus.is_empty() && wire.hosts[1].sdus.is_empty(),
        "a keep-alive is no SDU"
    );
}

#[test]
fn a_peer_that_sent_keep_alives_is_down_after_20_s_of_silence() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    wire.accept(1, 1, 20, program());
    wire.pass(secs(30));
    wire.lose = Box::new(|_| true);
    wire.pass(secs(14));
    assert!(wire.hosts[0].downs().is_empty());
    wire.pass(secs(7));
    assert_eq!(wire.hosts[0].downs()[0].1.code, Code::TimedOut);
    assert_eq!(wire.hosts[1].downs()[0].1.code, Code::TimedOut);
}

#[test]
fn a_peer_that_never_sent_one_has_10_minutes_without_traffic() {
    let (mut wire, cp) = client();
    wire.inject("10.0.0.2:4000", cp, b"srv");
    wire.pass(secs(300));
    wire.inject("10.0.0.2:4000", cp, b"hello");
    wire.pass(secs(599));
    assert!(wire.hosts[0].downs().is_empty());
    wire.pass(secs(2));
    assert_eq!(wire.hosts[0].downs()[0].1.code, Code::TimedOut);
}

#[test]
fn two_hundred_flows_at_once_with_every_third_echo_lost_stand_within_2_s() {
    let mut wire = Wire::pair();
    let mut echoes = 0;
    wire.lose = Box::new(move |d| {
        let echo = d.from.ip() == std::net::Ipv4Addr::new(10, 0, 0, 2) && d.bytes == b"srv";
        echoes += u32::from(echo);
        echo && echoes % 3 == 0
    });
    for flow in 100..300 {
        wire.allocate(0, flow, "srv", ipcp());
    }
    wire.pass(secs(2));
    assert!((100..300).all(|flow| allocated(&wire, flow)));
    assert_eq!(
        wire.hosts[1].requests().len(),
        200,
        "one request a flow, however often it was sent"
    );
}

#[test]
fn an_sdu_above_the_mtu_is_dropped_and_counted() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    wire.accept(1, 1, 20, program());
    wire.write(0, 10, &[&[1; 1472], &[2; 1473], &[3; 9]]);
    let sizes: Vec<_> = wire.hosts[1]
        .sdus
        .iter()
        .map(|(_, sdu)| sdu.len())
        .collect();
    assert_eq!(
        (sizes, wire.hosts[0].shim.counter("drop.too-big")),
        (vec![1472, 9], 1)
    );
}

#[test]
fn a_new_path_mtu_is_reported_to_the_user() {
    let (mut wire, cp) = client();
    wire.inject("10.0.0.2:4000", cp, b"srv");
    let Some(Ask::Connect(key, _)) = wire.hosts[0]
        .asks
        .iter()
        .find(|a| matches!(a, Ask::Connect(..)))
        .cloned()
    else {
        panic!()
    };
    wire.input(0, Input::Tell(Tell::Mtu(key, 1392)));
    assert_eq!(wire.hosts[0].mtus, [(FlowId(10), 1392)]);
}

#[test]
fn without_a_host_the_name_is_not_found_and_the_text_says_what_to_do() {
    let (mut wire, _) = client();
    wire.allocate(0, 11, "elsewhere", program());
    assert_eq!(error(&wire, 11).code, Code::NotFound);
    assert!(error(&wire, 11).text.contains("--host elsewhere=ADDR"));
    let hosts = vec!["elsewhere=10.0.0.3:99".parse().unwrap()];
    wire.control(
        0,
        3,
        Command::Set(Settings {
            hosts,
            ..Settings::default()
        }),
    );
    wire.allocate(0, 12, "elsewhere", program());
    assert_eq!(wire.sent_to("10.0.0.3:99").len(), 1);
}

#[test]
fn where_the_caller_says_that_a_host_may_be_is_asked_where_the_table_says_nothing() {
    let (mut wire, _) = client();
    let at = ["[fd00::1]:3359", "10.0.0.9:0", "10.0.0.4:99"];
    let at: Vec<_> = at.iter().map(|at| at.parse().unwrap()).collect();
    let ask = |flow, to| Allocate {
        flow: FlowId(flow),
        name: name(to),
        source: None,
        qos: QosSpec::RAW,
        peer: None,
        user: program(),
        timeout_ms: 1000,
        at: at.clone(),
    };
    let before = wire.sent_to("10.0.0.4:99").len();
    wire.control(0, 11, Command::Allocate(ask(11, "elsewhere")));
    assert_eq!(wire.sent_to("10.0.0.4:99").len(), before + 1);
    // A table says better, and what was said for one dial is kept for no other.
    wire.control(0, 12, Command::Allocate(ask(12, "srv")));
    assert_eq!(wire.sent_to("10.0.0.4:99").len(), before + 1);
    wire.allocate(0, 13, "elsewhere", program());
    assert_eq!(error(&wire, 13).code, Code::NotFound);
}

#[test]
fn only_host_names_are_looked_up_and_only_with_dns() {
    let mut wire = Wire::new(&["10.0.0.1"]);
    let mut config = wire.config(0, &[]);
    config.shim_udp.as_mut().unwrap().dns = Some(Dns::System);
    wire.hosts[0].listening = true;
    wire.control(0, 1, Command::Bootstrap(config));
    wire.allocate(0, 10, "vpn/a host", program());
    assert_eq!(error(&wire, 10).code, Code::NotFound);
    wire.allocate(0, 11, "host.example", program());
    let Some(Ask::Resolve(key, ..)) = wire.hosts[0].asks.last().cloned() else {
        panic!("not looked up")
    };
    wire.input(
        0,
        Input::Tell(Tell::Resolved(
            key,
            vec!["::1".parse().unwrap(), "10.0.0.7".parse().unwrap()],
        )),
    );
    assert_eq!(wire.sent_to(&format!("10.0.0.7:{PORT}")).len(), 1);
    wire.allocate(0, 12, "none.example", program());
    let Some(Ask::Resolve(key, ..)) = wire.hosts[0].asks.last().cloned() else {
        panic!("not looked up")
    };
    wire.input(
        0,
        Input::Tell(Tell::NotResolved(key, "no such host".to_owned())),
    );
    assert_eq!(error(&wire, 12).code, Code::NotFound);
}

#[test]
fn what_udp_cannot_keep_is_refused() {
    let (mut wire, _) = client();
    let ask = |qos, peer| Allocate {
        flow: FlowId(77),
        name: name("srv"),
        source: None,
        qos,
        peer,
        user: program(),
        timeout_ms: 1000,
        at: Vec::new(),
    };
    wire.control(0, 20, Command::Allocate(ask(QosSpec::DATA, None)));
    assert_eq!(error(&wire, 20).code, Code::QosNotGranted);
    wire.control(
        0,
        21,
        Command::Allocate(ask(QosSpec::RAW, Some(Label::new("b").unwrap()))),
    );
    assert_eq!(error(&wire, 21).code, Code::Denied);
}

#[test]
fn who_asks_for_order_is_told_that_there_is_none() {
    let mut wire = Wire::pair();
    let (flow, name, user) = (FlowId(10), name("srv"), program());
    let allocate = Allocate {
        flow,
        name,
        source: None,
        qos: QosSpec::BEST,
        peer: None,
        user,
        timeout_ms: 1000,
        at: Vec::new(),
    };
    wire.control(0, 10, Command::Allocate(allocate));
    let Some(Ok(Answer::Allocated(allocated))) = wire.hosts[0].answer(10) else {
        panic!("no flow")
    };
    assert_eq!(allocated.qos, QosSpec::RAW);
}

#[test]
fn an_absent_address_is_waited_for_and_tried_each_second() {
    let mut wire = Wire::new(&["10.0.0.1"]);
    let config = wire.config(0, &[]);
    wire.control(0, 1, Command::Bootstrap(config));
    let states = |wire: &Wire| {
        let states = wire.hosts[0].events.iter().filter_map(|e| {
            if let Event::State(s, _) = e {
                Some(*s)
            } else {
                None
            }
        });
        states.collect::<Vec<_>>()
    };
    assert_eq!(states(&wire), [State::Waiting]);
    wire.allocate(0, 10, "srv", program());
    assert_eq!(error(&wire, 10).code, Code::Unreachable);
    wire.pass(secs(3));
    let tried = wire.hosts[0]
        .asks
        .iter()
        .filter(|ask| matches!(ask, Ask::Listen(_)));
    assert_eq!(tried.count(), 4);
    wire.hosts[0].listening = true;
    wire.pass(secs(1));
    assert_eq!(states(&wire), [State::Waiting, State::Up]);
}

#[test]
fn a_repeated_bootstrap_succeeds_and_another_is_a_conflict() {
    let (mut wire, _) = client();
    let same = wire.config(0, &["srv=10.0.0.2"]);
    let other = wire.config(0, &[]);
    wire.control(0, 2, Command::Bootstrap(same));
    wire.control(0, 3, Command::Bootstrap(other));
    assert!(wire.hosts[0].answer(2).unwrap().is_ok());
    assert_eq!(error(&wire, 3).code, Code::Conflict);
}

#[test]
fn status_tells_flows_counters_and_what_is_in_force() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    let offload = vec![Offload {
        kind: OffloadKind::Gso,
        mode: OffloadMode::Off,
    }];
    wire.control(
        0,
        30,
        Command::Set(Settings {
            offload,
            ..Settings::default()
        }),
    );
    // What a shim can't do is refused, and changes nothing.
    let offload = vec!["seal=on".parse().unwrap(), "gso=on".parse().unwrap()];
    let settings = Settings {
        offload,
        ..Settings::default()
    };
    wire.control(0, 32, Command::Set(settings));
    assert_eq!(error(&wire, 32).code, Code::Usage);
    assert!(error(&wire, 32).text.contains("seals nothing"));
    wire.control(0, 31, Command::Status);
    let Some(Ok(Answer::Status(status))) = wire.hosts[0].answer(31) else {
        panic!()
    };
    assert_eq!(
        (
            status.state.as_str(),
            status.layer.as_str(),
            status.flows.len()
        ),
        ("up", "w1", 1)
    );
    assert_eq!(
        (status.flows[0].name.as_str(), status.flows[0].incoming),
        ("srv", false)
    );
    assert_eq!(status.settings["gso"], "off");
    assert_eq!(status.counters["requests.sent"], 1);
}

#[test]
fn a_flow_that_irmd_ends_is_closed_and_a_dial_that_it_ends_fails() {
    let (mut wire, cp) = client();
    wire.control(
        0,
        30,
        Command::Dealloc(FlowId(10), Reason::new(Code::Closed, "not wanted any more")),
    );
    assert_eq!(error(&wire, 10).code, Code::Closed);
    wire.allocate(0, 11, "srv", program());
    let cp2 = wire.hosts[0].newest();
    assert_ne!(cp, cp2);
    wire.inject("10.0.0.2:4000", cp2, b"srv");
    wire.control(
        0,
        31,
        Command::Dealloc(FlowId(11), Reason::new(Code::Closed, "done")),
    );
    assert_eq!(
        (wire.hosts[0].closed.len(), wire.hosts[0].open_sockets()),
        (1, 0)
    );
}

#[test]
fn shutdown_leaves_nothing() {
    let mut wire = Wire::pair();
    wire.allocate(0, 10, "srv", program());
    wire.accept(1, 1, 20, ipcp());
    wire.allocate(0, 11, "srv", program());
    wire.request("10.0.0.9:77", b"srv");
    for host in 0..2 {
        wire.control(host, 90, Command::Shutdown);
        let (unconfirmed, all) = wire.hosts[host].shim.sockets();
        assert_eq!(
            (
                wire.hosts[host].open_sockets(),
                unconfirmed,
                all,
                wire.hosts[host].exited
            ),
            (0, 0, 0, true)
        );
    }
}
