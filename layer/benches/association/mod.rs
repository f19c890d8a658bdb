//! Two members that have agreed on keys.

use std::time::{Duration, Instant};

use layer::UnixTime;
use layer::crypt::{Authority, Clock, Handshake, Outcome, Secrets, TlsConfig};
use proto::Label;

/// What a member of a layer begins handshakes with.
pub(crate) fn config() -> TlsConfig {
    let now = UnixTime(Duration::from_secs(1_800_000_000));
    let label = |text| Label::new(text).expect("small letters");
    let (_, identity) =
        Authority::create(&label("bench"), &label("a"), &[], now).expect("an authority");
    let clock = Clock::new();
    clock.set(now);
    TlsConfig::member(&identity, &clock).expect("a configuration")
}

/// Of an association, as a handshake between two such members makes them.
#[expect(
    clippy::disallowed_methods,
    reason = "a bench is no part of the machine; it needs a beginning of time"
)]
pub(crate) fn secrets(config: &TlsConfig) -> Box<Secrets> {
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
