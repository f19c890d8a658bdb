//! A pump whose device was handed over to the layer's process, seen from there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "other tests use the rest of the support")]

mod support;

use std::os::fd::OwnedFd;
use std::time::Duration;

use frames::{Offloads, Tun};
use ip::offload::Vnet;
use libflow::port::{Handed, Received};
use proto::irm::{self, OfferedNetwork, VpnConfig};
use proto::record::{Item, Pair, Talk};
use proto::{Batch, Framing, QosSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use support::{Far, config, flow_with, label, marked, soon, udp, wire_config};
use vpn::class::Class;
use vpn::config::Config;
use vpn::counters::Dropped;
use vpn::filter::{Both, Rules};
use vpn::flow::Lane;
use vpn::pump::{Happening, Pump};

/// What the layer's process hears: packets, or an item.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Packets(Vec<Vec<u8>>),
    Item(Item),
}

fn said(far: &Far) -> Vec<Said> {
    let mut batch = Batch::new(Framing::Record);
    let next = || match far.0.try_recv(&mut batch).ok()? {
        Received::Data => Some(Said::Packets(batch.iter().map(<[u8]>::to_vec).collect())),
        Received::Item(item) => Some(Said::Item(item)),
        Received::End => None,
        Received::Bad(why) => panic!("{why}"),
    };
    std::iter::from_fn(next).collect()
}

/// What came with a Device, which is said next.
fn handed(far: &Far) -> Handed {
    let mut batch = Batch::new(Framing::Record);
    let (received, handed) = far.0.try_recv_with(&mut batch).unwrap();
    let is_device = matches!(received, Received::Item(Item::Device(_)));
    assert!(is_device, "{received:?}");
    handed
}

fn is_cut(line: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(line, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

async fn settle(pump: &mut Pump<Tun, Lane>) {
    while let Ok(turn) = tokio::time::timeout(Duration::from_millis(30), pump.turn()).await {
        turn.unwrap();
    }
}

/// A host that has handed its device over with a flow to B.
struct Bench {
    pump: Pump<Tun, Lane>,
    /// The host's end of the device.
    host: OwnedFd,
    far: Far,
    /// What came with the device and shows that what was said of it is taken back.
    line: OwnedFd,
}

impl Bench {
    fn new() -> Self {
        let kind = SocketType::SEQPACKET;
        let flags = SocketFlags::NONBLOCK;
        let ends = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
        let (device, host) = ends.unwrap();
        let mut pump = Pump::new(Tun::new(device, Offloads::default())).unwrap();
        pump.configure(&config());
        let (lane, far) = flow_with(true, QosSpec::RAW, 1, 1400);
        pump.accepted(&label("b"), lane).ok().unwrap();
        let [tun, line] = handed(&far);
        // The first, as those knew it that knew no other.
        let kind = rustix::net::sockopt::socket_type(tun.unwrap()).unwrap();
        assert_eq!(kind, SocketType::SEQPACKET);
        let line = line.unwrap();
        Self {
            pump,
            host,
            far,
            line,
        }
    }

    /// A packet of the device that is not of any pair.
    fn frame(&self, packet: &[u8]) -> bool {
        let frame = Item::Frame(packet.to_vec());
        self.far.0.try_send_item(&frame, None).is_ok()
    }

    async fn said(&mut self) -> Vec<Said> {
        settle(&mut self.pump).await;
        said(&self.far)
    }

    /// The layer's process leaves the flow's socket unread, and packets of a pair that it must not pass by itself fill it.
    async fn fill(&mut self) {
        let mut sent = 0;
        while self.frame(&udp("10.7.0.1", "10.8.1.1", 1300)) && sent < 4000 {
            sent += 1;
            if sent % 8 == 0 {
                let turn = self.pump.turn();
                let _ = tokio::time::timeout(Duration::from_millis(2), turn).await;
            }
        }
        settle(&mut self.pump).await;
    }
}

/// Nothing may pass between this host and B any more.
fn denied() -> Config {
    let mut denied = config();
    let none = || Some(Rules::default());
    denied.members.get_mut(&label("b")).unwrap().filter = Both {
        sends: none(),
        takes: none(),
    };
    denied
}

fn is_device(what: &Said) -> bool {
    matches!(what, Said::Item(Item::Device(_)))
}

fn devices(said: &[Said]) -> usize {
    said.iter().filter(|what| is_device(what)).count()
}

fn pairs(said: &[Said]) -> usize {
    let pair = |what: &&Said| matches!(what, Said::Item(Item::Pair(_)));
    said.iter().filter(pair).count()
}

#[tokio::test]
async fn a_pair_is_said_once_behind_all_its_packets_that_were_there() {
    let mut bench = Bench::new();
    let out: Vec<_> = (1..=8).map(|n| udp("10.7.0.1", "10.7.0.2", n)).collect();
    let back = udp("10.7.0.2", "10.7.0.1", 9);
    for packet in &out {
        assert!(bench.frame(packet));
    }
    bench.far.send(&[&back]);
    let said = bench.said().await;
    // They were read in turns of so many.
    let mut packets = Vec::new();
    let mut pairs = 0;
    for what in &said {
        match what {
            Said::Packets(more) => packets.extend(more.clone()),
            Said::Item(Item::Pair(pair)) => {
                let (own, other) = ("10.7.0.1".parse().unwrap(), "10.7.0.2".parse().unwrap());
                assert_eq!(Some(*pair), Pair::new(own, other));
                pairs += 1;
            }
            Said::Item(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(packets, out);
    assert!(matches!(said[0], Said::Packets(_)), "{said:?}");
    assert!(
        matches!(said.last(), Some(Said::Item(Item::Pair(_)))),
        "{said:?}"
    );
    assert!((1..=3).contains(&pairs), "{pairs} in {said:?}");
    let mut got = [0; 2000];
    let len = rustix::io::read(&bench.host, &mut got[..]).unwrap();
    assert_eq!(got[Vnet::LEN..len], back);
}

#[tokio::test]
async fn a_device_is_read_again_here_when_the_member_with_the_last_flow_leaves() {
    let mut bench = Bench::new();
    // From its next turn on the pump leaves the device to the other process.
    bench.far.send(&[&udp("10.7.0.2", "10.7.0.1", 9)]);
    settle(&mut bench.pump).await;
    let mut without = config();
    without.members.remove(&label("b"));
    bench.pump.configure(&without);
    let frame = [&[0; Vnet::LEN][..], &udp("10.7.0.1", "10.7.0.2", 9)].concat();
    rustix::io::write(&bench.host, &frame).unwrap();
    settle(&mut bench.pump).await;
    assert_eq!(bench.pump.counters().dropped(Dropped::NoOwner), 1);
}

#[tokio::test]
async fn pairs_are_taken_back_also_where_the_socket_was_full_when_the_policy_changed() {
    let mut bench = Bench::new();
    assert!(bench.frame(&udp("10.7.0.1", "10.7.0.2", 1)));
    assert_eq!(pairs(&bench.said().await), 1);
    bench.fill().await;
    bench.pump.configure(&denied());
    let before = bench.said().await;
    // There is room again, and nothing else happens.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let all = [before, bench.said().await].concat();
    assert_eq!(devices(&all), 1);
    let device = all.iter().position(is_device).unwrap();
    assert_eq!(pairs(&all[device..]), 0);
}

#[tokio::test]
async fn what_is_taken_back_is_heard_at_once_however_full_the_socket_is() {
    let mut bench = Bench::new();
    bench.fill().await;
    assert!(!is_cut(&bench.line));
    bench.pump.configure(&denied());
    assert!(is_cut(&bench.line));
    // What is said from then on holds with the line that comes next.
    let mut batch = Batch::new(Framing::Record);
    let next = || match bench.far.0.try_recv_with(&mut batch).ok()? {
        (Received::Item(Item::Device(_)), [_, line]) => Some(line),
        _ => Some(None),
    };
    assert_eq!(std::iter::from_fn(next).flatten().count(), 0);
    tokio::time::sleep(Duration::from_millis(150)).await;
    settle(&mut bench.pump).await;
    let line = handed(&bench.far)[1].take().unwrap();
    assert!(!is_cut(&line));
    // So is that the flow is no more.
    let mut without = config();
    without.members.remove(&label("b"));
    bench.pump.configure(&without);
    assert!(is_cut(&line));
}

#[tokio::test]
async fn no_pair_is_said_while_others_are_to_be_taken_back() {
    let (own, other) = ("10.7.0.1".parse().unwrap(), "10.7.0.2".parse().unwrap());
    let good = Said::Item(Item::Pair(Pair::new(own, other).unwrap()));
    comes_behind_what_is_taken_back(Bench::new(), config(), good).await;
}

#[tokio::test]
async fn nor_is_a_way_of_a_conversation() {
    let mut bench = Bench::new();
    bench.pump.configure(&udp_only());
    assert!(bench.frame(&[]) && bench.frame(&udp("10.7.0.1", "10.7.0.2", 9)));
    assert!(bench.said().await.contains(&talk(true)));
    comes_behind_what_is_taken_back(bench, udp_only(), talk(false)).await;
}

/// The socket is full, and a prefix is another member's now, so that pairs and talks must go; what is still good is met before there
/// is room, and said behind that.
async fn comes_behind_what_is_taken_back(mut bench: Bench, mut moved: Config, good: Said) {
    bench.fill().await;
    let net = "10.8.0.0/16".parse().unwrap();
    let prefixes =
        |c: &mut Config, of: &str| c.members.get_mut(&label(of)).unwrap().prefixes.clone();
    let left = prefixes(&mut moved, "b").into_iter().filter(|p| *p != net);
    moved.members.get_mut(&label("b")).unwrap().prefixes = left.collect();
    moved
        .members
        .get_mut(&label("c"))
        .unwrap()
        .prefixes
        .push(net);
    bench.pump.configure(&moved);
    let answer = |n| {
        let mut answer = udp("10.7.0.2", "10.7.0.1", n);
        answer[20..24].copy_from_slice(&[0, 9, 0, 7]);
        answer
    };
    let mut all = Vec::new();
    for n in 0..8 {
        bench.far.send(&[&answer(n)]);
        settle(&mut bench.pump).await;
    }
    all.extend(bench.said().await);
    tokio::time::sleep(Duration::from_millis(150)).await;
    bench.far.send(&[&answer(9)]);
    all.extend(bench.said().await);
    let matter = |what: &&Said| **what == good || is_device(what);
    let said: Vec<&Said> = all.iter().filter(matter).collect();
    assert!(said.len() == 2 && is_device(said[0]), "{said:?}");
}

#[tokio::test]
async fn a_flow_whose_pairs_cant_be_taken_back_is_closed() {
    let mut bench = Bench::new();
    bench.fill().await;
    let before = bench.pump.counters().flows_down;
    bench.pump.configure(&denied());
    let down = async {
        loop {
            let happened = bench.pump.turn().await.unwrap();
            for what in happened {
                if let Happening::Down(_, why) = what {
                    return why;
                }
            }
        }
    };
    let why = soon(down).await;
    assert!(why.text.contains("2 s"), "{why}");
    assert_eq!(bench.pump.counters().flows_down, before + 1);
}

/// The device is said again, on which flow, after another configuration: pairs of that one are forgotten.
async fn forgotten(change: impl FnOnce(&mut VpnConfig)) -> (bool, bool) {
    let mut bench = Bench::new();
    let (lane, c) = flow_with(true, QosSpec::RAW, 2, 1400);
    bench.pump.accepted(&label("c"), lane).ok().unwrap();
    let mut wire = wire_config();
    // Offered, and not taken yet.
    wire.members[2].offers = vec![OfferedNetwork {
        network: "172.16.0.0/12".into(),
        ..OfferedNetwork::default()
    }];
    let config = |wire: &VpnConfig| Config::try_from(wire.clone()).unwrap();
    bench.pump.configure(&config(&wire));
    bench.said().await;
    said(&c);
    change(&mut wire);
    bench.pump.configure(&config(&wire));
    let all = (bench.said().await, said(&c));
    (devices(&all.0) == 1, devices(&all.1) == 1)
}

fn stranger(prefix: &str) -> irm::Member {
    irm::Member {
        name: "d".into(),
        prefixes: vec![prefix.into()],
        ..irm::Member::default()
    }
}

#[tokio::test]
async fn pairs_are_forgotten_where_they_may_be_judged_otherwise_and_nowhere_else() {
    let rule = || irm::Filter {
        rules: vec![irm::PassRule {
            allow: true,
            protocol: 6,
            low: 0,
            high: 65_535,
        }],
    };
    let (none, b, c, both) = ((false, false), (true, false), (false, true), (true, true));
    let flip = |wire: &mut VpnConfig| wire.members[0].neighbours = vec!["b".into()];
    assert_eq!(forgotten(flip).await, none, "a link came up");
    let idle = |wire: &mut VpnConfig| {
        wire.traffic = Some(irm::VpnTraffic {
            idle_ms: Some(9000),
            ..irm::VpnTraffic::default()
        });
    };
    assert_eq!(forgotten(idle).await, none, "idle flows live longer");
    for (prefix, whose) in [
        ("10.7.0.9/32", none),
        ("fd07::9/128", none),
        ("10.8.7.0/24", b),
        ("10.0.0.0/8", both),
    ] {
        let join = |wire: &mut VpnConfig| wire.members.push(stranger(prefix));
        assert_eq!(forgotten(join).await, whose, "{prefix} is a stranger's");
    }
    let leave = |wire: &mut VpnConfig| drop(wire.members.remove(2));
    assert!(!forgotten(leave).await.0, "C left");
    let sends = |wire: &mut VpnConfig| {
        wire.filters = vec![rule()];
        wire.members[2].sends = 1;
    };
    assert_eq!(forgotten(sends).await, c, "a rule speaks of C");
    let route = |wire: &mut VpnConfig| wire.routes = vec!["10.8.0.0/24=c".into()];
    assert_eq!(forgotten(route).await, b, "a route inside B's prefix");
    let own = |wire: &mut VpnConfig| wire.own_prefixes.truncate(1);
    assert_eq!(forgotten(own).await, both, "an own prefix is gone");
    let accept = |wire: &mut VpnConfig| {
        wire.ways = Some(irm::VpnWays {
            accept: true,
            ..irm::VpnWays::default()
        });
    };
    assert_eq!(forgotten(accept).await, none, "a network nobody had");
    let classes = |wire: &mut VpnConfig| {
        wire.traffic = Some(irm::VpnTraffic {
            one_class: true,
            ..irm::VpnTraffic::default()
        });
    };
    assert_eq!(forgotten(classes).await, both, "other code points may go");
}

#[tokio::test]
async fn each_class_of_service_has_pairs_of_its_own_as_long_as_there_is_more_than_one() {
    let mut bench = Bench::new();
    let (lane, voice) = flow_with(true, QosSpec::VOICE, 2, 1400);
    bench.pump.accepted(&label("b"), lane).ok().unwrap();
    let points = |said: &[Said]| -> Vec<u64> {
        let device = |said: &Said| match said {
            Said::Item(Item::Device(device)) => Some(device.code_points),
            Said::Item(_) | Said::Packets(_) => None,
        };
        said.iter().filter_map(device).collect()
    };
    assert_eq!(points(&said(&voice)), [Class::Voice.code_points()]);
    let spoken = marked(udp("10.7.0.1", "10.7.0.2", 1), 46);
    let plain = udp("10.7.0.1", "10.7.0.2", 1);
    for (packet, flow) in [(&spoken, &voice), (&plain, &bench.far)] {
        assert!(bench.frame(packet));
        settle(&mut bench.pump).await;
        let heard = said(flow);
        assert_eq!(heard[0], Said::Packets(vec![packet.clone()]));
        assert_eq!(pairs(&heard), 1, "{heard:?}");
    }
    let mut wire = wire_config();
    wire.traffic = Some(irm::VpnTraffic {
        one_class: true,
        ..irm::VpnTraffic::default()
    });
    bench.pump.configure(&Config::try_from(wire).unwrap());
    assert_eq!(points(&said(&voice)), [0]);
    assert_eq!(points(&bench.said().await), [u64::MAX]);
    assert!(bench.frame(&spoken));
    let heard = bench.said().await;
    assert_eq!(heard[0], Said::Packets(vec![spoken]));
    assert_eq!((pairs(&heard), pairs(&said(&voice))), (1, 0));
    // What comes by the other flow, since the other side marks, is judged as before; a flow that comes now is told of nothing.
    let back = marked(udp("10.7.0.2", "10.7.0.1", 1), 46);
    voice.send(&[&back]);
    settle(&mut bench.pump).await;
    let (lane, another) = flow_with(true, QosSpec::VIDEO, 3, 1400);
    bench.pump.accepted(&label("b"), lane).ok().unwrap();
    another.send(&[&back]);
    settle(&mut bench.pump).await;
    assert_eq!((said(&voice), said(&another)), (vec![], vec![]));
    assert_eq!(bench.pump.counters().rx_packets, 2);
}

/// B may be sent UDP of any port and nothing else, and may only answer.
fn udp_only() -> Config {
    let rule = irm::PassRule {
        allow: true,
        protocol: 17,
        low: 0,
        high: 65_535,
    };
    let udp = irm::Filter { rules: vec![rule] };
    let mut filtered = config();
    filtered.members.get_mut(&label("b")).unwrap().filter = Both {
        sends: Some(Rules::from(udp)),
        takes: Some(Rules::default()),
    };
    filtered
}

/// One way of what [`udp`] makes between this host and B.
fn talk(out: bool) -> Said {
    let (own, other) = ("10.7.0.1".parse().unwrap(), "10.7.0.2".parse().unwrap());
    Said::Item(Item::Talk(Talk {
        out,
        protocol: 17,
        ports: (7, 9),
        pair: Pair::new(own, other).unwrap(),
    }))
}

#[tokio::test]
async fn under_rules_each_way_of_a_conversation_is_said_behind_its_packets_and_no_pair() {
    let mut bench = Bench::new();
    bench.pump.configure(&udp_only());
    bench.said().await;
    let out = udp("10.7.0.1", "10.7.0.2", 9);
    assert!(bench.frame(&out));
    // To a process that has not said that it takes Talks none is said.
    assert_eq!(bench.said().await, [Said::Packets(vec![out.clone()])]);
    assert!(bench.frame(&[]) && bench.frame(&out));
    let said = bench.said().await;
    assert_eq!(said, [Said::Packets(vec![out]), talk(true)]);
    // What answers goes by itself too, by the same ports.
    let mut answer = udp("10.7.0.2", "10.7.0.1", 7);
    answer[20..24].copy_from_slice(&[0, 9, 0, 7]);
    bench.far.send(&[&answer]);
    assert_eq!(bench.said().await, [talk(false)]);
    // What B may not begin is not said of it.
    bench.far.send(&[&udp("10.7.0.2", "10.7.0.1", 9)]);
    assert_eq!(bench.said().await, []);
    assert_eq!(bench.pump.counters().dropped(Dropped::FilterIn), 1);
    assert_eq!(bench.pump.counters().dropped(Dropped::MalformedOut), 0);
}

#[tokio::test]
async fn a_sign_of_what_the_filter_does_not_know_takes_all_back() {
    let mut bench = Bench::new();
    bench.pump.configure(&udp_only());
    assert!(bench.frame(&[]) && bench.frame(&udp("10.7.0.1", "10.7.0.2", 9)));
    assert!(bench.said().await.contains(&talk(true)));
    let Said::Item(Item::Talk(known)) = talk(true) else {
        panic!("a talk")
    };
    let unknown = Talk {
        ports: (9, 7),
        ..known
    };
    for (sign, answer) in [(known, 0), (unknown, 1)] {
        let sign = Item::Talk(sign);
        bench.far.0.try_send_item(&sign, None).unwrap();
        assert_eq!(devices(&bench.said().await), answer, "{sign:?}");
    }
}
