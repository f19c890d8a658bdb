//! The authority of a layer: its root key, a ledger of who was issued what, and the invitations that are open.
//!
//! It lives at the member that bootstrapped the layer; every use of an invitation is counted here and nowhere else.

mod ledger;
#[cfg(test)]
mod overstep;
mod pool;
mod renew;
mod rollover;
mod sealed;
mod stored;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::ipcp::Invite;
use proto::{Addr, Code, Label, Reason, wire};
use ring::signature::{ED25519, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::cert::{MAX_GROUPS, key_hash_of};
use super::invitation::{Invitation, seed_public, signed_part};
use super::issue::{MEMBER_LIFE, Request, Root};
use super::key::Key;
use super::{Identity, MemberCert, Roots, address, prefix, random, sha256};
use crate::UnixTime;
use pool::Pools;
use sealed::Seal;

pub use sealed::{Kept, Sealed};

/// The authority of one layer.
pub struct Authority {
    layer: Label,
    /// The key that issues, with its certificate: the root, or what a root has certified.
    root: Root,
    /// The certificates above that, the root last; none above a root.
    above: Vec<Vec<u8>>,
    /// The root before this one, as long as both are believed.
    before: Option<Root>,
    /// What goes along with a certificate as long as two roots are believed.
    beside: Vec<Vec<u8>>,
    /// The passphrase under which its key lies on disk, if it does.
    seal: Option<Seal>,
    /// How long the certificates of members live.
    cert_life: Duration,
    members: BTreeMap<Label, Issued>,
    invitations: BTreeMap<[u8; 16], Open>,
    audit: VecDeque<Audit>,
    /// Where addresses come from for those that are let in without a prefix.
    pools: Pools,
}

/// One use of an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// When, in seconds of Unix time.
    pub at: u64,
    /// The id of the invitation.
    pub invitation: [u8; 16],
    /// Who became a member.
    pub member: Label,
}

impl Audit {
    /// The id of the invitation, hexadecimal.
    pub fn invitation(&self) -> String {
        self.invitation.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A line of the audit: Unix seconds, invitation, member.
impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.at, self.invitation(), self.member)
    }
}

/// What a member was issued.
struct Issued {
    /// What follows from its name.
    address: Addr,
    grant: Grant,
    /// SHA-256 of the request that was answered; none for the first member.
    csr: Option<[u8; 32]>,
    certificate: Vec<u8>,
}

/// An invitation as the issuer keeps it: no secret is in here.
struct Open {
    seed_public: [u8; 32],
    expires: u64,
    uses: u64,
    left: u64,
    member: Option<Label>,
    grant: Grant,
}

/// What a certificate says of a member besides its name: sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) prefixes: Vec<IpNet>,
    pub(super) groups: Vec<Label>,
}

impl Authority {
    /// Makes a layer's authority and the identity of its first member.
    pub fn create(
        layer: &Label,
        first: &Label,
        prefixes: &[IpNet],
        now: UnixTime,
    ) -> Result<(Self, Identity), Reason> {
        Self::create_for(layer, first, prefixes, Some(&[]), None, now)
    }

    /// The same; without prefixes each member gets an address out of each of the `pools`, by default two that follow from the
    /// root's key; certificates of members live for `cert_life`, by default 90 days.
    pub fn create_for(
        layer: &Label,
        first: &Label,
        prefixes: &[IpNet],
        pools: Option<&[IpNet]>,
        cert_life: Option<Duration>,
        now: UnixTime,
    ) -> Result<(Self, Identity), Reason> {
        let root = Root::create(layer, now)?;
        let pools = Pools::new(pools, &root.key_hash())?;
        let mut authority = Self {
            layer: layer.clone(),
            root,
            above: Vec::new(),
            before: None,
            beside: Vec::new(),
            seal: None,
            cert_life: checked_life(cert_life)?,
            members: BTreeMap::new(),
            invitations: BTreeMap::new(),
            audit: VecDeque::new(),
            pools,
        };
        let prefixes = match prefixes.is_empty() {
            true => authority.addresses(now)?,
            false => authority.checked_prefixes(prefixes, now)?,
        };
        let key = Key::generate()?;
        let grant = Grant {
            prefixes,
            groups: Vec::new(),
        };
        let certificate =
            authority
                .root
                .issue(layer, first, &grant, &key, authority.cert_life, now)?;
        let broken = |e: super::CertError| {
            Reason::new(
                Code::Failed,
                format!("the new certificate can't be used: {e}"),
            )
        };
        let roots = Roots::new(vec![authority.root.der().to_vec()]).map_err(broken)?;
        let cert = MemberCert::verify(&certificate, &[], &roots, layer, now).map_err(broken)?;
        let identity = Identity::new(key, cert, Vec::new(), roots).map_err(broken)?;
        authority.members.insert(
            first.clone(),
            Issued {
                address: address(layer, first),
                grant,
                csr: None,
                certificate,
            },
        );
        Ok((authority, identity))
    }

    /// The layer.
    pub fn layer(&self) -> &Label {
        &self.layer
    }

    /// The authority of a member that may issue with the certificate `own`, under `root`.
    pub fn delegated(
        identity: &Identity,
        own: &[u8],
        root: &[u8],
        cert_life: Option<Duration>,
    ) -> Result<Self, Reason> {
        let unusable = || {
            let text = "the certificate to issue with is not of this member's key; ask for another";
            Reason::new(Code::PeerMisbehaved, text)
        };
        Ok(Self {
            layer: identity.layer().clone(),
            root: identity.issue_with(own).ok_or_else(unusable)?,
            above: vec![root.to_vec()],
            before: None,
            beside: Vec::new(),
            seal: None,
            cert_life: checked_life(cert_life)?,
            members: BTreeMap::new(),
            invitations: BTreeMap::new(),
            audit: VecDeque::new(),
            pools: Pools::default(),
        })
    }

    /// The certificate with which a member may issue, DER; without prefixes it may grant any.
    pub fn delegate(
        &self,
        cert: &MemberCert,
        prefixes: &[IpNet],
        now: UnixTime,
    ) -> Result<Vec<u8>, Reason> {
        let mut prefixes = prefix::canonical(prefixes);
        if prefixes.is_empty() {
            prefixes = vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        }
        self.root.delegate(cert, &prefixes, now)
    }

    /// The certificate of the key that issues, DER.
    pub fn own_cert(&self) -> &[u8] {
        self.root.der()
    }

    /// Adds what another has given away, and its open invitations.
    pub fn join(&mut self, other: Self) {
        for (member, issued) in other.members {
            self.members.entry(member).or_insert(issued);
        }
        self.invitations.extend(other.invitations);
        self.pools.held.extend(other.pools.held);
    }

    /// Takes over what another has given away, as a certificate to issue with takes the place of one before.
    pub fn inherit(&mut self, before: Self) {
        self.members = before.members;
        self.invitations = before.invitations;
        self.audit = before.audit;
        self.pools.held = before.pools.held;
    }

    /// Notes what a member of the layer was granted by others that issue, so that it isn't given again here.
    pub fn note(&mut self, cert: &MemberCert) {
        let known = self.members.get_mut(cert.member());
        let Some(known) = known else {
            let issued = Issued {
                address: address(&self.layer, cert.member()),
                grant: Grant::of(cert),
                csr: None,
                certificate: cert.der().to_vec(),
            };
            self.members.insert(cert.member().clone(), issued);
            return;
        };
        if known.certificate == cert.der() {
            return;
        }
        // Another of those that issue may have renewed it since.
        let before = MemberCert::parse(&known.certificate);
        let newer = |before: MemberCert| {
            before.public_key() == cert.public_key() && before.not_after() < cert.not_after()
        };
        if before.is_ok_and(newer) {
            known.certificate = cert.der().to_vec();
        }
    }

    /// The certificates from that of the key that issues up to the root, and those of another root that is believed.
    fn chain(&self) -> Vec<Vec<u8>> {
        let own = std::iter::once(self.root.der().to_vec());
        let above = self.above.iter().chain(&self.beside);
        own.chain(above.cloned()).collect()
    }

    /// Whether it holds the key of a root; else one that a root has certified.
    pub fn is_root(&self) -> bool {
        self.above.is_empty()
    }

    /// Names the key that [`Authority::sign`] signs with: the SHA-256 of its SubjectPublicKeyInfo.
    pub fn voice(&self) -> [u8; 32] {
        self.root.key_hash()
    }

    /// An Ed25519 signature, for what the authority says to all members.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.root.sign(message)
    }

    /// Takes a member out of the ledger, so that its name, its address and its prefixes can be given again (those by a pool when its
    /// certificate has ended), and closes the
    /// invitations that grant its name. Gives the key that it was certified with, if that was done here.
    pub fn release(&mut self, member: &Label) -> Option<[u8; 32]> {
        self.invitations
            .retain(|_, open| open.member.as_ref() != Some(member));
        let issued = self.members.remove(member)?;
        let cert = MemberCert::parse(&issued.certificate).ok()?;
        self.hold_back(issued.grant.prefixes, cert.not_after());
        Some(*cert.public_key())
    }

    /// The key that a member was certified with here.
    pub fn key_of(&self, member: &Label) -> Option<[u8; 32]> {
        let issued = self.members.get(member)?;
        let cert = MemberCert::parse(&issued.certificate).ok()?;
        Some(*cert.public_key())
    }

    /// Whether it knows of no member but this one.
    pub fn is_alone(&self, member: &Label) -> bool {
        self.members.keys().all(|known| known == member)
    }

    /// The longest that a certificate of today can live.
    pub fn cert_life(&self) -> Duration {
        self.cert_life
    }

    /// The uses of invitations, oldest first; the newest 4096 are kept.
    pub fn audit(&self) -> impl Iterator<Item = &Audit> {
        self.audit.iter()
    }

    /// Issues an invitation and gives its line. `issuer` is the member that holds this authority, `members` are whom a
    /// joiner may dial; the first 8 are named. An unused one for the same member with the same prefixes stops working.
    pub fn invite(
        &mut self,
        invite: &Invite,
        issuer: &Label,
        members: &[Label],
        now: UnixTime,
    ) -> Result<String, Reason> {
        self.forget_old(now);
        let replaced = self.take_same(invite, now);
        let made = self.add(invite, issuer, members, now);
        if made.is_err() {
            self.invitations.extend(replaced);
        }
        made
    }

    /// Takes the unused invitation of the same member and terms out: its line may be lost, and only one works at a time.
    fn take_same(&mut self, invite: &Invite, now: UnixTime) -> Option<([u8; 16], Open)> {
        let member = invite.member.as_ref()?;
        let grant = Grant {
            prefixes: prefix::canonical(&invite.prefixes),
            groups: sorted(&invite.groups),
        };
        let same = |open: &Open| {
            let unused = open.left == open.uses && open.uses == u64::from(invite.uses);
            unused && open.member.as_ref() == Some(member) && open.grant == grant
        };
        let id = *self.open(now).find(|(_, open)| same(open))?.0;
        self.invitations.remove_entry(&id)
    }

    fn add(
        &mut self,
        invite: &Invite,
        issuer: &Label,
        members: &[Label],
        now: UnixTime,
    ) -> Result<String, Reason> {
        let usage = |text: &str| Err(Reason::new(Code::Usage, text));
        if invite.uses == 0 || invite.expires_ms == 0 {
            return usage(
                "an invitation needs at least one use and some time to live; give --uses 1 --expires 10m",
            );
        }
        if invite.uses > 1 && (invite.member.is_some() || !invite.prefixes.is_empty()) {
            return usage(
                "a name or a prefix can be granted once; leave --uses at 1, or invite without --member and --prefix",
            );
        }
        if self.invitations.len() >= MAX_INVITATIONS {
            return Err(Reason::new(
                Code::Busy,
                "1024 invitations are open; wait until some have expired",
            ));
        }
        if let Some(member) = &invite.member {
            self.check_name(member, None, now)?;
        }
        if invite.prefixes.is_empty() {
            // Given when the invitation is used; that there is one can be said now.
            self.addresses(now)?;
        }
        let grant = Grant {
            prefixes: self.checked_prefixes(&invite.prefixes, now)?,
            groups: sorted(&invite.groups),
        };
        if grant.groups.len() > MAX_GROUPS {
            return usage("a member can be in at most 16 groups; grant fewer");
        }
        let (id, seed) = (random::<16>()?, Zeroizing::new(random::<32>()?));
        let broken = || {
            Reason::new(
                Code::Failed,
                "the authority's key can't be used; restore its file from a backup",
            )
        };
        let root = key_hash_of(self.root_der()).ok_or_else(broken)?;
        // Whole seconds, rounded up, so that the line and the ledger agree.
        let expires =
            (now.0 + Duration::from_millis(invite.expires_ms) + Duration::from_nanos(999_999_999))
                .as_secs();
        let open = Open {
            seed_public: seed_public(&seed).ok_or_else(broken)?,
            expires,
            uses: u64::from(invite.uses),
            left: u64::from(invite.uses),
            member: invite.member.clone(),
            grant,
        };
        self.invitations.insert(id, open);
        let invitation = Invitation {
            layer: self.layer.clone(),
            issuer: issuer.clone(),
            member: invite.member.clone(),
            vias: members.iter().take(MAX_VIAS).cloned().collect(),
            hints: invite.hints.clone(),
            expires: UnixTime(Duration::from_secs(expires)),
            id,
            seed,
            root,
        };
        Ok(invitation.url().to_string())
    }

    /// Answers a request to join that came over the TLS session with this exporter. The same request is answered the same
    /// way again, since an answer may get lost.
    pub fn redeem(
        &mut self,
        request: &wire::EnrolRequest,
        exporter: &[u8; 32],
        now: UnixTime,
    ) -> Result<wire::EnrolReply, Reason> {
        let (id, csr) = self.authentic(request, exporter)?;
        let hash = sha256(&[&request.csr]);
        let again = self.members.get(&csr.member);
        let again = again.filter(|issued| issued.csr == Some(hash));
        if let Some(issued) = again.filter(|i| self.root.has_issued(&i.certificate)) {
            return Ok(self.reply(issued.certificate.clone()));
        }
        // Answered before under another root: no second use.
        let known = again.map(|issued| issued.grant.clone());
        let counts = known.is_none();
        let grant = match known {
            Some(grant) => grant,
            None => self.granted(&id, &csr, now)?,
        };
        let certificate = self.root.issue(
            &self.layer,
            &csr.member,
            &grant,
            &csr.public_key,
            self.cert_life,
            now,
        )?;
        if counts {
            self.count_use(id, csr.member.clone(), now);
        }
        let issued = Issued {
            address: address(&self.layer, &csr.member),
            grant,
            csr: Some(hash),
            certificate: certificate.clone(),
        };
        self.members.insert(csr.member, issued);
        Ok(self.reply(certificate))
    }

    fn count_use(&mut self, id: [u8; 16], member: Label, now: UnixTime) {
        if let Some(open) = self.invitations.get_mut(&id) {
            open.left -= 1;
        }
        self.audit.push_back(Audit {
            at: now.secs(),
            invitation: id,
            member,
        });
        if self.audit.len() > MAX_AUDIT {
            self.audit.pop_front();
        }
    }

    /// Whether the request comes from the holder of one of our invitations, over this session, for this layer.
    fn authentic(
        &self,
        request: &wire::EnrolRequest,
        exporter: &[u8; 32],
    ) -> Result<([u8; 16], Request), Reason> {
        let text = "this authority knows no such invitation; ask for another (irm layer invite)";
        let unknown = || Reason::new(Code::NotFound, text);
        let id: [u8; 16] = request
            .invitation
            .as_slice()
            .try_into()
            .map_err(|_| unknown())?;
        let open = self.invitations.get(&id).ok_or_else(unknown)?;
        let text = "the request isn't signed with the invitation's seed over this session; join anew with the line";
        UnparsedPublicKey::new(&ED25519, &open.seed_public)
            .verify(
                &signed_part(&request.csr, exporter),
                &request.seed_signature,
            )
            .map_err(|_| Reason::new(Code::Denied, text))?;
        let csr = Request::parse(&request.csr)?;
        if csr.layer == self.layer {
            return Ok((id, csr));
        }
        let text = format!(
            "the request is for layer {}, this is {}; use an invitation to it",
            csr.layer, self.layer
        );
        Err(Reason::new(Code::Conflict, text))
    }

    /// What comes with an invitation, if it can still be used for this name.
    fn granted(&self, id: &[u8; 16], csr: &Request, now: UnixTime) -> Result<Grant, Reason> {
        let denied = |why: &str| {
            Err(Reason::new(
                Code::Denied,
                format!("the invitation {why}; ask for another (irm layer invite)"),
            ))
        };
        let Some(open) = self.invitations.get(id) else {
            return denied("is gone");
        };
        if now.secs() >= open.expires {
            return denied("has expired");
        }
        if open.left == 0 {
            return denied(&format!("is used up ({0} of {0})", open.uses));
        }
        if let Some(granted) = open
            .member
            .as_ref()
            .filter(|granted| **granted != csr.member)
        {
            let text = format!(
                "the invitation is for member {granted}, not for {}; use that name",
                csr.member
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        self.check_name(&csr.member, Some(id), now)?;
        let mut grant = open.grant.clone();
        if grant.prefixes.is_empty() {
            grant.prefixes = prefix::canonical(&self.addresses(now)?);
        }
        Ok(grant)
    }

    fn reply(&self, certificate: Vec<u8>) -> wire::EnrolReply {
        wire::EnrolReply {
            certificate,
            code: 0,
            text: String::new(),
            layer: self.layer.to_string(),
            chain: self.chain(),
        }
    }

    /// Drops invitations that expired so long ago that nobody asks why they don't work.
    fn forget_old(&mut self, now: UnixTime) {
        self.invitations
            .retain(|_, open| now.secs() < open.expires + FORGET);
        self.give_back(now);
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Authority({}, {} members, {} invitations)",
            self.layer,
            self.members.len(),
            self.invitations.len()
        )
    }
}

fn sorted(groups: &[Label]) -> Vec<Label> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn checked_life(life: Option<Duration>) -> Result<Duration, Reason> {
    let life = life.unwrap_or(MEMBER_LIFE);
    if (MIN_LIFE..=MAX_LIFE).contains(&life) {
        return Ok(life);
    }
    Err(Reason::new(
        Code::Usage,
        "a certificate can live from 10 minutes to 5 years; give another --cert-life",
    ))
}

const MIN_LIFE: Duration = Duration::from_secs(10 * 60);
const MAX_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
/// An expired invitation is remembered for a day.
const FORGET: u64 = 24 * 60 * 60;
const MAX_INVITATIONS: usize = 1024;
const MAX_AUDIT: usize = 4096;
/// Members to dial that a line names: it shall stay one that can be pasted.
const MAX_VIAS: usize = 8;

#[cfg(test)]
mod tests;
