//! Frames as a device gives them, super-packets too: cut, and joined again.

use ip::ends::Ends;
use ip::offload::{Frame, Joiner, Segments, Vnet};

/// A frame's header, then its packet. Whatever it claims is refused or cut: no segment is longer than was said, all of them bear
/// the whole payload, and what is joined of them is cut into the same again.
pub fn run(bytes: &[u8]) {
    let Some((head, packet)) = bytes.split_first_chunk::<{ Vnet::LEN }>() else {
        return;
    };
    let Ok(vnet) = Vnet::parse(head) else {
        return;
    };
    assert_eq!(Vnet::parse(&vnet.encode()), Ok(vnet));
    let Ok(segments) = Segments::new(&vnet, packet) else {
        return;
    };
    if packet.is_empty() || packet.len() > LONGEST {
        return;
    }
    let (count, longest) = (segments.packets(), segments.longest());
    let cut: Vec<Vec<u8>> = segments.collect();
    assert_eq!(cut.len(), count);
    assert_eq!(cut.iter().map(Vec::len).max().unwrap_or(0), longest);
    // What IP packets it gives are what whoever reads the flow gets behind a device that joins.
    if Ends::parse(packet).is_ok() {
        for packet in &cut {
            assert!(Ends::parse(packet).is_ok(), "a segment is no packet");
        }
    }
    let again = joined(&cut);
    assert_eq!(again.len(), cut.len());
    for packet in &cut {
        assert!(again.iter().any(|other| plain(other) == plain(packet)));
    }
}

/// Frames of every kind, true ones and ones that lie.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    // Destination options with six bytes of padding, then TCP.
    let behind = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(0x10, 0, 90)].concat();
    let hops = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp(90)].concat();
    let fragment = [&[6, 0, 0, 1, 0, 0, 0, 9][..], &tcp(0x10, 0, 90)].concat();
    vec![
        ("whole", frame(0, 0, 0, 0, &v4(0, 17, &udp(20)))),
        ("sum-missing", frame(0, 0, 20, 6, &v4(0, 17, &udp(20)))),
        ("tcp4", frame(1, 30, 20, 16, &v4(0, 6, &tcp(0x18, 0, 100)))),
        (
            "tcp4-options",
            frame(1, 30, 24, 16, &v4(4, 6, &tcp(0x19, 12, 100))),
        ),
        (
            "tcp4-cwr",
            frame(0x81, 30, 20, 16, &v4(0, 6, &tcp(0x98, 0, 100))),
        ),
        ("tcp6", frame(4, 30, 40, 16, &v6(6, &tcp(0x10, 0, 100)))),
        (
            "tcp6-behind-options",
            frame(4, 30, 48, 16, &v6(60, &behind)),
        ),
        ("tcp6-fragment", frame(4, 30, 48, 16, &v6(44, &fragment))),
        ("udp4", frame(5, 30, 20, 6, &v4(0, 17, &udp(100)))),
        ("udp6", frame(5, 30, 40, 6, &v6(17, &udp(100)))),
        ("udp6-behind-hops", frame(5, 30, 48, 6, &v6(0, &hops))),
        ("ufo", frame(3, 30, 20, 6, &v4(0, 17, &udp(100)))),
        ("unknown-kind", frame(9, 30, 20, 6, &v4(0, 17, &udp(100)))),
        ("no-size", frame(5, 0, 20, 6, &v4(0, 17, &udp(100)))),
        (
            "other-family",
            frame(4, 30, 20, 16, &v4(0, 6, &tcp(0x10, 0, 100))),
        ),
        (
            "sum-behind-the-end",
            frame(0, 0, 200, 6, &v4(0, 17, &udp(20))),
        ),
        ("sum-in-the-header", frame(0, 0, 2, 2, &v4(0, 17, &udp(20)))),
        (
            "no-payload",
            frame(1, 30, 20, 16, &v4(0, 6, &tcp(0x10, 0, 0))),
        ),
    ]
}

fn frame(kind: u8, size: u16, l4: u16, sum: u16, packet: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::from(sum > 0), kind];
    for field in [l4 + 8, size, l4, sum] {
        out.extend(field.to_ne_bytes());
    }
    out.extend(packet);
    out
}

fn v4(options: usize, number: u8, body: &[u8]) -> Vec<u8> {
    let head = 20 + options;
    let total = ((head + body.len()) as u16).to_be_bytes();
    let first = 0x40 | (head / 4) as u8;
    let mut out = vec![first, 2, total[0], total[1], 0xff, 0xfe];
    out.extend([0x40, 0, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    out.resize(head, 1);
    out.extend(body);
    out
}

fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0, 0, body.len() as u8, next, 64];
    out.extend([0xfd; 32]);
    out.extend(body);
    out
}

fn tcp(flags: u8, options: usize, len: usize) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0];
    let words = (5 + options / 4) as u8;
    out.extend([words << 4, flags, 1, 1, 9, 9, 0, 0]);
    out.resize(20 + options + len, 1);
    out
}

fn udp(len: usize) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 2, 0, (8 + len) as u8, 9, 9];
    out.resize(8 + len, 7);
    out
}

/// The packets of what comes of joining these.
fn joined(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut batch, mut places) = (Vec::new(), Vec::new());
    for packet in packets {
        places.push(batch.len()..batch.len() + packet.len());
        batch.extend(packet);
    }
    let (mut joiner, mut again) = (Joiner::new(true, true), Vec::new());
    let mut take = |frame: &Frame<'_>| {
        let mut packet = frame.head.to_vec();
        for part in frame.parts {
            packet.extend(&batch[part.clone()]);
        }
        let vnet = Vnet::parse(&frame.vnet).unwrap();
        let segments = Segments::new(&vnet, &packet).unwrap();
        assert_eq!(segments.packets(), frame.packets);
        again.extend(segments);
    };
    for place in places {
        joiner.push(&batch, place, &mut take);
    }
    joiner.flush(&mut take);
    again
}

/// Without what joining may change: the identification of IPv4 where nothing is ever cut, and so its sum.
fn plain(packet: &[u8]) -> Vec<u8> {
    let mut out = packet.to_vec();
    if out.len() >= 20 && out[0] >> 4 == 4 && out[6] & 0x40 != 0 {
        out[4..6].fill(0);
        out[10..12].fill(0);
    }
    out
}

/// The most bytes of an IP packet.
const LONGEST: usize = 65_535;
