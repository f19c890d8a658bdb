//! Certificates renew themselves, from whoever may issue, and nothing that stands is touched.

use proto::QosSpec;
use proto::ipcp::AuthorityAct;

use super::flows::{flow, read, register, write};
use super::*;

/// A layer whose certificates live for ten minutes, dated back by fifteen.
fn short_lived(net: &mut Net, first: &'static str) {
    let ask = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: Some(Duration::from_secs(600)),
        passphrase: None,
        shim_udp: None,
    };
    net.ask(first, Command::Bootstrap(ask)).unwrap();
}

/// A line `a`–`b`–`c` that `a` began.
fn line() -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    net.cut("a", "c");
    short_lived(&mut net, "a");
    join(&mut net, "a", "b");
    net.seconds(1);
    join(&mut net, "a", "c");
    net.seconds(2);
    net
}

fn ends(net: &mut Net, at: &'static str, of: &str) -> u64 {
    let members = status(net, at).members;
    members.iter().find(|m| m.name == of).unwrap().cert_expires
}

fn issuer(net: &mut Net, at: &'static str, of: &str) -> String {
    let mut members = status(net, at).members;
    let at = members.iter().position(|m| m.name == of).unwrap();
    members.swap_remove(at).issuer
}

fn act(net: &mut Net, at: &'static str, act: AuthorityAct) -> Result<Answer, Reason> {
    net.ask(at, Command::Authority(act))
}

fn warned(net: &mut Net, at: &'static str) -> usize {
    let ends =
        |e: &&Event| matches!(e, Event::Notice(n) if n.kind == "certificate.ends" && n.warning);
    net.node(at).events.iter().filter(ends).count()
}

#[test]
fn certificates_renew_themselves_over_the_layer_and_no_flow_is_interrupted() {
    let mut net = line();
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::BEST);
    let first: Vec<u64> = ["a", "b", "c"].map(|m| ends(&mut net, "a", m)).to_vec();
    let files = net.node("c").files["identity"].clone();
    for minute in 0..60u8 {
        net.seconds(60);
        write(&mut net, "a", 1, &[&[minute]]);
        assert_eq!(read(&mut net, "c", 1), [vec![minute]], "minute {minute}");
    }
    for (member, first) in ["a", "b", "c"].into_iter().zip(first) {
        for at in ["a", "b", "c"] {
            let now = ends(&mut net, at, member);
            assert!(now >= first + 2400, "{member} at {at}: {first}, {now}");
        }
        assert_eq!(warned(&mut net, member), 0, "{member}");
    }
    assert_ne!(net.node("c").files["identity"], files, "it is kept on disk");
    let counters = status(&mut net, "c").counters;
    assert!((6..=12).contains(&counters["renew.done"]), "{counters:?}");
}

#[test]
fn an_issuer_that_is_down_for_a_while_is_asked_again_and_nobody_is_harmed() {
    let mut net = line();
    let first = ends(&mut net, "c", "c");
    net.seconds(300);
    net.cut("a", "b");
    // People have been warned by then.
    net.seconds(235);
    assert_eq!(ends(&mut net, "c", "c"), first);
    let warnings = status(&mut net, "c").warnings.join(" ");
    assert!(
        warnings.contains("the certificate of c expires in"),
        "{warnings}"
    );
    assert!(warned(&mut net, "c") >= 1);
    net.mend("a", "b");
    net.seconds(120);
    for member in ["b", "c"] {
        assert!(ends(&mut net, "c", member) > first + 300, "{member}");
    }
    let warnings = status(&mut net, "c").warnings.join(" ");
    assert!(!warnings.contains("certificate"), "{warnings}");
}

#[test]
fn a_member_that_may_issue_invites_and_renews_while_the_root_is_away() {
    let mut net = line();
    let url = invite(&mut net, "b", "d");
    assert_eq!(url.unwrap_err().code, Code::Denied);
    let delegate = AuthorityAct::Delegate(label("b"), Vec::new());
    act(&mut net, "a", delegate.clone()).unwrap();
    net.seconds(1);
    net.cut("a", "b");
    net.seconds(3);
    net.boot("d", Files::new());
    net.cut("a", "d");
    join(&mut net, "b", "d");
    net.seconds(2);
    assert_eq!(issuer(&mut net, "c", "d"), "b");
    assert_eq!(issuer(&mut net, "c", "c"), "strata ovl authority");
    net.seconds(560);
    assert_eq!(issuer(&mut net, "d", "c"), "b", "it renewed where it could");
    net.mend("a", "b");
    net.seconds(120);
    let members: Vec<String> = status(&mut net, "a")
        .members
        .into_iter()
        .map(|m| m.name)
        .collect();
    assert_eq!(members, ["a", "b", "c", "d"]);
    // Neither gives away what the other has given.
    for (at, member) in [("a", "d"), ("b", "c")] {
        let refused = invite(&mut net, at, member);
        assert_eq!(
            refused.unwrap_err().code,
            Code::Conflict,
            "{member} at {at}"
        );
    }
    act(&mut net, "a", AuthorityAct::Undelegate(label("b"))).unwrap();
    net.seconds(1);
    assert_eq!(invite(&mut net, "b", "e").unwrap_err().code, Code::Denied);
    // What it has issued counts until it ends, and is renewed elsewhere.
    let links = status(&mut net, "d").links;
    assert!(links.iter().any(|l| l.state == "up"), "{links:?}");
    net.seconds(560);
    assert_eq!(issuer(&mut net, "a", "d"), "strata ovl authority");
    assert_eq!(issuer(&mut net, "a", "c"), "strata ovl authority");
}

#[test]
fn only_the_root_delegates_and_a_revoked_issuer_takes_along_what_it_has_issued() {
    let mut net = line();
    act(
        &mut net,
        "a",
        AuthorityAct::Delegate(label("b"), Vec::new()),
    )
    .unwrap();
    net.seconds(1);
    let further = AuthorityAct::Delegate(label("c"), Vec::new());
    assert_eq!(act(&mut net, "b", further).unwrap_err().code, Code::Denied);
    let unknown = AuthorityAct::Delegate(label("x"), Vec::new());
    assert_eq!(
        act(&mut net, "a", unknown).unwrap_err().code,
        Code::NotFound
    );
    // One that issues revokes whom it likes, but not those above it.
    net.boot("d", Files::new());
    join(&mut net, "b", "d");
    net.seconds(1);
    let root = AuthorityAct::Revoke(label("a"));
    assert_eq!(act(&mut net, "b", root).unwrap_err().code, Code::Denied);
    act(&mut net, "b", AuthorityAct::Revoke(label("c"))).unwrap();
    net.seconds(1);
    assert!(status(&mut net, "a").members.iter().all(|m| m.name != "c"));
    act(&mut net, "a", AuthorityAct::Revoke(label("b"))).unwrap();
    net.seconds(3);
    let members: Vec<String> = status(&mut net, "a")
        .members
        .into_iter()
        .map(|m| m.name)
        .collect();
    assert_eq!(members, ["a"]);
    // The names are free at the root, whoever gave them.
    for member in ["b", "c", "d"] {
        let url = invite(&mut net, "a", member);
        assert!(url.is_ok(), "{member}: {url:?}");
    }
}

#[test]
fn the_authority_moves_to_another_member_by_its_export_and_nowhere_else() {
    let mut net = line();
    let pass = b"correct horse battery".to_vec();
    let exported = act(&mut net, "a", AuthorityAct::Export(pass.clone())).unwrap();
    let Answer::Exported(file) = exported else {
        panic!("{exported:?}")
    };
    let import = |passphrase: &[u8]| AuthorityAct::Import {
        file: file.clone(),
        passphrase: passphrase.to_vec(),
        sealed: false,
    };
    let refused = act(&mut net, "b", AuthorityAct::Export(pass.clone()));
    assert_eq!(refused.unwrap_err().code, Code::Denied);
    let wrong = act(&mut net, "b", import(b"correct horse batterz"));
    assert_eq!(wrong.unwrap_err().code, Code::Denied);
    // The first host is gone for good.
    net.cut("a", "b");
    net.seconds(3);
    act(&mut net, "b", import(&pass)).unwrap();
    net.seconds(1);
    net.boot("d", Files::new());
    net.cut("a", "d");
    join(&mut net, "b", "d");
    act(&mut net, "b", AuthorityAct::Revoke(label("a"))).unwrap();
    net.seconds(560);
    assert!(ends(&mut net, "c", "c") > 1_800_000_700, "it renewed at b");
    let members: Vec<String> = status(&mut net, "c")
        .members
        .into_iter()
        .map(|m| m.name)
        .collect();
    assert_eq!(members, ["b", "c", "d"]);
    // That of another layer is none of this one.
    let mut other = Net::new(&["x"]);
    bootstrap(&mut other, "x");
    let refused = act(&mut other, "x", import(&pass));
    assert_eq!(refused.unwrap_err().code, Code::Conflict);
}

#[test]
fn each_use_of_an_invitation_is_told_and_kept_in_a_file() {
    let mut net = line();
    let used = |e: &Event| match e {
        Event::Notice(n) if n.kind == "invitation.used" => Some(n.fields[0].1.clone()),
        Event::Notice(_)
        | Event::Done(..)
        | Event::FlowRequest(_)
        | Event::FlowDown(..)
        | Event::Members
        | Event::State(..) => None,
    };
    let told: Vec<String> = net.node("a").events.iter().filter_map(used).collect();
    assert_eq!(told, ["b", "c"]);
    let file = net.node("a").files["audit"].to_vec();
    let file = String::from_utf8(file).unwrap();
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines.len(), 2, "{file}");
    assert!(
        lines[0].starts_with("1800000") && lines[0].ends_with(" b"),
        "{file}"
    );
}

#[test]
fn one_that_issues_revokes_nobody_above_or_beside_it_by_a_lie_about_the_name_of_a_key() {
    let mut net = line();
    for member in ["b", "c"] {
        let delegate = AuthorityAct::Delegate(label(member), Vec::new());
        act(&mut net, "a", delegate).unwrap();
    }
    net.seconds(1);
    let me = net.node("b").machine.me.as_ref().unwrap();
    let lie = |name: &str| crate::decree::Revocation {
        key: *me
            .routing
            .member(me.address_of(&label(name)))
            .unwrap()
            .public_key(),
        member: label("nobody"),
        at: 1,
        until: u64::MAX,
    };
    let lies = crate::decree::Revocation::write(&[lie("a"), lie("c")]);
    let (now, kind) = (net.now(), crate::decree::Kind::REVOKED);
    let said = net.node("b").machine.publish_decree(now, kind, lies);
    said.unwrap();
    net.input("b", Input::Timeout);
    net.seconds(3);
    for at in ["a", "b", "c"] {
        let mut members: Vec<String> = status(&mut net, at)
            .members
            .into_iter()
            .map(|m| m.name)
            .collect();
        members.sort();
        assert_eq!(members, ["a", "b", "c"], "{at}");
    }
    register(&mut net, "c", "server");
    flow(&mut net, "a", "c", "server", 1, QosSpec::BEST);
}
