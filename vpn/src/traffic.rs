//! How packets are carried, as the administrator wants it.

use std::time::Duration;

use proto::irm::VpnTraffic;

/// What can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The largest segment of TCP connections is lowered to what fits the flows.
    pub mss_clamp: bool,
    /// Flows on which nothing has moved for so long are closed.
    pub idle: Option<Duration>,
    /// A peer has a flow of its own for each class of service.
    pub classes: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        VpnTraffic::default().into()
    }
}

impl From<VpnTraffic> for Traffic {
    fn from(wire: VpnTraffic) -> Self {
        let idle = wire.idle_ms.map_or(IDLE, Duration::from_millis);
        Self {
            mss_clamp: !wire.keep_mss,
            idle: Some(idle.max(LEAST)).filter(|_| !idle.is_zero()),
            classes: !wire.one_class,
        }
    }
}

const IDLE: Duration = Duration::from_secs(300);
/// What has moved by itself is told once a second, so less can't be known.
const LEAST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_on_by_itself_and_zero_is_never() {
        let idle = |ms| {
            let wire = VpnTraffic {
                idle_ms: ms,
                ..VpnTraffic::default()
            };
            Traffic::from(wire).idle
        };
        let usual = Traffic::default();
        assert!(usual.mss_clamp && usual.classes && usual.idle == Some(IDLE));
        assert_eq!((idle(Some(0)), idle(Some(1))), (None, Some(LEAST)));
        assert_eq!(idle(Some(9_000)), Some(Duration::from_secs(9)));
    }
}
