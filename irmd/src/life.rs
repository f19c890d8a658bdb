//! From the first line of the log to the last: what is started in which order, and how it all ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Dirs;
use crate::config::Config;
use crate::daemon::{Daemon, Ending};
use crate::ipcps::Ipcp;
use crate::running::Instance;
use crate::{autostart, config, process, reach, server, spec, supervise, vpns};

/// Runs the daemon until it is told to end.
pub(crate) async fn live(
    dirs: Dirs,
    exe: PathBuf,
    file: Option<PathBuf>,
    config: Option<Config>,
) -> anyhow::Result<Ending> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let daemon = Arc::new(Daemon::load(dirs, exe)?);
    let specs = spec::load(&daemon.store)?;
    for (name, spec) in specs {
        daemon
            .ipcps
            .insert(name.clone(), Arc::new(Ipcp::new(name, spec)));
    }
    vpns::load(&daemon)?;
    // The sockets stand before anybody is started who would look for them.
    server::start(&daemon)?;
    autostart::take_up(&daemon);
    end_strays(&daemon).await;
    for ipcp in daemon.ipcps() {
        supervise::start(&daemon, ipcp);
    }
    vpns::start_all(&daemon);
    tokio::spawn(tend(daemon.clone()));
    let mut applying = config.map(|c| tokio::spawn(config::apply(daemon.clone(), c)));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    daemon.events.emit(
        "irmd.up",
        format!(
            "irmd {} serves {}",
            env!("CARGO_PKG_VERSION"),
            daemon.dirs.run.display()
        ),
        &[],
    );
    let mut ending = daemon.ending.subscribe();
    let how = loop {
        tokio::select! {
            _ = term.recv() => break Ending::Shutdown,
            _ = interrupt.recv() => break Ending::Shutdown,
            _ = hangup.recv() => reload(&daemon, file.as_deref(), &mut applying),
            Ok(how) = ending.wait_for(|e| *e != Ending::No) => break *how,
        }
    };
    daemon.ending.send_replace(how);
    if let Some(applying) = applying {
        applying.abort();
    }
    if how == Ending::Shutdown {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        end(&daemon).await;
    } else {
        // The answer to who asked is still on its way.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(how)
}

/// Replaces this process by a new daemon; returns only if that fails, with the reason.
pub(crate) fn again(exe: &Path) -> String {
    let error = std::process::Command::new(exe)
        .args(std::env::args_os().skip(1))
        .exec();
    format!(
        "cannot start {} again: {error}; start irmd by hand",
        exe.display()
    )
}

fn reload(
    daemon: &Arc<Daemon>,
    file: Option<&Path>,
    applying: &mut Option<tokio::task::JoinHandle<()>>,
) {
    let Some(file) = file else { return };
    match Config::read(file) {
        Ok(config) => {
            if let Some(old) = applying.take() {
                old.abort();
            }
            daemon.warn("config", None);
            daemon.events.emit(
                "config.reloaded",
                format!("{} was read again", file.display()),
                &[],
            );
            *applying = Some(tokio::spawn(config::apply(daemon.clone(), config)));
        }
        Err(error) => daemon.warn("config", Some(error.to_string())),
    }
}

/// Ends children of an earlier daemon that the state no longer speaks of.
async fn end_strays(daemon: &Arc<Daemon>) {
    let strays = daemon.running.strays(|i| match i {
        Instance::Ipcp(name) => daemon.ipcps.contains_key(name),
        Instance::Vpn(dev) => daemon.vpns.contains_key(dev),
    });
    for stray in strays {
        if let Some(child) = daemon.running.survivor(&stray) {
            child.end(Duration::from_secs(2)).await;
        }
        if let Err(error) = daemon.running.ended(&stray) {
            daemon.warn("state", Some(error.to_string()));
        }
    }
}

/// Keeps registrations as they should be, reaps, and takes out what nobody answered.
async fn tend(daemon: Arc<Daemon>) {
    let mut children = signal(SignalKind::child()).ok();
    let mut done = false;
    loop {
        let again = if done { SELDOM } else { SOON };
        tokio::select! {
            () = daemon.reconcile.notified() => {}
            Some(()) = async { children.as_mut()?.recv().await } => {}
            () = tokio::time::sleep(again) => {}
        }
        // Programs that a daemon before this one (same process) started are reaped by nobody else; those that
        // somebody watches are watched through their pidfd, which does not need the status.
        while waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
            .is_ok_and(|s| s.is_some())
        {}
        let late = daemon.flows().expire(std::time::Instant::now());
        for (id, _) in late {
            daemon.offers.remove(&id);
            daemon.tally.add("expired.flow");
        }
        // Who comes back after a restart has its names kept until then.
        done = !daemon.is_recovering();
        let all = daemon.ipcps();
        for (ipcp, told, refused) in join_all(all.iter().map(|i| async {
            let told = reach::tell(&daemon, i).await;
            (i.clone(), told, daemon.reconcile_names(i).await)
        }))
        .await
        {
            done &= told && refused.is_empty();
            let text = refused
                .iter()
                .map(|(n, r)| format!("{n} is not registered by {}: {r}", ipcp.name))
                .min();
            daemon.warn(&format!("register.{}", ipcp.name), text);
        }
    }
}

/// Ends all that was started, upper before lower, those that have nothing to do with each other at once.
async fn end(daemon: &Arc<Daemon>) {
    tokio::join!(vpns::end_all(daemon), autostart::all_ended(daemon));
    let rounds = rounds(daemon);
    let patience = STOP / u32::try_from(rounds.len().max(1)).unwrap_or(u32::MAX);
    for round in rounds {
        for ipcp in &round {
            let usual = ipcp.inner().patience;
            ipcp.inner().patience = usual.min(patience);
        }
        join_all(round.iter().map(|ipcp| stop(ipcp))).await;
    }
    for sock in [daemon.dirs.irm_sock(), daemon.dirs.admin_sock()] {
        if let Err(error) = std::fs::remove_file(&sock) {
            tracing::debug!(%error, path = %sock.display(), "socket not removed");
        }
    }
    server::sweep(&daemon.dirs);
}

/// The IPC processes in the order in which they are to end: each round holds those that no process of a later one uses.
fn rounds(daemon: &Daemon) -> Vec<Vec<Arc<Ipcp>>> {
    let mut left = daemon.ipcps();
    let mut rounds = Vec::new();
    while !left.is_empty() {
        let below: Vec<_> = left.iter().flat_map(|i| daemon.over(i)).collect();
        let is_top = |i: &Arc<Ipcp>| !i.layer().is_some_and(|layer| below.contains(&layer));
        let (mut top, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(is_top);
        left = rest;
        if top.is_empty() {
            // Layers never lie in a ring; if they did, all of them would end at once.
            top.append(&mut left);
        }
        rounds.push(top);
    }
    rounds
}

/// Stops one process and waits for its end.
pub(crate) async fn stop(ipcp: &Ipcp) {
    ipcp.stop.send_replace(true);
    // Its task ends it within bounds of its own.
    let _ = tokio::time::timeout(Duration::from_secs(7), process::set(&ipcp.gone)).await;
}

/// How long all IPC processes together may take to end in good order.
const STOP: Duration = Duration::from_secs(6);

/// When what failed is tried again, and how long nothing is looked at where nothing failed: by then at the latest whoever waits
/// for an answer that does not come hears so.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);
