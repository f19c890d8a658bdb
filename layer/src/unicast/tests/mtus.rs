//! Underlays that take packets of other sizes, and those that take less than they say.

use proto::QosSpec;
use proto::ipcp::{Allocate, Respond};

use super::super::pdu::{DIRECT_OVERHEAD, ROUTED_OVERHEAD};
use super::flows::{allocate, register, request, wait, write};
use super::*;

/// A layer over a line a–b–c whose cables say that they take `says` bytes, and lose what has more than `takes`.
fn line_of(says: u32, takes: usize) -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    net.mtu = says;
    takes_at_most(&mut net, takes);
    net.cut("a", "c");
    bootstrap(&mut net, "b");
    for member in ["a", "c"] {
        let url = invite(&mut net, "b", member).unwrap();
        let ask = Enroll {
            entry: Entry::Invitation(url),
            over: vec![label("net")],
            timeout_ms: 30_000,
        };
        let answer = net.ask(member, Command::Enroll(ask));
        assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    }
    net
}

fn takes_at_most(net: &mut Net, takes: usize) {
    net.tamper = Some(Box::new(move |_, _, pdu| {
        if pdu.len() > takes {
            pdu.clear();
        }
    }));
}

/// Allocates a raw flow from `a`, however long that takes.
fn flow(net: &mut Net, to: &'static str, id: u64) {
    let name = format!("server-{to}");
    register(net, to, &name);
    net.seconds(2);
    let ask = Allocate {
        timeout_ms: 20_000,
        ..allocate(&name, id, QosSpec::RAW)
    };
    let user = ask.user;
    let command = net.command("a", Command::Allocate(ask));
    let request = request(net, to).request;
    let verdict = Ok((FlowId(id), user));
    net.command(to, Command::Respond(Respond { request, verdict }));
    assert!(wait(net, "a", command).is_ok());
}

/// An SDU as large as the flow takes, and one of a byte, arrive; the former's size.
fn carries_all_it_says(net: &mut Net, to: &'static str, id: u64) -> usize {
    let mtu = net.node("a").mtus[&FlowId(id)] as usize;
    write(net, "a", id, &[&vec![7; mtu], b"x"]);
    net.run(Duration::from_millis(100));
    let got = net.node(to).received.remove(&FlowId(id)).unwrap();
    assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [mtu, 1]);
    mtu
}

#[test]
fn underlays_of_576_1280_1500_and_9000_bytes_are_used_in_full() {
    for underlay in [576, 1280, 1500, 9000] {
        let udp = underlay - 28;
        let mut net = line_of(udp, udp as usize);
        for (to, id, overhead) in [("b", 5, DIRECT_OVERHEAD), ("c", 6, ROUTED_OVERHEAD)] {
            flow(&mut net, to, id);
            let mtu = carries_all_it_says(&mut net, to, id);
            assert_eq!(mtu, udp as usize - overhead, "{underlay}, to {to}");
        }
    }
}

#[test]
fn underlays_that_say_1500_and_take_less_are_found_out() {
    for takes in [548, 1000, 1252, 1392] {
        let mut net = line_of(1472, takes);
        net.seconds(30);
        for (to, id, overhead) in [("b", 5, DIRECT_OVERHEAD), ("c", 6, ROUTED_OVERHEAD)] {
            flow(&mut net, to, id);
            let mtu = carries_all_it_says(&mut net, to, id);
            let wasted = takes - overhead - mtu;
            assert!(wasted <= 16, "{takes}, to {to}: {mtu}");
        }
    }
}

#[test]
fn a_path_that_turns_into_a_black_hole_under_traffic_is_left_and_taken_again() {
    let mut net = line_of(1472, 1472);
    flow(&mut net, "c", 5);
    let before = net.node("a").mtus[&FlowId(5)];
    let traffic = |net: &mut Net, seconds: u32| {
        for _ in 0..seconds * 10 {
            let mtu = net.node("a").mtus[&FlowId(5)] as usize;
            write(net, "a", 5, &[&vec![7; mtu]]);
            net.run(Duration::from_millis(100));
        }
        net.node("c").received.clear();
    };
    traffic(&mut net, 10);
    takes_at_most(&mut net, 1300);
    traffic(&mut net, 10);
    let after = net.node("a").mtus[&FlowId(5)] as usize;
    assert!(after <= 1300 - ROUTED_OVERHEAD, "{after}");
    // The members are neighbours all the while, and the flow stands.
    traffic(&mut net, 20);
    carries_all_it_says(&mut net, "c", 5);
    takes_at_most(&mut net, 1472);
    traffic(&mut net, 640);
    assert_eq!(net.node("a").mtus[&FlowId(5)], before);
    assert!(net.node("a").closed.is_empty());
}
