//! The root is changed while everything stands: all renew in between, and who doesn't is out and knows why.

use proto::QosSpec;
use proto::ipcp::{AuthorityAct, Rollover, State};
use proto::irm::LayerTrust;

use super::flows::{flow, read, register, write};
use super::*;

/// A line `a`–`b`–`c` that `a` began, whose certificates live for ten minutes.
fn line() -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    let ask = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: Some(Duration::from_secs(600)),
        passphrase: None,
        shim_udp: None,
    };
    net.ask("a", Command::Bootstrap(ask)).unwrap();
    join(&mut net, "a", "b");
    net.seconds(1);
    join(&mut net, "a", "c");
    net.seconds(2);
    net
}

fn act(net: &mut Net, at: &'static str, act: AuthorityAct) -> Result<Answer, Reason> {
    net.ask(at, Command::Authority(act))
}

fn begin(net: &mut Net, ends: Option<u64>) -> Result<Answer, Reason> {
    let begin = Rollover::Begin(ends.map(Duration::from_secs));
    act(net, "a", AuthorityAct::Rollover(begin))
}

fn finish(net: &mut Net, force: bool) -> Result<Answer, Reason> {
    act(net, "a", AuthorityAct::Rollover(Rollover::Finish { force }))
}

fn trust(net: &mut Net, at: &'static str) -> LayerTrust {
    status(net, at).trust.unwrap()
}

fn members(net: &mut Net, at: &'static str) -> Vec<String> {
    let members = status(net, at).members;
    members.into_iter().map(|m| m.name).collect()
}

fn restart(net: &mut Net, name: &'static str) {
    let files = net.node(name).files.clone();
    net.boot(name, files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.ask(name, Command::Enroll(rejoin)).unwrap();
}

/// The flow 1 from `a` to `c` carries this.
fn carries(net: &mut Net, byte: u8) {
    write(net, "a", 1, &[&[byte]]);
    assert_eq!(read(net, "c", 1), [vec![byte]], "{byte}");
}

/// Lets members renew, and the flow carry something all the while.
fn busy(net: &mut Net, seconds: u8) {
    for second in 0..seconds {
        net.seconds(1);
        carries(net, second);
    }
}

#[test]
fn the_root_is_changed_while_flows_stand_and_all_members_renew() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::BEST);
    let first = trust(&mut net, "c").roots;
    assert_eq!(first.len(), 1);
    begin(&mut net, None).unwrap();
    begin(&mut net, None).unwrap();
    net.run(Duration::from_millis(200));
    for at in ["a", "b", "c"] {
        let roots = trust(&mut net, at).roots;
        assert_eq!(roots.len(), 2, "{at}");
        assert_eq!(roots[1].fingerprint, first[0].fingerprint, "{at}");
        assert!(roots[1].ends && !roots[0].ends, "{at}");
    }
    let early = finish(&mut net, false).unwrap_err();
    assert_eq!(early.code, Code::Conflict);
    assert!(early.text.starts_with("b, c have certificates"), "{early}");
    busy(&mut net, 60);
    for at in ["a", "b", "c"] {
        assert!(!trust(&mut net, at).own_ends, "{at}");
    }
    assert_eq!(trust(&mut net, "a").waiting, [""; 0]);
    let warnings = status(&mut net, "a").warnings.join(" ");
    assert!(warnings.contains("rollover ovl --finish"), "{warnings}");
    finish(&mut net, false).unwrap();
    finish(&mut net, false).unwrap();
    // Long enough for keys of links and pairs to change, and for the next renewals.
    busy(&mut net, 240);
    busy(&mut net, 240);
    for at in ["a", "b", "c"] {
        let roots = trust(&mut net, at).roots;
        assert_eq!(roots.len(), 1, "{at}");
        assert_ne!(roots[0].fingerprint, first[0].fingerprint, "{at}");
        assert_eq!(members(&mut net, at), ["a", "b", "c"], "{at}");
        let warnings = status(&mut net, at).warnings;
        assert!(warnings.is_empty(), "{at}: {warnings:?}");
    }
    // All start anew with what they have on disk, and somebody else joins.
    for name in ["a", "b", "c"] {
        restart(&mut net, name);
    }
    net.seconds(5);
    net.boot("d", Files::new());
    net.cut("a", "d");
    join(&mut net, "a", "d");
    net.seconds(2);
    assert_eq!(members(&mut net, "d"), ["a", "b", "c", "d"]);
    assert_eq!(members(&mut net, "c"), ["a", "b", "c", "d"]);
}

#[test]
fn who_comes_back_while_two_roots_are_believed_is_let_in_and_renews() {
    let mut net = line();
    net.cut("b", "c");
    net.seconds(3);
    begin(&mut net, None).unwrap();
    net.seconds(60);
    assert!(!trust(&mut net, "b").own_ends);
    // It knows nothing of the new root, under which its neighbour's certificate is by now.
    restart(&mut net, "c");
    assert_eq!(trust(&mut net, "c").roots.len(), 1);
    net.mend("b", "c");
    net.seconds(90);
    assert_eq!(members(&mut net, "c"), ["a", "b", "c"]);
    let c = trust(&mut net, "c");
    assert_eq!((c.roots.len(), c.own_ends), (2, false));
    // Nor did the holder forget anything when it starts anew in between.
    restart(&mut net, "a");
    net.seconds(5);
    finish(&mut net, false).unwrap();
    net.seconds(5);
    for at in ["a", "b", "c"] {
        assert_eq!(trust(&mut net, at).roots.len(), 1, "{at}");
        assert_eq!(members(&mut net, at), ["a", "b", "c"], "{at}");
    }
}

#[test]
fn who_was_away_all_the_while_is_out_and_its_name_is_free() {
    let mut net = line();
    net.cut("b", "c");
    net.seconds(3);
    begin(&mut net, None).unwrap();
    net.seconds(60);
    let refused = finish(&mut net, false).unwrap_err();
    assert!(refused.text.starts_with("c have certificates"), "{refused}");
    assert_eq!(trust(&mut net, "a").waiting, ["c"]);
    finish(&mut net, true).unwrap();
    net.seconds(5);
    net.mend("b", "c");
    net.seconds(60);
    for at in ["a", "b"] {
        assert_eq!(members(&mut net, at), ["a", "b"], "{at}");
        let links = status(&mut net, at).links;
        let c = links.iter().find(|l| l.member == "c" && l.state == "up");
        assert!(c.is_none(), "{at}: {links:?}");
    }
    let links = status(&mut net, "c").links;
    assert!(links.iter().all(|l| l.state != "up"), "{links:?}");
    net.boot("c", Files::new());
    join(&mut net, "a", "c");
    net.seconds(2);
    assert_eq!(members(&mut net, "b"), ["a", "b", "c"]);
}

#[test]
fn who_hears_of_it_and_cannot_renew_is_warned_before_and_told_when_it_is_out() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "b", "c", "server", 2, QosSpec::RAW);
    begin(&mut net, Some(300)).unwrap();
    net.run(Duration::from_millis(200));
    // Both have heard. Nothing passes between `b` and `c` until `b` has renewed, and then nothing between `a` and `b`.
    assert_eq!(trust(&mut net, "c").roots.len(), 2);
    blocks(&mut net, "b", "c");
    while trust(&mut net, "b").own_ends {
        net.seconds(1);
    }
    assert!(trust(&mut net, "c").own_ends);
    blocks(&mut net, "a", "b");
    net.seconds(120);
    let warnings = status(&mut net, "c").warnings.join(" ");
    assert!(
        warnings.contains("the certificate of c is of the one before: it is out in"),
        "{warnings}"
    );
    assert!(
        warnings.contains("it wasn't renewed: "),
        "the reason is missing: {warnings}"
    );
    // The holder ends it by itself at the time that was said.
    net.seconds(240);
    assert_eq!(trust(&mut net, "a").roots.len(), 1);
    assert_eq!(trust(&mut net, "b").roots.len(), 2);
    net.tamper = None;
    net.seconds(30);
    assert_eq!(members(&mut net, "b"), ["a", "b"]);
    let reason = net.node("b").closed[&FlowId(2)].clone();
    assert_eq!(reason.code, Code::Denied, "{reason}");
    let told = net.node("c").events.iter().any(|e| {
        matches!(e, Event::State(State::Down, text) if text.contains("didn't renew its certificate"))
    });
    assert!(told);
    join_again(&mut net, "c");
    assert_eq!(members(&mut net, "a"), ["a", "b", "c"]);
}

/// Loses all that is sent between two of them, and nothing else.
fn blocks(net: &mut Net, one: &'static str, other: &'static str) {
    net.tamper = Some(Box::new(move |from, to, pdu| {
        if [(one, other), (other, one)].contains(&(from, to)) {
            pdu.clear();
        }
    }));
}

fn join_again(net: &mut Net, name: &'static str) {
    join(net, "a", name);
    net.seconds(2);
}

#[test]
fn invitations_of_before_and_of_between_let_in_whoever_is_dialled() {
    let mut net = line();
    let before = invite(&mut net, "a", "d").unwrap();
    let late = invite(&mut net, "a", "f").unwrap();
    for name in ["d", "e", "f"] {
        net.boot(name, Files::new());
        net.cut("a", name);
        net.cut("c", name);
    }
    begin(&mut net, None).unwrap();
    let between = invite(&mut net, "a", "e").unwrap();
    net.run(Duration::from_millis(100));
    // `b` still has a certificate of the root before.
    assert!(trust(&mut net, "b").own_ends);
    enroll(&mut net, "e", between).unwrap();
    while trust(&mut net, "b").own_ends {
        net.seconds(1);
    }
    // And now one of the new root.
    enroll(&mut net, "d", before).unwrap();
    net.seconds(60);
    let all = ["a", "b", "c", "d", "e"];
    for at in all {
        assert_eq!(members(&mut net, at), all, "{at}");
        assert!(!trust(&mut net, at).own_ends, "{at}");
    }
    finish(&mut net, false).unwrap();
    net.seconds(5);
    for at in all {
        assert_eq!(members(&mut net, at), all, "{at}");
    }
    // What names a root that is believed no more lets nobody in.
    let reason = enroll(&mut net, "f", late).unwrap_err();
    assert_eq!(reason.code, Code::TimedOut, "{reason}");
}

#[test]
fn members_that_issue_go_on_and_what_was_revoked_and_ruled_stays_so() {
    let mut net = line();
    let delegate = AuthorityAct::Delegate(label("b"), Vec::new());
    act(&mut net, "a", delegate).unwrap();
    net.seconds(1);
    net.boot("d", Files::new());
    net.cut("a", "d");
    join(&mut net, "b", "d");
    net.boot("x", Files::new());
    join(&mut net, "a", "x");
    net.seconds(2);
    let thief = net.node("x").files.clone();
    act(&mut net, "a", AuthorityAct::Revoke(label("x"))).unwrap();
    let rule = "allow register,accept,allocate * by any\n";
    act(&mut net, "a", AuthorityAct::Policy(rule.to_owned())).unwrap();
    begin(&mut net, None).unwrap();
    net.seconds(60);
    finish(&mut net, false).unwrap();
    net.seconds(5);
    for at in ["a", "b", "c", "d"] {
        assert_eq!(members(&mut net, at), ["a", "b", "c", "d"], "{at}");
        let machine = &net.node(at).machine;
        let policy = machine.current_decree(crate::decree::Kind::POLICY);
        let text = String::from_utf8_lossy(policy.unwrap()).into_owned();
        assert!(text.ends_with(rule), "{at}: {text}");
    }
    // It still issues, and renews what it has issued.
    net.boot("e", Files::new());
    net.cut("a", "e");
    join(&mut net, "b", "e");
    net.seconds(600);
    assert_eq!(members(&mut net, "a"), ["a", "b", "c", "d", "e"]);
    // One that joins now hears of those that were revoked before.
    net.boot("x", thief);
    net.cut("x", "a");
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    net.ask("x", Command::Enroll(rejoin)).unwrap();
    net.command("x", Command::Connect(label("e"), None));
    net.seconds(10);
    assert!(status(&mut net, "x").links.iter().all(|l| l.state != "up"));
}

#[test]
fn only_the_holder_changes_the_root_and_an_export_of_before_is_refused() {
    let mut net = line();
    let pass = b"correct horse battery".to_vec();
    let export = |net: &mut Net| match act(net, "a", AuthorityAct::Export(pass.clone())) {
        Ok(Answer::Exported(file)) => file,
        other => panic!("{other:?}"),
    };
    let import = |file: &[u8]| AuthorityAct::Import {
        file: file.to_vec(),
        passphrase: pass.clone(),
        sealed: false,
    };
    let before = export(&mut net);
    let change = AuthorityAct::Rollover(Rollover::Begin(None));
    let refused = act(&mut net, "b", change).unwrap_err();
    assert_eq!(refused.code, Code::Denied);
    begin(&mut net, None).unwrap();
    net.seconds(1);
    let refused = act(&mut net, "b", import(&before)).unwrap_err();
    assert_eq!(refused.code, Code::Conflict, "{refused}");
    assert!(
        refused.text.contains("before the root was changed"),
        "{refused}"
    );
    // What is exported now has both keys: another can end it.
    let between = export(&mut net);
    act(&mut net, "b", import(&between)).unwrap();
    net.seconds(60);
    let finish = AuthorityAct::Rollover(Rollover::Finish { force: false });
    act(&mut net, "b", finish).unwrap();
    net.seconds(2);
    assert_eq!(members(&mut net, "c"), ["a", "b", "c"]);
    assert_eq!(trust(&mut net, "c").roots.len(), 1);
    let refused = act(&mut net, "b", import(&before)).unwrap_err();
    assert_eq!(refused.code, Code::Conflict, "{refused}");
}
