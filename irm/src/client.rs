//! The way to irmd: speaks `Admin` on its socket.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use libflow::ADMIN_SOCKET;
use proto::irm::admin_client::AdminClient;
use proto::{Code, Reason};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

/// `Admin` of the irmd that lives in one run directory.
pub(crate) struct Admin {
    /// The generated client.
    pub(crate) rpc: AdminClient<Channel>,
}

impl Admin {
    /// Connects, or says why there is nobody.
    pub(crate) async fn connect(run_dir: &Path) -> Result<Self, Reason> {
        let socket = run_dir.join(ADMIN_SOCKET);
        // Connecting by hand keeps the system's own error, which tonic would wrap.
        let stream = match tokio::time::timeout(CONNECT, UnixStream::connect(&socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&socket, &error)),
            Err(_) => return Err(unreachable(&socket, &io::ErrorKind::TimedOut.into())),
        };
        let mut stream = Some(TokioIo::new(stream));
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
            async move { stream.map_err(io::Error::from) }
        });
        let channel = Endpoint::from_static("http://irmd")
            .connect_with_connector(once)
            .await
            .map_err(|e| {
                Reason::new(
                    Code::Unreachable,
                    format!(
                        "irmd at {} doesn't answer: {e}; see its log",
                        socket.display()
                    ),
                )
            })?;
        Ok(Self {
            rpc: AdminClient::new(channel).max_decoding_message_size(LARGEST_ANSWER),
        })
    }
}

/// Waits for an answer of irmd, at most `limit`.
pub(crate) async fn answer<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Reason> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(reason(status)),
        Err(_) => Err(Reason::new(
            Code::TimedOut,
            format!(
                "irmd has not answered for {}; see its log",
                crate::duration::words(limit)
            ),
        )),
    }
}

/// The reason in a gRPC status; a broken connection is irmd's end, not a failure of the command.
pub(crate) fn reason(status: Status) -> Reason {
    // What irmd says has no source: that comes from this side of the connection.
    if status.details().is_empty() && std::error::Error::source(&status).is_some() {
        return Reason::new(
            Code::Unreachable,
            "irmd went away before it answered; see its log, then try again",
        );
    }
    status.into()
}

fn unreachable(socket: &Path, error: &io::Error) -> Reason {
    let at = socket.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Reason::new(
            Code::Denied,
            format!("can't use {at}: permission denied; become root or a member of the group irm"),
        );
    }
    Reason::new(
        Code::Unreachable,
        format!(
            "can't reach irmd at {at}: {error}; start irmd, or say where it lives with --run-dir or IRM_RUN_DIR"
        ),
    )
}

/// For commands that irmd answers by itself or by asking an IPCP.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// What is added to a deadline that irmd keeps, so that its own reason arrives: it may have to start a process first.
pub(crate) const GRACE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_irmd_the_advice_is_to_start_it() {
        let dir = tempfile::tempdir().unwrap();
        let reason = Admin::connect(dir.path()).await.err().unwrap();
        assert_eq!(reason.code, Code::Unreachable);
        assert!(
            reason.text.contains("start irmd") && reason.text.contains("admin.sock"),
            "{reason}"
        );
    }
}
