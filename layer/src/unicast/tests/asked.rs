//! Who has asked for the status is told when it would say something else of the members, and only then.

use proto::ipcp::AuthorityAct;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::flows::line;
use super::*;

/// What the status says of the members, as the VPN's process is told it.
fn members(net: &mut Net, at: &'static str) -> Vec<String> {
    let said = status(net, at);
    let members = said.members.into_iter().map(|mut member| {
        let own = member.name == at;
        member.neighbours.retain(|_| own);
        member.neighbours.sort();
        format!("{member:?}")
    });
    let rest = [format!("{:?} {:?}", said.filters, said.prefixes)];
    members.chain(rest).collect()
}

/// How often it was said since this was asked last.
fn said(net: &mut Net, at: &'static str) -> usize {
    let events = std::mem::take(&mut net.node(at).events);
    events.iter().filter(|e| **e == Event::Members).count()
}

type Change = (&'static str, fn(&mut Net));

#[test]
fn nobody_is_told_while_nothing_changes_or_nobody_has_asked() {
    let mut net = line();
    net.seconds(5);
    assert_eq!(said(&mut net, "a"), 0, "nobody has asked");
    let before = members(&mut net, "a");
    // Long enough for hellos, digests, and records that are renewed.
    net.seconds(4000);
    assert_eq!(said(&mut net, "a"), 0);
    assert_eq!(members(&mut net, "a"), before);
}

#[test]
fn every_change_that_the_status_shows_is_told_once() {
    let mut net = line();
    let changes: [Change; 6] = [
        ("an offer of another", |net| {
            let offer = Command::Offer(vec!["10.1.0.0/16".parse().unwrap()]);
            net.ask("c", offer).unwrap();
        }),
        ("one's own offer", |net| {
            let offer = Command::Offer(vec!["10.2.0.0/16".parse().unwrap()]);
            net.ask("a", offer).unwrap();
        }),
        ("a policy", |net| {
            let act = AuthorityAct::Policy("allow * * by any\ndeny take * by any".to_owned());
            net.ask("b", Command::Authority(act)).unwrap();
        }),
        ("a member that can't be reached", |net| net.cut("b", "c")),
        ("one that can be reached again", |net| net.mend("b", "c")),
        ("a member that was revoked", |net| {
            let act = AuthorityAct::Revoke(label("c"));
            net.ask("b", Command::Authority(act)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let before = members(&mut net, "a");
        assert_eq!(said(&mut net, "a"), 0, "before {what}");
        change(&mut net);
        net.seconds(90);
        assert_eq!(said(&mut net, "a"), 1, "{what}");
        assert_ne!(members(&mut net, "a"), before, "{what}");
        // What followed, such as the ways that are found anew, is said by now.
        net.seconds(90);
        let _ = (members(&mut net, "a"), said(&mut net, "a"));
        net.seconds(90);
        assert_eq!(said(&mut net, "a"), 0, "after {what}");
    }
}

#[test]
fn a_member_that_comes_is_told_of() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    net.seconds(1);
    let before = members(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(5);
    assert_eq!(said(&mut net, "a"), 1);
    assert_ne!(members(&mut net, "a"), before);
}

/// As irmd does it: whoever was told nothing since may take what the status said last for true.
#[test]
fn what_was_said_last_is_true_until_it_is_told_to_have_changed() {
    const ALL: [&str; 4] = ["a", "b", "c", "d"];
    for seed in 0..60 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut below = |n: usize| rng.next_u32() as usize % n;
        let mut net = Net::new(&ALL);
        bootstrap(&mut net, "a");
        ALL[1..].iter().for_each(|m| join(&mut net, "a", m));
        let (mut last, mut told) = (members(&mut net, "b"), false);
        said(&mut net, "b");
        for _ in 0..40 {
            let (x, y) = (ALL[below(4)], ALL[below(4)]);
            match below(4) {
                0 if x != y => net.cut(x, y),
                1 if x != y => net.mend(x, y),
                _ => {}
            }
            net.run(Duration::from_millis([3, 40, 200, 1500, 40_000][below(5)]));
            told |= said(&mut net, "b") > 0;
            if told && below(2) == 0 {
                (last, told) = (members(&mut net, "b"), false);
                said(&mut net, "b");
            }
        }
        net.seconds(60);
        told |= said(&mut net, "b") > 0;
        assert!(told || members(&mut net, "b") == last, "seed {seed}");
    }
}
