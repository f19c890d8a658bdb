//! What a switch has to know of an Ethernet frame.

use std::fmt;

use super::Refused;

/// An address of layer 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Where a frame comes from and goes to. The addresses of one VLAN say nothing of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The receiver.
    pub to: Mac,
    /// The sender.
    pub from: Mac,
    /// 0 without a tag.
    pub vlan: u16,
}

impl Mac {
    /// That of the device of a member with this address in its layer: the same in each of its lives, and no other member's.
    pub fn of_member(address: u64) -> Self {
        let [first, rest @ ..] = address.to_be_bytes();
        let [b, c, d, e, f, ..] = rest;
        // Given by us, to one station.
        Self([first & 0xfc | 0x02, b, c, d, e, f])
    }

    /// Of several stations, or of all.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// What bridges tell each other, and a port its neighbour (IEEE 802.1Q, table 8-1): it ends at the next bridge.
    fn is_control(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }
}

impl Head {
    /// Reads a frame. What no station may send, and what no bridge may forward, is refused.
    pub fn parse(frame: &[u8]) -> Result<Self, Refused> {
        let (to, rest) = frame.split_first_chunk().ok_or(Refused::Short)?;
        let (from, rest) = rest.split_first_chunk().ok_or(Refused::Short)?;
        let (kind, rest) = rest.split_first_chunk().ok_or(Refused::Short)?;
        let vlan = match u16::from_be_bytes(*kind) {
            TAGGED | SERVICE => {
                // The tag, and the kind of what is in it.
                let tag = rest.first_chunk::<4>().ok_or(Refused::Short)?;
                u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff
            }
            _ => 0,
        };
        let (to, from) = (Mac(*to), Mac(*from));
        if from.is_group() || from == NOBODY {
            return Err(Refused::Source);
        }
        if to.is_control() {
            return Err(Refused::Control);
        }
        Ok(Self { to, from, vlan })
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

const NOBODY: Mac = Mac([0; 6]);
/// Tags of customers and of providers.
const TAGGED: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;
