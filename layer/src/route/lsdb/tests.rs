//! What the database believes, keeps, tells and forgets.

use std::time::{Duration, Instant};

use prost::Message;
use proto::ipcp::Invite;
use proto::wire::{self, Digest, Record, SignedRecord};
use proto::{Addr, Label};

use super::super::record::{MAX_RECORD, signed_bytes};
use super::*;
use crate::crypt::{Authority, CertError, Identity, Invitation};
use crate::{Now, UnixTime};

/// Members of one layer, each with its database.
struct Layer {
    start: Now,
    members: Vec<(Identity, Lsdb)>,
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

impl Layer {
    fn of(n: usize) -> Self {
        let wall = UnixTime(Duration::from_secs(1_800_000_000));
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to an Instant, and only differences count"
        )]
        let start = Now {
            mono: Instant::now() + Duration::from_secs(10_000),
            wall,
        };
        let layer = label("ovl");
        let (mut authority, first) = Authority::create(&layer, &label("m0"), &[], wall).unwrap();
        let mut identities = vec![first];
        for i in 1..n {
            let name = label(&format!("m{i}"));
            let invite = Invite {
                member: Some(name.clone()),
                prefixes: vec![],
                expires_ms: 60_000,
                uses: 1,
                hints: vec![],
                groups: Vec::new(),
            };
            let url = authority
                .invite(&invite, &label("m0"), &[label("m0")], wall)
                .unwrap();
            let joiner = Invitation::parse(&url, wall).unwrap().start(&name).unwrap();
            let reply = authority
                .redeem(&joiner.request(&[7; 32]), &[7; 32], wall)
                .unwrap();
            identities.push(joiner.finish(&reply, wall).unwrap());
        }
        let with_db = |identity: Identity| {
            let lsdb = Lsdb::new(identity.address(), layer.clone(), 1);
            (identity, lsdb)
        };
        Self {
            start,
            members: identities.into_iter().map(with_db).collect(),
        }
    }

    fn addr(&self, i: usize) -> Addr {
        self.members[i].0.address()
    }

    fn at(&self, secs: u64) -> Now {
        let after = Duration::from_secs(secs);
        Now {
            mono: self.start.mono + after,
            wall: UnixTime(self.start.wall.0 + after),
        }
    }

    fn links(&mut self, i: usize, to: &[usize]) -> SignedRecord {
        let links = to
            .iter()
            .map(|j| LinkState {
                neighbour: self.addr(*j),
                cost: 1,
                mtu: 1400,
            })
            .collect();
        let (identity, lsdb) = &mut self.members[i];
        lsdb.set_links(self.start, identity, links).unwrap()
    }

    fn insert_at(
        &mut self,
        secs: u64,
        i: usize,
        record: &SignedRecord,
    ) -> Result<Inserted, RecordError> {
        let now = self.at(secs);
        let (identity, lsdb) = &mut self.members[i];
        lsdb.insert(now, identity, record.clone())
    }

    fn insert(&mut self, i: usize, record: &SignedRecord) -> Result<Inserted, RecordError> {
        self.insert_at(0, i, record)
    }

    fn tick(&mut self, secs: u64, i: usize) -> Vec<SignedRecord> {
        let now = self.at(secs);
        let (identity, lsdb) = &mut self.members[i];
        lsdb.tick(now, identity)
    }

    /// A record that `signer` signs, whatever it says.
    fn forge(&self, signer: usize, body: &Record) -> SignedRecord {
        let identity = &self.members[signer].0;
        let body = Record {
            signed_at: self.start.wall.secs(),
            ..body.clone()
        };
        let body = body.encode_to_vec();
        let signature = identity
            .sign(&signed_bytes(identity.layer(), &body))
            .to_vec();
        SignedRecord {
            body,
            signature,
            certificate: identity.cert().der().to_vec(),
            age: 0,
            intermediates: vec![],
        }
    }
}

#[test]
fn records_make_routes_and_members() {
    let mut layer = Layer::of(3);
    let records = [
        layer.links(0, &[1]),
        layer.links(1, &[0, 2]),
        layer.links(2, &[1]),
    ];
    for record in records.iter().skip(1) {
        assert!(matches!(layer.insert(0, record), Ok(Inserted::New(r)) if r == *record));
        assert_eq!(layer.insert(0, record), Ok(Inserted::Known));
    }
    let (me, far) = (layer.addr(0), layer.addr(2));
    let lsdb = &mut layer.members[0].1;
    let fib = lsdb.routes(me);
    assert_eq!(
        fib.next_hop(far).map(|h| (h.cost, h.hops, h.mtu)),
        Some((2, 2, 1400))
    );
    let mut members: Vec<_> = lsdb.members().map(|m| m.member().to_string()).collect();
    members.sort();
    assert_eq!(members, ["m0", "m1", "m2"]);
    assert!(lsdb.changed());
    assert!(!lsdb.changed());
}

#[test]
fn only_the_originator_can_say_something() {
    let mut layer = Layer::of(3);
    let good = layer.links(1, &[0]);
    let victim = layer.addr(1);
    let body = Record {
        origin: victim.0,
        kind: 1,
        incarnation: 9,
        counter: 9,
        ..Record::default()
    };
    let found = layer.addr(2);
    let own_cert = layer.forge(2, &body);
    assert_eq!(
        layer.insert(0, &own_cert),
        Err(RecordError::WrongOrigin {
            claimed: victim,
            found
        })
    );
    let others_cert = SignedRecord {
        certificate: good.certificate.clone(),
        ..own_cert
    };
    assert_eq!(
        layer.insert(0, &others_cert),
        Err(RecordError::Forged(victim))
    );
    let mut altered = good.clone();
    *altered.body.last_mut().unwrap() ^= 1;
    assert!(matches!(
        layer.insert(0, &altered),
        Err(RecordError::Forged(_) | RecordError::Malformed(_) | RecordError::WrongTime(_))
    ));
    let stranger = Layer::of(2).links(1, &[0]);
    assert_eq!(
        layer.insert(0, &stranger),
        Err(RecordError::Certificate(CertError::UnknownAuthority))
    );
    assert_eq!(layer.members[0].1.members().count(), 0);
    assert!(matches!(layer.insert(0, &good), Ok(Inserted::New(_))));
}

#[test]
fn every_bound_has_its_error() {
    let mut layer = Layer::of(2);
    let body = Record {
        origin: layer.addr(1).0,
        kind: 1,
        incarnation: 1,
        counter: 1,
        ..Record::default()
    };
    let link = wire::LinkState {
        neighbour: 1,
        cost: 1,
        mtu: 1,
    };
    let many = layer.forge(
        1,
        &Record {
            links: vec![link; MAX_LINKS + 1],
            ..body.clone()
        },
    );
    assert_eq!(
        layer.insert(0, &many),
        Err(RecordError::TooLarge {
            what: "links",
            max: MAX_LINKS
        })
    );
    let large = SignedRecord {
        body: vec![0; MAX_RECORD],
        ..SignedRecord::default()
    };
    assert_eq!(
        layer.insert(0, &large),
        Err(RecordError::TooLarge {
            what: "bytes",
            max: MAX_RECORD
        })
    );
}

#[test]
fn what_is_no_record_is_named_malformed() {
    let mut layer = Layer::of(2);
    let body = Record {
        origin: layer.addr(1).0,
        kind: 1,
        incarnation: 1,
        counter: 1,
        ..Record::default()
    };
    let link = wire::LinkState {
        neighbour: 1,
        cost: 1,
        mtu: 1,
    };
    for malformed in [
        Record {
            kind: 0,
            ..body.clone()
        },
        Record {
            kind: 6,
            ..body.clone()
        },
        Record {
            kind: 2,
            links: vec![link],
            ..body.clone()
        },
    ] {
        let record = layer.forge(1, &malformed);
        assert!(
            matches!(layer.insert(0, &record), Err(RecordError::Malformed(_))),
            "{malformed:?} was taken"
        );
    }
    let broken = SignedRecord {
        body: vec![0xff; 40],
        ..SignedRecord::default()
    };
    assert!(matches!(
        layer.insert(0, &broken),
        Err(RecordError::Malformed(_))
    ));
}

#[test]
fn an_older_record_is_answered_with_the_newer() {
    let mut layer = Layer::of(2);
    let old = layer.links(1, &[0]);
    let new = layer.links(1, &[]);
    assert!(matches!(layer.insert(0, &new), Ok(Inserted::New(_))));
    assert_eq!(layer.insert(0, &old), Ok(Inserted::Stale(new)));
}

#[test]
fn digests_bring_two_neighbours_level() {
    let mut layer = Layer::of(3);
    let others = [layer.links(1, &[0]), layer.links(2, &[0])];
    layer.links(0, &[1]);
    layer.insert(0, &others[0]).unwrap();
    layer.insert(1, &others[1]).unwrap();
    let now = layer.start.mono;
    for (from, to) in [(0, 1), (1, 0)] {
        let digests = layer.members[to].1.digests(Addr(0), Addr(u64::MAX));
        let missing: Vec<_> = digests
            .iter()
            .flat_map(|d| layer.members[from].1.missing(now, d))
            .flat_map(|m| m.records)
            .collect();
        assert_eq!(missing.len(), 1, "only what lacks is sent");
        for record in &missing {
            assert!(matches!(layer.insert(to, record), Ok(Inserted::New(_))));
        }
    }
    let level = layer.members[0].1.digests(Addr(0), Addr(u64::MAX));
    assert_eq!(level, layer.members[1].1.digests(Addr(0), Addr(u64::MAX)));
    assert!(
        level
            .iter()
            .all(|d| layer.members[1].1.missing(now, d).is_empty())
    );
    assert!(
        layer.members[0]
            .1
            .missing(
                now,
                &Digest {
                    versions: vec![],
                    first: 9,
                    last: 1
                }
            )
            .is_empty()
    );
}

#[test]
fn a_member_that_starts_again_rises_above_its_earlier_life() {
    let mut layer = Layer::of(2);
    layer.members[1].1 = Lsdb::new(layer.addr(1), label("ovl"), 5);
    let earlier = layer.links(1, &[0]);
    layer.insert(0, &earlier).unwrap();
    // Its file with the incarnation was lost.
    layer.members[1].1 = Lsdb::new(layer.addr(1), label("ovl"), 1);
    let weak = layer.links(1, &[0]);
    let Ok(Inserted::Stale(own)) = layer.insert(0, &weak) else {
        panic!("the earlier one must win")
    };
    let Ok(Inserted::OwnFromBefore(again)) = layer.insert(1, &own) else {
        panic!("it must know itself")
    };
    assert_eq!(layer.members[1].1.incarnation(), 5);
    for record in &again {
        assert!(matches!(layer.insert(0, record), Ok(Inserted::New(_))));
    }
}

#[test]
fn what_nobody_renews_is_forgotten_and_its_age_travels_along() {
    let mut layer = Layer::of(3);
    let record = layer.links(1, &[0]);
    layer.insert(0, &record).unwrap();
    assert!(layer.tick(1700, 0).is_empty());
    let empty = layer.members[2].1.digests(Addr(0), Addr(u64::MAX));
    let late = layer.members[0].1.missing(layer.at(1700).mono, &empty[0])[0].records[0].clone();
    assert_eq!(late.age, 1700);
    assert!(matches!(
        layer.insert_at(1700, 2, &late),
        Ok(Inserted::New(_))
    ));
    for i in [0, 2] {
        layer.tick(1790, i);
        assert_eq!(layer.members[i].1.members().count(), 1);
        layer.tick(1840, i);
        assert_eq!(layer.members[i].1.members().count(), 0);
    }
    let dead = SignedRecord {
        age: 1800,
        ..record
    };
    assert_eq!(
        layer.insert(0, &dead),
        Err(RecordError::TooOld(layer.addr(1)))
    );
}

#[test]
fn members_that_began_together_renew_their_records_apart() {
    let mut layer = Layer::of(20);
    let mut due: Vec<_> = (0..20)
        .map(|i| {
            layer.links(i, &[(i + 1) % 20]);
            let at = layer.members[i].1.renew_at.unwrap();
            at.duration_since(layer.start.mono).as_secs()
        })
        .collect();
    due.sort_unstable();
    let (first, last) = (due[0], due[19]);
    assert!(first >= 540 && last <= 660, "{due:?}");
    assert!(last - first > 60, "{due:?}");
    due.dedup();
    assert!(due.len() >= 15, "some renew in the same second: {due:?}");
}

#[test]
fn a_member_renews_its_records_in_time() {
    let mut layer = Layer::of(2);
    let first = layer.links(1, &[0]);
    layer.insert(0, &first).unwrap();
    assert!(layer.tick(530, 1).is_empty());
    let due = layer.members[1].1.deadline().unwrap();
    assert!(due <= layer.at(660).mono);
    let renewed = layer.tick(661, 1);
    assert_eq!(renewed.len(), 1);
    layer.members[0].1.changed();
    assert!(matches!(
        layer.insert_at(661, 0, &renewed[0]),
        Ok(Inserted::New(_))
    ));
    assert!(!layer.members[0].1.changed(), "a renewal changes no route");
    layer.tick(1900, 0);
    assert_eq!(layer.members[0].1.members().count(), 1);
}

#[test]
fn one_who_lies_about_the_age_can_not_have_a_record_forgotten() {
    let mut layer = Layer::of(2);
    let record = layer.links(1, &[0]);
    layer
        .insert(
            0,
            &SignedRecord {
                age: 1790,
                ..record.clone()
            },
        )
        .unwrap();
    assert_eq!(layer.insert(0, &record), Ok(Inserted::Known));
    layer.tick(60, 0);
    assert_eq!(layer.members[0].1.members().count(), 1);
}

#[test]
fn whoever_says_that_a_record_is_young_can_not_keep_it_for_ever() {
    let mut layer = Layer::of(2);
    let record = layer.links(1, &[0]);
    assert_eq!(record.age, 0, "it says so whenever it comes");
    assert!(matches!(
        layer.insert_at(8_900, 0, &record),
        Ok(Inserted::New(_))
    ));
    layer.tick(8_950, 0);
    assert_eq!(layer.members[0].1.members().count(), 1);
    layer.tick(9_100, 0);
    assert_eq!(layer.members[0].1.members().count(), 0);
    let wrong = Err(RecordError::WrongTime(layer.addr(1)));
    assert_eq!(layer.insert_at(9_100, 0, &record), wrong);
    // Nor can its originator, by a clock that is ahead.
    layer.start.wall = UnixTime(layer.start.wall.0 + Duration::from_secs(10_000));
    let ahead = layer.links(1, &[]);
    layer.start.wall = UnixTime(layer.start.wall.0 - Duration::from_secs(10_000));
    assert_eq!(layer.insert(0, &ahead), wrong);
}

#[test]
fn summaries_name_only_the_ranges_that_differ_and_level_both_sides() {
    let n = 40;
    let mut layer = Layer::of(n);
    let records: Vec<_> = (0..n).map(|i| layer.links(i, &[(i + 1) % n])).collect();
    for record in &records[2..] {
        for to in [0, 1] {
            layer.insert(to, record).unwrap();
        }
    }
    let ours = |layer: &Layer, i: usize| layer.members[i].1.summary();
    assert_eq!((ours(&layer, 0).bits, ours(&layer, 0).sums.len()), (1, 2));
    // 0 and 1 lack each other's record, and each hears by the other's summary where.
    let digests = layer.members[1].1.differing(&ours(&layer, 0)).unwrap();
    let named: usize = digests.iter().map(|d| d.versions.len()).sum();
    assert!(named > 0 && named < n, "{named} of {n} were named");
    let now = layer.start.mono;
    for digest in &digests {
        for record in layer.members[0]
            .1
            .missing(now, digest)
            .iter()
            .flat_map(|m| &m.records)
        {
            layer.insert(1, record).unwrap();
        }
        for asked in layer.members[0].1.lacking(digest) {
            for record in layer.members[1]
                .1
                .missing(now, &asked)
                .iter()
                .flat_map(|m| &m.records)
            {
                layer.insert(0, record).unwrap();
            }
        }
    }
    assert_eq!(ours(&layer, 0), ours(&layer, 1), "one exchange levels both");
    assert_eq!(layer.members[0].1.differing(&ours(&layer, 1)), Some(vec![]));
    // A newcomer asks for all; its own summary makes nobody say what it holds.
    let newcomer = Lsdb::new(Addr(1), label("ovl"), 1);
    let asks = newcomer.differing(&ours(&layer, 0)).unwrap();
    let all: usize = asks
        .iter()
        .flat_map(|d| layer.members[0].1.missing(now, d))
        .map(|m| m.records.len())
        .sum();
    assert_eq!(all, n);
}

#[test]
fn a_summary_of_the_wrong_form_is_none() {
    let layer = Layer::of(1);
    let lsdb = &layer.members[0].1;
    for (bits, sums) in [
        (0, 0),
        (0, 2),
        (3, 7),
        (11, 1 << 11),
        (64, 1),
        (u32::MAX, 1),
    ] {
        let summary = wire::Summary {
            bits,
            sums: vec![0; sums],
        };
        assert_eq!(lsdb.differing(&summary), None, "{bits} bits, {sums} sums");
    }
}

#[test]
fn members_that_share_numbers_hold_find_and_forget_what_they_would_without() {
    let mut layer = Layer::of(4);
    let addresses: Vec<Addr> = (0..4).map(|i| layer.addr(i)).collect();
    let strangers = (1..100).map(Addr);
    let pool = Pool::of(strangers.chain(addresses));
    layer.members[0].1.share(pool);
    let records = [
        layer.links(0, &[2]),
        layer.links(1, &[2]),
        layer.links(2, &[0, 1, 3]),
    ];
    for i in [0, 3] {
        for record in &records {
            layer.insert(i, record).ok();
        }
    }
    let knows = |layer: &Layer, i: usize| -> Vec<String> {
        let members = layer.members[i].1.members();
        members.map(|cert| cert.member().to_string()).collect()
    };
    assert_eq!(knows(&layer, 0).len(), 3);
    assert_eq!(knows(&layer, 0), knows(&layer, 3));
    let same = |layer: &Layer| {
        let (with, without) = (&layer.members[0].1, &layer.members[3].1);
        assert_eq!(with.summary(), without.summary());
        for i in 0..3 {
            assert_eq!(with.routes(layer.addr(i)), without.routes(layer.addr(i)));
        }
    };
    same(&layer);
    assert_eq!(
        layer.members[0].1.routes(layer.addr(0)).len(),
        2,
        "the fourth is named but has said nothing"
    );
    let gone = layer.addr(1);
    for i in [0, 3] {
        let now = layer.at(1).mono;
        assert!(layer.members[i].1.expel(now, |cert| cert.address() == gone));
    }
    assert_eq!(knows(&layer, 0).len(), 2);
    same(&layer);
    for i in [0, 3] {
        let back = layer.insert(i, &records[1]);
        assert_eq!(back, Ok(Inserted::New(records[1].clone())));
    }
    same(&layer);
}
