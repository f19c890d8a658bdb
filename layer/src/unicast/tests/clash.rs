//! Two members that issue give one name, or one prefix, while they don't see each other.

use proto::ipcp::AuthorityAct;

use super::*;

fn given(net: &mut Net, at: &'static str, member: &'static str, prefix: &str) -> String {
    let ask = Invite {
        member: Some(label(member)),
        prefixes: vec![prefix.parse().unwrap()],
        expires_ms: 600_000,
        uses: 1,
        hints: Vec::new(),
        groups: Vec::new(),
    };
    match net.ask(at, Command::Invite(ask)) {
        Ok(Answer::Invitation(url)) => url,
        other => panic!("{other:?}"),
    }
}

/// `a` and `b` issue, and don't see each other.
fn parted() -> Net {
    let mut net = Net::new(&["a", "b"]);
    bootstrap(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    let delegate = AuthorityAct::Delegate(label("b"), Vec::new());
    net.ask("a", Command::Authority(delegate)).unwrap();
    net.seconds(1);
    net.cut("a", "b");
    net.seconds(3);
    net
}

fn warnings(net: &mut Net, at: &'static str) -> String {
    status(net, at).warnings.join("; ")
}

#[test]
fn of_two_members_of_one_name_the_same_one_counts_everywhere_and_the_other_is_told() {
    // The net has one machine of each name: the second one called `c` is known as `d` to it, but calls itself `c`.
    let mut net = parted();
    let (at_a, at_b) = (
        given(&mut net, "a", "c", "10.9.1.0/24"),
        given(&mut net, "b", "c", "10.9.2.0/24"),
    );
    net.boot("c", Files::new());
    net.cut("b", "c");
    enroll(&mut net, "c", at_a).unwrap();
    net.boot_as("d", "c", Files::new());
    net.cut("a", "d");
    net.cut("c", "d");
    enroll(&mut net, "d", at_b).unwrap();
    net.seconds(2);
    let serial = |net: &mut Net, at| {
        let members = status(net, at).members;
        let c = members.into_iter().find(|m| m.name == "c").unwrap();
        c.serial
    };
    let (one, other) = (serial(&mut net, "a"), serial(&mut net, "b"));
    assert_ne!(one, other);
    net.mend("a", "b");
    net.seconds(60);
    let counts = serial(&mut net, "a");
    assert_eq!(serial(&mut net, "b"), counts, "they don't agree");
    let (winner, loser, at_winner, at_loser, lost) = match counts == one {
        true => ("c", "d", "a", "b", other),
        false => ("d", "c", "b", "a", one),
    };
    for at in ["a", "b"] {
        let text = warnings(&mut net, at);
        let wanted = format!("two members of ovl are called c: that with serial {lost}");
        assert!(text.contains(&wanted), "{at}: {text}");
    }
    let up = |net: &mut Net, at| {
        let links = status(net, at).links;
        links.iter().any(|l| l.member == "c" && l.state == "up")
    };
    assert!(up(&mut net, at_winner), "{winner} at {at_winner}");
    assert!(!up(&mut net, at_loser), "{loser} at {at_loser}");
    // It stays so, whoever renews or starts anew.
    let files = net.node(at_winner).files.clone();
    net.boot(at_winner, files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.ask(at_winner, Command::Enroll(rejoin)).unwrap();
    net.seconds(120);
    assert_eq!(serial(&mut net, "a"), counts);
    assert_eq!(serial(&mut net, "b"), counts);
}

#[test]
fn of_two_members_with_one_prefix_status_says_whose_it_is_and_what_to_do() {
    let mut net = parted();
    let (at_a, at_b) = (
        given(&mut net, "a", "c", "10.9.1.0/24"),
        given(&mut net, "b", "d", "10.9.1.0/24"),
    );
    for (name, away, url) in [("c", "b", at_a), ("d", "a", at_b)] {
        net.boot(name, Files::new());
        net.cut(name, away);
        enroll(&mut net, name, url).unwrap();
    }
    net.seconds(2);
    assert_eq!(warnings(&mut net, "a"), "");
    net.mend("a", "b");
    net.seconds(60);
    let wanted = "the prefix 10.9.1.0/24 is granted to c and to d: it is that of c; revoke d and enroll it with another";
    for at in ["a", "b", "c", "d"] {
        assert!(warnings(&mut net, at).contains(wanted), "{at}");
    }
    let revoke = AuthorityAct::Revoke(label("d"));
    net.ask("a", Command::Authority(revoke)).unwrap();
    net.seconds(1);
    for at in ["a", "b", "c"] {
        assert!(!warnings(&mut net, at).contains("10.9.1.0"), "{at}");
    }
}
