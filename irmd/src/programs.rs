//! The service of programs: sessions with their listeners, and allocation.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proto::ipcp::State;
use proto::irm::program_event::Event;
use proto::irm::programs_server::Programs;
use proto::irm::{
    AllocFlowRequest, DirectFlow, FlowAnswer, FlowEnd, Listen, Listening, ProgramCommand,
    ProgramEvent, ProgramHello, ProgramWelcome, program_command::Command,
};
use proto::record::Peer;
use proto::{Code, FlowId, Label, Name, QosSpec, Reason};
use tonic::{Request, Response, Status, Streaming};

use crate::broker::{self, Want};
use crate::daemon::Daemon;
use crate::flows::{Carrier, Counters, Flow, Phase};
use crate::limits;
use crate::policy;
use crate::registry::Listener;
use crate::running::Instance;
use crate::session::{Process, QUEUE, Session, SessionId, Who};
use crate::stream::{self, Commands, Sender, caller};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) Arc<Daemon>);

#[tonic::async_trait]
impl Programs for Service {
    type SessionStream = Commands<ProgramCommand>;

    async fn session(
        &self,
        request: Request<Streaming<ProgramEvent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let uid = caller(&self.0, &request)?;
        let (daemon, events) = (self.0.clone(), request.into_inner());
        let serve = move |tx| async move {
            let served = serve(&daemon, uid, events, tx).await;
            served.inspect_err(|reason| tracing::debug!(%reason, uid, "session ended"))
        };
        Ok(stream::open(&self.0, QUEUE, "refused.session", serve))
    }

    async fn alloc_flow(
        &self,
        request: Request<AllocFlowRequest>,
    ) -> Result<Response<FlowEnd>, Status> {
        let uid = caller(&self.0, &request)?;
        let request = request.into_inner();
        let Some((who, session)) = self.0.who(&request.session, uid) else {
            // As a broken transport says it: the program has yet to see that irmd was restarted, and tries again.
            return Err(Status::unavailable(
                "the session has ended or is another user's; open one again",
            ));
        };
        let want = parse(&self.0, uid, who, session.as_ref(), request)?;
        let end = broker::allocate(&self.0, want)
            .await
            .inspect_err(|_| self.0.tally.add("failed.allocation"))?;
        Ok(Response::new(end))
    }
}

fn parse(
    daemon: &Daemon,
    uid: u32,
    who: Who,
    session: Option<&Session>,
    r: AllocFlowRequest,
) -> Result<Want, Reason> {
    let label = |text: String| (!text.is_empty()).then(|| Label::new(text)).transpose();
    let qos = r
        .qos
        .ok_or_else(|| Reason::new(Code::Usage, "the field qos is missing"))?;
    let source = match (r.source.is_empty(), &who) {
        (true, Who::Ipcp(me)) => Some(me.to_name()),
        (true, _) => None,
        (false, _) => Some(attested(daemon, uid, &who, session, Name::new(r.source)?)?),
    };
    Ok(Want {
        at: places(&who, &r.at)?,
        name: Name::new(r.name)?,
        qos: QosSpec::try_from(qos)?,
        layer: label(r.layer)?,
        peer: label(r.peer_member)?,
        source,
        deadline: Instant::now() + broker::bounded(r.timeout_ms),
        uid,
        who,
    })
}

/// Where a caller says that the name's host may be. Only IPC processes know of such.
fn places(who: &Who, at: &[String]) -> Result<Vec<SocketAddr>, Reason> {
    if !at.is_empty() && !matches!(who, Who::Ipcp(_)) {
        let text = "only an IPC process may say where a name's host is; leave the field at out";
        return Err(Reason::new(Code::Denied, text));
    }
    let place = |text: &String| {
        text.parse().map_err(|_| {
            let text = format!("malformed message: the field at: {text:?} is no ADDR:PORT");
            Reason::new(Code::Usage, text)
        })
    };
    at.iter().map(place).collect()
}

/// A source name is given on only if the caller may listen to it, or somebody of the same user does.
fn attested(
    daemon: &Daemon,
    uid: u32,
    who: &Who,
    session: Option<&Session>,
    name: Name,
) -> Result<Name, Reason> {
    let theirs = match who {
        Who::Program => daemon.registry().goes_by(&name, uid),
        Who::Ipcp(_) | Who::Vpn(_) => {
            session.is_some() && policy::may_listen(who, &name, |n| daemon.is_ipcp(n)).is_ok()
        }
    };
    if theirs {
        return Ok(name);
    }
    let text = format!(
        "may not allocate as {name}: no program of user {uid} listens to it; listen to it first, or give no source"
    );
    Err(Reason::new(Code::Denied, text))
}

async fn serve(
    daemon: &Arc<Daemon>,
    uid: u32,
    mut events: Streaming<ProgramEvent>,
    tx: Sender<ProgramCommand>,
) -> Result<(), Reason> {
    let hello = stream::hello(&mut events, |m| match m.event {
        Some(Event::Hello(hello)) => Some(hello),
        _ => None,
    });
    let session = open(daemon, uid, hello.await?, tx)?;
    let _life = Life {
        daemon,
        id: session.id,
    };
    while let Some(message) = stream::next(&mut events).await? {
        let Some(event) = message.event else {
            return Err(Reason::new(
                Code::Usage,
                "malformed message: the field event is missing",
            ));
        };
        handle(daemon, &session, event).await?;
    }
    Ok(())
}

/// Ends what a session had, however it ended.
struct Life<'a> {
    daemon: &'a Arc<Daemon>,
    id: SessionId,
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        let d = self.daemon;
        d.sessions.remove(&self.id);
        d.registry().end_session(self.id);
        let reason = Reason::new(Code::Refused, "the program that accepts has ended");
        d.flows_down(|f| f.carrier == Carrier::Direct(self.id), &reason);
        // Dropping an offer's sender tells who waits for it.
        d.offers.retain(|_, (session, _)| *session != self.id);
        d.reconcile.notify_one();
    }
}

fn open(
    daemon: &Arc<Daemon>,
    uid: u32,
    hello: ProgramHello,
    tx: Sender<ProgramCommand>,
) -> Result<Session, Reason> {
    let who = match hello.secret.is_empty() {
        true => Who::Program,
        false => match daemon.running.who(&hello.secret) {
            Some(Instance::Ipcp(name)) => Who::Ipcp(name),
            Some(Instance::Vpn(dev)) => Who::Vpn(dev),
            None => {
                return Err(Reason::new(
                    Code::Denied,
                    "the secret is that of no process which irmd started",
                ));
            }
        },
    };
    if !hello.data_socket.is_empty()
        && (!hello.data_socket.starts_with('/') || hello.data_socket.len() > SOCKET_PATH)
    {
        return Err(Reason::new(
            Code::Usage,
            format!(
                "the field data_socket must be an absolute path of at most {SOCKET_PATH} bytes"
            ),
        ));
    }
    if daemon.sessions.iter().filter(|s| s.uid == uid).count() >= SESSIONS {
        daemon.limit(limits::SESSIONS);
        let text = format!("user {uid} has {SESSIONS} sessions already; end some of its programs");
        return Err(Reason::new(Code::Busy, text));
    }
    let session = Session {
        id: SessionId(daemon.random()?),
        uid,
        who,
        program: hello
            .program
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect(),
        process: Process::of(hello.pid, uid),
        data_socket: hello.data_socket,
        tx,
    };
    if hello.flows.len() > FLOWS {
        daemon.limit(limits::DIRECT_FLOWS);
        let text = format!("a program may have {FLOWS} direct flows at once; end some");
        return Err(Reason::new(Code::Busy, text));
    }
    let flows = hello.flows.into_iter();
    let flows: Vec<_> = flows
        .map(|f| from_before(&session, f))
        .collect::<Result<_, _>>()?;
    for (id, flow) in flows {
        if !daemon.flows().adopt(id, flow) {
            daemon.tally.add("refused.flow_from_before");
        }
    }
    daemon.sessions.insert(session.id, session.clone());
    let welcome = ProgramWelcome {
        irmd_version: env!("CARGO_PKG_VERSION").to_owned(),
        session: session.id.0.to_vec(),
    };
    session.send(Command::Welcome(welcome));
    Ok(session)
}

/// A direct flow that the program had accepted before, most likely from an earlier daemon.
fn from_before(session: &Session, f: DirectFlow) -> Result<(FlowId, Flow), Reason> {
    let optional = |text: String| (!text.is_empty()).then(|| Name::new(text)).transpose();
    let flow = Flow {
        name: Name::new(f.name)?,
        qos: f
            .qos
            .map(QosSpec::try_from)
            .transpose()?
            .unwrap_or_default(),
        peer: Peer {
            name: optional(f.peer_name)?,
            ..Peer::default()
        },
        uid: session.uid,
        incoming: true,
        carrier: Carrier::Direct(session.id),
        phase: Phase::Allocated,
        counters: Counters::default(),
    };
    Ok((FlowId(f.flow), flow))
}

async fn handle(daemon: &Arc<Daemon>, session: &Session, event: Event) -> Result<(), Reason> {
    match event {
        Event::Hello(_) => return Err(Reason::new(Code::Usage, "a session says hello once")),
        Event::Listen(listen) => {
            let id = listen.id;
            // Registration may take a while; other events of this program need not wait for it.
            let (daemon, session) = (daemon.clone(), session.clone());
            let name = enlist(&daemon, &session, listen);
            tokio::spawn(async move {
                let outcome = match name {
                    Ok((name, layers)) => registered(&daemon, name, layers).await,
                    Err(reason) => Err(reason),
                };
                if outcome.is_err() {
                    daemon.registry().unlisten(session.id, id);
                }
                session.send(Command::Listening(Listening {
                    id,
                    failure: outcome.err().map(Into::into),
                }));
            });
        }
        Event::Unlisten(u) => {
            daemon.registry().unlisten(session.id, u.id);
            daemon.reconcile.notify_one();
        }
        Event::Answer(answer) => answered(daemon, session, answer),
        Event::Closed(closed) => {
            let id = FlowId(closed.flow);
            let mine = daemon
                .flows()
                .get(id)
                .is_some_and(|f| f.carrier == Carrier::Direct(session.id));
            let flow = if mine {
                daemon.flows().remove(id)
            } else {
                None
            };
            if let Some(flow) = flow {
                let why = closed.reason.map(|r| r.text).unwrap_or_default();
                daemon.flow_event("flow.down", id, &flow, &why);
            }
        }
        Event::Counters(c) => {
            let round = daemon.round.load(Ordering::Relaxed);
            let counters = Counters {
                rx: c.rx_bytes,
                tx: c.tx_bytes,
                round,
            };
            daemon.flows().count(FlowId(c.flow), session.id, counters);
            daemon.counted.notify_waiters();
        }
    }
    Ok(())
}

fn answered(daemon: &Arc<Daemon>, session: &Session, answer: FlowAnswer) {
    let offer = daemon
        .offers
        .remove_if(&FlowId(answer.flow), |_, (to, _)| *to == session.id);
    let Some((_, (_, tx))) = offer else {
        // Too late: who asked has given up, and the program has been told so.
        return daemon.tally.add("drop.late_answer");
    };
    let refused = || Reason::new(Code::Refused, "the program refused the flow");
    let verdict = if answer.accept {
        Ok(())
    } else {
        Err(answer.reason.map_or_else(refused, Reason::from))
    };
    // Who asked may be gone in this instant; its own guard tells the program.
    let _ = tx.send(verdict);
}

type Registered = (Option<Name>, BTreeSet<Label>);

/// Adds the listener, so that flows of this host may come.
fn enlist(daemon: &Arc<Daemon>, session: &Session, listen: Listen) -> Result<Registered, Reason> {
    let name = (!listen.name.is_empty())
        .then(|| Name::new(listen.name))
        .transpose()?;
    let layers = listen
        .layers
        .into_iter()
        .map(Label::new)
        .collect::<Result<BTreeSet<_>, _>>()?;
    if let Some(name) = &name {
        policy::may_listen(&session.who, name, |n| daemon.is_ipcp(n))?;
    } else if !layers.is_empty() {
        return Err(Reason::new(
            Code::Usage,
            "layers need a name to register there; give one, or no layers",
        ));
    }
    for layer in &layers {
        daemon.in_layer(layer)?;
    }
    let listener = Listener {
        session: session.id,
        id: listen.id,
        name: name.clone(),
        layers: layers.clone(),
        uid: session.uid,
        process: session.process.clone(),
    };
    let heard = daemon.registry().listen(listener);
    heard.inspect_err(|reason| {
        if reason.code == Code::Busy {
            daemon.limit(limits::LISTENERS);
        }
    })?;
    Ok((name, layers))
}

/// Registers the name where the program wants it. A layer that is not up yet gets it when it is.
async fn registered(
    daemon: &Arc<Daemon>,
    name: Option<Name>,
    layers: BTreeSet<Label>,
) -> Result<(), Reason> {
    let Some(name) = name else { return Ok(()) };
    for layer in layers {
        let ipcp = daemon.in_layer(&layer)?;
        if ipcp.state() != State::Up {
            daemon.reconcile.notify_one();
            continue;
        }
        if let Some(reason) = daemon.reconcile_names(&ipcp).await.remove(&name) {
            return Err(reason);
        }
    }
    Ok(())
}

/// How many direct flows a program may bring from before.
const FLOWS: usize = 16_384;
/// How many sessions one user may have at once.
const SESSIONS: usize = 4096;
/// The longest path that a Unix socket can have.
const SOCKET_PATH: usize = 107;
