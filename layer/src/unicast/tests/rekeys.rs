//! Keys change under traffic, by time and by use, on links and between members that are none; no SDU is lost by it.

use proto::QosSpec;

use super::flows::{flow, line, read, register, write};
use super::*;
use crate::crypt::REKEY_BLOCKS;

/// A raw flow of two members with an SDU each way every 50 ms, late by any time up to `jitter`.
pub(super) struct Traffic {
    ends: [(&'static str, u64); 2],
    sent: u32,
    got: [Vec<u32>; 2],
}

impl Traffic {
    pub(super) fn new(net: &mut Net, from: &'static str, to: &'static str) -> Self {
        register(net, to, "server");
        flow(net, from, to, "server", 5, QosSpec::RAW);
        let back = net.node(to).open.iter().next().copied().unwrap();
        net.jitter = Duration::from_millis(40);
        Self {
            ends: [(from, 5), (to, back.0)],
            sent: 0,
            got: Default::default(),
        }
    }

    pub(super) fn run(&mut self, net: &mut Net, time: Duration) {
        for _ in 0..time.as_millis() / 50 {
            self.write(net);
            net.run(Duration::from_millis(50));
        }
        for ((at, id), got) in self.ends.into_iter().zip(&mut self.got) {
            let sdus = read(net, at, id);
            got.extend(
                sdus.iter()
                    .map(|s| u32::from_be_bytes(s[..].try_into().unwrap())),
            );
        }
    }

    fn write(&mut self, net: &mut Net) {
        for (at, id) in self.ends {
            // Three at once, so that each may overtake another.
            for i in 0..3 {
                write(net, at, id, &[&(self.sent + i).to_be_bytes()]);
            }
        }
        self.sent += 3;
    }

    /// Everything has arrived at both ends, once each, and in another order than it was sent.
    pub(super) fn nothing_lost(mut self, net: &mut Net) {
        net.seconds(1);
        self.run(net, Duration::ZERO);
        for mut got in self.got {
            assert!(!got.is_sorted(), "nothing was overtaken");
            got.sort_unstable();
            assert!(got.into_iter().eq(0..self.sent), "of {}", self.sent);
        }
    }
}

fn done(net: &mut Net, at: &'static str) -> u64 {
    status(net, at).counters["handshake.done"]
}

fn address(net: &mut Net, of: &'static str) -> proto::Addr {
    net.node(of).machine.me.as_ref().unwrap().address
}

#[test]
fn no_sdu_is_lost_while_the_keys_of_a_link_and_of_a_pair_behind_it_change_four_times() {
    for (to, least) in [("b", 4), ("c", 8)] {
        let mut net = line();
        let mut traffic = Traffic::new(&mut net, "a", to);
        let before = done(&mut net, "a");
        traffic.run(&mut net, Duration::from_secs(500));
        let fresh = done(&mut net, "a") - before;
        assert!(fresh >= least, "{fresh} fresh keys");
        traffic.nothing_lost(&mut net);
    }
}

#[test]
fn no_sdu_is_lost_while_keys_change_and_the_way_does_too() {
    let mut net = line();
    net.mend("a", "c");
    let mut traffic = Traffic::new(&mut net, "a", "c");
    let (before, c) = (done(&mut net, "a"), address(&mut net, "c"));
    for _ in 0..4 {
        traffic.run(&mut net, Duration::from_secs(70));
        // The straight way opens under traffic, and closes while it carries some.
        let straight = net.command("a", Command::Connect(label("c"), None));
        traffic.run(&mut net, Duration::from_secs(70));
        assert_eq!(flows::wait(&mut net, "a", straight), Ok(Answer::Ok));
        assert!(net.node("a").machine.path(c).unwrap().direct);
        traffic.write(&mut net);
        let apart = net.command("a", Command::Disconnect(label("c")));
        traffic.run(&mut net, Duration::from_secs(2));
        assert_eq!(flows::wait(&mut net, "a", apart), Ok(Answer::Ok));
        assert!(!net.node("a").machine.path(c).unwrap().direct);
    }
    assert!(done(&mut net, "a") - before >= 8);
    traffic.nothing_lost(&mut net);
}

#[test]
fn no_sdu_is_lost_while_keys_change_over_several_hops_and_ways_end_and_begin() {
    // a - b - c - d and a - e - d.
    let mut net = Net::new(&["a", "b", "c", "d", "e"]);
    bootstrap(&mut net, "a");
    for member in ["b", "c", "d", "e"] {
        join(&mut net, "a", member);
    }
    for (from, to) in [("c", "b"), ("d", "c"), ("d", "e")] {
        let connect = Command::Connect(label(to), None);
        assert_eq!(net.ask(from, connect), Ok(Answer::Ok));
    }
    for (at, from) in [("c", "a"), ("a", "c"), ("d", "a"), ("a", "d")] {
        let apart = Command::Disconnect(label(from));
        assert_eq!(net.ask(at, apart), Ok(Answer::Ok));
    }
    net.seconds(3);
    let mut traffic = Traffic::new(&mut net, "a", "d");
    let (before, d) = (done(&mut net, "a"), address(&mut net, "d"));
    let mut ways = BTreeSet::new();
    for round in 0..10 {
        traffic.run(&mut net, Duration::from_secs(25));
        let ended = ["e", "c"][round % 2];
        traffic.write(&mut net);
        net.command("d", Command::Disconnect(label(ended)));
        traffic.run(&mut net, Duration::from_secs(20));
        ways.insert(net.node("a").machine.path(d).unwrap().lower);
        net.command("d", Command::Connect(label(ended), None));
        traffic.run(&mut net, Duration::from_secs(5));
    }
    assert_eq!(ways.len(), 2);
    let fresh = done(&mut net, "a") - before;
    assert!(fresh >= 8, "{fresh} fresh keys");
    traffic.nothing_lost(&mut net);
}

#[test]
fn keys_that_have_done_much_are_renewed_before_they_are_refused() {
    let mut net = line();
    let mut traffic = Traffic::new(&mut net, "a", "c");
    traffic.run(&mut net, Duration::from_secs(1));
    let c = address(&mut net, "c");
    for wear in [(REKEY_BLOCKS, 0), (0, REKEY_BLOCKS)] {
        let before = done(&mut net, "a");
        let links = net.node("a").machine.links.values_mut();
        links.for_each(|link| link.wear(wear.0, wear.1));
        traffic.run(&mut net, Duration::from_secs(2));
        assert_eq!(done(&mut net, "a"), before + 1, "{wear:?} on the link");
        let flow = net.node("a").machine.flows.with(c)[0];
        let ends = &mut net.node("a").machine.flows.get_mut(flow).unwrap().ends;
        ends.wear(wear.0);
        traffic.run(&mut net, Duration::from_secs(2));
        let pair = u64::from(wear.0 > 0);
        assert_eq!(
            done(&mut net, "a"),
            before + 1 + pair,
            "{wear:?} of the pair"
        );
    }
    traffic.nothing_lost(&mut net);
}

#[test]
fn a_pair_whose_way_was_cut_goes_on_with_the_keys_it_has_and_a_link_makes_others() {
    let mut net = line();
    let mut traffic = Traffic::new(&mut net, "a", "c");
    traffic.run(&mut net, Duration::from_secs(1));
    net.run(Duration::from_millis(200));
    let before = ["a", "b", "c"].map(|at| done(&mut net, at));
    net.cut("b", "c");
    net.seconds(20);
    net.mend("b", "c");
    net.seconds(5);
    traffic.run(&mut net, Duration::from_secs(1));
    let fresh = ["a", "b", "c"].map(|at| done(&mut net, at));
    // The counters of a key count on one N-1 flow only: that of b and c is another, and so are its keys.
    assert_eq!(fresh, [before[0], before[1] + 1, before[2] + 1]);
    traffic.nothing_lost(&mut net);
}
