//! What is cut and joined again is the same for whoever reads the flow; every packet is right by another's reckoning.

use std::ops::Range;

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use proptest::prelude::*;

use super::*;

/// A super-packet as the kernel gives it: lengths of the whole, the pseudo-header's sum in the checksum's place.
#[derive(Debug, Clone)]
struct Super {
    vnet: Vnet,
    packet: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Wish {
    v4: bool,
    tcp: bool,
    size: u16,
    payload: Vec<u8>,
    id: u16,
    dont_fragment: bool,
    tos: u8,
    seq: u32,
    flags: u8,
    options: Vec<u8>,
}

fn wishes() -> impl Strategy<Value = Wish> {
    let ip = (any::<bool>(), any::<u16>(), any::<bool>(), any::<u8>());
    let tcp = (
        any::<bool>(),
        any::<u32>(),
        prop::sample::select(vec![0x10u8, 0x18, 0x19, 0x90, 0x98]),
        0usize..=10,
    );
    let body = (1u16..1500, prop::collection::vec(any::<u8>(), 1..9000));
    (ip, tcp, body).prop_map(
        |((v4, id, dont_fragment, tos), (tcp, seq, flags, words), (size, payload))| Wish {
            v4,
            tcp,
            // No more segments than one frame may have.
            size: size.max(payload.len().div_ceil(Joiner::PACKETS) as u16),
            payload,
            id,
            dont_fragment,
            tos,
            seq,
            flags,
            options: vec![1; words * 4],
        },
    )
}

impl Wish {
    fn transport(&self) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 0, 80];
        if self.tcp {
            let words = 5 + self.options.len() / 4;
            out.extend(self.seq.to_be_bytes());
            out.extend([9, 8, 7, 6, (words << 4) as u8, self.flags, 1, 2, 0, 0, 0, 0]);
            out.extend(&self.options);
        } else {
            out.extend((8 + self.payload.len() as u16).to_be_bytes());
            out.extend([0, 0]);
        }
        out
    }

    fn ip(&self, body: u16) -> Vec<u8> {
        let number = if self.tcp { 6 } else { 17 };
        let mut out = vec![if self.v4 { 0x45 } else { 0x60 }];
        if self.v4 {
            out.push(self.tos);
            out.extend((20 + body).to_be_bytes());
            out.extend(self.id.to_be_bytes());
            let flags = if self.dont_fragment { 0x40 } else { 0 };
            out.extend([flags, 0, 63, number, 0, 0]);
            out.extend([10, 7, 0, 1, 10, 7, 0, 2]);
        } else {
            out[0] |= self.tos >> 4;
            out.extend([self.tos << 4, 3, 4]);
            out.extend(body.to_be_bytes());
            out.extend([number, 63]);
            out.extend([0xfd; 16]);
            out.extend([0xfe; 16]);
        }
        out
    }

    fn frame(&self) -> Super {
        let mut transport = self.transport();
        let head = transport.len();
        transport.extend(&self.payload);
        let len = transport.len() as u16;
        let mut packet = self.ip(len);
        let (l4, offset) = (packet.len(), if self.tcp { 16 } else { 6 });
        let pseudo = crate::sum::Sum::default()
            .bytes(&packet[if self.v4 { 12 } else { 8 }..])
            .field(if self.tcp { 6 } else { 17 })
            .field(len);
        transport[offset..offset + 2].copy_from_slice(&pseudo.folded());
        packet.extend(transport);
        let kind = match (self.tcp, self.v4) {
            (false, _) => GsoKind::Udp,
            (true, true) => GsoKind::Tcp4,
            (true, false) => GsoKind::Tcp6,
        };
        let vnet = Vnet {
            gso: Some(Gso {
                kind,
                size: self.size,
            }),
            checksum: Some(Checksum {
                start: l4 as u16,
                offset: offset as u16,
            }),
            head: (l4 + head) as u16,
        };
        Super { vnet, packet }
    }
}

fn cut(frame: &Super) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(&frame.vnet, &frame.packet).unwrap();
    let (count, longest) = (segments.packets(), segments.longest());
    let mut all = Vec::new();
    while let Some(len) = segments.next_len() {
        // A buffer holds stale bytes.
        let mut out = vec![0xaa; len];
        segments.write(&mut out);
        all.push(out);
    }
    assert_eq!(all.len(), count);
    assert_eq!(all.iter().map(Vec::len).max(), Some(longest));
    all
}

/// Each frame that comes of packets, and how many each holds.
fn join(packets: &[Vec<u8>]) -> Vec<(Super, usize)> {
    let (mut batch, mut places) = (Vec::new(), Vec::<Range<usize>>::new());
    for packet in packets {
        batch.extend([0xbb; 2]);
        places.push(batch.len()..batch.len() + packet.len());
        batch.extend(packet);
    }
    let (mut joiner, mut frames) = (Joiner::new(true, true), Vec::new());
    let mut take = |frame: &Frame<'_>| {
        let mut packet = frame.head.to_vec();
        frame
            .parts
            .iter()
            .for_each(|part| packet.extend(&batch[part.clone()]));
        let vnet = Vnet::parse(&frame.vnet).unwrap();
        frames.push((Super { vnet, packet }, frame.packets));
    };
    for place in places {
        joiner.push(&batch, place, &mut take);
    }
    joiner.flush(&mut take);
    frames
}

/// Whether another library finds lengths and checksums right.
fn is_right(packet: &[u8]) -> bool {
    let headers = PacketHeaders::from_ip_slice(packet).unwrap();
    let (payload, transport) = (headers.payload.slice(), headers.transport.unwrap());
    let field = match &transport {
        TransportHeader::Tcp(tcp) => tcp.checksum,
        TransportHeader::Udp(udp) => udp.checksum,
        TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_) | TransportHeader::Igmp(_) => {
            panic!("{transport:?}")
        }
    };
    let mut again = transport.clone();
    let ip = match headers.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            again.update_checksum_ipv4(&ip, payload).unwrap();
            let len = usize::from(ip.total_len);
            ip.header_checksum == ip.calc_header_checksum() && len == packet.len()
        }
        NetHeaders::Ipv6(ip, _) => {
            again.update_checksum_ipv6(&ip, payload).unwrap();
            usize::from(ip.payload_length) + 40 == packet.len()
        }
        NetHeaders::Arp(_) => false,
    };
    let sum = match again {
        TransportHeader::Tcp(tcp) => tcp.checksum,
        TransportHeader::Udp(udp) => udp.checksum,
        TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_) | TransportHeader::Igmp(_) => 0,
    };
    ip && field == sum
}

/// Sequence number, payload and flags, as whoever reads a TCP flow sees them.
fn read(packet: &[u8], v4: bool) -> (u32, Vec<u8>, u8) {
    let l4 = if v4 { 20 } else { 40 };
    let head = l4 + usize::from(packet[l4 + 12] >> 4) * 4;
    let seq = u32::from_be_bytes(packet[l4 + 4..l4 + 8].try_into().unwrap());
    (seq, packet[head..].to_vec(), packet[l4 + 13])
}

proptest! {
    #[test]
    fn every_segment_is_right_and_together_they_are_the_payload(wish in wishes()) {
        let packets = cut(&wish.frame());
        let size = usize::from(wish.size);
        prop_assert_eq!(packets.len(), wish.payload.len().div_ceil(size));
        let mut at = 0;
        for (n, packet) in packets.iter().enumerate() {
            prop_assert!(is_right(packet), "segment {}", n);
            let end = wish.payload.len().min(at + size);
            prop_assert!(packet.ends_with(&wish.payload[at..end]));
            if wish.tcp {
                let (seq, payload, flags) = read(packet, wish.v4);
                prop_assert_eq!(seq, wish.seq.wrapping_add(at as u32));
                prop_assert_eq!(&payload, &wish.payload[at..end]);
                let last = if n + 1 == packets.len() { 0xff } else { !0x09 };
                let first = if n == 0 { 0xff } else { 0x7f };
                prop_assert_eq!(flags, wish.flags & last & first);
            }
            if wish.v4 {
                prop_assert_eq!(u16::from_be_bytes([packet[4], packet[5]]), wish.id.wrapping_add(n as u16));
            }
            at = end;
        }
        prop_assert_eq!(at, wish.payload.len());
    }

    #[test]
    fn what_was_cut_is_joined_to_what_it_was(wish in wishes()) {
        let plain = Wish { flags: if wish.flags & 0x08 == 0 { 0x10 } else { 0x18 }, ..wish };
        let frame = plain.frame();
        let packets = cut(&frame);
        let joined = join(&packets);
        if packets.len() == 1 {
            prop_assert_eq!(joined[0].0.vnet, Vnet::default());
            prop_assert_eq!(&joined[0].0.packet, &packets[0]);
            return Ok(());
        }
        prop_assert_eq!(joined.len(), 1);
        let (whole, count) = &joined[0];
        prop_assert_eq!(*count, packets.len());
        prop_assert_eq!(whole.vnet, frame.vnet);
        let mut packet = frame.packet;
        if plain.v4 {
            // The kernel's has a checksum that nobody looks at.
            packet[10..12].copy_from_slice(&whole.packet[10..12]);
        }
        prop_assert_eq!(&whole.packet, &packet);
        prop_assert_eq!(cut(whole), packets);
    }

    #[test]
    fn flows_that_come_in_turn_are_joined_each_for_itself_in_order(
        wishes in prop::collection::vec(wishes(), 1..12),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let mut flows: Vec<Vec<Vec<u8>>> = wishes.iter().enumerate().map(|(n, wish)| {
            let mut frame = wish.frame();
            // Another destination for each, and the sum that goes with it.
            let at = if wish.v4 { 19 } else { 39 };
            let old = frame.packet[at];
            frame.packet[at] = n as u8;
            let field = usize::from(frame.vnet.checksum.unwrap().start + frame.vnet.checksum.unwrap().offset);
            let sum = u16::from_be_bytes([frame.packet[field], frame.packet[field + 1]]);
            let sum = crate::sum::Sum::default().field(sum).without(old.into()).field(n as u16).folded();
            frame.packet[field..field + 2].copy_from_slice(&sum);
            cut(&frame)
        }).collect();
        let before = flows.clone();
        let mut mixed = Vec::new();
        for turn in &turns {
            let n = turn.index(flows.len());
            if !flows[n].is_empty() {
                mixed.push(flows[n].remove(0));
            }
        }
        mixed.extend(flows.concat());
        let mut after: Vec<Vec<Vec<u8>>> = vec![Vec::new(); before.len()];
        for (frame, _) in join(&mixed) {
            let packets = if frame.vnet.gso.is_some() { cut(&frame) } else { vec![frame.packet] };
            let n = packets[0][if packets[0][0] >> 4 == 4 { 19 } else { 39 }];
            after[usize::from(n)].extend(packets);
        }
        prop_assert_eq!(after, before);
    }

    #[test]
    fn a_packet_with_any_bit_turned_is_never_hidden(wish in wishes(), which: prop::sample::Index, bit: prop::sample::Index) {
        let mut packets = cut(&wish.frame());
        let n = which.index(packets.len());
        let bit = bit.index(packets[n].len() * 8);
        packets[n][bit / 8] ^= 1 << (bit % 8);
        let mut after = Vec::new();
        for (frame, count) in join(&packets) {
            if frame.vnet.gso.is_some() {
                let made = cut(&frame);
                prop_assert_eq!(made.len(), count);
                after.extend(made);
            } else {
                after.push(frame.packet);
            }
        }
        after.sort();
        packets.sort();
        prop_assert_eq!(after, packets);
    }

    #[test]
    fn no_frame_makes_it_panic(header: [u8; 10], packet in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..6, start in 0u16..80, version in 4u8..7) {
        let mut header = header;
        header[1] = kind;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&(if kind == 5 { 6u16 } else { 16 }).to_ne_bytes());
        let mut packet = packet;
        if let Some(first) = packet.first_mut() {
            *first = version << 4 | 5;
        }
        if let Ok(vnet) = Vnet::parse(&header)
            && let Ok(mut segments) = Segments::new(&vnet, &packet)
        {
            while let Some(len) = segments.next_len() {
                segments.write(&mut vec![0; len]);
            }
        }
        join(&[packet.clone(), packet]);
    }

    #[test]
    fn a_header_is_what_it_was_written_as(wish in wishes()) {
        let vnet = wish.frame().vnet;
        prop_assert_eq!(Vnet::parse(&vnet.encode()), Ok(vnet));
    }
}

#[test]
fn a_missing_checksum_of_a_packet_that_is_not_cut_is_made() {
    for (v4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let wish = Wish {
            v4,
            tcp,
            size: 9000,
            payload: vec![7; 101],
            id: 1,
            dont_fragment: true,
            tos: 0,
            seq: 5,
            flags: 0x18,
            options: Vec::new(),
        };
        let mut frame = wish.frame();
        frame.vnet.gso = None;
        if v4 {
            let sum = crate::sum::Sum::default()
                .bytes(&frame.packet[..20])
                .checksum();
            frame.packet[10..12].copy_from_slice(&sum);
        }
        let packets = cut(&frame);
        assert_eq!(packets.len(), 1);
        assert!(is_right(&packets[0]));
    }
}

#[test]
fn a_udp_datagram_without_checksum_goes_as_it_is() {
    let wish = Wish {
        v4: true,
        tcp: false,
        size: 100,
        payload: vec![7; 300],
        id: 1,
        dont_fragment: true,
        tos: 0,
        seq: 0,
        flags: 0,
        options: Vec::new(),
    };
    let mut packets = cut(&wish.frame());
    packets[1][26..28].fill(0);
    let joined = join(&packets);
    assert!(joined.iter().all(|(frame, _)| frame.vnet.gso.is_none()));
    let after: Vec<_> = joined.into_iter().map(|(frame, _)| frame.packet).collect();
    assert_eq!(after, packets);
}

#[test]
fn what_is_no_super_packet_is_refused() {
    let wish = Wish {
        v4: true,
        tcp: true,
        size: 100,
        payload: vec![7; 300],
        id: 1,
        dont_fragment: true,
        tos: 0,
        seq: 0,
        flags: 0x10,
        options: Vec::new(),
    };
    let frame = wish.frame();
    let refused = |vnet: Vnet, packet: &[u8]| {
        assert_eq!(
            Segments::new(&vnet, packet).err(),
            Some(BadFrame::Contradiction),
            "{vnet:?}"
        );
    };
    let with = |kind, start| Vnet {
        gso: Some(Gso { kind, size: 100 }),
        checksum: Some(Checksum { start, offset: 16 }),
        head: 0,
    };
    refused(with(GsoKind::Tcp6, 20), &frame.packet);
    refused(with(GsoKind::Udp, 20), &frame.packet);
    refused(with(GsoKind::Tcp4, 24), &frame.packet);
    refused(with(GsoKind::Tcp4, 20), &frame.packet[..40]);
    refused(with(GsoKind::Tcp4, 20), &frame.packet[..33]);
    // What was read of the header of IP must stay as it is.
    let within = Some(Checksum {
        start: 2,
        offset: 2,
    });
    let changes = Vnet {
        checksum: within,
        ..Vnet::default()
    };
    refused(changes, &frame.packet);
    let mut header = frame.vnet.encode();
    header[1] = 3;
    assert_eq!(Vnet::parse(&header), Err(BadFrame::Kind));
    header[1] = 1;
    header[0] = 0;
    assert_eq!(Vnet::parse(&header), Err(BadFrame::Contradiction));
}
