//! Programs that are started when somebody asks for their name.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Code, Name, Reason};

use crate::daemon::{Daemon, Ending};
use crate::process::Child;
use crate::registry::Listener;

/// A listener for the name: of a program that is bound to it with `--auto` and started for this. `NotFound` if there is none.
pub(crate) async fn listener(
    daemon: &Arc<Daemon>,
    name: &Name,
    deadline: Instant,
) -> Result<Listener, Reason> {
    let Some((program, args)) = daemon.registry().auto(name) else {
        return Err(Reason::new(
            Code::NotFound,
            format!(
                "no program listens to {name}; start one, or bind one with `irm bind program PATH --name {name} --auto`"
            ),
        ));
    };
    if daemon.claim_start(name) {
        let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        match Child::spawn(&program, &args, &daemon.dirs.run, &[]) {
            Ok(child) => {
                daemon.events.emit(
                    "program.started",
                    format!("{} was started for {name}", program.display()),
                    &[("name", name.as_str())],
                );
                let (daemon, name) = (daemon.clone(), name.clone());
                tokio::spawn(async move { watch(&daemon, &name, child).await });
            }
            Err(error) => {
                daemon.started(name);
                return Err(Reason::new(
                    Code::Failed,
                    format!(
                        "cannot start {} for {name}: {error}; mend it, or unbind it",
                        program.display()
                    ),
                ));
            }
        }
    }
    while Instant::now() < deadline {
        if let Some(listener) = daemon.registry().pick(name) {
            return Ok(listener);
        }
        tokio::time::sleep(POLL).await;
    }
    Err(Reason::new(
        Code::TimedOut,
        format!(
            "{} was started for {name} but did not listen in time",
            program.display()
        ),
    ))
}

/// Reaps the program; ends it with the daemon.
async fn watch(daemon: &Arc<Daemon>, name: &Name, child: Child) {
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
    daemon.started(name);
}

const POLL: Duration = Duration::from_millis(20);
