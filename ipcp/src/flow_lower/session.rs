//! Where lower flows come from: dialled over libflow, or accepted under the process' own name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use layer::Via;
use libflow::port::Joined;
use libflow::{AllocOptions, FlowError, Incoming, Irm, Listener, Options, QosSpec};
use proto::{Code, Label, Name, Reason};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::Config;

/// The process' session with irmd, as a program's.
#[derive(Debug)]
pub(super) struct Session {
    name: Label,
    options: Options,
    started: Option<(watch::Receiver<Option<Irm>>, mpsc::Sender<FlowEvent>)>,
}

/// What a task of [`crate::FlowLower`] says: a flow stands, or a dial came to nothing.
#[derive(Debug)]
pub struct FlowEvent(pub(super) Result<(Joined, Via), (u64, Reason)>);

impl Session {
    pub(super) fn new(config: &Config) -> Self {
        let options = Options {
            run_dir: Some(config.run_dir.clone()),
            secret: Some(config.secret.clone()),
            program: Some(config.name.to_string()),
        };
        Self {
            name: config.name.clone(),
            options,
            started: None,
        }
    }

    /// Begins to accept.
    pub(super) fn start(&mut self, events: mpsc::Sender<FlowEvent>) {
        let (ready, irm) = watch::channel(None);
        tokio::spawn(serve(
            self.options.clone(),
            self.name.clone(),
            ready,
            events.clone(),
        ));
        self.started = Some((irm, events));
    }

    /// Begins to dial; the event comes in any case.
    pub(super) fn dial(&self, dial: u64, dst: Name, over: Label, at: Vec<SocketAddr>) {
        let Some((irm, events)) = self.started.clone() else {
            return;
        };
        let options = AllocOptions {
            qos: QosSpec::RAW,
            layer: Some(over),
            source: Some(self.name.to_name()),
            timeout: DIAL,
            at,
            ..AllocOptions::default()
        };
        tokio::spawn(async move {
            let result = match session(irm).await {
                Ok(irm) => irm.dial(&dst, options).await,
                Err(e) => Err(e),
            };
            let said = result
                .map(|joined| (joined, Via::Dialled(dial)))
                .map_err(|e| (dial, e.into()));
            // Fails only when the process ends.
            let _ = events.send(FlowEvent(said)).await;
        });
    }
}

/// Keeps the session with irmd and takes the flows that come to the process' own name.
async fn serve(
    options: Options,
    name: Label,
    ready: watch::Sender<Option<Irm>>,
    events: mpsc::Sender<FlowEvent>,
) {
    let irm = loop {
        match Irm::connect_with(options.clone()).await {
            Ok(irm) => break irm,
            Err(e) => tracing::debug!("no session yet: {e}"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    ready.send_replace(Some(irm.clone()));
    let accepting = Arc::new(Semaphore::new(ACCEPTING));
    loop {
        let mut listener = match irm.listen(&name, &[]).await {
            Ok(listener) => listener,
            Err(e) => {
                tracing::debug!("can't listen as {name}: {e}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        accept_all(&mut listener, &accepting, &events).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn accept_all(
    listener: &mut Listener,
    accepting: &Arc<Semaphore>,
    events: &mpsc::Sender<FlowEvent>,
) {
    while let Ok(incoming) = listener.accept().await {
        let Ok(permit) = accepting.clone().acquire_owned().await else {
            return;
        };
        let events = events.clone();
        tokio::spawn(async move {
            accept(incoming, events).await;
            drop(permit);
        });
    }
}

async fn accept(incoming: Incoming, events: mpsc::Sender<FlowEvent>) {
    match incoming.accept_joined().await {
        Ok(joined) => {
            // Fails only when the process ends.
            let _ = events
                .send(FlowEvent(Ok((joined, Via::Accepted(None)))))
                .await;
        }
        Err(e) => tracing::debug!("an incoming flow came to nothing: {e}"),
    }
}

/// The session, as soon as there is one.
async fn session(mut irm: watch::Receiver<Option<Irm>>) -> Result<Irm, FlowError> {
    let away = || {
        FlowError::Daemon(Reason::new(
            Code::Unreachable,
            "there is no session with irmd yet; it is tried again",
        ))
    };
    let ready = tokio::time::timeout(DIAL, irm.wait_for(Option::is_some)).await;
    ready
        .ok()
        .and_then(Result::ok)
        .and_then(|irm| irm.clone())
        .ok_or_else(away)
}

/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(10);
/// How soon something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// Incoming flows that are being accepted at once.
const ACCEPTING: usize = 64;
