//! What happened how often, by a stable word.

use std::collections::BTreeMap;

/// Counters by word, as `irm status --json` and the metrics show them.
#[derive(Debug, Default)]
pub(super) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    pub(super) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: &'static str, by: u64) {
        *self.0.entry(what).or_default() += by;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, n)| (*what, *n))
    }
}

/// Requests that came, good or bad.
pub(super) const REQUESTS: &str = "requests";
/// Echoes that were sent.
pub(super) const ECHOES: &str = "echoes";
/// Requests that were sent, repetitions among them.
pub(super) const REQUESTS_SENT: &str = "requests.sent";
/// Flow requests that were confirmed and told to irmd.
pub(super) const CONFIRMED: &str = "confirmed";
/// Requests whose client was not heard of again.
pub(super) const UNCONFIRMED: &str = "drop.unconfirmed";
/// Unconfirmed requests that made room for newer ones.
pub(super) const EVICTED: &str = "drop.evicted";
/// Requests from a source that has too many unconfirmed.
pub(super) const SOURCE_LIMIT: &str = "drop.source-limit";
/// Requests of strangers beyond what a second allows.
pub(super) const FLOODED: &str = "drop.flood";
/// Requests of no name: empty, too long, not UTF-8, or with control characters.
pub(super) const BAD_NAME: &str = "drop.bad-name";
/// Requests for a name that isn't registered here.
pub(super) const UNKNOWN_NAME: &str = "drop.unknown-name";
/// Requests whose source can be no client: the layer's own port, port 0, broadcast, multicast, no address.
pub(super) const BAD_SOURCE: &str = "drop.bad-source";
/// Requests for which no socket could be opened.
pub(super) const NO_SOCKET: &str = "drop.no-socket";
/// Flow requests that irmd didn't answer in time.
pub(super) const UNANSWERED: &str = "drop.unanswered";
/// Datagrams at a flow's socket that came from another address.
pub(super) const STRANGER: &str = "drop.stranger";
/// Echoes from another address than the server's, or from its request port.
pub(super) const ECHO_SOURCE: &str = "drop.echo-source";
/// Echoes that didn't hold the request.
pub(super) const ECHO_PAYLOAD: &str = "drop.echo-payload";
/// Echoes that came after the first.
pub(super) const LATE_ECHO: &str = "drop.late-echo";
/// SDUs above the MTU.
pub(super) const TOO_BIG: &str = "drop.too-big";
/// The machine's own datagrams that the socket refused.
pub(super) const NOT_SENT: &str = "drop.send-error";
/// Packets for a flow or a socket that is gone.
pub(super) const NO_FLOW: &str = "drop.no-flow";
