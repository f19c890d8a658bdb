//! Programs that are started when somebody asks for their name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Code, Name, Reason};

use crate::daemon::{Daemon, Ending};
use crate::process::Child;
use crate::registry::Listener;

/// A listener for the name; a program that is bound to it with `--auto` is started where there is none. `NotFound` if nobody
/// will come.
pub(crate) async fn listener(
    daemon: &Arc<Daemon>,
    name: &Name,
    deadline: Instant,
) -> Result<Listener, Reason> {
    let mut started = false;
    loop {
        let (listener, auto) = {
            let mut registry = daemon.registry();
            (registry.pick(name), registry.auto(name))
        };
        if let Some(listener) = listener {
            return Ok(listener);
        }
        let recovering = daemon.is_recovering();
        match auto {
            // One that outlived an earlier daemon may be on its way back.
            Some((program, args)) if !started && !recovering => {
                start(daemon, name, program, args)?;
                started = true;
            }
            None if !recovering => return Err(nobody(name)),
            Some(_) | None => {}
        }
        if Instant::now() >= deadline {
            let text = format!("nobody listened to {name} in time; see `irm name list`");
            return Err(Reason::new(Code::TimedOut, text));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn start(
    daemon: &Arc<Daemon>,
    name: &Name,
    program: PathBuf,
    args: Vec<String>,
) -> Result<(), Reason> {
    if !daemon.claim_start(name) {
        return Ok(());
    }
    let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
    let child = Child::spawn(&program, &args, &daemon.dirs.run, &[]).map_err(|error| {
        daemon.started(name);
        let text = format!(
            "cannot start {} for {name}: {error}; mend it, or unbind it",
            program.display()
        );
        Reason::new(Code::Failed, text)
    })?;
    let text = format!("{} was started for {name}", program.display());
    daemon
        .events
        .emit("program.started", text, &[("name", name.as_str())]);
    if let Err(error) = daemon.running.program_started(name, &child) {
        daemon.warn("state", Some(error.to_string()));
    }
    watched(daemon, name.clone(), child);
    Ok(())
}

/// Takes the programs up again that an earlier daemon started and that live: no second one is started beside them, and they
/// end with this daemon.
pub(crate) fn take_up(daemon: &Arc<Daemon>) {
    for name in daemon.running.programs() {
        match daemon.running.surviving_program(&name) {
            Some(child) if daemon.claim_start(&name) => watched(daemon, name, child),
            Some(_) => {}
            None => forget(daemon, &name),
        }
    }
}

fn forget(daemon: &Daemon, name: &Name) {
    if let Err(error) = daemon.running.program_ended(name) {
        daemon.warn("state", Some(error.to_string()));
    }
}

fn nobody(name: &Name) -> Reason {
    let text = format!(
        "no program listens to {name}; start one, or bind one with `irm bind program PATH --name {name} --auto`"
    );
    Reason::new(Code::NotFound, text)
}

/// Waits until the programs that were started here have ended, which they do with the daemon.
pub(crate) async fn all_ended(daemon: &Daemon) {
    let ended = async {
        while daemon.has_started() {
            tokio::time::sleep(POLL).await;
        }
    };
    // Then they have been killed.
    let _ = tokio::time::timeout(Duration::from_secs(4), ended).await;
}

fn watched(daemon: &Arc<Daemon>, name: Name, child: Child) {
    let daemon = daemon.clone();
    tokio::spawn(async move { watch(&daemon, &name, child).await });
}

/// Reaps the program; ends it with the daemon.
async fn watch(daemon: &Daemon, name: &Name, child: Child) {
    let shutdown = async {
        drop(
            daemon
                .ending
                .subscribe()
                .wait_for(|e| *e == Ending::Shutdown)
                .await,
        )
    };
    tokio::select! {
        () = child.wait() => {}
        () = shutdown => child.end(Duration::from_secs(3)).await,
    }
    forget(daemon, name);
    daemon.started(name);
}

const POLL: Duration = Duration::from_millis(20);
