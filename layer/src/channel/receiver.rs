//! The receiving half: puts the other side's stream in order and cuts it into messages.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use super::sender::KEPT;
use super::{BadFrame, Channel};

/// What is known of the other side's stream.
#[derive(Default)]
pub(super) struct Receiver {
    stream: Option<Stream>,
    /// Ids that were given up: a late frame of theirs must not bring them back.
    old: VecDeque<u32>,
    messages: VecDeque<Vec<u8>>,
    waiting: usize,
    /// When what has arrived is acknowledged at the latest.
    ack_at: Option<Instant>,
    gap_acks: u8,
    broken: bool,
}

struct Stream {
    id: u32,
    /// All bytes before it have arrived.
    next: u64,
    /// What arrived ahead of a gap, by its offset.
    ahead: BTreeMap<u64, Vec<u8>>,
    ahead_bytes: usize,
    /// The begin of a message that isn't whole yet, its length in front.
    partial: Vec<u8>,
}

/// What a data frame was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Of the known stream, or of the first one.
    Taken,
    /// The begin of a stream in place of another.
    Replaced,
    /// Of the middle of a stream that isn't known here.
    Unknown,
}

impl Receiver {
    /// Takes a data frame.
    pub(super) fn data(
        &mut self,
        now: Instant,
        stream: u32,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Received, BadFrame> {
        if self.broken {
            return Err(BadFrame::TooLong);
        }
        let known = self.stream.as_ref().is_some_and(|s| s.id == stream);
        if !known {
            if self.old.contains(&stream) {
                return Err(BadFrame::OldStream);
            }
            if offset != 0 {
                return Ok(Received::Unknown);
            }
        }
        if self.waiting > MAX_WAITING {
            return Err(BadFrame::TooMuch);
        }
        let mut received = Received::Taken;
        if !known {
            let fresh = Stream {
                id: stream,
                next: 0,
                ahead: BTreeMap::new(),
                ahead_bytes: 0,
                partial: Vec::new(),
            };
            if let Some(old) = self.stream.replace(fresh) {
                self.old.push_back(old.id);
                if self.old.len() > MAX_OLD {
                    self.old.pop_front();
                }
                received = Received::Replaced;
            }
            self.gap_acks = 0;
        }
        // Set above if it wasn't.
        let Some(current) = &mut self.stream else {
            return Ok(received);
        };
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or(BadFrame::Malformed)?;
        if offset > current.next {
            current.keep(offset, bytes)?;
            self.gap_acks = (self.gap_acks + 1).min(MAX_GAP_ACKS);
            self.ack_at = self.ack_at.and(Some(now));
            return Ok(received);
        }
        let may_wait = offset > 0 && end > current.next && current.ahead.is_empty();
        self.ack_at = if may_wait && self.ack_at.is_none() {
            Some(now + ACK_DELAY)
        } else {
            Some(now)
        };
        if end > current.next {
            // Below usize: a frame is in memory.
            let advanced = current.advance(&bytes[(current.next - offset) as usize..]);
            self.broken = advanced.is_err();
            let messages = advanced?;
            self.waiting += messages.iter().map(Vec::len).sum::<usize>();
            self.messages.extend(messages);
        }
        Ok(received)
    }

    /// Whether nothing of the other side was ever taken.
    pub(super) fn is_new(&self) -> bool {
        self.stream.is_none()
    }

    pub(super) fn next_message(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.pop_front()?;
        self.waiting -= message.len();
        Some(message)
    }

    /// The stream and the offset to acknowledge.
    pub(super) fn position(&self) -> (u32, u64) {
        self.stream.as_ref().map_or((0, 0), |s| (s.id, s.next))
    }

    /// Whether a frame beyond a gap is still to be answered; counts one off.
    pub(super) fn gap_ack(&mut self) -> bool {
        let due = self.gap_acks > 0;
        self.gap_acks = self.gap_acks.saturating_sub(1);
        due
    }

    /// What has arrived is acknowledged now.
    pub(super) fn acked(&mut self) {
        self.ack_at = None;
    }

    /// When what has arrived is to be acknowledged though nothing goes that could carry that along.
    pub(super) fn ack_at(&self) -> Option<Instant> {
        self.ack_at
    }

    /// Whether the other side broke the stream, for good.
    pub(super) fn broken(&self) -> bool {
        self.broken
    }

    pub(super) fn owes_ack(&self) -> bool {
        self.ack_at.is_some() || self.gap_acks > 0
    }
}

impl Stream {
    /// Keeps what lies ahead of a gap.
    fn keep(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BadFrame> {
        if offset - self.next > MAX_AHEAD as u64
            || self.ahead_bytes + bytes.len() > MAX_AHEAD
            || self.ahead.len() >= MAX_PIECES
        {
            return Err(BadFrame::TooMuch);
        }
        let kept = self.ahead.get(&offset).map_or(0, Vec::len);
        if bytes.len() > kept {
            self.ahead_bytes += bytes.len() - kept;
            self.ahead.insert(offset, bytes.to_vec());
        }
        Ok(())
    }

    /// Goes on with `bytes` and with what they make contiguous; gives the messages that are whole now.
    fn advance(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadFrame> {
        let mut messages = Vec::new();
        self.append(bytes, &mut messages)?;
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let (offset, bytes) = entry.remove_entry();
            self.ahead_bytes -= bytes.len();
            if let Some(fresh) = usize::try_from(self.next - offset)
                .ok()
                .and_then(|known| bytes.get(known..))
            {
                self.append(fresh, &mut messages)?;
            }
        }
        Ok(messages)
    }

    fn append(&mut self, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), BadFrame> {
        self.next += bytes.len() as u64;
        self.partial.extend(bytes);
        let mut at = 0;
        while let Some((head, rest)) = self.partial[at..].split_first_chunk() {
            let len = u32::from_be_bytes(*head) as usize;
            if len > Channel::MAX_MESSAGE {
                return Err(BadFrame::TooLong);
            }
            let Some(message) = rest.get(..len) else {
                break;
            };
            messages.push(message.to_vec());
            at += 4 + len;
        }
        self.partial.drain(..at);
        if self.partial.is_empty() && self.partial.capacity() > KEPT {
            self.partial = Vec::new();
        }
        Ok(())
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stream, next) = self.position();
        write!(f, "receives stream {stream:08x} at {next}")
    }
}

/// The most bytes that wait behind a gap, and how far ahead they may lie.
const MAX_AHEAD: usize = 1 << 20;
const MAX_PIECES: usize = 4096;
/// The most bytes of messages that nobody has fetched.
const MAX_WAITING: usize = 4 << 20;
const MAX_OLD: usize = 8;
const MAX_GAP_ACKS: u8 = 8;
/// How long an acknowledgement waits for something that goes back (RFC 9000 §13.2): as long as news waits for more of it, and
/// well below the time after which a sender says it again.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(25);
