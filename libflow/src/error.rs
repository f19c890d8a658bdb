//! What can go wrong for a user of flows.

use proto::{Code, Reason};

/// Why a call failed; each prints as one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The deadline passed. Nothing was lost: the call can be repeated.
    #[error("timed out: {0}")]
    TimedOut(Reason),
    /// The other side, or the layer on its behalf, said no.
    #[error("refused: {0}")]
    Refused(Reason),
    /// Nobody offers flows to this name.
    #[error("no such name: {0}")]
    NoSuchName(Reason),
    /// Policy forbids it.
    #[error("not permitted: {0}")]
    NotPermitted(Reason),
    /// The layer can't grant the QoS that was asked for.
    #[error("QoS not granted: {0}")]
    QosNotGranted(Reason),
    /// The other side writes nothing more ([`crate::Flow::shut`]); what it wrote was handed out. Writing goes on as before.
    #[error("the other side of the flow writes nothing more")]
    End,
    /// The flow is down; what arrived before was handed out before.
    #[error("flow down: {0}")]
    Down(Reason),
    /// The SDU is larger than the flow can carry; nothing was sent.
    #[error(
        "the SDU of {len} bytes is larger than the {mtu} that the flow carries; write smaller ones (Flow::mtu)"
    )]
    TooLarge {
        /// What was to be written.
        len: usize,
        /// The most bytes of an SDU, at this moment.
        mtu: u32,
    },
    /// The buffer is smaller than the SDU that waits; it goes on waiting.
    #[error(
        "the next SDU has {len} bytes, more than the buffer; read it with a buffer of Flow::mtu bytes"
    )]
    BufferTooSmall {
        /// The size of the SDU.
        len: usize,
    },
    /// The call makes no sense, such as an empty SDU.
    #[error("wrong use of libflow: {0}")]
    ApiMisuse(Reason),
    /// irmd can't be reached or failed.
    #[error("{0}")]
    Daemon(Reason),
}

impl FlowError {
    /// The reason behind it, where the other side or irmd gave one.
    pub fn reason(&self) -> Reason {
        match self {
            Self::TimedOut(r)
            | Self::Refused(r)
            | Self::NoSuchName(r)
            | Self::NotPermitted(r)
            | Self::QosNotGranted(r)
            | Self::Down(r)
            | Self::ApiMisuse(r)
            | Self::Daemon(r) => r.clone(),
            Self::End => Reason::new(Code::Closed, self.to_string()),
            Self::TooLarge { .. } | Self::BufferTooSmall { .. } => {
                Reason::new(Code::Usage, self.to_string())
            }
        }
    }

    /// Whether the other side closed the flow, or its direction of it, in good order.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::End) || matches!(self, Self::Down(r) if r.code == Code::Closed)
    }

    /// What a failed control call means.
    pub(crate) fn of_call(reason: Reason) -> Self {
        match reason.code {
            Code::TimedOut => Self::TimedOut(reason),
            Code::Refused | Code::Busy | Code::Closed => Self::Refused(reason),
            Code::NotFound => Self::NoSuchName(reason),
            Code::Denied => Self::NotPermitted(reason),
            Code::QosNotGranted => Self::QosNotGranted(reason),
            Code::Failed
            | Code::Usage
            | Code::Unreachable
            | Code::Conflict
            | Code::PeerMisbehaved => Self::Daemon(reason),
        }
    }
}

impl From<FlowError> for Reason {
    fn from(error: FlowError) -> Self {
        error.reason()
    }
}

impl From<FlowError> for std::io::Error {
    fn from(error: FlowError) -> Self {
        use std::io::ErrorKind as K;
        let kind = match &error {
            FlowError::TimedOut(_) => K::TimedOut,
            FlowError::Refused(_) | FlowError::QosNotGranted(_) => K::ConnectionRefused,
            FlowError::NoSuchName(_) => K::NotFound,
            FlowError::NotPermitted(_) => K::PermissionDenied,
            FlowError::End => K::UnexpectedEof,
            FlowError::Down(_) => K::ConnectionAborted,
            FlowError::TooLarge { .. }
            | FlowError::BufferTooSmall { .. }
            | FlowError::ApiMisuse(_) => K::InvalidInput,
            FlowError::Daemon(_) => K::Other,
        };
        Self::new(kind, error)
    }
}
