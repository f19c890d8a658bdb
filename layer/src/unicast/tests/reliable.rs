//! Flows that lose nothing, over links that do.

use std::time::Duration;

use proto::ipcp::{Allocate, Answer, Command, Event, Respond, User};
use proto::{Batch, Code, FlowId, Framing, QosSpec};

use super::flows::{allocate, flow, line, register, request, wait};
use super::{Net, died, left, status};
use crate::Input;

/// Loses each packet that a small generator says.
fn lose(net: &mut Net, seed: u64, percent: u64) {
    let mut state = 88_172_645_463_325_252u64.wrapping_mul(seed | 1) ^ seed >> 1;
    net.tamper = Some(Box::new(move |_, _, pdu| {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state % 100 < percent {
            pdu.clear();
        }
    }));
}

/// A record of so many SDUs of 1000 bytes, numbered from `first`.
fn record(first: u32, count: u32) -> Batch {
    let mut record = Batch::new(Framing::Record);
    for number in first..first + count {
        record.push(1000).unwrap()[..4].copy_from_slice(&number.to_be_bytes());
    }
    record
}

fn write_all(net: &mut Net, at: &'static str, id: u64, sdus: u32) {
    let (mut sent, end) = (0, net.now().mono + Duration::from_secs(120));
    while sent < sdus {
        assert!(
            net.now().mono < end,
            "after {sent} SDUs nothing more is taken"
        );
        if net.node(at).paused.contains(&FlowId(id)) {
            net.run(Duration::from_millis(1));
            continue;
        }
        let count = (sdus - sent).min(60);
        net.input(at, Input::Upper(FlowId(id), record(sent, count)));
        sent += count;
    }
}

/// The numbers of the SDUs that have come.
fn numbers(net: &mut Net, at: &'static str, id: u64) -> Vec<u32> {
    let received = net.node(at).received.remove(&FlowId(id));
    let number = |sdu: &Vec<u8>| u32::from_be_bytes(sdu[..4].try_into().unwrap());
    received.iter().flatten().map(number).collect()
}

/// Waits until something is so.
fn until(net: &mut Net, what: &str, is: impl Fn(&mut Net) -> bool) {
    for _ in 0..60_000 {
        if is(net) {
            return;
        }
        net.run(Duration::from_millis(1));
    }
    panic!("it was not so within a minute: {what}");
}

#[test]
fn a_data_flow_loses_nothing_whether_to_a_neighbour_or_through_one_at_any_loss() {
    for (to, percent, sdus) in [
        ("b", 0, 3000),
        ("c", 0, 3000),
        ("b", 1, 3000),
        ("b", 30, 1000),
        ("c", 30, 300),
    ] {
        let mut net = line();
        register(&mut net, to, "server");
        let allocated = flow(&mut net, "a", to, "server", 5, QosSpec::DATA);
        assert_eq!(allocated.qos, QosSpec::DATA);
        lose(&mut net, 1, percent);
        write_all(&mut net, "a", 5, sdus);
        net.input("a", Input::UpperShut(FlowId(5)));
        until(&mut net, "the end is heard of", |net| {
            net.node(to).shut.contains(&FlowId(5))
        });
        let expected: Vec<u32> = (0..sdus).collect();
        assert!(numbers(&mut net, to, 5) == expected, "{to} {percent}");
        // The other direction goes on, and ends by itself.
        net.input(to, Input::Upper(FlowId(5), record(7, 1)));
        net.input(to, Input::UpperGone(FlowId(5), left()));
        until(&mut net, "the flow is closed", |net| {
            net.node("a").closed.contains_key(&FlowId(5))
        });
        assert_eq!(numbers(&mut net, "a", 5), [7]);
        assert_eq!(net.node("a").closed[&FlowId(5)].code, Code::Closed);
    }
}

#[test]
fn a_user_that_dies_is_heard_of_as_such_after_all_that_it_wrote() {
    let mut net = line();
    register(&mut net, "c", "server");
    for (id, reason) in [(5, died()), (6, left())] {
        flow(&mut net, "a", "c", "server", id, QosSpec::DATA);
        lose(&mut net, 1, 20);
        net.input("a", Input::Upper(FlowId(id), record(0, 50)));
        net.input("a", Input::UpperGone(FlowId(id), reason.clone()));
        until(&mut net, "the flow is closed", |net| {
            net.node("c").closed.contains_key(&FlowId(id))
        });
        let expected: Vec<u32> = (0..50).collect();
        assert_eq!(numbers(&mut net, "c", id), expected);
        assert_eq!(net.node("c").closed[&FlowId(id)], reason);
        lose(&mut net, 1, 0);
    }
}

#[test]
fn silence_ends_a_flow_after_its_time_out_whether_its_member_counts_as_reachable_or_not() {
    let mut net = line();
    register(&mut net, "c", "server");
    let qos = |timeout_ms| QosSpec {
        timeout_ms,
        ..QosSpec::DATA
    };
    // Before the layer knows that c is cut off, and long after.
    for (id, ms) in [(5, 300), (6, 8000)] {
        flow(&mut net, "a", "c", "server", id, qos(ms));
    }
    flow(&mut net, "a", "c", "server", 7, QosSpec::DATA);
    net.seconds(20);
    for end in ["a", "c"] {
        assert!(net.node(end).closed.is_empty(), "keep-alives hold it up");
    }
    net.cut("b", "c");
    let cut = net.now().mono;
    let closed =
        |net: &mut Net, id| ["a", "c"].map(|end| net.node(end).closed.get(&FlowId(id)).cloned());
    // What it heard last may be a quarter of the time-out old.
    for (id, after, until) in [(5, 200, 400), (6, 5_900, 8_100)] {
        let since = net.now().mono - cut;
        net.run(Duration::from_millis(after) - since);
        assert_eq!(closed(&mut net, id), [None, None], "flow {id}");
        net.run(Duration::from_millis(until - after));
        for (end, reason) in ["a", "c"].into_iter().zip(closed(&mut net, id)) {
            let reason = reason.unwrap_or_else(|| panic!("flow {id} stands at {end}"));
            assert_eq!(reason.code, Code::TimedOut, "flow {id} at {end}: {reason}");
            assert!(reason.text.contains("the time-out of the flow's QoS"));
        }
    }
    assert_eq!(closed(&mut net, 7), [None, None]);
    let routes = status(&mut net, "a").routes;
    assert!(routes.iter().all(|r| r.member != "c"), "{routes:?}");
}

#[test]
fn a_member_may_be_out_of_reach_for_as_long_as_the_qos_of_a_flow_bears() {
    let mut net = line();
    register(&mut net, "c", "server");
    let patient = QosSpec {
        timeout_ms: 55_000,
        ..QosSpec::DATA
    };
    flow(&mut net, "a", "c", "server", 5, patient);
    flow(&mut net, "a", "c", "server", 6, QosSpec::DATA);
    net.cut("b", "c");
    net.seconds(5);
    net.input("a", Input::Upper(FlowId(5), record(0, 10)));
    net.seconds(40);
    for end in ["a", "c"] {
        let closed = &net.node(end).closed;
        let gone: Vec<_> = closed.iter().map(|(id, why)| (*id, why.code)).collect();
        assert_eq!(gone, [(FlowId(6), Code::Unreachable)], "at {end}");
    }
    net.mend("b", "c");
    let expected: Vec<u32> = (0..10).collect();
    until(&mut net, "all is there", |net| {
        net.node("c")
            .received
            .get(&FlowId(5))
            .is_some_and(|sdus| sdus.len() == 10)
    });
    assert_eq!(numbers(&mut net, "c", 5), expected);
}

#[test]
fn a_flow_through_two_links_that_lose_a_third_each_is_there_within_seconds() {
    // No association stands yet: half of what goes gets through, and of what is asked a quarter is answered.
    let took: Vec<Duration> = (1..=8).map(allocated_through_loss).collect();
    let sum: Duration = took.iter().sum();
    assert!(sum / 8 < Duration::from_secs(4), "{took:?}");
}

fn allocated_through_loss(seed: u64) -> Duration {
    let mut net = line();
    register(&mut net, "c", "server");
    lose(&mut net, seed, 30);
    let begin = net.now().mono;
    let ask = Allocate {
        timeout_ms: 30_000,
        ..allocate("server", 5, QosSpec::DATA)
    };
    let id = net.command("a", Command::Allocate(ask));
    until(&mut net, "the request has come", |net| {
        let asked = |event: &Event| matches!(event, Event::FlowRequest(_));
        net.node("c").events.iter().any(asked)
    });
    let request = request(&mut net, "c").request;
    let user = User {
        uid: 1000,
        ipcp: false,
    };
    let verdict = Ok((FlowId(5), user));
    net.command("c", Command::Respond(Respond { request, verdict }));
    let answer = wait(&mut net, "a", id);
    assert!(matches!(answer, Ok(Answer::Allocated(_))), "{answer:?}");
    net.now().mono - begin
}
