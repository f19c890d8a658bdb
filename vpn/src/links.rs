//! Flows to and from other members, made in the background; each is handed to the pump's task when it stands.

use std::time::Duration;

use libflow::{AllocOptions, FlowError, Incoming, Irm};
use proto::{Code, Label, Reason};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::class::Class;
use crate::flow::Lane;
use crate::prefix::PeerId;

/// What came of an attempt.
#[derive(Debug)]
pub enum News {
    /// The flow that [`Links::dial`] asked for, or why there is none.
    Dialled(PeerId, Result<Lane, Reason>),
    /// A member has allocated a flow to this VPN.
    Accepted(Label, Lane),
    /// This VPN can't be reached by others, or can again (`None`).
    Listening(Option<Reason>),
}

/// What a VPN carries. Each has names of its own, so that neither takes the other's flows, and a policy can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// Makes flows to other members and takes theirs.
#[derive(Debug)]
pub struct Links {
    irm: Irm,
    layer: Label,
    me: Label,
    kind: Kind,
    news: mpsc::Receiver<News>,
    teller: mpsc::Sender<News>,
    tasks: JoinSet<()>,
}

impl Links {
    /// Starts to listen as `vpn/ME` or `tap/ME` in a layer.
    pub fn start(irm: Irm, layer: Label, me: Label, kind: Kind) -> Self {
        let (teller, news) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(
            irm.clone(),
            layer.clone(),
            kind.name(&me),
            teller.clone(),
        ));
        Self {
            irm,
            layer,
            me,
            kind,
            news,
            teller,
            tasks,
        }
    }

    /// Allocates a flow of a class to another member; [`News::Dialled`] follows.
    pub fn dial(&mut self, id: PeerId, peer: &Label, class: Class) {
        // The ones that are done; nobody else takes them out.
        while self.tasks.try_join_next().is_some() {}
        let options = AllocOptions {
            qos: class.qos(),
            layer: Some(self.layer.clone()),
            peer: Some(peer.clone()),
            source: proto::Name::new(self.kind.name(&self.me)).ok(),
            timeout: DIAL,
            ..AllocOptions::default()
        };
        let (irm, teller, to) = (self.irm.clone(), self.teller.clone(), self.kind.name(peer));
        self.tasks.spawn(async move {
            let dialled = irm.dial(to, options).await;
            let lane = dialled.map(Lane::from).map_err(Reason::from);
            let _ = teller.send(News::Dialled(id, lane)).await;
        });
    }

    /// The next news. Safe to cancel.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // Not while `teller` lives.
            None => std::future::pending().await,
        }
    }
}

impl Kind {
    /// The name that the VPN of a member goes by.
    fn name(self, member: &Label) -> String {
        match self {
            Self::Tun => format!("vpn/{member}"),
            Self::Tap => format!("tap/{member}"),
        }
    }
}

/// Listens for good; where that fails, as while the layer isn't up yet, tries again.
async fn listen(irm: Irm, layer: Label, name: String, teller: mpsc::Sender<News>) {
    let mut answers = JoinSet::new();
    loop {
        let reason = match irm.listen(name.clone(), std::slice::from_ref(&layer)).await {
            Ok(mut listener) => {
                let _ = teller.send(News::Listening(None)).await;
                loop {
                    while answers.try_join_next().is_some() {}
                    match listener.accept().await {
                        Ok(incoming) if answers.len() < PENDING => {
                            answers.spawn(answer(incoming, layer.clone(), teller.clone()));
                        }
                        Ok(incoming) => incoming.refuse(Reason::new(
                            Code::Busy,
                            "the VPN is taking too many flows at once; try again",
                        )),
                        Err(e) => break e.reason(),
                    }
                }
            }
            Err(e) => e.reason(),
        };
        tracing::debug!("can't listen as {name}: {reason}");
        if teller.send(News::Listening(Some(reason))).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Takes a flow from a member whom the layer has authenticated; nobody else's.
async fn answer(incoming: Incoming, layer: Label, teller: mpsc::Sender<News>) {
    let peer = incoming.peer().clone();
    // Without a layer in it, it came through the only one in which the name is registered.
    let ours = peer.layer.as_ref().is_none_or(|l| *l == layer);
    let Some(member) = peer.member.filter(|_| ours) else {
        incoming.refuse(Reason::new(
            Code::Denied,
            format!("the VPN takes flows of members of {layer} only"),
        ));
        return;
    };
    let joined = tokio::time::timeout(DIAL, incoming.accept_joined()).await;
    match joined.unwrap_or_else(|_| {
        Err(FlowError::TimedOut(Reason::new(
            Code::TimedOut,
            "joining it took too long",
        )))
    }) {
        Ok(joined) => {
            let _ = teller.send(News::Accepted(member, joined.into())).await;
        }
        Err(e) => tracing::debug!("a flow from {member} came to nothing: {e}"),
    }
}

/// News that wait for the pump.
const QUEUE: usize = 64;
/// Flows that are being accepted at once.
const PENDING: usize = 64;
/// How long a flow may take to be made; what waits for it is bounded, and another attempt follows.
const DIAL: Duration = Duration::from_secs(5);
/// Between attempts to listen.
const AGAIN: Duration = Duration::from_millis(500);
