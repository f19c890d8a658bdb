//! What is sent, burst by burst, and what should come of it.

use crate::packets::{ACK, CWR, DF, ECE, FIN, Ip, MF, PSH, RST, SYN, Sum, Tcp, URG};

/// Frames that go onto the wire at once.
pub(crate) struct Burst {
    pub(crate) name: String,
    /// With `struct virtio_net_hdr` in front.
    pub(crate) frames: Vec<Vec<u8>>,
    /// The packets that they are.
    pub(crate) wanted: Vec<Vec<u8>>,
}

/// Whether a packet is the script's.
pub(crate) fn is_ours(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[12..16] == [10, 9, 1, 130],
        6 => packet[8..24] == [0xfd, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 2],
        _ => false,
    }
}

/// One packet of each family.
pub(crate) fn first() -> Vec<Burst> {
    [v4(), v6()]
        .map(|ip| whole("the first", vec![ip.udp([9, 9], Sum::Right, b"first")]))
        .into()
}

/// All of them, for a device of this MTU.
pub(crate) fn bursts(mtu: usize) -> Vec<Burst> {
    let mut all = Vec::new();
    for ip in [v4(), v6()] {
        all.extend(sizes(&ip, mtu));
        all.extend(trains(&ip, mtu));
        all.extend(marks(&ip));
        all.extend(options(&ip));
        all.extend(sums(&ip));
        all.extend(datagrams(&ip, mtu));
        all.extend(supers(&ip, mtu));
    }
    all.extend(only_v4());
    all.extend(only_v6());
    all
}

fn v4() -> Ip {
    Ip {
        src: "10.9.1.130".parse().unwrap(),
        dst: "10.9.2.130".parse().unwrap(),
        tos: 0,
        id: 0x7ffe,
        fragment: DF,
        ttl: 64,
        options: Vec::new(),
        extensions: Vec::new(),
    }
}

fn v6() -> Ip {
    Ip {
        src: "fd09:1::8000:2".parse().unwrap(),
        dst: "fd09:2::8000:2".parse().unwrap(),
        ..v4()
    }
}

fn tcp() -> Tcp {
    Tcp {
        ports: [4000, 80],
        // Its numbers pass zero.
        seq: 0xffff_f000,
        flags: ACK,
        urgent: 0,
        options: Vec::new(),
        sum: Sum::Right,
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn named(ip: &Ip, name: &str) -> String {
    let family = if ip.src.is_ipv4() { "IPv4" } else { "IPv6" };
    format!("{family}: {name}")
}

/// Packets that are none but themselves.
fn whole(name: &str, packets: Vec<Vec<u8>>) -> Burst {
    Burst {
        name: name.to_owned(),
        frames: packets
            .iter()
            .map(|p| [&[0; 10], &p[..]].concat())
            .collect(),
        wanted: packets,
    }
}

/// Segments of these sizes, one behind the other; `change` may do with each what it wants.
fn train(ip: &Ip, sizes: &[usize], change: impl Fn(usize, &mut Ip, &mut Tcp)) -> Vec<Vec<u8>> {
    let mut seq = tcp().seq;
    let segments = sizes.iter().enumerate().map(|(n, len)| {
        let (mut ip, mut tcp) = (ip.nth(n), tcp());
        tcp.seq = seq;
        change(n, &mut ip, &mut tcp);
        seq = seq.wrapping_add(*len as u32);
        ip.tcp(&tcp, &body(*len))
    });
    segments.collect()
}

fn headers(ip: &Ip) -> usize {
    if ip.src.is_ipv4() { 20 } else { 40 }
}

/// Odd sizes, alone and in trains.
fn sizes(ip: &Ip, mtu: usize) -> Vec<Burst> {
    let most = mtu - headers(ip);
    let totals = [0, 1, 2, 3, 535, 536, 1279, 1280, most].map(|n: usize| n.min(most));
    let tcps = totals.iter().filter_map(|n| n.checked_sub(20));
    let tcps: Vec<usize> = tcps.chain([0, 1, 2, 3, 535]).collect();
    let udps = totals
        .iter()
        .filter_map(|n| n.checked_sub(8))
        .chain([0, 1, 2, 3]);
    let udps = udps
        .map(|n| ip.udp([5000, 53], Sum::Right, &body(n)))
        .collect();
    vec![
        whole(
            &named(ip, "segments of odd sizes"),
            train(ip, &tcps, |_, _, _| {}),
        ),
        whole(&named(ip, "datagrams of odd sizes"), udps),
    ]
}

/// What is one train, and what only looks like it.
fn trains(ip: &Ip, mtu: usize) -> Vec<Burst> {
    let full = mtu - headers(ip) - 20;
    let equal = |n| vec![full; n];
    let named = |name, packets| whole(&named(ip, name), packets);
    let mut gap = train(ip, &equal(9), |_, _, _| {});
    gap.remove(4);
    let mut twice = train(ip, &equal(9), |_, _, _| {});
    twice.insert(4, twice[3].clone());
    let mut swapped = train(ip, &equal(9), |_, _, _| {});
    swapped.swap(4, 5);
    let others = train(ip, &equal(12), |_, _, tcp| tcp.ports = [4001, 80]);
    let one = train(ip, &equal(12), |_, _, _| {});
    let mixed = one
        .into_iter()
        .zip(others)
        .flat_map(|(a, b)| [a, b])
        .collect();
    let acks = train(ip, &[full, full, 0, full, full, 0, 0, full], |_, _, _| {});
    let odd = [equal(7), vec![full - 3], equal(2)].concat();
    let growing = [100, 100, 100, 101, 101, 100, 99, 98].to_vec();
    vec![
        named("a train", train(ip, &equal(20), |_, _, _| {})),
        named("a train with an odd tail", train(ip, &odd, |_, _, _| {})),
        named(
            "segments that grow and shrink",
            train(ip, &growing, |_, _, _| {}),
        ),
        named("a train of bytes", train(ip, &[1; 40], |_, _, _| {})),
        named(
            "more than a frame holds",
            train(ip, &[10; 70], |_, _, _| {}),
        ),
        named("two flows in turn", mixed),
        named("a segment is missing", gap),
        named("a segment comes twice", twice),
        named("two segments changed places", swapped),
        named("acknowledgements between segments", acks),
        named(
            "one identification for all",
            train(ip, &equal(9), |_, ip, _| ip.id = 77),
        ),
        named(
            "identifications at random",
            train(ip, &equal(9), |n, ip, _| ip.id = (n * n * 31) as u16),
        ),
    ]
}

/// Marks and flags in the middle of a train.
fn marks(ip: &Ip) -> Vec<Burst> {
    let sizes = [500; 10];
    let flags = [
        ("FIN", FIN),
        ("SYN", SYN),
        ("RST", RST),
        ("PSH", PSH),
        ("URG", URG),
        ("ECE", ECE),
        ("CWR", CWR),
        ("FIN and PSH", FIN | PSH),
        ("CWR and ECE", CWR | ECE),
    ];
    let flagged = flags.map(|(name, flag)| {
        let packets = train(ip, &sizes, |n, _, tcp| {
            if n == 4 {
                tcp.flags |= flag;
                tcp.urgent = if flag == URG { 3 } else { 0 };
            }
        });
        whole(&named(ip, &format!("{name} in the middle")), packets)
    });
    let no_ack = train(ip, &sizes, |n, _, tcp| {
        tcp.flags = if n == 4 { 0 } else { ACK }
    });
    let pushed = train(ip, &sizes, |n, _, tcp| {
        tcp.flags |= if n % 3 == 2 { PSH } else { 0 }
    });
    let echoes = train(ip, &sizes, |n, _, tcp| {
        tcp.flags |= if n > 4 { ECE } else { 0 }
    });
    let marked = [
        ("ECT(0) throughout", 2, 2),
        ("CE in the middle", 2, 3),
        ("ECT(1), then CE", 1, 3),
        ("no ECT, then ECT", 0, 2),
    ];
    let marked = marked.map(|(name, all, middle)| {
        let packets = train(ip, &sizes, |n, ip, _| {
            ip.tos = if (4..6).contains(&n) { middle } else { all }
        });
        whole(&named(ip, name), packets)
    });
    let class = train(ip, &sizes, |n, ip, _| {
        ip.tos = if n < 5 { 0xb8 } else { 0x28 }
    });
    let hops = train(ip, &sizes, |n, ip, _| ip.ttl = if n == 5 { 63 } else { 64 });
    flagged
        .into_iter()
        .chain(marked)
        .chain([
            whole(&named(ip, "no ACK in the middle"), no_ack),
            whole(&named(ip, "PSH at each third"), pushed),
            whole(&named(ip, "ECE from the middle on"), echoes),
            whole(&named(ip, "another class from the middle on"), class),
            whole(&named(ip, "another TTL in the middle"), hops),
        ])
        .collect()
}

/// The options of each segment of a train.
type Options = Box<dyn Fn(usize) -> Vec<u8>>;

/// Options of TCP that are the same for all segments, or are not.
fn options(ip: &Ip) -> Vec<Burst> {
    let sizes = [900; 8];
    let stamp = |n: u32| [&[1, 1, 8, 10][..], &n.to_be_bytes(), &7u32.to_be_bytes()].concat();
    let sack = [&[1, 1, 5, 10][..], &[9; 8]].concat();
    let unknown = vec![253, 6, 0xde, 0xad, 1, 2, 0, 0];
    let lying = vec![8, 40, 1, 1];
    let all: [(&str, Options); 7] = [
        ("timestamps", Box::new(move |_| stamp(1000))),
        (
            "timestamps that advance",
            Box::new(move |n| stamp(1000 + n as u32 / 3)),
        ),
        (
            "SACK in the middle",
            Box::new(move |n| if n == 4 { sack.clone() } else { Vec::new() }),
        ),
        ("an unknown option", Box::new(move |_| unknown.clone())),
        (
            "an option whose length lies",
            Box::new(move |_| lying.clone()),
        ),
        ("the most options", Box::new(|_| vec![1; 40])),
        ("options that grow", Box::new(|n| vec![1; n * 4])),
    ];
    let named = |(name, options): (&str, Options)| {
        let packets = train(ip, &sizes, |n, _, tcp| tcp.options = options(n));
        whole(&named(ip, name), packets)
    };
    all.into_iter().map(named).collect()
}

/// A wrong checksum is nobody else's, and is never made right.
fn sums(ip: &Ip) -> Vec<Burst> {
    let wrong = [
        ("the first", 0..1),
        ("the second", 1..2),
        ("one in the middle", 4..5),
        ("the last", 9..10),
        ("all", 0..10),
    ];
    let tcp = wrong.clone().map(|(name, which)| {
        let packets = train(ip, &[700; 10], |n, _, tcp| {
            if which.contains(&n) {
                tcp.sum = Sum::Wrong;
            }
        });
        whole(
            &named(ip, &format!("the wrong checksum of {name}, TCP")),
            packets,
        )
    });
    let udp = wrong.map(|(name, which)| {
        let sum = |n| {
            if which.contains(&n) {
                Sum::Wrong
            } else {
                Sum::Right
            }
        };
        let packets = (0..10).map(|n| ip.nth(n).udp([5000, 53], sum(n), &body(700)));
        whole(
            &named(ip, &format!("the wrong checksum of {name}, UDP")),
            packets.collect(),
        )
    });
    tcp.into_iter().chain(udp).collect()
}

/// UDP, whose borders are to be kept.
fn datagrams(ip: &Ip, mtu: usize) -> Vec<Burst> {
    let full = mtu - headers(ip) - 8;
    let run = |sizes: &[usize]| {
        let one = |(n, len): (usize, &usize)| ip.nth(n).udp([5000, 53], Sum::Right, &body(*len));
        sizes.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    let zero = |n: usize| n % 3 == 1;
    let sum = |n| if zero(n) { Sum::Zero } else { Sum::Right };
    let without = (0..12).map(|n| ip.nth(n).udp([5000, 53], sum(n), &body(300)));
    let never = (0..12).map(|n| ip.nth(n).udp([5000, 53], Sum::Zero, &body(300)));
    let other = |n| [5000 + (n % 2) as u16, 53];
    let turns = (0..12).map(|n| ip.nth(n / 2).udp(other(n), Sum::Right, &body(400)));
    let mut short = run(&[200; 6]);
    // Its own length is less than what IP carries.
    let at = headers(ip) + 4;
    short[3][at..at + 2].copy_from_slice(&100u16.to_be_bytes());
    let named = |name, packets| whole(&named(ip, name), packets);
    vec![
        named("equal datagrams", run(&[full; 20])),
        named(
            "equal datagrams and a tail",
            run(&[[333; 9].as_slice(), &[12], &[333; 3]].concat()),
        ),
        named("datagrams of a byte", run(&[1; 70])),
        named(
            "empty datagrams",
            run(&[[50; 3].as_slice(), &[0, 0], &[50; 3]].concat()),
        ),
        named("some without a checksum", without.collect()),
        named("none with a checksum", never.collect()),
        named("two flows of datagrams in turn", turns.collect()),
        named("a length that lies", short),
    ]
}

/// Super-packets on the wire of A.
fn supers(ip: &Ip, mtu: usize) -> Vec<Burst> {
    let full = mtu - headers(ip) - 20;
    let one = |name: &str, (frame, wanted): (Vec<u8>, Vec<Vec<u8>>)| Burst {
        name: named(ip, name),
        frames: vec![frame],
        wanted,
    };
    let with = |flags: u8, options: usize| Tcp {
        flags: ACK | flags,
        options: vec![1; options],
        ..tcp()
    };
    let urgent = Tcp {
        urgent: 9,
        ..with(URG, 0)
    };
    let most = 65_535 - 60 - if ip.src.is_ipv4() { 20 } else { 0 };
    let ect = Ip {
        tos: 2,
        ..ip.clone()
    };
    let segments = |tcp: Tcp, len, size| ip.tcp_super(&tcp, &body(len), size);
    let mut all = vec![
        one("a super-packet", segments(with(0, 0), 10 * full, full)),
        one(
            "one with an odd tail",
            segments(with(0, 0), 7 * full + 1, full),
        ),
        one(
            "one with timestamps",
            segments(with(PSH, 12), 7 * (full - 12), full - 12),
        ),
        one(
            "one that ends the flow",
            segments(with(PSH | FIN, 0), 5 * full + 77, full),
        ),
        one(
            "one that bears CWR",
            ect.tcp_super(&with(CWR | PSH, 0), &body(5 * full), full),
        ),
        one("one that bears ECE", segments(with(ECE, 0), 5 * full, full)),
        one("one that is urgent", segments(urgent, 3000, 1000)),
        one("the largest", segments(with(0, 0), most, full)),
        one("one of odd segments", segments(with(0, 0), 3000, 101)),
        one(
            "datagrams with an odd tail",
            ip.udp_super([5000, 53], &body(9 * 1001 + 13), 1001),
        ),
        one(
            "datagrams that are full",
            ip.udp_super([5000, 53], &body(20 * (full - 3)), full - 3),
        ),
        one(
            "datagrams that are small",
            ip.udp_super([5000, 53], &body(40 * 11 + 1), 11),
        ),
    ];
    // Two in a row, and packets of the same flow around them.
    let (second, mut cut) = ip.udp_super([5000, 53], &body(3 * 500), 500);
    let small = ip.udp([5000, 53], Sum::Right, &body(500));
    let mut both = whole(
        &named(ip, "datagrams between datagrams"),
        vec![small.clone()],
    );
    both.frames
        .extend([second.clone(), second, [&[0; 10], &small[..]].concat()]);
    both.wanted.extend(cut.clone());
    both.wanted.append(&mut cut);
    both.wanted.push(small);
    all.push(both);
    all
}

/// Fragments, options, and other protocols of IPv4.
fn only_v4() -> Vec<Burst> {
    let ip = v4();
    let sizes = [600; 8];
    let may_be_cut = train(&ip, &sizes, |_, ip, _| ip.fragment = 0);
    let turns = train(&ip, &sizes, |n, ip, _| {
        ip.fragment = if n % 2 == 0 { 0 } else { DF }
    });
    let same = train(&ip, &sizes, |_, ip, _| (ip.fragment, ip.id) = (0, 9));
    let optional = train(&ip, &sizes, |n, ip, _| {
        ip.options = if n == 4 { vec![1, 1, 1, 0] } else { Vec::new() }
    });
    let all_optional = train(&ip, &sizes, |_, ip, _| ip.options = vec![1, 1, 1, 0]);
    // One datagram in three fragments, among whole ones.
    let payload = ip.udp([5000, 53], Sum::Right, &body(1400))[20..].to_vec();
    let cut = |n: usize| {
        let more = if n < 2 { MF } else { 0 };
        let ip = Ip {
            fragment: (n * 60) as u16 | more,
            id: 500,
            ..v4()
        };
        ip.packet(17, &payload[n * 480..payload.len().min((n + 1) * 480)])
    };
    let mut fragments = train(&ip, &sizes, |_, _, _| {});
    for (at, n) in [(1, 0), (3, 2), (5, 1)] {
        fragments.insert(at, cut(n));
    }
    let reserved = train(&ip, &sizes, |n, ip, _| {
        ip.fragment = if n == 4 { 0x8000 | DF } else { DF }
    });
    let echo = ip.packet(1, &[8, 0, 0xf7, 0xfe, 0, 1, 0, 0]);
    let others = (0..6).map(|n| {
        if n % 2 == 0 {
            echo.clone()
        } else {
            ip.packet(132, &body(100 + n))
        }
    });
    let short = ip.packet(6, &[0; 13]);
    let mut offset = ip.tcp(&tcp(), b"words");
    offset[32] = 0xf0;
    let optional_super = Ip {
        options: vec![1, 1, 1, 0],
        ..v4()
    }
    .tcp_super(&tcp(), &body(4000), 1000);
    vec![
        whole("IPv4: segments that may be cut", may_be_cut),
        whole("IPv4: only some may be cut", turns),
        whole("IPv4: they may be cut and have one identification", same),
        whole("IPv4: options in the middle", optional),
        whole("IPv4: options throughout", all_optional),
        whole("IPv4: fragments between segments", fragments),
        whole("IPv4: the reserved bit", reserved),
        whole("IPv4: other protocols", others.collect()),
        whole("IPv4: headers that end too early", vec![short, offset]),
        Burst {
            name: "IPv4: a super-packet with options".to_owned(),
            frames: vec![optional_super.0],
            wanted: optional_super.1,
        },
    ]
}

/// Extension headers of IPv6.
fn only_v6() -> Vec<Burst> {
    // Padding of six bytes.
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let with = |extensions: &[(u8, Vec<u8>)]| Ip {
        extensions: extensions.to_vec(),
        ..v6()
    };
    let all = [
        ("hop-by-hop options", vec![(0, padding.clone())]),
        ("destination options", vec![(60, padding.clone())]),
        ("both", vec![(0, padding.clone()), (60, padding.clone())]),
        (
            "a fragment header on a whole packet",
            vec![(44, vec![0, 0, 0, 0, 0, 0, 0, 9])],
        ),
    ];
    let mut bursts = Vec::new();
    for (name, extensions) in &all {
        let ip = with(extensions);
        bursts.push(whole(
            &format!("IPv6: segments behind {name}"),
            train(&ip, &[600; 8], |_, _, _| {}),
        ));
        let some = train(&v6(), &[600; 8], |n, ip, _| {
            if n == 4 {
                ip.extensions.clone_from(extensions);
            }
        });
        bursts.push(whole(&format!("IPv6: a segment behind {name}"), some));
        let udp = (0..6).map(|_| ip.udp([5000, 53], Sum::Right, &body(300)));
        bursts.push(whole(
            &format!("IPv6: datagrams behind {name}"),
            udp.collect(),
        ));
    }
    let payload = v6().udp([5000, 53], Sum::Right, &body(1400))[40..].to_vec();
    let cut = |n: usize| {
        let place = (n * 480) as u16 | u16::from(n < 2);
        let [high, low] = place.to_be_bytes();
        let ip = with(&[(44, vec![0, 0, high, low, 0, 0, 0, 7])]);
        ip.packet(17, &payload[n * 480..payload.len().min((n + 1) * 480)])
    };
    let mut fragments = train(&v6(), &[600; 8], |_, _, _| {});
    for (at, n) in [(1, 0), (3, 2), (5, 1)] {
        fragments.insert(at, cut(n));
    }
    bursts.push(whole("IPv6: fragments between segments", fragments));
    bursts.push(whole(
        "IPv6: nothing behind the header",
        vec![v6().packet(59, &body(40))],
    ));
    let behind = with(&[(60, padding)]);
    let tcp = behind.tcp_super(&tcp(), &body(4000), 1000);
    bursts.push(Burst {
        name: "IPv6: a super-packet behind destination options".to_owned(),
        frames: vec![tcp.0],
        wanted: tcp.1,
    });
    bursts
}
