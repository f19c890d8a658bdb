//! Why something failed. Every failure that a user can see carries one of these.

use std::fmt;

/// The kind of a failure; decides the exit code of `irm` and the error type of `libflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Anything else that failed.
    Failed = 1,
    /// The caller said something that makes no sense.
    Usage = 2,
    /// A daemon, an IPCP or a peer can't be reached.
    Unreachable = 3,
    /// No such name, layer, member, IPCP or flow.
    NotFound = 4,
    /// Policy or permissions forbid it.
    Denied = 5,
    /// It exists with other parameters, or is in use.
    Conflict = 6,
    /// The deadline passed.
    TimedOut = 7,
    /// The other side said no.
    Refused = 8,
    /// A limit is reached; try later.
    Busy = 9,
    /// The layer can't grant the QoS that was asked for.
    QosNotGranted = 10,
    /// The other side closed the flow in good order.
    Closed = 11,
    /// The peer broke the protocol.
    PeerMisbehaved = 12,
}

impl Code {
    const ALL: [Self; 12] = [
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::NotFound,
        Self::Denied,
        Self::Conflict,
        Self::TimedOut,
        Self::Refused,
        Self::Busy,
        Self::QosNotGranted,
        Self::Closed,
        Self::PeerMisbehaved,
    ];

    /// The code of a number from a wire; unknown numbers are [`Code::Failed`], since a newer peer may know more kinds.
    pub fn from_wire(number: u32) -> Self {
        Self::ALL
            .into_iter()
            .find(|c| *c as u32 == number)
            .unwrap_or(Self::Failed)
    }

    /// The exit code that `irm` ends with (docs/operations.md).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
            Self::Denied => 5,
            Self::Conflict => 6,
            Self::TimedOut => 7,
            Self::Failed
            | Self::Refused
            | Self::Busy
            | Self::QosNotGranted
            | Self::Closed
            | Self::PeerMisbehaved => 1,
        }
    }

    /// A stable word for JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::QosNotGranted => "qos_not_granted",
            Self::Closed => "closed",
            Self::PeerMisbehaved => "peer_misbehaved",
        }
    }
}

/// A failure as one line: what failed, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Its kind.
    pub code: Code,
    /// The line, without a full stop at its end.
    pub text: String,
}

impl Reason {
    /// A failure; texts longer than [`Reason::MAX_TEXT`] are cut, and line breaks become blanks.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.len() > Self::MAX_TEXT {
            let end = (0..=Self::MAX_TEXT)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(0);
            text.truncate(end);
        }
        if text.contains(char::is_control) {
            text = text
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
        }
        Self { code, text }
    }

    /// The most bytes that a text keeps.
    pub const MAX_TEXT: usize = 1024;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_bounded_line() {
        let r = Reason::new(Code::Failed, format!("a\nb{}", "é".repeat(2000)));
        assert!(r.text.starts_with("a b") && r.text.len() <= Reason::MAX_TEXT);
    }

    #[test]
    fn codes_survive_the_wire() {
        for c in Code::ALL {
            assert_eq!(Code::from_wire(c as u32), c);
        }
        assert_eq!(Code::from_wire(999), Code::Failed);
    }
}
