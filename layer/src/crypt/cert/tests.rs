//! What a certificate must be to be believed.

use super::*;
use crate::crypt::Roots;
use crate::crypt::fixtures::{NOW, at, label};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Eku, IsCa,
    Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType, SignatureAlgorithm,
};

/// A certificate of a site's own ECDSA authority, as `change` wants it, and that authority.
fn issued(
    key: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> (Vec<u8>, Roots) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let root = ca.self_signed(&ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![name("strata://ovl/b")];
    change(&mut params);
    let key = KeyPair::generate_for(key).unwrap();
    let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    (
        cert.der().to_vec(),
        Roots::new(vec![root.der().to_vec()]).unwrap(),
    )
}

fn name(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn verified(change: impl FnOnce(&mut CertificateParams)) -> Result<MemberCert, CertError> {
    let (der, roots) = issued(&PKCS_ED25519, change);
    MemberCert::verify(&der, &[], &roots, &label("ovl"), at(NOW))
}

#[test]
fn a_sites_own_authority_may_issue_what_a_member_needs() {
    assert_eq!(verified(|_| {}).unwrap().member(), &label("b"));
    let with_dns = verified(|p| {
        p.subject_alt_names
            .push(SanType::DnsName("b.example.org".try_into().unwrap()))
    });
    assert_eq!(with_dns.unwrap().member(), &label("b"));
    assert!(
        verified(|p| p.extended_key_usages =
            vec![Eku::ServerAuth, Eku::ClientAuth, Eku::EmailProtection])
        .is_ok()
    );
}

#[test]
fn what_isnt_a_members_certificate_is_refused() {
    let nets = |bytes: &[u8]| {
        vec![CustomExtension::from_oid_content(
            &prefix::OID,
            bytes.to_vec(),
        )]
    };
    let unknown = |critical| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        vec![extension]
    };
    let refused: [(&str, Result<MemberCert, CertError>); 11] = [
        (
            "server only",
            verified(|p| p.extended_key_usages = vec![Eku::ServerAuth]),
        ),
        (
            "client only",
            verified(|p| p.extended_key_usages = vec![Eku::ClientAuth]),
        ),
        (
            "neither",
            verified(|p| p.extended_key_usages = vec![Eku::CodeSigning]),
        ),
        ("no name", verified(|p| p.subject_alt_names.clear())),
        (
            "two names",
            verified(|p| p.subject_alt_names.push(name("strata://ovl/c"))),
        ),
        (
            "a bad layer",
            verified(|p| p.subject_alt_names = vec![name("strata://OVL/b")]),
        ),
        (
            "no member",
            verified(|p| p.subject_alt_names = vec![name("strata://ovl/")]),
        ),
        (
            "a path",
            verified(|p| p.subject_alt_names = vec![name("strata://ovl/b/c")]),
        ),
        (
            "broken prefixes",
            verified(|p| p.custom_extensions = nets(&[0x30, 1])),
        ),
        (
            "an authority",
            verified(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "unknown and critical",
            verified(|p| p.custom_extensions = unknown(true)),
        ),
    ];
    for (what, result) in refused {
        assert!(
            matches!(result, Err(CertError::Malformed(_))),
            "{what}: {result:?}"
        );
    }
    assert!(verified(|p| p.custom_extensions = unknown(false)).is_ok());
    let (der, roots) = issued(&PKCS_ECDSA_P256_SHA256, |_| {});
    let ecdsa = MemberCert::verify(&der, &[], &roots, &label("ovl"), at(NOW));
    assert_eq!(
        ecdsa,
        Err(CertError::Malformed("a member's key must be Ed25519"))
    );
}

#[test]
fn a_person_can_read_when_it_expired() {
    let expired = CertError::Expired {
        not_after: 1_800_000_000,
    }
    .to_string();
    assert!(
        expired.contains("expired at 2027-01-15 8:00:00"),
        "{expired}"
    );
    let never = CertError::NotYetValid {
        not_before: u64::MAX,
    }
    .to_string();
    assert!(never.contains("second 18446744073709551615"), "{never}");
}

#[test]
fn groups_are_read_sorted_and_only_those_of_the_own_layer_are_believed() {
    let groups = |names: &[&str]| {
        verified(|p| p.subject_alt_names.extend(names.iter().map(|n| name(n))))
            .map(|cert| cert.groups().to_vec())
    };
    let two = ["strata-group://ovl/ops", "strata-group://ovl/lab"];
    assert_eq!(groups(&two).unwrap(), [label("lab"), label("ops")]);
    let twice = ["strata-group://ovl/ops", "strata-group://ovl/ops"];
    assert_eq!(groups(&twice).unwrap(), [label("ops")]);
    assert_eq!(groups(&[]).unwrap(), []);
    let many: Vec<String> = (0..17)
        .map(|i| format!("strata-group://ovl/g{i}"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(groups(&many[..16]).is_ok());
    for bad in [
        &many[..],
        &["strata-group://other/ops"],
        &["strata-group://ovl/OPS"],
        &["strata-group://ovl/"],
        &["strata-group://ovl"],
        &["strata-group://ovl/a/b"],
    ] {
        assert!(
            matches!(groups(bad), Err(CertError::Malformed(_))),
            "{bad:?}"
        );
    }
}
