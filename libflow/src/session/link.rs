//! The stream to irmd: opened, read, and opened again when it is lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use proto::irm as pb;
use proto::irm::program_command::Command;
use proto::irm::program_event::Event;
use proto::{Code, FlowId, Reason};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{OFFERS, Shared};
use crate::listener::Incoming;

/// Says hello, with all that lives from before, and waits for the welcome.
pub(super) async fn open(shared: &Arc<Shared>) -> Result<Streaming<pb::ProgramCommand>, Reason> {
    let (events, queue) = {
        let state = shared.state();
        let first = 1 + state.listeners.len();
        let (events, queue) = mpsc::channel(first + QUEUE);
        let hello = pb::ProgramHello {
            program: shared.program.clone(),
            secret: shared
                .secret
                .as_ref()
                .map(|s| s.bytes().to_vec())
                .unwrap_or_default(),
            data_socket: shared.data_socket.to_string_lossy().into_owned(),
            flows: state.direct.flows(),
            pid: std::process::id(),
        };
        let listens = state
            .listeners
            .iter()
            .map(|(id, entry)| Event::Listen(entry.message(*id)));
        for event in std::iter::once(Event::Hello(hello)).chain(listens) {
            // The queue was made long enough.
            let _ = events.try_send(pb::ProgramEvent { event: Some(event) });
        }
        (events, queue)
    };
    let mut programs = shared.programs.clone();
    let begin = async {
        let mut stream = programs
            .session(ReceiverStream::new(queue))
            .await?
            .into_inner();
        let first = stream.message().await?;
        Ok::<_, tonic::Status>((stream, first))
    };
    let late = |_| Reason::new(Code::Unreachable, "it does not answer");
    let (stream, first) = tokio::time::timeout(WELCOME, begin)
        .await
        .map_err(late)?
        .map_err(|status| from_status(&status))?;
    let Some(Command::Welcome(welcome)) = first.and_then(|message| message.command) else {
        return Err(Reason::new(
            Code::Unreachable,
            "what listens there is no irmd",
        ));
    };
    let mut state = shared.state();
    state.session = welcome.session;
    state.events = Some(events);
    Ok(stream)
}

/// Reads the stream for as long as somebody uses the session, and opens it again when irmd is back.
pub(super) async fn keep(shared: Weak<Shared>, mut stream: Streaming<pb::ProgramCommand>) {
    loop {
        while let Ok(Some(message)) = stream.message().await {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if let Some(command) = message.command {
                obey(&shared, command);
            }
        }
        let Some(lost) = shared.upgrade() else { return };
        tracing::debug!("the session with irmd is lost; flows go on, trying again");
        forget_pending(&lost);
        drop(lost);
        stream = loop {
            tokio::time::sleep(AGAIN).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            match open(&shared).await {
                Ok(stream) => break stream,
                Err(reason) => tracing::trace!("irmd is still away: {reason}"),
            }
        };
        tracing::debug!("the session with irmd is back");
    }
}

/// What irmd had not finished when it went away won't come any more.
fn forget_pending(shared: &Shared) {
    let mut state = shared.state();
    state.events = None;
    let gone = || {
        Reason::new(
            Code::Unreachable,
            "irmd was restarted while the flow was accepted; the other side may try again",
        )
    };
    for (_, waiting) in state.accepted.drain() {
        let _ = waiting.send(Err(gone()));
    }
}

fn obey(shared: &Arc<Shared>, command: Command) {
    match command {
        Command::Welcome(_) => {}
        Command::Listening(listening) => listens(shared, listening),
        Command::Offer(offer) => offered(shared, offer),
        Command::Ready(end) => {
            if let Some(waiting) = shared.state().accepted.remove(&FlowId(end.flow)) {
                let _ = waiting.send(Ok(end));
            }
        }
        Command::Gone(gone) => {
            let flow = FlowId(gone.flow);
            let reason = gone
                .reason
                .map_or_else(|| Reason::new(Code::Failed, "the flow is gone"), Into::into);
            let mut state = shared.state();
            if let Some(waiting) = state.accepted.remove(&flow) {
                let _ = waiting.send(Err(reason));
            } else {
                state.direct.gone(flow, reason);
            }
        }
        Command::Counters(_) => {
            let state = shared.state();
            for counters in state.direct.counters() {
                state.send(Event::Counters(counters));
            }
        }
    }
}

fn listens(shared: &Shared, listening: pb::Listening) {
    let failure = listening.failure.map(Reason::from);
    let mut state = shared.state();
    let Some(entry) = state.listeners.get_mut(&listening.id) else {
        return;
    };
    match (entry.ready.take(), failure) {
        (Some(ready), failure) => {
            let _ = ready.send(failure.map_or(Ok(()), Err));
        }
        (None, Some(reason)) => {
            // Announced again, and this time irmd said no: accept() tells it.
            if let Some(entry) = state.listeners.remove(&listening.id) {
                let _ = entry.offers.try_send(Err(reason));
            }
        }
        (None, None) => {}
    }
}

fn offered(shared: &Arc<Shared>, offer: pb::FlowOffer) {
    let flow = FlowId(offer.flow);
    let listener = offer.listener;
    let incoming = match Incoming::parse(offer, shared) {
        Ok(incoming) => incoming,
        Err(bad) => return shared.answer(flow, Some(bad.into())),
    };
    let offers = shared
        .state()
        .listeners
        .get(&listener)
        .map(|entry| entry.offers.clone());
    match offers.as_ref().map(mpsc::Sender::try_reserve) {
        Some(Ok(place)) => place.send(Ok(incoming)),
        Some(Err(mpsc::error::TrySendError::Full(()))) => {
            incoming.refuse(Reason::new(
                Code::Busy,
                "the program accepts flows more slowly than they come; try later",
            ));
        }
        Some(Err(mpsc::error::TrySendError::Closed(()))) | None => {
            incoming.refuse(Reason::new(
                Code::NotFound,
                "the program no longer listens to this name",
            ));
        }
    }
}

/// What went wrong with a call, in words that don't lead to the transport's own.
fn from_status(status: &tonic::Status) -> Reason {
    if status.details().is_empty()
        && matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown
        )
    {
        let mut why: &dyn std::error::Error = status;
        while let Some(source) = why.source() {
            why = source;
        }
        return Reason::new(Code::Unreachable, why.to_string());
    }
    status.clone().into()
}

/// How long after a loss, and between attempts.
pub(super) const AGAIN: Duration = Duration::from_millis(200);
const WELCOME: Duration = Duration::from_secs(5);
/// Events that wait for irmd to read them: the answers to all offers of a listener at once, and as many others.
const QUEUE: usize = 2 * OFFERS;
