//! What travels on a record socket besides SDUs. A control item fills a record of its own: the length [`CONTROL`], a kind,
//! and its fields, all big-endian.
//!
//! | kind | item | direction | fields |
//! |---|---|---|---|
//! | 0 | Join | joiner → acceptor, first record | version u8, token 16 bytes |
//! | 1 | Welcome | acceptor → joiner, first record | version u8, flow u64, mtu u32, qos (flags u8, priority u8, max_delay_ms u32, timeout_ms u32), then three texts (u16 length, UTF-8): peer name, layer, member; empty: none |
//! | 2 | Mtu | to the user of the flow | mtu u32 |
//! | 3 | Down | either way, last record | code u8, text to the end |
//! | 4 | Shut | either way, after the last SDU | none |
//!
//! The record of a Welcome carries, where a shim hands its socket over, that one descriptor as `SCM_RIGHTS`.

use crate::id::{FlowId, Label, Name, Token};
use crate::qos::QosSpec;
use crate::reason::{Code, Reason};

/// The length that opens a control item.
pub const CONTROL: u16 = 0xFFFF;
/// The version of Join and Welcome.
pub const VERSION: u8 = 1;

/// Who is at the other end of a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The name of the other program: the destination for who allocated, the source for who accepted, if it gave one.
    pub name: Option<Name>,
    /// The layer that carries the flow; none for a direct flow on one host.
    pub layer: Option<Label>,
    /// The member that the layer authenticated; none on a direct flow or a shim.
    pub member: Option<Label>,
}

/// The first record that a joined user gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The flow.
    pub flow: FlowId,
    /// The largest SDU in bytes.
    pub mtu: u32,
    /// What was granted.
    pub qos: QosSpec,
    /// The other end.
    pub peer: Peer,
}

/// A control item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Lets the process that shows it join the flow that the token stands for.
    Join(Token),
    /// The flow is yours.
    Welcome(Welcome),
    /// SDUs may from now on have at most this many bytes.
    Mtu(u32),
    /// The flow is down; nothing follows.
    Down(Reason),
    /// No more SDUs follow this way; the other way goes on.
    Shut,
}

/// What a record holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// SDUs: hand the bytes to [`crate::Batch::set_record`].
    Data,
    /// One control item.
    Control(Item),
}

/// Why bytes are no control item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadItem {
    /// Fewer or more bytes than the item has.
    #[error("a control item has the wrong length")]
    Length,
    /// A kind that this version doesn't know.
    #[error("a control item of the unknown kind {0}")]
    Kind(u8),
    /// The other side speaks another version.
    #[error(
        "the other side speaks version {0} of the record protocol, this one 1; update the older"
    )]
    Version(u8),
    /// A field that holds no value of its type.
    #[error("a field of a control item is malformed")]
    Field,
}

impl Record {
    /// Tells what the bytes of one received record are; SDUs are not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadItem> {
        match bytes {
            [0xff, 0xff, rest @ ..] => Item::parse(rest).map(Self::Control),
            _ => Ok(Self::Data),
        }
    }
}

impl Item {
    /// The bytes of the record that carries this item.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = CONTROL.to_be_bytes().to_vec();
        match self {
            Self::Join(token) => {
                out.extend([0, VERSION]);
                out.extend(token.0);
            }
            Self::Welcome(w) => {
                out.extend([1, VERSION]);
                out.extend(w.flow.0.to_be_bytes());
                out.extend(w.mtu.to_be_bytes());
                out.extend([
                    u8::from(w.qos.ordered) | u8::from(w.qos.reliable) << 1,
                    w.qos.priority,
                ]);
                out.extend(w.qos.max_delay_ms.to_be_bytes());
                out.extend(w.qos.timeout_ms.to_be_bytes());
                for text in [
                    w.peer.name.as_ref().map(Name::as_str),
                    w.peer.layer.as_ref().map(Label::as_str),
                    w.peer.member.as_ref().map(Label::as_str),
                ] {
                    let text = text.unwrap_or("");
                    // Names and labels are shorter than 256 bytes by their types.
                    out.extend((text.len() as u16).to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
            Self::Mtu(mtu) => {
                out.push(2);
                out.extend(mtu.to_be_bytes());
            }
            Self::Down(reason) => {
                out.extend([3, reason.code as u8]);
                out.extend(reason.text.as_bytes());
            }
            Self::Shut => out.push(4),
        }
        out
    }

    fn parse(bytes: &[u8]) -> Result<Self, BadItem> {
        let mut r = Reader(bytes);
        let item = match r.u8()? {
            0 => {
                r.version()?;
                Self::Join(Token(r.array()?))
            }
            1 => {
                r.version()?;
                Self::Welcome(r.welcome()?)
            }
            2 => Self::Mtu(u32::from_be_bytes(r.array()?)),
            3 => {
                let code = Code::from_wire(u32::from(r.u8()?));
                let text =
                    std::str::from_utf8(std::mem::take(&mut r.0)).map_err(|_| BadItem::Field)?;
                Self::Down(Reason::new(code, text))
            }
            4 => Self::Shut,
            kind => return Err(BadItem::Kind(kind)),
        };
        if r.0.is_empty() {
            Ok(item)
        } else {
            Err(BadItem::Length)
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadItem> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(BadItem::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadItem> {
        self.take(N)?.try_into().map_err(|_| BadItem::Length)
    }

    fn u8(&mut self) -> Result<u8, BadItem> {
        Ok(self.array::<1>()?[0])
    }

    fn version(&mut self) -> Result<(), BadItem> {
        match self.u8()? {
            VERSION => Ok(()),
            other => Err(BadItem::Version(other)),
        }
    }

    fn text(&mut self) -> Result<Option<&'a str>, BadItem> {
        let len = usize::from(u16::from_be_bytes(self.array()?));
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| BadItem::Field)?;
        Ok((!text.is_empty()).then_some(text))
    }

    fn welcome(&mut self) -> Result<Welcome, BadItem> {
        let flow = FlowId(u64::from_be_bytes(self.array()?));
        let mtu = u32::from_be_bytes(self.array()?);
        let [flags, priority] = self.array()?;
        if flags > 3 || priority > 7 {
            return Err(BadItem::Field);
        }
        let qos = QosSpec {
            ordered: flags & 1 != 0,
            reliable: flags & 2 != 0,
            priority,
            max_delay_ms: u32::from_be_bytes(self.array()?),
            timeout_ms: u32::from_be_bytes(self.array()?),
        };
        let bad = |_| BadItem::Field;
        let peer = Peer {
            name: self.text()?.map(Name::new).transpose().map_err(bad)?,
            layer: self.text()?.map(Label::new).transpose().map_err(bad)?,
            member: self.text()?.map(Label::new).transpose().map_err(bad)?,
        };
        Ok(Welcome {
            flow,
            mtu,
            qos,
            peer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn items() -> impl Strategy<Value = Item> {
        let label = || prop::option::of("[a-z0-9-]{1,63}".prop_map(|s| Label::new(s).unwrap()));
        let name = prop::option::of("[^\\p{C}]{1,60}".prop_map(|s| Name::new(s).unwrap()));
        let qos = (
            any::<bool>(),
            any::<bool>(),
            any::<u32>(),
            0u8..8,
            any::<u32>(),
        );
        let welcome = (any::<u64>(), any::<u32>(), qos, name, label(), label()).prop_map(
            |(flow, mtu, q, name, layer, member)| {
                let qos = QosSpec {
                    ordered: q.0,
                    reliable: q.1,
                    max_delay_ms: q.2,
                    priority: q.3,
                    timeout_ms: q.4,
                };
                Item::Welcome(Welcome {
                    flow: FlowId(flow),
                    mtu,
                    qos,
                    peer: Peer {
                        name,
                        layer,
                        member,
                    },
                })
            },
        );
        prop_oneof![
            any::<[u8; 16]>().prop_map(|t| Item::Join(Token(t))),
            welcome,
            any::<u32>().prop_map(Item::Mtu),
            ("[^\\p{C}]{0,99}", 1u32..13)
                .prop_map(|(t, c)| Item::Down(Reason::new(Code::from_wire(c), t))),
            Just(Item::Shut),
        ]
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(item in items()) {
            prop_assert_eq!(Record::parse(&item.encode()), Ok(Record::Control(item)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Record::parse(&bytes);
            let _ = Item::parse(&bytes);
        }

        #[test]
        fn a_cut_item_is_refused(item in items(), cut in 0usize..100) {
            let bytes = item.encode();
            let end = bytes.len().saturating_sub(1 + cut).max(2);
            // A Down without its whole text is still one; everything else must be refused.
            if !matches!(item, Item::Down(_)) && end < bytes.len() {
                prop_assert!(Record::parse(&bytes[..end]).is_err());
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Item::Join(Token([1; 16])).encode();
        bytes[3] = 2;
        assert_eq!(Record::parse(&bytes), Err(BadItem::Version(2)));
    }
}
