use super::*;
use crate::UnixTime;
use crate::crypt::{Authority, Clock, Identity};
use proto::Label;

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime(Duration::from_secs(seconds))
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn clock(seconds: u64) -> Clock {
    let clock = Clock::new();
    clock.set(at(seconds));
    clock
}

fn first(layer: &str) -> (Authority, Identity) {
    Authority::create(
        &label(layer),
        &label("a"),
        &["10.1.0.0/16".parse().unwrap()],
        at(NOW),
    )
    .unwrap()
}

fn exchange(a: &mut Handshake, b: &mut Handshake, now: Instant) {
    for _ in 0..20 {
        while let Some(mut pdu) = a.poll(now) {
            b.handle(now, &mut pdu).unwrap();
        }
        while let Some(mut pdu) = b.poll(now) {
            a.handle(now, &mut pdu).unwrap();
        }
    }
}

#[test]
fn two_members_share_keys() {
    let (_, identity) = first("ovl");
    let config = TlsConfig::member(&identity, &clock(NOW)).unwrap();
    let now = Instant::now();
    let mut client = Handshake::client(&config, 7, 1400, now).unwrap();
    let mut server = Handshake::server(&config, 7, 1400, now).unwrap();
    exchange(&mut client, &mut server, now);
    let (Some(Outcome::Done(c)), Some(Outcome::Done(s))) = (client.outcome(), server.outcome())
    else {
        panic!("{client:?} {server:?}")
    };
    assert_eq!(
        (&*c.master, c.exporter, c.aead),
        (&*s.master, s.exporter, s.aead)
    );
    assert!(client.confirmed() && server.confirmed());
}
