//! The sending half: what goes when, until it has arrived.

use std::time::{Duration, Instant};

use super::Fault;
use super::control::{Acked, CongestionControl, Controller, LEAST_PACKETS, Lost};
use super::flight::{Flight, Losses};
use super::header::{self, Ack, DELAY_UNIT};
use super::outgoing::{Outgoing, Piece};
use super::pacer::Pacer;
use super::rtt::Rtt;

/// Stream, packets on their way, and the controls between them.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) stream: Outgoing,
    pub(super) flight: Flight,
    rtt: Rtt,
    pacer: Pacer,
    controller: Controller,
    control: Box<dyn CongestionControl>,
    payload: usize,
    guess: Duration,
    /// The other side may keep an acknowledgement for this long.
    ack_delay: Duration,
    /// Probes that go whatever the window says, and how often in a row that was needed.
    probes: usize,
    backoff: u32,
    /// An empty packet is to go: something is to be heard of the other side.
    ping: bool,
    /// Doubles the pauses between questions for a wider window.
    persist: u32,
    asked: Option<Instant>,
    /// When the last loss was found: what is sent again then may bring an answer.
    lost_at: Option<Instant>,
    /// Packets that were lost lately, less those that have arrived all the same.
    suspects: u64,
    /// Until when packets are held back so that they don't come in a burst.
    paced: Option<Instant>,
    /// Since when the lowest byte, or anything, waits to be acknowledged.
    stalled: Option<Instant>,
    marks: u16,
    /// The other side has acknowledged something of this run.
    run: bool,
    pub(super) counts: Counts,
}

/// What was counted, in packets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) again: u64,
    pub(super) lost: u64,
    pub(super) spurious: u64,
    pub(super) probes: u64,
    pub(super) ecn: u64,
}

/// How a sender begins.
pub(super) struct Begin {
    pub(super) stream: Outgoing,
    pub(super) first: u64,
    pub(super) payload: usize,
    pub(super) controller: Controller,
    pub(super) guess: Duration,
    pub(super) ack_delay: Duration,
}

impl Sender {
    pub(super) fn new(now: Instant, begin: Begin) -> Self {
        Self {
            stream: begin.stream,
            flight: Flight::new(now, begin.first),
            rtt: Rtt::new(begin.guess),
            pacer: Pacer::new(now, begin.payload),
            controller: begin.controller,
            control: begin.controller.begin(begin.payload),
            payload: begin.payload,
            guess: begin.guess,
            ack_delay: begin.ack_delay,
            probes: 0,
            backoff: 0,
            ping: false,
            persist: 0,
            asked: None,
            lost_at: None,
            suspects: 0,
            paced: None,
            stalled: None,
            marks: 0,
            run: false,
            counts: Counts::default(),
        }
    }

    /// Takes an acknowledgement.
    pub(super) fn ack(&mut self, now: Instant, ack: &Ack<'_>) -> Result<(), Fault> {
        let next = self.flight.next();
        let largest = header::whole_number(ack.largest, next);
        if largest >= next || ack.next > self.stream.sent() {
            return Err(Fault::NeverSent);
        }
        if self.stream.grant(ack.next + u64::from(ack.window)) {
            (self.persist, self.asked) = (0, None);
        }
        let base = self.stream.base();
        let stream = &mut self.stream;
        let news = self
            .flight
            .acked(now, largest, ack.ranges(largest), |range| {
                stream.arrived(range)
            });
        self.stream.arrived(&(0..ack.next));
        let marked = ack.marks.wrapping_sub(self.marks);
        if let Some(news) = news {
            self.run = true;
            let rtt = news
                .newest
                .then(|| now.saturating_duration_since(news.sent));
            if let Some(rtt) = rtt {
                let delay = Duration::from_micros(u64::from(ack.delay) * DELAY_UNIT);
                self.rtt.sample(rtt, delay.min(self.ack_delay));
            }
            (self.backoff, self.probes) = (0, 0);
            self.counts.spurious += news.spurious;
            if news.spurious > 0 && self.suspects > 0 {
                self.suspects = self.suspects.saturating_sub(news.spurious);
                // Only if nothing at all was lost.
                if self.suspects == 0 {
                    self.control.on_spurious(now);
                }
            }
            // Reordered acknowledgements don't count marks backwards.
            if news.newest && marked != 0 && marked < 1 << 15 {
                self.marks = ack.marks;
                self.counts.ecn += u64::from(self.control.on_ecn(now, news.sent));
            }
            self.lose(now);
            let shown = self.flight.show(self.rtt.least());
            self.control.on_ack(&Acked {
                now,
                bytes: news.bytes,
                sent: news.sent,
                in_flight: self.flight.in_flight(),
                rtt,
                smooth: self.rtt.smooth(),
                least: self.rtt.least(),
                round: shown.round,
                rate: shown.rate,
                idle: shown.idle,
            });
        }
        if self.stream.base() > base || news.is_some() && !self.stream.waits() {
            self.stalled = (self.stream.waits() || !self.flight.is_empty()).then_some(now);
        }
        Ok(())
    }

    fn lose(&mut self, now: Instant) {
        let stream = &mut self.stream;
        let losses = self
            .flight
            .find_lost(now, &self.rtt, |range| stream.lost(range));
        let Some(losses) = losses else { return };
        let lately = |at: Instant| now < at + 4 * self.rtt.recent();
        if !self.lost_at.is_some_and(lately) {
            self.suspects = 0;
        }
        self.suspects += losses.packets;
        self.lost_at = Some(now);
        self.counts.lost += losses.packets;
        let persistent = self.is_persistent(&losses);
        self.control.on_loss(&Lost {
            now,
            bytes: losses.bytes,
            sent: losses.last_sent,
            in_flight: self.flight.in_flight(),
            persistent,
        });
    }

    /// RFC 9002 §7.6.
    fn is_persistent(&self, losses: &Losses) -> bool {
        let span = losses
            .last_sent
            .saturating_duration_since(losses.first_sent);
        losses.packets > 1 && span > 3 * self.rtt.probe_timeout(self.ack_delay)
    }

    /// What the time brings.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.stream.expires().is_some_and(|at| at <= now) {
            self.stream.expire(now);
        }
        if self.flight.loss_at().is_some_and(|at| at <= now) {
            self.lose(now);
        } else if self.probe_at().is_some_and(|at| at <= now) && self.probes == 0 {
            self.backoff += 1;
            // One more each time, up to the least window.
            self.probes = LEAST_PACKETS.min(self.backoff as usize);
            self.counts.probes += 1;
        }
        if self.ask_at().is_some_and(|at| at <= now) {
            self.persist += 1;
            self.asked = Some(now);
            self.ping = true;
        }
    }

    /// When silence calls for a probe.
    fn probe_at(&self) -> Option<Instant> {
        if self.flight.is_empty() || self.flight.loss_at().is_some() {
            return None;
        }
        Some(self.flight.last_sent().max(self.lost_at)? + self.pause_after(self.backoff))
    }

    /// When to ask for a wider window.
    fn ask_at(&self) -> Option<Instant> {
        if !self.stream.blocked() || !self.flight.is_empty() || self.ping {
            return None;
        }
        let since = self.asked.or_else(|| self.flight.last_sent())?;
        Some(since + self.pause_after(self.persist))
    }

    /// How long to wait for an answer after so many times without. Every second time doubles it: where two links in a row lose
    /// a third each way, two questions in three bring none, and a pause that doubled each time would have no bound on average.
    fn pause_after(&self, times: u32) -> Duration {
        let doublings = (times / 2).min(MAX_BACKOFF);
        (self.rtt.probe_timeout(self.ack_delay) * (1 << doublings)).min(LONGEST)
    }

    /// There is another path, or it is back: what waits for a probe needn't wait longer.
    pub(super) fn rerouted(&mut self) {
        self.backoff = 0;
        self.rtt.forget_least();
        if !self.flight.is_empty() {
            self.probes = self.probes.max(1);
        }
        self.ping |= self.stream.blocked();
    }

    /// Something is to be heard of the other side.
    pub(super) fn ping(&mut self) {
        self.ping = true;
    }

    /// The next piece to send with at most `room` bytes of the stream, if it may go now.
    pub(super) fn next(&mut self, now: Instant, room: usize) -> Option<Piece> {
        self.paced = None;
        if self.probes > 0 {
            self.probes -= 1;
            let alone = true;
            let piece = self.stream.cut(room, alone);
            return piece
                .or_else(|| self.stream.oldest(room))
                .or_else(|| Some(self.stream.nothing()));
        }
        if self.ping {
            self.ping = false;
            return Some(self.stream.nothing());
        }
        if !self.stream.ready() {
            if self.flight.in_flight() + self.payload <= self.control.window() {
                self.flight.idle();
            }
            return None;
        }
        let alone = self.flight.is_empty();
        if !alone && self.flight.in_flight() + self.payload > self.control.window() {
            return None;
        }
        let rate = self.control.pacing_rate(self.rtt.smooth());
        if let Err(at) = self.pacer.ready(now, rate, self.payload) {
            self.paced = Some(at);
            return None;
        }
        self.stream.cut(room, alone)
    }

    /// A piece goes in a PDU of `size` bytes; gives its packet's number.
    pub(super) fn sent(&mut self, now: Instant, piece: &Piece, size: usize) -> u64 {
        let number = self.flight.next();
        self.counts.sent += 1;
        self.counts.again += u64::from(piece.again);
        self.flight.sent(now, piece.range.clone(), size);
        self.stalled.get_or_insert(now);
        self.pacer.sent(size);
        self.control.on_sent(now, size, self.flight.in_flight());
        number
    }

    /// Whether the other side may know nothing of this run.
    pub(super) fn begins_run(&self) -> bool {
        !self.run
    }

    /// What a pause does: after `forgotten` the other side may know nothing of the run; after `stale` this side knows
    /// nothing of the path.
    pub(super) fn pause(&mut self, now: Instant, forgotten: Duration, stale: Duration) {
        let Some(sent) = self.flight.last_sent().filter(|_| self.flight.is_empty()) else {
            return;
        };
        self.run &= now < sent + forgotten;
        if now >= sent + stale {
            self.rtt = Rtt::new(self.guess);
            self.control = self.controller.begin(self.payload);
            self.pacer = Pacer::new(now, self.payload);
        }
    }

    pub(super) fn set_payload(&mut self, payload: usize) {
        if payload < self.payload {
            let stream = &mut self.stream;
            self.flight.lose_larger(payload, |range| stream.lost(range));
        }
        self.payload = payload;
        self.control.set_payload(payload);
    }

    /// Since when nothing of what waits was acknowledged.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled
    }

    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.flight.last_sent()
    }

    /// Whether nothing is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.flight.is_empty()
    }

    pub(super) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    pub(super) fn probe_timeout(&self) -> Duration {
        self.rtt.probe_timeout(self.ack_delay)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flight.in_flight()
    }

    pub(super) fn control(&self) -> &dyn CongestionControl {
        &*self.control
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = [
            self.flight.loss_at(),
            self.probe_at().filter(|_| self.probes == 0),
            self.ask_at(),
            self.paced,
            self.stream.expires(),
        ];
        waits.into_iter().flatten().min()
    }
}

/// The longest pause between two probes.
const LONGEST: Duration = Duration::from_secs(2);
const MAX_BACKOFF: u32 = 10;
