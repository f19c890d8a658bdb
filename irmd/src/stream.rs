//! How a process of this host talks to irmd: who calls, the stream that it opens, and the hello that comes first on it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use proto::{Code, Reason};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use crate::daemon::Daemon;

/// What irmd says to the process, as gRPC takes it.
pub(crate) type Commands<C> = Pin<Box<dyn Stream<Item = Result<C, Status>> + Send>>;

/// The end of that which irmd holds.
pub(crate) type Sender<C> = mpsc::Sender<Result<C, Status>>;

/// The user at the other end of the socket; never the overflow uid, which owns nothing.
pub(crate) fn caller<T>(daemon: &Daemon, request: &Request<T>) -> Result<u32, Reason> {
    let cred = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|i| i.peer_cred);
    match cred.map(|c| c.uid()) {
        Some(uid) if uid != daemon.overflow_uid => Ok(uid),
        Some(uid) => Err(Reason::new(
            Code::Denied,
            format!(
                "the caller is user {uid}, whom this host can't name, so it owns no flow; run it as a user of this host"
            ),
        )),
        None => Err(Reason::new(
            Code::Denied,
            "the caller's user is unknown; connect over the Unix socket",
        )),
    }
}

/// Answers a call by a stream on which at most `queue` commands wait. A task of its own serves what the process says; if that
/// ends with a reason, it is counted as `refused` and told to the process.
pub(crate) fn open<C, F>(
    daemon: &Arc<Daemon>,
    queue: usize,
    refused: &'static str,
    serve: impl FnOnce(Sender<C>) -> F,
) -> Response<Commands<C>>
where
    C: Send + 'static,
    F: Future<Output = Result<(), Reason>> + Send + 'static,
{
    let (tx, rx) = mpsc::channel(queue);
    let (daemon, served) = (daemon.clone(), serve(tx.clone()));
    tokio::spawn(async move {
        if let Err(reason) = served.await {
            daemon.tally.add(refused);
            // The process may be gone already.
            let _ = tx.try_send(Err(reason.into()));
        }
    });
    Response::new(Box::pin(ReceiverStream::new(rx)))
}

/// The hello of a process, found by `is` in the first message.
pub(crate) async fn hello<M, H>(
    events: &mut Streaming<M>,
    is: impl FnOnce(M) -> Option<H>,
) -> Result<H, Reason> {
    match tokio::time::timeout(HELLO, events.message()).await {
        Err(_) => Err(Reason::new(
            Code::TimedOut,
            "no hello came; say hello first",
        )),
        Ok(Err(status)) => Err(status.into()),
        Ok(Ok(message)) => message
            .and_then(is)
            .ok_or_else(|| Reason::new(Code::Usage, "the first message must be a hello")),
    }
}

/// The next message. A process that dies breaks the stream: that is its end, not a fault. Bytes that are no message are one.
pub(crate) async fn next<M>(events: &mut Streaming<M>) -> Result<Option<M>, Reason> {
    match events.message().await {
        Ok(message) => Ok(message),
        Err(status) if status.code() == tonic::Code::InvalidArgument => Err(status.into()),
        Err(_) => Ok(None),
    }
}

const HELLO: Duration = Duration::from_secs(5);
