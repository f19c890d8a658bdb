//! The service of IPC processes: the life of each is one stream, and its end the end of the process.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::ipcp::{Event, Notice, State};
use proto::irm::ipcp_event::Event as Pb;
use proto::irm::ipcps_server::Ipcps;
use proto::irm::{AttachWelcome, FlowInfo, IpcpCommand, IpcpEvent, IpcpHello, ipcp_command};
use proto::record::Peer;
use proto::{Code, FlowId, Label, Name, QosSpec, Reason};
use tonic::{Request, Response, Status, Streaming};

use crate::broker;
use crate::daemon::Daemon;
use crate::flows::{Carrier, Counters, Flow, Phase};
use crate::ipcps::{Ipcp, QUEUE};
use crate::running::Instance;
use crate::stream::{self, Commands, Sender, caller};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) Arc<Daemon>);

#[tonic::async_trait]
impl Ipcps for Service {
    type AttachStream = Commands<IpcpCommand>;

    async fn attach(
        &self,
        request: Request<Streaming<IpcpEvent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        caller(&self.0, &request)?;
        let (daemon, events) = (self.0.clone(), request.into_inner());
        let serve = |tx| async move {
            let served = serve(&daemon, events, &tx).await;
            served.inspect_err(|reason| tracing::warn!(%reason, "an IPC process was refused"))
        };
        Ok(stream::open(&self.0, QUEUE, "refused.attach", serve))
    }
}

async fn serve(
    daemon: &Arc<Daemon>,
    mut events: Streaming<IpcpEvent>,
    tx: &Sender<IpcpCommand>,
) -> Result<(), Reason> {
    let hello = stream::hello(&mut events, |m| match m.event {
        Some(Pb::Hello(hello)) => Some(hello),
        _ => None,
    });
    let hello = hello.await?;
    let ipcp = admit(daemon, &hello)?;
    let attachment = welcome(daemon, &ipcp, hello, tx)?;
    let _life = Life {
        daemon,
        ipcp: ipcp.clone(),
        attachment,
    };
    while let Some(message) = stream::next(&mut events).await? {
        match Event::from_message(message) {
            Ok(Some(event)) => handle(daemon, &ipcp, event),
            Ok(None) => return Err(Reason::new(Code::Usage, "an attachment says hello once")),
            Err(bad) => {
                daemon.tally.add("drop.malformed_event");
                tracing::warn!(ipcp = %ipcp.name, %bad, "an event was dropped");
            }
        }
    }
    Ok(())
}

fn admit(daemon: &Arc<Daemon>, hello: &IpcpHello) -> Result<Arc<Ipcp>, Reason> {
    if hello.version != VERSION {
        let text = format!(
            "IPC process {:?} speaks version {}, irmd {VERSION}; install one version of all programs",
            hello.name, hello.version
        );
        return Err(Reason::new(Code::Failed, text));
    }
    match daemon.running.who(&hello.secret) {
        Some(Instance::Ipcp(name)) if name.as_str() == hello.name => daemon.ipcp(&name),
        _ => Err(Reason::new(
            Code::Denied,
            format!(
                "{:?} shows no secret of a process that irmd started under this name",
                hello.name
            ),
        )),
    }
}

fn welcome(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    hello: IpcpHello,
    tx: &Sender<IpcpCommand>,
) -> Result<u64, Reason> {
    let names = hello
        .names
        .into_iter()
        .map(Name::new)
        .collect::<Result<BTreeSet<_>, _>>()?;
    let layer = (!hello.layer.is_empty())
        .then(|| Label::new(hello.layer))
        .transpose()?;
    let flows = match layer.clone().or_else(|| ipcp.layer()) {
        Some(layer) => from_before(ipcp, &layer, hello.flows)?,
        None => Vec::new(),
    };
    let welcome = ipcp_command::Command::Welcome(AttachWelcome {
        irmd_version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    // The queue is new and empty.
    let _ = tx.try_send(Ok(IpcpCommand {
        id: 0,
        command: Some(welcome),
    }));
    let attachment = ipcp.attach(tx.clone(), hello.data_socket, names);
    ipcp.inner().tells_members = hello.tells_members;
    if let Some(layer) = &layer {
        ipcp.inner().layer = Some(layer.clone());
    }
    for (id, flow) in flows {
        if !daemon.flows().adopt(id, flow) {
            daemon.tally.add("refused.flow_from_before");
        }
    }
    // A process that says no state has yet to be told who it is; and so has a new one that finds its layer on the disk.
    let state = State::from_word(&hello.state);
    let fresh = ipcp.inner().fresh;
    ipcp.seen.send_modify(|seen| {
        seen.attached = attachment;
        seen.configured = !fresh && state.is_some() && layer.is_some();
        seen.state = state.unwrap_or_default();
        seen.detail.clear();
    });
    daemon.events.emit(
        "ipcp.attached",
        format!("IPC process {} is attached", ipcp.name),
        &[("ipcp", ipcp.name.as_str())],
    );
    daemon.reconcile.notify_one();
    daemon.members.send_replace(());
    Ok(attachment)
}

/// Flows that outlived an earlier daemon.
fn from_before(
    ipcp: &Ipcp,
    layer: &Label,
    flows: Vec<FlowInfo>,
) -> Result<Vec<(FlowId, Flow)>, Reason> {
    let flow = |info: FlowInfo| {
        let flow = Flow {
            name: Name::new(info.name)?,
            qos: info
                .qos
                .map(QosSpec::try_from)
                .transpose()?
                .unwrap_or_default(),
            peer: info
                .peer
                .map(Peer::try_from)
                .transpose()?
                .unwrap_or_default(),
            uid: info.uid,
            incoming: info.incoming,
            carrier: Carrier::Ipcp(ipcp.name.clone(), layer.clone()),
            phase: Phase::Allocated,
            counters: Counters::default(),
        };
        Ok((FlowId(info.id), flow))
    };
    flows.into_iter().map(flow).collect()
}

fn handle(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>, event: Event) {
    match event {
        Event::Done(id, answer) => {
            if !ipcp.answered(id, answer) {
                tracing::trace!(ipcp = %ipcp.name, id, "nobody waits for this answer");
            }
        }
        Event::FlowRequest(request) => {
            let (daemon, ipcp) = (daemon.clone(), ipcp.clone());
            tokio::spawn(async move { broker::incoming(&daemon, &ipcp, request).await });
        }
        Event::FlowDown(id, reason) => {
            let mine = daemon.flows().get(id).is_some_and(
                |f| matches!(&f.carrier, Carrier::Ipcp(name, _) if *name == ipcp.name),
            );
            let flow = if mine {
                daemon.flows().remove(id)
            } else {
                None
            };
            if let Some((_, (_, tx))) = daemon.offers.remove_if(&id, |_, _| mine) {
                // Nobody waits any more: then nobody needs the reason.
                let _ = tx.send(Err(reason.clone()));
            }
            if let Some(flow) = flow {
                daemon.flow_event("flow.down", id, &flow, &reason.text);
            }
        }
        Event::State(state, detail) => {
            let text = format!(
                "IPC process {} is {}{}{detail}",
                ipcp.name,
                state.word(),
                if detail.is_empty() { "" } else { ": " }
            );
            ipcp.set_state(state, detail);
            ipcp.inner().moved = true;
            daemon.events.emit(
                "ipcp.state",
                text,
                &[("ipcp", ipcp.name.as_str()), ("state", state.word())],
            );
            daemon.reconcile.notify_one();
            daemon.members.send_replace(());
        }
        Event::Notice(notice) => heed(daemon, ipcp, &notice),
        Event::Members => {
            daemon.members.send_replace(());
        }
    }
}

fn heed(daemon: &Arc<Daemon>, ipcp: &Ipcp, notice: &Notice) {
    {
        let warnings = &mut ipcp.inner().warnings;
        let subject = subject(notice);
        if !notice.warning {
            warnings.remove(&subject);
        } else if warnings.len() < WARNINGS || warnings.contains_key(&subject) {
            warnings.insert(subject, notice.text.clone());
        }
    }
    let mut fields: Vec<(&str, &str)> = notice
        .fields
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    fields.push(("ipcp", ipcp.name.as_str()));
    let text = notice.text.clone();
    if notice.warning {
        daemon.events.warn(&notice.kind, text, &fields);
    } else {
        daemon.events.emit(&notice.kind, text, &fields);
    }
}

/// What a notice is about: `certificate.renewed` takes the warning of `certificate.ends` of the same member away.
fn subject(notice: &Notice) -> String {
    let what = notice.kind.split('.').next().unwrap_or_default();
    let member = notice.fields.iter().find(|(key, _)| key == "member");
    format!("{what}/{}", member.map_or("", |(_, member)| member))
}

/// Ends an attachment, however it ended.
struct Life<'a> {
    daemon: &'a Arc<Daemon>,
    ipcp: Arc<Ipcp>,
    attachment: u64,
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        if self.ipcp.detach(self.attachment) {
            let name = self.ipcp.name.as_str();
            self.daemon.events.emit(
                "ipcp.detached",
                format!("IPC process {name} is no longer attached"),
                &[("ipcp", name)],
            );
        }
    }
}

/// The version of the attachment that this daemon speaks.
const VERSION: u32 = 1;
/// How many kinds of warnings of one process are kept.
const WARNINGS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_word_on_the_same_subject_takes_a_warning_away() {
        let notice = |kind: &str, member: &str| Notice {
            kind: kind.to_owned(),
            text: String::new(),
            fields: vec![("member".to_owned(), member.to_owned())],
            warning: false,
        };
        let ends = subject(&notice("certificate.ends", "b"));
        assert_eq!(ends, subject(&notice("certificate.renewed", "b")));
        assert_ne!(ends, subject(&notice("certificate.renewed", "c")));
        assert_ne!(ends, subject(&notice("neighbour.up", "b")));
    }
}
