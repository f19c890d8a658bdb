//! FRCT: flow and retransmission control, one machine for each end of a flow.
//!
//! It must not know who carries its PDUs: they may be lost, doubled and swapped, but not forged, since they are sealed.
//! Each direction is a stream of bytes in which each SDU stands behind its length. Packets that carry data have numbers of
//! their own, also when they send bytes again, so that each acknowledgement says which sending arrived (as in QUIC, RFC 9000).
//! Loss is found by time and number (RACK-TLP, RFC 8985; RFC 9002); what waits to be sent is bounded by the receiver's
//! window, the congestion window and a pace.
//!
//! **Time** (Delta-t; Watson 1981). No handshake: what makes a connection is that three times are bounded. MPL: a PDU lives no
//! longer; A: an acknowledgement waits no longer; R: bytes are sent again no longer, then the flow fails. A flow's endpoints and
//! keys are never used twice, so that its numbers and offsets live as long as the flow; what the times decide is
//! - when a pause has been long enough for a sender to know that the receiver may have forgotten its numbers: after
//!   MPL + A + R without sending, and as long as nothing of the run is acknowledged, its PDUs say that they begin a run;
//! - when a receiver forgets them: 2·MPL + A + R after the last one. From then on it takes only what begins a run;
//! - when the sender forgets what it knew of the path and begins slowly again: 3·MPL + A + R after the last one;
//! - when a flow fails: after R without an acknowledgement that was waited for.

mod acks;
mod bbr;
mod control;
mod cubic;
mod fault;
mod flight;
mod header;
mod incoming;
mod outgoing;
mod pacer;
mod ranges;
mod rate;
mod ring;
mod room;
mod rtt;
mod sender;
#[cfg(test)]
mod tests;
mod timers;

use std::time::{Duration, Instant};

use proto::{Batch, Code, QosSpec, Reason};

use acks::Acks;
pub use control::{Acked, CongestionControl, Controller, Lost};
pub use fault::Fault;
pub use header::{Ack, Data, Pdu};
use incoming::Incoming;
pub use incoming::Sdu;
use outgoing::Outgoing;
pub use room::Buffers;
use sender::{Begin, Sender};

/// How a flow end begins. Both ends must agree on `qos` and `first_credit`.
#[derive(Debug, Clone)]
pub struct Params {
    /// What the flow promises; `reliable` implies order.
    pub qos: QosSpec,
    /// The most bytes of a PDU that the path carries now, at least [`Frct::LEAST_PAYLOAD`].
    pub payload: usize,
    /// How long a PDU lives at most.
    pub mpl: Duration,
    /// How long an acknowledgement waits at most.
    pub a: Duration,
    /// How long bytes are sent again at most.
    pub r: Duration,
    /// Which congestion control.
    pub controller: Controller,
    /// The number of the first packet: chance.
    pub first_number: u32,
    /// The most bytes that wait to be sent or acknowledged, until [`Frct::widen`].
    pub send_buffer: usize,
    /// The most bytes that wait to be read, until then.
    pub receive_buffer: usize,
    /// What a sender may send before the first acknowledgement tells it the window.
    pub first_credit: u64,
    /// The round trip as far as is known.
    pub rtt: Duration,
}

impl Params {
    /// What is usual; `first_number` by chance.
    pub fn new(qos: QosSpec, payload: usize, first_number: u32) -> Self {
        Self {
            qos,
            payload,
            mpl: Duration::from_secs(5),
            a: Duration::from_millis(5),
            r: Duration::from_secs(60),
            controller: Controller::default(),
            first_number,
            send_buffer: 4 << 20,
            receive_buffer: 4 << 20,
            first_credit: 64 << 10,
            rtt: Duration::from_millis(100),
        }
    }
}

/// One end of a flow.
///
/// The owner gives it SDUs and PDUs, then calls [`Frct::poll`] until that gives none; then it waits for news or the
/// [`Frct::deadline`]. There may be SDUs to read after a PDU, and of a lossy flow after a poll. PDUs that arrive together are best given all before a poll: they are then acknowledged together.
#[derive(Debug, Clone)]
pub struct Frct {
    params: Params,
    sender: Sender,
    incoming: Incoming,
    acks: Acks,
    /// When anything was heard, or the flow began.
    heard: Instant,
    begun: Instant,
    /// When both directions were done; the other side's end is still answered for a while.
    done: Option<Instant>,
    finished: bool,
    failed: Option<Failure>,
    received: u64,
    /// When time was looked at last, if nothing has happened since.
    looked: Option<Instant>,
}

/// Why an SDU was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The queue has no room for it now.
    #[error("the flow's queue is full; try again when it is writable")]
    Full,
    /// It never fits.
    #[error("an SDU of {0} bytes is too long; at most 65505")]
    TooBig(usize),
    /// It has no bytes.
    #[error("an SDU has at least one byte")]
    Empty,
    /// The flow is shut for writing, or has failed.
    #[error("the flow is closed for writing")]
    Closed,
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Both may write.
    Open,
    /// This side has shut; the other may still write.
    Shut,
    /// The other side has shut and all of its SDUs were read; this side may still write.
    PeerShut,
    /// Both have shut; something still waits to be sent, acknowledged or read, or the other side may still ask.
    Closing,
    /// Both have shut and all has arrived: it may be dropped.
    Finished,
    /// It is down.
    Failed(Failure),
}

/// Why a flow is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing of what was sent was acknowledged for this long (R).
    #[error("the peer acknowledged nothing for {} s: it or the way to it is gone; allocate the flow again", .0.as_secs())]
    NoAnswer(Duration),
    /// Nothing was heard for as long as the QoS bears.
    #[error("nothing was heard of the peer for {} ms, the time-out of the flow's QoS; allocate the flow again", .0.as_millis())]
    Silence(Duration),
    /// The peer sends nonsense.
    #[error("the peer broke the protocol ({0}); look for another version or a fault on its side")]
    Misbehaved(Fault),
}

impl From<Failure> for Reason {
    fn from(failure: Failure) -> Self {
        let code = match failure {
            Failure::NoAnswer(_) | Failure::Silence(_) => Code::TimedOut,
            Failure::Misbehaved(_) => Code::PeerMisbehaved,
        };
        Self::new(code, failure.to_string())
    }
}

/// What there is to know of a flow end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// The smoothed round trip.
    pub rtt: Duration,
    /// The least round trip.
    pub min_rtt: Duration,
    /// The congestion window, bytes.
    pub window: usize,
    /// Bytes per second that the pace allows.
    pub pace: u64,
    /// Bytes on their way.
    pub in_flight: usize,
    /// Bytes that were written and aren't acknowledged (of a lossy flow: sent).
    pub queued: usize,
    /// Packets with data that were sent, those sent again included.
    pub sent: u64,
    /// Packets that sent something again.
    pub again: u64,
    /// Packets that were taken to be lost.
    pub lost: u64,
    /// Packets of these that had only been late.
    pub spurious: u64,
    /// Times that silence called for a probe.
    pub probes: u64,
    /// Times that a congestion mark reduced the window.
    pub marked: u64,
    /// SDUs dropped since they were older than the QoS bears.
    pub late: u64,
    /// Gaps that the receiver of a lossy flow gave up.
    pub gaps: u64,
    /// SDUs of a lossy flow of which a piece came and another did not: dropped as a whole.
    pub torn: u64,
    /// Packets with data that were received.
    pub received: u64,
    /// Bytes of memory for what waits.
    pub memory: usize,
}

impl Frct {
    /// The least size of a PDU that it can work with.
    pub const LEAST_PAYLOAD: usize = 64;
    /// The bytes around those of the stream, in a PDU without an acknowledgement.
    pub const HEADER: usize = header::DATA_LEN;
    /// The most bytes of an SDU.
    pub const MAX_SDU: usize = Batch::MAX_PACKET;

    /// An end that has heard nothing. Buffers are at least as large as an SDU.
    pub fn new(now: Instant, mut params: Params) -> Self {
        let least = Self::MAX_SDU + 2;
        params.payload = params.payload.max(Self::LEAST_PAYLOAD);
        params.send_buffer = params.send_buffer.max(least);
        params.receive_buffer = params.receive_buffer.max(least);
        Self::begin(now, params)
    }

    fn begin(now: Instant, params: Params) -> Self {
        let qos = params.qos;
        let delay = (qos.max_delay_ms > 0).then(|| Duration::from_millis(qos.max_delay_ms.into()));
        let stream = Outgoing::new(qos.reliable, params.send_buffer, params.first_credit, delay);
        let patience = if qos.ordered {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let begin = Begin {
            stream,
            first: acks::FIRST + u64::from(params.first_number),
            payload: params.payload,
            controller: params.controller,
            guess: params.rtt,
            ack_delay: params.a,
        };
        Self {
            sender: Sender::new(now, begin),
            incoming: Incoming::new(
                qos.reliable,
                patience,
                params.receive_buffer,
                params.first_credit,
            ),
            acks: Acks::default(),
            heard: now,
            begun: now,
            done: None,
            finished: false,
            failed: None,
            received: 0,
            looked: None,
            params,
        }
    }

    /// Queues an SDU of 1 to [`Frct::MAX_SDU`] bytes.
    pub fn write(&mut self, now: Instant, sdu: &[u8]) -> Result<(), WriteError> {
        if self.failed.is_some() {
            return Err(WriteError::Closed);
        }
        self.sender.stream.write(now, sdu)
    }

    /// Whether more should be written: not from when a quarter of a MiB waits to be sent until half of that does.
    pub fn writable(&self) -> bool {
        self.failed.is_none() && self.sender.stream.writable()
    }

    /// Writes the next PDU that may go now into a buffer of at least [`Params::payload`] bytes; gives its length.
    pub fn poll(&mut self, now: Instant, pdu: &mut [u8]) -> Option<usize> {
        if self.looked != Some(now) {
            self.expire(now);
            self.looked = Some(now);
        }
        if self.failed.is_some() {
            return None;
        }
        let room = self.params.payload.min(pdu.len());
        if room < Self::LEAST_PAYLOAD {
            return None;
        }
        let more = self
            .acks
            .further()
            .min(header::MAX_MORE)
            .min(room / 4 / header::RANGE);
        let ack_len = header::ACK_LEN + more * header::RANGE;
        // An acknowledgement goes by itself before it makes two pieces of an SDU that lives by arriving whole.
        let fits = |whole| whole + Self::HEADER + ack_len <= room || whole + Self::HEADER > room;
        let with_ack = self.acks.waits() && self.sender.stream.whole().is_none_or(fits);
        let around = Self::HEADER + if with_ack { ack_len } else { 0 };
        if let Some(piece) = self.sender.next(now, room - around) {
            let size = around + piece.len();
            let number = self.sender.sent(now, &piece, size);
            let mut writer = header::Writer::new(pdu, self.sender.begins_run());
            if with_ack {
                Self::put_ack(
                    &mut self.acks,
                    &mut self.incoming,
                    &self.params,
                    now,
                    &mut writer,
                    more,
                );
            }
            let bytes = writer.data(
                number,
                piece.range.start,
                piece.begins_sdu,
                piece.ends,
                piece.len(),
            );
            self.sender.stream.copy(&piece, bytes);
            return Some(writer.len());
        }
        if !self.acks.due(now, self.params.a) {
            return None;
        }
        let mut writer = header::Writer::new(pdu, false);
        Self::put_ack(
            &mut self.acks,
            &mut self.incoming,
            &self.params,
            now,
            &mut writer,
            more,
        );
        Some(writer.len())
    }

    fn put_ack(
        acks: &mut Acks,
        incoming: &mut Incoming,
        params: &Params,
        now: Instant,
        writer: &mut header::Writer<'_>,
        more: usize,
    ) {
        let next = incoming.position();
        let window = incoming.announce(params.payload).saturating_sub(next);
        let window = u32::try_from(window).unwrap_or(u32::MAX);
        let fields = acks.take(now, next, window);
        writer.ack(&fields, acks.ranges(), more);
    }

    /// Takes a PDU; `marked` says that it met congestion on its way. An error is to be counted, the flow goes on.
    pub fn receive(&mut self, now: Instant, pdu: &[u8], marked: bool) -> Result<(), Fault> {
        if self.failed.is_some() {
            return Err(Fault::Down);
        }
        let pdu = Pdu::parse(pdu)?;
        self.looked = None;
        if now >= self.heard + self.forgets_after() {
            self.acks.forget();
        }
        if let Some(ack) = &pdu.ack {
            self.sender.ack(now, ack)?;
        }
        if let Some(data) = &pdu.data {
            if self.acks.is_new() && !pdu.begins_run {
                return Err(Fault::NoRun);
            }
            let number = self.acks.number(data.number);
            if self.acks.knows(number) {
                return Err(Fault::Doubled);
            }
            let disordered = self.incoming.data(now, data).inspect_err(|fault| {
                if *fault == Fault::Sdu {
                    self.failed = Some(Failure::Misbehaved(*fault));
                }
            })?;
            self.received += 1;
            let asked = data.bytes.is_empty() || data.ends;
            self.acks.arrived(now, number, marked, disordered || asked);
        }
        self.heard = now;
        Ok(())
    }

    /// The length of the SDU that [`Frct::read`] would give.
    pub fn next_len(&self) -> Option<usize> {
        self.incoming.next_len()
    }

    /// The next SDU that has arrived. Reading opens the window: poll afterwards.
    pub fn read(&mut self) -> Option<Sdu<'_>> {
        self.looked = None;
        self.incoming.read()
    }

    /// Whether the other side has shut and all of its SDUs were read.
    pub fn ended(&self) -> bool {
        self.incoming.ended()
    }

    /// The path carries PDUs of this many bytes from now on. What was sent in larger ones is sent again.
    pub fn set_payload(&mut self, payload: usize) {
        self.params.payload = payload.max(Self::LEAST_PAYLOAD);
        self.looked = None;
        self.sender.set_payload(self.params.payload);
    }

    /// The path has changed or is back: what is missing is asked for at once rather than at the next probe, and the round
    /// trip is measured anew.
    pub fn rerouted(&mut self) {
        self.looked = None;
        self.sender.rerouted();
    }

    /// How much may wait at this end now.
    pub fn buffers(&self) -> Buffers {
        Buffers {
            send: self.sender.stream.limit(),
            receive: self.incoming.room().0 as usize,
        }
    }

    /// How much should, so that only the path holds the flow up: room for what four round trips bring, each way, since what is
    /// lost twice holds up all behind it for three.
    pub fn wanted(&self) -> Buffers {
        let sent = 4 * self.sender.control().window();
        Buffers {
            send: sent.max(self.sender.stream.limit()),
            receive: self.incoming.room().1 as usize,
        }
    }

    /// So much may wait from now on. What is less than before is left as it is: what was promised to the other side holds.
    pub fn widen(&mut self, buffers: Buffers) {
        self.looked = None;
        self.sender.stream.widen(buffers.send);
        self.incoming.widen(buffers.receive as u64);
    }

    /// Nothing more will be written. The other side hears of it after all that was.
    pub fn shut(&mut self) {
        self.looked = None;
        self.sender.stream.shut();
    }

    /// Whether all that was written has arrived (of a lossy flow: was sent), and the end if this side has shut.
    pub fn sent_all(&self) -> bool {
        let stream = &self.sender.stream;
        stream.is_done() || !stream.is_shut() && stream.queued() == 0
    }

    /// How far the flow is, as of the last poll.
    pub fn state(&self) -> State {
        if let Some(failure) = self.failed {
            return State::Failed(failure);
        }
        match (self.sender.stream.is_shut(), self.ended()) {
            (false, false) => State::Open,
            (true, false) => State::Shut,
            (false, true) => State::PeerShut,
            (true, true) if self.finished => State::Finished,
            (true, true) => State::Closing,
        }
    }

    /// What there is to know.
    pub fn stats(&self) -> Stats {
        let counts = self.sender.counts;
        let rtt = self.sender.rtt();
        Stats {
            rtt: rtt.smooth(),
            min_rtt: rtt.least(),
            window: self.sender.control().window(),
            pace: self.sender.control().pacing_rate(rtt.smooth()),
            in_flight: self.sender.in_flight(),
            queued: self.sender.stream.queued(),
            sent: counts.sent,
            again: counts.again,
            lost: counts.lost,
            spurious: counts.spurious,
            probes: counts.probes,
            marked: counts.ecn,
            late: self.sender.stream.late,
            gaps: self.incoming.gaps,
            torn: self.incoming.torn,
            received: self.received,
            memory: self.sender.stream.memory() + self.incoming.memory(),
        }
    }

    /// When to poll again if nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        let none = self.failed.is_some();
        self.waits().into_iter().flatten().min().filter(|_| !none)
    }

    /// The timers, for a test that looks which one is wrong.
    fn waits(&self) -> [Option<Instant>; 7] {
        [
            self.sender.deadline(),
            self.acks.deadline(self.params.a),
            self.incoming.gap_ends(),
            self.fails_at().map(|(at, _)| at),
            self.keep_alive_at(),
            self.lingers_until(),
            self.forgets_at(),
        ]
    }
}

/// How long a lossy, ordered flow waits for packets that were overtaken.
const PATIENCE: Duration = Duration::from_millis(5);
