//! Flows that others allocate to this program.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::irm as pb;
use proto::record::{Peer, Welcome};
use proto::{BadMessage, Batch, Code, FlowId, Name, QosSpec, Reason, Token};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::FlowError;
use crate::flow::Flow;
use crate::port::{Joined, Key};
use crate::session::{Direct, Shared};

/// Where flows to a name come in. Dropping it stops that; flows that were accepted live on.
#[derive(Debug)]
pub struct Listener {
    id: u64,
    offers: mpsc::Receiver<Result<Incoming, Reason>>,
    shared: Arc<Shared>,
}

impl Listener {
    /// The next flow that somebody wants. Safe to cancel. Fails only when irmd takes the name away for good.
    pub async fn accept(&mut self) -> Result<Incoming, FlowError> {
        match self.offers.recv().await {
            Some(Ok(incoming)) => Ok(incoming),
            Some(Err(reason)) => Err(FlowError::of_call(reason)),
            None => Err(FlowError::Daemon(Reason::new(
                Code::NotFound,
                "this listener was ended by irmd; listen again",
            ))),
        }
    }

    pub(crate) fn new(
        id: u64,
        offers: mpsc::Receiver<Result<Incoming, Reason>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { id, offers, shared }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.unlisten(self.id);
    }
}

/// A flow that somebody wants. Dropping it refuses it.
pub struct Incoming {
    offer: Option<Offer>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Offer {
    name: Name,
    welcome: Welcome,
    deadline: Instant,
    /// Of a direct flow: what the other program will show.
    key: Option<Key>,
}

impl Incoming {
    /// The name that was asked for.
    pub fn name(&self) -> &Name {
        &self.offer().name
    }

    /// Who wants the flow; `member` is the identity that the layer authenticated.
    pub fn peer(&self) -> &Peer {
        &self.offer().welcome.peer
    }

    /// What it asks.
    pub fn qos(&self) -> QosSpec {
        self.offer().welcome.qos
    }

    /// The largest SDU in bytes.
    pub fn mtu(&self) -> u32 {
        self.offer().welcome.mtu
    }

    /// The flow's id on this host.
    pub fn id(&self) -> FlowId {
        self.offer().welcome.flow
    }

    /// Takes the flow; returns when it stands.
    pub async fn accept(self) -> Result<Flow, FlowError> {
        let (joined, direct) = self.take_joined().await?;
        Flow::of(joined, direct)
    }

    /// As [`Incoming::accept`], but gives the joined socket as it is: for IPC processes. Flows from programs of this host
    /// are refused, since no layer carries them.
    pub async fn accept_joined(self) -> Result<Joined, FlowError> {
        if self.offer().key.is_some() {
            let reason = Reason::new(
                Code::Denied,
                "an IPC process takes flows of layers only, not of programs on its host",
            );
            self.refuse(reason.clone());
            return Err(FlowError::NotPermitted(reason));
        }
        Ok(self.take_joined().await?.0)
    }

    /// Turns the flow down; the other side gets the reason.
    pub fn refuse(mut self, reason: Reason) {
        if let Some(offer) = self.offer.take() {
            self.shared.answer(offer.welcome.flow, Some(reason));
        }
    }

    pub(crate) fn parse(offer: pb::FlowOffer, shared: &Arc<Shared>) -> Result<Self, BadMessage> {
        let qos = QosSpec::try_from(offer.qos.ok_or(BadMessage::Missing("qos"))?)?;
        let peer = offer
            .peer
            .map(Peer::try_from)
            .transpose()?
            .unwrap_or_default();
        let name = Name::new(offer.name).map_err(|e| BadMessage::Name("name", e))?;
        let flow = FlowId(offer.flow);
        let key = if offer.direct {
            let token = Token::from_slice(&offer.token).ok_or(BadMessage::Missing("token"))?;
            Some(Key {
                flow,
                token,
                uid: offer.uid,
            })
        } else {
            None
        };
        let most = Batch::MAX_PACKET as u32;
        let mtu = if offer.mtu == 0 {
            most
        } else {
            offer.mtu.min(most)
        };
        let limit = if offer.deadline_ms == 0 {
            DEADLINE
        } else {
            Duration::from_millis(offer.deadline_ms)
        };
        let offer = Offer {
            name,
            welcome: Welcome {
                devices: false,
                flow,
                mtu,
                qos,
                peer,
            },
            deadline: Instant::now() + limit.min(LONGEST),
            key,
        };
        Ok(Self {
            offer: Some(offer),
            shared: shared.clone(),
        })
    }

    async fn take_joined(mut self) -> Result<(Joined, Option<Direct>), FlowError> {
        let Some(Offer {
            name,
            welcome,
            deadline,
            key,
        }) = self.offer.take()
        else {
            return Err(FlowError::ApiMisuse(Reason::new(
                Code::Usage,
                "this flow was answered before",
            )));
        };
        let Some(key) = key else {
            return Ok((
                self.shared.accept_routed(welcome.flow, deadline).await?,
                None,
            ));
        };
        let known_as = pb::DirectFlow {
            flow: welcome.flow.0,
            name: name.to_string(),
            qos: Some(welcome.qos.into()),
            peer_name: welcome
                .peer
                .name
                .as_ref()
                .map(Name::to_string)
                .unwrap_or_default(),
        };
        let (joined, direct) = self
            .shared
            .accept_direct(key, welcome, known_as, deadline)
            .await?;
        Ok((joined, Some(direct)))
    }

    fn offer(&self) -> &Offer {
        // Only the calls that consume self take the offer out.
        self.offer
            .as_ref()
            .expect("an Incoming holds its offer until it is consumed")
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("offer", &self.offer)
            .finish_non_exhaustive()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(offer) = self.offer.take() {
            self.shared.answer(
                offer.welcome.flow,
                Some(Reason::new(
                    Code::Refused,
                    "the program did not take the flow",
                )),
            );
        }
    }
}

/// How long a flow may wait to be accepted if irmd does not say.
const DEADLINE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(3600);
