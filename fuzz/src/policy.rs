//! The text of a policy.

use layer::policy::{Act, Policy, Service, Subject};
use proto::Label;

/// A text, and whether its rules mean the same wherever they are judged.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(policy) = Policy::parse(text) else {
        return;
    };
    let (Ok(member), Ok(group)) = (Label::new("a"), Label::new("staff")) else {
        return;
    };
    let groups = [group];
    let who = Subject {
        member: &member,
        groups: &groups,
    };
    // Stands for a hash: what is served under it is this name and no other.
    let hash_of = |name: &str| Some([u8::from(name == "svc/web"); 32]);
    for act in Act::ALL {
        let verdict = policy.judge(act, "svc/web", who);
        if let Some((rule, line)) = verdict.rule {
            assert!(rule <= policy.len() && line <= text.lines().count());
        }
        let maybe = policy.may_allow(act, &[1; 32], hash_of, who);
        assert!(
            maybe || !verdict.allowed,
            "a keeper refuses what is allowed"
        );
    }
    // What is worked out once for all packets says the same of each.
    let said = policy.services(who, who);
    for text in ["tcp/443", "udp/53", "icmp", "proto/47"] {
        let service: Service = text.parse().unwrap();
        let first = said.iter().find(|(_, s)| s.covers(&service));
        let verdict = policy.judge_packets(&service, who, who);
        assert_eq!(first.is_some_and(|(allows, _)| *allows), verdict.allowed);
        assert_eq!(first.is_some(), verdict.rule.is_some());
    }
}

/// Rules of all kinds, and what is none.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "rules",
            text(
                "# who\nallow register,accept svc/* vpn/* by group servers member a\ndeny allocate svc/web by any\nallow * * by any\n",
            ),
        ),
        (
            "quoted",
            text("allow register \"odd \\\" name\" \"by\" by member \"a\"\n"),
        ),
        (
            "globs",
            text("deny * *a*?b* by member ?* group st*ff\nallow accept * by any"),
        ),
        (
            "packets",
            text(
                "allow send tcp/443 udp/1-9 icmp to group s* by any\ndeny send proto/47 * to member b by member a\nallow * * by any\n",
            ),
        ),
        ("open", text("allow register \"x by any")),
        ("none", text("\n# nothing\n")),
    ]
}
