//! Allocation of flows: candidates at once, the first good answer wins, the losers are cleaned up. Every wait has a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::ipcp::{Allocate, Answer, Command, FlowRequest, Respond, User};
use proto::irm::program_command::Command as ToProgram;
use proto::irm::{FlowEnd, FlowOffer};
use proto::record::Peer;
use proto::{Batch, Code, FlowId, Label, Name, QosSpec, Reason, Token};
use tokio::sync::oneshot;

use crate::autostart;
use crate::daemon::Daemon;
use crate::flows::{Carrier, Counters, Flow, Phase};
use crate::ipcps::Ipcp;
use crate::policy;
use crate::registry::Listener;
use crate::session::{Session, Who};

/// What a caller wants.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    /// To whom.
    pub(crate) name: Name,
    /// With which QoS.
    pub(crate) qos: QosSpec,
    /// Only there.
    pub(crate) layer: Option<Label>,
    /// Only to this member.
    pub(crate) peer: Option<Label>,
    /// From whom.
    pub(crate) source: Option<Name>,
    /// Until then.
    pub(crate) deadline: Instant,
    /// The user who will join it.
    pub(crate) uid: u32,
    /// What the caller is.
    pub(crate) who: Who,
    /// Where the name's host may be, below; an IPC process alone may say.
    pub(crate) at: Vec<SocketAddr>,
}

/// Allocates a flow. When the caller drops this, what is under way is given up.
pub(crate) async fn allocate(daemon: &Arc<Daemon>, want: Want) -> Result<FlowEnd, Reason> {
    policy::may_allocate(&want.who, &want.name, |n| daemon.is_ipcp(n))?;
    let mut tried = candidates(daemon, &want).await?;
    let mut refusals: Vec<(String, Reason)> = Vec::new();
    let deadline = tokio::time::Instant::from_std(want.deadline);
    let open: Vec<String> = tried.iter().map(|(at, _)| at.clone()).collect();
    let mut running: FuturesUnordered<_> = tried
        .drain(..)
        .map(|(at, future)| async move { (at, future.await) })
        .collect();
    loop {
        match tokio::time::timeout_at(deadline, running.next()).await {
            Ok(Some((_, Ok(end)))) => return Ok(end),
            Ok(Some((at, Err(reason)))) => refusals.push((at, reason)),
            Ok(None) => return Err(none_of(&want.name, refusals)),
            Err(_) => return Err(too_late(&want.name, &open, &refusals)),
        }
    }
}

type Candidate = (String, BoxFuture<'static, Result<FlowEnd, Reason>>);

async fn candidates(daemon: &Arc<Daemon>, want: &Want) -> Result<Vec<Candidate>, Reason> {
    loop {
        let all = match &want.layer {
            Some(layer) => vec![remote_candidate(daemon, daemon.in_layer(layer)?, want)],
            None => anywhere(daemon, want),
        };
        if !all.is_empty() {
            return Ok(all);
        }
        if !daemon.is_recovering() || left(want.deadline).is_zero() {
            let text = format!(
                "nobody offers {}: no program of this host listens to it and no unicast layer is up here; see `irm status`",
                want.name
            );
            return Err(Reason::new(Code::NotFound, text));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A local program, and every unicast layer of the host.
fn anywhere(daemon: &Arc<Daemon>, want: &Want) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    let local = {
        let registry = daemon.registry();
        want.peer.is_none()
            && (registry.has_listener(&want.name) || registry.auto(&want.name).is_some())
    };
    if local {
        let (daemon, want) = (daemon.clone(), want.clone());
        let flow = async move {
            let listener = autostart::listener(&daemon, &want.name, want.deadline).await?;
            direct(&daemon, &want, &listener).await
        };
        all.push(("this host".to_owned(), Box::pin(flow)));
    }
    for ipcp in daemon.unicast_up() {
        // A layer in which this host offers the name would only lead back to it.
        if !(local && ipcp.inner().registered.contains(&want.name)) {
            all.push(remote_candidate(daemon, ipcp, want));
        }
    }
    all
}

fn remote_candidate(daemon: &Arc<Daemon>, ipcp: Arc<Ipcp>, want: &Want) -> Candidate {
    let at = format!(
        "layer {}",
        ipcp.layer().map(|l| l.to_string()).unwrap_or_default()
    );
    let (daemon, want) = (daemon.clone(), want.clone());
    (
        at,
        Box::pin(async move { remote(&daemon, &want, &ipcp).await }),
    )
}

/// A flow between two programs of this host.
async fn direct(daemon: &Arc<Daemon>, want: &Want, listener: &Listener) -> Result<FlowEnd, Reason> {
    let session = daemon
        .session(listener.session)
        .ok_or_else(|| ended(&want.name))?;
    let token = Token(daemon.random()?);
    let peer = Peer {
        name: want.source.clone(),
        ..Peer::default()
    };
    let flow = daemon.add_flow(Flow {
        name: want.name.clone(),
        qos: want.qos,
        peer: peer.clone(),
        uid: want.uid,
        incoming: true,
        carrier: Carrier::Direct(session.id),
        phase: Phase::Pending(want.deadline),
        counters: Counters::default(),
    })?;
    let mut pending = Pending {
        daemon,
        flow: Some(flow),
        undo: Undo::Offer(session.clone()),
    };
    let offer = FlowOffer {
        flow: flow.0,
        listener: listener.id,
        name: want.name.to_string(),
        peer: Some(peer.clone().into()),
        qos: Some(want.qos.into()),
        mtu: Batch::MAX_PACKET as u32,
        deadline_ms: left_ms(want.deadline),
        direct: true,
        token: token.0.to_vec(),
        uid: want.uid,
    };
    answer_to(daemon, &session, flow, offer).await?;
    daemon.flows().allocated(flow, peer, want.qos);
    pending.done("flow.allocated");
    Ok(FlowEnd {
        flow: flow.0,
        socket: session.data_socket,
        token: token.0.to_vec(),
    })
}

/// A flow that an IPC process carries.
async fn remote(daemon: &Arc<Daemon>, want: &Want, ipcp: &Arc<Ipcp>) -> Result<FlowEnd, Reason> {
    // One that is being started again is worth a short wait.
    ipcp.ready(left(want.deadline).min(BACK)).await?;
    let layer = ipcp
        .layer()
        .ok_or_else(|| ipcp.unreachable("it has no layer yet"))?;
    let flow = daemon.add_flow(Flow {
        name: want.name.clone(),
        qos: want.qos,
        peer: Peer {
            name: Some(want.name.clone()),
            layer: Some(layer.clone()),
            member: None,
        },
        uid: want.uid,
        incoming: false,
        carrier: Carrier::Ipcp(ipcp.name.clone(), layer),
        phase: Phase::Pending(want.deadline),
        counters: Counters::default(),
    })?;
    let mut pending = Pending {
        daemon,
        flow: Some(flow),
        undo: Undo::Dealloc(ipcp.clone()),
    };
    let ask = Command::Allocate(Allocate {
        flow,
        name: want.name.clone(),
        source: want.source.clone(),
        qos: want.qos,
        peer: want.peer.clone(),
        user: User {
            uid: want.uid,
            ipcp: matches!(want.who, Who::Ipcp(_)),
        },
        timeout_ms: left_ms(want.deadline),
        at: want.at.clone(),
    });
    match ipcp.call(ask, left(want.deadline)).await {
        Ok(Answer::Allocated(a)) => {
            let token = a
                .token
                .ok_or_else(|| misbehaved(ipcp, "allocated a flow without a token"))?;
            if !daemon.flows().allocated(flow, a.peer, a.qos) {
                return Err(ipcp.unreachable("the flow went down as it was allocated"));
            }
            pending.done("flow.allocated");
            let socket = ipcp.inner().data_socket.clone();
            Ok(FlowEnd {
                flow: flow.0,
                socket,
                token: token.0.to_vec(),
            })
        }
        Ok(_) => Err(misbehaved(
            ipcp,
            "answered an allocation with something else",
        )),
        Err(reason) => {
            if reason.code != Code::TimedOut {
                pending.undo = Undo::Nothing;
            }
            Err(reason)
        }
    }
}

/// Somebody in a layer wants a flow to a name of this host.
pub(crate) async fn incoming(daemon: &Arc<Daemon>, ipcp: &Arc<Ipcp>, request: FlowRequest) {
    let id = request.request;
    let name = request.name.clone();
    if let Err(reason) = accept(daemon, ipcp, request).await {
        daemon.tally.add("refused.incoming");
        tracing::debug!(%name, %reason, "flow request refused");
        ipcp.tell(Command::Respond(Respond {
            request: id,
            verdict: Err(reason),
        }));
    }
}

async fn accept(
    daemon: &Arc<Daemon>,
    ipcp: &Arc<Ipcp>,
    request: FlowRequest,
) -> Result<(), Reason> {
    let deadline = Instant::now() + bounded(request.timeout_ms);
    let layer = ipcp
        .layer()
        .ok_or_else(|| ipcp.unreachable("it has no layer yet"))?;
    let listener = autostart::listener(daemon, &request.name, deadline).await?;
    let session = daemon
        .session(listener.session)
        .ok_or_else(|| ended(&request.name))?;
    let user = User {
        uid: session.uid,
        ipcp: matches!(session.who, Who::Ipcp(_)),
    };
    let flow = daemon.add_flow(Flow {
        name: request.name.clone(),
        qos: request.qos,
        peer: request.peer.clone(),
        uid: user.uid,
        incoming: true,
        carrier: Carrier::Ipcp(ipcp.name.clone(), layer),
        phase: Phase::Pending(deadline),
        counters: Counters::default(),
    })?;
    let mut pending = Pending {
        daemon,
        flow: Some(flow),
        undo: Undo::Offer(session.clone()),
    };
    let offer = FlowOffer {
        flow: flow.0,
        listener: listener.id,
        name: request.name.to_string(),
        peer: Some(request.peer.clone().into()),
        qos: Some(request.qos.into()),
        mtu: request.mtu,
        deadline_ms: left_ms(deadline),
        ..FlowOffer::default()
    };
    answer_to(daemon, &session, flow, offer).await?;
    let respond = Command::Respond(Respond {
        request: request.request,
        verdict: Ok((flow, user)),
    });
    match ipcp.call(respond, left(deadline)).await {
        Ok(Answer::Allocated(a)) if a.token.is_some() => {
            let token = a.token.map(|t| t.0.to_vec()).unwrap_or_default();
            if daemon.flows().allocated(flow, a.peer, a.qos) {
                pending.done("flow.allocated");
                let socket = ipcp.inner().data_socket.clone();
                session.send(ToProgram::Ready(FlowEnd {
                    flow: flow.0,
                    socket,
                    token,
                }));
            }
        }
        // The request has been answered: what failed since concerns the acceptor only, who hears of it by `pending`.
        Ok(_) => tracing::warn!(ipcp = %ipcp.name, "accepted a flow without a token"),
        Err(reason) => {
            tracing::debug!(%reason, ipcp = %ipcp.name, "an accepted flow did not stand")
        }
    }
    Ok(())
}

/// Offers a flow to a program and waits for its answer.
async fn answer_to(
    daemon: &Arc<Daemon>,
    session: &Session,
    flow: FlowId,
    offer: FlowOffer,
) -> Result<(), Reason> {
    let (tx, rx) = oneshot::channel();
    let wait = Duration::from_millis(offer.deadline_ms);
    let name = offer.name.clone();
    daemon.offers.insert(flow, (session.id, tx));
    if !session.send(ToProgram::Offer(offer)) {
        daemon.tally.add("refused.program_does_not_read");
        return Err(Reason::new(
            Code::Refused,
            format!("the program that listens to {name} does not take offers; try again"),
        ));
    }
    match tokio::time::timeout(wait, rx).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Reason::new(
            Code::Refused,
            format!("the program that listened to {name} has ended; try again"),
        )),
        Err(_) => Err(Reason::new(
            Code::TimedOut,
            format!(
                "the program that listens to {name} did not answer in {} ms",
                wait.as_millis()
            ),
        )),
    }
}

/// A flow that is not yet allocated: dropped before [`Pending::done`], it is taken back on all sides.
struct Pending<'a> {
    daemon: &'a Arc<Daemon>,
    flow: Option<FlowId>,
    undo: Undo,
}

enum Undo {
    Nothing,
    Offer(Session),
    Dealloc(Arc<Ipcp>),
}

impl Pending<'_> {
    fn done(&mut self, kind: &str) {
        let Some(id) = self.flow.take() else { return };
        let flow = self.daemon.flows().get(id).cloned();
        if let Some(flow) = flow {
            self.daemon.flow_event(kind, id, &flow, "");
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(flow) = self.flow.take() else { return };
        self.daemon.flows().remove(flow);
        self.daemon.offers.remove(&flow);
        let reason = || Reason::new(Code::Closed, "the flow is no longer wanted");
        match &self.undo {
            Undo::Nothing => {}
            Undo::Offer(session) => session.gone(flow, reason()),
            Undo::Dealloc(ipcp) => drop(ipcp.tell(Command::Dealloc(flow, reason()))),
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn left_ms(deadline: Instant) -> u64 {
    u64::try_from(left(deadline).as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// How long a caller waits: what it said, within bounds.
pub(crate) fn bounded(timeout_ms: u64) -> Duration {
    match timeout_ms {
        0 => DEFAULT,
        ms => Duration::from_millis(ms).min(LONGEST),
    }
}

fn ended(name: &Name) -> Reason {
    Reason::new(
        Code::NotFound,
        format!("the program that listened to {name} has ended; try again"),
    )
}

fn misbehaved(ipcp: &Ipcp, what: &str) -> Reason {
    Reason::new(
        Code::PeerMisbehaved,
        format!(
            "IPC process {} {what}; restart it, and report this",
            ipcp.name
        ),
    )
}

/// Of several refusals the one that says most: not found is what the others said too.
fn none_of(name: &Name, refusals: Vec<(String, Reason)>) -> Reason {
    let code = refusals
        .iter()
        .map(|(_, r)| r.code)
        .find(|c| *c != Code::NotFound)
        .unwrap_or(Code::NotFound);
    Reason::new(code, format!("no flow to {name}: {}", list(&refusals)))
}

fn too_late(name: &Name, open: &[String], refusals: &[(String, Reason)]) -> Reason {
    let silent: Vec<&str> = open
        .iter()
        .map(String::as_str)
        .filter(|at| refusals.iter().all(|(r, _)| r != at))
        .collect();
    let rest = if refusals.is_empty() {
        String::new()
    } else {
        format!("; {}", list(refusals))
    };
    let text = format!(
        "no flow to {name} in time: no answer from {}{rest}; see `irm status`, or give --timeout",
        silent.join(", ")
    );
    Reason::new(Code::TimedOut, text)
}

fn list(refusals: &[(String, Reason)]) -> String {
    refusals
        .iter()
        .map(|(at, r)| format!("{at}: {r}"))
        .collect::<Vec<_>>()
        .join("; ")
}

const POLL: Duration = Duration::from_millis(20);
/// How long an IPC process that died may take to be back.
const BACK: Duration = Duration::from_secs(2);
const DEFAULT: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_that_says_most_decides_the_code() {
        let name = Name::new("n").unwrap();
        let no = |code| Reason::new(code, "x");
        let of = |codes: &[Code]| {
            none_of(
                &name,
                codes.iter().map(|c| ("l".to_owned(), no(*c))).collect(),
            )
            .code
        };
        assert_eq!(of(&[Code::NotFound, Code::NotFound]), Code::NotFound);
        assert_eq!(of(&[Code::NotFound, Code::Refused]), Code::Refused);
    }

    #[test]
    fn a_timeout_names_who_was_silent_and_who_was_not() {
        let name = Name::new("n").unwrap();
        let refusals = [(
            "layer a".to_owned(),
            Reason::new(Code::NotFound, "no such name"),
        )];
        let reason = too_late(
            &name,
            &["layer a".to_owned(), "layer b".to_owned()],
            &refusals,
        );
        assert!(
            reason
                .text
                .contains("no answer from layer b; layer a: no such name"),
            "{reason}"
        );
        assert_eq!(reason.code, Code::TimedOut);
    }
}
