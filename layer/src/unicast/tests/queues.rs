//! Lower flows that take nothing for a while: what waits, what goes first, and what the other side makes of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::ipcp::{Command, Settings};
use proto::{Addr, Code, EndpointId, FlowId, QosSpec, Reason};

use super::super::cube::Cube;
use super::super::out::{Class, Lot};
use super::super::pdu::{CONGESTION, Direct, Routed, TAG_LEN, TTL};
use super::flows::{allocate, flow, line, read, register, write};
use super::limits::{told, told_once};
use super::{Net, bootstrap, join, label, status};
use crate::{Input, Ipcp, Meddler, Output};

/// Whether the only neighbour of `at` takes packets from now on.
fn room(net: &mut Net, at: &'static str, room: bool) {
    let now = net.now();
    let lower = *net.node(at).machine.links.keys().next().unwrap();
    net.node(at).machine.lower_room(now, lower, room);
    while let Some(output) = net.node(at).machine.poll() {
        net.output(at, output);
    }
}

/// Lets one batch of flows' PDUs go, and all that goes before it.
fn one_data(net: &mut Net, at: &'static str) {
    let now = net.now();
    let lower = *net.node(at).machine.links.keys().next().unwrap();
    net.node(at).machine.lower_room(now, lower, true);
    while let Some(output) = net.node(at).machine.poll() {
        let data = matches!(&output, Output::Lower(_, batch) if batch.dscp() < 48);
        net.output(at, output);
        if data {
            break;
        }
    }
    room(net, at, false);
}

fn count(net: &mut Net, at: &'static str, what: &str) -> u64 {
    let counters = status(net, at).counters;
    counters.get(what).copied().unwrap_or(0)
}

#[test]
fn what_waits_for_room_goes_by_priority_and_arrives_as_if_it_had_been_sealed_in_that_order() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::RAW);
    flow(&mut net, "a", "c", "server", 2, QosSpec::VOICE);
    room(&mut net, "a", false);
    net.trace.clear();
    for _ in 0..100 {
        write(&mut net, "a", 1, &[&[1; 300]]);
    }
    for _ in 0..5 {
        write(&mut net, "a", 2, &[&[2; 100]]);
    }
    assert!(net.trace.iter().all(|(_, from, ..)| *from != "a"));
    room(&mut net, "a", true);
    let sent = net.trace.iter().filter(|(_, from, ..)| *from == "a");
    let sizes: Vec<_> = sent.map(|(.., len)| *len).collect();
    let first_raw = sizes.iter().position(|len| *len > 300).unwrap();
    assert_eq!((first_raw, sizes.len()), (5, 105));
    assert_eq!(read(&mut net, "c", 2).len(), 5);
    assert_eq!(read(&mut net, "c", 1).len(), 100);
    assert_eq!(count(&mut net, "c", "drop.replayed"), 0);
}

#[test]
fn voice_that_waited_beyond_its_deadline_is_dropped_and_counted() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 2, QosSpec::VOICE);
    room(&mut net, "a", false);
    write(&mut net, "a", 2, &[b"late"]);
    net.run(Duration::from_millis(100));
    write(&mut net, "a", 2, &[b"in time"]);
    net.run(Duration::from_millis(10));
    room(&mut net, "a", true);
    // The late one has waited in a batch of its own: a later packet doesn't join what is overdue.
    assert_eq!(read(&mut net, "c", 2), [b"in time"]);
    // So has the probe that asks what became of it.
    assert!(count(&mut net, "a", "drop.late_voice") >= 1);
}

/// Lets so many bytes of flows' PDUs go over a link, and all that goes before them; gives how many more than that they were.
fn drain(net: &mut Net, at: &'static str, lower: FlowId, most: usize) -> usize {
    let (now, mut bytes) = (net.now(), 0);
    net.node(at).machine.lower_room(now, lower, true);
    while bytes < most {
        let Some(output) = net.node(at).machine.poll() else {
            break;
        };
        if let Output::Lower(_, batch) = &output
            && batch.dscp() < 48
        {
            bytes += batch.bytes().len();
        }
        net.output(at, output);
    }
    net.node(at).machine.lower_room(now, lower, false);
    bytes.saturating_sub(most)
}

#[test]
fn a_queue_in_the_midst_marks_its_sender_sends_less_and_nothing_is_lost() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::DATA);
    let c = crate::crypt::address(&label("ovl"), &label("c"));
    let narrow = net.node("b").machine.adjacent[&c];
    let (mut sent, mut over, mut cuts) = (0_u32, 0, Vec::new());
    let window = |net: &mut Net| {
        let flow = net.node("a").machine.flows.with(c)[0];
        let flow = net.node("a").machine.flows.get(flow).unwrap();
        flow.transfer.as_ref().unwrap().window()
    };
    let mut before = window(&mut net);
    // A megabyte a second fits the link from b to c, for five seconds; a writes as much as it may.
    for _ in 0..5_000 {
        while !net.node("a").paused.contains(&FlowId(1)) {
            let mut sdu = [0; 1_000];
            sdu[..4].copy_from_slice(&sent.to_be_bytes());
            write(&mut net, "a", 1, &[&sdu]);
            sent += 1;
        }
        over = match 1_000_usize.checked_sub(over) {
            Some(most) => drain(&mut net, "b", narrow, most),
            None => over - 1_000,
        };
        net.run(Duration::from_millis(1));
        let after = window(&mut net);
        if after.1 > before.1 {
            cuts.push((before.0, after.0));
        }
        before = after;
    }
    let now = net.now();
    net.node("b").machine.lower_room(now, narrow, true);
    net.seconds(5);
    println!("FIGURE windows that a mark reduced: {cuts:?}");
    assert!(
        cuts.len() >= 2 && cuts.iter().all(|(before, after)| after < before),
        "{cuts:?}"
    );
    assert!(count(&mut net, "b", "congestion.marked") as usize >= cuts.len());
    let came = net
        .node("c")
        .received
        .remove(&FlowId(1))
        .unwrap_or_default();
    let came = came
        .iter()
        .map(|s| u32::from_be_bytes(*s.first_chunk().unwrap()));
    assert!(came.eq(0..sent), "of {sent}");
    assert!(sent > 4_000, "the link was not used: {sent}");
    assert_eq!(count(&mut net, "a", "frct.lost"), 0);
    for at in ["a", "b", "c"] {
        let counters = net.node(at).machine.stats.iter();
        let dropped: Vec<_> = counters.filter(|(k, _)| k.starts_with("drop.")).collect();
        assert!(dropped.is_empty(), "{at}: {dropped:?}");
    }
}

/// What a member could read of what came.
struct Spy(Arc<Mutex<Vec<Vec<u8>>>>);

impl Meddler for Spy {
    fn saw(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().push(bytes.to_vec());
    }
}

#[test]
fn a_queue_that_stands_marks_a_packet_of_a_flow_that_reacts_before_it_is_sealed() {
    let mut net = line();
    let seen = Arc::new(Mutex::new(Vec::new()));
    net.node("b").machine.meddle(Box::new(Spy(seen.clone())));
    let (lower, _) = net.node("a").machine.links.first_key_value().unwrap();
    let lower = *lower;
    room(&mut net, "a", false);
    for step in 0..300 {
        let now = net.now().mono;
        let machine = &mut net.node("a").machine;
        let me = machine.me.as_ref().unwrap().address;
        let lot = Lot {
            cube: Cube::Data,
            member: me,
            own: EndpointId(0),
            now,
            max_delay_ms: 0,
        };
        for _ in 0..2 {
            let link = machine.links.get_mut(&lower).unwrap();
            link.send(Class::Data(lot), 1000, |body| {
                Direct {
                    flags: 0,
                    cube: 2,
                    endpoint: EndpointId(77),
                }
                .write(body);
                Ok(())
            })
            .unwrap();
        }
        net.run(Duration::from_millis(10));
        // What two sent waits for five steps, always.
        if step >= 5 {
            one_data(&mut net, "a");
        }
    }
    room(&mut net, "a", true);
    net.run(Duration::from_millis(100));
    let seen = seen.lock().unwrap();
    let ours: Vec<_> = seen
        .iter()
        .filter(|pdu| pdu[0] == 1 && pdu[2] == 2)
        .collect();
    let marked = ours.iter().filter(|pdu| pdu[1] == CONGESTION).count();
    assert_eq!(ours.len(), 600);
    assert!(marked > 3, "{marked}");
    drop(seen);
    assert_eq!(count(&mut net, "a", "congestion.marked"), marked as u64);
}

#[test]
fn what_waits_for_long_before_it_is_read_is_marked_where_its_sender_reacts() {
    let mut net = line();
    let seen = Arc::new(Mutex::new(Vec::new()));
    net.node("c").machine.meddle(Box::new(Spy(seen.clone())));
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::DATA);
    flow(&mut net, "a", "c", "server", 2, QosSpec::RAW);
    let both = |net: &mut Net| {
        for _ in 0..100 {
            write(net, "a", 1, &[&[1; 300]]);
            write(net, "a", 2, &[&[2; 300]]);
            net.run(Duration::from_millis(1));
        }
        count(net, "b", "congestion.marked_arriving")
    };
    net.waits.insert("b", Duration::from_micros(150));
    assert_eq!(both(&mut net), 0, "so long it may wait");
    net.waits.insert("b", Duration::from_millis(2));
    let marked = both(&mut net);
    assert!(marked > 3, "{marked}");
    net.waits.clear();
    net.run(Duration::from_millis(100));
    let marked = count(&mut net, "b", "congestion.marked_arriving");
    assert_eq!(both(&mut net), marked);
    let seen = seen.lock().unwrap();
    let routed = seen.iter().filter(|pdu| pdu[0] == 2);
    let marks: Vec<_> = routed.filter(|pdu| pdu[1] == CONGESTION).collect();
    assert!(marks.len() > 3, "{}", marks.len());
    assert!(marks.iter().all(|pdu| pdu[2] == Cube::Data as u8));
    drop(seen);
    // The last member on the way tells its own flows, and nobody else.
    net.waits.insert("c", Duration::from_millis(2));
    assert_eq!(both(&mut net), marked);
    assert!(count(&mut net, "c", "congestion.marked_arriving") > 3);
}

pub(super) fn video_is_granted_as_far_as_the_link_has_room_and_more_when_it_is_said_to_carry_more(
    [limit]: [&str; 1],
) {
    let mut net = line();
    register(&mut net, "c", "server");
    let ask = |net: &mut Net, id| {
        net.ask(
            "a",
            Command::Allocate(allocate("server", id, QosSpec::VIDEO)),
        )
    };
    // 6 of 28 parts of 1000 Mbit/s, 8 Mbit/s each.
    for id in 1..=26 {
        flow(&mut net, "a", "c", "server", id, QosSpec::VIDEO);
    }
    let reason = ask(&mut net, 99).unwrap_err();
    assert_eq!(reason.code, Code::QosNotGranted);
    assert!(reason.text.contains("--rate"), "{reason}");
    assert_eq!(count(&mut net, "a", limit), 1);
    // Whoever is asked checks its own link too.
    let more = Settings {
        rate_mbit: 2000,
        ..Settings::default()
    };
    net.ask("a", Command::Set(more.clone())).unwrap();
    let reason = ask(&mut net, 98).unwrap_err();
    assert!(reason.text.contains("the link to b carries 26"), "{reason}");
    assert_eq!(count(&mut net, "c", limit), 1);
    net.ask("c", Command::Set(more)).unwrap();
    flow(&mut net, "a", "c", "server", 97, QosSpec::VIDEO);
    // Other cubes promise nothing and are not counted.
    flow(&mut net, "a", "c", "server", 96, QosSpec::BEST);
    // A minute later at the latest people have heard of it.
    net.seconds(61);
    assert_eq!(told(&mut net, "a", limit), ["1"]);
}

pub(super) fn a_member_with_many_flows_that_keep_what_waits_gets_no_more_and_another_does(
    [limit]: [&str; 1],
) {
    let mut net = line();
    register(&mut net, "c", "server");
    net.node("a").machine.bounds.memory_member = 8;
    for id in 1..=8 {
        flow(&mut net, "a", "c", "server", id, QosSpec::DATA);
    }
    let data = allocate("server", 99, QosSpec::DATA);
    let reason = net.ask("a", Command::Allocate(data)).unwrap_err();
    assert_eq!(reason.code, Code::Busy);
    assert!(reason.text.contains("memory"), "{reason}");
    assert_eq!(count(&mut net, "a", limit), 1);
    // What keeps nothing needs no memory, and another member has its own.
    flow(&mut net, "a", "c", "server", 98, QosSpec::RAW);
    flow(&mut net, "b", "c", "server", 97, QosSpec::DATA);
    let done = Reason::new(Code::Closed, "done");
    net.ask("a", Command::Dealloc(FlowId(7), done)).unwrap();
    net.seconds(20);
    flow(&mut net, "a", "c", "server", 96, QosSpec::DATA);
    told_once(&mut net, "a", limit);
}

/// The neighbour `d` of `b` sends packets of flows to `dst` through it, each in the name of another.
fn forge(net: &mut Net, dst: Addr, names: &[Addr]) {
    let b = address(net, "b");
    let machine = &mut net.node("d").machine;
    let link = machine.links.get_mut(&machine.adjacent[&b]).unwrap();
    for (counter, src) in (0..).zip(names) {
        let header = Routed {
            flags: 0,
            cube: Cube::Raw as u8,
            ttl: TTL,
            dst,
            src: *src,
            endpoint: EndpointId(7),
            session: 1,
            counter,
        };
        let sent = link.send(Class::Control, Routed::LEN + 1000 + TAG_LEN, |body| {
            header.write(body);
            body[Routed::LEN..].fill(7);
            Ok(())
        });
        assert_eq!(sent, Ok(()));
    }
    net.input("d", Input::Timeout);
}

/// Lets `at` send one batch of flows' PDUs over a link that takes nothing otherwise.
fn one_batch(net: &mut Net, at: &'static str, lower: FlowId) {
    for open in [true, false] {
        let now = net.now();
        net.node(at).machine.lower_room(now, lower, open);
        while let Some(output) = net.node(at).machine.poll() {
            let data =
                matches!(&output, Output::Lower(to, batch) if *to == lower && batch.dscp() < 48);
            net.output(at, output);
            if data && open {
                break;
            }
        }
    }
}

fn address(net: &mut Net, of: &'static str) -> Addr {
    net.node(of).machine.me.as_ref().unwrap().address
}

#[test]
fn who_floods_in_the_names_of_others_gets_one_share_of_a_link() {
    let mut net = Net::new(&["a", "b", "c", "d"]);
    for (one, other) in [("a", "c"), ("a", "d"), ("c", "d")] {
        net.cut(one, other);
    }
    bootstrap(&mut net, "b");
    for member in ["a", "c", "d"] {
        join(&mut net, "b", member);
    }
    net.seconds(1);
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::RAW);
    let [a, c, d] = ["a", "c", "d"].map(|name| address(&mut net, name));
    // Members that nobody knows, itself, and the very one whose share it would like to have.
    let mut names: Vec<Addr> = (1..=48).map(Addr).collect();
    names.extend([a, d]);
    let lower = net.node("b").machine.adjacent[&c];
    let now = net.now();
    net.node("b").machine.lower_room(now, lower, false);
    net.trace.clear();
    // Either alone would fill the link.
    for _ in 0..200 {
        for _ in 0..names.len() {
            write(&mut net, "a", 1, &[&[1; 1000]]);
        }
        forge(&mut net, c, &names);
        net.run(Duration::from_millis(10));
        for _ in 0..4 {
            one_batch(&mut net, "b", lower);
        }
    }
    net.run(Duration::from_millis(10));
    let carried = |(_, from, to, len): &&(Duration, &str, &str, usize)| {
        (*from, *to) == ("b", "c") && *len > 1000
    };
    let all = net.trace.iter().filter(carried).count();
    let honest = net.node("c").received[&FlowId(1)].len();
    let part = honest as f64 / all as f64;
    assert!(all > 1_000, "{all}");
    assert!((0.45..=0.55).contains(&part), "{honest} of {all}");
}

#[test]
fn packets_of_a_flow_go_in_the_class_of_its_cube_at_every_hop_and_control_in_its_own() {
    // EF, AF41, AF11 and the default (RFC 4594).
    let kinds = [
        (QosSpec::RAW, 0),
        (QosSpec::BEST, 0),
        (QosSpec::DATA, 10),
        (QosSpec::VIDEO, 34),
        (QosSpec::VOICE, 46),
    ];
    let mut net = line();
    register(&mut net, "c", "server");
    for (id, (qos, class)) in (1..).zip(kinds) {
        net.classes.clear();
        flow(&mut net, "a", "c", "server", id, qos);
        let asked = ["a", "b", "c"].iter().zip(["b", "c", "b"]);
        for (from, to) in asked {
            assert!(net.classes[&(*from, to, 48)] > 0, "{qos}: control");
        }
        net.classes.clear();
        for _ in 0..10 {
            write(&mut net, "a", id, &[b"there"]);
            write(&mut net, "c", id, &[b"back"]);
            net.run(Duration::from_millis(10));
        }
        assert_eq!(read(&mut net, "c", id).len(), 10);
        assert_eq!(read(&mut net, "a", id).len(), 10);
        for hop in [("a", "b"), ("b", "c"), ("c", "b"), ("b", "a")] {
            let of = |class| net.classes.get(&(hop.0, hop.1, class));
            assert!(
                of(class).is_some_and(|n| *n >= 10),
                "{qos}: {:?}",
                net.classes
            );
        }
        let mut used = net.classes.keys().map(|(.., used)| *used);
        assert!(used.all(|used| used == class || used == 48), "{qos}");
    }
}
