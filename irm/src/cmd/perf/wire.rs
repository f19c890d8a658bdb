//! The words of a measurement, each one SDU on the flow that is measured.
//!
//! ```text
//! 0xB5, version, kind, 0, then big-endian:
//!   1 Start    reverse u32 (0, 1), size u32, milliseconds u64      client → server, until answered
//!   2 Ready                                                        server → client: send; for each Start before Data
//!   3 Data     0 u32, sequence u64, filling                        sender → receiver
//!   4 End      SDUs sent u64                                       sender → receiver, until answered
//!   5 Result   bytes u64, SDUs u64, out of order u64, ns u64       receiver → sender, one for each End
//!   6 Done                                                         sender → receiver: it has the result
//!   7 Refused  UTF-8 text                                          server → client
//! ```
//!
//! Every word but Data is repeated until the other side shows that it came, since a raw flow may lose it.

/// One SDU of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Start(Start),
    Ready,
    Data { sequence: u64 },
    End { sdus: u64 },
    Result(Counted),
    Done,
    Refused(String),
}

/// What is to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The server sends, the client receives.
    pub(super) reverse: bool,
    /// Bytes of each SDU.
    pub(super) size: u32,
    /// How long to send.
    pub(super) millis: u64,
}

/// What the receiver counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) bytes: u64,
    pub(super) sdus: u64,
    /// That came after one with a higher sequence number.
    pub(super) reordered: u64,
    /// From the first to the last.
    pub(super) nanos: u64,
}

/// Why an SDU is no word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadWord {
    /// Not of a measurement at all.
    Foreign,
    /// Of another version.
    Version(u8),
    /// Cut short, or of an unknown kind.
    Damaged,
}

impl Word {
    /// The bytes of the word; of Data without its filling.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![MAGIC, VERSION, self.kind(), 0];
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        match self {
            Self::Start(s) => {
                put(&u32::from(s.reverse).to_be_bytes());
                put(&s.size.to_be_bytes());
                put(&s.millis.to_be_bytes());
            }
            Self::Data { sequence } => {
                put(&[0; 4]);
                put(&sequence.to_be_bytes());
            }
            Self::End { sdus } => put(&sdus.to_be_bytes()),
            Self::Result(c) => [c.bytes, c.sdus, c.reordered, c.nanos]
                .iter()
                .for_each(|n| put(&n.to_be_bytes())),
            Self::Refused(text) => put(text.as_bytes()),
            Self::Ready | Self::Done => {}
        }
        out
    }

    /// Reads an SDU.
    pub(super) fn decode(sdu: &[u8]) -> Result<Self, BadWord> {
        match sdu {
            [MAGIC, VERSION, kind, 0, body @ ..] => Self::of(*kind, body).ok_or(BadWord::Damaged),
            [MAGIC, VERSION, ..] => Err(BadWord::Damaged),
            [MAGIC, version, _, 0, ..] => Err(BadWord::Version(*version)),
            _ => Err(BadWord::Foreign),
        }
    }

    /// Writes Data over the whole of `sdu`; what lies behind the sequence number stays as filling.
    pub(super) fn number(sdu: &mut [u8], sequence: u64) {
        if let Some(head) = sdu.first_chunk_mut::<DATA>() {
            head[..8].copy_from_slice(&[MAGIC, VERSION, KIND_DATA, 0, 0, 0, 0, 0]);
            head[8..].copy_from_slice(&sequence.to_be_bytes());
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Start(_) => 1,
            Self::Ready => 2,
            Self::Data { .. } => KIND_DATA,
            Self::End { .. } => 4,
            Self::Result(_) => 5,
            Self::Done => 6,
            Self::Refused(_) => 7,
        }
    }

    fn of(kind: u8, body: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            body.get(at..at + 8)?
                .try_into()
                .ok()
                .map(u64::from_be_bytes)
        };
        let half = |at: usize| {
            body.get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_be_bytes)
        };
        Some(match (kind, body.len()) {
            (1, 16) => {
                let reverse = match half(0)? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                Self::Start(Start {
                    reverse,
                    size: half(4)?,
                    millis: word(8)?,
                })
            }
            (2, 0) => Self::Ready,
            (KIND_DATA, 12..) => Self::Data { sequence: word(4)? },
            (4, 8) => Self::End { sdus: word(0)? },
            (5, 32) => Self::Result(Counted {
                bytes: word(0)?,
                sdus: word(8)?,
                reordered: word(16)?,
                nanos: word(24)?,
            }),
            (6, 0) => Self::Done,
            (7, 0..=MAX_TEXT) => Self::Refused(std::str::from_utf8(body).ok()?.to_owned()),
            _ => return None,
        })
    }
}

/// The least bytes of an SDU of Data.
pub(super) const DATA: usize = 16;
const MAGIC: u8 = 0xB5;
const VERSION: u8 = 1;
const KIND_DATA: u8 = 3;
const MAX_TEXT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::vector;
    use proptest::prelude::*;

    fn words() -> impl Strategy<Value = Word> {
        prop_oneof![
            (any::<bool>(), any::<u32>(), any::<u64>()).prop_map(|(reverse, size, millis)| {
                Word::Start(Start {
                    reverse,
                    size,
                    millis,
                })
            }),
            Just(Word::Ready),
            any::<u64>().prop_map(|sequence| Word::Data { sequence }),
            any::<u64>().prop_map(|sdus| Word::End { sdus }),
            any::<[u64; 4]>().prop_map(|[bytes, sdus, reordered, nanos]| Word::Result(Counted {
                bytes,
                sdus,
                reordered,
                nanos
            })),
            Just(Word::Done),
            "\\PC{0,100}".prop_map(Word::Refused),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(word in words()) {
            prop_assert_eq!(Word::decode(&word.encode()), Ok(word));
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64), known: bool) {
            if known && bytes.len() > 1 {
                (bytes[0], bytes[1]) = (MAGIC, VERSION);
            }
            if let Ok(word) = Word::decode(&bytes) {
                prop_assert_eq!(Word::decode(&word.encode()), Ok(word));
            }
        }

        #[test]
        fn a_word_cut_short_is_no_other_word(word in words(), keep in 0.0..1.0f64) {
            let whole = word.encode();
            let cut = &whole[..(whole.len() as f64 * keep) as usize];
            // A text may end anywhere.
            prop_assume!(!matches!(word, Word::Refused(_)));
            prop_assert!(Word::decode(cut).is_err());
        }

        #[test]
        fn data_keeps_its_number_whatever_it_is_filled_with(mut sdu in prop::collection::vec(any::<u8>(), DATA..2000), sequence: u64) {
            Word::number(&mut sdu, sequence);
            prop_assert_eq!(Word::decode(&sdu), Ok(Word::Data { sequence }));
        }
    }

    #[test]
    fn the_words_are_those_of_the_document() {
        let counted = Counted {
            bytes: 12_600,
            sdus: 9,
            reordered: 1,
            nanos: 2_000_000,
        };
        let start = Start {
            reverse: true,
            size: 1400,
            millis: 4000,
        };
        for (name, word) in [
            ("start", Word::Start(start)),
            ("ready", Word::Ready),
            ("data", Word::Data { sequence: 7 }),
            ("end", Word::End { sdus: 9 }),
            ("result", Word::Result(counted)),
            ("done", Word::Done),
            ("refused", Word::Refused("busy".to_owned())),
        ] {
            let bytes = vector(&format!("perf.{name}"));
            assert_eq!(word.encode(), bytes, "{name}");
            assert_eq!(Word::decode(&bytes), Ok(word), "{name}");
        }
        let mut sdu = vector("perf.data");
        Word::number(&mut sdu, 7);
        assert_eq!(sdu, vector("perf.data"));
    }

    #[test]
    fn another_version_is_told_from_noise() {
        assert_eq!(
            Word::decode(&[MAGIC, 9, 1, 0, 1, 2]),
            Err(BadWord::Version(9))
        );
        assert_eq!(Word::decode(b"hello"), Err(BadWord::Foreign));
        assert_eq!(Word::decode(&[]), Err(BadWord::Foreign));
    }
}
