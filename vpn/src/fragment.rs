//! Cuts IPv4 packets that may be cut (RFC 791 §2.3); IPv6 packets and those with "don't fragment" never are.

use crate::icmp::{fold, sum};

/// Whether a well-formed IP packet may be fragmented on its way.
pub fn allowed(packet: &[u8]) -> bool {
    packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & DONT_FRAGMENT == 0
}

/// The fragments of a well-formed IPv4 packet, each of at most `mtu` bytes; nothing if `mtu` leaves no room for 8 bytes
/// behind the header.
pub fn fragments(packet: &[u8], mtu: usize) -> impl Iterator<Item = Vec<u8>> {
    let header = usize::from(packet[0] & 0x0f) * 4;
    let (first, body) = packet.split_at(header);
    let old = u16::from_be_bytes([first[6], first[7]]);
    let later = later_header(first);
    let mut at = 0;
    std::iter::from_fn(move || {
        let head: &[u8] = if at == 0 { first } else { &later };
        let room = mtu.checked_sub(head.len())? & !7;
        if at >= body.len() || room == 0 {
            return None;
        }
        let end = body.len().min(at + room);
        let more = end < body.len() || old & MORE_FRAGMENTS != 0;
        // A packet has at most 65,535 bytes, so its places in units of 8 fit 13 bits.
        let place = (old & OFFSET) + (at / 8) as u16;
        let place = if more { place | MORE_FRAGMENTS } else { place };
        let out = fragment(head, place, &body[at..end]);
        at = end;
        Some(out)
    })
}

fn fragment(head: &[u8], place: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len() + body.len());
    out.extend_from_slice(head);
    out.extend_from_slice(body);
    out[0] = 0x40 | (head.len() / 4) as u8;
    let total = out.len() as u16; // not more than the original, which had a 16-bit length
    out[2..4].copy_from_slice(&total.to_be_bytes());
    out[6..8].copy_from_slice(&place.to_be_bytes());
    out[10..12].fill(0);
    let check = fold(sum(0, &out[..head.len()]));
    out[10..12].copy_from_slice(&check);
    out
}

/// The header of fragments after the first: only options with the copied flag, padded to 4 bytes.
fn later_header(first: &[u8]) -> Vec<u8> {
    let (fixed, mut options) = first.split_at(20);
    let mut out = fixed.to_vec();
    while let [kind, rest @ ..] = options {
        let len = match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => 1,
            _ => match rest.first() {
                Some(len) if (2..=options.len()).contains(&usize::from(*len)) => usize::from(*len),
                _ => break,
            },
        };
        if kind & COPIED != 0 {
            out.extend_from_slice(&options[..len]);
        }
        options = &options[len..];
    }
    out.resize(out.len().next_multiple_of(4), END_OF_OPTIONS);
    out
}

const DONT_FRAGMENT: u8 = 0x40;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::Ipv4Slice;
    use ip::ends::Ends;
    use proptest::prelude::*;

    fn packet(options: &[u8], body: &[u8]) -> Vec<u8> {
        let mut header = etherparse::Ipv4Header::new(
            body.len() as u16,
            9,
            etherparse::IpNumber(253),
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        header.identification = 4711;
        header.dont_fragment = false;
        header.options = options.try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut out = header.to_bytes().to_vec();
        out.extend(body);
        out
    }

    fn reassembled(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            assert!(Ends::parse(part).is_ok());
            let ip = Ipv4Slice::from_slice(part).unwrap();
            let header = ip.header();
            assert_eq!(
                header.to_header().calc_header_checksum(),
                header.header_checksum()
            );
            assert_eq!(header.identification(), 4711);
            assert_eq!(
                usize::from(header.fragments_offset().value()) * 8,
                body.len()
            );
            assert_eq!(header.more_fragments(), i + 1 < parts.len());
            body.extend(ip.payload().payload);
        }
        body
    }

    proptest! {
        #[test]
        fn fragments_reassemble_to_the_original(body in prop::collection::vec(any::<u8>(), 1..9000), mtu in 68usize..2000) {
            let whole = packet(&[], &body);
            let parts: Vec<_> = fragments(&whole, mtu).collect();
            prop_assert!(parts.iter().all(|p| p.len() <= mtu));
            prop_assert_eq!(reassembled(&parts), body);
        }

        #[test]
        fn a_fragment_of_fragments_keeps_its_place(body in prop::collection::vec(any::<u8>(), 600..9000), mtu in 200usize..2000, smaller in 68usize..200) {
            let whole = packet(&[], &body);
            let parts: Vec<_> = fragments(&whole, mtu).flat_map(|p| fragments(&p, smaller).collect::<Vec<_>>()).collect();
            prop_assert_eq!(reassembled(&parts), body);
        }

        #[test]
        fn no_options_panic(options in prop::collection::vec(any::<u8>(), 0..10usize), mtu in 0usize..200) {
            let options: Vec<u8> = options.into_iter().flat_map(|b| [b, 3, b, 1]).collect();
            let whole = packet(&options, &[5; 300]);
            prop_assert!(fragments(&whole, mtu).all(|p| p.len() <= mtu && Ends::parse(&p).is_ok()));
        }
    }

    #[test]
    fn only_copied_options_are_in_later_fragments() {
        // A copied option of 3 bytes, one that is not copied, end.
        let whole = packet(&[0x83, 3, 9, 0x07, 3, 4, 0, 0], &[1; 400]);
        let parts: Vec<_> = fragments(&whole, 200).collect();
        assert_eq!(
            Ipv4Slice::from_slice(&parts[0]).unwrap().header().options(),
            &[0x83, 3, 9, 0x07, 3, 4, 0, 0]
        );
        assert_eq!(
            Ipv4Slice::from_slice(&parts[1]).unwrap().header().options(),
            &[0x83, 3, 9, 0]
        );
        assert_eq!(reassembled(&parts), [1; 400]);
    }

    #[test]
    fn dont_fragment_and_ipv6_forbid_it() {
        let mut whole = packet(&[], &[1; 400]);
        assert!(allowed(&whole));
        whole[6] |= DONT_FRAGMENT;
        assert!(!allowed(&whole));
        assert!(!allowed(&[0x60; 60]));
    }
}
