//! The pump between a device (here a socket) and flows, seen from both ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::fd::OwnedFd;
use std::time::Duration;

use etherparse::{Icmpv4Type, Icmpv6Type, IpSlice, SlicedPacket, TransportSlice};
use frames::FrameFd;
use proto::irm::{self, PassRule};
use proto::record::Item;
use proto::{Code, Reason};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use support::{Far, config, flow, label, marked, soon, udp};
use vpn::class::Class;
use vpn::config::Config;
use vpn::counters::Dropped;
use vpn::filter::{Both, Rules};
use vpn::flow::Lane;
use vpn::prefix::PeerId;
use vpn::pump::{Happening, Pump};

/// A pump, the host's end of its device, and how many turns it has made.
struct Bench {
    pump: Pump<FrameFd<OwnedFd>, Lane>,
    host: OwnedFd,
}

impl Bench {
    fn new(config: &Config) -> Self {
        let (device, host) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let mut pump = Pump::new(FrameFd::new(device)).unwrap();
        pump.configure(config);
        pump.take_happenings();
        Self { pump, host }
    }

    /// With a flow to `peer`.
    fn with_flow(peer: &str, mtu: u32) -> (Self, Far) {
        let mut bench = Self::new(&config());
        let far = bench.connect(peer, mtu);
        (bench, far)
    }

    fn connect(&mut self, peer: &str, mtu: u32) -> Far {
        let (lane, far) = flow(1, mtu);
        self.pump.accepted(&label(peer), lane).ok().unwrap();
        self.pump.take_happenings();
        far
    }

    fn write(&self, packet: &[u8]) {
        rustix::io::write(&self.host, packet).unwrap();
    }

    /// What the host gets; `None` if nothing.
    fn read(&self) -> Option<Vec<u8>> {
        let mut buf = vec![0; 70_000];
        let len = rustix::io::read(&self.host, &mut buf[..]).ok()?;
        buf.truncate(len);
        Some(buf)
    }

    /// Lets the pump do all that is to be done.
    async fn settle(&mut self) -> Vec<Happening> {
        let mut all = Vec::new();
        while let Ok(turn) = tokio::time::timeout(Duration::from_millis(30), self.pump.turn()).await
        {
            all.extend(turn.unwrap());
        }
        all
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.pump.counters().dropped(why)
    }
}

fn dials(happened: &[Happening]) -> Vec<PeerId> {
    happened
        .iter()
        .filter_map(|h| {
            if let Happening::Dial(id) = h {
                Some(*id)
            } else {
                None
            }
        })
        .collect()
}

#[tokio::test]
async fn what_is_ready_goes_as_one_record_to_the_owner_of_the_destination() {
    let (mut bench, far) = Bench::with_flow("b", 1400);
    let sent = [
        udp("10.7.0.1", "10.7.0.2", 100),
        udp("fd07::1", "fd07::2", 200),
        udp("10.7.0.1", "10.8.3.4", 1),
    ];
    sent.iter().for_each(|p| bench.write(p));
    bench.settle().await;
    assert_eq!(far.packets(), sent);
    assert_eq!(bench.pump.counters().tx_packets, 3);
    let status = bench.pump.peers().find(|p| p.name == label("b")).unwrap();
    assert_eq!((status.state, status.moved.tx_packets), ("up", 3));
    assert_eq!(
        status.moved.tx_bytes,
        sent.iter().map(Vec::len).sum::<usize>() as u64
    );
}

#[tokio::test]
async fn packets_for_several_peers_are_sorted_into_a_record_each_and_keep_their_order() {
    let (mut bench, b) = Bench::with_flow("b", 1400);
    let c = bench.connect("c", 1400);
    let (to_b, to_c): (Vec<_>, Vec<_>) = (1..=20)
        .map(|i| {
            (
                udp("10.7.0.1", "10.7.0.2", i),
                udp("10.7.0.1", "10.7.0.3", i),
            )
        })
        .unzip();
    for (b, c) in to_b.iter().zip(&to_c) {
        bench.write(b);
        bench.write(c);
    }
    bench.settle().await;
    assert_eq!((b.packets(), c.packets()), (to_b, to_c));
}

#[tokio::test]
async fn the_first_packet_dials_and_comes_through_when_the_flow_stands() {
    let mut bench = Bench::new(&config());
    let packet = udp("10.7.0.1", "10.7.0.2", 10);
    bench.write(&packet);
    bench.write(&packet);
    let dialled = dials(&bench.settle().await);
    assert_eq!(dialled.len(), 1);
    assert_eq!(bench.pump.name(dialled[0]), Some(&label("b")));
    let (lane, far) = flow(1, 1400);
    bench.pump.dialled(dialled[0], lane);
    assert_eq!(far.packets(), [packet.clone(), packet]);
    assert_eq!(bench.pump.mtu(), Some(1400));
}

#[tokio::test]
async fn a_spoofed_source_is_dropped_and_counted_and_the_rest_of_the_record_arrives() {
    let (mut bench, far) = Bench::with_flow("b", 1400);
    let good = udp("10.8.9.9", "10.7.0.1", 10);
    let (as_c, as_me, as_nobody) = (
        udp("10.7.0.3", "10.7.0.1", 10),
        udp("10.7.0.1", "10.7.0.1", 10),
        udp("192.0.2.1", "10.7.0.1", 10),
    );
    let elsewhere = udp("10.7.0.2", "192.0.2.1", 10);
    far.send(&[&as_c, &as_me, &good, &as_nobody, &elsewhere, b"\x45junk"]);
    bench.settle().await;
    assert_eq!(bench.read(), Some(good));
    assert_eq!(bench.read(), None);
    assert_eq!(bench.dropped(Dropped::SpoofedSource), 3);
    assert_eq!(bench.dropped(Dropped::ForeignDestination), 1);
    assert_eq!(bench.dropped(Dropped::MalformedIn), 1);
    assert_eq!(bench.pump.counters().rx_packets, 1);
}

#[tokio::test]
async fn what_may_not_leave_is_answered_and_counted() {
    let mut bench = Bench::new(&config());
    bench.write(&udp("192.168.0.1", "10.7.0.2", 10));
    bench.write(&udp("10.7.0.1", "192.0.2.1", 10));
    bench.write(&udp("10.7.0.1", "224.0.0.251", 10));
    bench.write(b"not IP at all");
    bench.settle().await;
    let kinds: Vec<_> = std::iter::from_fn(|| bench.read())
        .map(|p| icmp_v4(&p))
        .collect();
    use etherparse::icmpv4::DestUnreachableHeader as Code;
    assert_eq!(
        kinds,
        [
            Icmpv4Type::DestinationUnreachable(Code::FilterProhibited),
            Icmpv4Type::DestinationUnreachable(Code::Network)
        ]
    );
    for why in [
        Dropped::OwnSource,
        Dropped::NoOwner,
        Dropped::Multicast,
        Dropped::MalformedOut,
    ] {
        assert_eq!(bench.dropped(why), 1, "{why:?}");
    }
}

fn icmp_v4(packet: &[u8]) -> Icmpv4Type {
    match SlicedPacket::from_ip(packet).unwrap().transport {
        Some(TransportSlice::Icmpv4(icmp)) => icmp.icmp_type(),
        other => panic!("{other:?} is no ICMPv4"),
    }
}

#[tokio::test]
async fn too_big_is_answered_in_both_families_and_ipv4_without_dont_fragment_is_cut() {
    let (mut bench, far) = Bench::with_flow("b", 1300);
    let may_be_cut = udp("10.7.0.1", "10.7.0.2", 1400);
    let mut must_not = may_be_cut.clone();
    must_not[6] |= 0x40;
    bench.write(&udp("fd07::1", "fd07::2", 1400));
    bench.write(&must_not);
    bench.write(&may_be_cut);
    bench.settle().await;
    let Some(v6) = bench.read() else {
        panic!("no answer")
    };
    match SlicedPacket::from_ip(&v6).unwrap().transport {
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1300 })
        }
        other => panic!("{other:?} is no ICMPv6"),
    }
    let needed =
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 };
    assert_eq!(
        bench.read().map(|p| icmp_v4(&p)),
        Some(Icmpv4Type::DestinationUnreachable(needed))
    );
    assert_eq!(bench.read(), None);
    let parts = far.packets();
    let body = |p: &Vec<u8>| IpSlice::from_slice(p).unwrap().payload().payload.to_vec();
    assert!(parts.len() == 2 && parts.iter().all(|p| p.len() <= 1300));
    assert_eq!(
        parts.iter().flat_map(body).collect::<Vec<_>>(),
        body(&may_be_cut)
    );
    assert_eq!(
        (
            bench.dropped(Dropped::TooBig),
            bench.pump.counters().fragmented
        ),
        (2, 1)
    );
}

#[tokio::test]
async fn a_shrunk_mtu_is_told_and_obeyed() {
    let (mut bench, far) = Bench::with_flow("b", 1400);
    far.0.try_send_item(&Item::Mtu(1290), None).unwrap();
    assert!(bench.settle().await.contains(&Happening::Mtu));
    assert_eq!(bench.pump.mtu(), Some(1290));
    bench.write(&udp("fd07::1", "fd07::2", 1260));
    bench.settle().await;
    assert!(far.packets().is_empty() && bench.read().is_some());
}

#[tokio::test]
async fn a_flow_that_dies_in_use_is_dialled_again_and_an_idle_one_is_not() {
    let (mut bench, far) = Bench::with_flow("b", 1400);
    let _c = bench.connect("c", 1400);
    bench.write(&udp("10.7.0.1", "10.7.0.2", 10));
    bench.settle().await;
    far.0
        .try_send_item(
            &Item::Down(Reason::new(Code::Unreachable, "cable cut")),
            None,
        )
        .unwrap();
    let happened = bench.settle().await;
    let [b] = dials(&happened)[..] else {
        panic!("{happened:?}")
    };
    assert!(happened.contains(&Happening::Down(
        b,
        Reason::new(Code::Unreachable, "cable cut")
    )));
    drop(_c);
    assert!(dials(&bench.settle().await).is_empty());
    // What is sent meanwhile waits for the new flow.
    let packet = udp("10.7.0.1", "10.7.0.2", 11);
    bench.write(&packet);
    assert!(dials(&bench.settle().await).is_empty());
    let (lane, far) = flow(2, 1400);
    bench.pump.dialled(b, lane);
    assert_eq!(far.packets(), [packet]);
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_costs_an_error_message_not_silence() {
    let mut bench = Bench::new(&config());
    bench.write(&udp("10.7.0.1", "10.7.0.2", 10));
    let mut peer = None;
    for _ in 0..5 {
        let happened = soon(async {
            loop {
                let turn = bench.pump.turn().await.unwrap();
                if !dials(&turn).is_empty() {
                    return turn;
                }
            }
        });
        let id = dials(&happened.await)[0];
        bench
            .pump
            .dial_failed(id, Reason::new(Code::Unreachable, "no such member"));
        peer = Some(id);
    }
    let unreachable =
        Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Host);
    assert_eq!(bench.read().map(|p| icmp_v4(&p)), Some(unreachable.clone()));
    bench.write(&udp("10.7.0.1", "10.7.0.2", 10));
    soon(bench.pump.turn()).await.unwrap();
    assert_eq!(bench.read().map(|p| icmp_v4(&p)), Some(unreachable));
    assert_eq!(bench.dropped(Dropped::PeerDown), 2);
    let status = bench.pump.peers().find(|p| p.name == label("b")).unwrap();
    assert_eq!(
        (status.state, status.trouble.unwrap().text.as_str()),
        ("down", "no such member")
    );
    assert!(peer.is_some());
}

#[tokio::test]
async fn a_stuck_peer_is_dropped_for_and_does_not_stop_the_others() {
    let (mut bench, b) = Bench::with_flow("b", 1400);
    let c = bench.connect("c", 1400);
    let to_b = udp("10.7.0.1", "10.7.0.2", 1372);
    let until_dropped = async {
        while bench.dropped(Dropped::FlowFull) + bench.dropped(Dropped::Stale) == 0 {
            for _ in 0..64 {
                // The socket in place of the device holds fewer than a device would.
                let _ = rustix::io::write(&bench.host, &to_b);
            }
            bench.pump.turn().await.unwrap();
        }
    };
    soon(until_dropped).await;
    let to_c = udp("10.7.0.1", "10.7.0.3", 5);
    let arrived = async {
        loop {
            let _ = rustix::io::write(&bench.host, &to_c);
            bench.pump.turn().await.unwrap();
            let got = c.packets();
            if !got.is_empty() {
                return got;
            }
        }
    };
    assert_eq!(soon(arrived).await[0], to_c);
    // And when it takes packets again, it gets them.
    while !b.packets().is_empty() {}
    bench.settle().await;
    while !b.packets().is_empty() {}
    bench.write(&to_b);
    bench.settle().await;
    assert_eq!(b.packets().last(), Some(&to_b));
}

#[tokio::test]
async fn a_member_that_is_gone_loses_its_flow_and_its_right_to_send() {
    let (mut bench, far) = Bench::with_flow("b", 1400);
    let mut config = config();
    config.members.remove(&label("b"));
    bench.pump.configure(&config);
    bench.settle().await;
    assert!(bench.pump.peers().all(|p| p.name != label("b")));
    assert!(matches!(
        far.0
            .try_recv(&mut proto::Batch::new(proto::Framing::Record)),
        Ok(libflow::port::Received::Item(Item::Down(_)))
    ));
    let (lane, _far) = flow(2, 1400);
    assert!(bench.pump.accepted(&label("b"), lane).is_err());
}

#[tokio::test]
async fn a_bad_record_ends_the_flow_with_its_reason() {
    let (mut bench, far) = Bench::with_flow("b", 1400);
    rustix::net::send(&far.0, &[0, 9, 1], rustix::net::SendFlags::empty()).unwrap();
    let happened = bench.settle().await;
    assert!(
        happened
            .iter()
            .any(|h| matches!(h, Happening::Down(_, r) if r.code == Code::PeerMisbehaved)),
        "{happened:?}"
    );
    assert_eq!(bench.dropped(Dropped::BadRecord), 1);
    assert_eq!(bench.pump.mtu(), None);
}

#[tokio::test]
async fn each_class_of_service_has_its_flow_and_what_asks_for_nothing_shares_one() {
    let (mut bench, plain) = Bench::with_flow("b", 1400);
    let packet = || udp("10.7.0.1", "10.7.0.2", 10);
    let (voice, video, bulk) = (
        marked(packet(), 46),
        marked(packet(), 34),
        marked(packet(), 8),
    );
    for sent in [&voice, &packet(), &voice, &video, &bulk] {
        bench.write(sent);
    }
    let dialled = dials(&bench.settle().await);
    assert_eq!(plain.packets(), [packet(), bulk]);
    let classes: Vec<Class> = dialled.iter().map(|id| bench.pump.class(*id)).collect();
    assert_eq!(classes, [Class::Voice, Class::Video]);
    for (id, (class, sent)) in dialled.iter().zip([
        (Class::Voice, vec![voice.clone(), voice.clone()]),
        (Class::Video, vec![video.clone()]),
    ]) {
        assert_eq!(bench.pump.name(*id), Some(&label("b")));
        let (lane, far) = support::flow_of(class.qos(), 7, 1400);
        bench.pump.dialled(*id, lane);
        assert_eq!(far.packets(), sent);
    }
    let status = bench.pump.peers().find(|p| p.name == label("b")).unwrap();
    let flows: Vec<_> = status
        .flows
        .iter()
        .map(|f| (f.class, f.moved.tx_packets))
        .collect();
    assert_eq!(
        flows,
        [(Class::Plain, 2), (Class::Video, 1), (Class::Voice, 2)]
    );
    assert_eq!((status.state, status.moved.tx_packets), ("up", 5));
}

#[tokio::test]
async fn a_flow_that_a_peer_has_for_voice_is_sent_voice_on_and_nothing_else() {
    let (mut bench, plain) = Bench::with_flow("b", 1400);
    let (lane, voice) = support::flow_of(proto::QosSpec::VOICE, 2, 1400);
    bench.pump.accepted(&label("b"), lane).ok().unwrap();
    let packet = udp("10.7.0.1", "10.7.0.2", 10);
    bench.write(&marked(packet.clone(), 46));
    bench.write(&packet);
    bench.settle().await;
    assert_eq!(voice.packets(), [marked(packet.clone(), 46)]);
    assert_eq!(plain.packets(), [packet]);
    // Whatever a peer sends there is its own.
    let back = udp("10.7.0.2", "10.7.0.1", 10);
    voice.send(&[&back]);
    bench.settle().await;
    assert_eq!(bench.read(), Some(back));
}

#[tokio::test]
async fn what_has_no_flow_of_its_class_goes_with_the_rest() {
    let (mut bench, plain) = Bench::with_flow("b", 1400);
    let voice = marked(udp("10.7.0.1", "10.7.0.2", 10), 46);
    bench.write(&voice);
    let dialled = dials(&bench.settle().await);
    let refused = Reason::new(Code::QosNotGranted, "not here");
    bench.pump.dial_failed(dialled[0], refused);
    assert_eq!(plain.packets(), std::slice::from_ref(&voice));
    bench.write(&voice);
    soon(bench.pump.turn()).await.unwrap();
    assert_eq!(plain.packets(), std::slice::from_ref(&voice));
    let mut one = config();
    one.traffic.classes = false;
    bench.pump.configure(&one);
    bench.write(&voice);
    assert_eq!(dials(&bench.settle().await), []);
    assert_eq!(plain.packets(), [voice]);
}

/// A packet that opens a TCP connection, with an MSS of 1460.
fn syn(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mss = [etherparse::TcpOptionElement::MaximumSegmentSize(1460)];
    let step = etherparse::PacketBuilder::ipv4(src, dst, 9).tcp(1, 2, 3, 4);
    let step = step.syn().options(&mss).unwrap();
    let mut out = Vec::new();
    step.write(&mut out, b"").unwrap();
    out
}

fn mss_of(packet: &[u8]) -> Option<u16> {
    let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ip(packet).unwrap().transport else {
        return None;
    };
    let ip = etherparse::Ipv4HeaderSlice::from_slice(packet).unwrap();
    assert_eq!(
        tcp.calc_checksum_ipv4(ip.source(), ip.destination())
            .unwrap(),
        tcp.checksum()
    );
    tcp.options_iterator().find_map(|option| {
        if let Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) = option {
            Some(mss)
        } else {
            None
        }
    })
}

#[tokio::test]
async fn segments_are_lowered_to_the_smallest_flow_both_ways_unless_that_is_switched_off() {
    let (mut bench, b) = Bench::with_flow("b", 1400);
    let _c = bench.connect("c", 1300);
    let (out, back) = (
        syn([10, 7, 0, 1], [10, 7, 0, 2]),
        syn([10, 7, 0, 2], [10, 7, 0, 1]),
    );
    let ordinary = udp("10.7.0.2", "10.7.0.1", 10);
    bench.write(&out);
    b.send(&[&back, &ordinary]);
    bench.settle().await;
    assert_eq!(mss_of(&b.packets()[0]), Some(1260));
    let mut got = [bench.read().unwrap(), bench.read().unwrap()];
    got.sort_by_key(Vec::len);
    assert_eq!((&got[0], mss_of(&got[1])), (&ordinary, Some(1260)));
    assert_eq!(
        (
            bench.pump.counters().mss_lowered,
            bench.pump.counters().rx_packets
        ),
        (2, 2)
    );
    let mut kept = config();
    kept.traffic.mss_clamp = false;
    bench.pump.configure(&kept);
    bench.write(&out);
    b.send(&[&back]);
    bench.settle().await;
    assert_eq!((b.packets(), bench.read()), (vec![out], Some(back)));
}

#[tokio::test]
async fn an_idle_flow_is_closed_by_who_dialled_it_and_comes_back_with_the_packet_that_needs_it() {
    let mut short = config();
    short.traffic.idle = Some(Duration::from_millis(150));
    let mut bench = Bench::new(&short);
    let packet = udp("10.7.0.1", "10.7.0.2", 10);
    bench.write(&packet);
    let id = dials(&bench.settle().await)[0];
    let (lane, far) = flow(1, 1400);
    bench.pump.dialled(id, lane);
    assert_eq!(far.packets(), std::slice::from_ref(&packet));
    // What comes in keeps it as well.
    let back = udp("10.7.0.2", "10.7.0.1", 10);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        far.send(&[&back]);
        bench.settle().await;
    }
    assert_eq!(bench.pump.counters().flows_idle, 0);
    let closed = async {
        while bench.pump.counters().flows_idle == 0 {
            bench.pump.turn().await.unwrap();
        }
    };
    soon(closed).await;
    let status = bench.pump.peers().find(|p| p.name == label("b")).unwrap();
    assert_eq!(status.state, "idle");
    let mut batch = proto::Batch::new(proto::Framing::Record);
    assert!(matches!(
        far.0.try_recv(&mut batch),
        Ok(libflow::port::Received::Item(Item::Down(_)))
    ));
    bench.write(&packet);
    assert_eq!(dials(&bench.settle().await), [id]);
    let (lane, far) = flow(2, 1400);
    bench.pump.dialled(id, lane);
    assert_eq!(far.packets(), [packet]);
}

#[tokio::test]
async fn the_smallest_mtu_is_that_of_the_flows_that_stand() {
    let (mut bench, b) = Bench::with_flow("b", 1400);
    let c = bench.connect("c", 1300);
    assert_eq!(bench.pump.mtu(), Some(1300));
    b.0.try_send_item(&Item::Mtu(1290), None).unwrap();
    bench.settle().await;
    assert_eq!(bench.pump.mtu(), Some(1290));
    for mtu in [1280, 1350] {
        b.0.try_send_item(&Item::Mtu(mtu), None).unwrap();
    }
    bench.settle().await;
    assert_eq!(bench.pump.mtu(), Some(1300));
    drop(c);
    bench.settle().await;
    assert_eq!(bench.pump.mtu(), Some(1350));
    // Another in the place of one that stands.
    let _b = bench.connect("b", 1320);
    assert_eq!(bench.pump.mtu(), Some(1320));
    let mut none = config();
    none.members.clear();
    bench.pump.configure(&none);
    assert_eq!(bench.pump.mtu(), None);
}

#[tokio::test]
async fn a_packet_costs_no_more_among_many_members_than_among_few() {
    // The quickest of some rounds, since the machine may have else to do.
    async fn turns(members: usize) -> Duration {
        let mut many = config();
        let b = many.members[&label("b")].clone();
        for n in 0..members {
            let prefixes = vec![format!("fd08::{n:x}/128").parse().unwrap()];
            let member = vpn::config::Member {
                prefixes,
                ..b.clone()
            };
            many.members.insert(label(&format!("m{n}")), member);
        }
        let mut bench = Bench::new(&many);
        let mut best = Duration::MAX;
        for _ in 0..9 {
            for _ in 0..32 {
                bench.write(&syn([10, 7, 0, 1], [10, 7, 0, 3]));
            }
            let began = std::time::Instant::now();
            bench.pump.turn().await.unwrap();
            best = best.min(began.elapsed());
        }
        best
    }
    let (few, many) = (turns(2).await, turns(5000).await);
    assert!(many < few * 8, "{few:?} and {many:?}");
}

/// A host whose only other member has this name, and B's prefixes.
fn only(name: &str) -> Config {
    let mut config = config();
    let b = config.members[&label("b")].clone();
    config.members = [(label(name), b)].into();
    config
}

#[tokio::test]
async fn places_of_members_that_are_gone_go_to_others_but_not_what_was_in_them() {
    let mut bench = Bench::new(&only("m0"));
    let mut most = 0;
    for n in 0..50 {
        let name = format!("m{n}");
        bench.pump.configure(&only(&name));
        bench.write(&udp("10.7.0.1", "10.7.0.2", 1));
        let [id] = dials(&bench.settle().await)[..] else {
            panic!("{name} was not dialled")
        };
        assert_eq!(bench.pump.name(id), Some(&label(&name)));
        let other = format!("other{n}");
        bench.pump.configure(&only(&other));
        // The flow comes after all, and is not the one's who came meanwhile.
        let (lane, far) = flow(n, 1400);
        bench.pump.dialled(id, lane);
        assert!(bench.pump.peers().all(|p| p.flows.is_empty()), "{n}");
        far.0.try_send_item(&Item::Mtu(1280), None).unwrap_err();
        most = most.max(id.0);
    }
    assert!(most < 12, "{most}");
}

#[tokio::test]
async fn whoever_gets_the_place_of_another_does_not_get_his_conversations() {
    let asks = |name: &str| {
        let mut config = only(name);
        let rules = |allow| {
            let rule = PassRule {
                allow,
                protocol: 17,
                low: 0,
                high: 65_535,
            };
            Some(Rules::from(irm::Filter { rules: vec![rule] }))
        };
        config.members.get_mut(&label(name)).unwrap().filter = Both {
            sends: rules(true),
            takes: rules(false),
        };
        config
    };
    let mut bench = Bench::new(&asks("b"));
    let b = bench.connect("b", 1400);
    // Both ports swapped: the answer.
    let mut answer = udp("10.7.0.2", "10.7.0.1", 1);
    answer[20..24].rotate_left(2);
    bench.write(&udp("10.7.0.1", "10.7.0.2", 1));
    bench.settle().await;
    b.send(&[&answer]);
    bench.settle().await;
    assert!(bench.read().is_some());
    bench.pump.configure(&asks("d"));
    let d = bench.connect("d", 1400);
    d.send(&[&answer]);
    bench.settle().await;
    assert_eq!((bench.dropped(Dropped::FilterIn), bench.read()), (1, None));
}

#[tokio::test]
async fn fragments_that_would_hide_what_they_are_from_the_filter_are_counted_both_ways() {
    let mut config = only("b");
    let rule = PassRule {
        allow: true,
        protocol: 17,
        low: 0,
        high: 65_535,
    };
    let rules = || Some(Rules::from(irm::Filter { rules: vec![rule] }));
    config.members.get_mut(&label("b")).unwrap().filter = Both {
        sends: rules(),
        takes: rules(),
    };
    let mut bench = Bench::new(&config);
    let b = bench.connect("b", 1400);
    let piece = |src, dst, place: u16| {
        let mut packet = udp(src, dst, 16);
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet
    };
    let out = [0x2000, 0x2001, 3].map(|place| piece("10.7.0.1", "10.7.0.2", place));
    let back = [0x2000, 0x2001, 3].map(|place| piece("10.7.0.2", "10.7.0.1", place));
    out.iter().for_each(|packet| bench.write(packet));
    b.send(&[&back[0], &back[1], &back[2]]);
    bench.settle().await;
    let [first, _, last] = out;
    assert_eq!(b.packets(), [first, last]);
    let [first, _, last] = back;
    let got: Vec<_> = std::iter::from_fn(|| bench.read()).collect();
    assert_eq!(got, [first, last], "and no error about a later fragment");
    assert_eq!(bench.dropped(Dropped::FilterOverlap), 2);
    assert_eq!(bench.pump.counters().to_map()["drop.filter_overlap"], 2);
}
