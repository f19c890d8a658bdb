//! A TCP connection over one reliable, ordered flow.

use std::rc::Rc;
use std::time::Duration;

use libflow::Flow;
use proto::{Code, Reason};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::pump::{Broken, from_flow, to_flow};
use super::{Count, Counts};
use crate::out::remark;

/// A connection. One that is dropped before both sides have ended is reset: nobody shall take a part for the whole.
#[derive(Debug)]
pub(in super::super) struct Tcp {
    stream: TcpStream,
    whole: bool,
}

impl Tcp {
    /// Takes a connection. A peer that is gone without a word is noticed after two minutes.
    pub(super) fn new(stream: TcpStream) -> Self {
        // What comes was sent in one piece, and goes on so. An option that is not there is no harm.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE);
        let _ = sockopt::set_tcp_keepintvl(&stream, PROBE);
        let _ = sockopt::set_tcp_keepcnt(&stream, PROBES);
        Self {
            stream,
            whole: false,
        }
    }

    /// The connection itself, for what is said before its flow stands.
    pub(in super::super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Ends it in good order.
    pub(in super::super) fn close(mut self) {
        self.whole = true;
    }

    /// Carries it until both sides have ended. What breaks one side breaks the other: a reset becomes the flow's end with a
    /// reason, and a flow that goes down with one becomes a reset.
    pub(in super::super) async fn carry(
        mut self,
        flow: Flow,
        counts: &Counts,
    ) -> Result<(), Reason> {
        counts.add(Count::Flows, 1);
        let mut held = Held {
            flow: Some(flow),
            why: Reason::new(Code::Failed, STOPPED),
            counts,
        };
        let done = match &held.flow {
            Some(flow) => pump(&mut self.stream, flow).await,
            None => Ok(()),
        };
        match done {
            Ok(()) => {
                self.whole = true;
                held.end();
                Ok(())
            }
            Err(reason) => {
                counts.add(Count::Broken, 1);
                held.why = reason.clone();
                Err(reason)
            }
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        if !self.whole {
            // Without it the peer would see a good end.
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}

/// Lets `serve` have each connection, at most so many at once; what comes beyond is reset.
pub(in super::super) async fn accept<F>(
    listener: TcpListener,
    most: usize,
    counts: Rc<Counts>,
    serve: impl Fn(Tcp) -> F,
) -> Result<(), Reason>
where
    F: Future<Output = Result<(), Reason>> + 'static,
{
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            came = listener.accept() => match came {
                Ok((stream, _)) if open.len() >= most => {
                    counts.add(Count::Busy, 1);
                    drop(Tcp::new(stream));
                }
                Ok((stream, from)) => {
                    let served = serve(Tcp::new(stream));
                    drop(open.spawn_local(async move {
                        if let Err(reason) = served.await {
                            remark(&format!("{from}: {reason}"));
                        }
                    }));
                }
                Err(error) => {
                    counts.add(Count::Failed, 1);
                    remark(&format!("can't take a connection: {error}"));
                    tokio::time::sleep(BREATH).await;
                }
            },
            Some(_) = open.join_next(), if !open.is_empty() => {}
        }
    }
}

/// A flow that tells the other side why it ends, unless both sides have ended.
struct Held<'a> {
    flow: Option<Flow>,
    why: Reason,
    counts: &'a Counts,
}

impl Held<'_> {
    /// In good order.
    fn end(&mut self) {
        if let Some(flow) = self.flow.take() {
            self.counts.add_traffic(&flow);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(flow) = self.flow.take() {
            self.counts.add_traffic(&flow);
            flow.close(self.why.clone());
        }
    }
}

async fn pump(stream: &mut TcpStream, flow: &Flow) -> Result<(), Reason> {
    let (mut from, mut to) = stream.split();
    let there = async {
        match to_flow(&mut from, flow).await {
            Ok(()) => Ok(None),
            // What the other side said before is still to be read, and at its end why the flow is down.
            Err(Broken::Flow(error)) => Ok(Some(error)),
            Err(broken) => Err(broken),
        }
    };
    match tokio::try_join!(there, from_flow(flow, &mut to)) {
        Ok((None, ())) => Ok(()),
        Ok((Some(error), ())) => Err(error.into()),
        // Also where it was closed in good order: a program that was killed looks the same, and has not said that this was all.
        Err(Broken::Flow(error)) => Err(error.into()),
        Err(Broken::Stream(error)) => Err(Reason::new(
            Code::Failed,
            format!("the TCP connection broke: {error}"),
        )),
    }
}

const STOPPED: &str = "the program that carried the connection was stopped";
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;
/// After a connection that the system did not give, mostly for want of descriptors.
const BREATH: Duration = Duration::from_millis(100);
