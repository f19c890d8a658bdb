//! Who gets in, through whom, and who doesn't.

use proto::wire;

use super::*;
use crate::crypt::Invitation;

fn links_up(net: &mut Net, name: &'static str) -> Vec<String> {
    status(net, name)
        .links
        .into_iter()
        .filter(|l| l.state == "up")
        .map(|l| l.member)
        .collect()
}

#[test]
fn the_first_member_lets_another_in_by_an_invitation() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(2);
    for (name, other) in [("a", "b"), ("b", "a")] {
        let status = status(&mut net, name);
        assert_eq!(status.state, "up");
        let up: Vec<_> = status.links.iter().filter(|l| l.state == "up").collect();
        assert_eq!(up.len(), 1);
        assert_eq!(up[0].member, other);
        assert!(
            (3_000..6_000).contains(&up[0].rtt_us),
            "{} µs",
            up[0].rtt_us
        );
        assert_eq!(status.members.len(), 2);
        assert!(status.members.iter().all(|m| m.reachable));
    }
}

#[test]
fn a_member_joins_through_one_that_is_not_the_issuer() {
    let mut net = Net::new(&["a", "b", "d"]);
    net.cut("b", "d");
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    net.seconds(1);
    join(&mut net, "b", "d");
    net.seconds(1);
    assert_eq!(links_up(&mut net, "d"), ["a"]);
    let status = status(&mut net, "d");
    assert_eq!(status.members.len(), 3);
    assert!(
        status
            .routes
            .iter()
            .any(|r| r.member == "b" && r.next_hop == "a")
    );
}

/// Lets time pass while what `b` sends to `a` takes as long as `delay` says of the time that has passed; does `then` after 11 s.
fn delayed(net: &mut Net, millis: u64, delay: impl Fn(u64) -> u64, then: impl Fn(&mut Net)) {
    type Late = Vec<(Duration, Vec<u8>)>;
    let kept = std::rc::Rc::new(std::cell::RefCell::new(Late::new()));
    let list = kept.clone();
    let at = |ms: u64| Duration::from_millis(ms);
    let clock = std::rc::Rc::new(std::cell::Cell::new(0));
    let passed = clock.clone();
    let late: Vec<u64> = (0..millis).map(delay).collect();
    net.tamper = Some(Box::new(move |from, to, pdu| {
        if (from, to) == ("b", "a") {
            let now = passed.get();
            let due = at(now + late[now as usize]);
            list.borrow_mut().push((due, std::mem::take(pdu)));
        }
    }));
    let lower = *net.node("a").machine.adjacent.values().next().unwrap();
    for ms in 0..millis {
        clock.set(ms);
        if ms == 11_000 {
            then(net);
        }
        net.run(at(1));
        let (due, rest) = kept.take().into_iter().partition(|(due, _)| *due <= at(ms));
        let due: Late = due;
        kept.replace(rest);
        for (_, pdu) in due {
            net.input("a", Input::Lower(lower, train(&pdu)));
        }
    }
    net.tamper = None;
}

#[test]
fn an_answer_that_takes_longer_than_the_joiner_waits_is_taken_all_the_same() {
    let mut net = Net::new(&["a", "b", "d"]);
    net.cut("b", "d");
    bootstrap(&mut net, "b");
    join(&mut net, "b", "a");
    let url = invite(&mut net, "b", "d").unwrap();
    let enrol = |net: &mut Net| {
        let ask = Enroll {
            entry: Entry::Invitation(url.clone()),
            over: vec![label("net")],
            timeout_ms: 60_000,
        };
        net.command("d", Command::Enroll(ask));
    };
    // Slowly enough for hellos to go on.
    delayed(&mut net, 25_000, |ms| (ms / 3).min(3_500), enrol);
    let answer = net.node("d").answers.remove(&1);
    assert!(
        matches!(answer, Some(Ok(Answer::Configured(_)))),
        "{answer:?}"
    );
}

#[test]
fn a_request_goes_from_neighbour_to_neighbour_and_needs_no_keys_with_the_issuer() {
    let mut net = Net::new(&["a", "b", "c", "d"]);
    for (one, other) in [("a", "c"), ("a", "d"), ("b", "d")] {
        net.cut(one, other);
    }
    bootstrap(&mut net, "a");
    for (via, member) in [("a", "b"), ("b", "c"), ("c", "d")] {
        let url = invite(&mut net, "a", member).unwrap();
        let invitation = Invitation::parse(&url, net.now().wall).unwrap();
        let url = invitation.through(vec![label(via)]).to_string();
        let answer = enroll(&mut net, member, url);
        assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
        net.seconds(1);
    }
    let a = net.node("a").machine.me.as_ref().unwrap().address;
    assert!(!net.node("c").machine.peers.contains_key(&a));
    let relayed = |net: &mut Net, at| status(net, at).counters.get("enrol.relayed").copied();
    assert_eq!(relayed(&mut net, "b"), Some(2));
    assert_eq!(relayed(&mut net, "c"), Some(1));
    for at in ["b", "c"] {
        assert_eq!(net.node(at).machine.relays.deadline(), None, "{at}");
    }
}

#[test]
fn a_request_that_goes_in_a_circle_is_refused() {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    bootstrap(&mut net, "a");
    for member in ["b", "c"] {
        join(&mut net, "a", member);
        net.seconds(1);
    }
    let relay = |hops| wire::EnrolRelay {
        id: 7,
        request: Some(wire::EnrolRequest {
            issuer: "a".to_owned(),
            ..wire::EnrolRequest::default()
        }),
        exporter: vec![0; 32],
        hops,
    };
    let before = status(&mut net, "b").counters["enrol.relayed"];
    let now = net.now();
    let machine = &mut net.node("b").machine;
    let links = machine.links.values();
    let of = |l: &crate::unicast::link::Link| (l.peer(), l.lower);
    let lowers: BTreeMap<_, _> = links.map(of).collect();
    let me = machine.me.as_ref().unwrap();
    let (a, c) = (me.address_of(&label("a")), me.address_of(&label("c")));
    // From the very member that it would go to, and after too many.
    machine.enrol_relay(now, lowers[&Some(a)], relay(0));
    machine.enrol_relay(now, lowers[&Some(c)], relay(64));
    assert_eq!(machine.relays.deadline(), None);
    machine.enrol_relay(now, lowers[&Some(c)], relay(63));
    assert!(machine.relays.deadline().is_some());
    assert_eq!(status(&mut net, "b").counters["enrol.relayed"], before + 1);
}

#[test]
fn only_the_issuer_invites_and_the_others_say_who_that_is() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    let reason = invite(&mut net, "b", "c").unwrap_err();
    assert_eq!(reason.code, Code::Denied);
    assert!(reason.text.contains("member a"), "{reason}");
}

#[test]
fn an_invitation_works_once_and_for_its_name_only() {
    let mut net = Net::new(&["a", "b", "c"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    assert_eq!(
        enroll(&mut net, "c", url.clone()).unwrap_err().code,
        Code::Conflict
    );
    assert!(enroll(&mut net, "b", url.clone()).is_ok());
    // The same again is no news.
    assert!(enroll(&mut net, "b", url.clone()).is_ok());
    net.boot("b", Files::new());
    let reason = enroll(&mut net, "b", url).unwrap_err();
    assert!(!reason.text.is_empty());
    assert_eq!(status(&mut net, "b").state, "down");
}

#[test]
fn an_expired_or_altered_invitation_is_refused_at_once() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    let before = net.now().mono;
    for cut in [0, 1, url.len() / 2, url.len() - 1] {
        let altered: String = url
            .char_indices()
            .map(|(i, c)| if i == cut { '~' } else { c })
            .collect();
        assert!(enroll(&mut net, "b", altered).is_err());
    }
    assert!(net.now().mono - before < Duration::from_secs(1));
    // The issuer decides; only what no clock that is ten minutes wrong can explain isn't even asked.
    for (wait, asked) in [(601, true), (1_200, false)] {
        net.seconds(wait);
        net.trace.clear();
        let late = enroll(&mut net, "b", url.clone()).unwrap_err();
        assert!(late.text.contains("expired"), "{late}");
        assert_eq!(!net.trace.is_empty(), asked, "{late}");
    }
}

#[test]
fn a_joiner_that_reaches_nobody_says_so_in_time() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let url = invite(&mut net, "a", "b").unwrap();
    net.cut("a", "b");
    let before = net.now().mono;
    let reason = enroll(&mut net, "b", url.clone()).unwrap_err();
    assert_eq!(reason.code, Code::TimedOut);
    assert!(reason.text.contains("a is not there"), "{reason}");
    assert!(net.now().mono - before < Duration::from_secs(11));
    net.mend("a", "b");
    assert!(enroll(&mut net, "b", url).is_ok());
}

#[test]
fn a_member_that_restarts_rejoins_with_what_it_kept() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    for name in ["b", "a"] {
        let files = net.node(name).files.clone();
        net.boot(name, files);
        let rejoin = Enroll {
            entry: Entry::Rejoin,
            over: vec![label("net")],
            timeout_ms: 5_000,
        };
        assert!(matches!(
            net.ask(name, Command::Enroll(rejoin)),
            Ok(Answer::Configured(_))
        ));
        net.seconds(3);
        assert_eq!(
            (links_up(&mut net, "a"), links_up(&mut net, "b")),
            (vec!["b".to_owned()], vec!["a".to_owned()]),
            "{name}"
        );
    }
    // The authority came back with a.
    assert!(invite(&mut net, "a", "c").is_ok());
}

#[test]
fn the_same_bootstrap_again_is_fine_and_another_is_a_conflict() {
    let mut net = Net::new(&["a"]);
    bootstrap(&mut net, "a");
    bootstrap(&mut net, "a");
    let other = Bootstrap {
        layer: label("other"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: None,
        passphrase: None,
        shim_udp: None,
    };
    assert_eq!(
        net.ask("a", Command::Bootstrap(other.clone()))
            .unwrap_err()
            .code,
        Code::Conflict
    );
    let files = net.node("a").files.clone();
    net.boot("a", files);
    assert_eq!(
        net.ask("a", Command::Bootstrap(other)).unwrap_err().code,
        Code::Conflict
    );
    bootstrap(&mut net, "a");
    // Its incarnation has risen, lest the others take its old words for newer.
    assert_eq!(net.node("a").files["incarnation"].as_slice(), b"2\n");
}

#[test]
fn a_file_cut_at_any_byte_is_named_and_never_replaced() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(2);
    let again = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: None,
        passphrase: None,
        shim_udp: None,
    };
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5_000,
    };
    for (name, file, command) in [
        ("a", "identity", Command::Bootstrap(again.clone())),
        ("a", "authority", Command::Bootstrap(again)),
        ("a", "incarnation", Command::Enroll(rejoin.clone())),
        ("b", "identity", Command::Enroll(rejoin.clone())),
        ("b", "incarnation", Command::Enroll(rejoin.clone())),
        ("b", "neighbours", Command::Enroll(rejoin)),
    ] {
        let whole = net.node(name).files.clone();
        for end in 0..whole[file].len() {
            let mut files = whole.clone();
            files.get_mut(file).unwrap().truncate(end);
            net.boot(name, files.clone());
            let refused = net.ask(name, command.clone());
            let Err(reason) = refused else {
                panic!("{file} of {name}, cut at {end}, was taken")
            };
            assert!(
                reason.text.contains(file) && reason.text.contains("restore"),
                "{reason}"
            );
            assert_eq!(
                net.node(name).files,
                files,
                "{file} of {name}, cut at {end}"
            );
        }
        net.boot(name, whole);
        net.ask(name, command).unwrap();
    }
}

#[test]
fn a_link_whose_handshake_outlasts_the_joining_is_made_anew_as_a_members() {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    let over = || vec![label("net"), label("wire")];
    let url = invite(&mut net, "a", "b").unwrap();
    let ask = Enroll {
        entry: Entry::Invitation(url),
        over: over(),
        timeout_ms: 10_000,
    };
    net.command("b", Command::Enroll(ask));
    while net.node("b").machine.links.len() < 2 {
        net.run(Duration::from_millis(1));
    }
    net.dark.insert(label("wire"));
    while net.node("b").machine.me.is_none() {
        net.run(Duration::from_millis(1));
    }
    net.dark.clear();
    net.seconds(3);
    let up = net.node("b").machine.links.values();
    assert_eq!(up.filter(|link| link.up().is_some()).count(), 2);
}
