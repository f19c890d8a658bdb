//! How an authority lies in its file: its key and certificate, then the ledger as a protobuf message, so that what a later
//! version adds is no reason to refuse the file.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Code, Label, Reason};
use zeroize::Zeroizing;

use super::pool::{Held, Pools};
use super::{Audit, Authority, Grant, Issued, Open};
use crate::crypt::address;
use crate::crypt::file::{Corrupt, Reader, Writer};
use crate::crypt::issue::Root;
use crate::crypt::locked;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ledger {
    #[prost(message, repeated, tag = "1")]
    members: Vec<Entry>,
    #[prost(message, repeated, tag = "2")]
    invitations: Vec<Invited>,
    #[prost(message, repeated, tag = "3")]
    audit: Vec<Use>,
    #[prost(uint64, tag = "4")]
    cert_life: u64,
    #[prost(bytes = "vec", repeated, tag = "5")]
    above: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "6")]
    pools: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    held: Vec<HeldBack>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeldBack {
    #[prost(string, repeated, tag = "1")]
    prefixes: Vec<String>,
    #[prost(uint64, tag = "2")]
    until: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(string, repeated, tag = "2")]
    prefixes: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    groups: Vec<String>,
    #[prost(bytes = "vec", tag = "4")]
    csr: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    certificate: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Invited {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    seed_public: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires: u64,
    #[prost(uint64, tag = "4")]
    uses: u64,
    #[prost(uint64, tag = "5")]
    left: u64,
    #[prost(string, tag = "6")]
    member: String,
    #[prost(string, repeated, tag = "7")]
    prefixes: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    groups: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Use {
    #[prost(uint64, tag = "1")]
    at: u64,
    #[prost(bytes = "vec", tag = "2")]
    invitation: Vec<u8>,
    #[prost(string, tag = "3")]
    member: String,
}

impl Authority {
    /// Reads what [`Authority::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut r = Reader::new(KIND, VERSION, bytes)?;
        let layer = r.text()?;
        let root = root(&mut r)?;
        let ledger: Ledger = prost::Message::decode(r.bytes()?)
            .map_err(|_| r.damaged("its ledger can't be read"))?;
        let before = match r.is_at_end() {
            true => None,
            false => Some(self::root(&mut r)?),
        };
        r.end()?;
        let read = Self::read(layer, root, ledger);
        let mut read = read.ok_or_else(|| r.damaged("a line of its ledger makes no sense"))?;
        read.before = before;
        Ok(read)
    }

    /// The bytes to keep in a file that only the owner may read.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        match &self.seal {
            Some(seal) => self.sealed_bytes(seal),
            None => self.open_bytes(),
        }
    }

    fn open_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Only where there are two roots: what has one is read by programs that know of no more.
        let version = if self.before.is_some() { VERSION } else { 2 };
        let mut w = Writer::new(KIND, version);
        w.bytes(self.layer.as_str().as_bytes())
            .bytes(self.root.pkcs8())
            .bytes(self.root.der())
            .bytes(&prost::Message::encode_to_vec(&self.written()));
        if let Some(before) = &self.before {
            w.bytes(before.pkcs8()).bytes(before.der());
        }
        w.finish()
    }

    /// The bytes to keep somewhere else, under a passphrase.
    pub fn export(&self, passphrase: &[u8]) -> Result<Vec<u8>, Reason> {
        locked::lock(&self.open_bytes(), passphrase)
    }

    /// Reads what [`Authority::export`] wrote.
    pub fn import(file: &[u8], passphrase: &[u8]) -> Result<Self, Reason> {
        let bytes = locked::unlock(file, passphrase)?;
        Self::from_bytes(&bytes).map_err(|e| Reason::new(Code::Usage, e.to_string()))
    }

    pub(super) fn read(layer: Label, root: Root, ledger: Ledger) -> Option<Self> {
        let member = |e: Entry| {
            let member = Label::new(e.member).ok()?;
            let issued = Issued {
                address: address(&layer, &member),
                grant: grant(&e.prefixes, &e.groups)?,
                csr: maybe(e.csr)?,
                certificate: e.certificate,
            };
            Some((member, issued))
        };
        let invited = |i: Invited| {
            let open = Open {
                seed_public: array(&i.seed_public)?,
                expires: i.expires,
                uses: i.uses,
                left: i.left,
                member: match i.member.as_str() {
                    "" => None,
                    name => Some(Label::new(name).ok()?),
                },
                grant: grant(&i.prefixes, &i.groups)?,
            };
            Some((array(&i.id)?, open))
        };
        let used = |u: Use| {
            Some(Audit {
                at: u.at,
                invitation: array(&u.invitation)?,
                member: Label::new(u.member).ok()?,
            })
        };
        let held = |h: HeldBack| {
            let prefixes = grant(&h.prefixes, &[])?.prefixes;
            let until = h.until;
            Some(Held { prefixes, until })
        };
        let held = ledger.held.into_iter().map(held);
        let pools = Pools {
            from: grant(&ledger.pools, &[])?.prefixes,
            held: held.collect::<Option<_>>()?,
            ..Pools::default()
        };
        let members = ledger.members.into_iter().map(member);
        let members = members.collect::<Option<BTreeMap<_, _>>>()?;
        Some(Self {
            layer,
            root,
            above: ledger.above,
            before: None,
            beside: Vec::new(),
            seal: None,
            cert_life: Duration::from_secs(ledger.cert_life),
            members,
            invitations: ledger
                .invitations
                .into_iter()
                .map(invited)
                .collect::<Option<BTreeMap<_, _>>>()?,
            audit: ledger.audit.into_iter().map(used).collect::<Option<_>>()?,
            pools,
        })
    }

    pub(super) fn written(&self) -> Ledger {
        let members = self.members.iter().map(|(member, issued)| Entry {
            member: member.to_string(),
            prefixes: texts(&issued.grant.prefixes),
            groups: texts(&issued.grant.groups),
            csr: issued.csr.map(|csr| csr.to_vec()).unwrap_or_default(),
            certificate: issued.certificate.clone(),
        });
        let invitations = self.invitations.iter().map(|(id, open)| Invited {
            id: id.to_vec(),
            seed_public: open.seed_public.to_vec(),
            expires: open.expires,
            uses: open.uses,
            left: open.left,
            member: open
                .member
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            prefixes: texts(&open.grant.prefixes),
            groups: texts(&open.grant.groups),
        });
        let audit = self.audit.iter().map(|one| Use {
            at: one.at,
            invitation: one.invitation.to_vec(),
            member: one.member.to_string(),
        });
        let held = self.pools.held.iter().map(|held| HeldBack {
            prefixes: texts(&held.prefixes),
            until: held.until,
        });
        Ledger {
            members: members.collect(),
            invitations: invitations.collect(),
            audit: audit.collect(),
            cert_life: self.cert_life.as_secs(),
            above: self.above.clone(),
            // An issuer's are said by the root.
            pools: match self.is_root() {
                true => texts(&self.pools.from),
                false => Vec::new(),
            },
            held: held.collect(),
        }
    }
}

fn root(r: &mut Reader<'_>) -> Result<Root, Corrupt> {
    let (pkcs8, der) = (r.bytes()?, r.bytes()?);
    Root::load(Zeroizing::new(pkcs8.to_vec()), der)
        .ok_or_else(|| r.damaged("its key can't be used"))
}

fn grant(prefixes: &[String], groups: &[String]) -> Option<Grant> {
    let prefixes = prefixes.iter().map(|p| p.parse().ok());
    let groups = groups.iter().map(|g| Label::new(g.as_str()).ok());
    Some(Grant {
        prefixes: prefixes.collect::<Option<_>>()?,
        groups: groups.collect::<Option<_>>()?,
    })
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// None for no bytes, and nothing for bytes of another length.
fn maybe<const N: usize>(bytes: Vec<u8>) -> Option<Option<[u8; N]>> {
    match bytes.is_empty() {
        true => Some(None),
        false => array(&bytes).map(Some),
    }
}

fn texts(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

const KIND: &str = "authority";
const VERSION: u16 = 3;
