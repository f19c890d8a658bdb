//! The bytes of a handshake PDU: a header of 10 bytes, then frames (docs/protocol.md).

use super::HandshakeError;
use crate::crypt::{Farewell, Introduction};

/// Which keys protect a PDU: none, or those of the TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Initial = 0,
    Handshake = 1,
}

/// What stands before the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) level: Level,
    pub(super) session: u32,
    pub(super) number: u32,
}

/// One frame.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) enum Frame {
    /// Bytes of the TLS stream of the PDU's level.
    Crypto { offset: usize, bytes: Vec<u8> },
    /// All bytes of a level before this offset have arrived.
    Ack { level: Level, contiguous: usize },
    /// The sender has given up, with this TLS alert.
    Close(u8),
    /// The client has met the server before.
    Met(Introduction),
    /// The server knows nothing of this handshake any more, and says what it promised for that.
    Forgotten(Farewell),
}

impl Level {
    fn parse(byte: u8) -> Option<Self> {
        [Self::Initial, Self::Handshake]
            .into_iter()
            .find(|level| *level as u8 == byte)
    }
}

impl Header {
    pub(super) const LEN: usize = 10;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut out = [KIND; Self::LEN];
        out[1] = self.level as u8;
        out[2..6].copy_from_slice(&self.session.to_be_bytes());
        out[6..].copy_from_slice(&self.number.to_be_bytes());
        out
    }

    pub(super) fn parse(pdu: &[u8]) -> Result<Self, HandshakeError> {
        let (&[kind, level, a, b, c, d, e, f, g, h], _) =
            pdu.split_first_chunk().ok_or(HandshakeError::Malformed)?;
        match Level::parse(level) {
            Some(level) if kind == KIND => Ok(Self {
                level,
                session: u32::from_be_bytes([a, b, c, d]),
                number: u32::from_be_bytes([e, f, g, h]),
            }),
            _ => Err(HandshakeError::Malformed),
        }
    }
}

impl Frame {
    /// The bytes of a CRYPTO frame that aren't its content.
    pub(super) const CRYPTO_HEADER: usize = 7;

    /// Appends the frame; a CRYPTO frame has fewer than 64 KiB.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Crypto { offset, bytes } => {
                out.push(1);
                out.extend((*offset as u32).to_be_bytes());
                out.extend((bytes.len() as u16).to_be_bytes());
                out.extend(bytes);
            }
            Self::Ack { level, contiguous } => {
                out.extend([2, *level as u8]);
                out.extend((*contiguous as u32).to_be_bytes());
            }
            Self::Close(alert) => out.extend([3, *alert]),
            Self::Met(shown) => {
                out.push(4);
                out.extend(shown.id.to_be_bytes());
                out.extend(shown.mac);
            }
            Self::Forgotten(said) => {
                out.push(5);
                out.extend(said.0);
            }
        }
    }

    /// All frames of a PDU, or none if one of them is malformed. Padding is skipped.
    pub(super) fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, HandshakeError> {
        let mut r = Reader(bytes);
        let mut out = Vec::new();
        while let Some((&kind, rest)) = r.0.split_first() {
            r.0 = rest;
            match kind {
                0 => {}
                1 => {
                    let offset = u32::from_be_bytes(r.array()?) as usize;
                    let len = usize::from(u16::from_be_bytes(r.array()?));
                    out.push(Self::Crypto {
                        offset,
                        bytes: r.take(len)?.to_vec(),
                    });
                }
                2 => {
                    let [level] = r.array()?;
                    let level = Level::parse(level).ok_or(HandshakeError::Malformed)?;
                    out.push(Self::Ack {
                        level,
                        contiguous: u32::from_be_bytes(r.array()?) as usize,
                    });
                }
                3 => {
                    let [alert] = r.array()?;
                    out.push(Self::Close(alert));
                }
                4 => out.push(Self::Met(Introduction {
                    id: u64::from_be_bytes(r.array()?),
                    mac: r.array()?,
                })),
                5 => out.push(Self::Forgotten(Farewell(r.array()?))),
                _ => return Err(HandshakeError::Malformed),
            }
        }
        Ok(out)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], HandshakeError> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(HandshakeError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HandshakeError> {
        self.take(N)?
            .try_into()
            .map_err(|_| HandshakeError::Malformed)
    }
}

/// Version 1 of the layer's wire, kind 1.
const KIND: u8 = 0x11;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Initial), Just(Level::Handshake)]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            (any::<u32>(), prop::collection::vec(any::<u8>(), 0..50)).prop_map(|(o, bytes)| {
                Frame::Crypto {
                    offset: o as usize,
                    bytes,
                }
            }),
            (level(), any::<u32>()).prop_map(|(level, c)| Frame::Ack {
                level,
                contiguous: c as usize
            }),
            any::<u8>().prop_map(Frame::Close),
            (any::<u64>(), any::<[u8; 16]>())
                .prop_map(|(id, mac)| Frame::Met(Introduction { id, mac })),
            any::<[u8; 16]>().prop_map(|said| Frame::Forgotten(Farewell(said))),
        ]
    }

    /// The lines of docs/vectors.txt.
    #[test]
    fn pdus_that_another_implementation_made_are_read_and_made_again() {
        use rustls::crypto::cipher::{AeadKey, Iv};
        let (session, vector) = (0x0102_0304, crate::vectors::vector);
        let (level, contiguous) = (Level::Initial, 5);
        let (offset, bytes) = (9, b"abc".to_vec());
        let frames = [
            Frame::Ack { level, contiguous },
            Frame::Crypto { offset, bytes },
            Frame::Close(70),
        ];
        let number = 0;
        let mut made = Header {
            level,
            session,
            number,
        }
        .encode()
        .to_vec();
        frames.iter().for_each(|frame| frame.encode(&mut made));
        made.extend([0, 0]);
        assert_eq!(made, vector("handshake.plain"));
        assert_eq!(Frame::parse_all(&made[Header::LEN..]), Ok(frames.into()));

        let suite = rustls::crypto::ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
        let suite = suite.tls13().unwrap().quic.unwrap();
        let key = <[u8; 32]>::try_from(vector("handshake.key")).unwrap();
        let iv = <[u8; 12]>::try_from(vector("handshake.iv")).unwrap();
        let key = suite.packet_key(AeadKey::from(key), Iv::from(iv));
        let mut pdu = vector("handshake.sealed");
        let header = Header::parse(&pdu).unwrap();
        assert_eq!((header.level, header.number), (Level::Handshake, 3));
        let (head, body) = pdu.split_at_mut(Header::LEN);
        let opened = key
            .decrypt_in_place(header.number.into(), head, body)
            .unwrap();
        let level = Level::Handshake;
        assert_eq!(
            Frame::parse_all(opened),
            Ok(vec![Frame::Ack { level, contiguous }])
        );
    }

    proptest! {
        #[test]
        fn parse_undoes_encode(level in level(), session: u32, number: u32, frames in prop::collection::vec(frame(), 0..6), padding in 0usize..40) {
            let header = Header { level, session, number };
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.extend(vec![0; padding]);
                frame.encode(&mut bytes);
            }
            prop_assert_eq!(Frame::parse_all(&bytes), Ok(frames));
            prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Header::parse(&bytes);
            let _ = Frame::parse_all(&bytes);
        }
    }
}
