//! What a user asks of a flow.

use std::fmt;
use std::str::FromStr;

/// What a user asks of a flow; a layer grants it or refuses, it never grants less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QosSpec {
    /// SDUs arrive in the order in which they were written.
    pub ordered: bool,
    /// Every SDU arrives, or the flow goes down with a reason.
    pub reliable: bool,
    /// An SDU is worth nothing after this many milliseconds; 0: no deadline.
    pub max_delay_ms: u32,
    /// The more, the earlier it is served among flows that wait (0..=7).
    pub priority: u8,
    /// The flow goes down when nothing came for this many milliseconds; 0: the layer's own bound.
    pub timeout_ms: u32,
}

impl QosSpec {
    /// Unordered, may lose.
    pub const RAW: Self = Self {
        ordered: false,
        reliable: false,
        max_delay_ms: 0,
        priority: 0,
        timeout_ms: 0,
    };
    /// Ordered, may lose.
    pub const BEST: Self = Self {
        ordered: true,
        ..Self::RAW
    };
    /// Ordered and reliable.
    pub const DATA: Self = Self {
        ordered: true,
        reliable: true,
        ..Self::RAW
    };
    /// Ordered, may lose, with a deadline of 250 ms.
    pub const VIDEO: Self = Self {
        ordered: true,
        max_delay_ms: 250,
        priority: 4,
        ..Self::RAW
    };
    /// Ordered, may lose, with a deadline of 80 ms.
    pub const VOICE: Self = Self {
        ordered: true,
        max_delay_ms: 80,
        priority: 6,
        ..Self::RAW
    };

    const WORDS: [(&'static str, Self); 5] = [
        ("raw", Self::RAW),
        ("best", Self::BEST),
        ("data", Self::DATA),
        ("video", Self::VIDEO),
        ("voice", Self::VOICE),
    ];
}

impl Default for QosSpec {
    fn default() -> Self {
        Self::BEST
    }
}

impl fmt::Display for QosSpec {
    /// The word where there is one, else `key=value,…`; either is read back by [`FromStr`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((word, _)) = Self::WORDS.iter().find(|(_, spec)| spec == self) {
            return f.write_str(word);
        }
        write!(
            f,
            "ordered={},reliable={},max-delay-ms={},priority={},timeout-ms={}",
            self.ordered, self.reliable, self.max_delay_ms, self.priority, self.timeout_ms
        )
    }
}

/// Why a text says no QoS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no QoS; use raw, best, data, video, voice or KEY=VALUE,… with ordered, reliable, max-delay-ms, priority (0-7), timeout-ms"
)]
pub struct BadQos {
    /// The part that was not understood.
    pub text: String,
}

impl FromStr for QosSpec {
    type Err = BadQos;

    /// A word, or `key=value,…` on top of `best`, or `word,key=value,…`.
    fn from_str(text: &str) -> Result<Self, BadQos> {
        let mut spec = Self::default();
        for (i, part) in text.split(',').enumerate() {
            let bad = || BadQos {
                text: part.chars().take(80).collect(),
            };
            if let Some((_, word)) = Self::WORDS.iter().find(|(word, _)| i == 0 && *word == part) {
                spec = *word;
                continue;
            }
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            match key {
                "ordered" => spec.ordered = value.parse().map_err(|_| bad())?,
                "reliable" => spec.reliable = value.parse().map_err(|_| bad())?,
                "max-delay-ms" => spec.max_delay_ms = value.parse().map_err(|_| bad())?,
                "priority" => {
                    spec.priority = value.parse().ok().filter(|p| *p < 8).ok_or_else(bad)?
                }
                "timeout-ms" => spec.timeout_ms = value.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(ordered: bool, reliable: bool, max_delay_ms: u32, priority in 0u8..8, timeout_ms: u32) {
            let spec = QosSpec { ordered, reliable, max_delay_ms, priority, timeout_ms };
            prop_assert_eq!(spec.to_string().parse::<QosSpec>(), Ok(spec));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<QosSpec>();
        }
    }

    #[test]
    fn words_and_fields_mix() {
        assert_eq!("raw".parse(), Ok(QosSpec::RAW));
        assert_eq!(
            "data,priority=3".parse(),
            Ok(QosSpec {
                priority: 3,
                ..QosSpec::DATA
            })
        );
        assert!("fast".parse::<QosSpec>().is_err());
        assert!("priority=9".parse::<QosSpec>().is_err());
    }
}
