//! Members whose certificates come from a site's own PKI: whom they let in, and how they find each other again.

use proto::QosSpec;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType};

use super::flows::{flow, read, register, write};
use super::*;

/// A site's own authority.
struct Site {
    root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let root = ca.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(ca, key);
        Self { root, issuer }
    }

    /// Another certificate of that member each time, with which it is to find the member `dst`.
    fn certifies(&self, member: &str, dst: &str) -> Command {
        let uri = format!("strata://ovl/{member}");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Command::Enroll(Enroll {
            entry: Entry::Certificate {
                layer: label("ovl"),
                dst: label(dst),
                ca: self.root.clone(),
                cert: cert.der().to_vec(),
                key: key.serialize_der(),
            },
            over: vec![label("net")],
            timeout_ms: 10_000,
        })
    }
}

/// a and b, who have enrolled with each other, and c, which they have let in.
fn founded(site: &Site) -> Net {
    let mut net = Net::new(&["a", "b", "c"]);
    let founders = [("a", "b"), ("b", "a")];
    let asked = founders.map(|(at, dst)| (at, net.command(at, site.certifies(at, dst))));
    for (at, command) in asked {
        let answer = flows::wait(&mut net, at, command);
        assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    }
    let answer = net.ask("c", site.certifies("c", "b"));
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    net.seconds(1);
    net
}

fn members(net: &mut Net, at: &'static str) -> Vec<String> {
    let members = status(net, at).members;
    members.into_iter().map(|m| m.name).collect()
}

/// A flow between two members carries, each way.
fn talks(net: &mut Net, from: &'static str, to: &'static str, id: u64) {
    write(net, from, id, &[b"there"]);
    assert_eq!(read(net, to, id), [b"there".to_vec()]);
    write(net, to, id, &[b"back"]);
    assert_eq!(read(net, from, id), [b"back".to_vec()]);
}

#[test]
fn who_has_a_certificate_of_the_site_is_let_in_and_one_of_another_root_is_not() {
    let site = Site::new();
    let mut net = founded(&site);
    for at in ["a", "b", "c"] {
        assert_eq!(members(&mut net, at), ["a", "b", "c"], "{at}");
    }
    register(&mut net, "a", "server");
    flow(&mut net, "c", "a", "server", 1, QosSpec::RAW);
    talks(&mut net, "c", "a", 1);
    // Of the same layer and a name that is free; it asks, and is asked.
    net.boot("d", Files::new());
    let refused = net.ask("d", Site::new().certifies("d", "b")).unwrap_err();
    assert_ne!(refused.code, Code::Conflict, "{refused}");
    let dialled = Command::Connect(label("d"), Some(Duration::from_secs(5)));
    assert!(net.ask("a", dialled).is_err());
    assert_eq!(members(&mut net, "b"), ["a", "b", "c"]);
    assert!(members(&mut net, "d").len() <= 1);
    talks(&mut net, "c", "a", 1);
    // With one of the site it is let in.
    net.boot("d", Files::new());
    let answer = net.ask("d", site.certifies("d", "b"));
    assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
    net.seconds(1);
    assert_eq!(members(&mut net, "a"), ["a", "b", "c", "d"]);
}

#[test]
fn members_that_all_start_again_at_once_find_each_other_by_the_certificates_they_have() {
    let mut net = founded(&Site::new());
    let all = ["a", "b", "c"];
    let files = all.map(|name| (name, net.node(name).files.clone()));
    for (name, files) in files {
        net.boot(name, files);
    }
    let rejoin = Enroll {
        entry: Entry::Rejoin,
        over: vec![label("net")],
        timeout_ms: 10_000,
    };
    for name in all {
        net.command(name, Command::Enroll(rejoin.clone()));
    }
    net.seconds(10);
    for name in all {
        assert_eq!(members(&mut net, name), all, "{name}");
    }
    register(&mut net, "a", "server");
    net.seconds(1);
    flow(&mut net, "b", "a", "server", 1, QosSpec::RAW);
    flow(&mut net, "c", "a", "server", 2, QosSpec::RAW);
    talks(&mut net, "b", "a", 1);
    talks(&mut net, "c", "a", 2);
}

#[test]
fn a_member_takes_another_certificate_of_another_key_and_its_flows_stand() {
    let site = Site::new();
    let mut net = founded(&site);
    register(&mut net, "a", "server");
    net.seconds(1);
    flow(&mut net, "c", "a", "server", 1, QosSpec::RAW);
    let before = net.node("c").files["identity"].clone();
    let again = site.certifies("c", "b");
    for _ in 0..2 {
        // The same once more changes nothing.
        let answer = net.ask("c", again.clone());
        assert!(matches!(answer, Ok(Answer::Configured(_))), "{answer:?}");
        talks(&mut net, "c", "a", 1);
    }
    assert_eq!(status(&mut net, "c").counters["renew.done"], 1);
    assert!(net.node("c").files["identity"] != before);
    // Others believe it by the new one, also after keys have changed.
    net.seconds(300);
    talks(&mut net, "c", "a", 1);
    assert_eq!(members(&mut net, "b"), ["a", "b", "c"]);
}
