//! Which offloads the sockets of lower flows may use, as users say it: of the process itself, and of the shims that the sockets come
//! from. Where both have a say, off counts.

use std::collections::BTreeMap;

use proto::Label;
use proto::ipcp::Settings;

use crate::udp::Offloads;

/// All that was said.
#[derive(Debug, Default)]
pub(super) struct Switches {
    own: Offloads,
    below: BTreeMap<Label, Offloads>,
}

impl Switches {
    /// Takes in what is said. Says whether anything of that is about offloads.
    pub(super) fn set(&mut self, settings: &Settings) -> bool {
        self.own.apply(&settings.offload);
        if let Some(switches) = &settings.below {
            self.below.clear();
            for switch in switches {
                let of = self.below.entry(switch.over.clone()).or_default();
                of.apply(&[switch.offload]);
            }
        }
        settings.below.is_some() || !settings.offload.is_empty()
    }

    /// What holds for sockets of this lower layer.
    pub(super) fn of(&self, over: &Label) -> Offloads {
        let below = self.below.get(over).copied();
        self.own.and(below.unwrap_or_default())
    }

    /// The process's own.
    pub(super) fn own(&self) -> Offloads {
        self.own
    }
}

#[cfg(test)]
mod tests {
    use proto::ipcp::OffloadMode::{Auto, Off, On};

    use super::*;

    fn of(switches: &Switches, layer: &str) -> Offloads {
        switches.of(&layer.parse().unwrap())
    }

    #[test]
    fn a_shims_switches_hold_for_its_own_sockets_and_go_when_it_says_others() {
        let mut switches = Switches::default();
        let below = |said: &[&str]| Settings {
            below: Some(said.iter().map(|s| s.parse().unwrap()).collect()),
            ..Settings::default()
        };
        let own = |said: &str| Settings {
            offload: vec![said.parse().unwrap()],
            ..Settings::default()
        };
        // What was said last counts.
        assert!(switches.set(&below(&["net=gso=on", "net=gso=off", "wlan=gro=off"])));
        let (gso_off, gro_off) = (
            Offloads {
                gso: Off,
                gro: Auto,
            },
            Offloads {
                gso: Auto,
                gro: Off,
            },
        );
        assert_eq!(
            (of(&switches, "net"), of(&switches, "wlan")),
            (gso_off, gro_off)
        );
        assert_eq!(of(&switches, "else"), Offloads::default());
        // The process's own: off counts.
        assert!(switches.set(&own("gso=on")));
        assert_eq!(of(&switches, "net"), gso_off);
        assert_eq!(of(&switches, "wlan"), Offloads { gso: On, gro: Off });
        assert!(switches.set(&below(&[])));
        assert_eq!(of(&switches, "net"), Offloads { gso: On, gro: Auto });
        assert!(!switches.set(&Settings::default()));
    }
}
