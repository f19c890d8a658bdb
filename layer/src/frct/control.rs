//! What a congestion control hears and says.

use std::fmt;
use std::time::{Duration, Instant};

use super::bbr::Bbr;
use super::cubic::Cubic;

/// How much may be in flight, and how fast it may go. All sizes in bytes of PDUs.
pub trait CongestionControl: fmt::Debug + Send {
    /// A packet goes; `in_flight` counts it.
    fn on_sent(&mut self, now: Instant, bytes: usize, in_flight: usize);
    /// Packets have arrived.
    fn on_ack(&mut self, ack: &Acked);
    /// Packets are taken to be lost.
    fn on_loss(&mut self, loss: &Lost);
    /// A packet that was sent at `sent` has met congestion; says whether the window was reduced (once a round trip).
    fn on_ecn(&mut self, now: Instant, sent: Instant) -> bool;
    /// All that was lately taken to be lost had only been late: what the last loss did may be undone.
    fn on_spurious(&mut self, now: Instant);
    /// Packets have another size from now on.
    fn set_payload(&mut self, payload: usize);
    /// The most bytes in flight.
    fn window(&self) -> usize;
    /// Bytes per second.
    fn pacing_rate(&self, smooth: Duration) -> u64;
    /// Another that knows the same.
    fn copy(&self) -> Box<dyn CongestionControl>;
}

impl Clone for Box<dyn CongestionControl> {
    fn clone(&self) -> Self {
        self.copy()
    }
}

/// News of an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// When it came.
    pub now: Instant,
    /// How much it acknowledges that nothing did before.
    pub bytes: usize,
    /// When the newest of it was sent.
    pub sent: Instant,
    /// What is still in flight.
    pub in_flight: usize,
    /// The round trip of the newest packet, if that is newly acknowledged.
    pub rtt: Option<Duration>,
    /// The smoothed round trip.
    pub smooth: Duration,
    /// The least round trip of the flow.
    pub least: Duration,
    /// The first acknowledgement of a packet that was sent after the last such.
    pub round: bool,
    /// At what rate packets arrived while the newest was on its way, bytes per second.
    pub rate: Option<u64>,
    /// When the newest was sent, there was nothing more to send: rate and window say little.
    pub idle: bool,
}

/// News of a loss.
#[derive(Debug, Clone, Copy)]
pub struct Lost {
    /// When it was found.
    pub now: Instant,
    /// How much was lost.
    pub bytes: usize,
    /// When the last of the lost packets was sent.
    pub sent: Instant,
    /// What is still in flight.
    pub in_flight: usize,
    /// Nothing arrived for so long that what was known of the path is void (RFC 9002 §7.6).
    pub persistent: bool,
}

/// Which congestion control a flow has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Controller {
    /// RFC 9438, with HyStart++ (RFC 9406).
    #[default]
    Cubic,
    /// After BBR: by bandwidth and round trip as measured; a loss now and then doesn't slow it.
    Bbr,
}

impl Controller {
    /// One that knows nothing of the path yet.
    pub(super) fn begin(self, payload: usize) -> Box<dyn CongestionControl> {
        match self {
            Self::Cubic => Box::new(Cubic::new(payload)),
            Self::Bbr => Box::new(Bbr::new(payload)),
        }
    }
}

/// The first window (RFC 6928), in bytes.
pub(super) fn first_window(payload: usize) -> usize {
    10 * payload
}

/// No window is less, in packets: three behind a lost one find it without waiting for a probe.
pub(super) const LEAST_PACKETS: usize = 4;
/// No window is larger.
pub(super) const MAX_WINDOW: usize = 64 << 20;
