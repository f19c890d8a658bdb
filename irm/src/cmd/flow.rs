//! `irm flow`, and what `echo`, `ping` and `perf` share: opening a flow, serving a name, being stopped.

use std::rc::Rc;

use libflow::{AllocOptions, Flow, Incoming, Irm, Listener, QosSpec};
use proto::irm as pb;
use proto::{Code, Label, Name, Reason};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::Context;
use crate::args::{FlowOptions, FlowVerb, Way};
use crate::client::{QUICK, answer};
use crate::out::{json, remark, table};
use crate::progress::progress;

pub(crate) async fn run(c: &Context, verb: FlowVerb) -> Result<(), Reason> {
    let FlowVerb::List = verb;
    let list = answer(QUICK, c.admin().await?.rpc.list_flows(pb::Empty {}))
        .await?
        .flows;
    let shown = json!({"flows": list.iter().map(json::flow).collect::<Vec<_>>()});
    c.out.answer(shown, || table::flows(&list))
}

/// Allocates a flow as the options say; the session is to be kept as long as the flow.
pub(super) async fn open(
    c: &Context,
    name: &Name,
    options: &FlowOptions,
) -> Result<(Irm, Flow), Reason> {
    let irm = Irm::connect(Some(&c.run_dir)).await?;
    let flow = one(&irm, name, options).await?;
    Ok((irm, flow))
}

/// The same with several flows to the name.
pub(super) async fn opens(
    c: &Context,
    name: &Name,
    options: &FlowOptions,
    count: u16,
) -> Result<(Irm, Vec<Flow>), Reason> {
    let irm = Irm::connect(Some(&c.run_dir)).await?;
    let mut flows = Vec::new();
    for _ in 0..count {
        flows.push(one(&irm, name, options).await?);
    }
    Ok((irm, flows))
}

async fn one(irm: &Irm, name: &Name, options: &FlowOptions) -> Result<Flow, Reason> {
    let wanted = asked(options.qos, &options.way);
    let asked = irm.allocate(name.as_str(), wanted);
    Ok(progress("allocating the flow", asked).await?)
}

/// What is asked of a flow.
pub(super) fn asked(qos: QosSpec, way: &Way) -> AllocOptions {
    AllocOptions {
        qos,
        layer: way.layer.clone(),
        peer: way.peer.clone(),
        timeout: way.timeout,
        ..AllocOptions::default()
    }
}

/// Who is at the other end, for people: `layer ovl, member ovl-c` or `this host`.
pub(super) fn other_end(flow: &Flow) -> String {
    let peer = flow.peer();
    match (&peer.layer, &peer.member) {
        (Some(layer), Some(member)) => format!("member {member} of layer {layer}"),
        (Some(layer), None) => format!("layer {layer}, nobody authenticated"),
        (None, _) => "this host".to_owned(),
    }
}

/// Serves a name until stopped: `serve` gets each flow, several at once.
pub(super) async fn listen<F>(
    c: &Context,
    name: &Name,
    layers: &[Label],
    serve: impl Fn(Flow) -> F + 'static,
) -> Result<(), Reason>
where
    F: Future<Output = ()> + 'static,
{
    let irm = Irm::connect(Some(&c.run_dir)).await?;
    let listener = irm.listen(name.as_str(), layers).await?;
    remark(&format!("serving {name}"));
    let serve = Rc::new(serve);
    let take = move |incoming| serve_one(incoming, Rc::clone(&serve));
    let stop = stopped()?;
    tokio::select! {
        end = each(listener, MOST_FLOWS, take, || ()) => end,
        () = stop => Ok(()),
    }
}

/// Has `serve` answer every wish for a flow, at most so many at once; what comes `beyond` is told that we are busy.
pub(super) async fn each<F: Future<Output = ()> + 'static>(
    mut listener: Listener,
    most: usize,
    serve: impl Fn(Incoming) -> F,
    beyond: impl Fn(),
) -> Result<(), Reason> {
    let local = tokio::task::LocalSet::new();
    let accept = async {
        let mut flows = JoinSet::new();
        loop {
            tokio::select! {
                incoming = listener.accept() => match incoming {
                    Ok(incoming) if flows.len() >= most => {
                        beyond();
                        incoming.refuse(busy(most));
                    }
                    Ok(incoming) => drop(flows.spawn_local(serve(incoming))),
                    Err(error) => return Err(Reason::from(error)),
                },
                Some(_) = flows.join_next(), if !flows.is_empty() => {}
            }
        }
    };
    local.run_until(accept).await
}

async fn serve_one<F: Future<Output = ()>>(incoming: Incoming, serve: Rc<impl Fn(Flow) -> F>) {
    match incoming.accept().await {
        Ok(flow) => serve(flow).await,
        // Its caller gave up while we accepted; the next one may not.
        Err(error) => remark(&format!("a flow was gone before it was accepted: {error}")),
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) fn stopped() -> Result<impl Future<Output = ()>, Reason> {
    let handler = |kind| {
        signal(kind).map_err(|e| Reason::new(Code::Failed, format!("can't handle signals: {e}")))
    };
    let (mut interrupt, mut terminate) = (
        handler(SignalKind::interrupt())?,
        handler(SignalKind::terminate())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn busy(most: usize) -> Reason {
    Reason::new(
        Code::Busy,
        format!("{most} flows are served already; try later"),
    )
}

/// That are served at once.
const MOST_FLOWS: usize = 1024;
