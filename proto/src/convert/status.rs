//! [`Reason`] to and from a gRPC status, whose detail bytes are a `Failure`.

use prost::Message;
use tonic::{Code as Grpc, Status};

use super::BadMessage;
use crate::irm::Failure;
use crate::reason::{Code, Reason};

impl From<Reason> for Status {
    fn from(reason: Reason) -> Self {
        let grpc = match reason.code {
            Code::Usage => Grpc::InvalidArgument,
            Code::Unreachable => Grpc::Unavailable,
            Code::NotFound => Grpc::NotFound,
            Code::Denied => Grpc::PermissionDenied,
            Code::Conflict => Grpc::AlreadyExists,
            Code::TimedOut => Grpc::DeadlineExceeded,
            Code::Busy => Grpc::ResourceExhausted,
            Code::Failed
            | Code::Refused
            | Code::QosNotGranted
            | Code::Closed
            | Code::PeerMisbehaved => Grpc::FailedPrecondition,
        };
        let text = reason.text.clone();
        Self::with_details(grpc, text, Failure::from(reason).encode_to_vec().into())
    }
}

impl From<Status> for Reason {
    fn from(status: Status) -> Self {
        if let Ok(failure) = Failure::decode(status.details())
            && failure.code != 0
        {
            return failure.into();
        }
        let code = match status.code() {
            Grpc::InvalidArgument => Code::Usage,
            Grpc::NotFound => Code::NotFound,
            Grpc::PermissionDenied | Grpc::Unauthenticated => Code::Denied,
            Grpc::AlreadyExists => Code::Conflict,
            Grpc::DeadlineExceeded | Grpc::Cancelled => Code::TimedOut,
            Grpc::ResourceExhausted => Code::Busy,
            Grpc::Unavailable => Code::Unreachable,
            Grpc::Ok
            | Grpc::Unknown
            | Grpc::FailedPrecondition
            | Grpc::Aborted
            | Grpc::OutOfRange
            | Grpc::Unimplemented
            | Grpc::Internal
            | Grpc::DataLoss => Code::Failed,
        };
        Self::new(code, status.message())
    }
}

impl From<BadMessage> for Status {
    fn from(bad: BadMessage) -> Self {
        Reason::from(bad).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_grpc() {
        let reason = Reason::new(
            Code::Refused,
            "the program refused the flow: full; try later",
        );
        assert_eq!(Reason::from(Status::from(reason.clone())), reason);
    }

    #[test]
    fn a_foreign_status_becomes_a_reason() {
        assert_eq!(
            Reason::from(Status::unavailable("gone")).code,
            Code::Unreachable
        );
    }
}
