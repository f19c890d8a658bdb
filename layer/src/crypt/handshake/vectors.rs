//! The whole handshake of docs/vectors.txt. Ours makes it again from a seed, byte for byte; and a reader that takes nothing from
//! rustls, only what the page and its RFCs say, gets the same secrets out of it.

use ml_kem::Decapsulate;
use ml_kem::array::Array;
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use proto::Label;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::signature::Ed25519KeyPair;
use ring::{digest, hmac};
use rustls::crypto::ring::cipher_suite;

use super::*;
use crate::crypt::exchange::GROUPS;
use crate::crypt::fixtures::{begin, clock};
use crate::crypt::key::Key;
use crate::crypt::tls::{Anchor, Trust};
use crate::crypt::{Identity, Roots, Seeded};
use crate::vectors::{NOW, hex, member, vector};

/// The messages of each side at each level, in their order, with the byte that each begins with.
const MESSAGES: [[&[(&str, u8)]; 2]; 2] = [
    [
        &[("tls.client.hello", 1)],
        &[
            ("tls.client.certificate", 11),
            ("tls.client.verify", 15),
            ("tls.client.finished", 20),
        ],
    ],
    [
        &[("tls.server.hello", 2)],
        &[
            ("tls.server.extensions", 8),
            ("tls.server.request", 13),
            ("tls.server.certificate", 11),
            ("tls.server.verify", 15),
            ("tls.server.finished", 20),
        ],
    ],
];
/// alice dials carol, whose certificate is of bob, who may issue.
const SESSION: u32 = 0x0102_0304;
const SEED: [u8; 32] = [0x21; 32];
const CLIENT: usize = 0;
const SERVER: usize = 1;
/// The hello of the page.
const HELLO: &str = "04050133 00000001 0000000000000002 0000000000000003 00000004";

fn config(identity: &Identity) -> TlsConfig {
    let anchor = Anchor::Roots(identity.roots().clone());
    let suites = vec![
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let trust = Trust::with_crypto(identity.layer().clone(), anchor, suites, &GROUPS);
    TlsConfig::with(trust, identity, &clock(NOW.secs())).unwrap()
}

fn carol() -> Identity {
    let key = hex("302e020100300506032b657004220420");
    let key = Key::from_pkcs8([key, vec![0x14; 32]].concat().into()).unwrap();
    let roots = Roots::new(vec![vector("root")]).unwrap();
    let (cert, between) = (vector("carol"), vec![vector("bob.issues")]);
    let layer = Label::new("home").unwrap();
    let cert = MemberCert::verify(&cert, &between, &roots, &layer, NOW).unwrap();
    Identity::new(key, cert, between, roots).unwrap()
}

/// What both sides sent, in the order in which it was sent, and what it left to the client.
fn made() -> (Vec<(usize, Vec<u8>)>, Box<Secrets>) {
    let (alice, carol) = (config(&member("alice", 0x12)), config(&carol()));
    let now = begin();
    let _seeded = Seeded::new(SEED);
    let mut ends = [
        Handshake::client(&alice, SESSION, SAFE_MTU, now).unwrap(),
        Handshake::server(&carol, SESSION, SAFE_MTU, now).unwrap(),
    ];
    let mut sent = Vec::new();
    while let Some((from, pdu)) =
        (0..2).find_map(|from| ends[from].poll(now).map(|pdu| (from, pdu)))
    {
        ends[1 - from].handle(now, &mut pdu.clone()).unwrap();
        sent.push((from, pdu));
    }
    let outcomes = ends.map(|mut end| end.outcome());
    let [Some(Outcome::Done(client)), Some(Outcome::Done(server))] = outcomes else {
        panic!("{outcomes:?}")
    };
    assert_eq!(client.master, server.master);
    (sent, client)
}

/// The stream of each side at each level, out of PDUs; those of level 1 are opened by the traffic secrets.
fn streams_of(sent: &[(usize, Vec<u8>)], traffic: &[Vec<u8>; 2]) -> [[Vec<u8>; 2]; 2] {
    let mut streams: [[Vec<u8>; 2]; 2] = Default::default();
    for (from, pdu) in sent {
        let level = usize::from(pdu[1]);
        let frames = match level {
            0 => pdu[10..].to_vec(),
            _ => opened(pdu, &traffic[*from]),
        };
        for frame in Frame::parse_all(&frames).unwrap() {
            if let Frame::Crypto { offset, bytes } = frame {
                assert_eq!(offset, streams[*from][level].len());
                streams[*from][level].extend(bytes);
            }
        }
    }
    streams
}

/// The frames of a PDU of level 1.
fn opened(pdu: &[u8], traffic: &[u8]) -> Vec<u8> {
    let key = expand(traffic, "quic key", b"", 32);
    let mut nonce: [u8; 12] = expand(traffic, "quic iv", b"", 12).try_into().unwrap();
    for (byte, number) in nonce[8..].iter_mut().zip(&pdu[6..10]) {
        *byte ^= number;
    }
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let (header, mut body) = (&pdu[..10], pdu[10..].to_vec());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = key.open_in_place(nonce, Aad::from(header), &mut body);
    opened.unwrap().to_vec()
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA384, bytes).as_ref().to_vec()
}

fn mac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA384, key);
    hmac::sign(&key, bytes).as_ref().to_vec()
}

/// HKDF-Expand-Label of RFC 8446, 7.1; one block is enough here.
fn expand(secret: &[u8], label: &str, context: &[u8], len: u8) -> Vec<u8> {
    let label = format!("tls13 {label}").into_bytes();
    let info = [
        &[0, len, label.len() as u8][..],
        &label,
        &[context.len() as u8],
        context,
        &[1],
    ];
    let mut block = mac(secret, &info.concat());
    block.truncate(usize::from(len));
    block
}

/// The TLS exporter without a context (RFC 8446, 7.5).
fn export(master: &[u8], label: &str) -> Vec<u8> {
    let secret = expand(master, label, &hash(b""), 48);
    expand(&secret, "exporter", &hash(b""), 32)
}

/// The messages of one side at one level.
fn flight(side: usize, level: usize) -> Vec<u8> {
    let messages = MESSAGES[side][level].iter();
    messages.flat_map(|(name, _)| vector(name)).collect()
}

#[test]
fn a_handshake_is_made_again_from_its_seed_byte_for_byte() {
    let (sent, secrets) = made();
    let traffic = ["tls.client.traffic", "tls.server.traffic"].map(vector);
    let streams = streams_of(&sent, &traffic);
    for (side, levels) in streams.iter().enumerate() {
        for (level, stream) in levels.iter().enumerate() {
            assert_eq!(*stream, flight(side, level), "{side} at level {level}");
        }
    }
    let sealed = |(from, pdu): &&(usize, Vec<u8>)| (*from, pdu[1]) == (SERVER, 1);
    assert_eq!(sent.iter().find(sealed).unwrap().1, vector("tls.pdu"));
    assert_eq!(secrets.master[..], vector("tls.master"));
    assert_eq!(secrets.exporter[..], vector("tls.enrolment"));
    let (mut key, _) = secrets.hop_keys(true);
    let mut header = hex("12000000 01020304 0000000000000000");
    let mut body = [hex(HELLO), vec![0; TAG]].concat();
    key.seal(&mut header, &mut body).unwrap();
    assert_eq!([header, body].concat(), vector("tls.sealed"));
}

/// Both halves of the first secret, as the client gets them and as the server does.
fn shared() -> [Vec<u8>; 2] {
    let (client, server) = (vector("tls.client.hello"), vector("tls.server.hello"));
    let share = |hello: &[u8], begin: [u8; 4], len: usize| {
        let at = hello.windows(4).position(|w| w == begin).unwrap() + 4;
        hello[at..at + len].to_vec()
    };
    let client = share(&client, [0x11, 0xec, 0x04, 0xc0], 1184 + 32);
    let server = share(&server, [0x11, 0xec, 0x04, 0x60], 1088 + 32);
    let seed = <[u8; 64]>::try_from(vector("tls.client.lattice")).unwrap();
    let lattice = DecapsulationKey::from_seed(Array(seed));
    let sealed = <[u8; 1088]>::try_from(&server[..1088]).unwrap();
    let of_client = lattice.decapsulate(&Array(sealed)).to_vec();
    let theirs = <[u8; 1184]>::try_from(&client[..1184]).unwrap();
    let theirs = EncapsulationKey::new(&Array(theirs)).unwrap();
    let chance = <[u8; 32]>::try_from(vector("tls.server.lattice")).unwrap();
    let (again, of_server) = theirs.encapsulate_deterministic(&Array(chance));
    assert_eq!(again[..], sealed);
    [
        [of_client, curve("tls.client.curve", &server[1088..])].concat(),
        [
            of_server.to_vec(),
            curve("tls.server.curve", &client[1184..]),
        ]
        .concat(),
    ]
}

/// X25519 of a private key of the file and a share.
fn curve(private: &str, share: &[u8]) -> Vec<u8> {
    let bytes = vector(private);
    #[expect(
        deprecated,
        reason = "the only source of ring that takes what it gives"
    )]
    let source = ring::test::rand::FixedSliceRandom { bytes: &bytes };
    let key = EphemeralPrivateKey::generate(&X25519, &source).unwrap();
    let share = UnparsedPublicKey::new(&X25519, share);
    agree_ephemeral(key, &share, <[u8]>::to_vec).unwrap()
}

/// What one side has to show of itself: its certificate's key signs all before, and so does the traffic secret.
fn is_proven(said: &[u8], side: usize, seed: u8, traffic: &[u8]) {
    let names = MESSAGES[side][1];
    let [.., (certificate, _), (verify, _), (finished, _)] = names else {
        panic!("{names:?}")
    };
    let said = [said, &vector(certificate)].concat();
    let who = ["client", "server"][side];
    let label = format!("{}TLS 1.3, {who} CertificateVerify\0", " ".repeat(64));
    let text = [label.into_bytes(), hash(&said)];
    let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let signature = key.sign(&text.concat());
    // Ed25519 (RFC 8446, 4.2.3), and 64 bytes.
    let signed = [&hex("0f000044 0807 0040")[..], signature.as_ref()].concat();
    assert_eq!(vector(verify), signed, "{who}");
    let key = expand(traffic, "finished", b"", 48);
    let mac = mac(&key, &hash(&[said, signed].concat()));
    let said = [&hex("14000030")[..], &mac].concat();
    assert_eq!(vector(finished), said, "{who}");
}

#[test]
fn whoever_follows_the_page_gets_the_secrets_of_the_handshake_from_its_bytes() {
    let [client, server] = shared();
    assert_eq!(client, server);
    assert_eq!(client, vector("tls.shared"));
    // RFC 8446, 7.1.
    let (none, nothing) = ([0; 48], hash(b""));
    let early = mac(&none, &none);
    let handshake = mac(&expand(&early, "derived", &nothing, 48), &client);
    let hellos = [flight(CLIENT, 0), flight(SERVER, 0)].concat();
    let traffic = [
        expand(&handshake, "c hs traffic", &hash(&hellos), 48),
        expand(&handshake, "s hs traffic", &hash(&hellos), 48),
    ];
    assert_eq!(traffic[CLIENT], vector("tls.client.traffic"));
    assert_eq!(traffic[SERVER], vector("tls.server.traffic"));
    let asked = ["tls.server.extensions", "tls.server.request"].map(vector);
    is_proven(
        &[hellos.clone(), asked.concat()].concat(),
        SERVER,
        0x14,
        &traffic[SERVER],
    );
    let served = [hellos, flight(SERVER, 1)].concat();
    is_proven(&served, CLIENT, 0x12, &traffic[CLIENT]);
    let master = mac(&expand(&handshake, "derived", &nothing, 48), &none);
    let exporter = expand(&master, "exp master", &hash(&served), 48);
    let [association, enrolment] = ["EXPORTER-strata-association-v1", "EXPORTER-strata-enrol-v1"]
        .map(|label| export(&exporter, label));
    assert_eq!(association, vector("tls.master"));
    assert_eq!(enrolment, vector("tls.enrolment"));
    // What is sealed first is opened by the keys of the page.
    let mut secrets = made().1;
    secrets.master = Zeroizing::new(association.try_into().unwrap());
    let (_, mut key) = secrets.hop_keys(false);
    let mut sealed = vector("tls.sealed");
    let (header, body) = sealed.split_at_mut(16);
    assert_eq!(key.open(header, body).unwrap(), hex(HELLO));
}

#[test]
fn the_messages_of_the_handshake_are_those_that_they_are_called() {
    for (name, kind) in MESSAGES.into_iter().flatten().flatten() {
        let message = vector(name);
        let len = [&[0], &message[1..4]].concat();
        let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
        assert_eq!((message[0], message.len()), (*kind, 4 + len), "{name}");
    }
    let carol = vector("tls.server.certificate");
    for cert in ["carol", "bob.issues", "root"].map(vector) {
        assert!(carol.windows(cert.len()).any(|part| part == cert));
    }
    let opened = opened(&vector("tls.pdu"), &vector("tls.server.traffic"));
    let begin = vector("tls.server.extensions");
    assert!(opened.windows(begin.len()).any(|part| part == begin));
}
