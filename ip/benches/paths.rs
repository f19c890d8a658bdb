//! Super-packets cut and joined: counted by `.ci/counts`.

mod counted;

use std::hint::black_box;
use std::ops::Range;

use ip::offload::{Checksum, Gso, GsoKind, Joiner, Segments, Vnet};
use ip::sum::Sum;

fn main() {
    counted::processor();
    for size in [64, 1400] {
        let frame = vnet(size);
        let packet = packet((usize::from(u16::MAX) - HEAD).min(size * Joiner::PACKETS));
        let packets = (packet.len() - HEAD).div_ceil(size);
        let mut out = vec![0; HEAD + size];
        counted::path(&format!("segment_{size}"), packets * TIMES, || {
            for _ in 0..TIMES {
                let mut segments = Segments::new(&frame, &packet).expect("a good frame");
                while let Some(len) = segments.next_len() {
                    segments.write(&mut out[..len]);
                }
                black_box(&mut out);
            }
        });
        let (batch, places) = cut(&frame, &packet);
        let mut joiner = Joiner::new(true, true);
        counted::path(&format!("coalesce_{size}"), packets * TIMES, || {
            for _ in 0..TIMES {
                let mut frames = 0;
                let mut out = |frame: &ip::offload::Frame<'_>| {
                    black_box(frame);
                    frames += 1;
                };
                for place in &places {
                    joiner.push(&batch, place.clone(), &mut out);
                }
                joiner.flush(&mut out);
                assert_eq!(frames, 1, "the packets were not joined");
            }
        });
    }
}

/// The packets of a super-packet, one behind the other.
fn cut(frame: &Vnet, packet: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut batch, mut places) = (Vec::new(), Vec::new());
    for segment in Segments::new(frame, packet).expect("a good frame") {
        places.push(batch.len()..batch.len() + segment.len());
        batch.extend(segment);
    }
    (batch, places)
}

/// Of TCP over IPv4, without options.
fn packet(payload: usize) -> Vec<u8> {
    let len = (HEAD + payload) as u16;
    let mut out = vec![0x45, 0];
    out.extend(len.to_be_bytes());
    out.extend([0, 1, 0x40, 0, 63, 6, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]);
    let header = Sum::default().bytes(&out).checksum();
    out[10..12].copy_from_slice(&header);
    let pseudo = Sum::default().bytes(&out[12..]).field(6).field(len - 20);
    out.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0]);
    out.extend(pseudo.folded());
    out.extend([0, 0]);
    out.extend((0..payload).map(|n| n as u8));
    out
}

fn vnet(size: usize) -> Vnet {
    Vnet {
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size: size as u16,
        }),
        checksum: Some(Checksum {
            start: 20,
            offset: 16,
        }),
        head: HEAD as u16,
    }
}

/// Bytes of both headers.
const HEAD: usize = 40;
const TIMES: usize = 10;
