//! The session with irmd: one stream that lives as long as the program uses flows.

mod direct;
mod link;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::irm as pb;
use proto::irm::program_event::Event;
use proto::irm::programs_client::ProgramsClient;
use proto::{Code, FlowId, Label, Name, QosSpec, Reason, Token};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;

pub(crate) use direct::Direct;

use crate::error::FlowError;
use crate::flow::Flow;
use crate::listener::{Incoming, Listener};
use crate::port::{Joined, RecordSocket};
use crate::run_dir::{IRM_SOCKET, RunDir};
use crate::secret::Secret;

/// A program's access to flows. Clones share one session; it ends with the last of them, their listeners and flows.
///
/// If irmd goes away, flows go on untouched; the session is made anew as soon as irmd is back, and the listeners with it.
#[derive(Debug, Clone)]
pub struct Irm(Arc<Shared>);

/// How to open a session, where the defaults don't do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The run directory of irmd; `None`: looked for as [`RunDir::find`] says.
    pub run_dir: Option<PathBuf>,
    /// The instance secret, of a process that irmd started.
    pub secret: Option<Secret>,
    /// What people see of this program; `None`: its file name.
    pub program: Option<String>,
}

/// What to ask of a flow.
#[derive(Debug, Clone)]
pub struct AllocOptions {
    /// The service; granted as asked or refused.
    pub qos: QosSpec,
    /// The layer to use; `None`: a local program, or any unicast layer of the host.
    pub layer: Option<Label>,
    /// Refuse any other member at the other end.
    pub peer: Option<Label>,
    /// A name that this program goes by, shown to the other side; irmd attests it.
    pub source: Option<Name>,
    /// How long to wait for the other side to accept.
    pub timeout: Duration,
    /// For IPC processes alone: where below the name's host may be.
    pub at: Vec<SocketAddr>,
}

impl Default for AllocOptions {
    fn default() -> Self {
        Self {
            qos: QosSpec::default(),
            layer: None,
            peer: None,
            source: None,
            timeout: Duration::from_secs(10),
            at: Vec::new(),
        }
    }
}

impl Irm {
    /// Opens a session with the irmd of `run_dir`, or of the directory that [`RunDir::find`] finds. Must be called in a
    /// tokio runtime with IO and time.
    pub async fn connect(run_dir: Option<&Path>) -> Result<Self, FlowError> {
        Self::connect_with(Options {
            run_dir: run_dir.map(Path::to_owned),
            ..Options::default()
        })
        .await
    }

    /// Opens a session, with all there is to choose.
    pub async fn connect_with(options: Options) -> Result<Self, FlowError> {
        let run_dir = RunDir::find(options.run_dir.as_deref());
        let programs = ProgramsClient::new(run_dir.channel(IRM_SOCKET)?);
        let door = direct::open_door(run_dir.path());
        let shared = Arc::new(Shared {
            programs,
            secret: options.secret,
            program: options.program.unwrap_or_else(own_name),
            data_socket: door
                .as_ref()
                .map(|door| door.path().to_owned())
                .unwrap_or_default(),
            state: Mutex::default(),
            tasks: Mutex::default(),
        });
        let failed = |reason: Reason| {
            if reason.code == Code::Unreachable {
                run_dir.unreachable(reason)
            } else {
                FlowError::of_call(reason)
            }
        };
        let stream = link::open(&shared).await.map_err(failed)?;
        let mut tasks =
            vec![tokio::spawn(link::keep(Arc::downgrade(&shared), stream)).abort_handle()];
        if let Some(door) = door {
            tasks.push(tokio::spawn(direct::serve(door, Arc::downgrade(&shared))).abort_handle());
        }
        *shared.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(Self(shared))
    }

    /// Allocates a flow to a name and returns when the other side has accepted.
    pub async fn allocate(
        &self,
        name: impl AsRef<str>,
        options: AllocOptions,
    ) -> Result<Flow, FlowError> {
        Flow::of(self.dial(name, options).await?, None)
    }

    /// As [`Irm::allocate`], but gives the joined socket as it is: for IPC processes, whose shims hand a socket over.
    pub async fn dial(
        &self,
        name: impl AsRef<str>,
        options: AllocOptions,
    ) -> Result<Joined, FlowError> {
        let name = parse_name(name.as_ref())?;
        let deadline = Instant::now() + options.timeout;
        let end = self.ask(&name, &options, deadline).await?;
        self.0.join(end, deadline.max(Instant::now() + JOIN)).await
    }

    /// Offers flows to a name: to programs of this host, and through these layers, where policy lets the program.
    pub async fn listen(
        &self,
        name: impl AsRef<str>,
        layers: &[Label],
    ) -> Result<Listener, FlowError> {
        let name = parse_name(name.as_ref())?;
        self.start_listening(Some(name), layers.to_vec()).await
    }

    /// Takes the flows to every name that an administrator has bound this process or program to.
    pub async fn listen_bound(&self) -> Result<Listener, FlowError> {
        self.start_listening(None, Vec::new()).await
    }

    async fn start_listening(
        &self,
        name: Option<Name>,
        layers: Vec<Label>,
    ) -> Result<Listener, FlowError> {
        let (offers, incoming) = mpsc::channel(OFFERS);
        let (ready, answered) = oneshot::channel();
        let entry = ListenerEntry {
            name,
            layers,
            offers,
            ready: Some(ready),
        };
        let id = {
            let mut state = self.0.state();
            state.last_listener += 1;
            let id = state.last_listener;
            state.send(Event::Listen(entry.message(id)));
            state.listeners.insert(id, entry);
            id
        };
        // From here on its drop takes the entry away again.
        let listener = Listener::new(id, incoming, self.0.clone());
        match tokio::time::timeout(LISTEN, answered).await {
            Ok(Ok(Ok(()))) => Ok(listener),
            Ok(Ok(Err(reason))) => Err(FlowError::of_call(reason)),
            Ok(Err(_)) | Err(_) => {
                let text = "irmd did not say that it listens; see irm status, then try again";
                Err(FlowError::TimedOut(Reason::new(Code::TimedOut, text)))
            }
        }
    }

    /// Asks irmd for a flow; an irmd that is just being restarted is waited for.
    async fn ask(
        &self,
        name: &Name,
        options: &AllocOptions,
        deadline: Instant,
    ) -> Result<pb::FlowEnd, FlowError> {
        let text = |label: &Option<Label>| label.as_ref().map(Label::to_string).unwrap_or_default();
        let patience = deadline.min(Instant::now() + RESTART);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = pb::AllocFlowRequest {
                name: name.to_string(),
                qos: Some(options.qos.into()),
                layer: text(&options.layer),
                peer_member: text(&options.peer),
                source: options
                    .source
                    .as_ref()
                    .map(Name::to_string)
                    .unwrap_or_default(),
                timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1),
                session: self.0.state().session.clone(),
                at: options.at.iter().map(ToString::to_string).collect(),
            };
            let mut programs = self.0.programs.clone();
            let call =
                tokio::time::timeout_at(deadline + GRACE, programs.alloc_flow(request)).await;
            let status = match call {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => {
                    let text = format!(
                        "no answer to the request for a flow to {name} within {:?}; allow more time",
                        options.timeout
                    );
                    return Err(FlowError::TimedOut(Reason::new(Code::TimedOut, text)));
                }
            };
            // A status with details is irmd's own word; without, the transport's.
            let lost = status.code() == tonic::Code::Unavailable && status.details().is_empty();
            if !lost || Instant::now() >= patience {
                return Err(FlowError::of_call(status.into()));
            }
            tokio::time::sleep(link::AGAIN).await;
        }
    }
}

/// What the handles, the listeners, the flows and the tasks of one session share. Not touched on the data path.
#[derive(Debug)]
pub(crate) struct Shared {
    programs: ProgramsClient<Channel>,
    secret: Option<Secret>,
    program: String,
    /// Empty where direct flows can't be accepted.
    data_socket: PathBuf,
    state: Mutex<State>,
    tasks: Mutex<Vec<tokio::task::AbortHandle>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Into the stream, while it stands.
    events: Option<mpsc::Sender<pb::ProgramEvent>>,
    session: Vec<u8>,
    last_listener: u64,
    listeners: HashMap<u64, ListenerEntry>,
    /// Flows that were accepted and are to be joined as soon as irmd says where.
    accepted: HashMap<FlowId, oneshot::Sender<Result<pb::FlowEnd, Reason>>>,
    direct: direct::Table,
}

/// A listener as irmd is told of it, again after each reconnection.
#[derive(Debug)]
struct ListenerEntry {
    name: Option<Name>,
    layers: Vec<Label>,
    offers: mpsc::Sender<Result<Incoming, Reason>>,
    ready: Option<oneshot::Sender<Result<(), Reason>>>,
}

impl ListenerEntry {
    fn message(&self, id: u64) -> pb::Listen {
        pb::Listen {
            id,
            name: self.name.as_ref().map(Name::to_string).unwrap_or_default(),
            layers: self.layers.iter().map(Label::to_string).collect(),
        }
    }
}

impl State {
    /// Tells irmd. Lost without a session: what matters is told again when there is one.
    pub(crate) fn send(&self, event: Event) {
        let event = pb::ProgramEvent { event: Some(event) };
        if let Some(events) = &self.events
            && let Err(TrySendError::Full(_)) = events.try_send(event)
        {
            tracing::warn!("irmd does not read what this program tells it; a message is lost");
        }
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unlisten(&self, id: u64) {
        let mut state = self.state();
        if state.listeners.remove(&id).is_some() {
            state.send(Event::Unlisten(pb::Unlisten { id }));
        }
    }

    /// Says whether an offered flow is taken.
    pub(crate) fn answer(&self, flow: FlowId, refused: Option<Reason>) {
        let answer = pb::FlowAnswer {
            flow: flow.0,
            accept: refused.is_none(),
            reason: refused.map(Into::into),
        };
        self.state().send(Event::Answer(answer));
    }

    /// Accepts an offered flow of a layer, waits for irmd to say where it is and joins it.
    pub(crate) async fn accept_routed(
        self: &Arc<Self>,
        flow: FlowId,
        deadline: Instant,
    ) -> Result<Joined, FlowError> {
        let (ready, answered) = oneshot::channel();
        self.state().accepted.insert(flow, ready);
        let _forget = Forget(self, flow);
        self.answer(flow, None);
        let end = match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(end)) => end.map_err(FlowError::Down)?,
            Ok(Err(_)) => {
                return Err(FlowError::Daemon(Reason::new(
                    Code::Unreachable,
                    "irmd went away while a flow was accepted",
                )));
            }
            Err(_) => return Err(not_joined(flow)),
        };
        self.join(end, Instant::now() + JOIN).await
    }

    async fn join(&self, end: pb::FlowEnd, deadline: Instant) -> Result<Joined, FlowError> {
        let malformed = || {
            FlowError::Daemon(Reason::new(
                Code::Failed,
                "irmd gave a token that is none; update the older of both",
            ))
        };
        let token = Token::from_slice(&end.token).ok_or_else(malformed)?;
        // Only processes that irmd started are handed anything.
        let handed = self.secret.is_some();
        RecordSocket::join(Path::new(&end.socket), &token, handed, deadline)
            .await
            .map_err(FlowError::of_call)
    }
}

/// Takes the wish for a flow back when its accept is over or was cancelled.
struct Forget<'a>(&'a Shared, FlowId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.state().accepted.remove(&self.1);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

/// That an accepted flow did not come to stand in time.
pub(crate) fn not_joined(flow: FlowId) -> FlowError {
    FlowError::TimedOut(Reason::new(
        Code::TimedOut,
        format!("flow {flow} was accepted, but the other side did not join it in time"),
    ))
}

fn parse_name(name: &str) -> Result<Name, FlowError> {
    Name::new(name).map_err(|e| FlowError::ApiMisuse(e.into()))
}

fn own_name() -> String {
    let exe = std::env::current_exe().ok();
    exe.as_deref()
        .and_then(Path::file_name)
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Offers that wait to be taken, for each listener; more are refused as busy. As many as a layer lets one member have
/// unanswered, so that a burst that it lets in is not turned away by a program that is a moment late.
pub(super) const OFFERS: usize = 1024;
/// How long irmd may take to say that it listens.
const LISTEN: Duration = Duration::from_secs(10);
/// How long joining may take once irmd has said where: the time that a token is good for.
const JOIN: Duration = Duration::from_secs(10);
/// How much later than the deadline irmd's own answer is still waited for: it says more than a timeout.
const GRACE: Duration = Duration::from_millis(500);
/// How long a restart of irmd is waited for.
const RESTART: Duration = Duration::from_secs(3);
