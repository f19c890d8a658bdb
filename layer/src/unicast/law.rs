//! The layer's policy where it holds: of names, of flow requests, of flows that stand. It must not read rules itself.

use ipnet::IpNet;
use proto::ipcp::{Answer, CommandId};
use proto::irm::{self, Judgement, PolicyCheck, PolicyReply};
use proto::{Addr, Code, Label, Name, Reason};

use super::Unicast;
use super::member::Member;
use crate::Now;
use crate::crypt::{MemberCert, name_hash};
use crate::decree::{Decree, Decrees, Kind};
use crate::dir::NameHash;
use crate::policy::{Act, Policy, Service, Subject};

/// What holds in a layer.
#[derive(Debug, Default)]
pub(super) enum Law {
    /// No policy: every member may do everything.
    #[default]
    None,
    /// These rules, by their number, and as they were written.
    Rules(u64, String, Policy),
    /// Rules that this member can't read: it takes part in nothing.
    Unreadable(u64, String),
}

impl Law {
    /// What the decrees of a layer say.
    pub(super) fn of(decrees: &Decrees) -> Self {
        decrees.current(Kind::POLICY).map_or(Self::None, Self::read)
    }

    fn read(decree: &Decree) -> Self {
        let number = decree.number;
        if decree.content.is_empty() {
            return Self::None;
        }
        let text = std::str::from_utf8(&decree.content).ok();
        let Some(text) = text.and_then(|text| text.strip_prefix(HEAD)) else {
            let why = "it is written in a way that this release does not know; update it";
            return Self::Unreadable(number, why.to_owned());
        };
        match Policy::parse(text) {
            Ok(policy) => Self::Rules(number, text.to_owned(), policy),
            Err(error) => Self::Unreadable(number, error.to_string()),
        }
    }

    /// Whether a member may do something with a name; the reason if not.
    pub(super) fn judge(&self, act: Act, name: &Name, cert: &MemberCert) -> Result<(), Reason> {
        let (allowed, why) = self.decide(act, name, cert);
        if allowed {
            return Ok(());
        }
        let (member, act, layer) = (cert.member(), act.word(), cert.layer());
        let text = format!(
            "member {member} may not {act} {name} in {layer}: {why}; see irm policy show --layer {layer}"
        );
        Err(Reason::new(Code::Denied, text))
    }

    /// Whether a member may do something with a name, and which rule says so, in words.
    fn decide(&self, act: Act, name: &Name, cert: &MemberCert) -> (bool, String) {
        let (number, text, policy) = match self {
            Self::None => return (true, "the layer has no policy".to_owned()),
            Self::Unreadable(number, why) => {
                return (false, format!("policy {number} can't be read here: {why}"));
            }
            Self::Rules(number, text, policy) => (number, text, policy),
        };
        let verdict = policy.judge(act, name.as_str(), subject(cert));
        let Some(rule) = verdict.rule else {
            return (false, format!("no rule of policy {number} allows it"));
        };
        let why = explain(rule, *number, text, verdict.allowed);
        (verdict.allowed, why)
    }

    /// Whether a member may offer or take a network, and why; `None`: nothing is said of it.
    pub(super) fn decide_network(
        &self,
        act: Act,
        net: &IpNet,
        cert: &MemberCert,
    ) -> (Option<bool>, String) {
        let (number, text, policy) = match self {
            Self::None => return (None, "the layer has no policy".to_owned()),
            Self::Unreadable(number, why) => {
                let why = format!("policy {number} can't be read here: {why}");
                return (Some(false), why);
            }
            Self::Rules(number, text, policy) => (number, text, policy),
        };
        let verdict = policy.judge_network(act, net, subject(cert));
        let why = match verdict.rule {
            Some(rule) => explain(rule, *number, text, verdict.allowed),
            None => format!("no rule of policy {number} is of it"),
        };
        (verdict.rule.map(|_| verdict.allowed), why)
    }

    /// Whether a member may send packets for something to another, and why. Where no rule is of that, members of one group may, and
    /// those that are in none.
    fn decide_packets(
        &self,
        service: &Service,
        from: &MemberCert,
        to: &MemberCert,
    ) -> (bool, String) {
        let (number, text, policy) = match self {
            Self::None => return (true, "the layer has no policy".to_owned()),
            Self::Unreadable(number, why) => {
                return (false, format!("policy {number} can't be read here: {why}"));
            }
            Self::Rules(number, text, policy) => (number, text, policy),
        };
        let verdict = policy.judge_packets(service, subject(from), subject(to));
        if let Some(rule) = verdict.rule {
            return (
                verdict.allowed,
                explain(rule, *number, text, verdict.allowed),
            );
        }
        let why = match common(from, to) {
            Common::Group(group) => format!("both are in the group {group}"),
            Common::Groupless => "both are in no group".to_owned(),
            Common::Nothing => "they share no group".to_owned(),
        };
        let text = format!("no rule of policy {number} is of that, and {why}");
        (common(from, to) != Common::Nothing, text)
    }

    /// The same of all packets; `None`: all may be sent.
    fn filter(&self, from: &MemberCert, to: &MemberCert) -> Option<irm::Filter> {
        let mut all = match self {
            Self::None => return None,
            Self::Unreadable(..) => return Some(irm::Filter::default()),
            Self::Rules(_, _, policy) => policy.services(subject(from), subject(to)),
        };
        if all.last().is_none_or(|(_, last)| *last != Service::ALL) {
            all.push((common(from, to) != Common::Nothing, Service::ALL));
        }
        // Where all say the same at the end, that is the last one's.
        let last = all.last().map(|(allows, _)| *allows);
        while all.len() > 1 && all.get(all.len() - 2).map(|(allows, _)| *allows) == last {
            all.remove(all.len() - 2);
        }
        if all == [(true, Service::ALL)] {
            return None;
        }
        let rule = |(allow, service): (bool, Service)| irm::PassRule {
            allow,
            protocol: service.protocol.unwrap_or(0).into(),
            low: service.ports.0.into(),
            high: service.ports.1.into(),
        };
        let rules = all.into_iter().map(rule).collect();
        Some(irm::Filter { rules })
    }

    /// Whether a member may serve any name with that hash; the reason if that is certain not to be so.
    pub(super) fn may_serve(&self, cert: &MemberCert, hash: &NameHash) -> Result<(), Reason> {
        let hash_of = |name: &str| Some(name_hash(cert.layer(), &Name::new(name).ok()?));
        let may = match self {
            Self::None => true,
            Self::Unreadable(..) => false,
            Self::Rules(_, _, policy) => {
                policy.may_allow(Act::Register, hash, hash_of, subject(cert))
            }
        };
        let text = || {
            let (member, layer) = (cert.member(), cert.layer());
            format!("the policy of {layer} lets member {member} register no such name")
        };
        may.then_some(())
            .ok_or_else(|| Reason::new(Code::Denied, text()))
    }
}

impl Member {
    /// The certificate of a member, our own too.
    fn cert_of(&self, member: Addr) -> Option<&MemberCert> {
        if member == self.address {
            Some(self.identity.cert())
        } else {
            self.routing.member(member)
        }
    }

    /// The certificate of a member that is asked for by name.
    fn known_cert(&self, member: &Label) -> Result<&MemberCert, Reason> {
        self.cert_of(self.address_of(member)).ok_or_else(|| {
            let layer = self.layer();
            let text =
                format!("no member {member} is known in {layer}; see irm layer members {layer}");
            Reason::new(Code::NotFound, text)
        })
    }

    /// What is said of a network that `from` offers and `at` takes.
    fn judge_networks(&self, check: &PolicyCheck, reply: &mut PolicyReply) -> Result<(), Reason> {
        let net: IpNet = check.network.parse().map_err(|_| {
            let text = format!("{:?} is no network; use ADDR/LENGTH", check.network);
            Reason::new(Code::Usage, text)
        })?;
        for (member, act) in [(&check.from, Act::Offer), (&check.at, Act::Take)] {
            if member.is_empty() {
                continue;
            }
            let cert = self.known_cert(&Label::new(member.clone())?)?;
            let (said, why) = self.law.decide_network(act, &net, cert);
            reply.judgements.push(Judgement {
                member: member.clone(),
                act: act.word().to_owned(),
                name: net.to_string(),
                allowed: said.unwrap_or(false),
                why: match said {
                    Some(_) => why,
                    None => format!("{why}; who takes it says so, with --accept-routes"),
                },
            });
        }
        Ok(())
    }

    /// What is said of packets that `from` sends to `at`.
    fn judge_packets(&self, check: &PolicyCheck, reply: &mut PolicyReply) -> Result<(), Reason> {
        let usage = |text: String| Reason::new(Code::Usage, text);
        let service: Service = check.send.parse().map_err(usage)?;
        let cert = |member: &String| self.known_cert(&Label::new(member.clone())?);
        let (from, to) = (cert(&check.from)?, cert(&check.at)?);
        let (allowed, why) = self.law.decide_packets(&service, from, to);
        reply.judgements.push(Judgement {
            member: check.from.clone(),
            act: Act::Send.word().to_owned(),
            name: format!("{service} to {}", check.at),
            allowed,
            why,
        });
        Ok(())
    }

    /// Gives each member of a list the numbers of the filters that hold between it and this one; gives the filters.
    pub(super) fn status_filters(&self, members: &mut [irm::Member]) -> Vec<irm::Filter> {
        let mut filters: Vec<irm::Filter> = Vec::new();
        if matches!(self.law, Law::None) {
            return filters;
        }
        let own = self.identity.cert();
        let mut number = |filter: Option<irm::Filter>| {
            let Some(filter) = filter else { return 0 };
            let known = filters.iter().position(|f| *f == filter);
            let at = known.unwrap_or_else(|| {
                filters.push(filter);
                filters.len() - 1
            });
            // Of two for each member at most.
            at as u32 + 1
        };
        for member in members {
            // Of whom nothing is known, nothing is allowed.
            let cert = self.cert_of(Addr(member.address));
            let filter = |there: Option<(&MemberCert, &MemberCert)>| match there {
                Some((from, to)) => self.law.filter(from, to),
                None => Some(irm::Filter::default()),
            };
            member.sends = number(filter(cert.map(|cert| (own, cert))));
            member.takes = number(filter(cert.map(|cert| (cert, own))));
        }
        filters
    }

    /// Whether a member may do something with a name; the reason if not.
    pub(super) fn judge(&self, act: Act, name: &Name, member: Addr) -> Result<(), Reason> {
        if matches!(self.law, Law::None) {
            return Ok(());
        }
        let Some(cert) = self.cert_of(member) else {
            let text = format!("{member} has shown no certificate here yet; try again");
            return Err(Reason::new(Code::Denied, text));
        };
        self.law.judge(act, name, cert)
    }

    /// Whether a member may serve a name: be found by it, and take flows to it.
    pub(super) fn judge_server(&self, name: &Name, member: Addr) -> Result<(), Reason> {
        self.judge(Act::Register, name, member)?;
        self.judge(Act::Accept, name, member)
    }
}

/// Where it holds.
impl Unicast {
    /// Whether two members may have a flow to a name: one asks, the other takes it.
    pub(super) fn judge_flow(&self, name: &Name, caller: Addr, callee: Addr) -> Result<(), Reason> {
        let Some(me) = &self.me else {
            return Err(self.not_a_member());
        };
        me.judge(Act::Allocate, name, caller)?;
        me.judge(Act::Accept, name, callee)
    }

    /// Another policy holds, from now on and for what there is already.
    pub(super) fn law_changed(&mut self, now: Now) {
        let Some(me) = &mut self.me else { return };
        me.law = Law::of(&me.decrees);
        let (text, bad) = match &me.law {
            Law::None => ("the layer has no policy".to_owned(), false),
            Law::Rules(number, _, policy) => (
                format!("policy {number} holds: {} rules", policy.len()),
                false,
            ),
            Law::Unreadable(number, why) => (
                format!("policy {number} can't be read, so that all is denied: {why}"),
                true,
            ),
        };
        self.notice("policy.changed", text, "", bad);
        self.law_of_names(now);
        self.law_of_flows(now);
        self.review_keys(now);
        self.members_changed();
    }

    /// A member, maybe this one, is in other groups than before: what there is is judged by them.
    pub(super) fn groups_changed(&mut self, now: Now) {
        let lawless = |me: &Member| matches!(me.law, Law::None);
        if !self.me.as_ref().is_none_or(lawless) {
            self.law_of_names(now);
            self.law_of_flows(now);
        }
    }

    /// Names that may no longer be registered are known to nobody else, until they may again.
    fn law_of_names(&mut self, now: Now) {
        let Some(me) = &self.me else { return };
        let judge = |name: &Name| {
            (
                name.clone(),
                me.hash(name),
                me.judge_server(name, me.address),
            )
        };
        let all: Vec<_> = me.names().map(judge).collect();
        for (name, hash, verdict) in all {
            if !self.serve(now, hash, verdict.is_ok()) {
                continue;
            }
            let text = match &verdict {
                Ok(()) => format!("{name} may be registered"),
                Err(reason) => reason.text.clone(),
            };
            self.notice("name.policy", text, name.as_str(), verdict.is_err());
        }
        self.review_directory(now);
    }

    fn law_of_flows(&mut self, now: Now) {
        let Some(own) = self.me.as_ref().map(|me| me.address) else {
            return;
        };
        for endpoint in self.flows.all() {
            let Some(flow) = self.flows.get(endpoint) else {
                continue;
            };
            let (caller, callee) = match flow.incoming {
                true => (flow.peer, own),
                false => (own, flow.peer),
            };
            if let Err(reason) = self.judge_flow(&flow.name, caller, callee) {
                self.stats.count("flow.denied");
                self.say_dealloc(now, endpoint, &reason);
                self.flow_down(now, endpoint, reason);
            }
        }
        let outgoing = self.flows.outgoing.iter();
        let judged = outgoing.map(|(e, o)| (*e, o.asked.unwrap_or(own), o.ask.name.clone()));
        for (endpoint, callee, name) in judged.collect::<Vec<_>>() {
            let verdict = match callee == own {
                true => self
                    .me
                    .as_ref()
                    .map(|me| me.judge(Act::Allocate, &name, own)),
                false => Some(self.judge_flow(&name, own, callee)),
            };
            if let Some(Err(reason)) = verdict {
                self.allocation_failed(endpoint, reason);
            }
        }
        let incoming = self.flows.incoming.iter();
        let judged = incoming.map(|(id, i)| (*id, i.peer, i.remote, i.name.clone()));
        for (id, peer, remote, name) in judged.collect::<Vec<_>>() {
            if let Err(reason) = self.judge_flow(&name, peer, own) {
                self.flows.incoming.remove(&id);
                self.refuse(now, peer, remote, &reason);
            }
        }
    }
}

/// The commands.
impl Unicast {
    /// Says to all members what holds from now on; an empty text: no policy.
    pub(super) fn set_policy(&mut self, now: Now, text: &str) -> Result<(), Reason> {
        let content = if text.is_empty() {
            Vec::new()
        } else {
            Policy::parse(text).map_err(|e| Reason::new(Code::Usage, e.to_string()))?;
            format!("{HEAD}{text}").into_bytes()
        };
        if self.current_decree(Kind::POLICY).unwrap_or_default() == content {
            return Ok(());
        }
        self.publish_decree(now, Kind::POLICY, content).map(drop)
    }

    /// Shows what holds, and judges what is asked.
    pub(super) fn policy(&mut self, command: CommandId, check: &PolicyCheck) {
        let answer = self.policy_reply(check).map(Answer::Policy);
        self.done(command, answer);
    }

    fn policy_reply(&self, check: &PolicyCheck) -> Result<PolicyReply, Reason> {
        let Some(me) = &self.me else {
            return Err(self.not_a_member());
        };
        let mut reply = match &me.law {
            Law::None => PolicyReply::default(),
            Law::Rules(number, text, _) => PolicyReply {
                number: *number,
                text: text.clone(),
                ..PolicyReply::default()
            },
            Law::Unreadable(number, why) => PolicyReply {
                number: *number,
                text: format!("# can't be read here: {why}\n"),
                ..PolicyReply::default()
            },
        };
        if !check.network.is_empty() {
            me.judge_networks(check, &mut reply)?;
            return Ok(reply);
        }
        if !check.send.is_empty() {
            me.judge_packets(check, &mut reply)?;
            return Ok(reply);
        }
        if check.name.is_empty() {
            return Ok(reply);
        }
        let name = Name::new(check.name.clone())?;
        let asks = [
            (&check.from, &[Act::Allocate][..]),
            (&check.at, &[Act::Register, Act::Accept][..]),
        ];
        for (member, acts) in asks.into_iter().filter(|(member, _)| !member.is_empty()) {
            let member = Label::new(member.clone())?;
            let cert = me.known_cert(&member)?;
            for act in acts {
                let (allowed, why) = me.law.decide(*act, &name, cert);
                reply.judgements.push(Judgement {
                    member: member.to_string(),
                    act: act.word().to_owned(),
                    name: name.to_string(),
                    allowed,
                    why,
                });
            }
        }
        Ok(reply)
    }
}

/// Which rule decided, in words.
fn explain((rule, line): (usize, usize), number: u64, text: &str, allowed: bool) -> String {
    let words = text.lines().nth(line - 1).unwrap_or_default().trim();
    let says = if allowed { "allows" } else { "denies" };
    format!("rule {rule} of policy {number} {says} it, line {line}: {words}")
}

/// What two members have in common.
#[derive(Debug, PartialEq, Eq)]
enum Common<'a> {
    Group(&'a Label),
    /// Neither is in a group.
    Groupless,
    Nothing,
}

fn common<'a>(one: &'a MemberCert, other: &MemberCert) -> Common<'a> {
    let mut groups = one.groups().iter();
    match groups.find(|group| other.groups().contains(group)) {
        Some(group) => Common::Group(group),
        None if one.groups().is_empty() && other.groups().is_empty() => Common::Groupless,
        None => Common::Nothing,
    }
}

fn subject(cert: &MemberCert) -> Subject<'_> {
    Subject {
        member: cert.member(),
        groups: cert.groups(),
    }
}

/// How the content of a policy's decree begins; the number is that of the language.
const HEAD: &str = "strata policy 1\n";
