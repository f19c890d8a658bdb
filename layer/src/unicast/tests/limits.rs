//! Limits that bite: whoever is over one is told so at once and why, it is counted and told once, and what another member has
//! stands meanwhile. Each is made small here; what it is otherwise stands in `limits`.
//!
//! A case is told by the table which words it has to see, so that the table can't say more than the cases.

mod links;
mod names;
mod queues;

use std::collections::BTreeSet;

use proto::QosSpec;
use proto::ipcp::{Respond, User};

use super::super::limits::{Bounds, WATCHED};
use super::flows::{allocate, flow, read, register, write};
use super::queues::*;
use super::rates::*;
use super::shortcuts::*;
use super::*;
use crate::tokens::Rate;
use links::*;
use names::*;
use queues::*;

macro_rules! table {
    ($($case:ident: $($limit:literal),+;)*) => {
        /// The limits that bite here.
        const BITTEN: &[&str] = &[$($($limit),+),*];

        mod table {
            $(#[test]
            fn $case() {
                super::$case([$($limit),+]);
            })*
        }
    };
}

table! {
    who_has_too_many_requests_that_wait_is_refused_and_others_are_not: "limit.pending_member";
    requests_that_wait_are_bounded_for_all_together: "limit.pending";
    who_asks_too_often_is_refused_and_others_are_not: "limit.requests_member";
    who_has_too_many_flows_is_refused_and_others_are_not: "limit.flows_member";
    flows_are_bounded_for_all_together_on_either_side: "limit.flows";
    a_host_that_asks_for_too_many_flows_at_once_is_refused_the_rest: "limit.asking";
    a_host_that_looks_for_too_many_names_at_once_is_refused_the_rest_and_finds_what_it_knows: "limit.look_ups";
    names_beyond_what_one_member_may_register_are_refused_and_others_register_theirs: "limit.names";
    neighbours_beyond_those_that_are_kept_are_refused_and_others_keep_theirs: "limit.neighbours";
    there_are_as_many_links_of_its_own_as_may_be_and_an_idle_one_makes_room: "limit.shortcuts";
    joiners_beyond_those_that_wait_for_an_issuer_are_refused_and_come_in_later: "limit.relays";
    strangers_beyond_those_that_are_heard_make_an_older_one_go_and_members_stay: "link.displaced";
    flows_that_keep_what_waits_are_bounded_for_all_together: "limit.memory";
    a_member_with_many_flows_that_keep_what_waits_gets_no_more_and_another_does: "limit.memory_member";
    video_is_granted_as_far_as_the_link_has_room_and_more_when_it_is_said_to_carry_more: "limit.admission";
    a_neighbour_that_sends_too_many_records_is_asked_for_the_rest_later: "drop.too_many_records";
    members_beyond_those_that_are_known_are_believed_when_there_is_room: "drop.record_member_limit";
    strangers_are_hung_up_while_those_before_them_are_answered: "drop.too_many_strangers";
    a_third_handshake_of_a_stranger_ends_the_first: "handshake.evicted";
    a_second_handshake_in_the_name_of_a_member_ends_the_first_and_its_own_passes: "handshake.evicted";
    two_thousand_handshakes_a_second_of_strangers_keep_no_member_out: "drop.handshake_rate";
    strangers_are_answered_when_nothing_of_neighbours_waits_any_more: "drop.handshake_late";
    a_neighbour_that_begins_thousands_of_handshakes_keeps_nobody_else_out: "drop.handshake_rate_neighbour";
    pdus_in_the_names_of_others_make_a_member_begin_few_handshakes: "drop.no_session_rate";
    a_member_with_whom_too_many_are_spoken_with_forgets_one_and_keeps_nobody_out: "peer.displaced", "drop.too_many_peers";
    entries_beyond_what_is_kept_of_one_member_are_kept_when_there_is_room: "drop.name_limit";
    a_neighbour_that_says_too_many_names_is_heard_later_and_others_at_once: "drop.name_rate";
    a_member_that_signs_too_many_names_is_heard_later_and_others_at_once: "drop.name_rate";
    a_neighbour_that_has_too_many_names_handed_on_has_the_rest_handed_on_later: "drop.directory_rate";
    what_comes_before_the_answer_is_kept_as_far_as_it_may: "drop.early";
    requests_to_a_member_that_is_silent_are_refused_beyond_what_may_wait: "drop.channel_full";
    records_beyond_what_may_wait_for_a_neighbour_are_said_by_the_next_digest: "drop.channel_full";
    control_that_a_full_queue_has_dropped_is_said_again: "drop.queue_full";
    a_full_queue_drops_of_whom_has_most_in_it_and_of_nobody_else:
        "drop.full_raw", "drop.full_best", "drop.full_data", "drop.full_video", "drop.full_voice";
    requests_of_others_that_a_full_queue_has_dropped_are_made_again: "drop.full_signal";
}

#[test]
fn every_limit_that_is_watched_bites_here_and_stands_in_the_operators_table() {
    let watched: BTreeSet<&str> = WATCHED.iter().map(|(limit, _)| *limit).collect();
    assert_eq!(watched, BITTEN.iter().copied().collect());
    let table = include_str!("../../../../docs/operations.md");
    let told = |limit: &&str| !limit.starts_with("drop.full_") && !table.contains(*limit);
    let missing: Vec<_> = watched.into_iter().filter(told).collect();
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:?}");
}

/// b in the middle of a and c. It serves two names, of which the program of one never answers; c has a flow to the other.
fn world() -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    join(&mut net, "b", "c");
    register(&mut net, "b", "server");
    register(&mut net, "b", "mute");
    net.seconds(1);
    flow(&mut net, "c", "b", "server", 100, QosSpec::RAW);
    net
}

fn bounds<'a>(net: &'a mut Net, at: &'static str) -> &'a mut Bounds {
    &mut net.node(at).machine.bounds
}

/// Asks for a flow to a name from `at`, and lets the request arrive.
fn ask(net: &mut Net, at: &'static str, name: &str, flow: u64) -> CommandId {
    let command = Command::Allocate(allocate(name, flow, QosSpec::RAW));
    let command = net.command(at, command);
    net.run(Duration::from_millis(50));
    command
}

/// Lets b accept what was asked last.
fn accept(net: &mut Net, flow: u64) {
    let mut events = net.node("b").events.iter().rev();
    let last = events.find_map(|e| match e {
        Event::FlowRequest(asked) => Some(asked.request),
        Event::Done(..)
        | Event::FlowDown(..)
        | Event::State(..)
        | Event::Notice(_)
        | Event::Members => None,
    });
    let user = User {
        uid: 1000,
        ipcp: false,
    };
    let respond = Respond {
        request: last.unwrap(),
        verdict: Ok((FlowId(flow), user)),
    };
    let answer = net.ask("b", Command::Respond(respond));
    assert!(matches!(answer, Ok(Answer::Allocated(_))), "{answer:?}");
    net.run(Duration::from_millis(50));
}

fn waits(net: &mut Net, at: &'static str, command: CommandId) -> bool {
    !net.node(at).answers.contains_key(&command)
}

/// The answer that is there already: the reason of a refusal.
fn refused(net: &mut Net, at: &'static str, command: CommandId, why: &str) {
    let answer = net.node(at).answers.remove(&command);
    let Some(Err(reason)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(reason.code, Code::Busy, "{reason}");
    assert!(reason.text.contains(why), "{reason}");
}

/// A member asks for one flow more, which b accepts.
fn another(net: &mut Net, at: &'static str, id: u64) {
    let command = ask(net, at, "server", id);
    accept(net, id);
    let answer = net.node(at).answers.remove(&command);
    assert!(matches!(answer, Some(Ok(_))), "{answer:?}");
    write(net, at, id, &[b"one more"]);
    assert_eq!(read(net, "b", id), [b"one more".to_vec()]);
}

/// How often a limit has bitten each time that it was told.
pub(super) fn told(net: &mut Net, at: &'static str, limit: &str) -> Vec<String> {
    let notices = net.node(at).events.iter().filter_map(|e| match e {
        Event::Notice(n) if n.kind == "limit.reached" => Some(&n.fields),
        Event::Done(..) | Event::FlowRequest(_) | Event::FlowDown(..) => None,
        Event::Notice(_) | Event::State(..) | Event::Members => None,
    });
    let of = notices.filter(|f| f.contains(&("limit".to_owned(), limit.to_owned())));
    let counts = of.flatten().filter(|(key, _)| key == "count");
    counts.map(|(_, count)| count.clone()).collect()
}

/// What a limit has done was told once, however often it did so.
pub(super) fn told_once(net: &mut Net, at: &'static str, limit: &str) {
    assert_eq!(told(net, at, limit).len(), 1, "{limit}");
}

/// A limit has bitten at `at`, which is counted and told once; the flow of c stands all the while. How often it has bitten.
fn bites(net: &mut Net, at: &'static str, limit: &str) -> u64 {
    write(net, "c", 100, &[b"stands"]);
    assert_eq!(read(net, "b", 100), [b"stands".to_vec()]);
    let counted = status(net, at).counters.get(limit).copied();
    net.seconds(30);
    told_once(net, at, limit);
    let bites: BTreeMap<_, _> = status(net, at).counters.into_iter().collect();
    let mut others = bites.keys().filter(|k| k.starts_with("limit."));
    assert!(others.all(|k| k == limit), "{bites:?}");
    counted.unwrap_or(0)
}

/// The same for one that has bitten once.
fn bitten(net: &mut Net, at: &'static str, limit: &str) {
    assert_eq!(bites(net, at, limit), 1, "{limit}");
    assert_eq!(told(net, at, limit), ["1"], "{limit}");
}

const OVER: &str = "b has as many flows as it can carry or answer; try later";

fn who_has_too_many_requests_that_wait_is_refused_and_others_are_not([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "b").pending_member = 4;
    let asked: Vec<_> = (1..=5).map(|id| ask(&mut net, "a", "mute", id)).collect();
    refused(&mut net, "a", asked[4], OVER);
    assert!(asked[..4].iter().all(|id| waits(&mut net, "a", *id)));
    another(&mut net, "c", 7);
    bitten(&mut net, "b", limit);
}

fn requests_that_wait_are_bounded_for_all_together([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "b").pending = 4;
    let asked = [("a", 1), ("c", 2), ("a", 3), ("c", 4)];
    let asked = asked.map(|(at, id)| (at, ask(&mut net, at, "mute", id)));
    let over = ask(&mut net, "a", "mute", 5);
    refused(&mut net, "a", over, OVER);
    assert!(asked.iter().all(|(at, id)| waits(&mut net, at, *id)));
    bitten(&mut net, "b", limit);
    // Those who wait no longer leave their places to others.
    another(&mut net, "a", 6);
}

fn who_asks_too_often_is_refused_and_others_are_not([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "b").requests_member = Rate {
        burst: 4,
        per_second: 1,
    };
    let asked: Vec<_> = (1..=5).map(|id| ask(&mut net, "a", "mute", id)).collect();
    refused(&mut net, "a", asked[4], OVER);
    assert!(asked[..4].iter().all(|id| waits(&mut net, "a", *id)));
    another(&mut net, "c", 7);
    bitten(&mut net, "b", limit);
    another(&mut net, "a", 8);
}

fn who_has_too_many_flows_is_refused_and_others_are_not([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "b").flows_member = 4;
    (1..=4).for_each(|id| another(&mut net, "a", id));
    let over = ask(&mut net, "a", "server", 5);
    refused(&mut net, "a", over, OVER);
    another(&mut net, "c", 7);
    bitten(&mut net, "b", limit);
    let closed = Reason::new(Code::Closed, "done");
    net.ask("a", Command::Dealloc(FlowId(1), closed)).unwrap();
    net.run(Duration::from_millis(50));
    another(&mut net, "a", 8);
}

fn flows_are_bounded_for_all_together_on_either_side([limit]: [&str; 1]) {
    for at in ["a", "b"] {
        let mut net = world();
        bounds(&mut net, at).flows = 4;
        // One of b is that of c.
        let room = if at == "a" { 4 } else { 3 };
        (1..=room).for_each(|id| another(&mut net, "a", id));
        let over = ask(&mut net, "a", "server", 9);
        let why = if at == "a" {
            "a has as many flows as it can carry"
        } else {
            OVER
        };
        refused(&mut net, "a", over, why);
        bitten(&mut net, at, limit);
    }
}

fn a_host_that_asks_for_too_many_flows_at_once_is_refused_the_rest([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "a").asking = 4;
    let asked: Vec<_> = (1..=5).map(|id| ask(&mut net, "a", "mute", id)).collect();
    refused(
        &mut net,
        "a",
        asked[4],
        "a has as many flows as it can carry",
    );
    assert!(asked[..4].iter().all(|id| waits(&mut net, "a", *id)));
    another(&mut net, "c", 7);
    bitten(&mut net, "a", limit);
    another(&mut net, "a", 8);
}

fn a_host_that_looks_for_too_many_names_at_once_is_refused_the_rest_and_finds_what_it_knows(
    [limit]: [&str; 1],
) {
    let mut net = world();
    another(&mut net, "a", 50);
    let me = net.node("a").machine.me.as_mut().unwrap();
    me.dir.find_at_most(3);
    let names = ["one", "two", "three", "four"];
    let asked: Vec<_> = (1..).zip(names).collect();
    let asked = asked.iter().map(|(id, name)| {
        let command = Command::Allocate(allocate(name, *id, QosSpec::RAW));
        net.command("a", command)
    });
    let asked: Vec<_> = asked.collect();
    refused(
        &mut net,
        "a",
        asked[3],
        "too many names are looked up here at once; try later",
    );
    assert!(asked[..3].iter().all(|id| waits(&mut net, "a", *id)));
    another(&mut net, "a", 51);
    bitten(&mut net, "a", limit);
}

fn names_beyond_what_one_member_may_register_are_refused_and_others_register_theirs(
    [limit]: [&str; 1],
) {
    let mut net = world();
    bounds(&mut net, "a").names = 2;
    register(&mut net, "a", "one");
    register(&mut net, "a", "two");
    let third = Command::Register(proto::Name::new("three").unwrap());
    let reason = net.ask("a", third.clone()).unwrap_err();
    assert_eq!(reason.code, Code::Busy);
    assert!(
        reason
            .text
            .contains("2 names are registered at a already; unregister one first")
    );
    // What is registered already is no more.
    register(&mut net, "a", "two");
    register(&mut net, "c", "three");
    bitten(&mut net, "a", limit);
    let one = proto::Name::new("one").unwrap();
    assert_eq!(net.ask("a", Command::Unregister(one)), Ok(Answer::Ok));
    assert_eq!(net.ask("a", third), Ok(Answer::Ok));
}

fn neighbours_beyond_those_that_are_kept_are_refused_and_others_keep_theirs([limit]: [&str; 1]) {
    let mut net = world();
    net.mend("a", "c");
    let kept = net.node("a").machine.me.as_ref().unwrap().kept.len();
    bounds(&mut net, "a").neighbours = kept;
    let reason = net
        .ask("a", Command::Connect(label("c"), None))
        .unwrap_err();
    assert_eq!(reason.code, Code::Busy);
    assert!(
        reason
            .text
            .contains("neighbours are kept already; disconnect one first")
    );
    assert_eq!(
        net.ask("c", Command::Connect(label("a"), None)),
        Ok(Answer::Ok)
    );
    bitten(&mut net, "a", limit);
}

fn joiners_beyond_those_that_wait_for_an_issuer_are_refused_and_come_in_later([limit]: [&str; 1]) {
    let mut net = Net::new(&["a", "b", "c", "x", "y", "z"]);
    for joiner in ["x", "y", "z"] {
        net.cut("a", joiner);
        net.cut("c", joiner);
    }
    net.cut("a", "c");
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    join(&mut net, "a", "c");
    register(&mut net, "b", "server");
    net.seconds(1);
    flow(&mut net, "c", "b", "server", 100, QosSpec::RAW);
    bounds(&mut net, "b").relays = 2;
    let joiners = ["x", "y", "z"];
    let urls = joiners.map(|joiner| invite(&mut net, "a", joiner).unwrap());
    // What they ask doesn't come to the issuer for a while.
    net.tamper = Some(Box::new(|from, to, pdu| {
        if (from, to) == ("b", "a") && pdu.len() > 300 {
            pdu.clear();
        }
    }));
    let asked = urls.map(|url| Enroll {
        entry: Entry::Invitation(url),
        over: vec![label("net")],
        timeout_ms: 30_000,
    });
    let mut commands = Vec::new();
    for (joiner, ask) in joiners.into_iter().zip(asked) {
        commands.push((joiner, net.command(joiner, Command::Enroll(ask))));
        net.run(Duration::from_millis(300));
    }
    assert!(status(&mut net, "b").counters.get(limit) >= Some(&1));
    write(&mut net, "c", 100, &[b"stands"]);
    assert_eq!(read(&mut net, "b", 100), [b"stands".to_vec()]);
    net.tamper = None;
    for (joiner, command) in commands {
        let answer = flows::wait(&mut net, joiner, command);
        assert!(
            matches!(answer, Ok(Answer::Configured(_))),
            "{joiner}: {answer:?}"
        );
    }
    told_once(&mut net, "b", limit);
}

fn strangers_beyond_those_that_are_heard_make_an_older_one_go_and_members_stay([limit]: [&str; 1]) {
    let mut net = world();
    bounds(&mut net, "b").strangers = 4;
    (1..=5).for_each(|n| stranger(&mut net, n));
    let has = has_stranger;
    assert!(!has(&mut net, 1) && (2..=5).all(|n| has(&mut net, n)));
    bitten(&mut net, "b", limit);
}
