//! [`Event`] to and from `IpcpEvent`.

use super::{BadMessage, label, name, optional, parsed, present, texts, token};
use crate::id::{FlowId, Label};
use crate::ipcp::{Allocated, Answer, Configured, Event, FlowRequest, Notice, State};
use crate::irm::{self as pb, done, ipcp_event::Event as Pb};
use crate::reason::Reason;

impl From<Event> for pb::IpcpEvent {
    fn from(event: Event) -> Self {
        let event = match event {
            Event::Done(id, result) => Pb::Done(done_message(id, result)),
            Event::FlowRequest(r) => Pb::Request(pb::FlowRequest {
                request: r.request,
                name: r.name.to_string(),
                peer: Some(r.peer.into()),
                qos: Some(r.qos.into()),
                mtu: r.mtu,
                timeout_ms: r.timeout_ms,
            }),
            Event::FlowDown(flow, reason) => Pb::Down(pb::FlowDown {
                flow: flow.0,
                reason: Some(reason.into()),
            }),
            Event::State(state, detail) => Pb::State(pb::StateChange {
                state: state.word().to_owned(),
                detail,
            }),
            Event::Notice(n) => Pb::Notice(pb::Notice {
                kind: n.kind,
                text: n.text,
                fields: n.fields.into_iter().collect(),
                warning: n.warning,
            }),
            Event::Members => Pb::Members(pb::MembersChanged {}),
        };
        Self { event: Some(event) }
    }
}

fn done_message(id: u64, result: Result<Answer, Reason>) -> pb::Done {
    let (answer, failure) = match result {
        Ok(Answer::Ok) => (None, None),
        Ok(Answer::Allocated(a)) => (Some(done::Answer::Allocated(a.into())), None),
        Ok(Answer::Status(s)) => (Some(done::Answer::Status(*s)), None),
        Ok(Answer::Invitation(url)) => (Some(done::Answer::Invitation(url)), None),
        Ok(Answer::Exported(file)) => (Some(done::Answer::Exported(file)), None),
        Ok(Answer::Configured(c)) => (Some(done::Answer::Configured(c.into())), None),
        Ok(Answer::Policy(p)) => (Some(done::Answer::Policy(p)), None),
        Err(reason) => (None, Some(reason.into())),
    };
    pb::Done {
        id,
        failure,
        answer,
    }
}

impl Event {
    /// Parses an event; `None` for the stream's own `IpcpHello`.
    pub fn from_message(message: pb::IpcpEvent) -> Result<Option<Self>, BadMessage> {
        Ok(Some(match present("event", message.event)? {
            Pb::Hello(_) => return Ok(None),
            Pb::Done(d) => {
                let result = match (d.failure, d.answer) {
                    (Some(failure), _) => Err(failure.into()),
                    (None, None) => Ok(Answer::Ok),
                    (None, Some(done::Answer::Allocated(a))) => {
                        Ok(Answer::Allocated(a.try_into()?))
                    }
                    (None, Some(done::Answer::Status(s))) => Ok(Answer::Status(Box::new(s))),
                    (None, Some(done::Answer::Invitation(url))) => Ok(Answer::Invitation(url)),
                    (None, Some(done::Answer::Policy(p))) => Ok(Answer::Policy(p)),
                    (None, Some(done::Answer::Exported(file))) => Ok(Answer::Exported(file)),
                    (None, Some(done::Answer::Configured(c))) => {
                        Ok(Answer::Configured(c.try_into()?))
                    }
                };
                Self::Done(d.id, result)
            }
            Pb::Request(r) => Self::FlowRequest(FlowRequest {
                request: r.request,
                name: name("name", r.name)?,
                peer: present("peer", r.peer)?.try_into()?,
                qos: present("qos", r.qos)?.try_into()?,
                mtu: r.mtu,
                timeout_ms: r.timeout_ms,
            }),
            Pb::Down(d) => Self::FlowDown(FlowId(d.flow), present("reason", d.reason)?.into()),
            Pb::State(s) => {
                let state = State::from_word(&s.state);
                Self::State(
                    state.ok_or_else(|| BadMessage::Field("state", s.state.clone()))?,
                    s.detail,
                )
            }
            Pb::Notice(n) => {
                let mut fields: Vec<_> = n.fields.into_iter().collect();
                fields.sort();
                Self::Notice(Notice {
                    kind: n.kind,
                    text: n.text,
                    fields,
                    warning: n.warning,
                })
            }
            Pb::Members(_) => Self::Members,
        }))
    }
}

impl From<Allocated> for pb::Allocated {
    fn from(a: Allocated) -> Self {
        Self {
            mtu: a.mtu,
            qos: Some(a.qos.into()),
            peer: Some(a.peer.into()),
            token: a.token.map(|t| t.0.to_vec()).unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Allocated> for Allocated {
    type Error = BadMessage;
    fn try_from(a: pb::Allocated) -> Result<Self, BadMessage> {
        Ok(Self {
            mtu: a.mtu,
            qos: present("qos", a.qos)?.try_into()?,
            peer: present("peer", a.peer)?.try_into()?,
            token: token("token", &a.token)?,
        })
    }
}

impl From<Configured> for pb::Configured {
    fn from(c: Configured) -> Self {
        Self {
            layer: c.layer.to_string(),
            member: c.member.map(|m| m.to_string()).unwrap_or_default(),
            prefixes: texts(c.prefixes),
            address: c.address,
        }
    }
}

impl TryFrom<pb::Configured> for Configured {
    type Error = BadMessage;
    fn try_from(c: pb::Configured) -> Result<Self, BadMessage> {
        Ok(Self {
            layer: label("layer", c.layer)?,
            member: optional("member", c.member, Label::new)?,
            prefixes: parsed("prefix", &c.prefixes)?,
            address: c.address,
        })
    }
}
