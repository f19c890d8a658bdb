//! Members, authorities and clocks for the tests of this room.

use std::time::{Duration, Instant};

use proto::Label;
use proto::ipcp::Invite;

use super::authority::Grant;
use super::issue::Root;
use super::key::Key;
use super::{Authority, Clock, Identity, Invitation, MemberCert, Roots, TlsConfig};
use crate::UnixTime;

/// The time at which everything was issued.
pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const LIFE: u64 = 90 * 24 * 3600;

pub(super) fn at(seconds: u64) -> UnixTime {
    UnixTime(Duration::from_secs(seconds))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
pub(super) fn begin() -> Instant {
    Instant::now()
}

pub(super) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(super) fn clock(seconds: u64) -> Clock {
    let clock = Clock::new();
    clock.set(at(seconds));
    clock
}

/// A layer's authority and its first member `a`.
pub(super) fn first(layer: &str) -> (Authority, Identity) {
    Authority::create(
        &label(layer),
        &label("a"),
        &["10.1.0.0/16".parse().unwrap()],
        at(NOW),
    )
    .unwrap()
}

/// What `irm layer invite` asks for.
pub(super) fn invite(member: Option<&str>, prefixes: &[&str], uses: u32) -> Invite {
    Invite {
        member: member.map(label),
        prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        expires_ms: 600_000,
        uses,
        hints: Vec::new(),
        groups: Vec::new(),
    }
}

/// An invitation, parsed.
pub(super) fn invited(authority: &mut Authority, invite: &Invite) -> Invitation {
    let url = authority
        .invite(invite, &label("a"), &[label("a")], at(NOW))
        .unwrap();
    Invitation::parse(&url, at(NOW)).unwrap()
}

/// Another member, enrolled without any network between.
pub(super) fn enrolled(authority: &mut Authority, name: &str) -> Identity {
    let joiner = invited(authority, &invite(Some(name), &[], 1))
        .start(&label(name))
        .unwrap();
    let reply = authority
        .redeem(&joiner.request(&[9; 32]), &[9; 32], at(NOW))
        .unwrap();
    joiner.finish(&reply, at(NOW)).unwrap()
}

/// Two members that say to be of two layers, under one root, as a site's own authority may issue them.
pub(super) fn under_one_root(layers: [&str; 2]) -> [Identity; 2] {
    let root = Root::create(&label("site"), at(NOW)).unwrap();
    layers.map(|layer| {
        let (key, member) = (Key::generate().unwrap(), label(&format!("m-{layer}")));
        let der = root
            .issue(
                &label(layer),
                &member,
                &Grant::default(),
                &key,
                Duration::from_secs(LIFE),
                at(NOW),
            )
            .unwrap();
        let roots = Roots::new(vec![root.der().to_vec()]).unwrap();
        let cert = MemberCert::verify(&der, &[], &roots, &label(layer), at(NOW)).unwrap();
        Identity::new(key, cert, Vec::new(), roots).unwrap()
    })
}

/// The configuration of a member whose clock says this.
pub(super) fn config(identity: &Identity, seconds: u64) -> TlsConfig {
    TlsConfig::member(identity, &clock(seconds)).unwrap()
}
