//! What a person may want to know of a peer.

use ipnet::IpNet;
use proto::{FlowId, Label, Reason};

use super::peer::Peer;
use crate::flow::FlowPort;
use proto::record::Moved;

/// One member as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: Label,
    /// What its certificate owns.
    pub prefixes: Vec<IpNet>,
    /// `up`, `allocating`, `down` or `idle` (nothing was sent yet).
    pub state: &'static str,
    /// Whether it is a neighbour in the layer.
    pub neighbour: bool,
    /// The flow that is sent on.
    pub flow: Option<FlowId>,
    /// Why there is none, after an attempt that failed.
    pub trouble: Option<Reason>,
    /// What went there and came from there.
    pub moved: Moved,
}

impl PeerStatus {
    pub(super) fn of<F: FlowPort>(peer: &Peer<F>) -> Self {
        let session = &peer.session;
        Self {
            name: peer.name.clone(),
            prefixes: peer.prefixes.clone(),
            state: session.state(),
            neighbour: peer.neighbour,
            flow: session
                .sending()
                .and_then(|side| session.flow(side))
                .map(FlowPort::id),
            trouble: session.trouble().cloned(),
            moved: peer.moved,
        }
    }
}
