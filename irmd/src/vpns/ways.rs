//! Networks behind members: what a VPN is to offer, to take, and to go out by. It must not touch routes: that is the VPN's.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use proto::ipcp::Command;
use proto::irm::{Member, VpnWays};
use proto::{Code, Label, Reason};
use serde::{Deserialize, Serialize};

use super::all;
use crate::daemon::Daemon;
use crate::ipcps::Ipcp;

/// What a VPN has to do with networks behind members, and with names; kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ways {
    offers: BTreeSet<IpNet>,
    accept: bool,
    exit: String,
    names: String,
}

impl Ways {
    /// Reads what an administrator asked for.
    pub(super) fn parse(asked: VpnWays) -> Result<Self, Reason> {
        let usage = |text: String| Reason::new(Code::Usage, text);
        let network = |text: &String| {
            let net = text.parse::<IpNet>();
            net.map(|net| net.trunc())
                .map_err(|_| usage(format!("the offer {text:?} is no network; use ADDR/LENGTH")))
        };
        if !asked.exit.is_empty() {
            Label::new(asked.exit.clone())?;
        }
        if !["", "on", "resolved"].contains(&asked.names.as_str()) {
            let text = format!("--dns is on or resolved, not {:?}", asked.names);
            return Err(usage(text));
        }
        let ways = Self {
            offers: asked.offers.iter().map(network).collect::<Result<_, _>>()?,
            accept: asked.accept,
            exit: asked.exit,
            names: asked.names,
        };
        if !ways.exit.is_empty() && ways.offers.iter().any(|net| net.prefix_len() == 0) {
            let text = "one that goes out by another member can't be the way out for others; leave --exit or the default route in --offer out";
            return Err(usage(text.to_owned()));
        }
        Ok(ways)
    }

    /// Whether the VPN of this device may have them beside the others: a host has one way out.
    pub(super) fn fits(&self, daemon: &Daemon, dev: &str) -> Result<(), Reason> {
        let other = all(daemon)
            .into_iter()
            .find(|v| !self.exit.is_empty() && !v.spec.ways.exit.is_empty() && v.spec.dev != dev);
        other.map_or(Ok(()), |v| {
            let text = format!(
                "the VPN {} goes out by {} already; take it down first, or leave --exit out",
                v.spec.dev, v.spec.ways.exit
            );
            Err(Reason::new(Code::Conflict, text))
        })
    }

    /// Which of them were asked for, as an administrator does.
    pub(super) fn asked(&self) -> [(bool, &'static str); 4] {
        [
            (!self.offers.is_empty(), "--offer"),
            (self.accept, "--accept-routes"),
            (!self.exit.is_empty(), "--exit"),
            (!self.names.is_empty(), "--dns"),
        ]
    }

    pub(super) fn to_message(&self) -> VpnWays {
        VpnWays {
            offers: self.offers.iter().map(ToString::to_string).collect(),
            accept: self.accept,
            exit: self.exit.clone(),
            names: self.names.clone(),
        }
    }

    /// Has the layer say what this host offers, if it says something else.
    pub(super) async fn offer(
        &self,
        ipcp: &Ipcp,
        me: &str,
        members: &[Member],
    ) -> Result<(), Reason> {
        let own = members.iter().find(|member| member.name == me);
        let said = own.map_or(&[][..], |member| &member.offers);
        let said: BTreeSet<IpNet> = said.iter().filter_map(|o| o.network.parse().ok()).collect();
        if said == self.offers {
            return Ok(());
        }
        offer(ipcp, self.offers.iter().copied().collect()).await
    }

    /// The VPN is gone, and with it what it offered.
    pub(super) async fn withdraw(&self, daemon: &Daemon, layer: &str) {
        let layer = Label::new(layer.to_owned()).ok();
        let ipcp = layer.and_then(|layer| daemon.in_layer(&layer).ok());
        let Some(ipcp) = ipcp.filter(|_| !self.offers.is_empty()) else {
            return;
        };
        if let Err(reason) = offer(&ipcp, Vec::new()).await {
            // It says so no more when it is up again.
            tracing::warn!(%reason, "what the VPN offered can't be withdrawn");
        }
    }
}

async fn offer(ipcp: &Ipcp, networks: Vec<IpNet>) -> Result<(), Reason> {
    let command = Command::Offer(networks);
    ipcp.call(command, Duration::from_secs(1)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(offers: &[&str], exit: &str, names: &str) -> Result<Ways, Reason> {
        Ways::parse(VpnWays {
            offers: offers.iter().map(|o| (*o).to_owned()).collect(),
            accept: false,
            exit: exit.to_owned(),
            names: names.to_owned(),
        })
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let ways = asked(&["10.1.2.3/16", "10.1.0.0/16"], "", "on").unwrap();
        assert_eq!(ways.to_message().offers, ["10.1.0.0/16"]);
        for (refused, why) in [
            (asked(&["10.1.0.0"], "", ""), "no network"),
            (asked(&[], "No Member", ""), "a-z"),
            (asked(&[], "", "yes"), "resolved"),
            (asked(&["::/0"], "b", ""), "way out"),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code, Code::Usage);
            assert!(refused.text.contains(why), "{refused}");
        }
    }
}
