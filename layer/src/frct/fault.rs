//! What is wrong with a PDU, and what that is called where it is counted.

/// Why a PDU was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// It ends too early, or too late.
    #[error("a PDU of another length than it says")]
    Length,
    /// Its version isn't 1.
    #[error("a PDU of another version")]
    Version,
    /// Flags that aren't known, or contradict each other.
    #[error("a PDU with flags that mean nothing")]
    Flags,
    /// An offset or a range that can't be.
    #[error("a PDU with impossible numbers")]
    Numbers,
    /// It acknowledges what was never sent.
    #[error("an acknowledgement of what was never sent")]
    NeverSent,
    /// The flow is down.
    #[error("a PDU for a flow that is down")]
    Down,
    /// The begin of its run isn't known: the first packets of it are late, or lost.
    #[error("data of a run whose begin is unknown")]
    NoRun,
    /// It came before: the network has doubled it, or it was sent again for nothing.
    #[error("a packet that came before")]
    Doubled,
    /// It lies beyond what the sender was allowed.
    #[error("data beyond the window")]
    Window,
    /// It lies behind the end of its stream, or gives it another end.
    #[error("data behind the end of its stream")]
    End,
    /// Too much lies beyond gaps.
    #[error("data in too many pieces")]
    Pieces,
    /// After this nothing that comes makes sense.
    #[error("a stream with an SDU of an impossible length")]
    Sdu,
}

impl Fault {
    /// The counter of such drops.
    pub fn counter(self) -> &'static str {
        match self {
            Self::Length => "drop.frct_length",
            Self::Version => "drop.frct_version",
            Self::Flags => "drop.frct_flags",
            Self::Numbers => "drop.frct_numbers",
            Self::NeverSent => "drop.frct_never_sent",
            Self::Down => "drop.frct_down",
            Self::NoRun => "drop.frct_no_run",
            Self::Doubled => "drop.frct_doubled",
            Self::Window => "drop.frct_window",
            Self::End => "drop.frct_end",
            Self::Pieces => "drop.frct_pieces",
            Self::Sdu => "drop.frct_sdu",
        }
    }
}
