//! The pump of an Ethernet segment, seen from the host's end of its device and from the other members.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    dead_code,
    reason = "it uses a part of what the tests of the pump share"
)]

mod support;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use frames::FrameFd;
use libflow::port::Received;
use proto::record::{Device, Item};
use proto::{Batch, Code, Framing, QosSpec, Reason, irm};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use support::{Far, flow, flow_with, label, wire_config};
use vpn::config::Config;
use vpn::counters::Dropped;
use vpn::flow::Lane;
use vpn::prefix::PeerId;
use vpn::pump::{Happening, Pump};

/// A pump, and the host's end of its device.
struct Bench {
    pump: Pump<FrameFd<OwnedFd>, Lane>,
    host: OwnedFd,
}

const ALL: [u8; 6] = [0xff; 6];
const HOST: [u8; 6] = [0x52, 0, 0, 0, 0, 1];
const AT_B: [u8; 6] = [0x52, 0, 0, 0, 0, 2];
const AT_C: [u8; 6] = [0x52, 0, 0, 0, 0, 3];

fn frame(to: [u8; 6], from: [u8; 6], text: &str) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb5], text.as_bytes()].concat()
}

fn config(members: usize) -> Config {
    let mut wire = irm::VpnConfig {
        tap: true,
        ..wire_config()
    };
    let more = (3..members).map(|n| irm::Member {
        name: format!("m{n}"),
        ..Default::default()
    });
    wire.members.extend(more);
    Config::try_from(wire).unwrap()
}

impl Bench {
    fn new(members: usize) -> Self {
        let (unix, one) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let pair = rustix::net::socketpair(unix, one, SocketFlags::NONBLOCK, None);
        let (device, host) = pair.unwrap();
        let mut pump = Pump::new(FrameFd::new(device)).unwrap();
        pump.configure(&config(members));
        Self { pump, host }
    }

    /// With flows to `b` and `c`.
    fn joined() -> (Self, Far, Far) {
        let mut bench = Self::new(3);
        let [b, c] = ["b", "c"].map(|peer| {
            let (lane, far) = flow(1, 1400);
            bench.pump.accepted(&label(peer), lane).ok().unwrap();
            far
        });
        (bench, b, c)
    }

    fn write(&self, frame: &[u8]) {
        rustix::io::write(&self.host, frame).unwrap();
    }

    /// What the host gets; `None` if nothing.
    fn read(&self) -> Option<Vec<u8>> {
        let mut buf = vec![0; 70_000];
        let len = rustix::io::read(&self.host, &mut buf[..]).ok()?;
        buf.truncate(len);
        Some(buf)
    }

    /// Lets the pump do all that is to be done; gives whom it called.
    async fn settle(&mut self) -> Vec<(PeerId, String)> {
        let mut all = Vec::new();
        while let Ok(turn) = tokio::time::timeout(Duration::from_millis(30), self.pump.turn()).await
        {
            all.extend(turn.unwrap());
        }
        let called = all.into_iter().filter_map(|h| match h {
            Happening::Dial(id) => Some((id, self.pump.name(id)?.to_string())),
            Happening::Mtu | Happening::State | Happening::Down(..) => None,
        });
        called.collect()
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.pump.counters().dropped(why)
    }

    fn macs(&self) -> Vec<usize> {
        self.pump.peers().map(|peer| peer.macs).collect()
    }
}

#[tokio::test]
async fn frames_go_to_who_is_known_and_to_all_else_and_never_from_member_to_member() {
    let (mut bench, b, c) = Bench::joined();
    let hello = frame(ALL, HOST, "who is there?");
    bench.write(&hello);
    bench.settle().await;
    assert_eq!(
        (b.packets(), c.packets()),
        (vec![hello.clone()], vec![hello])
    );
    let said = [
        frame(ALL, AT_B, "I am"),
        frame(AT_C, AT_B, "C, are you there?"),
    ];
    b.send(&[&said[0], &said[1], b"short", &frame(HOST, ALL, "nobody")]);
    bench.settle().await;
    assert_eq!([bench.read(), bench.read()], said.map(Some));
    assert_eq!((bench.read(), c.packets()), (None, vec![]));
    c.send(&[&frame(HOST, AT_C, "me too")]);
    bench.settle().await;
    b.send(&[&frame(AT_C, AT_B, "C?")]);
    bench.settle().await;
    assert_eq!(bench.read(), Some(frame(HOST, AT_C, "me too")));
    assert_eq!((bench.read(), c.packets()), (None, vec![]));
    let [to_b, to_c] = [AT_B, AT_C].map(|to| frame(to, HOST, "you alone"));
    bench.write(&to_b);
    bench.write(&to_c);
    bench.settle().await;
    assert_eq!((b.packets(), c.packets()), (vec![to_b], vec![to_c]));
    assert_eq!(bench.macs(), [1, 1]);
    let counts = [
        (Dropped::ShortFrame, 1),
        (Dropped::BadSource, 1),
        (Dropped::Elsewhere, 1),
        (Dropped::MalformedOut, 0),
    ];
    for (why, n) in counts {
        assert_eq!(bench.dropped(why), n, "{why:?}");
    }
    assert_eq!(bench.pump.counters().flooded, 1);
}

#[tokio::test]
async fn a_frame_that_a_flow_does_not_carry_is_dropped_and_the_others_pass() {
    let (mut bench, b, c) = Bench::joined();
    let most = frame(ALL, HOST, &"x".repeat(1400 - 14));
    bench.write(&[&most[..], b"y"].concat());
    bench.write(&most);
    bench.settle().await;
    assert_eq!((b.packets(), c.packets()), (vec![most.clone()], vec![most]));
    assert_eq!(bench.dropped(Dropped::TooBig), 2);
}

#[tokio::test]
async fn the_layers_process_is_told_of_each_flow_that_it_carries_frames_of_one_device() {
    let mut bench = Bench::new(3);
    let hears = |takes, peer: &str, bench: &mut Bench| {
        let (lane, far) = flow_with(takes, QosSpec::RAW, 1, 1400);
        bench.pump.accepted(&label(peer), lane).ok().unwrap();
        let mut batch = Batch::new(Framing::Record);
        (far.0.try_recv_with(&mut batch).ok(), far)
    };
    let said = ["b", "c"].map(|peer| match hears(true, peer, &mut bench).0 {
        Some((Received::Item(Item::Device(device)), [None, None])) => device,
        other => panic!("{other:?}"),
    });
    let id = said[0].id;
    let frames = Device {
        id,
        tcp: false,
        udp: false,
        frames: true,
        code_points: said[0].code_points,
    };
    assert_eq!(said, [frames; 2]);
    // One that knows none of frames ends the flow, and hears of none again.
    let (_, far) = hears(true, "c", &mut bench);
    let down = Reason::new(Code::PeerMisbehaved, "a field is malformed");
    far.0.try_send_item(&Item::Down(down), None).unwrap();
    bench.settle().await;
    assert!(hears(true, "c", &mut bench).0.is_none());
    // One that takes no devices hears of none.
    let (nothing, far) = hears(false, "b", &mut bench);
    assert!(nothing.is_none());
    bench.write(&frame(ALL, HOST, "x"));
    bench.settle().await;
    assert_eq!(far.packets(), [frame(ALL, HOST, "x")]);
}

#[tokio::test]
async fn what_was_learned_of_a_member_is_forgotten_with_its_flow_and_it_is_called_again() {
    let (mut bench, b, c) = Bench::joined();
    b.send(&[&frame(ALL, AT_B, "here")]);
    bench.settle().await;
    assert_eq!(bench.macs(), [1, 0]);
    let down = Item::Down(Reason::new(Code::Closed, "it went"));
    b.0.try_send_item(&down, None).unwrap();
    let called = bench.settle().await;
    assert_eq!((called.len(), called[0].1.as_str()), (1, "b"));
    assert_eq!(bench.macs(), [0, 0]);
    // Whoever has the address now may be behind any other.
    let lost = frame(AT_B, HOST, "where are you?");
    bench.write(&lost);
    bench.settle().await;
    assert_eq!(c.packets(), [lost]);
}

#[tokio::test]
async fn all_members_are_called_some_at_once_and_those_that_answer_not_again() {
    let mut bench = Bench::new(40);
    let alone = frame(ALL, HOST, "is nobody there?");
    bench.write(&alone);
    let (begin, mut times) = (Instant::now(), HashMap::new());
    let mut called = bench.settle().await;
    assert_eq!((called.len(), bench.dropped(Dropped::NobodyThere)), (16, 1));
    // `b` answers; the others can't be reached.
    let (lane, _far) = flow(1, 1400);
    let mut lane = Some(lane);
    while times.get("c").is_none_or(|n| *n < 2) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{times:?}");
        for (id, name) in called {
            match name.as_str() {
                "b" => bench.pump.dialled(id, lane.take().unwrap()),
                _ => bench
                    .pump
                    .dial_failed(id, Reason::new(Code::NotFound, "no such name")),
            }
            *times.entry(name).or_insert(0) += 1;
        }
        called = bench.settle().await;
    }
    assert_eq!((times.len(), times["b"]), (39, 1));
    assert!(times.values().all(|n| *n <= 3), "{times:?}");
}

#[tokio::test]
async fn one_that_was_no_member_for_a_moment_while_it_was_called_is_called_again() {
    let mut bench = Bench::new(3);
    let called = bench.settle().await;
    let (b, _) = called.iter().find(|(_, name)| name == "b").unwrap();
    let all = config(3);
    let mut without = all.clone();
    without.members.remove(&label("b"));
    bench.pump.configure(&without);
    bench.pump.dialled(*b, flow(1, 1400).0);
    bench.pump.configure(&all);
    // Not at once, since the call came to nothing.
    let (mut again, begin) = (Vec::new(), Instant::now());
    while again.is_empty() && begin.elapsed() < Duration::from_secs(5) {
        again = bench.settle().await;
    }
    assert!(again.iter().any(|(_, name)| name == "b"), "{again:?}");
}
