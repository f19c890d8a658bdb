//! The sending half: a stream of bytes, cut into frames, kept until acknowledged. Cumulative acknowledgements, fast
//! retransmission on the third doubled one (RFC 6582), a time-out from the measured RTT (RFC 6298), a small AIMD window.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::frame::Frame;
use super::receiver::ACK_DELAY;
use super::{BadFrame, Full};

/// What was queued and isn't acknowledged.
pub(super) struct Sender {
    stream: u32,
    frame_size: usize,
    /// The bytes from `base` on, and how many there may be.
    queue: VecDeque<u8>,
    pub(super) most: usize,
    /// Everything before it is acknowledged.
    base: u64,
    /// Everything before it was cut into segments.
    next: u64,
    flight: VecDeque<Segment>,
    /// The other side has acknowledged something: it knows the stream.
    established: bool,
    window: Window,
    rtt: Rtt,
    doubled: u32,
    /// Until this is acknowledged, doubled acknowledgements say nothing new.
    recover: u64,
    /// Whether it was a doubled acknowledgement that began the recovery.
    fast: bool,
    retry_at: Option<Instant>,
    /// Since when nothing was acknowledged although something waits to be.
    stalled: Option<Instant>,
    dead: bool,
}

/// What travels in one frame.
struct Segment {
    offset: u64,
    len: usize,
    /// None: to be sent (again).
    sent: Option<Instant>,
    again: bool,
}

struct Window {
    frames: u32,
    threshold: u32,
    /// Segments acknowledged since the window grew last.
    credit: u32,
}

struct Rtt {
    smooth: Option<Duration>,
    variance: Duration,
    backoff: u32,
}

impl Sender {
    pub(super) fn new(stream: u32, frame_size: usize) -> Self {
        let mut sender = Self {
            stream,
            frame_size: 0,
            queue: VecDeque::new(),
            most: MAX_QUEUE,
            base: 0,
            next: 0,
            flight: VecDeque::new(),
            established: false,
            window: Window {
                frames: FIRST_WINDOW,
                threshold: MAX_WINDOW,
                credit: 0,
            },
            rtt: Rtt::UNKNOWN,
            doubled: 0,
            recover: 0,
            fast: false,
            retry_at: None,
            stalled: None,
            dead: false,
        };
        sender.set_frame_size(frame_size);
        sender
    }

    pub(super) fn set_frame_size(&mut self, frame_size: usize) {
        self.frame_size = frame_size.max(2 * Frame::DATA_HEADER);
        let room = self.frame_size - Frame::DATA_HEADER;
        if self.flight.iter().any(|segment| segment.len > room) {
            // What no longer passes would be sent again in vain.
            self.flight = self
                .flight
                .iter()
                .flat_map(|segment| segment.split(room))
                .collect();
        }
    }

    pub(super) fn queue(&mut self, message: &[u8]) -> Result<(), Full> {
        if self.queue.len() + 4 + message.len() > self.most {
            return Err(Full::Queue);
        }
        // At most 1 MiB, as the caller has checked.
        self.queue.extend((message.len() as u32).to_be_bytes());
        self.queue.extend(message);
        Ok(())
    }

    /// Refuses an acknowledgement of what was never sent.
    pub(super) fn check(&self, stream: u32, ack: u64) -> Result<(), BadFrame> {
        if stream == self.stream && ack > self.next {
            Err(BadFrame::AckTooFar)
        } else {
            Ok(())
        }
    }

    /// Takes an acknowledgement; `bare` if it came without data.
    pub(super) fn ack(&mut self, now: Instant, stream: u32, ack: u64, bare: bool) {
        // What was checked may have been of a stream that has begun since: nothing of that was sent.
        if stream != self.stream || !(self.base..=self.next).contains(&ack) {
            return;
        }
        if ack > self.base {
            self.advance(now, ack);
        } else if bare && !self.flight.is_empty() {
            self.doubled += 1;
            if self.doubled == DOUBLED && self.base >= self.recover {
                self.window.halve();
                (self.recover, self.fast) = (self.next, true);
                self.lost_first();
            }
        }
    }

    /// The next segment to send: stream, offset, bytes.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u32, u64, Vec<u8>)> {
        let limit = if self.established {
            self.window.frames as usize
        } else {
            1
        };
        // In a fast recovery each doubled acknowledgement tells of a frame that has left the net.
        let left = if self.fast { self.doubled as usize } else { 0 };
        let flying = self.flight.iter().filter(|s| s.sent.is_some()).count();
        let index = match self.flight.iter().position(|s| s.sent.is_none()) {
            // The gap itself is filled at once: nothing else can be acknowledged before.
            Some(0) if self.fast => 0,
            _ if flying >= limit + left => return None,
            Some(lost) => lost,
            None => self.cut(limit + left)?,
        };
        let segment = &mut self.flight[index];
        segment.sent = Some(now);
        let (offset, from) = (segment.offset, (segment.offset - self.base) as usize);
        let bytes = copied(&self.queue, from, segment.len);
        self.retry_at
            .get_or_insert_with(|| now + self.rtt.timeout());
        self.stalled.get_or_insert(now);
        Some((self.stream, offset, bytes))
    }

    /// Does what the time demands.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.stalled.is_some_and(|since| now >= since + PATIENCE) {
            self.dead = true;
        } else if self.retry_at.is_some_and(|at| now >= at) {
            for segment in &mut self.flight {
                (segment.sent, segment.again) = (None, true);
            }
            self.window.halve();
            self.rtt.backoff += 1;
            (self.recover, self.fast, self.doubled) = (self.next, false, 0);
            self.retry_at = Some(now + self.rtt.timeout());
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let stalled = self.stalled.map(|since| since + PATIENCE);
        [self.retry_at, stalled]
            .into_iter()
            .flatten()
            .min()
            .filter(|_| !self.dead)
    }

    /// The other side doesn't know `stream`: if it is ours, goes on with another and forgets what was queued.
    pub(super) fn reset(&mut self, stream: u32) -> bool {
        let ours = stream == self.stream;
        if ours {
            *self = Self::new(stream.wrapping_add(1), self.frame_size);
        }
        ours
    }

    /// The other side has begun anew: goes on with another stream, unless it may still take this one from its begin. Says
    /// whether it does.
    pub(super) fn restart(&mut self) -> bool {
        self.established && self.reset(self.stream)
    }

    /// Whether our stream was acknowledged once, and one who acknowledges `ack_stream` knows nothing of it.
    pub(super) fn is_unknown_to(&self, ack_stream: u32) -> bool {
        self.established && ack_stream != self.stream
    }

    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    pub(super) fn dead(&self) -> bool {
        self.dead
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.smooth
    }

    /// There is a way again: what waits goes at once, and is given all its time.
    pub(super) fn resume(&mut self, now: Instant) {
        if self.stalled.is_some() && !self.dead {
            self.stalled = Some(now);
            self.retry_at = Some(now);
            self.rtt.backoff = 0;
        }
    }

    pub(super) fn forget_rtt(&mut self) {
        self.rtt = Rtt::UNKNOWN;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Cuts a new segment; gives its place.
    fn cut(&mut self, limit: usize) -> Option<usize> {
        let rest = self.queue.len() - (self.next - self.base) as usize;
        if rest == 0 || self.flight.len() >= limit {
            return None;
        }
        let len = rest.min(self.frame_size - Frame::DATA_HEADER);
        self.flight.push_back(Segment {
            offset: self.next,
            len,
            sent: None,
            again: false,
        });
        self.next += len as u64;
        Some(self.flight.len() - 1)
    }

    fn advance(&mut self, now: Instant, ack: u64) {
        self.queue.drain(..(ack - self.base) as usize);
        if self.queue.is_empty() && self.queue.capacity() > KEPT {
            self.queue = VecDeque::new();
        }
        self.base = ack;
        self.established = true;
        self.doubled = 0;
        self.rtt.backoff = 0;
        while let Some(first) = self.flight.front_mut() {
            let end = first.offset + first.len as u64;
            if end > ack {
                // An acknowledgement within a segment: the rest of it is still on its way.
                first.len = (end - ack.max(first.offset)) as usize;
                first.offset = ack.max(first.offset);
                break;
            }
            // What was sent twice tells no RTT: nobody knows which one was acknowledged (Karn).
            if let Some(sent) = first.sent.filter(|_| !first.again) {
                self.rtt.sample(now.saturating_duration_since(sent));
            }
            self.window.grow();
            self.flight.pop_front();
        }
        let waits = !self.flight.is_empty();
        self.retry_at = waits.then(|| now + self.rtt.timeout());
        self.stalled = waits.then_some(now);
        if self.fast && self.base < self.recover {
            // The next gap, without waiting for three more.
            self.lost_first();
        } else {
            self.fast = false;
        }
    }

    fn lost_first(&mut self) {
        if let Some(first) = self.flight.front_mut() {
            (first.sent, first.again) = (None, true);
        }
    }
}

/// So many bytes of a queue.
fn copied(queue: &VecDeque<u8>, from: usize, len: usize) -> Vec<u8> {
    let (head, tail) = queue.as_slices();
    let of_head = head.get(from..).unwrap_or_default();
    let of_tail = &tail[from.saturating_sub(head.len())..];
    let in_head = of_head.len().min(len);
    [&of_head[..in_head], &of_tail[..len - in_head]].concat()
}

impl Segment {
    /// The same bytes in pieces of at most `room`.
    fn split(&self, room: usize) -> impl Iterator<Item = Self> {
        let (offset, len, sent, again) = (self.offset, self.len, self.sent, self.again);
        (0..len).step_by(room).map(move |at| Self {
            offset: offset + at as u64,
            len: room.min(len - at),
            sent,
            again,
        })
    }
}

impl Window {
    fn grow(&mut self) {
        self.credit += 1;
        // Doubles each round trip below the threshold, then adds one.
        let step = if self.frames < self.threshold {
            1
        } else {
            self.frames
        };
        if self.credit >= step {
            self.credit = 0;
            self.frames = (self.frames + 1).min(MAX_WINDOW);
        }
    }

    fn halve(&mut self) {
        self.threshold = (self.frames / 2).max(MIN_WINDOW);
        self.frames = self.threshold;
        self.credit = 0;
    }
}

impl Rtt {
    const UNKNOWN: Self = Self {
        smooth: None,
        variance: Duration::ZERO,
        backoff: 0,
    };

    fn sample(&mut self, rtt: Duration) {
        match self.smooth {
            None => (self.smooth, self.variance) = (Some(rtt), rtt / 2),
            Some(smooth) => {
                self.variance = (self.variance * 3 + smooth.abs_diff(rtt)) / 4;
                self.smooth = Some((smooth * 7 + rtt) / 8);
            }
        }
    }

    fn timeout(&self) -> Duration {
        let once = self
            .smooth
            .map_or(FIRST_TIMEOUT, |smooth| smooth + self.variance * 4);
        (once.max(MIN_TIMEOUT) + ACK_DELAY)
            .min(MAX_TIMEOUT)
            .saturating_mul(1 << (self.backoff / 2).min(8))
            .min(MAX_TIMEOUT)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sends stream {:08x}, {} bytes queued at {}",
            self.stream,
            self.queue.len(),
            self.base
        )
    }
}

const MAX_QUEUE: usize = 4 << 20;
/// The room in bytes that an empty queue keeps: a burst on one of thousands of links must not cost memory for good.
pub(super) const KEPT: usize = 4096;
const FIRST_WINDOW: u32 = 16;
const MIN_WINDOW: u32 = 2;
const MAX_WINDOW: u32 = 256;
const DOUBLED: u32 = 3;
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);
const MIN_TIMEOUT: Duration = Duration::from_millis(20);
const MAX_TIMEOUT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(15);
