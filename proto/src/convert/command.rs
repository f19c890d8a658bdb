//! [`Command`] to and from `IpcpCommand`.

use std::time::Duration;

use super::{BadMessage, label, labels, name, optional, parsed, present, texts};
use crate::id::{FlowId, Label, Name};
use crate::ipcp::{
    Allocate, AuthorityAct, Bootstrap, Command, Enroll, Entry, Invite, Respond, Rollover, Settings,
    ShimUdp, User,
};
use crate::irm::{self as pb, ipcp_command::Command as Pb};
use crate::reason::{Code, Reason};

impl Command {
    /// The message that asks for this.
    pub fn into_message(self, id: u64) -> pb::IpcpCommand {
        let command = match self {
            Self::Bootstrap(b) => Pb::Bootstrap(b.into()),
            Self::Enroll(e) => Pb::Enroll(e.into()),
            Self::Set(s) => Pb::Set(pb::Set {
                hosts: texts(s.hosts),
                offload: texts(s.offload),
                over: texts(s.over),
                rate_mbit: s.rate_mbit,
                ip: s.ip.map(|ip| ip.to_string()).unwrap_or_default(),
                congestion: s.congestion.map(|c| c.to_string()),
                reach: s.reach.map(|at| pb::set::Reach { at: texts(at) }),
                below: s.below.map(|switches| pb::set::Below {
                    offload: texts(switches),
                }),
            }),
            Self::Register(n) => Pb::Register(pb::Register {
                name: n.to_string(),
            }),
            Self::Unregister(n) => Pb::Unregister(pb::Register {
                name: n.to_string(),
            }),
            Self::Allocate(a) => Pb::Allocate(a.into()),
            Self::Respond(r) => Pb::Respond(r.into()),
            Self::Dealloc(flow, reason) => Pb::Dealloc(pb::Dealloc {
                flow: flow.0,
                reason: Some(reason.into()),
            }),
            Self::Connect(m, timeout) => Pb::Connect(pb::Connect {
                member: m.to_string(),
                timeout_ms: timeout.map_or(0, |t| {
                    u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)
                }),
            }),
            Self::Disconnect(m) => Pb::Disconnect(pb::Connect {
                member: m.to_string(),
                timeout_ms: 0,
            }),
            Self::Invite(i) => Pb::Invite(i.into()),
            Self::Authority(act) => Pb::Authority(act.into()),
            Self::Policy(check) => Pb::Policy(check),
            Self::Offer(networks) => Pb::Offer(pb::Offer {
                networks: texts(networks),
            }),
            Self::Status => Pb::Status(pb::StatusWanted {}),
            Self::Shutdown => Pb::Shutdown(pb::Shutdown {}),
        };
        pb::IpcpCommand {
            id,
            command: Some(command),
        }
    }

    /// Parses a command; `None` for the stream's own `AttachWelcome`.
    pub fn from_message(message: pb::IpcpCommand) -> Result<Option<Self>, BadMessage> {
        Ok(Some(match present("command", message.command)? {
            Pb::Welcome(_) => return Ok(None),
            Pb::Bootstrap(b) => Self::Bootstrap(b.try_into()?),
            Pb::Enroll(e) => Self::Enroll(e.try_into()?),
            Pb::Set(s) => Self::Set(s.try_into()?),
            Pb::Register(r) => Self::Register(name("name", r.name)?),
            Pb::Unregister(r) => Self::Unregister(name("name", r.name)?),
            Pb::Allocate(a) => Self::Allocate(a.try_into()?),
            Pb::Respond(r) => Self::Respond(r.try_into()?),
            Pb::Dealloc(d) => Self::Dealloc(FlowId(d.flow), reason(d.reason)),
            Pb::Connect(c) => Self::Connect(
                label("member", c.member)?,
                (c.timeout_ms > 0).then(|| Duration::from_millis(c.timeout_ms)),
            ),
            Pb::Disconnect(c) => Self::Disconnect(label("member", c.member)?),
            Pb::Invite(i) => Self::Invite(i.try_into()?),
            Pb::Authority(act) => Self::Authority(act.try_into()?),
            Pb::Policy(check) => Self::Policy(check),
            Pb::Offer(offer) => Self::Offer(parsed("network", &offer.networks)?),
            Pb::Status(_) => Self::Status,
            Pb::Shutdown(_) => Self::Shutdown,
        }))
    }
}

fn reason(failure: Option<pb::Failure>) -> Reason {
    failure.map_or_else(|| Reason::new(Code::Closed, "closed"), Reason::from)
}

impl From<Bootstrap> for pb::Bootstrap {
    fn from(b: Bootstrap) -> Self {
        Self {
            layer: b.layer.to_string(),
            over: texts(b.over),
            prefixes: texts(b.prefixes),
            default_pools: b.pools.is_none(),
            pools: texts(b.pools.unwrap_or_default()),
            cert_life_s: b.cert_life.map_or(0, |life| life.as_secs()),
            passphrase: b.passphrase,
            shim_udp: b.shim_udp.map(Into::into),
        }
    }
}

impl TryFrom<pb::Bootstrap> for Bootstrap {
    type Error = BadMessage;
    fn try_from(b: pb::Bootstrap) -> Result<Self, BadMessage> {
        Ok(Self {
            layer: label("layer", b.layer)?,
            over: labels("over", b.over)?,
            prefixes: parsed("prefix", &b.prefixes)?,
            pools: match b.default_pools {
                true => None,
                false => Some(parsed("pool", &b.pools)?),
            },
            cert_life: (b.cert_life_s > 0).then(|| Duration::from_secs(b.cert_life_s)),
            passphrase: b.passphrase,
            shim_udp: b.shim_udp.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<ShimUdp> for pb::ShimUdpConfig {
    fn from(s: ShimUdp) -> Self {
        Self {
            ip: s.ip.to_string(),
            port: u32::from(s.port),
            hosts: texts(s.hosts),
            dns: s.dns.map(|d| d.to_string()).unwrap_or_default(),
            flow_ports: s
                .flow_ports
                .map(|(lo, hi)| format!("{lo}-{hi}"))
                .unwrap_or_default(),
            offload: texts(s.offload),
        }
    }
}

impl TryFrom<pb::ShimUdpConfig> for ShimUdp {
    type Error = BadMessage;
    fn try_from(s: pb::ShimUdpConfig) -> Result<Self, BadMessage> {
        let some = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            ip: s.ip.parse().map_err(|e| BadMessage::Field("ip", e))?,
            port: match s.port {
                0 => Self::PORT,
                port => u16::try_from(port)
                    .map_err(|_| BadMessage::Field("port", format!("{port} is above 65535")))?,
            },
            hosts: parsed("host", &s.hosts)?,
            dns: some(s.dns)
                .map(|d| d.parse().map_err(|e| BadMessage::Field("dns", e)))
                .transpose()?,
            flow_ports: some(s.flow_ports)
                .map(|p| {
                    super::text::port_range(&p).map_err(|e| BadMessage::Field("flow_ports", e))
                })
                .transpose()?,
            offload: parsed("offload", &s.offload)?,
        })
    }
}

impl From<Enroll> for pb::Enroll {
    fn from(e: Enroll) -> Self {
        let mut out = Self {
            over: texts(e.over),
            timeout_ms: e.timeout_ms,
            ..Self::default()
        };
        match e.entry {
            Entry::Invitation(url) => out.invitation = url,
            Entry::Certificate {
                layer,
                dst,
                ca,
                cert,
                key,
            } => {
                (out.layer, out.dst) = (layer.to_string(), dst.to_string());
                (out.ca, out.cert, out.key) = (ca, cert, key);
            }
            Entry::Rejoin => {}
        }
        out
    }
}

impl TryFrom<pb::Enroll> for Enroll {
    type Error = BadMessage;
    fn try_from(e: pb::Enroll) -> Result<Self, BadMessage> {
        let entry = if !e.invitation.is_empty() {
            Entry::Invitation(e.invitation)
        } else if !e.dst.is_empty() {
            Entry::Certificate {
                layer: label("layer", e.layer)?,
                dst: label("dst", e.dst)?,
                ca: e.ca,
                cert: e.cert,
                key: e.key,
            }
        } else {
            Entry::Rejoin
        };
        Ok(Self {
            entry,
            over: labels("over", e.over)?,
            timeout_ms: e.timeout_ms,
        })
    }
}

impl TryFrom<pb::Set> for Settings {
    type Error = BadMessage;
    fn try_from(s: pb::Set) -> Result<Self, BadMessage> {
        Ok(Self {
            hosts: parsed("host", &s.hosts)?,
            offload: parsed("offload", &s.offload)?,
            over: labels("over", s.over)?,
            rate_mbit: s.rate_mbit,
            ip: match s.ip.is_empty() {
                true => None,
                false => parsed("ip", &[s.ip])?.pop(),
            },
            congestion: parsed("congestion", s.congestion.as_slice())?.pop(),
            reach: s.reach.map(|r| parsed("reach", &r.at)).transpose()?,
            below: (s.below.map(|b| parsed("below", &b.offload))).transpose()?,
        })
    }
}

impl From<Allocate> for pb::Allocate {
    fn from(a: Allocate) -> Self {
        Self {
            flow: a.flow.0,
            name: a.name.to_string(),
            source: a.source.map(|n| n.to_string()).unwrap_or_default(),
            qos: Some(a.qos.into()),
            peer_member: a.peer.map(|m| m.to_string()).unwrap_or_default(),
            uid: a.user.uid,
            ipcp: a.user.ipcp,
            timeout_ms: a.timeout_ms,
            at: texts(a.at),
        }
    }
}

impl TryFrom<pb::Allocate> for Allocate {
    type Error = BadMessage;
    fn try_from(a: pb::Allocate) -> Result<Self, BadMessage> {
        Ok(Self {
            flow: FlowId(a.flow),
            name: name("name", a.name)?,
            source: optional("source", a.source, Name::new)?,
            qos: present("qos", a.qos)?.try_into()?,
            peer: optional("peer_member", a.peer_member, Label::new)?,
            user: User {
                uid: a.uid,
                ipcp: a.ipcp,
            },
            timeout_ms: a.timeout_ms,
            at: parsed("at", &a.at)?,
        })
    }
}

impl From<Respond> for pb::Respond {
    fn from(r: Respond) -> Self {
        let request = r.request;
        match r.verdict {
            Ok((flow, user)) => Self {
                request,
                flow: flow.0,
                accept: true,
                reason: None,
                uid: user.uid,
                ipcp: user.ipcp,
            },
            Err(reason) => Self {
                request,
                reason: Some(reason.into()),
                ..Self::default()
            },
        }
    }
}

impl TryFrom<pb::Respond> for Respond {
    type Error = BadMessage;
    fn try_from(r: pb::Respond) -> Result<Self, BadMessage> {
        let verdict = match r.accept {
            true => Ok((
                FlowId(r.flow),
                User {
                    uid: r.uid,
                    ipcp: r.ipcp,
                },
            )),
            false => Err(reason(r.reason)),
        };
        Ok(Self {
            request: r.request,
            verdict,
        })
    }
}

impl From<AuthorityAct> for pb::AuthorityAct {
    fn from(act: AuthorityAct) -> Self {
        use pb::authority_act::Act;
        Self {
            act: Some(match act {
                AuthorityAct::Revoke(member) => Act::Revoke(member.to_string()),
                AuthorityAct::Delegate(member, prefixes) => Act::Delegate(pb::Delegate {
                    member: member.to_string(),
                    prefixes: texts(prefixes),
                }),
                AuthorityAct::Undelegate(member) => Act::Undelegate(member.to_string()),
                AuthorityAct::Policy(text) => Act::Policy(text),
                AuthorityAct::Export(passphrase) => Act::Export(passphrase),
                AuthorityAct::Import {
                    file,
                    passphrase,
                    sealed,
                } => Act::Import(pb::ImportAuthority {
                    file,
                    passphrase,
                    sealed,
                }),
                AuthorityAct::Rollover(rollover) => Act::Rollover(rollover.into()),
                AuthorityAct::Seal(passphrase) => Act::Seal(pb::SealAuthority {
                    off: passphrase.is_none(),
                    passphrase: passphrase.unwrap_or_default(),
                }),
                AuthorityAct::Unlock(passphrase) => Act::Unlock(passphrase),
                AuthorityAct::Lock => Act::Lock(pb::LockAuthority {}),
            }),
        }
    }
}

impl TryFrom<pb::AuthorityAct> for AuthorityAct {
    type Error = BadMessage;
    fn try_from(act: pb::AuthorityAct) -> Result<Self, BadMessage> {
        use pb::authority_act::Act;
        Ok(match present("act", act.act)? {
            Act::Revoke(member) => Self::Revoke(label("member", member)?),
            Act::Delegate(d) => {
                Self::Delegate(label("member", d.member)?, parsed("prefix", &d.prefixes)?)
            }
            Act::Undelegate(member) => Self::Undelegate(label("member", member)?),
            Act::Policy(text) => Self::Policy(text),
            Act::Export(passphrase) => Self::Export(passphrase),
            Act::Import(i) => Self::Import {
                file: i.file,
                passphrase: i.passphrase,
                sealed: i.sealed,
            },
            Act::Rollover(r) => Self::Rollover(r.into()),
            Act::Seal(s) => Self::Seal((!s.off).then_some(s.passphrase)),
            Act::Unlock(passphrase) => Self::Unlock(passphrase),
            Act::Lock(_) => Self::Lock,
        })
    }
}

impl From<Rollover> for pb::Rollover {
    fn from(rollover: Rollover) -> Self {
        match rollover {
            Rollover::Begin(ends) => Self {
                ends_in_s: ends.map_or(0, |ends| ends.as_secs().max(1)),
                ..Self::default()
            },
            Rollover::Finish { force } => Self {
                finish: true,
                force,
                ..Self::default()
            },
        }
    }
}

impl From<pb::Rollover> for Rollover {
    fn from(r: pb::Rollover) -> Self {
        match r.finish {
            true => Self::Finish { force: r.force },
            false => Self::Begin((r.ends_in_s > 0).then(|| Duration::from_secs(r.ends_in_s))),
        }
    }
}

impl From<Invite> for pb::Invite {
    fn from(i: Invite) -> Self {
        Self {
            member: i.member.map(|m| m.to_string()).unwrap_or_default(),
            prefixes: texts(i.prefixes),
            expires_ms: i.expires_ms,
            uses: i.uses,
            hints: texts(i.hints),
            groups: texts(i.groups),
        }
    }
}

impl TryFrom<pb::Invite> for Invite {
    type Error = BadMessage;
    fn try_from(i: pb::Invite) -> Result<Self, BadMessage> {
        Ok(Self {
            member: optional("member", i.member, Label::new)?,
            prefixes: parsed("prefix", &i.prefixes)?,
            expires_ms: i.expires_ms,
            uses: i.uses,
            hints: parsed("hint", &i.hints)?,
            groups: labels("groups", i.groups)?,
        })
    }
}
