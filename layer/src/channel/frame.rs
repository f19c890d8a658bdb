//! The bytes of a channel's frames; the table stands at the top of `channel.rs`.

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Data {
        stream: u32,
        offset: u64,
        ack_stream: u32,
        ack: u64,
        bytes: &'a [u8],
    },
    Ack {
        ack_stream: u32,
        ack: u64,
    },
    Reset {
        stream: u32,
    },
}

/// Why a frame was dropped; each is a counter of drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Its bytes make no sense.
    #[error("the channel frame is malformed")]
    Malformed,
    /// It acknowledges what was never sent.
    #[error("the channel frame acknowledges what was never sent")]
    AckTooFar,
    /// It lies so far ahead, or so much waits already, that it isn't kept.
    #[error("the channel frame exceeds the receive buffer")]
    TooMuch,
    /// It begins a message that is longer than 1 MiB.
    #[error("the other side sends a message longer than 1 MiB")]
    TooLong,
    /// It begins a stream as if nothing of ours had ever arrived; taken when it comes again.
    #[error("the channel frame knows nothing of what was acknowledged before")]
    Early,
    /// It is late: of a stream that was replaced.
    #[error("the channel frame is of a stream that was given up")]
    OldStream,
}

impl<'a> Frame<'a> {
    /// The bytes of a data frame that aren't its content.
    pub(super) const DATA_HEADER: usize = 25;

    pub(super) fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Data {
                stream,
                offset,
                ack_stream,
                ack,
                bytes,
            } => {
                let mut out = Vec::with_capacity(Self::DATA_HEADER + bytes.len());
                out.push(1);
                out.extend(stream.to_be_bytes());
                out.extend(offset.to_be_bytes());
                out.extend(ack_stream.to_be_bytes());
                out.extend(ack.to_be_bytes());
                out.extend(bytes);
                out
            }
            Self::Ack { ack_stream, ack } => {
                let mut out = vec![2];
                out.extend(ack_stream.to_be_bytes());
                out.extend(ack.to_be_bytes());
                out
            }
            Self::Reset { stream } => {
                let mut out = vec![3];
                out.extend(stream.to_be_bytes());
                out
            }
        }
    }

    pub(super) fn parse(frame: &'a [u8]) -> Result<Self, BadFrame> {
        let (&kind, rest) = frame.split_first().ok_or(BadFrame::Malformed)?;
        let mut r = Reader(rest);
        let parsed = match kind {
            1 => {
                let (stream, offset, ack_stream, ack) = (r.u32()?, r.u64()?, r.u32()?, r.u64()?);
                let bytes = std::mem::take(&mut r.0);
                if bytes.is_empty() {
                    return Err(BadFrame::Malformed);
                }
                Self::Data {
                    stream,
                    offset,
                    ack_stream,
                    ack,
                    bytes,
                }
            }
            2 => Self::Ack {
                ack_stream: r.u32()?,
                ack: r.u64()?,
            },
            3 => Self::Reset { stream: r.u32()? },
            _ => return Err(BadFrame::Malformed),
        };
        if r.0.is_empty() {
            Ok(parsed)
        } else {
            Err(BadFrame::Malformed)
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (head, rest) = self.0.split_first_chunk().ok_or(BadFrame::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, BadFrame> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadFrame> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::row;
    use proptest::prelude::*;

    /// The table of docs/protocol.md.
    #[test]
    fn every_frame_has_the_bytes_of_the_protocol() {
        let (stream, offset, ack_stream, ack) = (1, 2, 3, 4);
        let data = Frame::Data {
            stream,
            offset,
            ack_stream,
            ack,
            bytes: &[0xff],
        };
        assert_eq!([data.encode()], row("data frame"));
        assert_eq!([Frame::Ack { ack_stream, ack }.encode()], row("ack frame"));
        assert_eq!([Frame::Reset { stream }.encode()], row("reset frame"));
    }

    proptest! {
        #[test]
        fn parse_undoes_encode(stream: u32, offset: u64, ack_stream: u32, ack: u64, bytes in prop::collection::vec(any::<u8>(), 1..99)) {
            for frame in [Frame::Data { stream, offset, ack_stream, ack, bytes: &bytes }, Frame::Ack { ack_stream, ack }, Frame::Reset { stream }] {
                let encoded = frame.encode();
                prop_assert_eq!(Frame::parse(&encoded), Ok(frame.clone()));
                for len in 0..encoded.len().min(Frame::DATA_HEADER) {
                    prop_assert_eq!(Frame::parse(&encoded[..len]), Err(BadFrame::Malformed));
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Frame::parse(&bytes);
        }
    }
}
