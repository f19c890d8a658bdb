//! What travels on a record socket besides SDUs. A control item fills a record of its own: the length [`CONTROL`], a kind,
//! and its fields, all big-endian.
//!
//! | kind | item | direction | fields |
//! |---|---|---|---|
//! | 0 | Join | joiner → acceptor, first record | version u8, token 16 bytes |
//! | 1 | Welcome | acceptor → joiner, first record | version u8, flow u64, mtu u32, qos (flags u8: 1 ordered, 2 reliable, 4 takes devices; priority u8, max_delay_ms u32, timeout_ms u32), then three texts (u16 length, UTF-8): peer name, layer, member; empty: none |
//! | 2 | Mtu | to the user of the flow | mtu u32 |
//! | 3 | Down | either way, last record | code u8, text to the end |
//! | 4 | Shut | either way, after the last SDU | none |
//! | 5 | Device | from the user of the flow | device u64, joins u8 (1 TCP, 2 UDP; 4: frames, and no other), code points u64 |
//! | 6 | Pair | from the user of the flow | family u8 (4, 6), this host's address, the other's: 4 bytes each, or 16 each |
//! | 7 | Frame | to the user of the flow | one IP packet to the end |
//! | 8 | Moved | to the user of the flow | rx packets u64, rx bytes u64, tx packets u64, tx bytes u64 |
//! | 9 | Talk | either way | way u8 (0 from the device, 1 to it), protocol u8, this host's port u16, the other's u16, then as Pair |
//!
//! The record of a Welcome carries, where a shim hands its socket over, that one descriptor as `SCM_RIGHTS`; that of a Device
//! carries the TUN device, if it is not of frames.
//!
//! A user whose SDUs are IP packets may hand its **device** over to the IPC process, so that they need not pass through it: what
//! is read from the device, has one of the flow's code points (RFC 2474; bit n stands for n) and goes from the first address of a Pair to the second becomes an SDU of the Pair's flow, and an SDU
//! of that flow from the second to the first is written to the device. All else comes to the user, as a Frame or as an SDU; so does what opens a TCP connection. A
//! Device that is said again forgets the flow's Pairs and Talks. The same device may be said on many flows of one IPC process.
//!
//! A **Talk** is one way of one conversation between two addresses of which there is no Pair. It is forgotten where nothing of it has
//! moved for [`FORGOTTEN`]; as long as something moves, the IPC process says it back every [`SIGN`], so that the user knows. What opens
//! or ends a TCP connection, fragments and ICMP are never of a Talk. An IPC process that takes Talks answers each Device with a Frame of
//! no bytes, which those that know none overlook; to another a Talk must not be said.
//!
//! A user that keeps its device, and writes Ethernet **frames** of it, says so by a Device without a descriptor: where the link is slow they
//! wait as packets of a TUN do, which are read by the IPC process. There are no Pairs or Talks of such a device.

use std::net::IpAddr;
use std::time::Duration;

use crate::id::{FlowId, Label, Name, Token};
use crate::qos::QosSpec;
use crate::reason::{Code, Reason};

/// The length that opens a control item.
pub const CONTROL: u16 = 0xFFFF;
/// The version of Join and Welcome.
pub const VERSION: u8 = 1;

/// What a Device says in place of what it joins, if the user keeps it.
const FRAMES: u8 = 4;
/// When a Talk of which something moves is said to the user.
pub const SIGN: Duration = Duration::from_secs(5);
/// When a Talk of which nothing has moved is forgotten.
pub const FORGOTTEN: Duration = Duration::from_secs(15);

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
    /// The IPC process takes devices from the user of this flow.
    pub devices: bool,
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
    /// The SDUs are IP packets of the device whose descriptor comes with this, or frames of one that the user keeps.
    Device(Device),
    /// Packets between these two go between the device and this flow by themselves.
    Pair(Pair),
    /// A packet of the device of which no Pair or Talk speaks; of no bytes: the answer to a Device, by who takes Talks.
    Frame(Vec<u8>),
    /// What has moved by itself since the device was handed over.
    Moved(Moved),
    /// From the user: packets of this go by themselves; to it: some have.
    Talk(Talk),
}

/// A device that is handed over, or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// A number that the user has drawn for it, the same on each flow.
    pub id: u64,
    /// It takes super-packets of TCP.
    pub tcp: bool,
    /// It takes super-packets of UDP.
    pub udp: bool,
    /// The user keeps it: its SDUs are Ethernet frames. Then it takes no super-packets.
    pub frames: bool,
    /// Packets with these code points may go by themselves, each a bit.
    pub code_points: u64,
}

/// Two addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pair {
    /// This host's and the other's.
    V4([u8; 4], [u8; 4]),
    /// This host's and the other's.
    V6([u8; 16], [u8; 16]),
}

impl Pair {
    /// `None`: of two families.
    pub fn new(own: IpAddr, other: IpAddr) -> Option<Self> {
        match (own, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => Some(Self::V4(own.octets(), other.octets())),
            (IpAddr::V6(own), IpAddr::V6(other)) => Some(Self::V6(own.octets(), other.octets())),
            _ => None,
        }
    }

    /// This host's and the other's.
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        match *self {
            Self::V4(own, other) => (own.into(), other.into()),
            Self::V6(own, other) => (own.into(), other.into()),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(own, other) => {
                out.push(4);
                out.extend(own.iter().chain(other));
            }
            Self::V6(own, other) => {
                out.push(6);
                out.extend(own.iter().chain(other));
            }
        }
    }
}

/// One way of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Talk {
    /// From the device to the flow; else from the flow to the device.
    pub out: bool,
    /// The number of its protocol, behind extension headers.
    pub protocol: u8,
    /// This host's port and the other's; 0 of a protocol that has none.
    pub ports: (u16, u16),
    /// Between whom it is.
    pub pair: Pair,
}

/// Packets and their bytes, from the flow to the device (rx) and back (tx).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Packets of the flow that the device took.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets of the device that the flow took.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
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
                    u8::from(w.qos.ordered)
                        | u8::from(w.qos.reliable) << 1
                        | u8::from(w.devices) << 2,
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
            Self::Device(_) | Self::Pair(_) | Self::Frame(_) | Self::Moved(_) | Self::Talk(_) => {
                self.encode_device(&mut out)
            }
        }
        out
    }

    /// The items about devices.
    fn encode_device(&self, out: &mut Vec<u8>) {
        match self {
            Self::Device(device) => {
                out.push(5);
                out.extend(device.id.to_be_bytes());
                out.push(match device.frames {
                    true => FRAMES,
                    false => u8::from(device.tcp) | u8::from(device.udp) << 1,
                });
                out.extend(device.code_points.to_be_bytes());
            }
            Self::Pair(pair) => {
                out.push(6);
                pair.encode(out);
            }
            Self::Frame(packet) => {
                out.push(7);
                out.extend(packet);
            }
            Self::Moved(moved) => {
                out.push(8);
                for n in [
                    moved.rx_packets,
                    moved.rx_bytes,
                    moved.tx_packets,
                    moved.tx_bytes,
                ] {
                    out.extend(n.to_be_bytes());
                }
            }
            Self::Talk(talk) => {
                out.extend([9, u8::from(!talk.out), talk.protocol]);
                out.extend(talk.ports.0.to_be_bytes());
                out.extend(talk.ports.1.to_be_bytes());
                talk.pair.encode(out);
            }
            Self::Join(_) | Self::Welcome(_) | Self::Mtu(_) | Self::Down(_) | Self::Shut => {}
        }
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
            5 => Self::Device(r.device()?),
            6 => Self::Pair(r.pair()?),
            7 => Self::Frame(std::mem::take(&mut r.0).to_vec()),
            8 => {
                let mut n = || Ok(u64::from_be_bytes(r.array()?));
                Self::Moved(Moved {
                    rx_packets: n()?,
                    rx_bytes: n()?,
                    tx_packets: n()?,
                    tx_bytes: n()?,
                })
            }
            9 => Self::Talk(r.talk()?),
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

    fn device(&mut self) -> Result<Device, BadItem> {
        let id = u64::from_be_bytes(self.array()?);
        match self.u8()? {
            joins @ 0..=FRAMES => Ok(Device {
                id,
                tcp: joins & 1 != 0,
                udp: joins & 2 != 0,
                frames: joins == FRAMES,
                code_points: u64::from_be_bytes(self.array()?),
            }),
            _ => Err(BadItem::Field),
        }
    }

    fn pair(&mut self) -> Result<Pair, BadItem> {
        match self.u8()? {
            4 => Ok(Pair::V4(self.array()?, self.array()?)),
            6 => Ok(Pair::V6(self.array()?, self.array()?)),
            _ => Err(BadItem::Field),
        }
    }

    fn talk(&mut self) -> Result<Talk, BadItem> {
        let [way, protocol] = self.array()?;
        if way > 1 {
            return Err(BadItem::Field);
        }
        let mut port = || Ok(u16::from_be_bytes(self.array()?));
        Ok(Talk {
            out: way == 0,
            protocol,
            ports: (port()?, port()?),
            pair: self.pair()?,
        })
    }

    fn welcome(&mut self) -> Result<Welcome, BadItem> {
        let flow = FlowId(u64::from_be_bytes(self.array()?));
        let mtu = u32::from_be_bytes(self.array()?);
        let [flags, priority] = self.array()?;
        if flags > 7 || priority > 7 {
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
            devices: flags & 4 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn talks() -> impl Strategy<Value = Talk> {
        let pair = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(own, other)| Pair::V4(own, other)),
            any::<([u8; 16], [u8; 16])>().prop_map(|(own, other)| Pair::V6(own, other)),
        ];
        (any::<(bool, u8, (u16, u16))>(), pair).prop_map(|((out, protocol, ports), pair)| Talk {
            out,
            protocol,
            ports,
            pair,
        })
    }

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
        let ends = (name, label(), label());
        let welcome = (any::<u64>(), any::<u32>(), qos, ends, any::<bool>()).prop_map(
            |(flow, mtu, q, (name, layer, member), devices)| {
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
                    devices,
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
            (any::<(u64, u64)>(), 0..=FRAMES).prop_map(|((id, code_points), joins)| Item::Device(
                Device {
                    code_points,
                    id,
                    tcp: joins & 1 != 0,
                    udp: joins & 2 != 0,
                    frames: joins == FRAMES,
                }
            )),
            any::<([u8; 4], [u8; 4])>().prop_map(|(own, other)| Item::Pair(Pair::V4(own, other))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(own, other)| Item::Pair(Pair::V6(own, other))),
            talks().prop_map(Item::Talk),
            any::<Vec<u8>>().prop_map(Item::Frame),
            any::<[u64; 4]>().prop_map(|[rx_packets, rx_bytes, tx_packets, tx_bytes]| {
                Item::Moved(Moved {
                    rx_packets,
                    rx_bytes,
                    tx_packets,
                    tx_bytes,
                })
            }),
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
            // A Down without its whole text is still one, as is a Frame; everything else must be refused.
            if !matches!(item, Item::Down(_) | Item::Frame(_)) && end < bytes.len() {
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
