//! IP prefixes inside a certificate: the IPAddrBlocks extension of RFC 3779, read and written by hand.
//!
//! The reader is strict: the families in order, the prefixes of a family sorted and apart, no ranges, no inheritance,
//! shortest DER lengths. The extension is not critical, since webpki refuses critical ones that it doesn't know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// id-pe-ipAddrBlocks.
pub(super) const OID: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 1, 7];

/// Prefixes without host bits, merged where they touch, in the order in which they stand in a certificate.
pub(super) fn canonical(prefixes: &[IpNet]) -> Vec<IpNet> {
    let mut all = IpNet::aggregate(&prefixes.iter().map(IpNet::trunc).collect());
    all.sort();
    all
}

/// The value of the extension for canonical prefixes.
pub(super) fn encode(prefixes: &[IpNet]) -> Vec<u8> {
    let mut families = Vec::new();
    for (afi, v4) in [(1, true), (2, false)] {
        let items: Vec<u8> = prefixes
            .iter()
            .filter(|p| p.addr().is_ipv4() == v4)
            .flat_map(bit_string)
            .collect();
        if !items.is_empty() {
            let mut family = vec![OCTET_STRING, 2, 0, afi];
            family.extend(tlv(SEQUENCE, &items));
            families.extend(tlv(SEQUENCE, &family));
        }
    }
    tlv(SEQUENCE, &families)
}

/// The prefixes in the value of the extension; the error says what is wrong with it.
pub(super) fn decode(der: &[u8]) -> Result<Vec<IpNet>, &'static str> {
    let mut out: Vec<IpNet> = Vec::new();
    let mut outer = Reader(der);
    let mut families = Reader(outer.expect(SEQUENCE)?);
    outer.end()?;
    let mut last_afi = 0;
    while !families.0.is_empty() {
        let mut family = Reader(families.expect(SEQUENCE)?);
        let afi = match family.expect(OCTET_STRING)? {
            [0, afi @ 1..=2] if *afi > last_afi => *afi,
            _ => return Err("an address family that is unknown or out of order"),
        };
        last_afi = afi;
        let mut items = Reader(family.expect(SEQUENCE)?);
        family.end()?;
        if items.0.is_empty() {
            return Err("an address family without prefixes");
        }
        let first = out.len();
        while !items.0.is_empty() {
            let prefix = prefix(afi, items.expect(BIT_STRING)?)?;
            if out[first..]
                .last()
                .is_some_and(|last| last.broadcast() >= prefix.network())
            {
                return Err("prefixes that overlap or are out of order");
            }
            if out.len() == MAX_PREFIXES {
                return Err("more than 1024 prefixes");
            }
            out.push(prefix);
        }
    }
    Ok(out)
}

fn bit_string(prefix: &IpNet) -> Vec<u8> {
    let len = usize::from(prefix.prefix_len());
    let mut content = vec![(len.div_ceil(8) * 8 - len) as u8];
    match prefix.network() {
        IpAddr::V4(a) => content.extend(&a.octets()[..len.div_ceil(8)]),
        IpAddr::V6(a) => content.extend(&a.octets()[..len.div_ceil(8)]),
    }
    tlv(BIT_STRING, &content)
}

fn prefix(afi: u8, content: &[u8]) -> Result<IpNet, &'static str> {
    let bad = "a prefix that is malformed";
    let (&unused, bytes) = content.split_first().ok_or(bad)?;
    let width = if afi == 1 { 4 } else { 16 };
    if unused > 7 || bytes.len() > width || (bytes.is_empty() && unused > 0) {
        return Err(bad);
    }
    let mut address = [0; 16];
    address[..bytes.len()].copy_from_slice(bytes);
    let [a, b, c, d, ..] = address;
    let address = if afi == 1 {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(address))
    };
    // At most 128 bits, by the check above.
    let prefix = IpNet::new(address, (bytes.len() * 8) as u8 - unused).map_err(|_| bad)?;
    if prefix.network() == address {
        Ok(prefix)
    } else {
        Err("a prefix with bits behind its end")
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ ..0x80 => out.push(len as u8),
        len @ ..0x100 => out.extend([0x81, len as u8]),
        len @ ..0x1_0000 => out.extend([0x82, (len >> 8) as u8, len as u8]),
        len => out.extend([0x83, (len >> 16) as u8, (len >> 8) as u8, len as u8]),
    }
    out.extend(content);
    out
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn expect(&mut self, tag: u8) -> Result<&'a [u8], &'static str> {
        let bad = "DER that is malformed";
        let (&[found, short], mut rest) = self.0.split_first_chunk::<2>().ok_or(bad)?;
        if found != tag {
            return Err("an element of another type, such as a range");
        }
        let mut len = usize::from(short);
        if short >= 0x80 {
            let count = usize::from(short & 0x7f);
            let (bytes, after) = rest.split_at_checked(count).ok_or(bad)?;
            len = bytes.iter().fold(0, |len, b| len << 8 | usize::from(*b));
            // The shortest form only, so that one set of prefixes has one encoding.
            if !(1..=3).contains(&count) || len < 0x80 || bytes[0] == 0 {
                return Err(bad);
            }
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(len).ok_or(bad)?;
        self.0 = rest;
        Ok(content)
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("bytes behind the end")
        }
    }
}

/// The most prefixes of one certificate.
pub(super) const MAX_PREFIXES: usize = 1024;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<u32>(), 0u8..=32)
            .prop_map(|(a, l)| IpNet::new(Ipv4Addr::from(a).into(), l).unwrap());
        let v6 = (any::<u128>(), 0u8..=128)
            .prop_map(|(a, l)| IpNet::new(Ipv6Addr::from(a).into(), l).unwrap());
        prop::collection::vec(prop_oneof![v4, v6], 0..80).prop_map(|all| canonical(&all))
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(prefixes in prefixes()) {
            prop_assert_eq!(decode(&encode(&prefixes)), Ok(prefixes));
        }

        #[test]
        fn one_set_of_prefixes_has_one_encoding(bytes: Vec<u8>) {
            if let Ok(prefixes) = decode(&bytes) {
                prop_assert_eq!(encode(&prefixes), bytes);
            }
        }

        #[test]
        fn an_altered_encoding_is_refused_or_is_another_set(prefixes in prefixes(), at: prop::sample::Index, flip in 1u8..) {
            let mut bytes = encode(&prefixes);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = decode(&bytes) {
                prop_assert_ne!(&other, &prefixes);
                prop_assert_eq!(&encode(&other), &bytes);
            }
            prop_assert!(decode(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn a_value_written_by_hand_is_read() {
        // As in RFC 3779 section 2.2.3.8: 10.5.0.4/32 and a /23.
        let v4 = [
            0x30, 0x15, 0x30, 0x13, 0x04, 2, 0, 1, 0x30, 13, 3, 5, 0, 10, 5, 0, 4, 3, 4, 1, 10, 5,
            2,
        ];
        assert_eq!(
            decode(&v4).unwrap(),
            [
                "10.5.0.4/32".parse().unwrap(),
                "10.5.2.0/23".parse().unwrap()
            ]
        );
    }

    #[test]
    fn what_is_refused_is_named() {
        assert_eq!(decode(&[0x30, 0, 0]), Err("bytes behind the end"));
        let range = [0x30, 0x0a, 0x30, 8, 4, 2, 0, 1, 0x30, 2, 0x30, 0];
        assert_eq!(
            decode(&range),
            Err("an element of another type, such as a range")
        );
        let host_bits = [0x30, 0x0c, 0x30, 10, 4, 2, 0, 1, 0x30, 4, 3, 2, 4, 0x0f];
        assert_eq!(decode(&host_bits), Err("a prefix with bits behind its end"));
    }
}
