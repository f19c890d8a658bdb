//! The policy of a layer: what it denies happens nowhere, whoever does not keep to it.

use proto::ipcp::AuthorityAct;
use proto::irm::PolicyCheck;
use proto::{Name, QosSpec};

use super::super::law::Law;
use super::flows::{allocate, flow, line, register, wait};
use super::*;
use crate::crypt::TlsConfig;

fn policy(net: &mut Net, text: &str) -> Result<Answer, Reason> {
    let answer = net.ask(
        "b",
        Command::Authority(AuthorityAct::Policy(text.to_owned())),
    );
    net.run(Duration::from_millis(200));
    answer
}

fn refused(net: &mut Net, at: &'static str, command: Command) -> Reason {
    let reason = net.ask(at, command).unwrap_err();
    assert_eq!(reason.code, Code::Denied, "{reason}");
    reason
}

fn ask(name: &str, flow: u64) -> Command {
    Command::Allocate(allocate(name, flow, QosSpec::RAW))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const RULES: &str = "allow register,accept svc by member c\nallow allocate svc by member a\n";

#[test]
fn who_may_not_is_refused_with_the_rule_at_its_own_member() {
    let mut net = line();
    assert_eq!(policy(&mut net, RULES), Ok(Answer::Ok));
    register(&mut net, "c", "svc");
    let reason = refused(&mut net, "b", Command::Register(name("svc")));
    assert!(
        reason.text.contains("no rule of policy 1 allows it"),
        "{reason}"
    );
    net.seconds(1);
    flow(&mut net, "a", "c", "svc", 5, QosSpec::RAW);
    refused(&mut net, "b", ask("svc", 6));
    refused(&mut net, "a", ask("other", 7));
    let deny = format!("deny allocate svc by any\n{RULES}");
    policy(&mut net, &deny).unwrap();
    let reason = refused(&mut net, "a", ask("svc", 8));
    let rule = "rule 1 of policy 2 denies it, line 1: deny allocate svc by any";
    assert!(reason.text.contains(rule), "{reason}");
}

#[test]
fn flows_and_names_that_are_no_longer_allowed_go_at_once_and_names_come_back() {
    let mut net = line();
    register(&mut net, "c", "svc");
    register(&mut net, "c", "other");
    net.seconds(1);
    flow(&mut net, "a", "c", "svc", 5, QosSpec::RAW);
    flow(&mut net, "a", "c", "other", 6, QosSpec::RAW);
    policy(&mut net, RULES).unwrap();
    for at in ["a", "c"] {
        let node = net.node(at);
        assert_eq!(node.open.iter().collect::<Vec<_>>(), [&FlowId(5)], "{at}");
        assert_eq!(node.closed[&FlowId(6)].code, Code::Denied);
        assert_eq!(status(&mut net, at).directory.len(), 1, "{at}");
    }
    policy(&mut net, "deny * * by any").unwrap();
    assert!(net.node("a").open.is_empty() && net.node("c").open.is_empty());
    policy(&mut net, "").unwrap();
    net.seconds(1);
    flow(&mut net, "a", "c", "other", 7, QosSpec::RAW);
    assert_eq!(status(&mut net, "b").directory.len(), 2);
}

#[test]
fn a_member_that_does_not_keep_to_the_policy_gains_nothing() {
    let mut net = line();
    policy(&mut net, RULES).unwrap();
    register(&mut net, "c", "svc");
    net.seconds(1);
    net.node("b").machine.me.as_mut().unwrap().law = Law::None;
    // Its name is kept and used by nobody.
    register(&mut net, "b", "svc");
    register(&mut net, "b", "other");
    net.seconds(1);
    for at in ["a", "c"] {
        let directory = status(&mut net, at).directory;
        assert!(directory.iter().all(|e| e.member == "c"), "{directory:?}");
        let denied = status(&mut net, at).counters["drop.name_denied"];
        assert!(denied > 0);
    }
    flow(&mut net, "a", "c", "svc", 5, QosSpec::RAW);
    // It asks for a flow all the same.
    let command = net.command("b", ask("svc", 6));
    let reason = wait(&mut net, "b", command).unwrap_err();
    assert_eq!(reason.code, Code::Denied);
    let asked = |e: &Event| matches!(e, Event::FlowRequest(_));
    assert!(!net.node("c").events.iter().any(asked));
}

#[test]
fn groups_stand_in_certificates_and_a_question_is_answered_with_the_rule() {
    let mut net = Net::new(&["b", "a", "c"]);
    bootstrap(&mut net, "b");
    for (member, group) in [("a", "staff"), ("c", "servers")] {
        let invite = Invite {
            member: Some(label(member)),
            prefixes: Vec::new(),
            expires_ms: 600_000,
            uses: 1,
            hints: Vec::new(),
            groups: vec![label(group)],
        };
        let Ok(Answer::Invitation(url)) = net.ask("b", Command::Invite(invite)) else {
            panic!("no invitation")
        };
        enroll(&mut net, member, url).unwrap();
    }
    let rules =
        "allow register,accept svc/* by group servers\n\nallow allocate svc/* by group staff";
    policy(&mut net, rules).unwrap();
    register(&mut net, "c", "svc/web");
    net.seconds(1);
    flow(&mut net, "a", "c", "svc/web", 5, QosSpec::RAW);
    let check = |net: &mut Net, from: &str, at: &str| {
        let check = PolicyCheck {
            name: "svc/web".to_owned(),
            from: from.to_owned(),
            at: at.to_owned(),
            ..PolicyCheck::default()
        };
        match net.ask("c", Command::Policy(check)) {
            Ok(Answer::Policy(reply)) => reply,
            other => panic!("{other:?}"),
        }
    };
    let reply = check(&mut net, "a", "c");
    assert_eq!((reply.number, reply.text.as_str()), (1, rules));
    let all = reply.judgements.iter();
    let all: Vec<_> = all
        .map(|j| (j.act.as_str(), j.allowed, j.why.as_str()))
        .collect();
    let serves =
        "rule 1 of policy 1 allows it, line 1: allow register,accept svc/* by group servers";
    let asks = "rule 2 of policy 1 allows it, line 3: allow allocate svc/* by group staff";
    assert_eq!(
        all,
        [
            ("allocate", true, asks),
            ("register", true, serves),
            ("accept", true, serves)
        ]
    );
    assert!(!check(&mut net, "c", "").judgements[0].allowed);
    assert!(!check(&mut net, "a", "a").judgements[1].allowed);

    // Packets between members that share no group.
    let filters = |net: &mut Net, at: &'static str, of: &str| {
        let status = status(net, at);
        let member = status.members.iter().find(|m| m.name == of).unwrap();
        let rules = |number: u32| {
            let filter = number.checked_sub(1).map(|n| &status.filters[n as usize]);
            let rule = |r: &proto::irm::PassRule| (r.allow, r.protocol, r.low, r.high);
            filter.map(|f| f.rules.iter().map(rule).collect::<Vec<_>>())
        };
        (rules(member.sends), rules(member.takes))
    };
    let nothing = vec![(false, 0, 0, 65_535)];
    let (some, none) = (filters(&mut net, "a", "c"), (None, None));
    assert_eq!(some, (Some(nothing.clone()), Some(nothing.clone())));
    let rules = "allow send tcp/443 icmp to group servers by group staff\n\
                 deny send tcp/22 to any by group servers\n\
                 allow send * to group staff by member c\n\
                 allow send * to any by member b";
    policy(&mut net, rules).unwrap();
    let web = vec![(true, 6, 443, 443), (true, 1, 0, 65_535), nothing[0]];
    let back = vec![(false, 6, 22, 22), (true, 0, 0, 65_535)];
    let (web, back) = (Some(web), Some(back));
    assert_eq!(filters(&mut net, "a", "c"), (web.clone(), back.clone()));
    assert_eq!(filters(&mut net, "c", "a"), (back, web));
    assert_eq!(filters(&mut net, "a", "b"), (Some(nothing), None));
    let judged = |net: &mut Net, send: &str| {
        let check = PolicyCheck {
            from: "a".to_owned(),
            at: "c".to_owned(),
            send: send.to_owned(),
            ..PolicyCheck::default()
        };
        match net.ask("b", Command::Policy(check)) {
            Ok(Answer::Policy(reply)) => reply.judgements[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    let said = judged(&mut net, "tcp/443");
    assert!(
        said.allowed && said.why.contains("rule 1 of policy 2"),
        "{said:?}"
    );
    let said = judged(&mut net, "udp/53");
    let why = "no rule of policy 2 is of that, and they share no group";
    assert_eq!((said.allowed, said.why.as_str()), (false, why));
    assert_eq!(said.name, "udp/53 to c");
    policy(&mut net, "").unwrap();
    assert_eq!(filters(&mut net, "a", "c"), none);
}

#[test]
fn what_stands_is_judged_again_when_a_certificate_is_renewed_with_other_groups() {
    let mut net = Net::new(&["b", "a", "c"]);
    let ask = Bootstrap {
        layer: label("ovl"),
        over: vec![label("net")],
        prefixes: Vec::new(),
        pools: Some(Vec::new()),
        cert_life: Some(Duration::from_secs(600)),
        passphrase: None,
        shim_udp: None,
    };
    net.ask("b", Command::Bootstrap(ask)).unwrap();
    for member in ["a", "c"] {
        let invite = Invite {
            member: Some(label(member)),
            prefixes: Vec::new(),
            expires_ms: 600_000,
            uses: 1,
            hints: Vec::new(),
            groups: vec![label("staff")],
        };
        let Ok(Answer::Invitation(url)) = net.ask("b", Command::Invite(invite)) else {
            panic!("no invitation")
        };
        enroll(&mut net, member, url).unwrap();
    }
    policy(&mut net, "allow * svc by group staff member b").unwrap();
    register(&mut net, "c", "svc");
    net.seconds(1);
    flow(&mut net, "a", "c", "svc", 5, QosSpec::RAW);
    flow(&mut net, "b", "c", "svc", 6, QosSpec::RAW);
    let regroup = |net: &mut Net, member: &str, groups: &[Label]| {
        let me = net.node("b").machine.me.as_mut().unwrap();
        let authority = me.authority.as_mut().unwrap();
        authority.regroup(&label(member), groups);
    };
    regroup(&mut net, "a", &[label("guests")]);
    net.seconds(600);
    for at in ["a", "c"] {
        let node = net.node(at);
        assert!(!node.open.contains(&FlowId(5)), "{at}");
        assert_eq!(node.closed[&FlowId(5)].code, Code::Denied, "{at}");
    }
    assert!(
        net.node("b").open.contains(&FlowId(6)),
        "it is no affair of a's"
    );
    // Now who serves the name, and back again: nobody registers it anew.
    regroup(&mut net, "c", &[]);
    net.seconds(600);
    assert_eq!(net.node("b").closed[&FlowId(6)].code, Code::Denied);
    let served = |net: &mut Net| {
        let all = status(net, "b").directory;
        all.iter().filter(|entry| entry.member == "c").count()
    };
    assert_eq!(served(&mut net), 0);
    regroup(&mut net, "c", &[label("staff")]);
    net.seconds(600);
    assert_eq!(served(&mut net), 1);
    flow(&mut net, "b", "c", "svc", 7, QosSpec::RAW);
}

#[test]
fn who_lacks_the_hybrid_key_exchange_is_out_where_the_policy_insists_on_it() {
    let mut net = line();
    register(&mut net, "c", "svc");
    let machine = &mut net.node("a").machine;
    let clock = machine.clock.clone();
    let me = machine.me.as_mut().unwrap();
    me.tls = TlsConfig::curve_only(&me.identity, &clock).unwrap();
    net.cut("a", "b");
    net.seconds(40);
    net.mend("a", "b");
    net.seconds(20);
    flow(&mut net, "a", "c", "svc", 5, QosSpec::RAW);
    let exchanges = |net: &mut Net, at| -> Vec<String> {
        let links = status(net, at).links.into_iter();
        links.map(|l| l.key_exchange).collect()
    };
    assert_eq!(exchanges(&mut net, "a"), ["X25519"]);
    policy(&mut net, "require hybrid\nallow * * by any").unwrap();
    for at in ["a", "c"] {
        let closed = &net.node(at).closed;
        assert!(closed.contains_key(&FlowId(5)), "{at}");
    }
    net.seconds(20);
    let strong = "X25519MLKEM768";
    assert_eq!(exchanges(&mut net, "c"), [strong]);
    assert!(!exchanges(&mut net, "b").contains(&"X25519".to_owned()));
    assert!(status(&mut net, "b").counters["drop.not_hybrid"] > 0);
    // With another release it is back by itself.
    let machine = &mut net.node("a").machine;
    let clock = machine.clock.clone();
    machine.me.as_mut().unwrap().trust_anew(&clock).unwrap();
    net.seconds(70);
    assert_eq!(exchanges(&mut net, "a"), [strong]);
    flow(&mut net, "a", "c", "svc", 6, QosSpec::RAW);
}

#[test]
fn only_the_authority_says_what_holds_and_what_can_not_be_read_denies_all() {
    let mut net = line();
    let act = |text: &str| Command::Authority(AuthorityAct::Policy(text.to_owned()));
    assert_eq!(net.ask("a", act(RULES)).unwrap_err().code, Code::Denied);
    let reason = net.ask("b", act("allow all")).unwrap_err();
    assert_eq!(reason.code, Code::Usage);
    assert!(reason.text.contains("line 1"), "{reason}");
    register(&mut net, "c", "svc");
    net.seconds(1);
    let now = net.now();
    let kind = crate::decree::Kind::POLICY;
    let content = b"strata policy 2\nmay anybody anything".to_vec();
    let published = net.node("b").machine.publish_decree(now, kind, content);
    assert_eq!(published, Ok(1));
    net.input("b", Input::Timeout);
    net.run(Duration::from_millis(200));
    let reason = refused(&mut net, "a", ask("svc", 5));
    assert!(reason.text.contains("can't be read here"), "{reason}");
    // It outlives a restart, and ends with the next.
    let files = net.node("a").files.clone();
    net.boot("a", files);
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 5_000,
    };
    net.ask("a", Command::Enroll(rejoin)).unwrap();
    refused(&mut net, "a", ask("svc", 6));
    policy(&mut net, RULES).unwrap();
    net.seconds(2);
    flow(&mut net, "a", "c", "svc", 7, QosSpec::RAW);
}

#[test]
fn nothing_passes_to_or_from_a_member_that_has_shown_no_certificate() {
    let mut net = line();
    policy(&mut net, "allow * * by any\nallow send * to any by any\n").unwrap();
    let node = net.node("a");
    let me = node.machine.me.as_ref().unwrap();
    let of = |address: u64| {
        let member = proto::irm::Member {
            address,
            ..Default::default()
        };
        let mut members = [member];
        let filters = me.status_filters(&mut members);
        let rules = |number: u32| Some(filters[number.checked_sub(1)? as usize].rules.len());
        (rules(members[0].sends), rules(members[0].takes))
    };
    let known = me.address_of(&label("c")).0;
    assert_eq!(of(known), (None, None));
    // A filter without rules lets nothing pass.
    assert_eq!(of(u64::MAX), (Some(0), Some(0)));
}
