//! What sealing costs a packet, and what a handshake costs a pair of members: `cargo bench -p layer --bench crypt`.

use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::BytesCount;
use layer::UnixTime;
use layer::crypt::{Authority, Clock, Handshake, Outcome, Secrets, TAG, TlsConfig};
use proto::Label;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

fn main() {
    divan::main();
}

#[divan::bench(args = [64, 1400])]
fn seal(bencher: Bencher<'_, '_>, size: usize) {
    let (mut seal, _) = secrets(&config()).hop_keys(true);
    let (mut header, mut body) = ([0; 16], vec![7; size + TAG]);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| seal.seal(&mut header, &mut body));
}

#[divan::bench(args = [64, 1400])]
fn seal_and_open(bencher: Bencher<'_, '_>, size: usize) {
    let secrets = secrets(&config());
    let ((mut seal, _), (_, mut open)) = (secrets.hop_keys(true), secrets.hop_keys(false));
    let (mut header, mut body) = ([0; 16], vec![7; size + TAG]);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        seal.seal(&mut header, &mut body)
            .expect("a bench stays far below the limit of a key");
        open.open(&header, &mut body).map(|body| body.len())
    });
}

/// What the AEAD costs by itself, as often as it is called above: the most that can be had.
#[divan::bench(args = [64, 1400])]
fn seal_and_open_of_ring_alone(bencher: Bencher<'_, '_>, size: usize) {
    let key = || LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
    let (sealer, opener) = (key(), key());
    let (header, mut body) = ([0; 16], vec![7; size]);
    let mut counter = 0u64;
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let nonce = || {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&counter.to_be_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        let tag = sealer
            .seal_in_place_separate_tag(nonce(), Aad::from(header), &mut body)
            .expect("a small body");
        let opened = opener
            .open_in_place_separate_tag(nonce(), Aad::from(header), tag, &mut body, 0..)
            .map(|body| body.len());
        counter += 1;
        opened
    });
}

/// A hybrid key exchange, both certificates and all PDUs, on one core: the inverse of handshakes a second.
#[divan::bench]
fn handshake_both_sides(bencher: Bencher<'_, '_>) {
    let config = config();
    bencher.bench_local(|| secrets(&config));
}

fn config() -> TlsConfig {
    let now = UnixTime(Duration::from_secs(1_800_000_000));
    let label = |text| Label::new(text).expect("small letters");
    let (_, identity) =
        Authority::create(&label("bench"), &label("a"), &[], now).expect("an authority");
    let clock = Clock::new();
    clock.set(now);
    TlsConfig::member(&identity, &clock).expect("a configuration")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench is no part of the machine; it needs a beginning of time"
)]
fn secrets(config: &TlsConfig) -> Box<Secrets> {
    let now = Instant::now();
    let mut client = Handshake::client(config, 1, 1400, now).expect("a client");
    let mut server = Handshake::server(config, 1, 1400, now).expect("a server");
    loop {
        while let Some(mut pdu) = client.poll(now) {
            server.handle(now, &mut pdu).expect("a good PDU");
        }
        while let Some(mut pdu) = server.poll(now) {
            client.handle(now, &mut pdu).expect("a good PDU");
        }
        if let Some(Outcome::Done(secrets)) = server.outcome() {
            return secrets;
        }
    }
}
