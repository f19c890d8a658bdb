//! What a person may want to know of a peer.

use ipnet::IpNet;
use proto::{FlowId, Label, Reason};

use super::peer::Peer;
use crate::class::Class;
use crate::flow::FlowPort;
use proto::record::Moved;

/// One member as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: Label,
    /// What its certificate owns.
    pub prefixes: Vec<IpNet>,
    /// `up`, `allocating`, `down` or `idle` (nothing was sent for long): of all classes the first that is true of one.
    pub state: &'static str,
    /// Whether it is a neighbour in the layer.
    pub neighbour: bool,
    /// Why there is no flow, after an attempt that failed.
    pub trouble: Option<Reason>,
    /// What went there and came from there.
    pub moved: Moved,
    /// Rules say what may pass; else everything does.
    pub filtered: bool,
    /// The flow of each class that was ever asked for.
    pub flows: Vec<FlowStatus>,
    /// Where the device is a TAP: how many addresses are known to be behind it.
    pub macs: usize,
}

/// What a switch has learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// Addresses that it knows, on the host's side too.
    pub macs: usize,
    /// How often there was no room for one.
    pub overflows: u64,
    /// How often one went from one port to another.
    pub moves: u64,
}

/// The flow of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowStatus {
    /// Of which.
    pub class: Class,
    /// As the peer's.
    pub state: &'static str,
    /// The flow that is sent on.
    pub flow: Option<FlowId>,
    /// What has moved in this class.
    pub moved: Moved,
}

impl PeerStatus {
    /// Of the places of one member, one for each class.
    pub(super) fn of<F: FlowPort>(places: &[Peer<F>], filtered: bool) -> Self {
        let first = &places[0];
        let all: Vec<FlowStatus> = Class::ALL
            .into_iter()
            .zip(places)
            .map(|(class, peer)| FlowStatus {
                class,
                state: peer.session.state(),
                flow: (peer.session.sending())
                    .and_then(|side| peer.session.flow(side))
                    .map(FlowPort::id),
                moved: peer.moved,
            })
            .collect();
        let has = |state: &&str| all.iter().any(|flow| flow.state == *state);
        let sum = |of: fn(&Moved) -> u64| all.iter().map(|flow| of(&flow.moved)).sum();
        let moved = Moved {
            rx_packets: sum(|m| m.rx_packets),
            rx_bytes: sum(|m| m.rx_bytes),
            tx_packets: sum(|m| m.tx_packets),
            tx_bytes: sum(|m| m.tx_bytes),
        };
        Self {
            name: first.name.clone(),
            prefixes: first.prefixes.clone(),
            state: ["up", "allocating", "down"]
                .into_iter()
                .find(has)
                .unwrap_or("idle"),
            neighbour: first.neighbour,
            trouble: first.session.trouble().cloned(),
            moved,
            filtered,
            macs: 0,
            flows: all
                .into_iter()
                .filter(|flow| flow.state != "idle" || flow.moved != Moved::default())
                .collect(),
        }
    }
}
