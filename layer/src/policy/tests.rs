//! What policies mean.

use proptest::prelude::*;
use ring::digest::{SHA256, digest};

use super::*;

const TEXT: &str = r#"
# people read this
allow register,accept  svc/* "odd name" by group servers member web-?
deny  allocate  svc/secret by any   # and this
allow allocate  svc/* by group staff
allow *         "by"  by member root
"#;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn judge(policy: &Policy, act: Act, name: &str, member: &str, groups: &[&str]) -> Verdict {
    let (member, groups): (Label, Vec<Label>) =
        (label(member), groups.iter().map(|g| label(g)).collect());
    let who = Subject {
        member: &member,
        groups: &groups,
    };
    policy.judge(act, name, who)
}

fn hash(name: &str) -> Option<NameHash> {
    digest(&SHA256, name.as_bytes()).as_ref().try_into().ok()
}

#[test]
fn a_policy_may_insist_on_the_hybrid_key_exchange() {
    let insists = |text: &str| Policy::parse(text).map(|policy| policy.insists_on_hybrid());
    assert_eq!(insists(TEXT), Ok(false));
    assert_eq!(insists(&format!("{TEXT}\nrequire hybrid # all")), Ok(true));
    for wrong in ["require", "require curve", "require hybrid by any"] {
        let error = insists(&format!("deny * * by any\n{wrong}")).unwrap_err();
        assert_eq!(error.line, 2, "{error}");
    }
    let error = insists("require hybrid").unwrap_err();
    assert!(error.why.contains("there is no rule"), "{error}");
}

/// Who does what, and what comes of that.
type Case = (
    Act,
    &'static str,
    &'static str,
    &'static [&'static str],
    bool,
    Option<(usize, usize)>,
);

#[test]
fn the_first_rule_that_fits_decides_and_none_denies() {
    let policy = Policy::parse(TEXT).unwrap();
    let cases: &[Case] = &[
        (
            Act::Register,
            "svc/a",
            "x",
            &["servers"],
            true,
            Some((1, 3)),
        ),
        (Act::Accept, "odd name", "web-1", &[], true, Some((1, 3))),
        (Act::Register, "svc/a", "web-12", &[], false, None),
        (
            Act::Allocate,
            "svc/secret",
            "x",
            &["staff"],
            false,
            Some((2, 4)),
        ),
        (
            Act::Allocate,
            "svc/a",
            "x",
            &["other", "staff"],
            true,
            Some((3, 5)),
        ),
        (Act::Allocate, "svc/a", "x", &[], false, None),
        (Act::Register, "by", "root", &[], true, Some((4, 6))),
        (Act::Register, "other", "root", &["servers"], false, None),
    ];
    for (act, name, member, groups, allowed, rule) in cases {
        let (allowed, rule) = (*allowed, *rule);
        let verdict = judge(&policy, *act, name, member, groups);
        assert_eq!(
            verdict,
            Verdict { allowed, rule },
            "{act:?} {name} {member}"
        );
    }
    assert_eq!(policy.len(), 4);
}

/// The example of docs/protocol.md, and its table.
#[test]
fn the_example_of_the_document_is_judged_as_it_says() {
    let page = include_str!("../../../docs/protocol.md");
    let (_, section) = page.split_once("### Policy\n").unwrap();
    let (_, example) = section.split_once("```text\n").unwrap();
    let (text, table) = example.split_once("```\n").unwrap();
    let policy = Policy::parse(text).unwrap();
    let rows = table.lines().skip(3).take_while(|line| !line.is_empty());
    let mut judged = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, act, name, member, groups, decided, _] = cells[..] else {
            panic!("{row}")
        };
        let act = Act::ALL.into_iter().find(|a| a.word() == act).unwrap();
        let groups: Vec<&str> = groups.split(", ").filter(|g| !g.is_empty()).collect();
        let Verdict { allowed, rule } = judge(&policy, act, name, member, &groups);
        let by = rule.map_or(String::new(), |(_, line)| format!(", line {line}"));
        let word = if allowed { "allowed" } else { "denied" };
        assert_eq!(format!("{word}{by}"), decided, "{row}");
        judged += 1;
    }
    assert_eq!(judged, 8);
}

#[test]
fn what_is_no_policy_is_told_with_its_line() {
    for (text, line, why) in [
        ("", 1, "no rule"),
        ("# nothing\n\n", 2, "no rule"),
        ("\npermit * * by any", 2, "allow or deny"),
        ("allow fly * by any", 1, "no act"),
        ("allow register svc/*", 1, "by whom"),
        ("allow register by any", 1, "which names"),
        ("allow register * by", 1, "nobody"),
        ("allow register * by member", 1, "a name is missing"),
        ("allow register * by alice", 1, "alice"),
        ("allow register \"x by any", 1, "not closed"),
    ] {
        let error = Policy::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let many = "allow * * by any\n".repeat(MAX_RULES + 1);
    assert_eq!(Policy::parse(&many).unwrap_err().line, MAX_RULES + 1);
}

fn texts() -> impl Strategy<Value = String> {
    let name = "[ab]{1,3}[*?]{0,1}|\\*";
    let who = "any|member [xy]|group [gh]|member \\*";
    let rule = (
        "allow|deny",
        "\\*|register|allocate|accept,register",
        name,
        name,
        who,
    )
        .prop_map(|(verb, acts, one, other, who)| {
            format!("{verb} {acts} {one} {other} by {who}\n")
        });
    proptest::collection::vec(rule, 1..8).prop_map(|rules| rules.concat())
}

#[test]
fn packets_are_judged_by_what_they_are_for_and_between_whom() {
    let text = "allow send tcp/443 icmp to group servers by group clients member root\n\
                deny  send udp to any by group clients\n\
                allow send * to member web-? by group clients\n\
                allow * * by any";
    let policy = Policy::parse(text).unwrap();
    let judge = |service: &str, from: (&str, &str), to: (&str, &str)| {
        let [from, to] = [from, to].map(|(name, group)| (label(name), [label(group)]));
        let [from, to] = [&from, &to].map(|(member, groups)| Subject { member, groups });
        let service = service.parse().unwrap();
        let verdict = policy.judge_packets(&service, from, to);
        (verdict.allowed, verdict.rule.map(|(rule, _)| rule))
    };
    let (client, server, web) = (("x", "clients"), ("y", "servers"), ("web-1", "others"));
    assert_eq!(judge("tcp/443", client, server), (true, Some(1)));
    assert_eq!(judge("icmp", ("root", "others"), server), (true, Some(1)));
    assert_eq!(judge("tcp/80", client, server), (false, None));
    assert_eq!(judge("tcp", client, server), (false, None), "not all of it");
    assert_eq!(judge("tcp/443", server, client), (false, None));
    assert_eq!(judge("udp/53", client, web), (false, Some(2)));
    assert_eq!(judge("proto/47", client, web), (true, Some(3)));
    let (x, y) = (label("x"), label("web-1"));
    let groups = [label("clients")];
    let from = Subject {
        member: &x,
        groups: &groups,
    };
    let to = Subject {
        member: &y,
        groups: &[],
    };
    let said = policy.services(from, to).into_iter();
    let said: Vec<String> = said.map(|(a, service)| format!("{a} {service}")).collect();
    assert_eq!(said, ["false udp", "true *"]);
    assert_eq!(policy.services(to, from), []);
    for (wrong, why) in [
        ("allow send tcp/443 by any", "to whom"),
        ("allow send to any by any", "which packets"),
        ("allow send tcp/x to any by any", "tcp/443"),
        ("allow send tcp to by any", "behind to"),
        ("allow send tcp to all by any", "behind to"),
        ("allow send,offer tcp to any by any", "two rules"),
    ] {
        let error = Policy::parse(wrong).unwrap_err();
        assert!(error.why.contains(why), "{wrong}: {error}");
    }
}

proptest! {
    #[test]
    fn a_keeper_that_knows_the_hash_only_never_refuses_what_is_allowed(
        text in texts(), name in "[ab]{1,4}", member in "[xyz]", group in "[ghi]", act in 0usize..3,
    ) {
        let policy = Policy::parse(&text).unwrap();
        let (member, groups) = (label(&member), [label(&group)]);
        let who = Subject { member: &member, groups: &groups };
        let act = Act::ALL[act];
        let surely = policy.judge(act, &name, who).allowed;
        let maybe = policy.may_allow(act, &hash(&name).unwrap(), hash, who);
        prop_assert!(maybe || !surely, "{}", text);
        // Without patterns the hash says as much as the name.
        let part = |word: &str| word.len() > 1 && word.contains(['*', '?']);
        if !text.split_whitespace().any(part) {
            prop_assert_eq!(maybe, surely, "{}", text);
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn no_rule_below_the_one_that_decides_matters(text in texts(), name in "[ab]{1,4}", member in "[xyz]") {
        let policy = Policy::parse(&text).unwrap();
        let verdict = judge(&policy, Act::Register, &name, &member, &["g"]);
        if let Some((_, line)) = verdict.rule {
            let above: String = text.lines().take(line).map(|l| format!("{l}\n")).collect();
            let above = Policy::parse(&above).unwrap();
            prop_assert_eq!(judge(&above, Act::Register, &name, &member, &["g"]), verdict);
        }
    }
}

#[test]
fn networks_are_judged_by_rules_of_networks_alone_and_by_what_contains_them() {
    let text = "allow * * by any\ndeny offer 10.1.9.0/24 by any\nallow offer 10.1.0.0/16 fd00::/16 by group gateways\nallow take * by member web-?";
    let policy = Policy::parse(text).unwrap();
    let judge = |act, net: &str, member: &str, groups: &[&str]| {
        let (member, groups): (_, Vec<_>) = (
            Label::new(member).unwrap(),
            groups.iter().map(|g| Label::new(*g).unwrap()).collect(),
        );
        let who = Subject {
            member: &member,
            groups: &groups,
        };
        let verdict = policy.judge_network(act, &net.parse().unwrap(), who);
        (verdict.allowed, verdict.rule.map(|(rule, _)| rule))
    };
    let gateways = &["gateways"][..];
    assert_eq!(judge(Act::Offer, "10.1.2.0/24", "a", &[]), (false, None));
    assert_eq!(
        judge(Act::Offer, "10.1.2.0/24", "a", gateways),
        (true, Some(3))
    );
    assert_eq!(
        judge(Act::Offer, "10.1.9.128/25", "a", gateways),
        (false, Some(2))
    );
    assert_eq!(
        judge(Act::Offer, "10.0.0.0/8", "a", gateways),
        (false, None)
    );
    assert_eq!(
        judge(Act::Offer, "fd00:1::/48", "a", gateways),
        (true, Some(3))
    );
    assert_eq!(judge(Act::Take, "0.0.0.0/0", "web-1", &[]), (true, Some(4)));
    assert_eq!(judge(Act::Take, "::/0", "web-10", &[]), (false, None));
    for (bad, why) in [
        ("allow offer svc/* by any", "no network"),
        ("allow offer,register 10.0.0.0/8 by any", "two rules"),
    ] {
        assert!(Policy::parse(bad).unwrap_err().why.contains(why), "{bad}");
    }
}
