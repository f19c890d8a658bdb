//! How a VPN carries packets, as its administrator wants it.

use proto::irm::VpnTraffic;
use serde::{Deserialize, Serialize};

/// Kept on disk; what isn't said is as the VPN has it by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Traffic {
    keep_mss: bool,
    idle_ms: Option<u64>,
    one_class: bool,
}

impl Traffic {
    /// Whether it was said when flows are closed.
    pub(super) fn asks_for_idle(&self) -> bool {
        self.idle_ms.is_some()
    }

    pub(super) fn to_message(&self) -> VpnTraffic {
        VpnTraffic {
            keep_mss: self.keep_mss,
            idle_ms: self.idle_ms,
            one_class: self.one_class,
        }
    }
}

impl From<VpnTraffic> for Traffic {
    fn from(asked: VpnTraffic) -> Self {
        Self {
            keep_mss: asked.keep_mss,
            idle_ms: asked.idle_ms,
            one_class: asked.one_class,
        }
    }
}
