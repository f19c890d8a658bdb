//! Who may do what with which names: rules in order, of which the first that fits decides; what none fits is denied. It must
//! not know how a policy comes to be known, nor who asks.
//!
//! ```text
//! # a rule a line: allow or deny, what, which names, by whom
//! allow register,accept  svc/* vpn/*  by group servers member web-?
//! deny  allocate         svc/secret   by any
//! allow allocate         *            by any
//! allow offer            10.1.0.0/16  by group gateways
//! allow take             10.0.0.0/8   by any
//! allow send             tcp/443 icmp to group servers  by group clients
//! # and, of the layer as a whole
//! require hybrid
//! ```

mod glob;
mod parse;
mod service;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use proto::Label;

use glob::Glob;
pub use parse::PolicyError;
pub use service::Service;

use crate::dir::NameHash;

/// The rules of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    hybrid: bool,
}

/// What is done with a name; with a network, Offer and Take; with packets, Send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To say in the directory that one serves it.
    Register,
    /// To ask for a flow to it.
    Allocate,
    /// To take a flow to it.
    Accept,
    /// To offer to forward to it.
    Offer,
    /// To send by way of a member that offers it.
    Take,
    /// To send packets over the VPN to another member.
    Send,
}

/// Who does it, by its certificate.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The member.
    pub member: &'a Label,
    /// Its groups.
    pub groups: &'a [Label],
}

/// What a policy says, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be done.
    pub allowed: bool,
    /// The rule that decides, counted from 1, and its line; `None`: no rule fits.
    pub rule: Option<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    line: usize,
    allows: bool,
    acts: Vec<Act>,
    names: Vec<Glob>,
    networks: Vec<IpNet>,
    services: Vec<Service>,
    /// To whom packets are sent.
    to: Vec<Who>,
    who: Vec<Who>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Any,
    Member(Glob),
    Group(Glob),
}

impl Policy {
    /// Reads a policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        parse::policy(text)
    }

    /// Whether somebody may do something with a name, and which rule says so.
    pub fn judge(&self, act: Act, name: &str, who: Subject<'_>) -> Verdict {
        self.first(|rule| rule.fits(act, who) && rule.names_one_like(name))
    }

    /// The same of a network: a rule is of all networks inside those that it names.
    pub fn judge_network(&self, act: Act, net: &IpNet, who: Subject<'_>) -> Verdict {
        self.first(|rule| rule.fits(act, who) && rule.networks.iter().any(|n| n.contains(net)))
    }

    /// The same of packets to another member; `None` for the rule: none is of them.
    pub fn judge_packets(&self, service: &Service, from: Subject<'_>, to: Subject<'_>) -> Verdict {
        let covers = |rule: &Rule| rule.services.iter().any(|s| s.covers(service));
        self.first(|rule| rule.sends(from, to) && covers(rule))
    }

    /// What the rules say of packets to another member, in order: whether they allow, and what.
    pub fn services(&self, from: Subject<'_>, to: Subject<'_>) -> Vec<(bool, Service)> {
        let mut all = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.sends(from, to)) {
            for service in &rule.services {
                all.push((rule.allows, *service));
                if *service == Service::ALL {
                    return all;
                }
            }
        }
        all
    }

    fn first(&self, decides: impl Fn(&Rule) -> bool) -> Verdict {
        let mut rules = self.rules.iter().enumerate();
        let rule = rules.find(|(_, rule)| decides(rule));
        Verdict {
            allowed: rule.is_some_and(|(_, rule)| rule.allows),
            rule: rule.map(|(i, rule)| (i + 1, rule.line)),
        }
    }

    /// The same where only the hash of the name is known: no only if it is no for every name with that hash.
    pub fn may_allow(
        &self,
        act: Act,
        hash: &NameHash,
        hash_of: impl Fn(&str) -> Option<NameHash>,
        who: Subject<'_>,
    ) -> bool {
        for rule in self.rules.iter().filter(|rule| rule.fits(act, who)) {
            let same = |glob: &Glob| glob.literal().map(|name| hash_of(&name) == Some(*hash));
            let surely = |glob: &Glob| glob.is_all() || same(glob) == Some(true);
            let maybe = |glob: &Glob| same(glob) != Some(false);
            if rule.names.iter().any(surely) {
                return rule.allows;
            }
            if rule.allows && rule.names.iter().any(maybe) {
                return true;
            }
        }
        false
    }

    /// Whether members may agree on keys with the hybrid key exchange only.
    pub fn insists_on_hybrid(&self) -> bool {
        self.hybrid
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule; there always is one.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    fn fits(&self, act: Act, who: Subject<'_>) -> bool {
        self.acts.contains(&act) && self.who.iter().any(|w| w.is(who))
    }

    fn sends(&self, from: Subject<'_>, to: Subject<'_>) -> bool {
        self.fits(Act::Send, from) && self.to.iter().any(|w| w.is(to))
    }

    fn names_one_like(&self, name: &str) -> bool {
        self.names.iter().any(|glob| glob.fits(name))
    }
}

impl Who {
    fn is(&self, who: Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Member(glob) => glob.fits(who.member.as_str()),
            Self::Group(glob) => who.groups.iter().any(|group| glob.fits(group.as_str())),
        }
    }
}

impl Act {
    /// All that is done with names; `*` stands for them.
    pub const ALL: [Self; 3] = [Self::Register, Self::Allocate, Self::Accept];
    /// What is done with networks.
    pub const NETWORKS: [Self; 2] = [Self::Offer, Self::Take];

    /// The word for it in a policy.
    pub fn word(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Allocate => "allocate",
            Self::Accept => "accept",
            Self::Offer => "offer",
            Self::Take => "take",
            Self::Send => "send",
        }
    }
}

/// The most rules of a policy.
const MAX_RULES: usize = 1_024;
