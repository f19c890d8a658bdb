//! The line that lets somebody join, and the joiner's side of enrolment.
//!
//! `strata://LAYER/enrol?v=1,id=…,seed=…,root=…,by=ISSUER,exp=SECONDS,member=NAME,via=A+B,at=NAME=ADDR:PORT,sum=…`
//!
//! Numbers of bytes are hexadecimal; `member`, `via` and `at` may be missing, `at` may stand several times; bytes of a
//! hint's name other than `a-z A-Z 0-9 - . _ ~ /` are written `%XX`. `sum` is the first 4 bytes of the SHA-256 of all
//! before `,sum=`: it finds a line that was cut or mistyped, and protects from nothing else. No character of the line
//! needs quoting in a shell but the `?` in a few.

use std::fmt;
use std::time::Duration;

use proto::ipcp::Host;
use proto::{Code, Label, Name, Reason, wire};
use rcgen::{CertificateParams, DistinguishedName, SanType};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::cert::uri;
use super::key::Key;
use super::{Clock, Identity, MemberCert, Roots, TlsConfig, failed, sha256};
use crate::UnixTime;

/// An invitation as the joiner holds it. The seed in it is a secret: it never leaves the joiner, it only signs.
pub struct Invitation {
    /// The layer to join.
    pub layer: Label,
    /// The member that issued the invitation and alone can redeem it.
    pub issuer: Label,
    /// The member name that is granted; `None`: the joiner's choice.
    pub member: Option<Label>,
    /// Members to dial.
    pub vias: Vec<Label>,
    /// Where shims of the lower layer are.
    pub hints: Vec<Host>,
    /// The first second in which it is no longer taken.
    pub expires: UnixTime,
    pub(super) id: [u8; 16],
    pub(super) seed: Zeroizing<[u8; 32]>,
    pub(super) root: [u8; 32],
}

/// Somebody on the way to become a member: a fresh key, and the right to have it certified.
pub struct Joiner {
    layer: Label,
    member: Label,
    issuer: Label,
    invitation: [u8; 16],
    root: [u8; 32],
    seed: Ed25519KeyPair,
    key: Key,
    csr: Vec<u8>,
}

impl Invitation {
    /// Reads the line; refuses one that is mangled, of a newer version, or expired beyond doubt: what counts is the issuer's
    /// clock, and `now` is another's.
    pub fn parse(url: &str, now: UnixTime) -> Result<Self, Reason> {
        let url = url.trim();
        let (text, sum) = url.rsplit_once(",sum=").filter(|(text, _)| text.starts_with("strata://")).ok_or_else(|| {
            usage("this is no invitation: it must begin with strata:// and end with a checksum; copy the whole line")
        })?;
        if sum != checksum(text) {
            return Err(usage(
                "the invitation is mangled: its checksum doesn't match; copy the whole line again",
            ));
        }
        let parsed = Self::fields(text)?;
        if now.0 >= parsed.expires.0.saturating_add(SKEW) {
            let ago = now.secs() - parsed.expires.secs();
            let text = format!(
                "the invitation expired {ago} s ago; ask {} for another (irm layer invite)",
                parsed.issuer
            );
            return Err(Reason::new(Code::Denied, text));
        }
        Ok(parsed)
    }

    fn fields(text: &str) -> Result<Self, Reason> {
        let bad = || usage("the invitation is malformed; ask for another");
        let rest = text.strip_prefix("strata://").ok_or_else(bad)?;
        let (layer, fields) = rest.split_once("/enrol?v=").ok_or_else(bad)?;
        let mut fields = fields.split(',');
        if fields.next() != Some("1") {
            return Err(usage(
                "the invitation is of a newer version; update this program",
            ));
        }
        let (mut id, mut seed, mut root, mut issuer, mut expires, mut member) =
            (None, None, None, None, None, None);
        let (mut vias, mut hints) = (Vec::new(), Vec::new());
        for field in fields {
            let (key, value) = field.split_once('=').ok_or_else(bad)?;
            let label = |text: &str| Label::new(text).map_err(|_| bad());
            match key {
                "id" => id = unhex(value),
                "seed" => seed = unhex(value).map(Zeroizing::new),
                "root" => root = unhex(value),
                "by" => issuer = Some(label(value)?),
                "exp" => expires = value.parse().ok().map(|s| UnixTime(Duration::from_secs(s))),
                "member" => member = Some(label(value)?),
                "via" => vias = value.split('+').map(label).collect::<Result<_, _>>()?,
                "at" => hints.push(hint(value).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(Self {
            layer: Label::new(layer).map_err(|_| bad())?,
            issuer: issuer.ok_or_else(bad)?,
            member,
            vias,
            hints,
            expires: expires.ok_or_else(bad)?,
            id: id.ok_or_else(bad)?,
            seed: seed.ok_or_else(bad)?,
            root: root.ok_or_else(bad)?,
        })
    }

    /// The line. Whoever has it can join.
    pub(super) fn url(&self) -> Zeroizing<String> {
        let (id, seed, root) = (
            hex(&self.id),
            Zeroizing::new(hex(&*self.seed)),
            hex(&self.root),
        );
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let head = format!(
            "strata://{}/enrol?v=1,id={id},by={},exp={},root={root}",
            self.layer,
            self.issuer,
            self.expires.secs()
        );
        text.push_str(&head);
        if let Some(member) = &self.member {
            text.push_str(&format!(",member={member}"));
        }
        if !self.vias.is_empty() {
            let vias: Vec<_> = self.vias.iter().map(Label::as_str).collect();
            text.push_str(&format!(",via={}", vias.join("+")));
        }
        for hint in &self.hints {
            text.push_str(&format!(",at={}={}", escape(hint.name.as_str()), hint.at));
        }
        text.push_str(",seed=");
        text.push_str(&seed);
        let sum = checksum(&text);
        text.push_str(",sum=");
        text.push_str(&sum);
        text
    }

    /// The line for a joiner that can dial only these members.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn through(self, vias: Vec<Label>) -> Zeroizing<String> {
        Self { vias, ..self }.url()
    }

    /// Begins to join as `name`; refuses another name than the one that was granted.
    pub fn start(&self, name: &Label) -> Result<Joiner, Reason> {
        if let Some(granted) = self.member.as_ref().filter(|granted| *granted != name) {
            let text = format!(
                "the invitation is for member {granted}, not for {name}; use that name or ask for another"
            );
            return Err(Reason::new(Code::Conflict, text));
        }
        let seed = Ed25519KeyPair::from_seed_unchecked(&*self.seed)
            .map_err(|_| failed("the seed is refused"))?;
        let key = Key::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let san = uri(&self.layer, name)
            .try_into()
            .map_err(|_| failed("the name is refused"))?;
        params.subject_alt_names = vec![SanType::URI(san)];
        let csr = params.serialize_request(&key).map_err(failed)?;
        Ok(Joiner {
            layer: self.layer.clone(),
            member: name.clone(),
            issuer: self.issuer.clone(),
            invitation: self.id,
            root: self.root,
            seed,
            key,
            csr: csr.der().to_vec(),
        })
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Invitation({}, by {}, for {:?})",
            self.layer, self.issuer, self.member
        )
    }
}

impl Joiner {
    /// The configuration to dial a member with: the joiner shows no certificate, the member must have one of the root
    /// that the invitation names.
    pub fn tls(&self, clock: &Clock) -> Result<TlsConfig, Reason> {
        TlsConfig::joiner(self.layer.clone(), self.root, clock)
    }

    /// The layer to join.
    pub fn layer(&self) -> &Label {
        &self.layer
    }

    /// The name to join as.
    pub fn member(&self) -> &Label {
        &self.member
    }

    /// The request, bound to the TLS session with the member that was dialled.
    pub fn request(&self, exporter: &[u8; 32]) -> wire::EnrolRequest {
        wire::EnrolRequest {
            invitation: self.invitation.to_vec(),
            csr: self.csr.clone(),
            seed_signature: self
                .seed
                .sign(&signed_part(&self.csr, exporter))
                .as_ref()
                .to_vec(),
            issuer: self.issuer.to_string(),
            ..wire::EnrolRequest::default()
        }
    }

    /// Takes the answer; refuses one that isn't for this key, this name and this root. A better one may follow: whoever is
    /// in between can say anything.
    pub fn finish(&self, reply: &wire::EnrolReply, now: UnixTime) -> Result<Identity, Reason> {
        if reply.code != 0 {
            return Err(Reason::new(
                Code::from_wire(reply.code),
                format!("{} refused: {}", self.issuer, reply.text),
            ));
        }
        let blame = |e: super::CertError| {
            Reason::new(
                Code::PeerMisbehaved,
                format!(
                    "the certificate that {} sent can't be used: {e}",
                    self.issuer
                ),
            )
        };
        let roots =
            Roots::pinned(reply.chain.iter().map(Vec::as_slice), &self.root).map_err(blame)?;
        let (leaf, chain) = (&reply.certificate, &reply.chain);
        let verified = MemberCert::verify_path(leaf, chain, &roots, &self.layer, now);
        let (cert, mut between) = verified.map_err(blame)?;
        between.truncate(MAX_BETWEEN);
        if *cert.member() != self.member || *cert.public_key() != *self.key.public() {
            return Err(Reason::new(
                Code::PeerMisbehaved,
                format!("{} sent a certificate for somebody else", self.issuer),
            ));
        }
        let key = self
            .key
            .again()
            .ok_or_else(|| failed("the key is refused"))?;
        Identity::new(key, cert, between, roots).map_err(blame)
    }
}

impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Joiner({}/{})", self.layer, self.member)
    }
}

/// What the seed signs.
pub(super) fn signed_part(csr: &[u8], exporter: &[u8; 32]) -> Vec<u8> {
    [b"strata enrol v1".as_slice(), &sha256(&[csr]), exporter].concat()
}

/// The public key of a seed.
pub(super) fn seed_public(seed: &[u8; 32]) -> Option<[u8; 32]> {
    Ed25519KeyPair::from_seed_unchecked(seed)
        .ok()?
        .public_key()
        .as_ref()
        .try_into()
        .ok()
}

/// Certificates between a member's and the root.
pub(super) const MAX_BETWEEN: usize = 2;

fn usage(text: &str) -> Reason {
    Reason::new(Code::Usage, text)
}

fn checksum(text: &str) -> String {
    hex(&sha256(&[text.as_bytes()])[..4])
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        for digit in [b >> 4, b & 15] {
            out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    out
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(out)
}

fn hint(text: &str) -> Option<Host> {
    let (name, at) = text.split_once('=')?;
    Some(Host {
        name: Name::from_bytes(&unescape(name)?).ok()?,
        at: at.parse().ok()?,
    })
}

fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            out.push_str(&hex(&[b]));
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        if b == b'%' {
            let (pair, after) = rest.split_at_checked(2)?;
            let [byte] = unhex(std::str::from_utf8(pair).ok()?)?;
            out.push(byte);
            rest = after;
        } else {
            out.push(b);
        }
    }
    Some(out)
}

/// How far the clocks of issuer and joiner may be apart: each ten minutes wrong.
const SKEW: Duration = Duration::from_secs(20 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime(Duration::from_secs(seconds))
    }

    fn sample() -> Invitation {
        Invitation {
            layer: Label::new("ovl").unwrap(),
            issuer: Label::new("ovl-b").unwrap(),
            member: Some(Label::new("ovl-d").unwrap()),
            vias: vec![Label::new("ovl-a").unwrap(), Label::new("ovl-b").unwrap()],
            hints: vec![
                Host {
                    name: Name::new("ovl-a").unwrap(),
                    at: "10.0.0.1:3359".parse().unwrap(),
                },
                Host {
                    name: Name::new("héllo, wörld=+&/").unwrap(),
                    at: "[fd00::1]:3359".parse().unwrap(),
                },
            ],
            expires: at(1_000_000),
            id: [0xab; 16],
            seed: Zeroizing::new([0xcd; 32]),
            root: [0xef; 32],
        }
    }

    /// The example of docs/protocol.md.
    #[test]
    fn the_line_is_that_of_the_protocol() {
        let label = |text| Label::new(text).unwrap();
        let invitation = Invitation {
            layer: label("home"),
            issuer: label("alice"),
            member: Some(label("bob")),
            vias: vec![label("alice"), label("carol")],
            hints: vec![Host {
                name: Name::new("alice x").unwrap(),
                at: "192.0.2.1:3359".parse().unwrap(),
            }],
            expires: at(2_000_000_000),
            id: [1; 16],
            seed: Zeroizing::new([2; 32]),
            root: [3; 32],
        };
        let (id, root, seed) = ("01".repeat(16), "03".repeat(32), "02".repeat(32));
        let line = format!(
            "strata://home/enrol?v=1,id={id},by=alice,exp=2000000000,root={root},member=bob,via=alice+carol,\
             at=alice%20x=192.0.2.1:3359,seed={seed},sum=a1a6cd0f"
        );
        assert_eq!(*invitation.url(), line);
        assert_eq!(*Invitation::parse(&line, at(1)).unwrap().url(), line);
    }

    #[test]
    fn the_line_is_printable_and_says_everything() {
        let (invitation, url) = (sample(), sample().url());
        assert!(
            url.bytes().all(
                |b| b.is_ascii_graphic() && !b"&;|<>()$`\\\"'*[]{}!#".contains(&b)
                    || b"[]".contains(&b)
            ),
            "{}",
            *url
        );
        let back = Invitation::parse(&format!("  {}\n", *url), at(5)).unwrap();
        assert_eq!(
            (back.layer, back.issuer, back.member),
            (invitation.layer, invitation.issuer, invitation.member)
        );
        assert_eq!(
            (back.vias, back.hints, back.expires),
            (invitation.vias, invitation.hints, invitation.expires)
        );
        assert_eq!(
            (back.id, *back.seed, back.root),
            (invitation.id, *invitation.seed, invitation.root)
        );
    }

    #[test]
    fn a_mangled_line_is_named_as_such_at_each_byte() {
        let url = sample().url().to_string();
        for len in 0..url.len() {
            assert!(
                Invitation::parse(&url[..len], at(5)).is_err(),
                "cut at {len}"
            );
        }
        for i in 0..url.len() {
            let mut bad = url.clone().into_bytes();
            bad[i] ^= 1;
            let bad = String::from_utf8(bad).unwrap();
            let reason = Invitation::parse(&bad, at(5)).unwrap_err();
            assert!(
                reason.text.contains("copy the whole line"),
                "byte {i}: {reason}"
            );
        }
    }

    #[test]
    fn an_expired_or_newer_line_is_named_as_such() {
        assert!(
            Invitation::parse(&sample().url(), at(1_001_199)).is_ok(),
            "by a clock that may be wrong"
        );
        let late = Invitation::parse(&sample().url(), at(1_001_200)).unwrap_err();
        assert_eq!(
            (late.code, late.text.contains("expired 1200 s ago")),
            (Code::Denied, true),
            "{late}"
        );
        let text = sample()
            .url()
            .replace("v=1", "v=2")
            .rsplit_once(",sum=")
            .unwrap()
            .0
            .to_string();
        let newer =
            Invitation::parse(&format!("{text},sum={}", checksum(&text)), at(5)).unwrap_err();
        assert!(newer.text.contains("newer version"), "{newer}");
    }

    #[test]
    fn only_the_granted_name_may_start() {
        let other = sample().start(&Label::new("mallory").unwrap()).unwrap_err();
        assert_eq!(other.code, Code::Conflict);
        assert!(sample().start(&Label::new("ovl-d").unwrap()).is_ok());
    }

    #[test]
    fn the_seed_never_shows_in_debug_output() {
        let shown = format!(
            "{:?} {:?}",
            sample(),
            sample().start(&Label::new("ovl-d").unwrap()).unwrap()
        );
        assert!(!shown.contains("cd") && !shown.contains("205"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", fields in "[a-z0-9=,+%]{0,80}") {
            let _ = Invitation::parse(&text, at(0));
            let text = format!("strata://l/enrol?v=1,{fields}");
            let _ = Invitation::parse(&format!("{text},sum={}", checksum(&text)), at(0));
        }

        #[test]
        fn unescape_undoes_escape(name in "\\PC{0,60}") {
            prop_assert_eq!(unescape(&escape(&name)), Some(name.into_bytes()));
        }
    }
}
