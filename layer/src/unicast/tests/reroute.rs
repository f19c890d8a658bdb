//! How long traffic stands still when a neighbour dies: in a ring of four there is another way.

use proto::QosSpec;

use super::super::pdu::Inner;
use super::flows::{flow, register};
use super::*;

/// A flow from a to c, with as much to and fro as it takes to measure gaps.
struct Ring {
    net: Net,
    /// The member in the middle of the way that the flow takes.
    middle: &'static str,
    sent: u32,
}

impl Ring {
    fn new() -> Self {
        let mut net = Net::new(&["a", "b", "c", "d"]);
        bootstrap(&mut net, "a");
        join(&mut net, "a", "b");
        join(&mut net, "a", "d");
        let url = invite(&mut net, "a", "c").unwrap();
        let Ok(Answer::Configured(_)) = enroll(&mut net, "c", url) else {
            panic!("c could not join")
        };
        for to in ["b", "d"] {
            assert_eq!(
                net.ask("c", Command::Connect(label(to), None)),
                Ok(Answer::Ok)
            );
        }
        // It joined at a; a ring has no such chord.
        for (at, from) in [("c", "a"), ("a", "c")] {
            assert_eq!(
                net.ask(at, Command::Disconnect(label(from))),
                Ok(Answer::Ok)
            );
        }
        net.seconds(3);
        register(&mut net, "c", "server");
        flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
        let mut ring = Self {
            net,
            middle: "b",
            sent: 0,
        };
        ring.net.node("b").machine.seen.clear();
        ring.net.node("d").machine.seen.clear();
        ring.write();
        ring.net.run(Duration::from_millis(20));
        if ring.net.node("b").machine.seen.is_empty() {
            ring.middle = "d";
        }
        ring
    }

    fn write(&mut self) {
        self.sent += 1;
        let sdu = self.sent.to_be_bytes();
        flows::write(&mut self.net, "a", 5, &[&sdu]);
    }

    /// Writes every millisecond; gives the longest time in which nothing arrived.
    fn gap(&mut self, millis: u32) -> u32 {
        let (mut silent, mut longest) = (0, 0);
        for _ in 0..millis {
            self.write();
            self.net.run(Duration::from_millis(1));
            let came = self
                .net
                .node("c")
                .received
                .values()
                .any(|sdus| !sdus.is_empty());
            self.net.node("c").received.clear();
            silent = if came { 0 } else { silent + 1 };
            longest = longest.max(silent);
        }
        assert!(silent < 10, "traffic never came back");
        longest
    }

    /// The machine in the middle is dead, and nobody says so.
    fn kill_silently(&mut self) {
        let middle = self.middle;
        self.net.cut("a", middle);
        self.net.cut(middle, "c");
    }

    /// The lower network says that the flows to the machine in the middle are gone.
    fn signal(&mut self) {
        for end in ["a", "c"] {
            let links = self.net.node(end).machine.links.values();
            let address = crate::crypt::address(&label("ovl"), &label(self.middle));
            let lower = links
                .filter(|l| l.up() == Some(address))
                .map(|l| l.lower)
                .next()
                .unwrap();
            let reason = Reason::new(Code::Unreachable, "port unreachable");
            self.net
                .input(end, Input::Tell(FlowTell::Down(lower, reason)));
        }
    }
}

#[test]
fn a_neighbour_that_dies_under_traffic_is_routed_round_within_a_second() {
    let mut ring = Ring::new();
    assert!(ring.gap(500) < 10);
    ring.kill_silently();
    let gap = ring.gap(3_000);
    println!("dead neighbour noticed by hellos: {gap} ms without traffic");
    assert!(gap <= 1_000, "{gap} ms");
}

#[test]
fn a_neighbour_that_died_while_nothing_was_sent_is_found_out_by_the_first_packet() {
    let mut ring = Ring::new();
    ring.net.seconds(63);
    ring.kill_silently();
    // Too short for idle hellos to notice.
    ring.net.seconds(9);
    let gap = ring.gap(3_000);
    println!("dead neighbour noticed after a pause: {gap} ms without traffic");
    assert!((10..=1_000).contains(&gap), "{gap} ms");
}

#[test]
fn a_neighbour_whose_link_says_that_it_is_down_is_routed_round_with_the_next_packet() {
    let mut ring = Ring::new();
    assert!(ring.gap(500) < 10);
    ring.kill_silently();
    ring.signal();
    let gap = ring.gap(1_000);
    println!("dead neighbour told by the link: {gap} ms without traffic");
    // What was under way is lost, and the next takes its time to arrive.
    assert!(gap <= 10, "{gap} ms");
}

#[test]
fn a_member_that_shuts_down_in_order_costs_no_packet() {
    let mut ring = Ring::new();
    let back = ring.net.node("c").open.iter().next().copied().unwrap();
    let (middle, first) = (ring.middle, ring.sent);
    // What is under way at any moment is lost if the link that it is on ends.
    ring.net.jitter = Duration::from_millis(20);
    ring.net.node("a").received.clear();
    for milli in 0..2_000_u32 {
        if milli == 500 {
            ring.net.command(middle, Command::Shutdown);
        }
        ring.write();
        flows::write(&mut ring.net, "c", back.0, &[&milli.to_be_bytes()]);
        ring.net.run(Duration::from_millis(1));
    }
    ring.net.run(Duration::from_millis(100));
    assert!(ring.net.node(middle).exited);
    for (at, sent) in [("c", first + 2_000), ("a", 2_000)] {
        let came = ring.net.node(at).received.values();
        let came: BTreeSet<_> = came.flatten().collect();
        assert_eq!(came.len(), sent as usize, "of {sent} at {at}");
    }
}

#[test]
fn a_quiet_link_says_little_and_a_dead_one_is_given_up_all_the_same() {
    let mut ring = Ring::new();
    ring.net.seconds(10);
    ring.net.trace.clear();
    ring.net.seconds(100);
    let packets = ring.net.trace.len();
    println!("a ring of four without traffic: {packets} packets on four links in 100 s");
    // A hello and its answer every ten seconds, and digests with their acknowledgements.
    assert!(packets < 4 * (2 * 11 + 4 * 6), "{packets}");
    ring.kill_silently();
    ring.net.seconds(36);
    let links = status(&mut ring.net, "a").links;
    assert!(
        !links
            .iter()
            .any(|l| l.member == ring.middle && l.state == "up"),
        "{links:?}"
    );
}

#[test]
fn what_went_over_a_lost_neighbour_goes_over_an_alternate_before_anybody_else_has_heard() {
    let mut net = routes::triangle();
    let [b, c] = ["b", "c"].map(|of| crate::crypt::address(&label("ovl"), &label(of)));
    let [lost, other] = [b, c].map(|to| net.node("a").machine.adjacent[&to]);
    assert_eq!(net.node("a").machine.path(b).unwrap().lower, lost);
    net.cut("a", "b");
    let reason = Reason::new(Code::Unreachable, "port unreachable");
    net.input("a", Input::Tell(FlowTell::Down(lost, reason)));
    // No time has passed, so that nobody else knows.
    let machine = &net.node("a").machine;
    assert_eq!(
        machine.path(b).map(|p| (p.lower, p.direct)),
        Some((other, false))
    );
    assert!(machine.me.as_ref().unwrap().routing.is_repaired(b));
    net.run(Duration::from_millis(260));
    let machine = &net.node("a").machine;
    assert_eq!(machine.path(b).map(|p| p.lower), Some(other));
    assert!(!machine.me.as_ref().unwrap().routing.is_repaired(b));
}

/// The ends of flows from a to c of which a member has forwarded packets.
fn forwarded(net: &mut Net, by: &'static str) -> BTreeSet<u64> {
    let [a, c] = ["a", "c"].map(|of| crate::crypt::address(&label("ovl"), &label(of)));
    let mut seen = net.node(by).machine.seen.clone();
    let ends = seen.iter_mut().filter_map(|pdu| match Inner::parse(pdu) {
        Some(Inner::Routed(header, _)) => Some(header),
        _ => None,
    });
    let ends = ends.filter(|header| (header.src, header.dst) == (a, c));
    ends.map(|h| h.endpoint.0).filter(|e| *e != 0).collect()
}

#[test]
fn flows_are_spread_over_equal_ways_and_each_keeps_to_one() {
    let mut net = Ring::new().net;
    let ids = 100..132;
    for id in ids.clone() {
        flow(&mut net, "a", "c", "server", id, QosSpec::RAW);
    }
    for at in ["b", "d"] {
        net.node(at).machine.seen.clear();
    }
    net.node("c").received.clear();
    for n in 0..20 {
        for id in ids.clone() {
            flows::write(&mut net, "a", id, &[&[n]]);
        }
        net.run(Duration::from_millis(20));
    }
    let [b, d] = ["b", "d"].map(|by| forwarded(&mut net, by));
    assert!(b.is_disjoint(&d), "{b:?} {d:?}");
    assert_eq!(b.len() + d.len(), 32);
    assert!(b.len() >= 6 && d.len() >= 6, "{} and {}", b.len(), d.len());
    let came = net.node("c").received.values();
    assert!(came.map(Vec::len).eq([20; 32]));
}

#[test]
fn routes_show_equal_ways_and_who_stands_in() {
    let mut ring = Ring::new();
    let routes = status(&mut ring.net, "a").routes;
    let to = |member: &str| routes.iter().find(|r| r.member == member).unwrap();
    assert_eq!(to("c").next_hops.len(), 2);
    assert_eq!(to("b").next_hops, ["b"]);
    assert_eq!(to("b").alternate, "", "d might send it back");
    assert!(
        (3_000..6_000).contains(&to("b").rtt_us),
        "{}",
        to("b").rtt_us
    );
    let mut net = routes::triangle();
    let routes = status(&mut net, "a").routes;
    let alternates: Vec<_> = routes
        .iter()
        .map(|r| (r.member.as_str(), r.alternate.as_str()))
        .collect();
    assert!(
        alternates.contains(&("b", "c")) && alternates.contains(&("c", "b")),
        "{alternates:?}"
    );
}

/// Two members that are linked over two lower layers, and a flow from a to b. Gives the layer that the flow uses.
fn twice_linked() -> (Net, Label) {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    for member in ["a", "b"] {
        let settings = proto::ipcp::Settings {
            over: vec![label("net"), label("backup")],
            ..proto::ipcp::Settings::default()
        };
        assert_eq!(net.ask(member, Command::Set(settings)), Ok(Answer::Ok));
    }
    net.seconds(2);
    assert_eq!(standing(&mut net), ["backup", "net"]);
    register(&mut net, "b", "server");
    flow(&mut net, "a", "b", "server", 5, QosSpec::RAW);
    let (used, _) = used(&mut net);
    (net, used)
}

/// The lower layers over which the two are linked.
fn standing(net: &mut Net) -> Vec<String> {
    let links = status(net, "a")
        .links
        .into_iter()
        .filter(|l| l.state == "up");
    let mut over: Vec<_> = links.map(|l| l.lower_layer).collect();
    over.sort();
    over
}

/// The layer and the link over which a reaches b.
fn used(net: &mut Net) -> (Label, FlowId) {
    let lower = *net.node("a").machine.adjacent.values().next().unwrap();
    (net.overs[&lower].clone(), lower)
}

/// Writes every millisecond; gives the longest time in which nothing arrived.
fn gap(net: &mut Net, millis: u32) -> u32 {
    let (mut silent, mut longest) = (0, 0);
    for _ in 0..millis {
        flows::write(net, "a", 5, &[b"on and on"]);
        net.run(Duration::from_millis(1));
        let came = net.node("b").received.values().any(|sdus| !sdus.is_empty());
        net.node("b").received.clear();
        silent = if came { 0 } else { silent + 1 };
        longest = longest.max(silent);
    }
    assert!(silent < 10, "traffic never came back");
    longest
}

#[test]
fn a_lower_layer_that_goes_dark_is_left_for_another_and_is_back_when_it_is_mended() {
    let (mut net, first) = twice_linked();
    assert!(gap(&mut net, 500) < 10);
    net.dark.insert(first.clone());
    let dead = gap(&mut net, 3_000);
    println!("over another lower layer: {dead} ms without traffic");
    assert!(dead <= 1_000, "{dead} ms");
    assert_ne!(used(&mut net).0, first);
    net.dark.clear();
    // The link is made anew beside the one that is used, and nothing is lost meanwhile.
    let mended = gap(&mut net, 40_000);
    assert!(mended < 10, "{mended} ms");
    assert_eq!(standing(&mut net), ["backup", "net"]);
    assert!(net.node("a").closed.is_empty() && net.node("b").closed.is_empty());
}

#[test]
fn a_host_that_can_not_send_over_one_layer_uses_the_other_with_the_next_packet() {
    let (mut net, first) = twice_linked();
    assert!(gap(&mut net, 500) < 10);
    net.dark.insert(first.clone());
    let lower = used(&mut net).1;
    net.input("a", Input::Tell(FlowTell::Faulty(lower)));
    let gap = gap(&mut net, 50);
    println!("told that an interface is down: {gap} ms without traffic");
    // The other host's interface is up, and it follows.
    let back = net.node("b").open.iter().next().copied().unwrap();
    flows::write(&mut net, "b", back.0, &[b"and back"]);
    net.run(Duration::from_millis(5));
    assert_eq!(net.node("a").received[&FlowId(5)], [b"and back".to_vec()]);
    assert!(gap <= 5, "{gap} ms");
    assert_ne!(used(&mut net).0, first);
}

#[test]
fn a_link_that_was_thought_mute_is_used_again_once_it_is_heard() {
    let (mut net, first) = twice_linked();
    net.dark.insert(if first == label("net") {
        label("backup")
    } else {
        label("net")
    });
    net.seconds(40);
    let lower = used(&mut net).1;
    net.input("a", Input::Tell(FlowTell::Faulty(lower)));
    assert!(
        status(&mut net, "a")
            .links
            .iter()
            .any(|l| l.state == "faulty")
    );
    assert!(gap(&mut net, 1_000) <= 100, "the hello and its answer");
    assert_eq!(used(&mut net).0, first);
}
