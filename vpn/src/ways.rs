//! Networks behind members: which of those that are offered this host takes. It must not set a route.
//!
//! The rule: what the policy denies is never taken; what it allows is; what it says nothing of, the administrator of this
//! host takes with `--accept-routes`, or doesn't. A default route is taken from nobody but the member that `--exit` names.
//! Of several that offer the same network the first by name counts that can be reached.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proto::irm::{OfferedNetwork, VpnWays};
use proto::{Label, Reason};

use crate::config::prefixes;

/// A network that a member offers, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The network.
    pub net: IpNet,
    /// The member.
    pub member: Label,
    /// Whether packets to it go by way of the member, and may come from there.
    pub taken: bool,
    /// Why, or why not.
    pub why: String,
}

/// Whether this host answers for the names of members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// No.
    #[default]
    Off,
    /// Yes.
    On,
    /// Yes, and systemd-resolved is told so.
    Resolved,
}

/// What the administrator of this host wants.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    pub(crate) offers: Vec<IpNet>,
    accept: bool,
    pub(crate) exit: Option<Label>,
    pub(crate) names: Names,
}

impl Ways {
    pub(crate) fn parse(wire: VpnWays) -> Result<Self, Reason> {
        let offers = prefixes("offers", &wire.offers)?;
        let exit = match wire.exit.is_empty() {
            true => None,
            false => Some(Label::new(wire.exit)?),
        };
        Ok(Self {
            offers: offers.iter().map(IpNet::trunc).collect(),
            accept: wire.accept,
            exit,
            names: match wire.names.as_str() {
                "" => Names::Off,
                "resolved" => Names::Resolved,
                _ => Names::On,
            },
        })
    }

    /// Judges what members offer, each with whether it can be reached.
    pub(crate) fn judge(
        &self,
        me: &Label,
        offers: Vec<(Label, bool, OfferedNetwork)>,
    ) -> Vec<Offered> {
        let mut judged: Vec<(bool, Offered)> = Vec::new();
        for (member, reachable, offer) in offers.into_iter().filter(|(name, ..)| name != me) {
            // The layer checked that it is one.
            let Ok(net) = offer.network.parse::<IpNet>() else {
                continue;
            };
            let (taken, why) = self.verdict(&net, &member, &offer);
            let offered = Offered {
                net: net.trunc(),
                member,
                taken,
                why,
            };
            judged.push((reachable, offered));
        }
        let mut first: BTreeMap<IpNet, (bool, Label)> = BTreeMap::new();
        for (reachable, offered) in judged.iter().filter(|(_, o)| o.taken) {
            let best = first.get(&offered.net);
            let better = |(r, name): &(bool, Label)| (!r, name) > (!reachable, &offered.member);
            if best.is_none_or(better) {
                first.insert(offered.net, (*reachable, offered.member.clone()));
            }
        }
        let mut all: Vec<Offered> = judged.into_iter().map(|(_, offered)| offered).collect();
        for offered in all.iter_mut().filter(|o| o.taken) {
            if let Some((_, before)) = first.get(&offered.net)
                && *before != offered.member
            {
                (offered.taken, offered.why) = (false, format!("{before} offers it too"));
            }
        }
        all.sort_by(|a, b| (&a.net, &a.member).cmp(&(&b.net, &b.member)));
        all
    }

    fn verdict(&self, net: &IpNet, member: &Label, offer: &OfferedNetwork) -> (bool, String) {
        let default = net.prefix_len() == 0;
        let chosen = self.exit.as_ref() == Some(member);
        match offer.verdict.as_str() {
            "denied" => (false, offer.why.clone()),
            _ if default && chosen => (true, format!("--exit {member}")),
            _ if default => (false, format!("a way out is taken with --exit {member}")),
            "allowed" => (true, offer.why.clone()),
            _ if self.accept => (true, "--accept-routes".to_owned()),
            _ => (
                false,
                format!("{}; take it with --accept-routes", offer.why),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(member: &str, network: &str, verdict: &str) -> (Label, bool, OfferedNetwork) {
        let offer = OfferedNetwork {
            network: network.to_owned(),
            verdict: verdict.to_owned(),
            why: "rule 1".to_owned(),
        };
        (Label::new(member).unwrap(), true, offer)
    }

    fn taken(ways: &Ways, offers: Vec<(Label, bool, OfferedNetwork)>) -> Vec<String> {
        let judged = ways.judge(&Label::new("a").unwrap(), offers);
        let taken = judged.iter().filter(|o| o.taken);
        taken.map(|o| format!("{}={}", o.net, o.member)).collect()
    }

    #[test]
    fn what_the_policy_denies_is_never_taken_and_what_it_is_silent_of_only_by_the_administrator() {
        let offers = || {
            vec![
                offer("b", "10.1.0.0/16", "allowed"),
                offer("b", "10.2.0.0/16", "denied"),
                offer("b", "10.3.0.0/16", "silent"),
                offer("a", "10.4.0.0/16", "allowed"),
            ]
        };
        let mut ways = Ways::default();
        assert_eq!(taken(&ways, offers()), ["10.1.0.0/16=b"]);
        ways.accept = true;
        assert_eq!(taken(&ways, offers()), ["10.1.0.0/16=b", "10.3.0.0/16=b"]);
    }

    #[test]
    fn a_default_route_is_taken_from_the_exit_alone() {
        let offers = || {
            vec![
                offer("b", "0.0.0.0/0", "allowed"),
                offer("c", "0.0.0.0/0", "silent"),
                offer("c", "::/0", "denied"),
            ]
        };
        let mut ways = Ways {
            accept: true,
            ..Ways::default()
        };
        assert_eq!(taken(&ways, offers()), [""; 0]);
        ways.exit = Some(Label::new("c").unwrap());
        assert_eq!(taken(&ways, offers()), ["0.0.0.0/0=c"]);
    }

    #[test]
    fn of_two_that_offer_the_same_the_first_that_can_be_reached_counts() {
        let ways = Ways::default();
        let mut offers = vec![
            offer("b", "10.1.0.0/16", "allowed"),
            offer("c", "10.1.0.0/16", "allowed"),
        ];
        assert_eq!(taken(&ways, offers.clone()), ["10.1.0.0/16=b"]);
        offers[0].1 = false;
        assert_eq!(taken(&ways, offers.clone()), ["10.1.0.0/16=c"]);
        offers[1].1 = false;
        assert_eq!(taken(&ways, offers), ["10.1.0.0/16=b"]);
    }
}
