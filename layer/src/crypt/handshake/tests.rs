use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;
use crate::crypt::exchange::{GROUPS, Hybrid};
use crate::crypt::fixtures::{
    LIFE, NOW, at, begin, clock, config, enrolled, first, invite, invited, label, under_one_root,
};
use crate::crypt::tls::{Anchor, Trust, suites};
use crate::crypt::{Identity, SealKey};

/// A client, a server and a link that harms what it carries; the clock jumps to the next thing that happens.
struct Net {
    ends: [Handshake; 2],
    outcomes: [Vec<Outcome>; 2],
    errors: Vec<HandshakeError>,
    rng: ChaCha20Rng,
    loss: u32,
    /// PDUs that are larger vanish.
    path: usize,
    now: Instant,
    air: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    /// All PDUs that were sent, with who sent them.
    log: Vec<(usize, Vec<u8>)>,
    /// What to do with the PDU of this number instead of carrying it.
    tamper: Option<(usize, Tamper)>,
    /// What somebody in between writes instead of something else in each PDU.
    talk_down: Option<(&'static [u8], &'static [u8])>,
}

#[derive(Clone, Copy)]
enum Tamper {
    Drop,
    /// Flips a byte; the good PDU follows or is lost.
    Flip {
        at: usize,
        bits: u8,
        lost: bool,
    },
}

impl Net {
    fn new(client: &TlsConfig, server: &TlsConfig, mtu: usize) -> Self {
        let now = begin();
        let ends = [
            Handshake::client(client, 77, mtu, now).unwrap(),
            Handshake::server(server, 77, mtu, now).unwrap(),
        ];
        Self {
            ends,
            outcomes: [Vec::new(), Vec::new()],
            errors: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(0),
            loss: 0,
            path: usize::MAX,
            now,
            air: BTreeMap::new(),
            log: Vec::new(),
            tamper: None,
            talk_down: None,
        }
    }

    fn harsh(mut self, seed: u64, loss: u32) -> Self {
        self.rng = ChaCha20Rng::seed_from_u64(seed);
        self.loss = loss;
        self
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.next_u32() % 100 < chance
    }

    fn carry(&mut self, to: usize, pdu: Vec<u8>) {
        let spread = if self.loss > 0 {
            u64::from(self.rng.next_u32() % 60)
        } else {
            0
        };
        let key = (
            self.now + Duration::from_millis(5 + spread),
            self.log.len() as u64 * 2 + self.air.len() as u64,
        );
        self.air.insert(key, (to, pdu));
    }

    fn flush(&mut self) {
        for end in 0..2 {
            while let Some(mut pdu) = self.ends[end].poll(self.now) {
                if let Some((from, to)) = self.talk_down
                    && let Some(at) = pdu.windows(from.len()).position(|w| w == from)
                {
                    pdu[at..at + to.len()].copy_from_slice(to);
                }
                let number = self.log.len();
                self.log.push((end, pdu.clone()));
                match self.tamper.filter(|(n, _)| *n == number) {
                    Some((_, Tamper::Drop)) => continue,
                    Some((_, Tamper::Flip { at, bits, lost })) => {
                        let mut bad = pdu.clone();
                        bad[at] ^= bits;
                        self.carry(1 - end, bad);
                        if lost {
                            continue;
                        }
                    }
                    None => {}
                }
                if pdu.len() > self.path || self.percent(self.loss) {
                    continue;
                }
                if self.loss > 0 && self.percent(10) {
                    self.carry(1 - end, pdu.clone());
                }
                self.carry(1 - end, pdu);
            }
            self.outcomes[end].extend(self.ends[end].outcome());
        }
    }

    /// Goes on until nothing happens any more.
    fn run(&mut self) {
        loop {
            self.flush();
            let timers = self.ends.iter().filter_map(Handshake::deadline);
            let Some(next) = timers.chain(self.air.keys().map(|(at, _)| *at)).min() else {
                return;
            };
            self.now = next.max(self.now);
            if self
                .air
                .first_key_value()
                .is_some_and(|((at, _), _)| *at <= self.now)
                && let Some((_, (to, mut pdu))) = self.air.pop_first()
            {
                self.errors
                    .extend(self.ends[to].handle(self.now, &mut pdu).err());
            }
        }
    }

    /// The secrets of both sides, which must be the only outcome.
    fn secrets(&mut self) -> [Box<Secrets>; 2] {
        self.run();
        assert!(
            self.ends
                .iter()
                .all(|end| end.confirmed() && end.finished()),
            "{:?} {:?}",
            self.outcomes,
            self.errors
        );
        std::mem::take(&mut self.outcomes).map(|mut all| match (all.pop(), all.is_empty()) {
            (Some(Outcome::Done(secrets)), true) => secrets,
            other => panic!("{other:?}"),
        })
    }

    /// Why both sides failed.
    fn reasons(&mut self) -> [Reason; 2] {
        self.run();
        std::mem::take(&mut self.outcomes).map(|mut all| match all.pop() {
            Some(Outcome::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        })
    }
}

fn agree(pair: &[Box<Secrets>; 2]) {
    let [c, s] = pair;
    assert_eq!(
        (&*c.master, c.exporter, c.aead),
        (&*s.master, s.exporter, s.aead)
    );
    let ((mut seal, _), (_, mut open)) = (c.hop_keys(true), s.hop_keys(false));
    passes(&mut seal, &mut open);
}

fn passes(seal: &mut SealKey, open: &mut crate::crypt::OpenKey) {
    let (mut header, mut body) = ([1; 16], *b"some data...............");
    seal.seal(&mut header, &mut body).unwrap();
    assert_eq!(open.open(&header, &mut body).unwrap(), b"some dat");
}

fn pair() -> [Identity; 2] {
    let (mut authority, a) = first("ovl");
    let b = enrolled(&mut authority, "b");
    [a, b]
}

#[test]
fn two_members_prove_themselves_and_share_keys() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    let secrets = net.secrets();
    agree(&secrets);
    assert_eq!(secrets[0].peer(), Some(b.cert()));
    assert_eq!(secrets[1].peer(), Some(a.cert()));
    assert_eq!(net.errors, []);
    assert!(net.log.iter().all(|(_, pdu)| pdu.len() <= 1400));
    assert!(net.ends.iter().all(|end| end.path_mtu() == 1400));
    // Two round trips of 10 ms at most, and nothing sent twice.
    assert!(net.log.len() <= 8, "{}", net.log.len());
}

#[test]
fn certificates_and_names_never_travel_readable() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    net.secrets();
    for (_, pdu) in &net.log {
        assert!(
            !pdu.windows(3).any(|w| w == b"ovl"),
            "the layer's name shows"
        );
    }
}

#[test]
fn loss_reordering_and_duplication_only_delay() {
    let [a, b] = pair();
    for seed in 0..40 {
        // Small PDUs: every flight is many fragments.
        let mtu = if seed % 2 == 0 { 200 } else { 1400 };
        let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), mtu).harsh(seed, 20);
        agree(&net.secrets());
        assert!(
            net.log.iter().all(|(_, pdu)| pdu.len() <= mtu),
            "seed {seed}"
        );
    }
}

#[test]
fn a_joiner_without_certificate_sees_a_member_and_is_told_apart() {
    let (mut authority, a) = first("ovl");
    let joiner = invited(&mut authority, &invite(Some("d"), &["10.4.0.0/24"], 1))
        .start(&label("d"))
        .unwrap();
    let clock = clock(NOW);
    let mut net = Net::new(&joiner.tls(&clock).unwrap(), &config(&a, NOW), 1400).harsh(1, 10);
    let [client, server] = net.secrets();
    assert_eq!((client.peer(), server.peer()), (Some(a.cert()), None));
    // What the exporter binds the request to is the same on both sides.
    let reply = authority
        .redeem(
            &joiner.request(client.exporter()),
            server.exporter(),
            at(NOW),
        )
        .unwrap();
    let d = joiner.finish(&reply, at(NOW)).unwrap();
    assert_eq!(d.cert().prefixes(), ["10.4.0.0/24".parse().unwrap()]);
    agree(&Net::new(&config(&d, NOW), &config(&a, NOW), 1400).secrets());
}

#[test]
fn a_joiner_refuses_a_member_of_another_root_and_cant_be_dialled() {
    let (mut authority, a) = first("ovl");
    let (_, impostor) = first("ovl");
    let joiner = invited(&mut authority, &invite(None, &[], 1))
        .start(&label("d"))
        .unwrap();
    let tls = joiner.tls(&clock(NOW)).unwrap();
    let [client, server] = Net::new(&tls, &config(&impostor, NOW), 1400).reasons();
    assert!(client.text.contains("unknown authority"), "{client}");
    assert_eq!(server.code, Code::Refused, "{server}");
    assert!(matches!(
        Handshake::server(&tls, 1, 1400, begin()),
        Err(HandshakeError::Unusable(_))
    ));
    assert!(
        Handshake::client(&config(&a, NOW), 1, 100, begin()).is_err(),
        "an MTU of 100"
    );
}

/// The side that judges says why, in both roles; the other learns that it was refused.
fn refused_both_ways(good: &TlsConfig, bad: &TlsConfig, why: &str) {
    let [client, server] = Net::new(good, bad, 1400).reasons();
    assert!(client.text.contains(why), "client: {client}");
    assert_eq!(server.code, Code::Refused, "{server}");
    let [client, server] = Net::new(bad, good, 1400).reasons();
    assert!(server.text.contains(why), "server: {server}");
    assert_eq!(client.code, Code::Refused, "{client}");
    // Loss changes nothing of it.
    let [client, server] = Net::new(bad, good, 1400).harsh(3, 20).reasons();
    assert!(server.text.contains(why), "server: {server}");
    assert_eq!(client.code, Code::Refused, "{client}");
}

#[test]
fn a_certificate_of_another_layer_under_the_same_root_is_refused() {
    let [x, y] = under_one_root(["xx", "yy"]);
    // Both refuse; the client judges first.
    let [client, server] = Net::new(&config(&x, NOW), &config(&y, NOW), 1400).reasons();
    assert!(
        client.text.contains("is for layer yy, not for xx"),
        "{client}"
    );
    assert!(server.text.contains("enrol in its layer"), "{server}");
    let [client, server] = Net::new(&config(&y, NOW), &config(&x, NOW), 1400).reasons();
    assert!(
        client.text.contains("is for layer xx, not for yy"),
        "{client}"
    );
    assert_eq!(server.code, Code::Refused);
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let ((_, a), (_, b)) = (first("ovl"), first("ovl"));
    let [client, server] = Net::new(&config(&a, NOW), &config(&b, NOW), 1400).reasons();
    assert!(client.text.contains("unknown authority"), "{client}");
    assert!(
        server.text.contains("doesn't know the authority"),
        "{server}"
    );
}

#[test]
fn a_server_refuses_a_client_that_trusts_it_but_has_a_foreign_certificate() {
    let ((_, a), (_, b)) = (first("ovl"), first("ovl"));
    // A client of one authority that would take any server of the other.
    let mut mixed = config(&a, NOW);
    let mut client = (*mixed.client).clone();
    client
        .dangerous()
        .set_certificate_verifier(Trust::new(label("ovl"), Anchor::Roots(b.roots().clone())));
    mixed.client = Arc::new(client);
    let mut net = Net::new(&mixed, &config(&b, NOW), 1400);
    let [client, server] = net.reasons();
    assert!(server.text.contains("unknown authority"), "{server}");
    assert!(
        client.text.contains("doesn't know the authority"),
        "{client}"
    );
    assert!(!net.ends[0].confirmed());
}

#[test]
fn an_expired_certificate_is_refused() {
    let (mut authority, a) = first("ovl");
    let b = enrolled(&mut authority, "b");
    // On a's host it is a life later; its own certificate was renewed. On b's host the clock still stands.
    let fresh = {
        let joiner = invited(&mut authority, &invite(Some("c"), &[], 1))
            .start(&label("c"))
            .unwrap();
        let reply = authority
            .redeem(&joiner.request(&[1; 32]), &[1; 32], at(NOW + 500))
            .unwrap();
        joiner.finish(&reply, at(NOW + 500)).unwrap()
    };
    drop(a);
    let late = config(&fresh, NOW + LIFE + 700);
    refused_both_ways(&late, &config(&b, NOW + 400), "expired");
}

#[test]
fn a_certificate_that_isnt_valid_yet_is_refused_and_some_skew_is_not() {
    let (mut authority, a) = first("ovl");
    let joiner = invited(&mut authority, &invite(Some("b"), &[], 1))
        .start(&label("b"))
        .unwrap();
    let reply = authority
        .redeem(&joiner.request(&[1; 32]), &[1; 32], at(NOW + 590))
        .unwrap();
    let b = joiner.finish(&reply, at(NOW + 590)).unwrap();
    // The certificate is valid from a quarter of an hour before it was issued.
    agree(&Net::new(&config(&a, NOW - 900), &config(&b, NOW + 590), 1400).secrets());
    refused_both_ways(
        &config(&a, NOW - 920),
        &config(&b, NOW + 590),
        "valid only from",
    );
}

#[test]
fn an_unset_clock_believes_nobody() {
    let [a, b] = pair();
    let [client, _] = Net::new(&config(&a, 0), &config(&b, NOW), 1400).reasons();
    assert!(client.text.contains("valid only from"), "{client}");
}

#[test]
fn another_version_of_the_protocol_is_named() {
    let [a, b] = pair();
    let mut newer = config(&b, NOW);
    newer = newer.speaking(Versions {
        min: 2,
        max: 3,
        ..Versions::OURS
    });
    let older = config(&a, NOW);
    for (client, server, who) in [
        (
            &older,
            &newer,
            ["update this side", "update the other side"],
        ),
        (
            &newer,
            &older,
            ["update the other side", "update this side"],
        ),
    ] {
        let mut net = Net::new(client, server, 1400);
        let reasons = net.reasons();
        for (reason, who) in reasons.iter().zip(who) {
            assert!(reason.text.contains(who), "{reasons:?}");
        }
        assert!(net.ends.iter().all(Handshake::is_incompatible));
    }
}

#[test]
fn sides_of_two_releases_agree_on_what_both_speak_and_nobody_in_between_talks_them_down() {
    let [a, b] = pair();
    let next = |has, needs| Versions {
        max: 2,
        has,
        needs,
        ..Versions::OURS
    };
    let (new, old) = (config(&a, NOW).speaking(next(0b11, 0)), config(&b, NOW));
    for (client, server) in [(&new, &old), (&old, &new)] {
        for secrets in Net::new(client, server, 1400).secrets() {
            assert_eq!(
                (secrets.agreed().version, secrets.agreed().features),
                (1, 0)
            );
        }
    }
    let other = config(&b, NOW).speaking(next(0b10, 0b10));
    for secrets in Net::new(&new, &other, 1400).secrets() {
        assert_eq!(
            (secrets.agreed().version, secrets.agreed().features),
            (2, 0b10)
        );
    }
    // The hello is readable, and so is what it says; whoever changes it ends the handshake.
    let mut net = Net::new(&new, &other, 1400);
    net.talk_down = Some((&b"strata\x01\x02"[..], &b"strata\x01\x01"[..]));
    let [client, server] = net.reasons();
    assert!(
        client.code == Code::TimedOut && server.code == Code::TimedOut,
        "{client} {server}"
    );
    // Who insists on what the other side lacks is told so, and refuses.
    let strict = config(&b, NOW).speaking(next(0b100, 0b100));
    let [client, server] = Net::new(&new, &strict, 1400).reasons();
    assert!(client.text.contains("update this side"), "{client}");
    assert!(server.text.contains("update the other side"), "{server}");
}

#[test]
fn a_pdu_altered_at_any_byte_breaks_no_handshake() {
    let [a, b] = pair();
    let (a, b) = (config(&a, NOW), config(&b, NOW));
    let mut clean = Net::new(&a, &b, 1400);
    clean.secrets();
    for (number, (_, pdu)) in clean.log.iter().enumerate() {
        // The padding of a hello may be anything that parses; a few of its bytes stand for all.
        let end = pdu
            .iter()
            .rposition(|b| *b != 0)
            .map_or(0, |last| (last + 4).min(pdu.len()));
        // A sealed PDU is forged whichever byte changes: its header byte by byte, the rest by samples. So are the key shares,
        // which are most of a hello.
        let sealed = pdu[1] == Level::Handshake as u8;
        let whole = if sealed { Header::LEN } else { HELLO_FIELDS };
        for at in (0..end).filter(|at| *at < whole || at % 11 == 0) {
            for lost in [false, true] {
                let bits = 1 << (at % 8);
                let mut net = Net::new(&a, &b, 1400);
                net.tamper = Some((number, Tamper::Flip { at, bits, lost }));
                let [c, s] = net.secrets();
                assert_eq!(c.master, s.master, "PDU {number}, byte {at}, lost: {lost}");
            }
        }
    }
}

/// The bytes of the header, the frame and what stands in a hello before its extensions, and some more.
const HELLO_FIELDS: usize = 120;

#[test]
fn each_pdu_may_be_lost() {
    let [a, b] = pair();
    let (a, b) = (config(&a, NOW), config(&b, NOW));
    for mtu in [300, 1400] {
        let mut clean = Net::new(&a, &b, mtu);
        clean.secrets();
        for number in 0..clean.log.len() {
            let mut net = Net::new(&a, &b, mtu);
            net.tamper = Some((number, Tamper::Drop));
            agree(&net.secrets());
        }
    }
}

#[test]
fn replayed_cut_and_foreign_pdus_change_nothing() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    net.secrets();
    for (from, pdu) in net.log.clone() {
        for to in 0..2 {
            for len in 0..pdu.len() {
                assert!(
                    net.ends[to]
                        .handle(net.now, &mut pdu[..len].to_vec())
                        .is_err()
                        || pdu[1] == 0,
                    "cut at {len}"
                );
            }
            // Also back to who sent it.
            let _ = net.ends[to].handle(net.now, &mut pdu.clone());
        }
        let mut foreign = pdu.clone();
        foreign[5] ^= 1;
        assert_eq!(
            net.ends[1 - from].handle(net.now, &mut foreign),
            Err(HandshakeError::OtherSession)
        );
    }
    net.run();
    assert!(net.outcomes.iter().all(Vec::is_empty), "a second outcome");
    assert!(net.ends.iter().all(Handshake::confirmed));
}

#[test]
fn a_finished_side_acknowledges_what_is_sent_again() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    // The server's acknowledgement of the client's last flight is the last PDU of a clean run.
    let mut clean = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    clean.secrets();
    let last = clean.log.len() - 1;
    assert_eq!(clean.log[last].0, 1);
    net.tamper = Some((last, Tamper::Drop));
    net.secrets();
    assert_eq!(
        net.log.len(),
        clean.log.len() + 2,
        "the flight again and its acknowledgement"
    );
}

#[test]
fn a_path_that_swallows_large_pdus_is_noticed() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 9000);
    net.path = 1300;
    agree(&net.secrets());
    assert_eq!(net.ends.each_ref().map(Handshake::path_mtu), [1200, 1200]);
    let mut tiny = Net::new(&config(&a, NOW), &config(&b, NOW), 1472);
    tiny.path = 548;
    agree(&tiny.secrets());
    assert_eq!(tiny.ends.each_ref().map(Handshake::path_mtu), [508, 508]);
    assert_eq!(
        net.log.iter().filter(|(_, pdu)| pdu.len() == 9000).count(),
        4
    );
    assert!(net.now - net.ends[0].started < Duration::from_secs(1));
}

#[test]
fn a_silent_other_side_is_given_up_after_10_seconds() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    net.loss = 100;
    let [client, server] = net.reasons();
    assert_eq!((client.code, server.code), (Code::TimedOut, Code::TimedOut));
    assert_eq!(net.now - net.ends[0].started, Duration::from_secs(10));
    assert!(net.log.len() < 40 && net.ends.iter().all(|end| end.deadline().is_none()));
}

#[test]
fn a_handshake_that_goes_on_is_given_time_until_nothing_new_comes() {
    let [a, b] = pair();
    let start = begin();
    let mut client = Handshake::client(&config(&a, NOW), 77, 1400, start).unwrap();
    let mut server = Handshake::server(&config(&b, NOW), 77, 1400, start).unwrap();
    let late = start + Duration::from_secs(9);
    let mut hello = std::iter::from_fn(|| client.poll(start)).last().unwrap();
    server.handle(late, &mut hello).unwrap();
    let mut answer = server.poll(late).unwrap();
    client.handle(late, &mut answer).unwrap();
    for end in [&mut client, &mut server] {
        let _ = end.poll(late + Duration::from_millis(9_900));
        assert!(end.outcome().is_none());
        let _ = end.poll(late + Duration::from_secs(10));
        assert!(matches!(end.outcome(), Some(Outcome::Failed(_))));
    }
}

#[test]
fn a_server_that_was_forgotten_half_way_is_replaced_without_waiting_for_another_client() {
    let [a, b] = pair();
    let start = begin();
    let mut client = Handshake::client(&config(&a, NOW), 77, 1400, start).unwrap();
    let mut first = Handshake::server(&config(&b, NOW), 77, 1400, start).unwrap();
    while let Some(mut hello) = client.poll(start) {
        first.handle(start, &mut hello).unwrap();
    }
    let mut answer = first.poll(start).unwrap();
    client.handle(start, &mut answer).unwrap();
    let mut second = Handshake::server(&config(&b, NOW), 77, 1400, start).unwrap();
    let (mut now, mut outcomes) = (start, [None, None]);
    while outcomes.iter().any(Option::is_none) {
        now += Duration::from_millis(100);
        assert!(now < start + Duration::from_secs(5), "{outcomes:?}");
        while let Some(mut pdu) = client.poll(now) {
            let _ = second.handle(now, &mut pdu);
        }
        while let Some(mut pdu) = second.poll(now) {
            let _ = client.handle(now, &mut pdu);
        }
        for (end, outcome) in [&mut client, &mut second].into_iter().zip(&mut outcomes) {
            *outcome = outcome.take().or_else(|| end.outcome());
        }
    }
    assert!(matches!(
        outcomes,
        [Some(Outcome::Done(_)), Some(Outcome::Done(_))]
    ));
}

#[test]
fn a_handshake_that_had_no_way_is_given_its_time_when_it_has_one_again() {
    let [a, _] = pair();
    let start = begin();
    let mut client = Handshake::client(&config(&a, NOW), 77, 1400, start).unwrap();
    let hello = client.poll(start);
    assert!(hello.is_some() && client.poll(start).is_none());
    let later = start + Duration::from_secs(9);
    client.resume(later);
    assert_eq!(
        client.poll(later).map(|pdu| pdu.len()),
        hello.map(|pdu| pdu.len()),
        "the same at once"
    );
    let _ = client.poll(later + Duration::from_millis(9_900));
    assert!(client.outcome().is_none());
    let _ = client.poll(later + Duration::from_secs(10));
    assert!(matches!(client.outcome(), Some(Outcome::Failed(_))));
}

#[test]
fn a_plain_close_is_believed_only_if_nothing_better_comes() {
    let [a, b] = pair();
    let close = |number| {
        let mut pdu = Header {
            level: Level::Initial,
            session: 77,
            number,
        }
        .encode()
        .to_vec();
        Frame::Close(48).encode(&mut pdu);
        pdu
    };
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    for number in 0..50 {
        net.ends[0].handle(net.now, &mut close(number)).unwrap();
        net.ends[1].handle(net.now, &mut close(number)).unwrap();
    }
    agree(&net.secrets());
    let mut alone = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    alone.loss = 100;
    alone.ends[0].handle(alone.now, &mut close(0)).unwrap();
    let [client, _] = alone.reasons();
    assert_eq!(client.code, Code::Refused, "{client}");
}

#[test]
fn garbage_is_bounded_and_doesnt_stop_a_good_handshake() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1400);
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    for number in 0..20_000 {
        let level = if rng.next_u32() % 2 == 0 {
            Level::Initial
        } else {
            Level::Handshake
        };
        let mut pdu = Header {
            level,
            session: 77,
            number,
        }
        .encode()
        .to_vec();
        let mut bytes = vec![0; rng.next_u32() as usize % 300];
        rng.fill_bytes(&mut bytes);
        if number % 3 == 0 {
            // Well-formed and far ahead: kept, as far as there is room, and never used.
            Frame::Crypto {
                offset: 2000 + rng.next_u32() as usize % 100_000,
                bytes,
            }
            .encode(&mut pdu);
        } else {
            pdu.extend(bytes);
        }
        for end in &mut net.ends {
            let _ = end.handle(net.now, &mut pdu.clone());
        }
    }
    for end in &net.ends {
        assert!(end.into.iter().all(|into| into.contiguous() == 0) && end.early.len() <= MAX_EARLY);
    }
    agree(&net.secrets());
}

fn with_suite(identity: &Identity, suite: rustls::SupportedCipherSuite) -> TlsConfig {
    let anchor = Anchor::Roots(identity.roots().clone());
    let trust = Trust::with_crypto(label("ovl"), anchor, vec![suite], &GROUPS);
    TlsConfig::with(trust, identity, &clock(NOW)).unwrap()
}

#[test]
fn a_side_without_fast_aes_gets_the_other_cipher() {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_256_GCM_SHA384 as AES, TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    let [a, b] = pair();
    for (suite, aead) in [(CHACHA, Aead::ChaCha20Poly1305), (AES, Aead::Aes256Gcm)] {
        let (only, both) = (with_suite(&a, suite), config(&b, NOW));
        for (client, server) in [(&only, &both), (&both, &only)] {
            let secrets = Net::new(client, server, 1400).secrets();
            agree(&secrets);
            assert_eq!(secrets[0].aead(), aead);
        }
    }
    // Without a suite in common the client is told, in the only way there is before keys.
    let mut net = Net::new(&with_suite(&a, CHACHA), &with_suite(&b, AES), 1400);
    let [client, _] = net.reasons();
    assert!(
        client.code == Code::Refused && client.text.contains("TLS alert"),
        "{client}"
    );
}

fn with_groups(
    identity: &Identity,
    groups: &[&'static dyn rustls::crypto::SupportedKxGroup],
) -> TlsConfig {
    let anchor = Anchor::Roots(identity.roots().clone());
    let trust = Trust::with_crypto(label("ovl"), anchor, suites(), groups);
    TlsConfig::with(trust, identity, &clock(NOW)).unwrap()
}

#[test]
fn members_agree_on_the_hybrid_exchange_and_on_the_curve_with_who_knows_no_other() {
    let [a, b] = pair();
    let (both, curve) = (config(&b, NOW), with_groups(&a, &GROUPS[1..]));
    let secrets = Net::new(&config(&a, NOW), &both, 1400).secrets();
    agree(&secrets);
    assert_eq!(
        secrets.map(|s| s.key_exchange()),
        [KeyExchange::X25519MlKem768; 2]
    );
    for (client, server) in [(&curve, &both), (&both, &curve)] {
        let mut net = Net::new(client, server, 1400);
        let secrets = net.secrets();
        agree(&secrets);
        assert_eq!(secrets.map(|s| s.key_exchange()), [KeyExchange::X25519; 2]);
        assert!(net.log.len() <= 8, "a round trip more: {}", net.log.len());
    }
}

#[test]
fn who_insists_on_the_hybrid_exchange_refuses_who_lacks_it() {
    let [a, b] = pair();
    let (strict, curve) = (with_groups(&a, &[&Hybrid]), with_groups(&b, &GROUPS[1..]));
    for (client, server) in [(&strict, &curve), (&curve, &strict)] {
        let [client, _] = Net::new(client, server, 1400).reasons();
        assert_eq!(client.code, Code::Refused, "{client}");
    }
    agree(&Net::new(&strict, &config(&b, NOW), 1400).secrets());
}

#[test]
fn hybrid_hellos_arrive_in_fragments_through_heavy_loss_at_any_mtu() {
    let [a, b] = pair();
    for (seed, mtu) in [(1, 128), (2, 200), (3, 576), (4, 576), (5, 1200), (6, 1500)] {
        let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), mtu).harsh(seed, 30);
        let secrets = net.secrets();
        agree(&secrets);
        assert!(secrets.iter().all(|s| s.key_exchange().is_hybrid()));
        assert!(net.log.iter().all(|(_, pdu)| pdu.len() <= mtu));
    }
}

#[test]
fn sizes_and_order_dont_depend_on_chance() {
    let run = || {
        let [a, b] = pair();
        let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 300).harsh(8, 20);
        net.secrets();
        net.log
            .iter()
            .map(|(from, pdu)| (*from, pdu.len()))
            .collect::<Vec<_>>()
    };
    let first = run();
    assert!((0..20).all(|_| run() == first));
}

#[test]
fn only_what_may_be_of_a_clients_hello_opens_a_handshake() {
    let [a, b] = pair();
    let mut net = Net::new(&config(&a, NOW), &config(&b, NOW), 1000);
    agree(&net.secrets());
    let opens = |end| {
        let sent = net.log.iter().filter(move |(from, _)| *from == end);
        sent.map(|(_, pdu)| Handshake::may_open(pdu))
            .collect::<Vec<_>>()
    };
    // Both pieces of its hello, and nothing that is sealed.
    assert_eq!(opens(0)[..3], [true, true, false]);
    assert!(!opens(0)[3..].contains(&true));
    // No piece of its hello, whichever comes first.
    assert!(
        net.log
            .iter()
            .filter(|(from, pdu)| *from == 1 && pdu[1] == 0)
            .count()
            > 1
    );
    assert!(!opens(1).contains(&true));
    let hello = |frames: &[Frame]| {
        let mut pdu = net.log[0].1[..Header::LEN].to_vec();
        frames.iter().for_each(|frame| frame.encode(&mut pdu));
        Handshake::may_open(&pdu)
    };
    let crypto = |byte| Frame::Crypto {
        offset: 0,
        bytes: vec![byte; 3],
    };
    assert!(hello(&[crypto(1)]) && hello(&[Frame::Close(10), crypto(1)]));
    assert!(!hello(&[]) && !hello(&[Frame::Close(10)]) && !hello(&[crypto(1), crypto(2)]));
    // A client that says its hello again may have heard a part of the answer.
    let ack = Frame::Ack {
        level: Level::Initial,
        contiguous: 9,
    };
    assert!(hello(&[ack, crypto(1)]));
}

#[test]
fn a_session_is_read_from_a_pdu() {
    let [a, _] = pair();
    let mut client = Handshake::client(&config(&a, NOW), 0xdead_beef, 1400, begin()).unwrap();
    let pdu = client.poll(begin()).unwrap();
    assert_eq!(Handshake::session_of(&pdu), Ok((0xdead_beef, true)));
    assert_eq!(
        Handshake::session_of(&pdu[..9]),
        Err(HandshakeError::Malformed)
    );
}
