//! Which versions of the layer's protocol a side speaks, and what two sides agree on.
//!
//! Both say it inside the handshake, whose end proves that each has read what the other said: nobody in between can talk
//! them down.

use proto::{Code, Reason};

use super::Farewell;

/// The newest version that this code speaks.
pub const VERSION: u8 = 1;
/// The oldest: that of the release before, so that the members of a layer can be updated one by one.
pub const MIN_VERSION: u8 = 1;

/// What one side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest version that it speaks, 1 to 15.
    pub min: u8,
    /// The newest.
    pub max: u8,
    /// Features that it has, by bit.
    pub has: u32,
    /// Features without which it talks to nobody.
    pub needs: u32,
}

/// What both sides of a session speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The version.
    pub version: u8,
    /// The features that both have.
    pub features: u32,
}

impl Versions {
    /// Those of this code. Version 1 has no features yet.
    pub const OURS: Self = Self {
        min: MIN_VERSION,
        max: VERSION,
        has: 0,
        needs: 0,
    };

    /// The bytes of it; a server's are followed by what it promises its client.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = NAME.to_vec();
        out.extend([self.min, self.max]);
        out.extend(self.has.to_be_bytes());
        out.extend(self.needs.to_be_bytes());
        out
    }

    /// What the server promised behind its versions.
    pub(super) fn promised(bytes: &[u8]) -> Option<&[u8; Farewell::LEN]> {
        bytes.get(LEN..)?.first_chunk()
    }

    /// Reads what the other side said; what follows is for others to read. `None`: it makes no sense.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[min, max], rest) = bytes.strip_prefix(NAME)?.split_first_chunk()?;
        let (has, rest) = rest.split_first_chunk()?;
        let (needs, _) = rest.split_first_chunk()?;
        (1 <= min && min <= max && max <= LAST).then_some(Self {
            min,
            max,
            has: u32::from_be_bytes(*has),
            needs: u32::from_be_bytes(*needs),
        })
    }

    /// The newest version that both speak, or who must be updated.
    pub(super) fn agree(&self, theirs: &Self) -> Result<Agreed, Reason> {
        let refuse = |text: String| Err(Reason::new(Code::Refused, text));
        let version = self.max.min(theirs.max);
        if version < self.min {
            return refuse(format!(
                "the other side speaks version {} of the layer's protocol at most, this one {} at least; update the other side",
                theirs.max, self.min
            ));
        }
        if version < theirs.min {
            return refuse(format!(
                "the other side speaks version {} of the layer's protocol at least, this one {} at most; update this side",
                theirs.min, self.max
            ));
        }
        for (lacks, who) in [
            (theirs.needs & !self.has, "this side"),
            (self.needs & !theirs.has, "the other side"),
        ] {
            if lacks != 0 {
                return refuse(format!(
                    "{who} lacks features that are insisted on (bits {lacks:#x}); update {who}"
                ));
            }
        }
        Ok(Agreed {
            version,
            features: self.has & theirs.has,
        })
    }
}

const NAME: &[u8] = b"strata";
const LEN: usize = NAME.len() + 10;
/// Four bits say the version of a PDU.
const LAST: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn speaks(min: u8, max: u8) -> Versions {
        Versions {
            min,
            max,
            has: 0b111,
            needs: 0,
        }
    }

    #[test]
    fn two_sides_agree_on_the_newest_that_both_speak() {
        for (a, b, version) in [
            (speaks(1, 1), speaks(1, 1), 1),
            (speaks(1, 2), speaks(1, 1), 1),
            (speaks(1, 3), speaks(2, 5), 3),
            (speaks(2, 2), speaks(1, 9), 2),
        ] {
            let agreed = Agreed {
                version,
                features: 0b111,
            };
            assert_eq!((a.agree(&b), b.agree(&a)), (Ok(agreed), Ok(agreed)));
        }
    }

    #[test]
    fn each_side_is_told_whom_to_update() {
        let (old, new) = (speaks(1, 1), speaks(2, 3));
        let (here, there) = (
            new.agree(&old).unwrap_err().text,
            old.agree(&new).unwrap_err().text,
        );
        assert!(here.contains("update the other side"), "{here}");
        assert!(there.contains("update this side"), "{there}");
        let demanding = Versions {
            needs: 0b1000,
            has: 0b1111,
            ..speaks(1, 1)
        };
        let (here, there) = (
            demanding.agree(&old).unwrap_err().text,
            old.agree(&demanding).unwrap_err().text,
        );
        assert!(here.contains("0x8") && here.contains("update the other side"));
        assert!(there.contains("0x8") && there.contains("update this side"));
    }

    /// The table of docs/protocol.md.
    #[test]
    fn what_is_said_has_the_bytes_of_the_protocol_and_room_to_grow() {
        let mut bytes = Versions::OURS.encode();
        assert_eq!([bytes.clone()], crate::vectors::row("versions 1 to 1"));
        bytes.extend(b"whatever comes");
        assert_eq!(Versions::parse(&bytes), Some(Versions::OURS));
    }

    proptest! {
        #[test]
        fn parse_undoes_encode(min in 1u8..=15, more in 0u8..15, has: u32, needs: u32) {
            let said = Versions { min, max: (min + more).min(15), has, needs };
            prop_assert_eq!(Versions::parse(&said.encode()), Some(said));
        }

        #[test]
        fn no_bytes_panic_and_no_version_is_out_of_range(bytes: Vec<u8>, named: bool) {
            let bytes = if named { [NAME, &bytes].concat() } else { bytes };
            if let Some(said) = Versions::parse(&bytes) {
                prop_assert!(said.min >= 1 && said.max <= 15 && said.min <= said.max);
            }
        }
    }
}
