//! Ids and names as types. A value of one of these has been checked; nothing checks it again.

use std::fmt;
use std::str::FromStr;

/// A flow, unique on its host and never used twice, also not after a restart of irmd.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// One end of a flow as it stands on the wire; chosen at random by the member that receives on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

/// The address of a member inside its layer: the first 8 bytes of SHA-256(layer ‖ 0 ‖ member).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u64);

/// The secret that lets a process join the data socket of one flow, once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

/// What a flow is allocated to: 1..=255 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// The name of a layer or of a member: 1..=63 of `a-z`, `0-9` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Why a text or its bytes are no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No byte at all.
    #[error("the name is empty; give 1 to {max} bytes")]
    Empty {
        /// The longest that is taken.
        max: usize,
    },
    /// More bytes than a name may have.
    #[error("the name has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// What came.
        len: usize,
        /// The longest that is taken.
        max: usize,
    },
    /// Not UTF-8.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// A control character, such as a line break.
    #[error("the name holds a control character at byte {at}; use printable characters")]
    Control {
        /// Its place.
        at: usize,
    },
    /// A character that a label may not hold.
    #[error("{text:?} is no layer or member name; use a-z, 0-9 and '-', at most 63")]
    NotLabel {
        /// The text.
        text: String,
    },
}

impl Name {
    /// The most bytes that a name may have.
    pub const MAX: usize = 255;

    /// Checks a text.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        match text.len() {
            0 => Err(BadName::Empty { max: Self::MAX }),
            len if len > Self::MAX => Err(BadName::TooLong {
                len,
                max: Self::MAX,
            }),
            _ => match text.char_indices().find(|(_, c)| c.is_control()) {
                Some((at, _)) => Err(BadName::Control { at }),
                None => Ok(Self(text)),
            },
        }
    }

    /// Checks bytes that came from a wire.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadName> {
        if bytes.len() > Self::MAX {
            return Err(BadName::TooLong {
                len: bytes.len(),
                max: Self::MAX,
            });
        }
        Self::new(std::str::from_utf8(bytes).map_err(|_| BadName::NotUtf8)?)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Label {
    /// The most bytes that a label may have.
    pub const MAX: usize = 63;

    /// Checks a text.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match text.len() {
            0 => Err(BadName::Empty { max: Self::MAX }),
            1..=Self::MAX if text.bytes().all(good) => Ok(Self(text)),
            _ => Err(BadName::NotLabel {
                text: text.chars().take(80).collect(),
            }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A label is always a name too.
    pub fn to_name(&self) -> Name {
        Name(self.0.clone())
    }
}

impl Token {
    /// The length of a token in bytes.
    pub const LEN: usize = 16;

    /// Takes exactly 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

macro_rules! text {
    ($t:ty) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
        impl FromStr for $t {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
        impl AsRef<str> for $t {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}
text!(Name);
text!(Label);

macro_rules! number {
    ($t:ty, $format:literal) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($t), "(", $format, ")"), self.0)
            }
        }
    };
}
number!(FlowId, "{}");
number!(EndpointId, "{:016x}");
number!(Addr, "{:016x}");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_with_the_reason() {
        assert_eq!(Name::new(""), Err(BadName::Empty { max: 255 }));
        assert_eq!(
            Name::new("x".repeat(256)),
            Err(BadName::TooLong { len: 256, max: 255 })
        );
        assert_eq!(Name::from_bytes(b"\xff\xfe"), Err(BadName::NotUtf8));
        assert_eq!(Name::new("a\nb"), Err(BadName::Control { at: 1 }));
        assert_eq!(Name::new("a\u{7f}"), Err(BadName::Control { at: 1 }));
        assert!(Name::new("x".repeat(255)).is_ok());
        assert!(Name::new("vpn/héllo wörld").is_ok());
    }

    #[test]
    fn labels_are_small_letters_digits_and_dashes() {
        assert!(Label::new("ovl-a1").is_ok());
        for bad in ["", "A", "a_b", "a.b", "é", &"x".repeat(64)] {
            assert!(Label::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_token_never_shows_in_debug_output() {
        assert_eq!(format!("{:?}", Token([7; 16])), "Token(..)");
    }
}
