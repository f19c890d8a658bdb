//! The life of an IPC process: started, told who it is, watched, started again when it dies.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ipcp::{Command, Settings, State};
use proto::{Code, Reason};

use crate::daemon::{COMMAND, Daemon};
use crate::flows::Carrier;
use crate::ipcps::Ipcp;
use crate::process::{Backoff, Child, find, set};
use crate::running::Instance;
use crate::spec::Kind;

/// Starts the task that keeps an IPC process alive until [`Ipcp::stop`] is set.
pub(crate) fn start(daemon: &Arc<Daemon>, ipcp: Arc<Ipcp>) {
    let daemon = daemon.clone();
    tokio::spawn(async move { run(&daemon, &ipcp).await });
}

async fn run(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>) {
    let instance = Instance::Ipcp(ipcp.name.clone());
    let mut survivor = daemon.running.survivor(&instance);
    let mut backoff = Backoff::new();
    let mut stop = ipcp.stop.subscribe();
    while !*stop.borrow_and_update() {
        let began = Instant::now();
        let (child, attach) = match survivor.take() {
            Some(child) => (Ok(child), REATTACH),
            None => (spawn(daemon, ipcp), ATTACH),
        };
        let why = match child {
            Err(why) => why,
            Ok(child) => {
                ipcp.inner().pid = Some(child.pid);
                let why = live(daemon, ipcp, &child, attach).await;
                after(daemon, ipcp, &instance);
                why
            }
        };
        if *stop.borrow_and_update() {
            break;
        }
        let wait = backoff.after(began.elapsed());
        ipcp.set_state(
            State::Down,
            format!("{why}; started again in {} ms", wait.as_millis()),
        );
        let text = format!("IPC process {} is down: {why}", ipcp.name);
        daemon
            .events
            .emit("ipcp.down", text, &[("ipcp", ipcp.name.as_str())]);
        ipcp.inner().restarts += 1;
        // Set or not: the loop looks.
        let _ = tokio::time::timeout(wait, stop.changed()).await;
    }
    ipcp.set_state(State::Down, "stopped");
    ipcp.gone.send_replace(true);
}

fn spawn(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>) -> Result<Child, String> {
    let program = find(&daemon.exe, ipcp.kind.program())?;
    let state = daemon.dirs.state.join("ipcps").join(ipcp.name.as_str());
    make_private(&state).map_err(|e| format!("cannot make {}: {e}", state.display()))?;
    let secret = zeroize::Zeroizing::new(daemon.random::<32>().map_err(|r| r.text)?);
    let args: [OsString; 6] = [
        "--name".into(),
        ipcp.name.as_str().into(),
        "--run-dir".into(),
        daemon.dirs.run.clone().into(),
        "--state-dir".into(),
        state.into(),
    ];
    let instance = Instance::Ipcp(ipcp.name.clone());
    daemon.running.expect(instance.clone(), &*secret);
    let child = Child::spawn(&program, &args, &daemon.dirs.run, &*secret);
    let child = child.map_err(|e| format!("cannot start {}: {e}", program.display()))?;
    ipcp.inner().fresh = true;
    if let Err(error) = daemon.running.started(&instance, &child) {
        daemon.warn("state", Some(error.to_string()));
    }
    Ok(child)
}

fn make_private(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// One life, until the process is gone; says why it ended.
async fn live(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>, child: &Child, attach: Duration) -> String {
    tokio::select! {
        () = child.wait() => "its process ended".to_owned(),
        why = attached(daemon, ipcp, attach) => {
            child.end(GRACE).await;
            why
        }
        () = set(&ipcp.stop) => {
            ipcp.tell(Command::Shutdown);
            let patience = ipcp.inner().patience;
            if !child.wait_for(patience).await {
                child.end(GRACE).await;
            }
            "stopped".to_owned()
        }
    }
}

/// Watches the attachment; returns only when it can't be had.
async fn attached(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>, first: Duration) -> String {
    let mut seen = ipcp.seen.subscribe();
    let mut wait = first;
    loop {
        let attached = tokio::time::timeout(wait, seen.wait_for(|s| s.attached != 0))
            .await
            .is_ok_and(|r| r.is_ok());
        if !attached {
            return format!("it did not attach within {} s", wait.as_secs());
        }
        configure(daemon, ipcp).await;
        // The sender lives as long as the process is known: this can't fail.
        let _ = seen.wait_for(|s| s.attached == 0).await;
        wait = REATTACH;
    }
}

/// Tells a fresh process who it is; tries again until it agrees or is gone.
async fn configure(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>) {
    let mut wait = Duration::from_millis(100);
    loop {
        let seen = ipcp.seen.borrow().clone();
        if seen.attached == 0 || seen.configured {
            return;
        }
        let over = daemon.over(ipcp);
        let spec = ipcp.inner().spec.clone();
        let Some(command) = spec.command(over) else {
            return;
        };
        match ipcp.call(command, CONFIGURE).await {
            Ok(_) => return configured(daemon, ipcp).await,
            Err(reason) => {
                let waits = ipcp.state() == State::Waiting && !ipcp.seen.borrow().detail.is_empty();
                if !waits {
                    ipcp.set_state(State::Waiting, reason.text);
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// What follows when a process has agreed who it is: settings, adjacencies, names.
pub(crate) async fn configured(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>) {
    ipcp.seen.send_modify(|s| s.configured = true);
    let (settings, connect) = {
        let mut inner = ipcp.inner();
        inner.fresh = false;
        (inner.spec.settings(), inner.spec.connect.clone())
    };
    if let Some(settings) = settings {
        tell(daemon, ipcp, Command::Set(settings)).await;
    }
    for member in connect {
        tell(daemon, ipcp, Command::Connect(member, None)).await;
    }
    if ipcp.kind == Kind::ShimUdp {
        announce_lower(daemon, ipcp).await;
    }
    daemon.reconcile.notify_one();
}

/// A shim layer is there: unicast processes that lie over every shim hear of it.
async fn announce_lower(daemon: &Arc<Daemon>, shim: &Arc<Ipcp>) {
    for upper in daemon.ipcps() {
        let takes_all = upper.kind == Kind::Unicast && upper.inner().spec.over.is_empty();
        if takes_all && upper.name != shim.name && upper.seen.borrow().configured {
            let over = daemon.over(&upper);
            tell(
                daemon,
                &upper,
                Command::Set(Settings {
                    over,
                    ..Settings::default()
                }),
            )
            .await;
        }
    }
}

async fn tell(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>, command: Command) {
    if let Err(reason) = ipcp.call(command, COMMAND).await {
        daemon.tally.add("failed.settings");
        tracing::warn!(%reason, ipcp = %ipcp.name, "a setting was not taken");
    }
}

/// The process is gone: so is all that it carried.
fn after(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>, instance: &Instance) {
    {
        let mut inner = ipcp.inner();
        inner.pid = None;
        inner.registered.clear();
        inner.warnings.clear();
    }
    let attachment = ipcp.seen.borrow().attached;
    ipcp.detach(attachment);
    ipcp.seen.send_modify(|s| s.configured = false);
    let reason = Reason::new(
        Code::Unreachable,
        format!("IPC process {} has ended", ipcp.name),
    );
    daemon.flows_down(
        |f| matches!(&f.carrier, Carrier::Ipcp(name, _) if *name == ipcp.name),
        &reason,
    );
    if let Err(error) = daemon.running.ended(instance) {
        daemon.warn("state", Some(error.to_string()));
    }
}

/// How long a new process may take to attach.
const ATTACH: Duration = Duration::from_secs(10);
/// How long one that lives may take to attach again.
const REATTACH: Duration = Duration::from_secs(5);
/// How long it may take to become what it was.
const CONFIGURE: Duration = Duration::from_secs(30);
/// How long it may take to end when it is signalled.
const GRACE: Duration = Duration::from_millis(500);
