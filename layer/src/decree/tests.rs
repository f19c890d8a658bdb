use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::crypt::Identity;

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some beginning of time"
)]
fn begin() -> Instant {
    Instant::now()
}

const NOW: UnixTime = UnixTime(Duration::from_secs(1_800_000_000));

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn authority() -> (Authority, Identity) {
    Authority::create(&label("ovl"), &label("a"), &[], NOW).unwrap()
}

fn decrees() -> Decrees {
    Decrees::new(label("ovl"))
}

/// Takes a decree from a neighbour that has sent none before.
fn take(member: &mut Decrees, roots: &Roots, signed: SignedDecree) -> Result<Taken, DecreeError> {
    member.insert(begin(), &mut Share::default(), roots, signed)
}

/// What another implementation signed.
fn vector(name: &str) -> SignedDecree {
    let part = |part| crate::vectors::vector(&format!("{name}.{part}"));
    SignedDecree {
        body: part("body"),
        signature: part("signature"),
    }
}

#[test]
fn decrees_of_the_document_are_believed_and_say_what_they_should() {
    let mut held = Decrees::new(label("home"));
    let root = Roots::new(vec![crate::vectors::vector("root")]).unwrap();
    let taken = take(&mut held, &root, vector("trust"));
    assert_eq!(taken, Ok(Taken::New(Kind::TRUST)));
    let content = crate::vectors::vector("trust.content");
    let trust = Trust::read(&content).unwrap();
    assert_eq!(held.current(Kind::TRUST).unwrap().content, content);
    assert_eq!(
        (trust.write(), trust.holder.clone()),
        (content, Some(label("alice")))
    );

    let refused = take(&mut held, &root, vector("revoked"));
    assert_eq!(refused, Err(DecreeError::Signer), "before bob may issue");
    let roots = trust.roots().unwrap();
    let taken = take(&mut held, &roots, vector("revoked"));
    assert_eq!(taken, Ok(Taken::New(Kind::REVOKED)));
    let content = crate::vectors::vector("revoked.content");
    let revoked = Revocation::read(&content).unwrap();
    assert_eq!(revoked[0].member, label("carol"));
    assert_eq!(Revocation::write(&revoked), content);

    let taken = take(&mut held, &roots, vector("policy"));
    assert_eq!(taken, Ok(Taken::New(Kind::POLICY)));
    let policy = &held.current(Kind::POLICY).unwrap().content;
    assert_eq!(policy, b"strata policy 1\nallow * * by any\n");
    let mut altered = vector("rollover");
    assert_eq!(
        take(&mut held, &roots, altered.clone()),
        Ok(Taken::New(Kind::TRUST))
    );
    altered.body[3] ^= 4;
    assert_eq!(take(&mut held, &roots, altered), Err(DecreeError::Forged));
    let two = Trust::read(&held.current(Kind::TRUST).unwrap().content).unwrap();
    assert!(two.is_rolling() && two.roots().is_ok());
}

fn published(authority: &Authority, kinds: &[(Kind, &str)]) -> (Decrees, Vec<SignedDecree>) {
    let mut decrees = decrees();
    let publish = |(kind, text): &(Kind, &str)| {
        let content = text.as_bytes().to_vec();
        decrees.publish(authority, *kind, content, NOW).unwrap()
    };
    let all = kinds.iter().map(publish).collect();
    (decrees, all)
}

fn text(decrees: &Decrees, kind: Kind) -> Option<&str> {
    let decree = decrees.current(kind)?;
    Some(std::str::from_utf8(&decree.content).unwrap())
}

#[test]
fn the_newest_of_each_kind_holds_in_whatever_order_they_come() {
    let (authority, identity) = authority();
    let kinds = [
        (Kind::POLICY, "one"),
        (Kind::REVOKED, "r"),
        (Kind::POLICY, "two"),
    ];
    let (_, all) = published(&authority, &kinds);
    let roots = identity.roots();
    let mut member = decrees();
    let taken = |member: &mut Decrees, i: usize| take(member, roots, all[i].clone()).unwrap();
    assert_eq!(taken(&mut member, 2), Taken::New(Kind::POLICY));
    assert_eq!(taken(&mut member, 0), Taken::Stale(all[2].clone()));
    assert_eq!(taken(&mut member, 2), Taken::Known);
    assert_eq!(taken(&mut member, 1), Taken::New(Kind::REVOKED));
    assert_eq!(text(&member, Kind::POLICY), Some("two"));
    assert_eq!(text(&member, Kind::REVOKED), Some("r"));
    assert_eq!(text(&member, Kind::TRUST), None);
    assert_eq!(member.current(Kind::POLICY).unwrap().number, 2);
}

#[test]
fn what_no_authority_of_the_layer_signed_is_refused() {
    let (ours, identity) = authority();
    let (other, _) = authority();
    let roots = identity.roots();
    let (_, foreign) = published(&other, &[(Kind::POLICY, "x")]);
    let refused = |signed| take(&mut decrees(), roots, signed).unwrap_err();
    assert_eq!(refused(foreign[0].clone()), DecreeError::Signer);
    let (_, good) = published(&ours, &[(Kind::POLICY, "x")]);
    let mut altered = good[0].clone();
    let mut body = wire::Decree::decode(altered.body.as_slice()).unwrap();
    body.content = b"y".to_vec();
    altered.body = body.encode_to_vec();
    assert_eq!(refused(altered), DecreeError::Forged);
    let elsewhere = take(&mut Decrees::new(label("other")), roots, good[0].clone());
    assert_eq!(elsewhere, Err(DecreeError::Forged));
    let mut from_member = good[0].clone();
    from_member.signature = identity
        .sign(&signed::signed_bytes(&label("ovl"), &from_member.body))
        .to_vec();
    assert_eq!(refused(from_member), DecreeError::Forged);
}

#[test]
fn bounds_hold_on_the_wire_and_where_a_decree_is_made() {
    let (authority, identity) = authority();
    let mut decrees = decrees();
    let large = vec![0; MAX_CONTENT + 1];
    let made = decrees.publish(&authority, Kind::POLICY, large, NOW);
    assert!(matches!(made, Err(DecreeError::TooLarge { .. })));
    let fits = vec![0; MAX_CONTENT];
    let signed = decrees
        .publish(&authority, Kind::POLICY, fits, NOW)
        .unwrap();
    assert!(take(&mut self::decrees(), identity.roots(), signed).is_ok());
    let with = |change: &dyn Fn(&mut wire::Decree)| {
        let mut body = wire::Decree {
            kind: 3,
            number: 1,
            signer: authority.voice().to_vec(),
            signed_at: 0,
            content: Vec::new(),
        };
        change(&mut body);
        let body = body.encode_to_vec();
        let signature = authority.sign(&signed::signed_bytes(&label("ovl"), &body));
        let signed = SignedDecree {
            body,
            signature: signature.to_vec(),
        };
        take(&mut self::decrees(), identity.roots(), signed)
    };
    assert!(with(&|_| {}).is_ok());
    // A kind that is unknown here is carried for those that know it.
    assert!(with(&|b| b.kind = 15).is_ok());
    for bad in [
        with(&|b| b.kind = 0),
        with(&|b| b.kind = 16),
        with(&|b| b.number = 0),
        with(&|b| b.signer = vec![1; 31]),
        with(&|b| b.content = vec![0; MAX_CONTENT + 1]),
        with(&|b| b.content = vec![0; MAX_CONTENT + 1000]),
    ] {
        assert!(bad.is_err());
    }
}

#[test]
fn a_neighbour_that_makes_decrees_up_is_checked_only_so_often() {
    let (authority, identity) = authority();
    let (_, good) = published(&authority, &[(Kind::POLICY, "x")]);
    let forged = SignedDecree {
        signature: vec![0; 64],
        ..good[0].clone()
    };
    let (mut member, mut share, start) = (decrees(), Share::default(), begin());
    let mut put = |millis, signed: &SignedDecree| {
        let now = start + Duration::from_millis(millis);
        member.insert(now, &mut share, identity.roots(), signed.clone())
    };
    for _ in 0..BURST {
        assert_eq!(put(0, &forged), Err(DecreeError::Forged));
    }
    assert_eq!(put(100, &good[0]), Err(DecreeError::TooMany));
    assert_eq!(put(260, &good[0]), Ok(Taken::New(Kind::POLICY)));
    assert_eq!(put(260, &good[0]), Ok(Taken::Known));
    let dull = |signed| take(&mut decrees(), identity.roots(), signed);
    assert_eq!(
        dull(forged),
        Err(DecreeError::Forged),
        "others have a share of their own"
    );
}

#[test]
fn a_digest_names_what_is_held_and_the_other_side_sends_what_is_missing() {
    let (authority, identity) = authority();
    let kinds = [(Kind::POLICY, "p"), (Kind::TRUST, "t"), (Kind::POLICY, "q")];
    let (mut full, all) = published(&authority, &kinds);
    let mut member = decrees();
    take(&mut member, identity.roots(), all[0].clone()).unwrap();
    // Whom to trust comes first, since it may say who may sign the rest.
    assert_eq!(
        full.missing(&member.digest(), identity.roots()),
        [all[1].clone(), all[2].clone()]
    );
    assert_eq!(member.missing(&full.digest(), identity.roots()), []);
    for signed in full.missing(&member.digest(), identity.roots()) {
        take(&mut member, identity.roots(), signed).unwrap();
    }
    assert_eq!(full.missing(&member.digest(), identity.roots()), []);
    let (stranger, _) = self::authority();
    let content = b"alien".to_vec();
    full.publish(&stranger, Kind::POLICY, content, NOW).unwrap();
    assert_eq!(text(&full, Kind::POLICY), Some("alien"));
    assert!(full.retain_trusted(identity.roots()));
    assert_eq!(text(&full, Kind::POLICY), Some("q"));
    assert!(!full.retain_trusted(identity.roots()));
}

#[test]
fn of_two_with_one_number_all_members_hold_the_same() {
    let (authority, identity) = authority();
    let (_, one) = published(&authority, &[(Kind::POLICY, "one")]);
    let (_, two) = published(&authority, &[(Kind::POLICY, "two")]);
    let mut left = decrees();
    let mut right = decrees();
    for (member, order) in [(&mut left, [&one, &two]), (&mut right, [&two, &one])] {
        for signed in order {
            take(member, identity.roots(), signed[0].clone()).unwrap();
        }
    }
    assert_eq!(text(&left, Kind::POLICY), text(&right, Kind::POLICY));
    assert_eq!(left.missing(&right.digest(), identity.roots()), []);
}

#[test]
fn decrees_survive_their_file_and_a_torn_one_is_refused() {
    let (authority, _) = authority();
    let (decrees, _) = published(&authority, &[(Kind::POLICY, "p"), (Kind::REVOKED, "r")]);
    let bytes = decrees.to_bytes();
    let again = Decrees::from_bytes(label("ovl"), &bytes).unwrap();
    assert_eq!(again.digest(), decrees.digest());
    for at in 0..bytes.len() {
        assert!(Decrees::from_bytes(label("ovl"), &bytes[..at]).is_err());
    }
}

/// The table of docs/protocol.md.
#[test]
fn the_body_of_a_decree_is_that_of_the_protocol() {
    let body = wire::Decree {
        kind: 3,
        number: 1,
        signer: vec![1; 32],
        signed_at: 1_800_000_000,
        content: b"p".to_vec(),
    };
    let bytes = body.encode_to_vec();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let signer = "01".repeat(32);
    assert_eq!(hex, format!("080310011a20{signer}2080a4a7da062a0170"));
    let signed = signed::signed_bytes(&label("ovl"), b"body");
    assert_eq!(signed, b"strata decree v1ovl\0body");
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_are_believed(body in proptest::collection::vec(any::<u8>(), 0..200), signature in proptest::collection::vec(any::<u8>(), 0..80)) {
        let (_, identity) = authority();
        let signed = SignedDecree { body, signature };
        prop_assert!(take(&mut decrees(), identity.roots(), signed).is_err());
    }
}
