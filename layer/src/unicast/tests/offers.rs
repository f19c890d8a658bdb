//! Networks that members offer.

use ipnet::IpNet;
use proto::ipcp::AuthorityAct;
use proto::irm::PolicyCheck;

use super::flows::line;
use super::*;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

/// What one member sees that another offers, and what the policy says of that.
fn seen(net: &mut Net, at: &'static str, of: &str) -> Vec<(String, String)> {
    let members = status(net, at).members.into_iter();
    let member = members.filter(|m| m.name == of);
    let offers = member.flat_map(|m| m.offers);
    offers.map(|o| (o.network, o.verdict)).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    owned.collect()
}

#[test]
fn an_offer_is_known_to_all_with_what_the_policy_says_of_it_until_it_is_withdrawn() {
    let mut net = line();
    let offer = Command::Offer(nets(&["10.1.2.3/16", "0.0.0.0/0", "10.1.0.0/16"]));
    assert_eq!(net.ask("c", offer.clone()), Ok(Answer::Ok));
    net.seconds(1);
    let silent = pairs(&[("0.0.0.0/0", "silent"), ("10.1.0.0/16", "silent")]);
    for at in ["a", "b", "c"] {
        assert_eq!(seen(&mut net, at, "c"), silent, "{at}");
        assert_eq!(seen(&mut net, at, "a"), [], "{at}");
    }
    let rules = "allow * * by any\nallow offer 10.0.0.0/8 by member c\ndeny take 10.1.0.0/16 by member b\nallow take * by any";
    let act = AuthorityAct::Policy(rules.to_owned());
    net.ask("b", Command::Authority(act)).unwrap();
    net.seconds(1);
    let of = |verdict| pairs(&[("0.0.0.0/0", "silent"), ("10.1.0.0/16", verdict)]);
    assert_eq!(seen(&mut net, "a", "c"), of("allowed"));
    assert_eq!(seen(&mut net, "b", "c"), of("denied"));
    let check = PolicyCheck {
        from: "c".to_owned(),
        at: "b".to_owned(),
        network: "10.1.0.0/16".to_owned(),
        ..PolicyCheck::default()
    };
    let Ok(Answer::Policy(reply)) = net.ask("a", Command::Policy(check)) else {
        panic!("no answer")
    };
    let [offers, takes] = &reply.judgements[..] else {
        panic!("{reply:?}")
    };
    assert!(offers.allowed && offers.why.contains("rule 2"), "{reply:?}");
    assert!(!takes.allowed && takes.why.contains("rule 3"), "{reply:?}");
    net.ask("c", Command::Offer(Vec::new())).unwrap();
    net.seconds(1);
    assert_eq!(seen(&mut net, "a", "c"), []);
    // More than there is room for is refused, and nothing of it offered.
    let many = (0..=64u8).map(|i| IpNet::new([10, i, 0, 0].into(), 16).unwrap());
    let refused = net.ask("c", Command::Offer(many.collect())).unwrap_err();
    assert!(refused.text.contains("at most 64"), "{refused}");
}

#[test]
fn a_member_that_starts_anew_offers_nothing_until_it_is_told() {
    let mut net = line();
    net.ask("c", Command::Offer(nets(&["10.1.0.0/16"])))
        .unwrap();
    net.seconds(1);
    assert_eq!(seen(&mut net, "a", "c").len(), 1);
    let files = net.node("c").files.clone();
    net.boot("c", files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5000,
    };
    net.ask("c", Command::Enroll(rejoin)).unwrap();
    net.seconds(60);
    assert_eq!(seen(&mut net, "a", "c"), []);
    assert_eq!(seen(&mut net, "c", "c"), []);
    net.ask("c", Command::Offer(nets(&["10.2.0.0/16"])))
        .unwrap();
    net.seconds(1);
    assert_eq!(
        seen(&mut net, "a", "c"),
        pairs(&[("10.2.0.0/16", "silent")])
    );
}
