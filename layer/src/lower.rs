//! What a machine over flows asks of its lower network and hears from it (`Ipcp::Ask`, `Ipcp::Tell` of the unicast layer).

use std::net::SocketAddr;

use proto::{FlowId, Framing, Label, Name, Reason};

/// What a machine asks besides sending packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowAsk {
    /// Allocate a flow to `dst` over the layer `over`; answered once, by [`FlowTell::Up`] or [`FlowTell::DialFailed`].
    Dial {
        /// Chosen by the machine, to know the answer by.
        dial: u64,
        /// The other IPC process.
        dst: Name,
        /// The lower layer.
        over: Label,
        /// Where its host may be, for a lower layer that doesn't know.
        at: Vec<SocketAddr>,
    },
    /// End this flow; no [`FlowTell::Down`] follows.
    Hangup(FlowId),
}

/// What the lower network says besides giving packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowTell {
    /// A flow stands: packets may be sent on it.
    Up {
        /// What it is called from now on.
        lower: FlowId,
        /// The layer that carries it.
        over: Label,
        /// The largest packet in bytes.
        mtu: u32,
        /// How batches for it should lie: trains for a socket that was handed over, records otherwise.
        framing: Framing,
        /// Who began it.
        via: Via,
    },
    /// The largest packet of a flow has changed.
    Mtu(FlowId, u32),
    /// This host can't send on the flow now, and may be able to again: an interface is down, or a route is gone.
    Faulty(FlowId),
    /// The flow is gone.
    Down(FlowId, Reason),
    /// The dial with this number came to nothing.
    DialFailed(u64, Reason),
}

/// How a lower flow came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// This side dialled.
    Dialled(u64),
    /// The other side did; with its name, if it gave one (attested by its irmd only as far as the lower layer is).
    Accepted(Option<Name>),
}
