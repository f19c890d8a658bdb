//! What holds of all flows together, so that nobody looks at each of them for a packet.

use std::collections::BTreeMap;

use crate::flow::FlowPort;

/// Of the flows that stand.
#[derive(Debug, Default)]
pub(super) struct All {
    /// How many have the device.
    handed: usize,
    /// How many have each MTU.
    mtus: BTreeMap<u32, usize>,
}

impl All {
    /// A flow stands.
    pub(super) fn come(&mut self, flow: &impl FlowPort) {
        self.handed += usize::from(flow.is_handed());
        *self.mtus.entry(flow.mtu()).or_default() += 1;
    }

    /// One that stood is gone.
    pub(super) fn gone(&mut self, flow: &impl FlowPort) {
        self.handed -= usize::from(flow.is_handed());
        self.without(flow.mtu());
    }

    /// One that stands may have the device now, which it had or had not before.
    pub(super) fn handed(&mut self, before: bool, flow: &impl FlowPort) {
        self.handed += usize::from(flow.is_handed() && !before);
    }

    /// The MTU of one that stands was this.
    pub(super) fn resized(&mut self, before: u32, flow: &impl FlowPort) {
        self.without(before);
        *self.mtus.entry(flow.mtu()).or_default() += 1;
    }

    /// Whether somebody else reads the device.
    pub(super) fn is_handed(&self) -> bool {
        self.handed > 0
    }

    /// The smallest MTU; `None` without flows.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.mtus.keys().next().copied()
    }

    fn without(&mut self, mtu: u32) {
        if let Some(n) = self.mtus.get_mut(&mtu) {
            *n -= 1;
            if *n == 0 {
                self.mtus.remove(&mtu);
            }
        }
    }
}
