//! One signed record: how it is signed, what may be in it, and what is wrong with a bad one.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use prost::Message;
use proto::wire::{Network, Record as Body, SignedRecord};
use proto::{Addr, Label};

use super::graph::{LinkState, tidy};
use crate::UnixTime;
use crate::crypt::{CertError, Identity};

/// The most members of a layer that are known at once.
pub const MAX_MEMBERS: usize = 16_384;
/// The most bytes of a record with its certificate, encoded, so that a message with one record has at most 64 KiB.
pub const MAX_RECORD: usize = 65_536 - 64;
/// The most links of one member.
pub const MAX_LINKS: usize = 1_024;
/// The most networks that one member offers.
pub const MAX_OFFERS: usize = 64;

/// Why a record is not taken. Each is counted under [`RecordError::word`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record or something in it has more than its bound.
    #[error("a record has more {what} than {max}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// The bytes are no record.
    #[error("a record can't be read: {0}")]
    Malformed(&'static str),
    /// Its originator's certificate is not believed.
    #[error("the certificate of a record's originator is not believed: {0}")]
    Certificate(CertError),
    /// It came without its originator's certificate, of which nothing else is known.
    #[error("a record of {0} came without a certificate, and none is known")]
    NoCertificate(Addr),
    /// It speaks for a member other than the one that the certificate names.
    #[error("a member speaks for {claimed}, but its address is {found}")]
    WrongOrigin {
        /// For whom it speaks.
        claimed: Addr,
        /// Who it is.
        found: Addr,
    },
    /// The originator didn't sign it.
    #[error("the signature of a record of {0} is forged")]
    Forged(Addr),
    /// Nobody has renewed it for too long.
    #[error("a record of {0} is too old")]
    TooOld(Addr),
    /// Its originator signed it at a time that is far from what this host's clock says.
    #[error("a record of {0} was signed hours away from now; set the clocks of both hosts right")]
    WrongTime(Addr),
    /// Another member of that name counts.
    #[error("a record of {0} is of a second member of that name, which doesn't count")]
    Taken(Addr),
    /// The layer is full.
    #[error("the layer has {MAX_MEMBERS} members; no more are taken")]
    TooManyMembers,
}

impl RecordError {
    /// A stable word for counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "drop.record_too_large",
            Self::Malformed(_) => "drop.record_malformed",
            Self::Certificate(_) => "drop.record_certificate",
            Self::NoCertificate(_) => "drop.record_no_certificate",
            Self::WrongOrigin { .. } => "drop.record_wrong_origin",
            Self::Forged(_) => "drop.record_forged",
            Self::TooOld(_) => "drop.record_too_old",
            Self::WrongTime(_) => "drop.record_wrong_time",
            Self::Taken(_) => "drop.record_name_clash",
            Self::TooManyMembers => "drop.record_member_limit",
        }
    }
}

/// Which record of a member; its number is the `kind` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Kind(u32);

impl Kind {
    pub(super) const LINKS: Self = Self(1);
    pub(super) const OFFERS: Self = Self(3);

    pub(super) fn from_wire(kind: u32) -> Option<Self> {
        [Self::LINKS, Self::OFFERS]
            .into_iter()
            .find(|k| k.0 == kind)
    }

    pub(super) fn to_wire(self) -> u32 {
        self.0
    }
}

/// Of two records of one member and kind the one with the higher version holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) incarnation: u64,
    pub(super) counter: u64,
}

impl Version {
    /// The next higher one.
    pub(super) fn next(self) -> Self {
        match self.counter.checked_add(1) {
            Some(counter) => Self { counter, ..self },
            None => Self {
                incarnation: self.incarnation.saturating_add(1),
                counter: 1,
            },
        }
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Links(Vec<LinkState>),
    /// Sorted, each once.
    Offers(Vec<IpNet>),
}

impl Content {
    /// A record of this kind that says nothing.
    pub(super) fn empty(kind: Kind) -> Self {
        match kind {
            Kind::OFFERS => Self::Offers(Vec::new()),
            _ => Self::Links(Vec::new()),
        }
    }
}

/// A record whose form is right; whether it is true is another question.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) origin: Addr,
    pub(super) kind: Kind,
    pub(super) version: Version,
    pub(super) content: Content,
    /// By the originator's clock.
    pub(super) signed_at: UnixTime,
}

impl Parsed {
    /// Whether it may still be held at `wall`. The clocks of its originator and of this host may differ by [`SKEW`]; but
    /// nobody who holds it can make it live longer than that.
    pub(super) fn is_valid(&self, wall: UnixTime, life: Duration) -> bool {
        let signed_at = self.signed_at.0;
        signed_at <= wall.0 + SKEW && wall.0 <= signed_at.saturating_add(life + SKEW)
    }
}

/// Reads a record and checks every bound, without believing it.
pub(super) fn parse(record: &SignedRecord) -> Result<Parsed, RecordError> {
    // The length comes first, so that nothing large is ever decoded.
    within(record.encoded_len(), MAX_RECORD, "bytes")?;
    within(
        record.intermediates.len(),
        MAX_INTERMEDIATES,
        "certificates",
    )?;
    let body = Body::decode(record.body.as_slice())
        .map_err(|_| RecordError::Malformed("it is no protobuf message"))?;
    let kind = Kind::from_wire(body.kind).ok_or(RecordError::Malformed("its kind is unknown"))?;
    within(body.links.len(), MAX_LINKS, "links")?;
    within(body.offers.len(), MAX_OFFERS, "offers")?;
    let content = match kind {
        Kind::OFFERS => Content::Offers(offers(&body)?),
        _ => Content::Links(links(&body)),
    };
    let version = Version {
        incarnation: body.incarnation,
        counter: body.counter,
    };
    Ok(Parsed {
        origin: Addr(body.origin),
        kind,
        version,
        content,
        signed_at: UnixTime(Duration::from_secs(body.signed_at)),
    })
}

/// Makes a record of our own.
pub(super) fn sign(
    identity: &Identity,
    kind: Kind,
    version: Version,
    content: &Content,
    signed_at: UnixTime,
) -> SignedRecord {
    let mut body = Body {
        origin: identity.address().0,
        kind: kind.to_wire(),
        incarnation: version.incarnation,
        counter: version.counter,
        signed_at: signed_at.secs(),
        ..Body::default()
    };
    match content {
        Content::Links(links) => body.links = links.iter().map(to_wire).collect(),
        Content::Offers(networks) => body.offers = networks.iter().map(network).collect(),
    }
    let body = body.encode_to_vec();
    let signature = identity
        .sign(&signed_bytes(identity.layer(), &body))
        .to_vec();
    SignedRecord {
        body,
        signature,
        certificate: identity.cert().der().to_vec(),
        age: 0,
        // Everybody has the roots.
        intermediates: identity.between().to_vec(),
    }
}

/// What the signature covers.
pub(super) fn signed_bytes(layer: &Label, body: &[u8]) -> Vec<u8> {
    [CONTEXT, layer.as_str().as_bytes(), &[0], body].concat()
}

fn within(len: usize, max: usize, what: &'static str) -> Result<(), RecordError> {
    if len <= max {
        Ok(())
    } else {
        Err(RecordError::TooLarge { what, max })
    }
}

fn links(body: &Body) -> Vec<LinkState> {
    let mut links: Vec<_> = body
        .links
        .iter()
        .map(|l| LinkState {
            neighbour: Addr(l.neighbour),
            cost: l.cost,
            mtu: l.mtu,
        })
        .collect();
    tidy(&mut links);
    links
}

fn offers(body: &Body) -> Result<Vec<IpNet>, RecordError> {
    let offer = |offer: &Network| {
        let address: IpAddr = match *offer.address.as_slice() {
            [a, b, c, d] => [a, b, c, d].into(),
            ref bytes => <[u8; 16]>::try_from(bytes).ok()?.into(),
        };
        let length = u8::try_from(offer.length).ok()?;
        let net = IpNet::new(address, length).ok()?;
        (net == net.trunc()).then_some(net)
    };
    let offers = body.offers.iter().map(offer).collect::<Option<Vec<_>>>();
    let mut offers = offers.ok_or(RecordError::Malformed("an offer in it is no network"))?;
    offers.sort_unstable();
    offers.dedup();
    Ok(offers)
}

fn network(net: &IpNet) -> Network {
    Network {
        address: match net.network() {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        },
        length: net.prefix_len().into(),
    }
}

fn to_wire(link: &LinkState) -> proto::wire::LinkState {
    proto::wire::LinkState {
        neighbour: link.neighbour.0,
        cost: link.cost,
        mtu: link.mtu,
    }
}

/// The most by which two clocks may differ without harm to routing: a clock that steps by an hour must not end a layer.
const SKEW: Duration = Duration::from_secs(2 * 3600);
const MAX_INTERMEDIATES: usize = 4;
const CONTEXT: &[u8] = b"strata record v1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{NOW, member, vector};

    #[test]
    fn a_record_is_signed_as_the_document_says() {
        let alice = member("alice", 0x12);
        let link = |name: &str, cost, mtu| LinkState {
            neighbour: crate::crypt::address(alice.layer(), &Label::new(name).unwrap()),
            cost,
            mtu,
        };
        let links = Content::Links(vec![link("bob", 11, 1452), link("carol", 10, 9000)]);
        let version = Version {
            incarnation: 2,
            counter: 3,
        };
        let record = sign(&alice, Kind::LINKS, version, &links, NOW);
        assert_eq!(record.body, vector("record.body"));
        assert_eq!(record.signature, vector("record.signature"));
        assert_eq!(record.certificate, vector("alice"));
        let parsed = parse(&record).unwrap();
        assert_eq!((parsed.version, parsed.signed_at), (version, NOW));
    }

    #[test]
    fn offers_are_read_back_as_they_were_signed_and_what_is_no_network_is_refused() {
        let alice = member("alice", 0x12);
        let nets = ["0.0.0.0/0", "10.1.0.0/16", "fd00:1::/48"];
        let nets: Vec<IpNet> = nets.iter().map(|n| n.parse().unwrap()).collect();
        let offers = Content::Offers(nets);
        let record = sign(&alice, Kind::OFFERS, Version::default(), &offers, NOW);
        let parsed = parse(&record).unwrap();
        assert_eq!((parsed.kind, parsed.content), (Kind::OFFERS, offers));
        let bad = |address: &[u8], length: u32| {
            let offer = Network {
                address: address.to_vec(),
                length,
            };
            let body = Body {
                kind: 3,
                offers: vec![offer],
                ..Body::default()
            };
            parse(&SignedRecord {
                body: body.encode_to_vec(),
                ..SignedRecord::default()
            })
        };
        let no_network = RecordError::Malformed("an offer in it is no network");
        assert!(bad(&[10, 0, 0, 0], 8).is_ok());
        for (address, length) in [
            (&[10, 0, 0, 1][..], 8),
            (&[10, 0, 0, 0], 33),
            (&[10, 0, 0], 8),
            (&[0; 16], 129),
            (&[], 0),
        ] {
            let refused = bad(address, length).unwrap_err();
            assert_eq!(refused, no_network, "{address:?}/{length}");
        }
    }
}
