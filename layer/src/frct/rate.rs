//! At what rate packets arrive, and when a round trip ends (draft-cheng-iccrg-delivery-rate-estimation).

use std::time::{Duration, Instant};

/// What has been delivered so far.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent that was newest at the last acknowledgement.
    first_sent: Instant,
    /// Until this much is delivered, packets on their way were sent when there was nothing more to send.
    idle_until: u64,
    round_ends: u64,
    /// The newest packet of the acknowledgement at hand.
    newest: Option<(Stamp, Instant)>,
}

/// How things stood when a packet was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    pub(super) idle: bool,
}

/// What an acknowledgement shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) round: bool,
    /// Bytes per second.
    pub(super) rate: Option<u64>,
    pub(super) idle: bool,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            idle_until: 0,
            round_ends: 0,
            newest: None,
        }
    }

    pub(super) fn sent(&mut self, now: Instant, in_flight: usize) -> Stamp {
        if in_flight == 0 {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        Stamp {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            idle: self.delivered < self.idle_until,
        }
    }

    /// There is nothing more to send although more might go.
    pub(super) fn idle(&mut self, in_flight: usize) {
        self.idle_until = self.delivered + in_flight.max(1) as u64;
    }

    /// A packet of the acknowledgement at hand.
    pub(super) fn acked(&mut self, now: Instant, bytes: usize, stamp: Stamp, sent: Instant) {
        self.delivered += bytes as u64;
        self.delivered_at = now;
        if self.newest.is_none_or(|(_, newest)| newest <= sent) {
            self.newest = Some((stamp, sent));
        }
    }

    /// Ends the acknowledgement at hand.
    pub(super) fn show(&mut self, least: Duration) -> Shown {
        let Some((stamp, sent)) = self.newest.take() else {
            return Shown {
                round: false,
                rate: None,
                idle: true,
            };
        };
        let round = stamp.delivered >= self.round_ends;
        if round {
            self.round_ends = self.delivered;
        }
        self.first_sent = sent;
        let sending = sent.saturating_duration_since(stamp.first_sent);
        let arriving = self
            .delivered_at
            .saturating_duration_since(stamp.delivered_at);
        let interval = sending.max(arriving);
        // A shorter one is an accident of acknowledgements that came together.
        let rate = (interval >= least && !interval.is_zero()).then(|| {
            let bytes = u128::from(self.delivered - stamp.delivered);
            (bytes * 1_000_000_000 / interval.as_nanos()) as u64
        });
        Shown {
            round,
            rate,
            idle: stamp.idle,
        }
    }
}
