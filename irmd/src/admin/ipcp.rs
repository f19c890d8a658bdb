//! What an administrator does with IPC processes. The same again succeeds; other arguments for the same thing are a conflict.

use std::sync::Arc;
use std::time::Duration;

use proto::ipcp::{Answer, Bootstrap, Command, Configured, Enroll, Entry, Host, Settings, State};
use proto::irm::IpcpInfo;
use proto::{Code, Label, Reason};

use crate::daemon::{COMMAND, Daemon};
use crate::invitation::Open;
use crate::ipcps::Ipcp;
use crate::policy;
use crate::spec::{Kind, Role, Spec};
use crate::{life, reach, status, supervise};

/// Creates an IPC process, or finds the one that is there; says whether it is new.
pub(crate) async fn create(
    daemon: &Arc<Daemon>,
    name: &Label,
    kind: Option<Kind>,
) -> Result<(Arc<Ipcp>, bool), Reason> {
    let known = daemon.ipcps.get(name).map(|i| i.value().clone());
    if let Some(ipcp) = known {
        return match kind {
            Some(kind) if kind != ipcp.kind => Err(Reason::new(
                Code::Conflict,
                format!(
                    "IPC process {name} exists with type {}; destroy it first, or choose another name",
                    ipcp.kind.word()
                ),
            )),
            Some(_) | None => Ok((ipcp, false)),
        };
    }
    let Some(kind) = kind else {
        let text = format!(
            "no IPC process {name} on this host; give --type shim-udp or unicast to create it"
        );
        return Err(Reason::new(Code::NotFound, text));
    };
    if daemon.registry().knows(&name.to_name()) {
        return Err(Reason::new(
            Code::Conflict,
            format!("{name} is the name of a program already; choose another"),
        ));
    }
    let ipcp = Arc::new(Ipcp::new(
        name.clone(),
        Spec {
            kind,
            ..Spec::default()
        },
    ));
    daemon.ipcps.insert(name.clone(), ipcp.clone());
    if let Err(reason) = daemon.save_specs() {
        daemon.ipcps.remove(name);
        return Err(reason);
    }
    supervise::start(daemon, ipcp.clone());
    if let Err(reason) = ipcp.ready(START).await {
        destroy(daemon, &ipcp, true).await?;
        return Err(reason);
    }
    daemon.events.emit(
        "ipcp.created",
        format!("IPC process {name} was created"),
        &[("ipcp", name.as_str())],
    );
    Ok((ipcp, true))
}

/// Ends an IPC process and forgets it with its files.
pub(crate) async fn destroy(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    force: bool,
) -> Result<(), Reason> {
    if !force {
        keep_authority(daemon, ipcp).await?;
    }
    life::stop(ipcp).await;
    daemon.ipcps.remove(&ipcp.name);
    daemon.save_specs()?;
    let files = daemon.dirs.state.join("ipcps").join(ipcp.name.as_str());
    match std::fs::remove_dir_all(&files) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Reason::new(
                Code::Failed,
                format!("cannot remove {}: {e}; remove it by hand", files.display()),
            ));
        }
        Ok(()) | Err(_) => {}
    }
    daemon.events.emit(
        "ipcp.destroyed",
        format!("IPC process {} was destroyed", ipcp.name),
        &[("ipcp", ipcp.name.as_str())],
    );
    daemon.reconcile.notify_one();
    Ok(())
}

/// Refuses to lose the key of a layer that has other members, or may have: right after its start a holder sees nobody.
async fn keep_authority(daemon: &Daemon, ipcp: &Ipcp) -> Result<(), Reason> {
    let name = &ipcp.name;
    let Some(status) = status::ask(ipcp).await else {
        let kept = daemon.dirs.state.join("ipcps").join(name.as_str());
        if !kept.join("authority").exists() {
            return Ok(());
        }
        let text = format!(
            "{name} holds the authority of its layer and doesn't say whether others are in it; wait until it is up, or give --force"
        );
        return Err(Reason::new(Code::Conflict, text));
    };
    let set = |key: &str| status.settings.get(key).map(String::as_str);
    let alone = status.members.len() <= 1 && set("alone") == Some("true");
    if set("authority") != Some("root") || alone {
        return Ok(());
    }
    Err(Reason::new(
        Code::Conflict,
        format!(
            "{name} holds the authority of {layer}, without which nobody can be invited or revoked; irm layer export {layer} first, or give --force",
            layer = status.layer
        ),
    ))
}

/// Makes an IPC process the first member of its layer, or a shim.
pub(crate) async fn bootstrap(
    daemon: &Arc<Daemon>,
    name: &Label,
    kind: Option<Kind>,
    mut config: Bootstrap,
) -> Result<IpcpInfo, Reason> {
    let named = std::mem::take(&mut config.over);
    let (ipcp, new) = create(daemon, name, kind).await?;
    let done = bootstrap_created(daemon, &ipcp, named, config).await;
    finish(daemon, &ipcp, new, done).await
}

async fn bootstrap_created(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    named: Vec<Label>,
    mut config: Bootstrap,
) -> Result<(), Reason> {
    // Told once, and kept nowhere.
    let passphrase = config.passphrase.take();
    if let Role::First(before) = &ipcp.inner().spec.role
        && config.pools.is_none()
        && before.prefixes.is_empty()
    {
        // A layer that was made before there were pools has none.
        config.pools.clone_from(&before.pools);
    }
    let layer = config.layer.clone();
    match (ipcp.kind, config.shim_udp.is_some()) {
        (Kind::ShimUdp, false) => {
            return Err(Reason::new(
                Code::Usage,
                "the field shim_udp is missing; give --ip ADDR or --ip dev:INTERFACE",
            ));
        }
        (Kind::Unicast, true) => {
            return Err(Reason::new(
                Code::Usage,
                "--ip, --port and the like are for a shim-udp, not for a unicast IPC process",
            ));
        }
        (Kind::ShimUdp, true) | (Kind::Unicast, false) => {}
    }
    let before = ipcp.inner().spec.clone();
    let after = Spec {
        layer: Some(layer.clone()),
        role: Role::First(Box::new(config.clone())),
        over: named.clone(),
        ..before.clone()
    };
    if before.role != Role::None {
        if after == before {
            return Ok(());
        }
        return Err(other_arguments(ipcp));
    }
    may_join(daemon, ipcp, &layer, &named)?;
    {
        let mut inner = ipcp.inner();
        (inner.spec.over, inner.layer) = (named.clone(), Some(layer.clone()));
    }
    let over = daemon.over(ipcp);
    let asked = Bootstrap {
        over,
        passphrase,
        ..config
    };
    let follows = asked
        .shim_udp
        .as_ref()
        .is_some_and(|s| s.ip.fixed().is_none());
    let answer = ask_bootstrap(ipcp, Command::Bootstrap(asked)).await;
    let done = settle(daemon, ipcp, answer, |spec| {
        (spec.layer, spec.role, spec.over) = (after.layer, after.role, after.over)
    })
    .await;
    if done.is_err() {
        let mut inner = ipcp.inner();
        (inner.spec, inner.layer) = (before, None);
    } else if follows {
        found(ipcp).await;
    }
    done
}

/// Waits until a shim has found the address of its interface or says why it has none, so that an invitation right after knows it.
async fn found(ipcp: &Ipcp) {
    let mut seen = ipcp.seen.subscribe();
    let found = seen.wait_for(|s| s.state == State::Up || !s.detail.is_empty());
    // Without a word it goes on by itself.
    let _ = tokio::time::timeout(FOUND, found).await;
}

/// A shim whose address is not there yet says `waiting`, which is good enough: it goes on by itself.
async fn ask_bootstrap(ipcp: &Ipcp, command: Command) -> Result<Option<Configured>, Reason> {
    let mut seen = ipcp.seen.subscribe();
    seen.mark_unchanged();
    let waits = async {
        loop {
            if seen.changed().await.is_err() {
                return std::future::pending().await;
            }
            let now = seen.borrow_and_update().clone();
            if ipcp.kind == Kind::ShimUdp && now.state == State::Waiting && !now.detail.is_empty() {
                return;
            }
        }
    };
    tokio::select! {
        answer = ipcp.call(command, BOOTSTRAP) => configured(ipcp, answer?).map(Some),
        () = waits => Ok(None),
    }
}

/// Joins a layer, by invitation or by a certificate of the site.
pub(crate) async fn enroll(
    daemon: &Arc<Daemon>,
    name: &Label,
    kind: Option<Kind>,
    mut config: Enroll,
) -> Result<IpcpInfo, Reason> {
    let open = match &config.entry {
        Entry::Invitation(url) => Open::read(url),
        Entry::Certificate { layer, .. } => Open {
            layer: Some(layer.clone()),
            hosts: Vec::new(),
        },
        Entry::Rejoin => {
            return Err(Reason::new(
                Code::Usage,
                "the field invitation is missing; give --invite URL, or --layer L --dst MEMBER",
            ));
        }
    };
    if config.timeout_ms == 0 {
        config.timeout_ms = ENROLL_MS;
    }
    let (ipcp, new) = create(daemon, name, kind).await?;
    let done = enroll_created(daemon, &ipcp, open, config).await;
    finish(daemon, &ipcp, new, done).await
}

async fn enroll_created(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    open: Open,
    mut config: Enroll,
) -> Result<(), Reason> {
    if ipcp.kind != Kind::Unicast {
        return Err(Reason::new(
            Code::Usage,
            format!(
                "{} is a shim; shims do not enrol, bootstrap it with --ip",
                ipcp.name
            ),
        ));
    }
    let named = std::mem::take(&mut config.over);
    let before = ipcp.inner().spec.clone();
    if before.role != Role::None {
        let same = before.role == Role::Member
            && (open.layer.is_none() || before.layer == open.layer)
            && before.over == named;
        if !same {
            return Err(other_arguments(ipcp));
        }
        // One that was revoked is made a member anew, and one of the site's own PKI may get another certificate.
        let another = matches!(config.entry, Entry::Certificate { .. }) && ipcp.is_attached();
        if !ipcp.was_revoked() && !another {
            return Ok(());
        }
    }
    if let Some(layer) = &open.layer {
        may_join(daemon, ipcp, layer, &named)?;
    }
    ipcp.inner().spec.over.clone_from(&named);
    let over = daemon.over(ipcp);
    place_hints(daemon, &over, &open.hosts).await?;
    // The IPC process's own deadline comes first, since it knows more to say.
    let timeout = Duration::from_millis(config.timeout_ms) + Duration::from_secs(1);
    // Known from now on, so that its name is registered in the layers below: other members may want to reach it.
    ipcp.inner().layer.clone_from(&open.layer);
    let answer = ipcp
        .call(Command::Enroll(Enroll { over, ..config }), timeout)
        .await;
    let answer = answer.and_then(|a| configured(ipcp, a)).map(Some);
    let done = settle(daemon, ipcp, answer, |spec| {
        (spec.role, spec.over) = (Role::Member, named)
    })
    .await;
    if done.is_err() {
        let mut inner = ipcp.inner();
        let layer = before.layer.clone();
        (inner.spec, inner.layer) = (before, layer);
    }
    done
}

/// Lets the shims below find the members that an invitation names, but for those that they were made with. A newer
/// invitation knows better than an older one.
async fn place_hints(daemon: &Arc<Daemon>, over: &[Label], hosts: &[Host]) -> Result<(), Reason> {
    for shim in daemon
        .ipcps()
        .into_iter()
        .filter(|i| i.kind == Kind::ShimUdp)
    {
        if !shim.layer().is_some_and(|l| over.contains(&l)) {
            continue;
        }
        let known: Vec<Host> = match &shim.inner().spec.role {
            Role::First(b) => b
                .shim_udp
                .as_ref()
                .map_or_else(Vec::new, |s| s.hosts.clone()),
            Role::None | Role::Member => Vec::new(),
        };
        let news = |host: &&Host| known.iter().all(|k| k.name != host.name);
        let hosts: Vec<Host> = hosts.iter().filter(news).cloned().collect();
        if !hosts.is_empty() {
            set(
                daemon,
                &shim,
                Settings {
                    hosts,
                    ..Settings::default()
                },
            )
            .await?;
        }
    }
    Ok(())
}

/// Changes settings while it runs.
pub(crate) async fn set(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    settings: Settings,
) -> Result<IpcpInfo, Reason> {
    if ipcp.kind == Kind::Unicast
        && !settings.over.is_empty()
        && let Some(layer) = ipcp.layer()
    {
        lies_well(daemon, ipcp, &layer, &settings.over)?;
    }
    ipcp.call(Command::Set(settings.clone()), COMMAND).await?;
    ipcp.inner().spec.merge(&settings);
    daemon.save_specs()?;
    if ipcp.kind == Kind::ShimUdp && !settings.offload.is_empty() {
        reach::switched(daemon, ipcp).await;
    }
    daemon.reconcile.notify_one();
    Ok(status::ipcp_info(daemon, ipcp, None))
}

/// Keeps or gives up an adjacency.
pub(crate) async fn connect(
    daemon: &Arc<Daemon>,
    ipcp: &Ipcp,
    member: Label,
    off: bool,
    timeout: Duration,
) -> Result<(), Reason> {
    let command = if off {
        Command::Disconnect(member.clone())
    } else {
        Command::Connect(member.clone(), Some(timeout))
    };
    // The IPC process's own deadline comes first, since it knows more to say.
    ipcp.call(command, timeout + Duration::from_secs(1)).await?;
    {
        let wanted = &mut ipcp.inner().spec.connect;
        wanted.retain(|m| *m != member);
        if !off {
            wanted.push(member);
        }
    }
    daemon.save_specs()
}

/// May this process become the host's member of the layer, over these?
fn may_join(daemon: &Daemon, ipcp: &Ipcp, layer: &Label, over: &[Label]) -> Result<(), Reason> {
    if let Ok(other) = daemon.in_layer(layer)
        && other.name != ipcp.name
    {
        let text = format!(
            "layer {layer} has IPC process {} on this host already; destroy that first, or choose another layer",
            other.name
        );
        return Err(Reason::new(Code::Conflict, text));
    }
    lies_well(daemon, ipcp, layer, over)
}

fn lies_well(daemon: &Daemon, ipcp: &Ipcp, layer: &Label, over: &[Label]) -> Result<(), Reason> {
    let all = daemon.ipcps();
    let below: Vec<(Label, Vec<Label>)> = all
        .iter()
        .filter(|i| i.name != ipcp.name)
        .filter_map(|i| Some((i.layer()?, daemon.over(i))))
        .collect();
    policy::no_cycle(layer, over, |l| {
        below
            .iter()
            .filter(|(upper, _)| upper == l)
            .flat_map(|(_, over)| over)
            .collect()
    })?;
    for lower in over {
        daemon.in_layer(lower)?;
    }
    Ok(())
}

/// Keeps what an IPC process has agreed to be.
async fn settle(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    answer: Result<Option<Configured>, Reason>,
    change: impl FnOnce(&mut Spec),
) -> Result<(), Reason> {
    let who = answer?;
    {
        let mut inner = ipcp.inner();
        change(&mut inner.spec);
        if let Some(who) = who {
            inner.address = who.address;
            inner.spec.layer = Some(who.layer);
        }
        inner.layer = inner.spec.layer.clone();
    }
    daemon.save_specs()?;
    supervise::configured(daemon, ipcp).await;
    daemon.reconcile_names(ipcp).await;
    Ok(())
}

/// What was created for a command that failed goes again.
async fn finish(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    new: bool,
    done: Result<(), Reason>,
) -> Result<IpcpInfo, Reason> {
    if let Err(reason) = done {
        if new {
            destroy(daemon, ipcp, true).await?;
        }
        return Err(reason);
    }
    Ok(status::ipcp_info(daemon, ipcp, None))
}

fn configured(ipcp: &Ipcp, answer: Answer) -> Result<Configured, Reason> {
    let Answer::Configured(who) = answer else {
        let text = format!(
            "IPC process {} did not say who it is; report this",
            ipcp.name
        );
        return Err(Reason::new(Code::PeerMisbehaved, text));
    };
    Ok(who)
}

fn other_arguments(ipcp: &Ipcp) -> Reason {
    let layer = ipcp.layer().map(|l| l.to_string()).unwrap_or_default();
    let text = format!(
        "IPC process {} is in layer {layer} already, with other arguments; destroy it first, or change it with `irm ipcp set`",
        ipcp.name
    );
    Reason::new(Code::Conflict, text)
}

/// How long a new process may take until it can be told what to be.
const START: Duration = Duration::from_secs(10);
/// How long it may take to become the first member.
const BOOTSTRAP: Duration = Duration::from_secs(10);
/// How long a shim may take to find its address before whoever bootstrapped it goes on.
const FOUND: Duration = Duration::from_secs(3);
/// How long enrolment may take unless the caller says otherwise.
const ENROLL_MS: u64 = 30_000;
