//! What sealing costs a packet, and what a handshake costs a pair of members: `cargo bench -p layer --bench crypt`.

use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::BytesCount;
use layer::UnixTime;
use layer::crypt::{Authority, Clock, Handshake, Outcome, Secrets, TAG, TlsConfig};
use proto::Label;

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
