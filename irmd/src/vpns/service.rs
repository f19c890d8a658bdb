//! The service of vpn processes: what they say of themselves, and what they are told of their layer.

use std::sync::Arc;
use std::time::Duration;

use proto::ipcp::{Answer, Command};
use proto::irm::vpn_event::Event;
use proto::irm::vpns_server::Vpns;
use proto::irm::{VpnCommand, VpnConfig, VpnEvent, vpn_command};
use proto::{Code, Label, Reason};
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status, Streaming};

use super::{Vpn, VpnSpec, keep};
use crate::daemon::Daemon;
use crate::running::Instance;
use crate::stream::{self, Commands, Sender, caller};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) Arc<Daemon>);

#[tonic::async_trait]
impl Vpns for Service {
    type ServeStream = Commands<VpnCommand>;

    async fn serve(
        &self,
        request: Request<Streaming<VpnEvent>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        caller(&self.0, &request)?;
        let (daemon, events) = (self.0.clone(), request.into_inner());
        let serve = |tx| async move {
            let served = serve(&daemon, events, &tx).await;
            served.inspect_err(|reason| tracing::warn!(%reason, "a vpn process was refused"))
        };
        Ok(stream::open(&self.0, QUEUE, "refused.vpn", serve))
    }
}

async fn serve(
    daemon: &Arc<Daemon>,
    mut events: Streaming<VpnEvent>,
    tx: &Sender<VpnCommand>,
) -> Result<(), Reason> {
    let hello = stream::hello(&mut events, |m| match m.event {
        Some(Event::Hello(hello)) => Some(hello),
        _ => None,
    });
    let hello = hello.await?;
    let found = match daemon.running.who(&hello.secret) {
        Some(Instance::Vpn(dev)) => daemon.vpns.get(&dev).map(|v| v.value().clone()),
        Some(Instance::Ipcp(_)) | None => None,
    };
    let vpn = found.ok_or_else(|| {
        Reason::new(
            Code::Denied,
            "the secret is that of no vpn process which irmd started",
        )
    })?;
    vpn.change(|i| (i.tx, i.failure) = (Some(tx.clone()), None));
    let mut told = None;
    let mut changed = daemon.members.subscribe();
    let mut traffic = vpn.traffic.subscribe();
    let (mut at, mut soonest) = (Instant::now(), Instant::now());
    let end = loop {
        tokio::select! {
            message = stream::next(&mut events) => match message {
                Ok(Some(message)) => heard(daemon, &vpn, message),
                Ok(None) => break Ok(()),
                Err(reason) => break Err(reason),
            },
            Ok(()) = changed.changed() => at = at.min(soonest),
            Ok(()) = traffic.changed() => at = Instant::now(),
            () = sleep_until(at) => {
                let again = tell(daemon, &vpn, tx, &mut told).await;
                (soonest, at) = (Instant::now() + PAUSE, Instant::now() + again);
            }
        }
    };
    let mine = vpn
        .inner()
        .tx
        .as_ref()
        .is_some_and(|now| now.same_channel(tx));
    if mine {
        vpn.change(|i| (i.tx, i.info) = (None, None));
    }
    end
}

fn heard(daemon: &Arc<Daemon>, vpn: &Vpn, message: VpnEvent) {
    match message.event {
        Some(Event::Info(info)) => {
            let before = vpn.info().state;
            vpn.change(|i| (i.info, i.detail) = (Some(info), String::new()));
            let now = vpn.info();
            if now.state == "up"
                && let Err(reason) = keep(daemon, vpn)
            {
                daemon.warn("state", Some(reason.text));
            }
            if now.state != before {
                let text = format!("the VPN {} is {}", now.dev, now.state);
                daemon.events.emit(
                    &format!("vpn.{}", now.state),
                    text,
                    &[("dev", &now.dev), ("layer", &now.layer)],
                );
            }
        }
        Some(Event::Failed(failure)) => vpn.change(|i| i.failure = Some(failure.into())),
        Some(Event::Hello(_)) | None => daemon.tally.add("drop.malformed_event"),
    }
}

/// Tells the process what its layer looks like, if that has changed; when to look again though nothing is heard.
async fn tell(
    daemon: &Arc<Daemon>,
    vpn: &Vpn,
    tx: &Sender<VpnCommand>,
    told: &mut Option<VpnConfig>,
) -> Duration {
    match config(daemon, &vpn.wanted()).await {
        Ok((config, again)) if told.as_ref() == Some(&config) => return again,
        Ok((config, again)) => {
            let command = vpn_command::Command::Config(config.clone());
            if tx
                .try_send(Ok(VpnCommand {
                    command: Some(command),
                }))
                .is_ok()
            {
                *told = Some(config);
                return again;
            }
        }
        Err(reason) if told.is_none() => {
            vpn.change(|i| i.detail = format!("waits for layer {}: {reason}", vpn.spec.layer))
        }
        // The layer is restarting: what was said still holds.
        Err(_) => {}
    }
    PAUSE
}

/// What is to be told, and for how long that holds though nothing is heard.
async fn config(daemon: &Arc<Daemon>, spec: &VpnSpec) -> Result<(VpnConfig, Duration), Reason> {
    let ipcp = daemon.in_layer(&Label::new(spec.layer.clone())?)?;
    let again = if ipcp.inner().tells_members {
        SELDOM
    } else {
        PAUSE
    };
    let Answer::Status(status) = ipcp.call(Command::Status, Duration::from_secs(1)).await? else {
        return Err(ipcp.unreachable("it gave no status"));
    };
    if status.member.is_empty() {
        return Err(ipcp.unreachable("it is not yet a member of its layer"));
    }
    let mut members = status.members;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    if !spec.tap {
        // What is offered there is the other VPN's.
        spec.ways.offer(&ipcp, &status.member, &members).await?;
    }
    for member in &mut members {
        member.neighbours.sort();
    }
    let config = VpnConfig {
        layer: spec.layer.clone(),
        member: status.member,
        own_prefixes: status.prefixes,
        address: spec.address.clone(),
        dev: spec.dev.clone(),
        routes: spec.routes.clone(),
        tap: spec.tap,
        offload_tun: spec.offload_tun.clone(),
        members,
        ways: Some(spec.ways.to_message()),
        traffic: Some(spec.traffic.to_message()),
        filters: status.filters,
    };
    Ok((config, again))
}

/// Between two looks at a layer that changes, or at one that could not be asked.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at one that says nothing.
const SELDOM: Duration = Duration::from_secs(60);
/// How many commands may wait for a vpn process that doesn't read them.
const QUEUE: usize = 64;
