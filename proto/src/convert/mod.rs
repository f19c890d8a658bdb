//! Messages to domain types, parsed once at the border, and back.

mod command;
mod event;
#[cfg(feature = "grpc")]
mod status;
mod text;

use crate::id::{BadName, Label, Name, Token};
use crate::irm as pb;
use crate::qos::{BadQos, QosSpec};
use crate::reason::{Code, Reason};
use crate::record::Peer;

/// Why a message says nothing that this program can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// A field that must be there isn't.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field holds no value of its kind.
    #[error("the field {0} is malformed: {1}")]
    Field(&'static str, String),
    /// A name that is none.
    #[error("the field {0}: {1}")]
    Name(&'static str, BadName),
}

impl From<BadMessage> for Reason {
    fn from(bad: BadMessage) -> Self {
        Self::new(Code::Usage, format!("malformed message: {bad}"))
    }
}

impl From<BadName> for Reason {
    fn from(bad: BadName) -> Self {
        Self::new(Code::Usage, bad.to_string())
    }
}

impl From<BadQos> for Reason {
    fn from(bad: BadQos) -> Self {
        Self::new(Code::Usage, bad.to_string())
    }
}

impl From<QosSpec> for pb::Qos {
    fn from(q: QosSpec) -> Self {
        Self {
            ordered: q.ordered,
            reliable: q.reliable,
            max_delay_ms: q.max_delay_ms,
            priority: u32::from(q.priority),
            timeout_ms: q.timeout_ms,
        }
    }
}

impl TryFrom<pb::Qos> for QosSpec {
    type Error = BadMessage;
    fn try_from(q: pb::Qos) -> Result<Self, BadMessage> {
        let priority = u8::try_from(q.priority).ok().filter(|p| *p < 8);
        Ok(Self {
            ordered: q.ordered,
            reliable: q.reliable,
            max_delay_ms: q.max_delay_ms,
            priority: priority.ok_or_else(|| {
                BadMessage::Field("qos.priority", format!("{} is not 0-7", q.priority))
            })?,
            timeout_ms: q.timeout_ms,
        })
    }
}

impl From<QosSpec> for crate::wire::Qos {
    fn from(q: QosSpec) -> Self {
        let q = pb::Qos::from(q);
        Self {
            ordered: q.ordered,
            reliable: q.reliable,
            max_delay_ms: q.max_delay_ms,
            priority: q.priority,
            timeout_ms: q.timeout_ms,
        }
    }
}

impl TryFrom<crate::wire::Qos> for QosSpec {
    type Error = BadMessage;
    fn try_from(q: crate::wire::Qos) -> Result<Self, BadMessage> {
        Self::try_from(pb::Qos {
            ordered: q.ordered,
            reliable: q.reliable,
            max_delay_ms: q.max_delay_ms,
            priority: q.priority,
            timeout_ms: q.timeout_ms,
        })
    }
}

impl From<Reason> for pb::Failure {
    fn from(r: Reason) -> Self {
        Self {
            code: r.code as u32,
            text: r.text,
        }
    }
}

impl From<pb::Failure> for Reason {
    fn from(f: pb::Failure) -> Self {
        Self::new(Code::from_wire(f.code), f.text)
    }
}

impl From<Peer> for pb::Peer {
    fn from(p: Peer) -> Self {
        let text = |t: Option<&str>| t.unwrap_or_default().to_owned();
        Self {
            name: text(p.name.as_ref().map(Name::as_str)),
            layer: text(p.layer.as_ref().map(Label::as_str)),
            member: text(p.member.as_ref().map(Label::as_str)),
        }
    }
}

impl TryFrom<pb::Peer> for Peer {
    type Error = BadMessage;
    fn try_from(p: pb::Peer) -> Result<Self, BadMessage> {
        Ok(Self {
            name: optional("peer.name", p.name, Name::new)?,
            layer: optional("peer.layer", p.layer, Label::new)?,
            member: optional("peer.member", p.member, Label::new)?,
        })
    }
}

fn optional<T>(
    field: &'static str,
    text: String,
    parse: impl Fn(String) -> Result<T, BadName>,
) -> Result<Option<T>, BadMessage> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text)
            .map(Some)
            .map_err(|e| BadMessage::Name(field, e))
    }
}

fn name(field: &'static str, text: String) -> Result<Name, BadMessage> {
    Name::new(text).map_err(|e| BadMessage::Name(field, e))
}

fn label(field: &'static str, text: String) -> Result<Label, BadMessage> {
    Label::new(text).map_err(|e| BadMessage::Name(field, e))
}

fn labels(field: &'static str, texts: Vec<String>) -> Result<Vec<Label>, BadMessage> {
    texts.into_iter().map(|t| label(field, t)).collect()
}

fn parsed<T>(field: &'static str, texts: &[String]) -> Result<Vec<T>, BadMessage>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    texts
        .iter()
        .map(|t| {
            t.parse()
                .map_err(|e: T::Err| BadMessage::Field(field, e.to_string()))
        })
        .collect()
}

fn texts<T: ToString>(values: Vec<T>) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, BadMessage> {
    value.ok_or(BadMessage::Missing(field))
}

fn token(field: &'static str, bytes: &[u8]) -> Result<Option<Token>, BadMessage> {
    match bytes.len() {
        0 => Ok(None),
        _ => Token::from_slice(bytes).map(Some).ok_or_else(|| {
            BadMessage::Field(field, format!("{} bytes instead of 16", bytes.len()))
        }),
    }
}
