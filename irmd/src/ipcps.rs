//! One IPC process as irmd sees it: what it should be, what it says it is, and the commands on their way to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use proto::ipcp::{Answer, Below, Command, CommandId, Reach, State};
use proto::irm::{IpcpCommand, IpcpStatus};
use proto::{Code, Label, Name, Reason};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::spec::{Kind, Spec};

/// How long a process may take to end its flows in good order; it bounds that itself to a little less.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many commands may wait for an IPC process that doesn't read them.
pub(crate) const QUEUE: usize = 4096;

/// One IPC process.
#[derive(Debug)]
pub(crate) struct Ipcp {
    /// Its name, which is its member name too.
    pub(crate) name: Label,
    /// What kind of layer it serves.
    pub(crate) kind: Kind,
    inner: Mutex<Inner>,
    calls: Mutex<HashMap<CommandId, oneshot::Sender<Result<Answer, Reason>>>>,
    next: AtomicU64,
    /// What others wait for: its state, and whether it is attached.
    pub(crate) seen: watch::Sender<Seen>,
    /// True: it is to end and not to be started again.
    pub(crate) stop: watch::Sender<bool>,
    /// True: its task has ended, and so has its process.
    pub(crate) gone: watch::Sender<bool>,
    /// One set of registrations at a time.
    pub(crate) reconciling: tokio::sync::Mutex<()>,
}

/// What others wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which attachment this is; 0: none.
    pub(crate) attached: u64,
    /// What the process says.
    pub(crate) state: State,
    /// A line about the state.
    pub(crate) detail: String,
    /// It has been told who it is, and has agreed.
    pub(crate) configured: bool,
}

/// What changes while it lives.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// What it should be.
    pub(crate) spec: Spec,
    /// Its layer, once it is known.
    pub(crate) layer: Option<Label>,
    /// Its process number, while it runs.
    pub(crate) pid: Option<u32>,
    /// Its process was just started, so it has to be told who it is, whatever it finds on its disk.
    pub(crate) fresh: bool,
    /// It says when the members of its layer change; one of an older build is asked instead.
    pub(crate) tells_members: bool,
    /// How long it may take to end in good order.
    pub(crate) patience: Duration,
    /// How often it was started anew.
    pub(crate) restarts: u32,
    /// Where its flows are joined.
    pub(crate) data_socket: String,
    /// Names that it has agreed to offer flows to.
    pub(crate) registered: BTreeSet<Name>,
    /// Its last warnings, by subject.
    pub(crate) warnings: BTreeMap<String, String>,
    /// Its address in its layer; 0: none.
    pub(crate) address: u64,
    /// A shim that follows an interface: the address that it said last.
    pub(crate) at: Option<IpAddr>,
    /// It may be another one now.
    pub(crate) moved: bool,
    /// What it was told of the shims below: where it is there, and their switches.
    pub(crate) told: Option<(Vec<Reach>, Vec<Below>)>,
    tx: Option<mpsc::Sender<Result<IpcpCommand, Status>>>,
}

impl Ipcp {
    /// A process that is yet to be started.
    pub(crate) fn new(name: Label, spec: Spec) -> Self {
        let inner = Inner {
            layer: spec.layer.clone(),
            spec,
            patience: PATIENCE,
            ..Inner::default()
        };
        Self {
            name,
            kind: inner.spec.kind,
            inner: Mutex::new(inner),
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            seen: watch::Sender::new(Seen::default()),
            stop: watch::Sender::new(false),
            gone: watch::Sender::new(false),
            reconciling: tokio::sync::Mutex::default(),
        }
    }

    /// What changes while it lives. Never held across an await.
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Its layer, once it is known.
    pub(crate) fn layer(&self) -> Option<Label> {
        self.inner().layer.clone()
    }

    /// Whether it says that its layer has taken its certificate back.
    pub(crate) fn was_revoked(&self) -> bool {
        self.seen.borrow().detail.contains("was revoked")
    }

    /// The state that people see.
    pub(crate) fn state(&self) -> State {
        self.seen.borrow().state
    }

    /// Whether its process is there to be asked.
    pub(crate) fn is_attached(&self) -> bool {
        self.seen.borrow().attached != 0
    }

    /// A process has attached; returns which attachment this is. Commands to an earlier one are lost.
    pub(crate) fn attach(
        &self,
        tx: mpsc::Sender<Result<IpcpCommand, Status>>,
        data_socket: String,
        names: BTreeSet<Name>,
    ) -> u64 {
        self.drop_calls();
        let attachment = self.next.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner();
        (inner.tx, inner.data_socket, inner.registered) = (Some(tx), data_socket, names);
        inner.told = None;
        inner.moved = true;
        attachment
    }

    /// The attachment has ended; false if it was not the present one.
    pub(crate) fn detach(&self, attachment: u64) -> bool {
        if self.seen.borrow().attached != attachment {
            return false;
        }
        {
            let mut inner = self.inner();
            inner.tx = None;
            inner.registered.clear();
        }
        self.drop_calls();
        self.seen.send_modify(|s| s.attached = 0);
        true
    }

    /// Sends a command without waiting for its answer; false if the process is not there.
    pub(crate) fn tell(&self, command: Command) -> bool {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(id, command).is_ok()
    }

    /// Sends a command and waits for its answer, at most so long.
    pub(crate) async fn call(&self, command: Command, timeout: Duration) -> Result<Answer, Reason> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.calls().insert(id, tx);
        let forget = Forget { ipcp: self, id };
        self.send(id, command)?;
        let answer = match tokio::time::timeout(timeout, rx).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.unreachable("its process died")),
            Err(_) => Err(Reason::new(
                Code::TimedOut,
                format!(
                    "IPC process {} did not answer in {} ms; see `irm status`",
                    self.name,
                    timeout.as_millis()
                ),
            )),
        };
        drop(forget);
        answer
    }

    /// The process has answered; false if nobody waits for that any more.
    pub(crate) fn answered(&self, id: CommandId, answer: Result<Answer, Reason>) -> bool {
        let waiting = self.calls().remove(&id);
        waiting.is_some_and(|tx| tx.send(answer).is_ok())
    }

    /// Waits until a process is attached.
    pub(crate) async fn ready(&self, timeout: Duration) -> Result<(), Reason> {
        let mut seen = self.seen.subscribe();
        let attached = tokio::time::timeout(timeout, seen.wait_for(|s| s.attached != 0)).await;
        match attached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let detail = self.seen.borrow().detail.clone();
                let why = if detail.is_empty() {
                    "its process has not attached"
                } else {
                    &detail
                };
                Err(self.unreachable(why))
            }
        }
    }

    /// Its state has changed.
    pub(crate) fn set_state(&self, state: State, detail: impl Into<String>) {
        let detail = detail.into();
        self.seen.send_if_modified(|s| {
            let changed = s.state != state || s.detail != detail;
            (s.state, s.detail) = (state, detail);
            changed
        });
    }

    /// Keeps what it says of itself.
    pub(crate) fn learn(&self, status: &IpcpStatus) {
        let mut inner = self.inner();
        inner.address = status.address;
        let at = status.settings.get("ip").and_then(|ip| ip.parse().ok());
        if at.is_some() {
            (inner.at, inner.moved) = (at, false);
        }
    }

    /// It can't be reached, for this cause.
    pub(crate) fn unreachable(&self, why: &str) -> Reason {
        Reason::new(
            Code::Unreachable,
            format!(
                "IPC process {} can't be reached: {why}; see `irm status`",
                self.name
            ),
        )
    }

    fn send(&self, id: CommandId, command: Command) -> Result<(), Reason> {
        let tx = self
            .inner()
            .tx
            .clone()
            .ok_or_else(|| self.unreachable("it is not running"))?;
        tx.try_send(Ok(command.into_message(id)))
            .map_err(|_| self.unreachable("it does not read its commands"))
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<CommandId, oneshot::Sender<Result<Answer, Reason>>>> {
        self.calls
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn drop_calls(&self) {
        self.calls().clear();
    }
}

/// Takes the entry of a call away, also when the caller gives up in between.
struct Forget<'a> {
    ipcp: &'a Ipcp,
    id: CommandId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.ipcp.calls().remove(&self.id);
    }
}
