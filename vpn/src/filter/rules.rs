//! What may be sent one way between two members: rules in order, as the layer has worked them out of its policy.

use proto::irm::{self, PassRule};

use super::packet::ICMP;

/// Rules of which the first that fits decides; what none fits is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allows: bool,
    /// `None`: all.
    protocol: Option<u8>,
    ports: (u16, u16),
}

impl Rules {
    /// Whether packets of a protocol may be sent to a port there; 0 where it has no ports.
    pub fn allow(&self, protocol: u8, port: u16) -> bool {
        let fits = |rule: &&Rule| {
            rule.protocol.is_none_or(|p| p == protocol)
                && (rule.ports.0..=rule.ports.1).contains(&port)
        };
        self.0.iter().find(fits).is_some_and(|rule| rule.allows)
    }

    /// Whether everything may be sent: a rule that allows all, and none before it that denies something.
    pub fn allow_all(&self) -> bool {
        let decides = |rule: &&Rule| !rule.allows || **rule == ALL;
        self.0.iter().find(decides) == Some(&ALL)
    }
}

impl From<irm::Filter> for Rules {
    fn from(wire: irm::Filter) -> Self {
        Self(wire.rules.iter().filter_map(rule).collect())
    }
}

/// What can't be read fits nothing if it allows, and everything if it denies.
fn rule(wire: &PassRule) -> Option<Rule> {
    let number = |n: u32| u16::try_from(n).ok();
    let read = || {
        Some(Rule {
            allows: wire.allow,
            protocol: match u8::try_from(wire.protocol).ok()? {
                0 => None,
                58 => Some(ICMP),
                other => Some(other),
            },
            ports: (number(wire.low)?, number(wire.high)?),
        })
    };
    let all = Rule {
        allows: false,
        protocol: None,
        ports: (0, u16::MAX),
    };
    read().or_else(|| (!wire.allow).then_some(all))
}

const ALL: Rule = Rule {
    allows: true,
    protocol: None,
    ports: (0, u16::MAX),
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rules as `(allows, protocol, low, high)`.
    pub(in crate::filter) fn rules(all: &[(bool, u32, u32, u32)]) -> Rules {
        let rule = |(allow, protocol, low, high): &(bool, u32, u32, u32)| PassRule {
            allow: *allow,
            protocol: *protocol,
            low: *low,
            high: *high,
        };
        let rules = all.iter().map(rule).collect();
        irm::Filter { rules }.into()
    }

    #[test]
    fn the_first_that_fits_decides_and_none_denies() {
        let all = rules(&[
            (false, 6, 22, 22),
            (true, 6, 1, 1023),
            (true, 17, 53, 53),
            (true, 58, 0, 65_535),
        ]);
        assert!(all.allow(6, 443) && all.allow(17, 53) && all.allow(ICMP, 0));
        assert!(
            !all.allow(6, 22) && !all.allow(6, 8080) && !all.allow(17, 54) && !all.allow(47, 0)
        );
        assert!(!Rules::default().allow(6, 443));
    }

    #[test]
    fn what_cannot_be_read_allows_nothing() {
        let all = (true, 0, 0, 65_535);
        assert!(!rules(&[(true, 6, 0, 70_000)]).allow(6, 1));
        assert!(!rules(&[(false, 300, 0, 5), all]).allow(6, 443));
        assert!(rules(&[(true, 300, 0, 5), all]).allow(6, 443));
    }
}
