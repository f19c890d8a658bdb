//! A member that issues and gives more than it was given: nobody believes what it has issued so.

use std::time::Duration;

use proto::Label;

use super::*;
use crate::crypt::fixtures::{LIFE, NOW, at, enrolled, first, label};
use crate::crypt::{CertError, Roots};
use crate::decree::Trust;

/// What a member believes of the certificate that `b` gives: it may issue in `ovl`, out of 10.9.0.0/16, for 90 days.
#[expect(
    clippy::unwrap_in_result,
    reason = "what is asked is whether it is believed; all else must work"
)]
fn given(layer: &str, member: &str, grant: &Grant, life: u64) -> Result<MemberCert, CertError> {
    let (mut root, a) = first("ovl");
    let (b, c) = (enrolled(&mut root, "b"), enrolled(&mut root, "c"));
    let delegate = |to: &Identity| {
        let prefixes = ["10.9.0.0/16".parse().unwrap()];
        root.delegate(to.cert(), &prefixes, at(NOW)).unwrap()
    };
    let (own, other) = (delegate(&b), delegate(&c));
    let trust = Trust {
        roots: vec![root.own_cert().to_vec()],
        issuers: vec![own.clone(), other],
        cert_life: Some(Duration::from_secs(LIFE)),
        holder: Some(label("a")),
        holder_key: Some(*a.cert().public_key()),
        ..Trust::default()
    };
    let issuer = b.issue_with(&own).unwrap();
    let key = Key::generate().unwrap();
    let life = Duration::from_secs(life);
    let made = issuer.issue(&label(layer), &label(member), grant, &key, life, at(NOW));
    // Its holder may send along what it likes.
    let roots: Roots = trust.roots().unwrap();
    let between = [own, root.own_cert().to_vec()];
    MemberCert::verify(&made.unwrap(), &between, &roots, &label("ovl"), at(NOW))
}

fn prefixes(list: &[&str]) -> Grant {
    Grant {
        prefixes: list.iter().map(|p| p.parse().unwrap()).collect(),
        groups: Vec::<Label>::new(),
    }
}

#[test]
fn what_lies_within_its_delegation_is_believed() {
    let grant = prefixes(&["10.9.1.0/24"]);
    let cert = given("ovl", "d", &grant, LIFE).unwrap();
    assert_eq!(cert.prefixes(), grant.prefixes);
    let groups = Grant {
        groups: vec![label("ops")],
        ..Grant::default()
    };
    assert_eq!(
        given("ovl", "d", &groups, LIFE).unwrap().groups(),
        [label("ops")]
    );
}

#[test]
fn more_than_it_may_give_is_refused() {
    let none = Grant::default();
    let outside = [
        prefixes(&["10.8.0.0/24"]),
        prefixes(&["10.0.0.0/8"]),
        prefixes(&["10.9.1.0/24", "fd00::/8"]),
    ];
    for grant in outside {
        let refused = given("ovl", "d", &grant, LIFE);
        let why = CertError::Malformed("it has a prefix that its issuer may not give");
        assert_eq!(refused, Err(why), "{grant:?}");
    }
    let longer = given("ovl", "d", &none, LIFE + 86_400);
    let why = CertError::Malformed("it lives longer than its issuer may let it");
    assert_eq!(longer, Err(why));
    let name = given("ovl", "c", &none, LIFE);
    let why = CertError::Malformed("it gives the name of a member that issues to another key");
    assert_eq!(name, Err(why));
    let holder = given("ovl", "a", &none, LIFE);
    let why = "it gives the name of the member that holds the root's key to another key";
    assert_eq!(holder, Err(CertError::Malformed(why)));
    let layer = given("other", "d", &none, LIFE);
    assert!(
        matches!(layer, Err(CertError::WrongLayer { .. })),
        "{layer:?}"
    );
}

#[test]
fn whom_it_certifies_issues_nothing() {
    let (mut root, _) = first("ovl");
    let (b, c) = (enrolled(&mut root, "b"), enrolled(&mut root, "c"));
    let own = root.delegate(b.cert(), &[], at(NOW)).unwrap();
    let issuer = b.issue_with(&own).unwrap();
    let further = issuer.delegate(c.cert(), &[], at(NOW)).unwrap();
    let key = Key::generate().unwrap();
    let (life, grant) = (Duration::from_secs(LIFE), Grant::default());
    let below = c.issue_with(&further).unwrap();
    let made = below.issue(&label("ovl"), &label("d"), &grant, &key, life, at(NOW));
    let roots = Roots::new(vec![root.own_cert().to_vec()]).unwrap();
    let between = [further, own];
    let refused = MemberCert::verify(&made.unwrap(), &between, &roots, &label("ovl"), at(NOW));
    assert!(refused.is_err(), "{refused:?}");
}
