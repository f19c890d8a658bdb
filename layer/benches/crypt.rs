//! What sealing costs a packet, and what a handshake costs a pair of members: `cargo bench -p layer --bench crypt`.

mod association;

use divan::Bencher;
use divan::counter::BytesCount;
use layer::crypt::TAG;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use self::association::{config, secrets};

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
