//! Reliable, ordered messages over frames that may be lost, doubled or reordered, inside a sealed session.
//!
//! A message travels as its length (u32) and its bytes in a stream of bytes; each direction is a stream of its own, with a
//! random id that its sender chose. Frames, big-endian:
//!
//! | frame | layout |
//! |---|---|
//! | data | `1 u8, stream u32, offset u64, ack_stream u32, ack u64`, at least one byte of the stream |
//! | ack | `2 u8, ack_stream u32, ack u64` |
//! | reset | `3 u8, stream u32` |
//!
//! `ack` says that all bytes of `ack_stream` before it have arrived; a sender that has heard nothing yet acknowledges
//! byte 0 of stream 0. Until the first acknowledgement of a stream, only its first frame is sent, so that a frame at
//! another offset shows that its receiver once knew the stream:
//! - data of an unknown stream at offset 0 replaces the other side's stream; if it doesn't acknowledge ours, which was
//!   acknowledged before, we go on with `stream + 1`, and what was queued is dropped;
//! - the same goes for the other side's very first stream, but only the second time that such a frame comes: the first may
//!   be late, from before the other side had heard of us;
//! - data of an unknown stream at another offset is answered with a reset: this side has begun anew since;
//! - so is data of a stream that was replaced: either it is late, and its sender has another by now, or a later one was;
//! - a reset of our stream makes us go on with `stream + 1` in the same way.
//!
//! What has arrived is acknowledged by the data that goes back. A frame for it alone goes 25 ms after the data; at once for
//! every second frame, for one at offset 0, which holds the rest up, for one that came before, and for one that fills a gap.
//!
//! [`Channel::lost`] tells the owner of both, so that it says again what still matters. Who replaces its stream and acknowledges
//! ours as it is now has taken that from its begin, or will: then nothing of ours is lost.

mod frame;
mod receiver;
mod sender;

use std::fmt;
use std::time::{Duration, Instant};

pub use frame::BadFrame;
use frame::Frame;
use receiver::{Received, Receiver};
use sender::Sender;

/// One end of a control channel.
pub struct Channel {
    sender: Sender,
    receiver: Receiver,
    /// A stream that the other side shall give up.
    reset: Option<u32>,
    lost: Option<Lost>,
    /// The first stream of the other side, not taken yet since it acknowledged nothing of an acknowledged stream of ours.
    doubted: Option<u32>,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The queue has no room for it now.
    #[error("the control channel's queue of 4 MiB is full; try again later")]
    Queue,
    /// It never fits.
    #[error("a control message of {0} bytes is too long; at most 1 MiB")]
    Message(usize),
}

/// Whose messages may be lost when a side begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// What the other side said before, and what it knew. What this side says in its present stream arrives.
    Theirs,
    /// What this side said before, too.
    Both,
}

impl Channel {
    /// The most bytes of one message.
    pub const MAX_MESSAGE: usize = 1 << 20;

    /// A channel that has heard nothing. `stream` is random; `frame_size` is the largest frame in bytes.
    pub fn new(stream: u32, frame_size: usize) -> Self {
        Self {
            sender: Sender::new(stream, frame_size),
            receiver: Receiver::default(),
            reset: None,
            lost: None,
            doubted: None,
        }
    }

    /// Frames have at most this many bytes from now on, also those that are sent again.
    pub fn set_frame_size(&mut self, frame_size: usize) {
        self.sender.set_frame_size(frame_size);
    }

    /// Lets no more bytes wait than that.
    #[cfg(test)]
    pub(crate) fn hold_at_most(&mut self, most: usize) {
        self.sender.most = most;
    }

    /// Queues a message.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Full> {
        if message.len() > Self::MAX_MESSAGE {
            return Err(Full::Message(message.len()));
        }
        self.sender.queue(message)
    }

    /// Takes a frame that the session has opened. An error is to be counted; the channel is as it was, or [dead](Channel::dead).
    pub fn handle(&mut self, now: Instant, frame: &[u8]) -> Result<(), BadFrame> {
        match Frame::parse(frame)? {
            Frame::Data {
                stream,
                offset,
                ack_stream,
                ack,
                bytes,
            } => {
                self.sender.check(ack_stream, ack)?;
                if offset == 0 && self.receiver.is_new() && self.sender.is_unknown_to(ack_stream) {
                    // Either a late frame from before it heard of us, or a new life that knows nothing of us: what it
                    // sends again tells which.
                    if self.doubted.replace(stream) != Some(stream) {
                        return Err(BadFrame::Early);
                    }
                    self.sender.restart();
                    self.lost = Some(Lost::Both);
                }
                let received = self.receiver.data(now, stream, offset, bytes);
                if received == Err(BadFrame::OldStream) {
                    // Late, or a yet later frame has brought the stream before it back: then only its sender can tell.
                    self.reset = Some(stream);
                }
                match received? {
                    Received::Taken => {}
                    Received::Replaced => {
                        // It has begun anew: what it doesn't acknowledge, it doesn't know.
                        let ours = ack_stream != self.sender.stream() && self.sender.restart();
                        let lost = if ours { Lost::Both } else { Lost::Theirs };
                        self.lost = self.lost.max(Some(lost));
                    }
                    Received::Unknown => self.reset = Some(stream),
                }
                self.sender.ack(now, ack_stream, ack, false);
            }
            Frame::Ack { ack_stream, ack } => {
                self.sender.check(ack_stream, ack)?;
                self.sender.ack(now, ack_stream, ack, true);
            }
            Frame::Reset { stream } => {
                if self.sender.reset(stream) {
                    self.lost = Some(Lost::Both);
                }
            }
        }
        Ok(())
    }

    /// The next frame to send.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.sender.expire(now);
        if self.dead() {
            return None;
        }
        if let Some(stream) = self.reset.take() {
            return Some(Frame::Reset { stream }.encode());
        }
        let (ack_stream, ack) = self.receiver.position();
        // What arrived out of order is told at once and in a frame of its own: the third such frame starts a retransmission.
        if self.receiver.gap_ack() {
            return Some(Frame::Ack { ack_stream, ack }.encode());
        }
        if let Some((stream, offset, bytes)) = self.sender.next(now) {
            self.receiver.acked();
            return Some(
                Frame::Data {
                    stream,
                    offset,
                    ack_stream,
                    ack,
                    bytes: &bytes,
                }
                .encode(),
            );
        }
        if self.receiver.ack_at().is_some_and(|at| at <= now) {
            self.receiver.acked();
            return Some(Frame::Ack { ack_stream, ack }.encode());
        }
        None
    }

    /// The next message that has arrived whole.
    pub fn recv(&mut self) -> Option<Vec<u8>> {
        self.receiver.next_message()
    }

    /// When to poll again if nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        let both = self.sender.deadline().into_iter();
        let both = both.chain(self.receiver.ack_at());
        both.min().filter(|_| !self.dead())
    }

    /// Whether nothing was acknowledged for 15 s although something waited to be, or the other side sends nonsense: drop it.
    pub fn dead(&self) -> bool {
        self.sender.dead() || self.receiver.broken()
    }

    /// The round trip as the last acknowledgements have shown it; `None`: there were none yet, or it was forgotten.
    pub fn rtt(&self) -> Option<Duration> {
        self.sender.rtt()
    }

    /// Frames have a way again after a time without: that they were not acknowledged meanwhile says nothing.
    pub fn resume(&mut self, now: Instant) {
        self.sender.resume(now);
    }

    /// Forgets the round trip: the frames go another way from now on.
    pub fn forget_rtt(&mut self) {
        self.sender.forget_rtt();
    }

    /// Whose messages may be lost because, since the last call, a side has begun a new stream.
    pub fn lost(&mut self) -> Option<Lost> {
        self.lost.take()
    }

    /// Whether everything sent has been acknowledged.
    pub fn has_arrived(&self) -> bool {
        self.sender.is_idle()
    }

    /// Whether everything sent has been acknowledged and nothing is left to be acknowledged.
    pub fn is_idle(&self) -> bool {
        self.sender.is_idle() && self.reset.is_none() && !self.receiver.owes_ack()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({:?}, {:?})", self.sender, self.receiver)
    }
}

#[cfg(test)]
mod tests;
