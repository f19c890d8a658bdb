//! Why a certificate isn't believed.

use proto::Label;
use time::OffsetDateTime;

/// Why a certificate or a signature isn't believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// Its time is over.
    #[error("the certificate expired at {}; enrol again, or set this host's clock right", date(*.not_after))]
    Expired {
        /// The last second of Unix time in which it was valid.
        not_after: u64,
    },
    /// Its time hasn't begun.
    #[error("the certificate is valid only from {}; set this host's clock right", date(*.not_before))]
    NotYetValid {
        /// The first second of Unix time in which it is valid.
        not_before: u64,
    },
    /// No chain leads from it to a trusted root.
    #[error("the certificate was issued by an unknown authority")]
    UnknownAuthority,
    /// It belongs to a member of another layer.
    #[error("the certificate is for layer {found}, not for {expected}")]
    WrongLayer {
        /// The layer that it names.
        found: Label,
        /// The layer that it must name.
        expected: Label,
    },
    /// The layer's authority has taken it back.
    #[error("the certificate of {member} was revoked; enroll it anew with another invitation")]
    Revoked {
        /// Whose it was.
        member: Label,
    },
    /// It isn't what a member's certificate must be.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// A signature that the key of the certificate didn't make.
    #[error("the signature doesn't match the certificate's key")]
    BadSignature,
}

/// Unix time for a person.
fn date(seconds: u64) -> String {
    let known = i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    known.map_or_else(|| format!("second {seconds}"), |at| at.to_string())
}
