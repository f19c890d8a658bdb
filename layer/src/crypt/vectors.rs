//! Certificates, requests, keys and seals of docs/vectors.txt.

use proto::{Addr, Code, EndpointId, Label, wire};
use ring::signature::{ED25519, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::identity::renewal_part;
use super::invitation::{seed_public, signed_part};
use super::issue::Request;
use super::{
    Aead, Agreed, Authority, CertError, KeyExchange, MemberCert, Roots, Secrets, Voice, prefix,
};
use crate::vectors::{NOW, member, vector};

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn verified(name: &str, between: &[&str], roots: &Roots) -> Result<MemberCert, CertError> {
    let between: Vec<_> = between.iter().map(|name| vector(name)).collect();
    MemberCert::verify(&vector(name), &between, roots, &label("home"), NOW)
}

fn roots(name: &str) -> Roots {
    Roots::new(vec![vector(name)]).unwrap()
}

fn secrets(aead: Aead) -> Secrets {
    Secrets {
        master: Zeroizing::new([7; 32]),
        exporter: [9; 32],
        aead,
        exchange: KeyExchange::X25519MlKem768,
        agreed: Agreed {
            version: 1,
            features: 0,
        },
        peer: None,
    }
}

#[test]
fn certificates_that_another_implementation_made_say_what_they_should() {
    let alice = verified("alice", &[], &roots("root")).unwrap();
    let prefixes: Vec<_> = alice.prefixes().iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.1.0.0/16", "fd00:1::/32"]);
    assert_eq!(alice.groups(), [label("staff")]);
    assert_eq!(alice.member(), &label("alice"));
    assert_eq!(alice.address(), Addr(0x257b_9240_0b8c_4f62));
    let again = prefix::encode(alice.prefixes());
    let der = vector("alice");
    assert!(der.windows(again.len()).any(|part| part == again));
}

#[test]
fn whoever_may_issue_gives_what_it_was_let_and_no_more() {
    let root = roots("root");
    assert!(verified("carol", &["bob.issues"], &root).is_ok());
    let overstepped = verified("carol.overstepped", &["bob.issues"], &root);
    assert!(matches!(overstepped, Err(CertError::Malformed(_))));
    assert_eq!(
        verified("carol", &[], &root),
        Err(CertError::UnknownAuthority)
    );
    // Once a decree says who issues, nobody else does.
    let none = root.with_issuers(&[], std::iter::empty());
    let refused = verified("carol", &["bob.issues"], &none);
    assert_eq!(refused, Err(CertError::UnknownAuthority));
}

#[test]
fn what_two_roots_say_of_each_other_leads_from_either_to_the_other() {
    let new = roots("root2");
    assert_eq!(
        verified("alice", &[], &new),
        Err(CertError::UnknownAuthority)
    );
    assert!(verified("alice", &["cross.old_by_new"], &new).is_ok());
    let through = ["bob.issues", "cross.old_by_new"];
    assert!(verified("carol", &through, &new).is_ok());
    let cross = Voice::of(&vector("cross.new_by_old"), false).unwrap();
    let root = Voice::of(&vector("root2"), true).unwrap();
    assert_eq!(cross.id(), root.id());
}

#[test]
fn requests_are_signed_as_the_document_says() {
    let csr = vector("csr");
    let request = Request::parse(&csr).unwrap();
    assert_eq!(
        (request.layer, request.member),
        (label("home"), label("carol"))
    );
    let seed = UnparsedPublicKey::new(&ED25519, seed_public(&[2; 32]).unwrap());
    let signed = signed_part(&csr, &[9; 32]);
    seed.verify(&signed, &vector("csr.seed_signature")).unwrap();

    let alice = member("alice", 0x12);
    let message = renewal_part(&label("home"), &vector("alice"), NOW.secs());
    assert_eq!(alice.sign(&message)[..], vector("renewal.signature"));
}

#[test]
fn what_another_implementation_sealed_is_opened() {
    let hello = crate::vectors::hex("04050133 00000001 0000000000000002 0000000000000003 00000004");
    for (name, aead) in [
        ("sealed.aes", Aead::Aes256Gcm),
        ("sealed.chacha", Aead::ChaCha20Poly1305),
    ] {
        let (_, mut open) = secrets(aead).hop_keys(false);
        let mut pdu = vector(name);
        let (header, body) = pdu.split_at_mut(16);
        assert_eq!(open.open(header, body).unwrap(), hello);
    }
    let key = secrets(Aead::Aes256Gcm).flow_keys(Addr(1), Addr(2), EndpointId(3), EndpointId(4));
    let mut pdu = vector("routed");
    let (header, body) = pdu.split_at_mut(40);
    let aad = [&header[2..3], &header[4..]].concat();
    assert_eq!(key.into_open().open_with(&aad, 2, body).unwrap(), b"x");
}

#[test]
fn who_was_met_is_recognised_by_what_the_document_says() {
    let shown = secrets(Aead::Aes256Gcm)
        .acquaintance()
        .introduce(0x0102_0304);
    let bytes = [&[4][..], &shown.id.to_be_bytes(), &shown.mac].concat();
    assert_eq!(bytes, vector("met"));
}

#[test]
fn an_authority_that_another_implementation_exported_is_taken_and_lets_in_whom_it_should() {
    let file = vector("export");
    let wrong = Authority::import(&file, b"another passphrase").map(drop);
    assert_eq!(wrong.unwrap_err().code, Code::Denied);
    let mut authority = Authority::import(&file, b"correct horse battery").unwrap();
    let alice = member("alice", 0x12);
    let key = *alice.cert().public_key();
    assert_eq!(authority.key_of(&label("alice")), Some(key));
    let request = wire::EnrolRequest {
        invitation: vec![1; 16],
        csr: vector("csr"),
        seed_signature: vector("csr.seed_signature"),
        issuer: "alice".into(),
        ..Default::default()
    };
    // It is for bob, and carol asks.
    let refused = authority.redeem(&request, &[9; 32], NOW).map(drop);
    assert_eq!(refused.unwrap_err().code, Code::Conflict);
    let elsewhere = authority.redeem(&request, &[8; 32], NOW).map(drop);
    assert_eq!(elsewhere.unwrap_err().code, Code::Denied);
}
