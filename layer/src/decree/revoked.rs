//! The content of a decree of kind [`Kind::REVOKED`](super::Kind::REVOKED): whom to believe no more.

use prost::Message;
use proto::{Label, wire};

/// One member that is believed no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its key, whatever certificate of that member it is in.
    pub key: [u8; 32],
    /// Its name, which somebody else with another key may have since.
    pub member: Label,
    /// When, in seconds of Unix time.
    pub at: u64,
    /// By then no certificate of that key can be in time.
    pub until: u64,
}

impl Revocation {
    /// Reads all of a decree; `None` if it is malformed.
    pub fn read(content: &[u8]) -> Option<Vec<Self>> {
        let revoked = wire::Revoked::decode(content).ok()?;
        let read = |r: wire::Revocation| {
            Some(Self {
                key: r.key.try_into().ok()?,
                member: Label::new(r.member).ok()?,
                at: r.at,
                until: r.until,
            })
        };
        revoked.revocations.into_iter().map(read).collect()
    }

    /// The content of a decree that holds these.
    pub fn write(all: &[Self]) -> Vec<u8> {
        let write = |r: &Self| wire::Revocation {
            key: r.key.to_vec(),
            member: r.member.to_string(),
            at: r.at,
            until: r.until,
        };
        let revocations = all.iter().map(write).collect();
        wire::Revoked { revocations }.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_makes_no_sense_is_refused() {
        let one = |name: &str| Revocation {
            key: [7; 32],
            member: Label::new(name).unwrap(),
            at: 5,
            until: 9,
        };
        let all = [one("b"), one("c")];
        let content = Revocation::write(&all);
        assert_eq!(Revocation::read(&content), Some(all.to_vec()));
        assert_eq!(Revocation::read(&[]), Some(Vec::new()));
        assert_eq!(Revocation::read(&content[..content.len() - 1]), None);
        let short = wire::Revocation {
            key: vec![7; 31],
            member: "b".to_owned(),
            ..wire::Revocation::default()
        };
        let revocations = vec![short];
        let short = wire::Revoked { revocations }.encode_to_vec();
        assert_eq!(Revocation::read(&short), None);
    }
}
