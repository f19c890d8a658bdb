//! What all tasks of the daemon share. No lock and no map guard is ever held across an await.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use proto::ipcp::{Command, State};
use proto::{Code, FlowId, Label, Name, Reason};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, oneshot, watch};

use crate::args::Dirs;
use crate::counters::Tally;
use crate::events::Events;
use crate::flows::{Carrier, Flow, Flows};
use crate::ipcps::Ipcp;
use crate::limits::Limits;
use crate::registry::Registry;
use crate::running::Running;
use crate::session::{Session, SessionId, Who};
use crate::spec::{Kind, SavedSpecs};
use crate::state::{StateError, Store};
use crate::vpns::Vpn;

/// Everything that the daemon knows.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Where its sockets and its state are.
    pub(crate) dirs: Dirs,
    /// Its own executable, beside which the others are.
    pub(crate) exe: PathBuf,
    /// What is on disk.
    pub(crate) store: Store,
    /// A daemon was here before: programs and IPC processes may be on their way back.
    returned: bool,
    /// When it began.
    pub(crate) since: Instant,
    /// The connected programs.
    pub(crate) sessions: DashMap<SessionId, Session>,
    /// Offers that a program has yet to answer.
    pub(crate) offers: DashMap<FlowId, (SessionId, oneshot::Sender<Result<(), Reason>>)>,
    /// The IPC processes.
    pub(crate) ipcps: DashMap<Label, Arc<Ipcp>>,
    /// The VPNs, by device.
    pub(crate) vpns: DashMap<String, Arc<Vpn>>,
    /// What happens.
    pub(crate) events: Events,
    /// What is counted.
    pub(crate) tally: Tally,
    limits: Limits,
    /// Children, as they are kept on disk.
    pub(crate) running: Running,
    /// Warnings of the daemon itself, by topic.
    pub(crate) warnings: Mutex<BTreeMap<String, String>>,
    /// Wakes who keeps registrations as they should be.
    pub(crate) reconcile: Notify,
    /// The members of some layer have changed, or what is known of them.
    pub(crate) members: watch::Sender<()>,
    /// Wakes who waits for counters of direct flows.
    pub(crate) counted: Notify,
    /// Numbers requests for counters.
    pub(crate) round: AtomicU64,
    /// How the daemon is to end.
    pub(crate) ending: watch::Sender<Ending>,
    /// The user that owns nothing: everybody whom this user namespace can't name.
    pub(crate) overflow_uid: u32,
    registry: Mutex<Registry>,
    flows: Mutex<Flows>,
    random: SystemRandom,
    starting: Mutex<BTreeSet<Name>>,
}

/// How the daemon is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not at all.
    No,
    /// With all that it started.
    Shutdown,
    /// Alone, to begin again at once.
    Restart,
}

impl Daemon {
    /// A daemon with what is on disk; nothing is started yet.
    pub(crate) fn load(dirs: Dirs, exe: PathBuf) -> anyhow::Result<Self> {
        let store = Store::new(&dirs.state);
        let incarnation = next_incarnation(&store)?;
        store.save("incarnation", &incarnation)?;
        let registry = Registry::load(&store)?;
        let running = Running::load(&store)?;
        let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
        Ok(Self {
            running,
            exe,
            returned: incarnation > 1,
            since: Instant::now(),
            sessions: DashMap::new(),
            offers: DashMap::new(),
            ipcps: DashMap::new(),
            vpns: DashMap::new(),
            events: Events::new(),
            tally: Tally::default(),
            limits: Limits::default(),
            warnings: Mutex::default(),
            reconcile: Notify::new(),
            members: watch::Sender::new(()),
            counted: Notify::new(),
            round: AtomicU64::new(0),
            ending: watch::Sender::new(Ending::No),
            overflow_uid: overflow
                .and_then(|s| s.trim().parse().ok())
                .unwrap_or(65534),
            registry: Mutex::new(registry),
            flows: Mutex::new(Flows::new(incarnation)),
            random: SystemRandom::new(),
            starting: Mutex::default(),
            store,
            dirs,
        })
    }

    /// Those who outlived an earlier daemon may still be on their way back: what is missing may yet come.
    pub(crate) fn is_recovering(&self) -> bool {
        self.returned && self.since.elapsed() < RECOVERY
    }

    /// The names.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The flows.
    pub(crate) fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a flow.
    pub(crate) fn add_flow(&self, flow: Flow) -> Result<FlowId, Reason> {
        let spent = || {
            Reason::new(
                Code::Busy,
                "this daemon has given out all its flow ids; restart it with `irm daemon restart`",
            )
        };
        self.flows().add(flow).ok_or_else(spent)
    }

    /// A limit bites, by its word.
    pub(crate) fn limit(&self, what: &'static str) {
        self.limits.bites(&self.tally, &self.events, what);
    }

    /// Bytes that nobody can guess.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], Reason> {
        let mut bytes = [0; N];
        match self.random.fill(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(Reason::new(
                Code::Failed,
                "the system gives no random bytes; try again",
            )),
        }
    }

    /// Changes names and keeps them on disk, or does neither.
    pub(crate) fn change_names<T>(
        &self,
        change: impl FnOnce(&mut Registry) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        let mut registry = self.registry();
        let before = registry.snapshot();
        let done = change(&mut registry).and_then(|done| {
            if before != registry.snapshot() {
                self.store
                    .save("names", &registry.to_saved())
                    .map_err(failed)?;
            }
            Ok(done)
        });
        if done.is_err() {
            registry.restore(before);
        }
        drop(registry);
        self.reconcile.notify_one();
        done
    }

    /// Keeps the specs of all IPC processes on disk.
    pub(crate) fn save_specs(&self) -> Result<(), Reason> {
        let specs: BTreeMap<Label, _> = self
            .ipcps()
            .into_iter()
            .map(|i| (i.name.clone(), i.inner().spec.clone()))
            .collect();
        self.store
            .save(
                "ipcps",
                &SavedSpecs::of(specs.iter().map(|(n, s)| (n, s.clone()))),
            )
            .map_err(failed)
    }

    /// All IPC processes, by name.
    pub(crate) fn ipcps(&self) -> Vec<Arc<Ipcp>> {
        let mut all: Vec<_> = self.ipcps.iter().map(|i| i.value().clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// One IPC process.
    pub(crate) fn ipcp(&self, name: &Label) -> Result<Arc<Ipcp>, Reason> {
        let found = self.ipcps.get(name).map(|i| i.value().clone());
        found.ok_or_else(|| {
            Reason::new(
                Code::NotFound,
                format!("no IPC process {name} on this host; see `irm ipcp list`"),
            )
        })
    }

    /// The IPC process of this host in a layer.
    pub(crate) fn in_layer(&self, layer: &Label) -> Result<Arc<Ipcp>, Reason> {
        let found = self
            .ipcps()
            .into_iter()
            .find(|i| i.layer().as_ref() == Some(layer));
        found.ok_or_else(|| {
            Reason::new(Code::NotFound, format!("no IPC process of layer {layer} on this host; see `irm status`, or join it with `irm ipcp enroll`"))
        })
    }

    /// Does an IPC process of this host have the name?
    pub(crate) fn is_ipcp(&self, name: &str) -> bool {
        Label::new(name).is_ok_and(|name| self.ipcps.contains_key(&name))
    }

    /// The lower layers of a unicast IPC process: those that were named, or every shim layer of the host.
    pub(crate) fn over(&self, ipcp: &Ipcp) -> Vec<Label> {
        if ipcp.kind == Kind::ShimUdp {
            return Vec::new();
        }
        let named = ipcp.inner().spec.over.clone();
        if !named.is_empty() {
            return named;
        }
        let shims: BTreeSet<Label> = self
            .ipcps()
            .iter()
            .filter(|i| i.kind == Kind::ShimUdp)
            .filter_map(|i| i.layer())
            .collect();
        shims.into_iter().collect()
    }

    /// A session.
    pub(crate) fn session(&self, id: SessionId) -> Option<Session> {
        self.sessions.get(&id).map(|s| s.value().clone())
    }

    /// All flows that this predicate names are down: their entries go, and who accepted them hears of it.
    pub(crate) fn flows_down(&self, gone: impl FnMut(&Flow) -> bool, reason: &Reason) {
        let flows = self.flows().remove_if(gone);
        for (id, flow) in flows {
            if let Some((_, (_, answer))) = self.offers.remove(&id) {
                // Nobody waits any more: then nobody needs the reason.
                let _ = answer.send(Err(reason.clone()));
            }
            self.flow_event("flow.down", id, &flow, &reason.text);
        }
    }

    /// Tells of a flow.
    pub(crate) fn flow_event(&self, kind: &str, id: FlowId, flow: &Flow, why: &str) {
        let layer = match &flow.carrier {
            Carrier::Direct(_) => "",
            Carrier::Ipcp(_, layer) => layer.as_str(),
        };
        let id = id.to_string();
        let verb = kind.rsplit('.').next().unwrap_or(kind);
        let text = if why.is_empty() {
            format!("flow {id} to {} is {verb}", flow.name)
        } else {
            format!("flow {id} to {} is {verb}: {why}", flow.name)
        };
        self.events.emit(
            kind,
            text,
            &[
                ("flow", &id),
                ("name", flow.name.as_str()),
                ("layer", layer),
            ],
        );
    }

    /// Sets or clears a warning of the daemon itself.
    pub(crate) fn warn(&self, topic: &str, text: Option<String>) {
        let mut warnings = self
            .warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match text {
            Some(text) => {
                tracing::warn!(topic, %text);
                warnings.insert(topic.to_owned(), text);
            }
            None => drop(warnings.remove(topic)),
        }
    }

    /// The names that an IPC process should be registered for: those wanted in its layer, and IPC processes above it.
    pub(crate) fn wanted_at(&self, ipcp: &Ipcp) -> BTreeSet<Name> {
        let Some(layer) = ipcp.layer() else {
            return BTreeSet::new();
        };
        let mut names: BTreeSet<Name> = self
            .registry()
            .wanted()
            .into_iter()
            .filter(|(l, _)| *l == layer)
            .map(|(_, n)| n)
            .collect();
        for upper in self.ipcps() {
            if upper.kind == Kind::Unicast
                && upper.name != ipcp.name
                && self.over(&upper).contains(&layer)
            {
                names.insert(upper.name.to_name());
            }
        }
        names
    }

    /// Makes an IPC process's registrations what they should be; says what it refused.
    pub(crate) async fn reconcile_names(&self, ipcp: &Ipcp) -> HashMap<Name, Reason> {
        let _one = ipcp.reconciling.lock().await;
        let mut refused = HashMap::new();
        let seen = ipcp.seen.borrow().clone();
        if seen.attached == 0 || !seen.configured {
            return refused;
        }
        let wanted = self.wanted_at(ipcp);
        let there = ipcp.inner().registered.clone();
        for name in wanted.difference(&there) {
            match ipcp.call(Command::Register(name.clone()), COMMAND).await {
                Ok(_) => drop(ipcp.inner().registered.insert(name.clone())),
                Err(reason) => drop(refused.insert(name.clone(), reason)),
            }
        }
        // Programs that come back want theirs kept.
        let gone = if self.is_recovering() {
            BTreeSet::new()
        } else {
            &there - &wanted
        };
        for name in &gone {
            match ipcp.call(Command::Unregister(name.clone()), COMMAND).await {
                Ok(_) => drop(ipcp.inner().registered.remove(name)),
                Err(reason) => {
                    tracing::debug!(%name, %reason, ipcp = %ipcp.name, "not unregistered")
                }
            }
        }
        refused
    }

    /// Is the name to be started by this caller, or does another see to it already? Ends with [`Daemon::started`].
    pub(crate) fn claim_start(&self, name: &Name) -> bool {
        self.starting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(name.clone())
    }

    /// Is a program alive that was started for a name?
    pub(crate) fn has_started(&self) -> bool {
        !self
            .starting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .is_empty()
    }

    /// The start that was claimed is over: the program has ended.
    pub(crate) fn started(&self, name: &Name) {
        self.starting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(name);
    }

    /// The candidates of an allocation that names no layer.
    pub(crate) fn unicast_up(&self) -> Vec<Arc<Ipcp>> {
        self.ipcps()
            .into_iter()
            .filter(|i| {
                i.kind == Kind::Unicast && i.state() == State::Up && i.seen.borrow().attached != 0
            })
            .collect()
    }

    /// What a caller is, if it shows the session that it has.
    pub(crate) fn who(&self, session: &[u8], uid: u32) -> Option<(Who, Option<Session>)> {
        if session.is_empty() {
            return Some((Who::Program, None));
        }
        let session = self
            .session(SessionId(session.try_into().ok()?))
            .filter(|s| s.uid == uid)?;
        Some((session.who.clone(), Some(session)))
    }
}

/// Every start of a daemon has a number of its own, so that no flow's id is used twice.
fn next_incarnation(store: &Store) -> Result<u32, StateError> {
    store.load("incarnation", |last: u32| {
        last.checked_add(1).ok_or("the number is the last there is")
    })
}

/// A state file that can't be written, as a reason.
pub(crate) fn failed(error: StateError) -> Reason {
    Reason::new(Code::Failed, error.to_string())
}

/// How long programs and IPC processes take to come back after a restart.
const RECOVERY: Duration = Duration::from_secs(2);

/// How long an IPC process may take for a command that needs no other host.
pub(crate) const COMMAND: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::torn;

    #[test]
    fn a_torn_incarnation_is_never_the_first_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert_eq!(next_incarnation(&store).unwrap(), 1);
        store.save("incarnation", &41_u32).unwrap();
        assert_eq!(next_incarnation(&store).unwrap(), 42);
        torn::is_never_a_fresh_start(dir.path(), "incarnation", || next_incarnation(&store));
        store.save("incarnation", &u32::MAX).unwrap();
        assert!(next_incarnation(&store).is_err());
    }
}
