use super::*;
use crate::crypt::fixtures::{
    LIFE, NOW, at, clock, enrolled, first, invite, invited, label, under_one_root,
};
use crate::crypt::{CertError, Corrupt, Joiner, TlsConfig, address};

const EXPORTER: [u8; 32] = [9; 32];

fn joiner(authority: &mut Authority, name: &str) -> Joiner {
    invited(authority, &invite(Some(name), &[], 1))
        .start(&label(name))
        .unwrap()
}

fn redeem(
    authority: &mut Authority,
    joiner: &Joiner,
    seconds: u64,
) -> Result<wire::EnrolReply, Reason> {
    authority.redeem(&joiner.request(&EXPORTER), &EXPORTER, at(seconds))
}

#[test]
fn the_first_member_and_those_that_join_believe_each_other() {
    let (mut authority, a) = first("ovl");
    let b = enrolled(&mut authority, "b");
    for (one, other) in [(&a, &b), (&b, &a)] {
        let intermediates = &other.chain()[1..];
        let cert = MemberCert::verify(
            &other.chain()[0],
            intermediates,
            one.roots(),
            one.layer(),
            at(NOW),
        )
        .unwrap();
        assert_eq!(&cert, other.cert());
        let signature = other.sign(b"a record");
        assert_eq!(cert.check(b"a record", &signature), Ok(()));
        assert_eq!(
            cert.check(b"another record", &signature),
            Err(CertError::BadSignature)
        );
        assert_eq!(
            one.cert().check(b"a record", &signature),
            Err(CertError::BadSignature)
        );
    }
    assert_eq!(
        (b.member(), b.address()),
        (&label("b"), address(&label("ovl"), &label("b")))
    );
    assert_eq!(a.cert().prefixes(), ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(a.cert().not_after(), at(NOW + LIFE));
}

#[test]
fn a_certificate_is_refused_out_of_time_out_of_place_or_altered() {
    let (mut authority, a) = first("ovl");
    let b = enrolled(&mut authority, "b");
    let verify = |der: &[u8], roots: &Roots, layer: &str, seconds| {
        MemberCert::verify(der, &[], roots, &label(layer), at(seconds))
    };
    let (der, roots) = (b.cert().der(), a.roots());
    assert_eq!(verify(der, roots, "ovl", NOW - 1499).as_ref(), Ok(b.cert()));
    assert_eq!(
        verify(der, roots, "ovl", NOW - 1501),
        Err(CertError::NotYetValid {
            not_before: NOW - 900
        })
    );
    // Clocks that are ten minutes wrong do no harm.
    assert!(verify(der, roots, "ovl", NOW + LIFE + 599).is_ok());
    assert_eq!(
        verify(der, roots, "ovl", NOW + LIFE + 601),
        Err(CertError::Expired {
            not_after: NOW + LIFE
        })
    );
    assert_eq!(
        verify(der, first("ovl").1.roots(), "ovl", NOW),
        Err(CertError::UnknownAuthority)
    );
    let wrong = CertError::WrongLayer {
        found: label("ovl"),
        expected: label("other"),
    };
    assert_eq!(verify(der, roots, "other", NOW), Err(wrong));
    assert!(
        matches!(
            verify(&roots.ders()[0], roots, "ovl", NOW),
            Err(CertError::Malformed(_))
        ),
        "a root as a member"
    );
    for i in 0..der.len() {
        assert!(verify(&der[..i], roots, "ovl", NOW).is_err(), "cut at {i}");
        let mut bad = der.to_vec();
        bad[i] ^= 1;
        assert!(verify(&bad, roots, "ovl", NOW).is_err(), "altered at {i}");
    }
}

#[test]
fn an_invitation_counts_its_uses_and_each_use_is_noted() {
    let (mut authority, _) = first("ovl");
    let invitation = invited(&mut authority, &invite(None, &[], 2));
    let [b, c, d] = ["b", "c", "d"].map(|name| invitation.start(&label(name)).unwrap());
    let first = redeem(&mut authority, &b, NOW).unwrap();
    // The answer got lost: the same request is answered in the same way, over another session too.
    let again = authority
        .redeem(&b.request(&[5; 32]), &[5; 32], at(NOW + 9_999_999))
        .unwrap();
    assert_eq!(first, again);
    redeem(&mut authority, &c, NOW + 5).unwrap();
    let used_up = redeem(&mut authority, &d, NOW).unwrap_err();
    assert!(
        used_up.code == Code::Denied && used_up.text.contains("used up (2 of 2)"),
        "{used_up}"
    );
    let noted: Vec<_> = authority
        .audit()
        .map(|a| (a.at, a.member.as_str()))
        .collect();
    assert_eq!(noted, [(NOW, "b"), (NOW + 5, "c")]);
    assert_eq!(redeem(&mut authority, &b, NOW), Ok(first));
}

#[test]
fn each_refusal_has_its_reason() {
    let (mut authority, _) = first("ovl");
    let d = joiner(&mut authority, "d");
    let good = d.request(&EXPORTER);

    let late = redeem(&mut authority, &d, NOW + 600).unwrap_err();
    assert!(
        late.code == Code::Denied && late.text.contains("expired"),
        "{late}"
    );

    let (mut other, _) = first("ovl");
    let unknown = redeem(&mut other, &d, NOW).unwrap_err();
    assert_eq!(unknown.code, Code::NotFound, "{unknown}");
    let short = wire::EnrolRequest {
        invitation: vec![1; 15],
        ..good.clone()
    };
    assert_eq!(
        authority
            .redeem(&short, &EXPORTER, at(NOW))
            .unwrap_err()
            .code,
        Code::NotFound
    );

    // A relay that passes the request on in a session of its own.
    let relayed = authority.redeem(&good, &[8; 32], at(NOW)).unwrap_err();
    assert!(
        relayed.code == Code::Denied
            && relayed
                .text
                .contains("isn't signed with the invitation's seed"),
        "{relayed}"
    );

    // A relay that puts its own request under the joiner's signature, or the joiner's seed under another name.
    let mallory = invited(&mut authority, &invite(None, &[], 1))
        .start(&label("mallory"))
        .unwrap();
    let swapped = wire::EnrolRequest {
        csr: mallory.request(&EXPORTER).csr,
        ..good.clone()
    };
    assert!(
        authority
            .redeem(&swapped, &EXPORTER, at(NOW))
            .unwrap_err()
            .text
            .contains("isn't signed")
    );

    // The holder of the invitation, as somebody else than was invited.
    let mut line = invited(&mut authority, &invite(Some("e"), &[], 1));
    line.member = None;
    let renamed = redeem(&mut authority, &line.start(&label("f")).unwrap(), NOW).unwrap_err();
    assert!(
        renamed.code == Code::Conflict && renamed.text.contains("for member e, not for f"),
        "{renamed}"
    );
    line.layer = label("other");
    let elsewhere = redeem(&mut authority, &line.start(&label("e")).unwrap(), NOW).unwrap_err();
    assert!(
        elsewhere.code == Code::Conflict && elsewhere.text.contains("for layer other"),
        "{elsewhere}"
    );

    // None of all this has used the invitation up.
    assert!(redeem(&mut authority, &d, NOW).is_ok());
    assert_eq!(authority.audit().count(), 1);
}

#[test]
fn a_request_altered_at_any_byte_is_refused() {
    let (mut authority, _) = first("ovl");
    let d = joiner(&mut authority, "d");
    let good = d.request(&EXPORTER);
    for i in 0..good.csr.len() {
        let mut bad = good.clone();
        bad.csr[i] ^= 1;
        assert!(
            authority.redeem(&bad, &EXPORTER, at(NOW)).is_err(),
            "CSR byte {i}"
        );
    }
    for i in 0..good.seed_signature.len() {
        let mut bad = good.clone();
        bad.seed_signature[i] ^= 1;
        assert!(
            authority.redeem(&bad, &EXPORTER, at(NOW)).is_err(),
            "signature byte {i}"
        );
    }
    assert!(authority.redeem(&good, &EXPORTER, at(NOW)).is_ok());
}

#[test]
fn a_joiner_refuses_an_answer_for_somebody_else_or_of_another_root() {
    let (mut authority, _) = first("ovl");
    let (mut other, _) = first("ovl");
    let good = {
        let d = joiner(&mut authority, "d");
        redeem(&mut authority, &d, NOW).unwrap()
    };
    let foreign = enrolled(&mut other, "e");
    let answers = [
        ("somebody else's", good.clone()),
        (
            "another root's",
            wire::EnrolReply {
                chain: vec![foreign.chain()[1].clone()],
                ..good.clone()
            },
        ),
        (
            "another authority's",
            wire::EnrolReply {
                certificate: foreign.chain()[0].clone(),
                ..good.clone()
            },
        ),
        (
            "no chain",
            wire::EnrolReply {
                chain: Vec::new(),
                ..good.clone()
            },
        ),
        ("empty", wire::EnrolReply::default()),
    ];
    for (what, answer) in answers {
        let line = authority
            .invite(&invite(Some("e"), &[], 1), &label("a"), &[], at(NOW))
            .unwrap();
        let e = Invitation::parse(&line, at(NOW))
            .unwrap()
            .start(&label("e"))
            .unwrap();
        authority.invitations.clear();
        assert_eq!(
            e.finish(&answer, at(NOW)).unwrap_err().code,
            Code::PeerMisbehaved,
            "{what}"
        );
    }
    let e = joiner(&mut authority, "e");
    let no = wire::EnrolReply {
        code: Code::Denied as u32,
        text: "used up".into(),
        ..Default::default()
    };
    assert_eq!(
        e.finish(&no, at(NOW)).unwrap_err(),
        Reason::new(Code::Denied, "a refused: used up")
    );
}

#[test]
fn names_are_granted_once() {
    let (mut authority, _) = first("ovl");
    let conflict = |authority: &mut Authority, name: &str| {
        let reason = authority
            .invite(&invite(Some(name), &[], 1), &label("a"), &[], at(NOW))
            .unwrap_err();
        assert_eq!(reason.code, Code::Conflict);
        reason.text
    };
    assert!(conflict(&mut authority, "a").contains("member a of ovl exists already"));
    let d = joiner(&mut authority, "d");
    let other = invite(Some("d"), &["10.66.0.0/24"], 1);
    let reason = authority
        .invite(&other, &label("a"), &[], at(NOW))
        .unwrap_err();
    assert!(
        reason.text.contains("an open invitation grants the name d"),
        "{reason}"
    );
    redeem(&mut authority, &d, NOW).unwrap();
    assert!(conflict(&mut authority, "d").contains("exists already"));
    // An invitation that lets the joiner choose doesn't let it choose what somebody else has or was promised.
    let open = invited(&mut authority, &invite(None, &[], 5));
    joiner(&mut authority, "e");
    for (name, why) in [("d", "exists already"), ("e", "an open invitation grants")] {
        let reason = redeem(&mut authority, &open.start(&label(name)).unwrap(), NOW).unwrap_err();
        assert!(
            reason.code == Code::Conflict && reason.text.contains(why),
            "{reason}"
        );
    }
    // What expires is free again.
    assert!(
        authority
            .invite(&invite(Some("e"), &[], 1), &label("a"), &[], at(NOW + 601))
            .is_ok()
    );
}

#[test]
fn a_lost_line_is_replaced_by_asking_again_with_the_same_terms() {
    let (mut authority, _) = first("ovl");
    let ask = invite(Some("d"), &["10.66.0.0/24"], 1);
    let lost = invited(&mut authority, &ask).start(&label("d")).unwrap();
    let d = invited(&mut authority, &ask).start(&label("d")).unwrap();
    let reason = redeem(&mut authority, &lost, NOW).unwrap_err();
    assert_eq!(reason.code, Code::NotFound, "{reason}");
    redeem(&mut authority, &d, NOW).unwrap();
    let reason = authority
        .invite(&ask, &label("a"), &[], at(NOW))
        .unwrap_err();
    assert!(reason.text.contains("exists already"), "{reason}");
}

#[test]
fn colliding_addresses_are_found() {
    let (authority, _) = first("ovl");
    // Nobody finds two names of one address; the check itself is what can be asked.
    assert_eq!(
        authority.address_taken(address(&label("ovl"), &label("a")), None, at(NOW)),
        Some(&label("a"))
    );
    assert_eq!(
        authority.address_taken(address(&label("ovl"), &label("b")), None, at(NOW)),
        None
    );
}

#[test]
fn prefixes_are_granted_once() {
    let (mut authority, _) = first("ovl");
    let ask = |authority: &mut Authority, prefixes: &[&str], seconds| {
        authority
            .invite(&invite(None, prefixes, 1), &label("a"), &[], at(seconds))
            .map_err(|r| (r.code, r.text))
    };
    for (prefixes, why) in [
        (
            &["10.1.2.0/24"][..],
            "overlaps 10.1.0.0/16, which member a owns",
        ),
        (&["0.0.0.0/0"], "overlaps 10.1.0.0/16, which member a owns"),
        (
            &["fd00::/64", "fd00::1/128"],
            "fd00::/64 and fd00::1/128 overlap",
        ),
    ] {
        let (code, text) = ask(&mut authority, prefixes, NOW).unwrap_err();
        assert!(code == Code::Conflict && text.contains(why), "{text}");
    }
    ask(&mut authority, &["10.2.0.9/16", "fd00::/64"], NOW).unwrap();
    let (_, text) = ask(&mut authority, &["10.2.255.0/24"], NOW).unwrap_err();
    assert!(
        text.contains("overlaps 10.2.0.0/16, which an open invitation for anybody grants"),
        "{text}"
    );
    assert!(
        ask(&mut authority, &["10.2.255.0/24"], NOW + 601).is_ok(),
        "the invitation has expired"
    );
}

#[test]
fn the_groups_of_an_invitation_stand_in_the_certificate() {
    let (mut authority, _) = first("ovl");
    let with = |groups: &[String]| Invite {
        groups: groups.iter().map(|g| label(g)).collect(),
        ..invite(Some("b"), &[], 1)
    };
    let groups = ["ops", "lab", "ops"].map(str::to_owned);
    let b = invited(&mut authority, &with(&groups))
        .start(&label("b"))
        .unwrap();
    let reply = redeem(&mut authority, &b, NOW).unwrap();
    let b = b.finish(&reply, at(NOW)).unwrap();
    assert_eq!(b.cert().groups(), [label("lab"), label("ops")]);
    assert_eq!(b.cert().member(), &label("b"));
    let many: Vec<String> = (0..17).map(|i| format!("g{i}")).collect();
    let refused = authority.invite(&with(&many), &label("a"), &[], at(NOW));
    assert_eq!(refused.unwrap_err().code, Code::Conflict);
    let many = Invite {
        member: Some(label("c")),
        ..with(&many)
    };
    let refused = authority.invite(&many, &label("a"), &[], at(NOW));
    assert_eq!(refused.unwrap_err().code, Code::Usage);
}

#[test]
fn senseless_invitations_are_refused() {
    let (mut authority, _) = first("ovl");
    let no_time = Invite {
        expires_ms: 0,
        ..invite(None, &[], 1)
    };
    let many: Vec<String> = (0..65).map(|i| format!("10.9.{}.0/24", i * 2)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for senseless in [
        invite(None, &[], 0),
        no_time,
        invite(Some("d"), &[], 2),
        invite(None, &["10.9.0.0/16"], 2),
        invite(None, &many, 1),
    ] {
        let reason = authority
            .invite(&senseless, &label("a"), &[], at(NOW))
            .unwrap_err();
        assert_eq!(reason.code, Code::Usage, "{reason}");
    }
    assert!(authority.invitations.is_empty());
    for i in 0..MAX_INVITATIONS {
        authority.invitations.insert(
            (i as u128).to_be_bytes(),
            Open {
                seed_public: [0; 32],
                expires: u64::MAX - FORGET,
                uses: 1,
                left: 1,
                member: None,
                grant: Grant::default(),
            },
        );
    }
    assert_eq!(
        authority
            .invite(&invite(None, &[], 1), &label("a"), &[], at(NOW))
            .unwrap_err()
            .code,
        Code::Busy
    );
}

#[test]
fn an_authority_and_an_identity_survive_a_restart() {
    let (mut authority, a) = first("ovl");
    let d = joiner(&mut authority, "d");
    let lost = redeem(&mut authority, &d, NOW).unwrap();
    let e = joiner(&mut authority, "e");

    let mut authority = Authority::from_bytes(&authority.to_bytes()).unwrap();
    let a = Identity::from_bytes(&a.to_bytes()).unwrap();
    assert_eq!(
        authority.to_bytes(),
        Authority::from_bytes(&authority.to_bytes())
            .unwrap()
            .to_bytes()
    );
    assert_eq!(redeem(&mut authority, &d, NOW), Ok(lost));
    let reply = redeem(&mut authority, &e, NOW).unwrap();
    let e = e.finish(&reply, at(NOW)).unwrap();
    assert!(MemberCert::verify(e.cert().der(), &[], a.roots(), a.layer(), at(NOW)).is_ok());
    assert!(TlsConfig::member(&a, &clock(NOW)).is_ok());
    assert_eq!(authority.audit().count(), 2);
}

#[test]
fn a_state_file_cut_or_altered_at_any_byte_is_refused() {
    let (mut authority, a) = first("ovl");
    enrolled(&mut authority, "b");
    for (bytes, what) in [
        (a.to_bytes(), "identity"),
        (authority.to_bytes(), "authority"),
    ] {
        let read = |bytes: &[u8]| match what {
            "identity" => Identity::from_bytes(bytes).err(),
            _ => Authority::from_bytes(bytes).err(),
        };
        assert_eq!(read(&bytes), None);
        for i in 0..bytes.len() {
            assert!(read(&bytes[..i]).is_some(), "{what} cut at {i}");
        }
        let mut bad = bytes.clone();
        bad[200] ^= 1;
        assert!(matches!(read(&bad), Some(Corrupt::Damaged { .. })));
        bad[what.len() + 8..what.len() + 10].copy_from_slice(&[0, 9]);
        assert!(
            matches!(
                read(&bad),
                Some(Corrupt::Newer {
                    found: 9,
                    known: 1 | 3,
                    ..
                })
            ),
            "{:?}",
            read(&bad)
        );
    }
}

#[test]
fn a_sites_own_certificate_makes_an_identity() {
    let [x, y] = under_one_root(["xx", "yy"]);
    let pem = |kind: &str, der: &[u8]| {
        format!(
            "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
            base64(der)
        )
    };
    let (ca, cert, key) = (
        x.roots().ders()[0].clone(),
        x.chain()[0].clone(),
        x.private_key().secret_der().to_vec(),
    );
    let member = label("m-xx");
    let made = Identity::from_pki(&label("xx"), &member, &ca, &cert, &key, at(NOW)).unwrap();
    assert_eq!(made.cert(), x.cert());
    let (ca, cert) = (pem("CERTIFICATE", &ca), pem("CERTIFICATE", &cert));
    let from = |layer: &str, member: &str, cert: &str, key: &str| {
        Identity::from_pki(
            &label(layer),
            &label(member),
            ca.as_bytes(),
            cert.as_bytes(),
            key.as_bytes(),
            at(NOW),
        )
    };
    let key = pem("PRIVATE KEY", &key);
    assert_eq!(from("xx", "m-xx", &cert, &key).unwrap().chain(), x.chain());
    let other_key = pem("PRIVATE KEY", y.private_key().secret_der());
    for (result, code, why) in [
        (
            from("yy", "m-xx", &cert, &key),
            Code::Usage,
            "is for layer xx, not for yy",
        ),
        (
            from("xx", "b", &cert, &key),
            Code::Conflict,
            "is for member m-xx, not for b",
        ),
        (
            from("xx", "m-xx", &cert, &other_key),
            Code::Usage,
            "its key is another one",
        ),
        (
            from("xx", "m-xx", &cert, "-----BEGIN nothing"),
            Code::Usage,
            "--key holds no key",
        ),
        (
            from("xx", "m-xx", "-----BEGIN nothing", &key),
            Code::Usage,
            "--cert holds no certificate",
        ),
    ] {
        let reason = result.unwrap_err();
        assert!(reason.code == code && reason.text.contains(why), "{reason}");
    }
}

#[test]
fn sizes_dont_depend_on_chance() {
    let sizes: Vec<_> = (0..20)
        .map(|_| {
            let (mut authority, a) = first("ovl");
            let line = authority
                .invite(
                    &invite(Some("d"), &["10.4.0.0/24"], 1),
                    &label("a"),
                    &[],
                    at(NOW),
                )
                .unwrap();
            let d = Invitation::parse(&line, at(NOW))
                .unwrap()
                .start(&label("d"))
                .unwrap();
            let reply = redeem(&mut authority, &d, NOW).unwrap();
            (
                a.to_bytes().len(),
                line.len(),
                d.request(&EXPORTER).csr.len(),
                reply.certificate.len(),
                authority.to_bytes().len(),
            )
        })
        .collect();
    assert!(sizes.iter().all(|s| *s == sizes[0]), "{sizes:?}");
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = if i <= chunk.len() {
                DIGITS[(word >> (18 - 6 * i)) as usize & 63]
            } else {
                b'='
            };
            out.push(char::from(digit));
        }
    }
    out
}
