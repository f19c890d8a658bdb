//! The content of a decree of kind [`Kind::TRUST`](super::Kind::TRUST): whom to believe from now on.

use std::time::Duration;

use ipnet::IpNet;
use prost::Message;
use proto::{Label, wire};

use crate::crypt::{CertError, Roots};

/// The authorities of a layer, and the members that issue for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The roots' certificates, DER.
    pub roots: Vec<Vec<u8>>,
    /// The certificates with which members may issue, DER.
    pub issuers: Vec<Vec<u8>>,
    /// Keys (SHA-256 of the SubjectPublicKeyInfo) of members that issue no longer, and the second of Unix time until which
    /// what they have issued counts.
    pub retired: Vec<([u8; 32], u64)>,
    /// How long the certificates of members live.
    pub cert_life: Option<Duration>,
    /// The member that holds the root's key.
    pub holder: Option<Label>,
    /// The key in that member's certificate, so that nobody else can have another with its name.
    pub holder_key: Option<[u8; 32]>,
    /// While the root is changed, two are believed, the first of which issues: what each has certified of the other, DER.
    pub crosses: Vec<Vec<u8>>,
    /// The second of Unix time at which the change of the root ends by itself; `None`: when somebody says so.
    pub until: Option<u64>,
    /// The parts of the layer's pools that members that issue give addresses from, of some that do no longer too.
    pub parts: Vec<(Label, Vec<IpNet>)>,
}

impl Trust {
    /// Reads all of a decree; `None` if it is malformed.
    pub fn read(content: &[u8]) -> Option<Self> {
        let trust = wire::Trust::decode(content).ok()?;
        let retired = trust.retired.into_iter();
        let retired = retired.map(|r| Some((r.key.try_into().ok()?, r.until)));
        if trust.roots.is_empty()
            || trust.roots.len() > MAX_ROOTS
            || trust.issuers.len() > MAX_ISSUERS
            || trust.crosses.len() > MAX_ROOTS
            || trust.parts.len() > MAX_PARTS
        {
            return None;
        }
        Some(Self {
            roots: trust.roots,
            issuers: trust.issuers,
            retired: retired.collect::<Option<_>>()?,
            cert_life: (trust.cert_life > 0).then(|| Duration::from_secs(trust.cert_life)),
            holder: match trust.holder.as_str() {
                "" => None,
                name => Some(Label::new(name).ok()?),
            },
            holder_key: match trust.holder_key.as_slice() {
                [] => None,
                key => Some(key.try_into().ok()?),
            },
            crosses: trust.crosses,
            until: (trust.until > 0).then_some(trust.until),
            parts: trust.parts.iter().map(part).collect::<Option<_>>()?,
        })
    }

    /// The content of a decree that says this.
    pub fn write(&self) -> Vec<u8> {
        let retired = self.retired.iter().map(|(key, until)| wire::Retired {
            key: key.to_vec(),
            until: *until,
        });
        let parts = self.parts.iter().map(|(member, prefixes)| wire::PoolPart {
            member: member.to_string(),
            prefixes: prefixes.iter().map(IpNet::to_string).collect(),
        });
        wire::Trust {
            roots: self.roots.clone(),
            issuers: self.issuers.clone(),
            cert_life: self.cert_life.map_or(0, |life| life.as_secs()),
            retired: retired.collect(),
            holder: self
                .holder
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            holder_key: self.holder_key.map_or_else(Vec::new, Into::into),
            crosses: self.crosses.clone(),
            until: self.until.unwrap_or_default(),
            parts: parts.collect(),
        }
        .encode_to_vec()
    }

    /// Whom a member believes that has been told this.
    pub fn roots(&self) -> Result<Roots, CertError> {
        let roots = Roots::new(self.roots.clone())?;
        let roots = roots.with_issuers(&self.issuers, self.retired.iter().copied());
        let roots = roots.with_member_life(self.cert_life);
        let roots = roots.with_holder(self.holder.clone().zip(self.holder_key));
        Ok(roots.with_crosses(self.crosses.clone()))
    }

    /// Whether two roots are believed.
    pub fn is_rolling(&self) -> bool {
        self.roots.len() > 1
    }
}

fn part(part: &wire::PoolPart) -> Option<(Label, Vec<IpNet>)> {
    if part.prefixes.len() > MAX_PREFIXES {
        return None;
    }
    let prefixes = part.prefixes.iter().map(|p| p.parse().ok());
    let member = Label::new(part.member.as_str()).ok()?;
    Some((member, prefixes.collect::<Option<_>>()?))
}

/// The one that is, and the one that is to be.
const MAX_ROOTS: usize = 2;
/// Members that may issue at once.
pub const MAX_ISSUERS: usize = 16;
/// Members that have issued, and prefixes of one.
const MAX_PARTS: usize = 64;
const MAX_PREFIXES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_makes_no_sense_is_refused() {
        let trust = Trust {
            roots: vec![vec![1]],
            issuers: vec![vec![2], vec![3]],
            retired: vec![([4; 32], 5)],
            cert_life: Some(Duration::from_secs(600)),
            holder: Label::new("a").ok(),
            holder_key: Some([9; 32]),
            crosses: vec![vec![6], vec![7]],
            until: Some(8),
            parts: vec![(
                Label::new("b").unwrap(),
                vec!["10.7.0.248/29".parse().unwrap()],
            )],
        };
        assert_eq!(Trust::read(&trust.write()), Some(trust.clone()));
        let with = |change: &dyn Fn(&mut Trust)| {
            let mut other = trust.clone();
            change(&mut other);
            Trust::read(&other.write())
        };
        assert_eq!(with(&|t| t.roots.clear()), None);
        assert_eq!(with(&|t| t.roots = vec![vec![1]; 3]), None);
        assert_eq!(with(&|t| t.issuers = vec![vec![1]; 17]), None);
        assert_eq!(with(&|t| t.crosses = vec![vec![1]; 3]), None);
        assert_eq!(with(&|t| t.parts = vec![t.parts[0].clone(); 65]), None);
        assert_eq!(with(&|t| t.parts[0].1 = vec![t.parts[0].1[0]; 9]), None);
        assert!(with(&|t| t.retired.clear()).is_some());
    }
}
