//! Addresses that members get when they join, from whom ever they get them.

use ipnet::IpNet;
use proto::ipcp::AuthorityAct;

use super::*;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A layer of `a` with these pools.
fn pooled(net: &mut Net, pools: Option<&[&str]>) {
    let ask = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: pools.map(nets),
        cert_life: None,
        passphrase: None,
        shim_udp: None,
    };
    let answer = net.ask("a", Command::Bootstrap(ask));
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
}

fn prefixes(net: &mut Net, at: &'static str) -> Vec<String> {
    status(net, at).prefixes
}

fn rejoin(net: &mut Net, name: &'static str) {
    let files = net.node(name).files.clone();
    net.boot(name, files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5_000,
    };
    assert!(net.ask(name, Command::Enroll(rejoin)).is_ok());
    net.seconds(2);
}

#[test]
fn who_joins_has_an_address_of_each_pool_that_everybody_knows() {
    let mut net = Net::new(&["a", "b", "c"]);
    pooled(&mut net, Some(&["10.7.0.0/24", "fd07::/64"]));
    join(&mut net, "a", "b");
    rejoin(&mut net, "a");
    join(&mut net, "a", "c");
    net.seconds(2);
    assert_eq!(prefixes(&mut net, "a"), ["10.7.0.1/32", "fd07::1/128"]);
    let members = status(&mut net, "b").members;
    let c = members.iter().find(|m| m.name == "c").unwrap();
    assert_eq!(c.prefixes, ["10.7.0.3/32", "fd07::3/128"]);
}

#[test]
fn pools_that_nobody_named_are_of_both_families_and_the_first_member_is_the_first_in_them() {
    let mut net = Net::new(&["a", "b"]);
    pooled(&mut net, None);
    join(&mut net, "a", "b");
    let (a, b) = (prefixes(&mut net, "a"), prefixes(&mut net, "b"));
    assert!(a[0].starts_with("10.") && a[0].ends_with(".1/32"), "{a:?}");
    assert!(a[1].starts_with("fd") && a[1].ends_with("::1/128"), "{a:?}");
    assert_eq!(b[0], a[0].replace(".1/32", ".2/32"));
    assert_eq!(b[1], a[1].replace("::1/128", "::2/128"));
}

#[test]
fn two_that_issue_and_do_not_see_each_other_give_no_address_twice() {
    let mut net = Net::new(&["a", "b", "c", "d", "e"]);
    pooled(&mut net, Some(&["10.7.0.0/24"]));
    join(&mut net, "a", "b");
    net.seconds(1);
    let delegate = AuthorityAct::Delegate(label("b"), Vec::new());
    let answer = net.ask("a", Command::Authority(delegate));
    assert_eq!(answer, Ok(Answer::Ok));
    net.seconds(2);
    for (one, other) in [("a", "b"), ("a", "c"), ("a", "d"), ("b", "e")] {
        net.cut(one, other);
    }
    net.seconds(60);
    join(&mut net, "b", "c");
    join(&mut net, "a", "e");
    rejoin(&mut net, "b");
    net.seconds(20);
    join(&mut net, "b", "d");
    assert_eq!(prefixes(&mut net, "c"), ["10.7.0.249/32"]);
    assert_eq!(prefixes(&mut net, "d"), ["10.7.0.250/32"]);
    assert_eq!(prefixes(&mut net, "e"), ["10.7.0.3/32"]);
    let from = |net: &mut Net, at| status(net, at).trust.unwrap().pools;
    assert_eq!(from(&mut net, "a"), ["10.7.0.0/24"]);
    assert_eq!(from(&mut net, "b"), ["10.7.0.248/29"]);
    assert_eq!(from(&mut net, "c"), Vec::<String>::new());
}
