//! Names of members as DNS has them: `MEMBER.LAYER.internal`, and back. It must not ask anybody: what it doesn't know itself
//! it refuses.
//!
//! An address is the first of each prefix in the member's certificate, which is what its VPN has unless it was told another.

mod keep;
mod resolved;
mod serve;

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;
use proto::Label;

pub use self::keep::Answering;
pub use self::resolved::Resolved;
pub use self::serve::Server;
use crate::config::{Config, first_address};

/// What is known of one layer.
#[derive(Debug, Default)]
pub struct Zone {
    apex: Name,
    names: BTreeMap<Name, Vec<IpAddr>>,
    back: BTreeMap<Name, Name>,
}

impl Zone {
    /// The members and their addresses.
    pub fn of(config: &Config) -> Self {
        let apex = apex(&config.layer);
        let mut zone = Self {
            apex,
            ..Self::default()
        };
        let own = config.addresses.iter().map(IpNet::addr).collect();
        zone.add(&config.me, own);
        for (name, member) in &config.members {
            let addresses = member.prefixes.iter().map(|p| first_address(p).addr());
            zone.add(name, addresses.collect());
        }
        zone
    }

    fn add(&mut self, member: &Label, addresses: Vec<IpAddr>) {
        let label = Name::from_ascii(member.as_str());
        // A label of the layer is one of DNS too.
        let Ok(name) = label.and_then(|label| label.append_domain(&self.apex)) else {
            return;
        };
        for address in &addresses {
            // Of two members with one prefix the first has it, as in the VPN.
            let back = Name::from(*address);
            self.back.entry(back).or_insert_with(|| name.clone());
        }
        self.names.insert(name, addresses);
    }

    /// The answer to a query, in at most so many bytes; `None`: it deserves none.
    pub fn answer(&self, query: &[u8], most: usize) -> Option<Vec<u8>> {
        let Ok(asked) = Message::from_vec(query) else {
            return malformed(query);
        };
        if asked.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut said = Message::response(asked.metadata.id, asked.metadata.op_code);
        said.metadata.recursion_desired = asked.metadata.recursion_desired;
        said.add_queries(asked.queries.iter().cloned());
        let mut room = PLAIN;
        let mut versions = true;
        if let Some(edns) = &asked.edns {
            room = usize::from(edns.max_payload()).max(PLAIN);
            versions = edns.version() == 0;
            let mut own = Edns::new();
            own.set_max_payload(PAYLOAD);
            said.set_edns(own);
        }
        said.metadata.response_code = match &asked.queries[..] {
            _ if !versions => ResponseCode::BADVERS,
            _ if asked.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [query] => self.resolve(query, &mut said),
            _ => ResponseCode::FormErr,
        };
        if let Some(edns) = &mut said.edns {
            edns.set_rcode_high(said.metadata.response_code.high());
        }
        let bytes = said.to_vec().ok()?;
        if bytes.len() <= most.min(room) || most > usize::from(PAYLOAD) {
            return Some(bytes);
        }
        said.truncate().to_vec().ok()
    }

    fn resolve(&self, query: &Query, said: &mut Message) -> ResponseCode {
        if query.query_class != DNSClass::IN {
            return ResponseCode::Refused;
        }
        let kind = query.query_type;
        let any = kind == RecordType::ANY;
        if let Some(member) = self.back.get(&query.name) {
            said.metadata.authoritative = true;
            if any || kind == RecordType::PTR {
                let back = RData::PTR(PTR(member.clone()));
                said.add_answer(Record::from_rdata(query.name.clone(), TTL, back));
            }
            return ResponseCode::NoError;
        }
        if !self.apex.zone_of(&query.name) {
            return ResponseCode::Refused;
        }
        said.metadata.authoritative = true;
        let apex = query.name == self.apex;
        for address in self.names.get(&query.name).into_iter().flatten() {
            let data = match *address {
                IpAddr::V4(a) if any || kind == RecordType::A => RData::A(A(a)),
                IpAddr::V6(a) if any || kind == RecordType::AAAA => RData::AAAA(AAAA(a)),
                IpAddr::V4(_) | IpAddr::V6(_) => continue,
            };
            said.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
        }
        if apex && (any || kind == RecordType::SOA) {
            said.add_answer(self.authority());
        }
        if said.answers.is_empty() {
            // How long that may be believed.
            said.add_authority(self.authority());
        }
        match apex || self.names.contains_key(&query.name) {
            true => ResponseCode::NoError,
            false => ResponseCode::NXDomain,
        }
    }

    fn authority(&self) -> Record {
        let nobody = Name::from_ascii("nobody.invalid.").unwrap_or_default();
        let soa = SOA::new(self.apex.clone(), nobody, 1, 3600, 600, 86_400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }
}

/// `LAYER.internal.`
fn apex(layer: &Label) -> Name {
    Name::from_ascii(format!("{layer}.{TOP}.")).unwrap_or_default()
}

/// What can't be read is said so to who asked, if that much can be read.
fn malformed(query: &[u8]) -> Option<Vec<u8>> {
    let [a, b, flags, ..] = *query else {
        return None;
    };
    let is_query = flags & 0x80 == 0;
    let id = u16::from_be_bytes([a, b]);
    let said = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    is_query.then(|| said.to_vec().ok()).flatten()
}

/// The domain that ICANN keeps free for private use (resolution 2024.07.29.06).
const TOP: &str = "internal";
/// Seconds that an answer, or that there is none, may be believed: members come and go.
const TTL: u32 = 30;
/// What an answer may have for one without EDNS (RFC 1035), and what we say that we take ourselves: no fragments.
const PLAIN: usize = 512;
const PAYLOAD: u16 = 1232;

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let member = |name: &str, prefixes: &[&str]| proto::irm::Member {
            name: name.into(),
            prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
            ..Default::default()
        };
        let config = Config::try_from(proto::irm::VpnConfig {
            layer: "ovl".into(),
            member: "a".into(),
            own_prefixes: vec!["10.7.0.1/32".into(), "fd07::1/128".into()],
            members: vec![member("b", &["10.7.0.2/32", "10.8.0.0/16", "fd07::2/128"])],
            ..Default::default()
        });
        Zone::of(&config.unwrap())
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut ask = Message::new(7, MessageType::Query, OpCode::Query);
        ask.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        ask
    }

    fn said(ask: &Message) -> (ResponseCode, Vec<String>) {
        let answer = zone().answer(&ask.to_vec().unwrap(), 1232).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, &answer.queries), (7, &ask.queries));
        assert!(!answer.metadata.recursion_available);
        let data = answer.answers.iter().map(|r| r.data.to_string());
        (answer.metadata.response_code, data.collect())
    }

    #[test]
    fn members_have_their_addresses_and_addresses_their_members() {
        let known = |name, kind| {
            let (code, data) = said(&ask(name, kind));
            assert_eq!(code, ResponseCode::NoError, "{name}");
            data
        };
        assert_eq!(known("a.ovl.internal.", RecordType::A), ["10.7.0.1"]);
        let b = known("B.Ovl.INTERNAL.", RecordType::A);
        assert_eq!(b, ["10.7.0.2", "10.8.0.1"]);
        assert_eq!(known("b.ovl.internal.", RecordType::AAAA), ["fd07::2"]);
        let back = known("2.0.7.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(back, ["b.ovl.internal."]);
        let back = Name::from("fd07::2".parse::<IpAddr>().unwrap()).to_ascii();
        assert_eq!(known(&back, RecordType::PTR), ["b.ovl.internal."]);
        // There is the name, but nothing of that kind.
        assert_eq!(known("b.ovl.internal.", RecordType::MX), [""; 0]);
        assert_eq!(known("ovl.internal.", RecordType::SOA).len(), 1);
    }

    #[test]
    fn who_is_no_member_is_denied_and_all_else_refused() {
        let code = |name, kind| said(&ask(name, kind)).0;
        let (a, ptr) = (RecordType::A, RecordType::PTR);
        assert_eq!(code("c.ovl.internal.", a), ResponseCode::NXDomain);
        assert_eq!(code("x.b.ovl.internal.", a), ResponseCode::NXDomain);
        for name in ["example.org.", "internal.", "b.other.internal.", "."] {
            assert_eq!(code(name, a), ResponseCode::Refused, "{name}");
        }
        assert_eq!(code("3.0.7.10.in-addr.arpa.", ptr), ResponseCode::Refused);
        let mut other = ask("b.ovl.internal.", a);
        other.queries[0].query_class = DNSClass::CH;
        assert_eq!(said(&other).0, ResponseCode::Refused);
        let mut update = ask("b.ovl.internal.", a);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(said(&update).0, ResponseCode::NotImp);
        let mut two = ask("b.ovl.internal.", a);
        two.add_query(Query::query(
            Name::from_ascii("a.ovl.internal.").unwrap(),
            a,
        ));
        assert_eq!(said(&two).0, ResponseCode::FormErr);
        let mut newer = ask("b.ovl.internal.", a);
        let mut edns = Edns::new();
        edns.set_version(1);
        newer.set_edns(edns);
        // One number for both (RFC 6895), of which the reader takes the other.
        let code = said(&newer).0;
        assert!([ResponseCode::BADVERS, ResponseCode::BADSIG].contains(&code));
    }

    #[test]
    fn bytes_that_are_no_query_are_not_answered_or_with_an_error() {
        let zone = zone();
        let mut response = ask("b.ovl.internal.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(zone.answer(&response.to_vec().unwrap(), 1232), None);
        assert_eq!(zone.answer(b"", 1232), None);
        assert_eq!(zone.answer(&[0, 7, 0x80], 1232), None);
        let said = zone.answer(&[0, 7, 0, 0, 0, 1], 1232).unwrap();
        let said = Message::from_vec(&said).unwrap();
        assert_eq!(said.metadata.response_code, ResponseCode::FormErr);
    }

    #[test]
    fn an_answer_that_is_too_long_for_who_asked_is_cut_and_says_so() {
        let mut zone = zone();
        let many = (0..200).map(|i| IpAddr::from([10, 9, 0, i])).collect();
        zone.add(&Label::new("many").unwrap(), many);
        let ask = ask("many.ovl.internal.", RecordType::A).to_vec().unwrap();
        let cut = Message::from_vec(&zone.answer(&ask, 1232).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole = zone.answer(&ask, 65_535).unwrap();
        assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 200);
    }
}
