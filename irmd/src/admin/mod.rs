//! The service of administrators. Who can open the socket may call it: that is the kernel's check.

mod ipcp;
mod layer;
mod name;
mod wait;

use std::pin::Pin;
use std::sync::Arc;

use proto::ipcp::{Bootstrap, Enroll, Settings};
use proto::irm::admin_server::Admin;
use proto::irm::*;
use proto::{Code, FlowId, Label, Reason};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::daemon::{Daemon, Ending};
use crate::flows::Carrier;
use crate::spec::Kind;
use crate::{broker, metrics, status, vpns};

pub(crate) use ipcp::{bootstrap, connect, create, enroll, set};
pub(crate) use name::create as create_name;
pub(crate) use name::{bind, register};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) Arc<Daemon>);

type Answer<T> = Result<Response<T>, Status>;
type EventStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

#[tonic::async_trait]
impl Admin for Service {
    type EventsStream = EventStream;

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusReply> {
        Ok(Response::new(status::reply(&self.0).await))
    }

    async fn metrics(&self, _: Request<MetricsRequest>) -> Answer<MetricsReply> {
        let text = metrics::text(&status::reply(&self.0).await, crate::events::now());
        let text = text
            .map_err(|_| Reason::new(Code::Failed, "the metrics can't be written; report this"))?;
        Ok(Response::new(MetricsReply { text }))
    }

    async fn create_ipcp(&self, request: Request<CreateIpcpRequest>) -> Answer<IpcpReply> {
        let r = request.into_inner();
        let (name, kind) = (label("name", r.name)?, Kind::parse(&r.r#type)?);
        let (ipcp, _) = create(&self.0, &name, Some(kind)).await?;
        reply(status::ipcp_info(&self.0, &ipcp, None))
    }

    async fn bootstrap_ipcp(&self, request: Request<BootstrapIpcpRequest>) -> Answer<IpcpReply> {
        let r = request.into_inner();
        let config = Bootstrap::try_from(r.config.ok_or_else(|| missing("config"))?)?;
        reply(bootstrap(&self.0, &label("name", r.name)?, kind(&r.r#type)?, config).await?)
    }

    async fn enroll_ipcp(&self, request: Request<EnrollIpcpRequest>) -> Answer<IpcpReply> {
        let r = request.into_inner();
        let config = Enroll::try_from(r.config.ok_or_else(|| missing("config"))?)?;
        reply(enroll(&self.0, &label("name", r.name)?, kind(&r.r#type)?, config).await?)
    }

    async fn set_ipcp(&self, request: Request<SetIpcpRequest>) -> Answer<IpcpReply> {
        let r = request.into_inner();
        let settings = Settings::try_from(r.config.ok_or_else(|| missing("config"))?)?;
        let ipcp = self.0.ipcp(&label("name", r.name)?)?;
        reply(set(&self.0, &ipcp, settings).await?)
    }

    async fn connect_ipcp(&self, request: Request<ConnectIpcpRequest>) -> Answer<Empty> {
        let r = request.into_inner();
        let ipcp = self.0.ipcp(&label("name", r.name)?)?;
        let member = label("member", r.member)?;
        done(
            connect(
                &self.0,
                &ipcp,
                member,
                r.disconnect,
                broker::bounded(r.timeout_ms),
            )
            .await,
        )
    }

    async fn destroy_ipcp(&self, request: Request<IpcpRef>) -> Answer<Empty> {
        // One that is not there is as it was wanted.
        let r = request.into_inner();
        match self.0.ipcp(&label("name", r.name)?) {
            Ok(ipcp) => done(ipcp::destroy(&self.0, &ipcp, r.force).await),
            Err(_) => done(Ok(())),
        }
    }

    async fn list_ipcps(&self, _: Request<Empty>) -> Answer<IpcpList> {
        Ok(Response::new(IpcpList {
            ipcps: status::ipcps(&self.0).await,
        }))
    }

    async fn invite(&self, request: Request<InviteRequest>) -> Answer<InviteReply> {
        let url = layer::invite(&self.0, request.into_inner()).await?;
        Ok(Response::new(InviteReply { url }))
    }

    async fn authority(&self, request: Request<AuthorityRequest>) -> Answer<AuthorityReply> {
        let exported = layer::authority(&self.0, request.into_inner()).await?;
        Ok(Response::new(AuthorityReply { exported }))
    }

    async fn policy(&self, request: Request<PolicyRequest>) -> Answer<PolicyReply> {
        Ok(Response::new(
            layer::policy(&self.0, request.into_inner()).await?,
        ))
    }

    async fn layer(&self, request: Request<LayerRef>) -> Answer<LayerReply> {
        let layer = label("layer", request.into_inner().layer)?;
        Ok(Response::new(layer::describe(&self.0, &layer).await?))
    }

    async fn create_name(&self, request: Request<NameRef>) -> Answer<Empty> {
        done(create_name(&self.0, request.into_inner().name))
    }

    async fn destroy_name(&self, request: Request<NameRef>) -> Answer<Empty> {
        done(name::destroy(&self.0, request.into_inner().name))
    }

    async fn register_name(&self, request: Request<RegisterNameRequest>) -> Answer<Empty> {
        done(register(&self.0, request.into_inner()).await)
    }

    async fn unregister_name(&self, request: Request<RegisterNameRequest>) -> Answer<Empty> {
        done(name::unregister(&self.0, request.into_inner()).await)
    }

    async fn list_names(&self, _: Request<Empty>) -> Answer<NameList> {
        Ok(Response::new(NameList {
            names: status::names(&self.0),
        }))
    }

    async fn bind(&self, request: Request<BindRequest>) -> Answer<Empty> {
        done(bind(&self.0, request.into_inner()))
    }

    async fn unbind(&self, request: Request<BindRequest>) -> Answer<Empty> {
        done(name::unbind(&self.0, request.into_inner()))
    }

    async fn list_flows(&self, _: Request<Empty>) -> Answer<FlowList> {
        Ok(Response::new(FlowList {
            flows: status::flows(&self.0).await,
        }))
    }

    async fn dealloc_flow(&self, request: Request<FlowRef>) -> Answer<Empty> {
        match request.into_inner().flow {
            0 => done(Err(missing("flow"))),
            flow => done(dealloc(&self.0, FlowId(flow)).await),
        }
    }

    async fn vpn_up(&self, request: Request<VpnUpRequest>) -> Answer<VpnInfo> {
        Ok(Response::new(
            vpns::up(&self.0, request.into_inner()).await?,
        ))
    }

    async fn vpn_down(&self, request: Request<VpnRef>) -> Answer<Empty> {
        for vpn in chosen(&self.0, request.into_inner()) {
            vpns::down(&self.0, &vpn).await?;
        }
        done(Ok(()))
    }

    async fn vpn_status(&self, request: Request<VpnRef>) -> Answer<VpnList> {
        let chosen = chosen(&self.0, request.into_inner());
        let vpns = futures_util::future::join_all(chosen.iter().map(|v| v.fresh())).await;
        Ok(Response::new(VpnList { vpns }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Answer<Empty> {
        done(wait::wait(&self.0, request.into_inner()).await)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Answer<EventStream> {
        if request.into_inner().past {
            let past = self.0.events.past().into_iter().map(Ok);
            return Ok(Response::new(Box::pin(futures_util::stream::iter(past))));
        }
        Ok(Response::new(events(&self.0)))
    }

    async fn restart_daemon(&self, _: Request<Empty>) -> Answer<Empty> {
        self.0
            .events
            .emit("irmd.restart", "irmd restarts alone", &[]);
        self.0.ending.send_replace(Ending::Restart);
        done(Ok(()))
    }
}

async fn dealloc(daemon: &Arc<Daemon>, id: FlowId) -> Result<(), Reason> {
    let flow = daemon.flows().get(id).cloned();
    let flow = flow.ok_or_else(|| {
        Reason::new(
            Code::NotFound,
            format!("no flow {id} on this host; see `irm flow list`"),
        )
    })?;
    let reason = Reason::new(Code::Closed, "an administrator closed the flow");
    match flow.carrier {
        Carrier::Direct(session) => {
            if let Some(session) = daemon.session(session) {
                session.gone(id, reason.clone());
            }
            daemon.flows_down(|f| f == &flow, &reason);
        }
        Carrier::Ipcp(name, _) => {
            let ipcp = daemon.ipcp(&name)?;
            ipcp.call(
                proto::ipcp::Command::Dealloc(id, reason),
                crate::daemon::COMMAND,
            )
            .await?;
        }
    }
    Ok(())
}

fn chosen(daemon: &Daemon, which: VpnRef) -> Vec<Arc<vpns::Vpn>> {
    let fits = |asked: &str, own: &str| asked.is_empty() || asked == own;
    vpns::all(daemon)
        .into_iter()
        .filter(|v| fits(&which.layer, &v.spec.layer) && fits(&which.dev, &v.spec.dev))
        .collect()
}

fn events(daemon: &Arc<Daemon>) -> EventStream {
    let state = (daemon.events.listen(), daemon.ending.subscribe());
    Box::pin(futures_util::stream::unfold(
        state,
        |(mut events, mut ending)| async move {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(lost)) => {
                        let text = format!("{lost} events were lost: they were not read in time");
                        Event { time_ms: crate::events::unix_ms(), kind: "events.lost".to_owned(), text, ..Event::default() }
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = ending.wait_for(|e| *e != Ending::No) => return None,
            };
            Some((Ok(event), (events, ending)))
        },
    ))
}

fn kind(word: &str) -> Result<Option<Kind>, Reason> {
    if word.is_empty() {
        Ok(None)
    } else {
        Kind::parse(word).map(Some)
    }
}

fn label(field: &'static str, text: String) -> Result<Label, Reason> {
    if text.is_empty() {
        return Err(missing(field));
    }
    Label::new(text).map_err(|e| Reason::new(Code::Usage, format!("the field {field}: {e}")))
}

fn missing(field: &'static str) -> Reason {
    Reason::new(Code::Usage, format!("the field {field} is missing"))
}

fn reply(ipcp: IpcpInfo) -> Answer<IpcpReply> {
    Ok(Response::new(IpcpReply { ipcp: Some(ipcp) }))
}

fn done(result: Result<(), Reason>) -> Answer<Empty> {
    result?;
    Ok(Response::new(Empty {}))
}
