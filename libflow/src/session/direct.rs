//! Direct flows between two programs of one host: the accepting side's end of them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::irm as pb;
use proto::irm::program_event::Event;
use proto::record::{Item, Welcome};
use proto::{Batch, Code, FlowId, Framing, Reason, Token};
use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Shared, not_joined};
use crate::end::Counters;
use crate::error::FlowError;
use crate::port::{Door, Joined, Key, Received, RecordSocket, no_such_token};

/// The direct flows of this program: those that wait to be joined, and those that stand.
#[derive(Debug, Default)]
pub(crate) struct Table {
    awaited: Vec<Awaited>,
    standing: HashMap<FlowId, (pb::DirectFlow, Arc<Counters>)>,
}

/// A flow that was accepted and not joined yet.
#[derive(Debug)]
struct Awaited {
    key: Key,
    joined: oneshot::Sender<Result<RecordSocket, Reason>>,
}

/// Keeps a direct flow in the table, from where irmd learns of it after a restart; tells irmd when it ends.
#[derive(Debug)]
pub(crate) struct Direct {
    shared: Arc<Shared>,
    flow: FlowId,
    counters: Arc<Counters>,
}

impl Table {
    /// What irmd hears when it comes back.
    pub(super) fn flows(&self) -> Vec<pb::DirectFlow> {
        self.standing
            .values()
            .map(|(flow, _)| flow.clone())
            .collect()
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = pb::FlowCounters> {
        self.standing
            .iter()
            .map(|(flow, (_, counters))| pb::FlowCounters {
                flow: flow.0,
                rx_bytes: counters.rx_bytes.load(Ordering::Relaxed),
                tx_bytes: counters.tx_bytes.load(Ordering::Relaxed),
            })
    }

    /// The other side gave up before it joined.
    pub(super) fn gone(&mut self, flow: FlowId, reason: Reason) {
        if let Some(at) = self.awaited.iter().position(|a| a.key.flow == flow) {
            let _ = self.awaited.swap_remove(at).joined.send(Err(reason));
        }
    }

    fn take(&mut self, token: &Token, uid: u32) -> Option<Awaited> {
        let at = self.awaited.iter().position(|a| a.key.fits(token, uid))?;
        Some(self.awaited.swap_remove(at))
    }
}

impl Shared {
    /// Accepts a direct flow and waits for the other program to join it.
    pub(crate) async fn accept_direct(
        self: &Arc<Self>,
        key: Key,
        welcome: Welcome,
        known_as: pb::DirectFlow,
        deadline: Instant,
    ) -> Result<(Joined, Direct), FlowError> {
        let flow = key.flow;
        let (joined, joins) = oneshot::channel();
        self.state().direct.awaited.push(Awaited { key, joined });
        let _forget = Forget(self, flow);
        self.answer(flow, None);
        let socket = match tokio::time::timeout_at(deadline, joins).await {
            Ok(Ok(socket)) => socket.map_err(FlowError::Down)?,
            Ok(Err(_)) | Err(_) => return Err(not_joined(flow)),
        };
        let hello = socket.try_send_item(&Item::Welcome(other_side(&welcome, &known_as)), None);
        hello.map_err(|e| {
            FlowError::Down(Reason::new(
                Code::Unreachable,
                format!("the other program left while it joined: {e}"),
            ))
        })?;
        let counters = Arc::new(Counters::default());
        self.state()
            .direct
            .standing
            .insert(flow, (known_as, counters.clone()));
        let direct = Direct {
            shared: self.clone(),
            flow,
            counters,
        };
        Ok((
            Joined {
                socket,
                welcome,
                handed: None,
            },
            direct,
        ))
    }
}

impl Direct {
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.direct.standing.remove(&self.flow);
        state.send(Event::Closed(pb::FlowClosed {
            flow: self.flow.0,
            reason: None,
        }));
    }
}

/// The listening socket for direct flows, under a name of its own; `None` where the run directory has no place for it.
pub(super) fn open_door(run_dir: &Path) -> Option<Door> {
    let dir = run_dir.join("flows");
    // irmd makes it, for everybody to make files in and nobody to remove others'; a user's own irmd of old may not have.
    if std::fs::create_dir(&dir).is_ok() {
        let _ =
            std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o1777));
    }
    sweep(&dir);
    let pid = std::process::id();
    // A pid can be taken twice, in two pid namespaces; a file that lies there may be somebody's.
    for n in 0..1000 {
        match Door::open(&dir.join(format!("{pid}-{n}.sock")), false) {
            Ok(door) => return Some(door),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => {
                tracing::debug!(
                    "no direct flows from programs of this host: can't listen in {}: {e}",
                    dir.display()
                );
                return None;
            }
        }
    }
    None
}

/// Removes the sockets that programs left which were killed.
fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let pid = path
            .file_name()
            .and_then(|name| name.to_str()?.split_once('-')?.0.parse::<u32>().ok());
        let dead = pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        // The pid may be of another namespace: only the socket itself tells for sure that nobody listens.
        let refused = io::ErrorKind::ConnectionRefused;
        if dead && RecordSocket::connect(&path).is_err_and(|e| e.kind() == refused) {
            // Others' files stay: the directory is sticky.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Lets those in who show a token that is awaited.
pub(super) async fn serve(door: Door, shared: Weak<Shared>) {
    let Ok(door) = crate::watch(door, Interest::READABLE) else {
        return;
    };
    let mut joining = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((socket, uid, token)) = joining.next(), if !joining.is_empty() => {
                let Some(shared) = shared.upgrade() else { return };
                admit(&shared, socket, uid, token);
            }
            guard = door.readable(), if joining.len() < JOINING => {
                let Ok(mut guard) = guard else { return };
                match door.get_ref().try_accept() {
                    Ok((socket, uid)) => joining.push(first_record(socket, uid)),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                    Err(e) => {
                        // Out of descriptors, most likely: not to be asked again at once.
                        tracing::warn!("can't accept a direct flow: {e}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}

fn admit(shared: &Shared, socket: RecordSocket, uid: u32, token: Option<Token>) {
    let awaited = token.and_then(|token| shared.state().direct.take(&token, uid));
    match awaited {
        Some(awaited) => {
            let _ = awaited.joined.send(Ok(socket));
        }
        None => {
            let _ = socket.try_send_item(&Item::Down(no_such_token()), None);
        }
    }
}

/// The token of a process that connected, if it shows one in time.
async fn first_record(socket: RecordSocket, uid: u32) -> (RecordSocket, u32, Option<Token>) {
    let Ok(fd) = rustix::io::dup(&socket) else {
        return (socket, uid, None);
    };
    let shows = async {
        let fd = crate::watch(fd, Interest::READABLE).ok()?;
        loop {
            let mut guard = fd.readable().await.ok()?;
            match socket.try_recv(&mut Batch::new(Framing::Record)) {
                Ok(Received::Item(Item::Join(token))) => return Some(token),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Ok(_) | Err(_) => return None,
            }
        }
    };
    let token = tokio::time::timeout(SHOW, shows).await.ok().flatten();
    (socket, uid, token)
}

/// The flow as who allocated it sees it: its peer is the name that it asked for.
fn other_side(welcome: &Welcome, known_as: &pb::DirectFlow) -> Welcome {
    let peer = proto::record::Peer {
        name: proto::Name::new(known_as.name.clone()).ok(),
        ..Default::default()
    };
    Welcome {
        devices: false,
        peer,
        ..welcome.clone()
    }
}

/// Takes a flow off the list of those that are awaited when its accept is over or was cancelled.
struct Forget<'a>(&'a Shared, FlowId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0
            .state()
            .direct
            .awaited
            .retain(|a| a.key.flow != self.1);
    }
}

/// Processes that may be showing their tokens at once; more wait in the socket's queue.
const JOINING: usize = 64;
/// How long showing a token may take.
const SHOW: Duration = Duration::from_secs(2);
