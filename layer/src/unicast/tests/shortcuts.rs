//! Links that members make to those they have flows with, and give up again.

use std::net::SocketAddr;

use proto::QosSpec;
use proto::ipcp::{Reach, Settings};

use super::flows::{flow, read, register, write};
use super::*;

/// All have joined through `a`, and know where they are below.
fn star(names: &[&'static str]) -> Net {
    let mut net = Net::new(names);
    bootstrap(&mut net, "a");
    for name in &names[1..] {
        join(&mut net, "a", name);
    }
    for name in names {
        tell(&mut net, name, &[&format!("net={}", place(name))]);
    }
    net.seconds(2);
    net
}

/// Where a member of these tests is: all have names of one letter.
fn place(name: &str) -> SocketAddr {
    format!("10.0.0.{}:3359", name.as_bytes()[0])
        .parse()
        .unwrap()
}

fn tell(net: &mut Net, name: &'static str, reach: &[&str]) {
    let reach: Vec<Reach> = reach.iter().map(|text| text.parse().unwrap()).collect();
    let settings = Settings {
        reach: Some(reach),
        ..Settings::default()
    };
    assert_eq!(net.ask(name, Command::Set(settings)), Ok(Answer::Ok));
}

fn neighbours(net: &mut Net, name: &'static str) -> Vec<String> {
    let links = status(net, name).links.into_iter();
    let mut up: Vec<_> = links
        .filter(|l| l.state == "up")
        .map(|l| l.member)
        .collect();
    up.sort();
    up
}

fn count(net: &mut Net, name: &'static str, what: &str) -> u64 {
    status(net, name).counters.get(what).copied().unwrap_or(0)
}

/// A raw flow from one to the other, by the number of the flow.
fn talk(net: &mut Net, from: &'static str, to: &'static str, id: u64) {
    register(net, to, &format!("at-{to}"));
    flow(net, from, to, &format!("at-{to}"), id, QosSpec::RAW);
}

/// How often one has dialled another.
fn dials(net: &Net, from: &str, to: &str) -> usize {
    let dialled = net.dialled.iter();
    dialled
        .filter(|(by, whom, _)| *by == from && whom == to)
        .count()
}

#[test]
fn who_has_a_flow_through_another_becomes_a_neighbour_without_anybody_asking_and_loses_nothing() {
    let mut net = star(&["a", "b", "c"]);
    assert_eq!(neighbours(&mut net, "b"), ["a"]);
    talk(&mut net, "b", "c", 5);
    for _ in 0..100 {
        write(&mut net, "b", 5, &[b"one"]);
        net.run(Duration::from_millis(10));
    }
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
    assert_eq!(neighbours(&mut net, "c"), ["a", "b"]);
    assert_eq!(read(&mut net, "c", 5).len(), 100);
    let dialled = ("b", "c".to_owned(), vec![place("c")]);
    assert!(net.dialled.contains(&dialled), "{:?}", net.dialled);
    let through = net.node("a").machine.seen.len();
    write(&mut net, "b", 5, &[b"two"]);
    assert_eq!(read(&mut net, "c", 5).len(), 1);
    assert_eq!(
        net.node("a").machine.seen.len(),
        through,
        "a still forwards"
    );
}

#[test]
fn who_has_no_flow_is_not_dialled_and_who_was_told_no_place_dials_nobody() {
    let mut net = star(&["a", "b", "c", "d"]);
    tell(&mut net, "d", &[]);
    // Whoever joins dials all that the invitation names.
    let before = dials(&net, "d", "c") + dials(&net, "c", "d");
    talk(&mut net, "d", "a", 4);
    net.seconds(60);
    assert_eq!(neighbours(&mut net, "b"), ["a"]);
    // It is not at fault: it asks for a flow, and is reached as before.
    talk(&mut net, "d", "c", 5);
    net.seconds(60);
    assert_eq!(neighbours(&mut net, "d"), ["a"]);
    let dialled = dials(&net, "d", "c") + dials(&net, "c", "d");
    assert_eq!(dialled, before);
}

#[test]
fn whoever_was_asked_for_a_flow_dials_too_when_packets_go_on_through_others() {
    let mut net = star(&["a", "b", "c"]);
    // The caller can't tell where c is, since c does not say so; c can dial.
    tell(&mut net, "b", &["else=10.9.9.9:3359", "net=10.0.0.98:3359"]);
    tell(&mut net, "c", &["else=10.9.9.8:3359"]);
    talk(&mut net, "b", "c", 5);
    net.seconds(2);
    assert_eq!(neighbours(&mut net, "b"), ["a"]);
    assert_eq!(count(&mut net, "b", "shortcut.nowhere"), 1);
    for _ in 0..20 {
        write(&mut net, "b", 5, &[b"more"]);
        net.seconds(1);
    }
    assert_eq!(neighbours(&mut net, "c"), ["a", "b"]);
    assert_eq!(read(&mut net, "c", 5).len(), 20);
}

#[test]
fn a_link_that_carries_nothing_is_given_up_and_made_again_when_it_is_needed() {
    let mut net = star(&["a", "b", "c"]);
    talk(&mut net, "b", "c", 5);
    net.seconds(100);
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
    net.seconds(230);
    assert_eq!(neighbours(&mut net, "b"), ["a"]);
    assert_eq!(neighbours(&mut net, "c"), ["a"]);
    assert!(net.node("b").closed.is_empty(), "the flow stays");
    let before = dials(&net, "b", "c");
    for _ in 0..20 {
        write(&mut net, "b", 5, &[b"again"]);
        net.seconds(1);
    }
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
    assert_eq!(dials(&net, "b", "c"), before + 1);
    assert_eq!(read(&mut net, "c", 5).len(), 20);
    // As long as it is used it stays.
    for _ in 0..100 {
        write(&mut net, "b", 5, &[b"more"]);
        net.seconds(10);
    }
    assert_eq!(dials(&net, "b", "c"), before + 1);
    assert_eq!(read(&mut net, "c", 5).len(), 100);
}

#[test]
fn a_link_that_is_the_only_way_is_not_given_up() {
    let mut net = star(&["a", "b", "c"]);
    talk(&mut net, "b", "c", 5);
    net.seconds(5);
    net.cut("a", "b");
    net.cut("a", "c");
    net.seconds(600);
    assert_eq!(neighbours(&mut net, "b"), ["c"]);
    write(&mut net, "b", 5, &[b"still"]);
    assert_eq!(read(&mut net, "c", 5).len(), 1);
}

#[test]
fn a_place_that_is_a_lie_costs_a_dial_now_and_then() {
    let mut net = star(&["a", "b", "c"]);
    net.cut("b", "c");
    talk(&mut net, "b", "c", 5);
    for _ in 0..120 {
        write(&mut net, "b", 5, &[b"on"]);
        net.seconds(30);
    }
    // After 30 s, 1, 2, 4, 8 min, then each 10 min: in an hour.
    let all = dials(&net, "b", "c");
    assert!((6..=11).contains(&all), "{all}");
    assert_eq!(read(&mut net, "c", 5).len(), 120);
    net.mend("b", "c");
    for _ in 0..25 {
        write(&mut net, "b", 5, &[b"on"]);
        net.seconds(30);
    }
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
}

#[test]
fn of_links_that_both_dial_at_once_one_stays() {
    let mut net = star(&["a", "b", "c"]);
    register(&mut net, "b", "at-b");
    register(&mut net, "c", "at-c");
    flow(&mut net, "b", "c", "at-c", 5, QosSpec::RAW);
    flow(&mut net, "c", "b", "at-b", 6, QosSpec::RAW);
    net.seconds(10);
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
    assert_eq!(neighbours(&mut net, "c"), ["a", "b"]);
    net.seconds(320);
    assert_eq!(neighbours(&mut net, "b"), ["a"]);
    assert_eq!(neighbours(&mut net, "c"), ["a"]);
}

pub(super) fn there_are_as_many_links_of_its_own_as_may_be_and_an_idle_one_makes_room(
    [limit]: [&str; 1],
) {
    let mut net = star(&["a", "b", "c", "d", "e"]);
    net.node("b").machine.bounds.shortcuts = 2;
    // What others make is bounded by them.
    for name in ["c", "d", "e"] {
        net.node(name).machine.bounds.shortcuts = 0;
    }
    for (id, to) in [(5, "c"), (6, "d"), (7, "e")] {
        talk(&mut net, "b", to, id);
    }
    for _ in 0..60 {
        write(&mut net, "b", 5, &[b"c"]);
        write(&mut net, "b", 6, &[b"d"]);
        net.seconds(1);
    }
    assert_eq!(neighbours(&mut net, "b"), ["a", "c", "d"]);
    assert!(count(&mut net, "b", limit) > 0);
    // The other two go on; one of them is left.
    for _ in 0..60 {
        write(&mut net, "b", 5, &[b"c"]);
        write(&mut net, "b", 7, &[b"e"]);
        net.seconds(1);
    }
    assert_eq!(neighbours(&mut net, "b"), ["a", "c", "e"]);
    for (at, id) in [("c", 5), ("d", 6), ("e", 7)] {
        let sent = if at == "c" { 120 } else { 60 };
        assert_eq!(read(&mut net, at, id).len(), sent, "{at}");
    }
}

#[test]
fn a_member_that_restarts_elsewhere_is_found_there() {
    let mut net = star(&["a", "b", "c"]);
    talk(&mut net, "b", "c", 5);
    net.seconds(5);
    let files = net.node("c").files.clone();
    net.boot("c", files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5_000,
    };
    assert!(net.ask("c", Command::Enroll(rejoin)).is_ok());
    tell(&mut net, "c", &["net=10.0.0.200:3359"]);
    net.seconds(45);
    talk(&mut net, "b", "c", 6);
    net.seconds(45);
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
}

#[test]
fn who_says_unasked_where_it_is_is_not_dialled_and_who_asks_all_the_time_is_told_now_and_then() {
    let mut net = star(&["a", "b", "c"]);
    register(&mut net, "c", "at-c");
    flow(&mut net, "a", "c", "at-c", 4, QosSpec::RAW);
    let before = dials(&net, "b", "c");
    let (now, c) = (
        net.now(),
        net.node("c").machine.me.as_ref().unwrap().address,
    );
    let at = vec![proto::wire::Below {
        layer: "net".to_owned(),
        ip: vec![10, 0, 0, 99],
        port: 3359,
    }];
    let said = proto::wire::Reach { at, asks: false };
    net.node("b").machine.reach(now, c, &said);
    net.seconds(1);
    assert_eq!(dials(&net, "b", "c"), before);
    assert_eq!(count(&mut net, "b", "drop.reach_unasked"), 1);
    talk(&mut net, "b", "c", 5);
    let now = net.now();
    let asks = proto::wire::Reach {
        asks: true,
        ..said.clone()
    };
    for _ in 0..100 {
        net.node("b").machine.reach(now, c, &asks);
    }
    net.seconds(1);
    assert!(count(&mut net, "b", "drop.reach_rate") >= 96);
}

#[test]
fn members_that_restart_while_the_one_that_let_them_in_is_away_find_each_other_again() {
    let mut net = star(&["a", "b", "c"]);
    talk(&mut net, "b", "c", 5);
    net.seconds(5);
    for name in ["b", "c"] {
        net.cut("a", name);
    }
    net.seconds(60);
    for name in ["b", "c"] {
        let files = net.node(name).files.clone();
        net.boot(name, files);
        let rejoin = Enroll {
            entry: Entry::Rejoin,
            over: vec![label("net")],
            timeout_ms: 5_000,
        };
        assert!(net.ask(name, Command::Enroll(rejoin)).is_ok());
        tell(&mut net, name, &[&format!("net={}", place(name))]);
    }
    net.seconds(40);
    assert_eq!(neighbours(&mut net, "b"), ["c"]);
    talk(&mut net, "b", "c", 6);
    for name in ["b", "c"] {
        net.mend("a", name);
    }
    net.seconds(60);
    assert_eq!(neighbours(&mut net, "b"), ["a", "c"]);
}
