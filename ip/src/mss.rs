//! The largest segment that a TCP connection may have, lowered to what fits a way (RFC 9293 §3.7.1, RFC 1624). Never raised.

use crate::upper::{TCP, Upper, opens};

/// Lowers the MSS of a packet that opens a TCP connection, or answers one that does, so that segments of that size fit `mtu`
/// bytes; its checksum, which must be complete, stays right, or as wrong as it was. A packet whose options are malformed is left as it is. `true`: it was lowered.
pub fn clamp(packet: &mut [u8], mtu: usize) -> bool {
    if !opens(packet) {
        return false;
    }
    let Some(upper) = Upper::parse(packet).filter(|upper| upper.protocol == TCP) else {
        return false;
    };
    let ip = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let most = mtu.saturating_sub(ip + 20).min(usize::from(u16::MAX)) as u16; // just bounded
    if most < LEAST {
        return false;
    }
    let Some(segment) = packet.get_mut(upper.at..) else {
        return false;
    };
    let Some(places) = places(segment) else {
        return false;
    };
    let mut lowered = false;
    for at in places.into_iter().flatten() {
        let old = [segment[at], segment[at + 1]];
        if u16::from_be_bytes(old) > most {
            let new = most.to_be_bytes();
            segment[at..at + 2].copy_from_slice(&new);
            adjust(segment, at, old, new);
            lowered = true;
        }
    }
    lowered
}

/// Where the values of MSS options lie in a TCP segment; `None`: its options are malformed, or name more sizes than one can mean.
fn places(segment: &[u8]) -> Option<[Option<usize>; 2]> {
    let end = usize::from(segment.get(12)? >> 4) * 4;
    if end < 20 || end > segment.len() {
        return None;
    }
    let (mut at, mut found) = (20, [None; 2]);
    while at < end {
        match segment[at] {
            END_OF_OPTIONS => break,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*segment[..end].get(at + 1)?);
                if len < 2 || at + len > end || (kind == MSS && len != 4) {
                    return None;
                }
                if kind == MSS {
                    *found.iter_mut().find(|place| place.is_none())? = Some(at + 2);
                }
                at += len;
            }
        }
    }
    Some(found)
}

/// Makes the checksum right after two bytes at `at` have changed: HC' = ~(~HC + ~m + m').
fn adjust(segment: &mut [u8], at: usize, old: [u8; 2], new: [u8; 2]) {
    // At an odd place each byte is the other half of a word; the sum of both words changes as that of one with the bytes swapped.
    let word = |[a, b]: [u8; 2]| match at % 2 {
        0 => u16::from_be_bytes([a, b]),
        _ => u16::from_be_bytes([b, a]),
    };
    let before = u16::from_be_bytes([segment[CHECKSUM], segment[CHECKSUM + 1]]);
    let mut sum = u32::from(!before) + u32::from(!word(old)) + u32::from(word(new));
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // Folded just now.
    segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

const CHECKSUM: usize = 16;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// With less no connection gets anywhere; an MTU that small is somebody's mistake.
const LEAST: u16 = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Checksum, Segments, Vnet};
    use crate::sum::Sum;
    use proptest::prelude::*;

    /// A segment in a packet of either family, its checksum right.
    fn packet(v6: bool, flags: u8, options: &[u8], body: &[u8]) -> Vec<u8> {
        let padded = options.len().next_multiple_of(4);
        let mut tcp = vec![0x12, 0x34, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0];
        tcp.push((((20 + padded) / 4) << 4) as u8);
        tcp.extend([flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.resize(20 + padded, 0);
        tcp.extend(body);
        let len = tcp.len() as u16;
        let mut out = match v6 {
            false => {
                let mut ip = vec![0x45, 0];
                ip.extend((20 + len).to_be_bytes());
                ip.extend([0, 1, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                ip
            }
            true => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(len.to_be_bytes());
                ip.extend([TCP, 64]);
                ip.extend([0xfd; 32]);
                ip
            }
        };
        let sum = pseudo(&out, len).bytes(&tcp).checksum();
        tcp[16..18].copy_from_slice(&sum);
        out.extend(tcp);
        out
    }

    fn pseudo(ip: &[u8], len: u16) -> Sum {
        let addresses = if ip[0] >> 4 == 4 {
            &ip[12..20]
        } else {
            &ip[8..40]
        };
        Sum::default()
            .bytes(addresses)
            .field(u16::from(TCP))
            .field(len)
    }

    fn head(packet: &[u8]) -> usize {
        if packet[0] >> 4 == 4 { 20 } else { 40 }
    }

    fn is_right(packet: &[u8]) -> bool {
        let (ip, tcp) = packet.split_at(head(packet));
        pseudo(ip, tcp.len() as u16).bytes(tcp).is_right()
    }

    fn mss_of(packet: &[u8]) -> Vec<u16> {
        let tcp = &packet[head(packet)..];
        let places = places(tcp).unwrap().into_iter().flatten();
        places
            .map(|at| u16::from_be_bytes([tcp[at], tcp[at + 1]]))
            .collect()
    }

    fn mss(value: u16) -> [u8; 4] {
        let [high, low] = value.to_be_bytes();
        [MSS, 4, high, low]
    }

    proptest! {
        #[test]
        fn it_is_lowered_to_what_fits_and_never_raised_and_the_checksum_stays_right(
            v6: bool, ack: bool, value: u16, mtu in 120usize..66_000, nops in 0usize..8, more in 0usize..3,
            body in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            // At even places and at odd ones, with other options before and behind.
            let mut options = vec![NO_OPERATION; nops];
            options.extend(mss(value));
            for _ in 0..more {
                options.extend([3, 3, 7, NO_OPERATION, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
            }
            options.truncate(40);
            prop_assume!(20 + options.len().next_multiple_of(4) <= 60 && places(&packet(v6, 2, &options, &[])[if v6 { 40 } else { 20 }..]).is_some());
            let before = packet(v6, if ack { 0x12 } else { 0x02 }, &options, &body);
            let mut after = before.clone();
            let lowered = clamp(&mut after, mtu);
            let most = (mtu - if v6 { 60 } else { 40 }).min(65_535) as u16;
            prop_assert_eq!(mss_of(&after), [value.min(most)]);
            prop_assert_eq!(lowered, value > most);
            prop_assert!(is_right(&after));
            let differs = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            prop_assert!(differs <= 4 && (lowered || before == after));
        }

        #[test]
        fn a_checksum_that_was_wrong_stays_wrong(v6: bool, value in 1300u16.., flip in 1u8..) {
            let mut bad = packet(v6, 2, &mss(value), b"");
            let at = head(&bad) + 4;
            bad[at] ^= flip;
            prop_assert!(clamp(&mut bad, 1280) && !is_right(&bad));
        }

        #[test]
        fn no_bytes_panic_and_lengths_stay(v6: bool, tcp in prop::collection::vec(any::<u8>(), 0..80), mtu in 0usize..2000) {
            let mut bytes = packet(v6, 2, &[], &[]);
            bytes.truncate(if v6 { 40 } else { 20 });
            bytes.extend(&tcp);
            if let Some(flags) = bytes.get_mut(if v6 { 53 } else { 33 }) {
                *flags |= 2;
            }
            clamp(&mut bytes, mtu);
        }
    }

    #[test]
    fn options_that_are_malformed_are_left_alone() {
        for options in [
            &[MSS, 3, 0xff, 0xff][..],
            &[MSS, 4, 0xff, 0xff, 9, 0, 0, 0],
            &[MSS, 4, 0xff, 0xff, 9, 1, 0, 0],
            &[MSS, 4, 0xff, 0xff, 1, 1, 1, 8],
            &[MSS, 4, 0xff, 0xff, 8, 10, 0, 0],
            &[1, 1, 1, MSS],
            &[1, 1, MSS, 4],
            &[MSS, 4, 0xff, 0xff, MSS, 4, 0xff, 0xff, MSS, 4, 0xff, 0xff],
        ] {
            let before = packet(false, 2, options, b"");
            let mut after = before.clone();
            assert!(!clamp(&mut after, 1280), "{options:?}");
            assert_eq!(before, after);
        }
        // What is behind the end of options means nothing.
        let mut ended = packet(false, 2, &[MSS, 4, 0xff, 0xff, 0, 9, 0, 0], b"");
        assert!(clamp(&mut ended, 1280) && is_right(&ended));
        let mut twice = packet(false, 2, &[MSS, 4, 5, 220, MSS, 4, 5, 220], b"");
        assert!(clamp(&mut twice, 1280) && is_right(&twice));
        assert_eq!(mss_of(&twice), [1240, 1240]);
    }

    #[test]
    fn others_are_left_alone() {
        let option = mss(1460);
        let mut data = packet(false, 0x10, &option, b"data");
        let mut later = packet(false, 2, &option, b"");
        later[7] = 1;
        let mut udp = packet(true, 2, &option, b"");
        udp[6] = 17;
        let mut tiny = packet(false, 2, &option, b"");
        assert!(
            ![&mut data, &mut later, &mut udp]
                .map(|p| clamp(p, 1280))
                .contains(&true)
        );
        assert!(!clamp(&mut tiny, 60), "nothing could be sent");
    }

    #[test]
    fn one_whose_checksum_was_missing_is_right_too() {
        for v6 in [false, true] {
            let mut frame = packet(v6, 2, &mss(1460), b"early");
            let at = head(&frame);
            // As a host gives it that leaves the checksum to its device.
            let len = (frame.len() - at) as u16;
            let partial = pseudo(&frame, len).folded();
            frame[at + 16..at + 18].copy_from_slice(&partial);
            let vnet = Vnet {
                checksum: Some(Checksum {
                    start: at as u16,
                    offset: 16,
                }),
                ..Vnet::default()
            };
            let mut segments = Segments::new(&vnet, &frame).unwrap();
            let mut made = segments.next().unwrap();
            assert!(clamp(&mut made, 1300) && is_right(&made));
            assert_eq!(mss_of(&made), [if v6 { 1240 } else { 1260 }]);
        }
    }
}
