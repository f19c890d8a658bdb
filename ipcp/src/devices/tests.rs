//! A device, seen from its host and from the process; where nothing is said of one, it is a socket.

use std::net::Ipv4Addr;
use std::time::Duration;

use frames::FrameFd;
use proto::record::{FORGOTTEN, SIGN};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::*;

const ME: [u8; 4] = [10, 7, 0, 1];
const OTHER: [u8; 4] = [10, 7, 0, 2];
const THIRD: [u8; 4] = [10, 7, 0, 3];
const FLOW: FlowId = FlowId(1);
const NEXT: FlowId = FlowId(2);
const ID: Id = (0, 7);
const MARGIN: Margin = Margin { head: 28, tail: 16 };

struct Bench {
    io: Io,
    devices: Devices<FrameFd<OwnedFd>>,
    /// The host's end of the device.
    host: OwnedFd,
    now: Instant,
}

/// A device that was handed over with two flows.
fn bench() -> Bench {
    let (device, host) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    let (mut io, mut devices) = (Io::new().unwrap(), Devices::default());
    let open = || Ok(Some(FrameFd::new(device)));
    devices
        .bind(&mut io, (FLOW, 1400), (ID, u64::MAX), open)
        .unwrap();
    let again = || panic!("it is known");
    devices
        .bind(&mut io, (NEXT, 1400), (ID, u64::MAX), again)
        .unwrap();
    Bench {
        io,
        devices,
        host,
        now: Instant::now(),
    }
}

fn packet(src: [u8; 4], dst: [u8; 4], len: u16) -> Vec<u8> {
    let mut out = vec![0; len.into()];
    out[0] = 0x45;
    out[2..4].copy_from_slice(&len.to_be_bytes());
    out[12..16].copy_from_slice(&src);
    out[16..20].copy_from_slice(&dst);
    out
}

impl Bench {
    fn talk(&mut self, flow: FlowId, talk: Talk) -> bool {
        self.devices.talk(&mut self.io, flow, talk, self.now)
    }

    /// What comes of packets that the host sends.
    fn send(&mut self, packets: &[Vec<u8>]) -> Vec<(bool, FlowId, Vec<Vec<u8>>)> {
        self.send_with(packets, |_| None)
    }

    /// The same, where flows have this room each time that it is asked.
    fn send_with(
        &mut self,
        packets: &[Vec<u8>],
        room: impl Fn(FlowId) -> Option<usize>,
    ) -> Vec<(bool, FlowId, Vec<Vec<u8>>)> {
        for packet in packets {
            rustix::io::write(&self.host, packet).unwrap();
        }
        let reads = std::iter::from_fn(|| {
            let Self { io, now, .. } = self;
            self.devices
                .read(io, (ID, Look::Whole, *now), |_| MARGIN, &room)
        });
        let said = |read| match read {
            Read::Sdus(flow, batch) => (true, flow, batch.iter().map(<[u8]>::to_vec).collect()),
            Read::Frame(flow, packet) => (false, flow, vec![packet]),
        };
        reads.map(said).collect()
    }

    /// What the host gets of SDUs of a flow, and what is the user's.
    fn arrive(&mut self, flow: FlowId, sdus: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut batch = Batch::new(Framing::Record);
        for sdu in sdus {
            batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
        }
        let left = self.devices.write(&mut self.io, (flow, self.now), batch);
        let left = left.map(|l| l.iter().map(<[u8]>::to_vec).collect());
        let mut got = Vec::new();
        let mut buf = [0; 2000];
        while let Ok(len) = rustix::io::read(&self.host, &mut buf[..]) {
            got.push(buf[..len].to_vec());
        }
        (got, left.unwrap_or_default())
    }

    fn pair(&mut self, flow: FlowId, other: [u8; 4]) {
        let pair = Pair::V4(ME, other);
        assert!(self.devices.pair(&mut self.io, flow, pair, self.now));
    }
}

#[test]
fn only_what_a_pair_speaks_of_goes_by_itself_and_the_rest_is_the_users() {
    let mut bench = bench();
    bench.pair(NEXT, OTHER);
    let (known, back) = (packet(ME, OTHER, 60), packet(OTHER, ME, 60));
    let (unknown, large) = (packet(ME, THIRD, 60), packet(ME, OTHER, 1401));
    let junk = b"\x45junk".to_vec();
    let sent = [&known, &known, &unknown, &back, &large, &junk].map(Vec::clone);
    let said = bench.send(&sent);
    let users = [unknown, back, large, junk].map(|packet| (false, FLOW, vec![packet]));
    assert_eq!(said[0], (true, NEXT, vec![known.clone(), known]));
    assert_eq!(said[1..], users);
    assert_eq!(bench.devices.news(NEXT).unwrap().tx_packets, 2);
}

#[test]
fn what_waits_for_a_slow_link_holds_no_other_up_and_is_not_overtaken() {
    let mut bench = bench();
    bench.pair(FLOW, OTHER);
    bench.pair(NEXT, THIRD);
    let numbered = |n| {
        let mut packet = packet(ME, OTHER, 100);
        packet[30] = n;
        packet
    };
    let numbers = |said: Vec<(bool, FlowId, Vec<Vec<u8>>)>| -> Vec<u8> {
        let all = said.iter().flat_map(|(_, _, packets)| packets);
        all.map(|packet| packet[30]).collect()
    };
    bench.devices.set_slow(FLOW, true);
    let other = packet(ME, THIRD, 60);
    let sent = [numbered(1), numbered(2), other.clone(), numbered(3)];
    let full = |flow| (flow == FLOW).then_some(0);
    let said = bench.send_with(&sent, full);
    assert_eq!(said, [(true, NEXT, vec![other])]);
    assert!(bench.devices.waits(ID));
    // Who is slow no longer goes past nothing that waits.
    bench.devices.set_slow(FLOW, false);
    assert_eq!(numbers(bench.send_with(&[numbered(4)], full)), []);
    // What its user writes is one of them, but nothing that went by itself.
    let written = |n| Batch::of(&numbered(n)).unwrap();
    assert!(bench.devices.wait(FLOW, written(5), bench.now).is_none());
    assert!(bench.devices.wait(NEXT, written(0), bench.now).is_some());
    assert_eq!(numbers(bench.send(&[])), [1, 2, 3, 4, 5]);
    bench.devices.set_slow(FLOW, false);
    assert!(!bench.devices.waits(ID));
    assert_eq!(numbers(bench.send_with(&[numbered(6)], full)), [6]);
    assert!(bench.devices.wait(FLOW, written(0), bench.now).is_some());
    assert_eq!(bench.devices.news(FLOW).unwrap().tx_packets, 5);
    // As much as there is room for, and one packet in any case.
    bench.devices.set_slow(FLOW, true);
    let sent = [7, 8, 9].map(numbered);
    let (now, io) = (bench.now, &mut bench.io);
    for packet in &sent {
        rustix::io::write(&bench.host, packet).unwrap();
    }
    let mut look = |look, bytes| {
        let room = |_| Some(bytes);
        bench.devices.read(io, (ID, look, now), |_| MARGIN, room)
    };
    assert!(look(Look::Waiting, 101).is_none(), "nothing waits yet");
    let Some(Read::Sdus(_, batch)) = look(Look::Whole, 101) else {
        panic!("nothing went");
    };
    assert_eq!(batch.count(), 2);
    rustix::io::write(&bench.host, &numbered(10)).unwrap();
    let Some(Read::Sdus(_, batch)) = look(Look::Waiting, usize::MAX) else {
        panic!("nothing went");
    };
    let left = batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(left, [numbered(9)], "what the device has is left alone");
    assert!(look(Look::Whole, 0).is_none());
    bench.devices.unbind(io, FLOW);
    assert_eq!(io.counters.get("drop.device_silent"), 1);
}

#[test]
fn frames_of_a_device_that_its_user_keeps_wait_for_a_slow_link_and_else_pass() {
    let (mut io, mut devices) = (Io::new().unwrap(), Devices::<Tun>::default());
    let now = Instant::now();
    for flow in [FLOW, NEXT] {
        let bound = (ID, u64::MAX);
        devices
            .bind(&mut io, (flow, 1400), bound, || Ok(None))
            .unwrap();
    }
    assert_eq!((devices.descriptors(), devices.offloads().count()), (0, 0));
    let frame = |n: u8| [&[n; 14][..], &packet(ME, OTHER, 60)].concat();
    let sdus = |n| Batch::of(&frame(n)).unwrap();
    assert!(devices.wait(FLOW, sdus(1), now).is_some());
    devices.set_slow(FLOW, true);
    assert!(devices.wait(FLOW, sdus(1), now).is_none());
    assert!(devices.wait(FLOW, sdus(2), now).is_none());
    assert!(devices.wait(NEXT, sdus(3), now).is_some());
    assert_eq!(devices.waiting().collect::<Vec<_>>(), [ID]);
    let mut look = |devices: &mut Devices<Tun>, room| {
        let read = devices.read(&mut io, (ID, Look::Whole, now), |_| MARGIN, |_| Some(room));
        read.map(|read| match read {
            Read::Sdus(flow, batch) => (flow, batch.iter().map(|frame| frame[0]).collect()),
            Read::Frame(..) => panic!("nothing was handed over"),
        })
    };
    assert_eq!(look(&mut devices, 0), None);
    assert_eq!(look(&mut devices, 1), Some((FLOW, vec![1])));
    // Nobody is told what it has written itself.
    assert!(!devices.begins_to_move(FLOW));
    let arrived = devices.write(&mut Io::new().unwrap(), (FLOW, now), sdus(4));
    assert_eq!(arrived.map(|batch| batch.count()), Some(1));
    devices.set_slow(FLOW, false);
    assert!(devices.wait(FLOW, sdus(5), now).is_none());
    assert_eq!(look(&mut devices, 1000), Some((FLOW, vec![2, 5])));
    devices.set_slow(FLOW, false);
    assert!(devices.wait(FLOW, sdus(6), now).is_some());
    let mut io = Io::new().unwrap();
    devices.unbind(&mut io, FLOW);
    devices.unbind(&mut io, NEXT);
    assert!(devices.devices.is_empty() && devices.closed.is_empty());
}

#[test]
fn what_opens_a_connection_or_has_another_code_point_is_the_users() {
    let mut bench = bench();
    let (io, again) = (&mut bench.io, || panic!("it is known"));
    let bound = (ID, !(1 << 46));
    bench.devices.bind(io, (NEXT, 1400), bound, again).unwrap();
    bench.pair(NEXT, OTHER);
    let tcp = |src, dst, flags: u8| {
        let mut packet = packet(src, dst, 60);
        (packet[9], packet[20 + 13]) = (6, flags);
        packet
    };
    let (syn, data) = (tcp(ME, OTHER, 0x02), tcp(ME, OTHER, 0x10));
    let mut voice = data.clone();
    voice[1] = 46 << 2 | 1;
    let said = bench.send(&[syn.clone(), voice.clone(), data.clone()]);
    let users = [syn, voice].map(|packet| (false, FLOW, vec![packet]));
    assert_eq!(said[..2], users);
    assert_eq!(said[2], (true, NEXT, vec![data]));
    let (answer, data) = (tcp(OTHER, ME, 0x12), tcp(OTHER, ME, 0x10));
    let (got, left) = bench.arrive(NEXT, &[answer.clone(), data.clone()]);
    assert_eq!((got, left), (vec![data], vec![answer]));
}

#[test]
fn two_addresses_have_a_flow_for_each_set_of_code_points() {
    let mut bench = bench();
    let voice = 1 << 46;
    let io = &mut bench.io;
    for (flow, points) in [(FLOW, !voice), (NEXT, voice)] {
        let again = || panic!("it is known");
        let bound = (ID, points);
        bench.devices.bind(io, (flow, 1400), bound, again).unwrap();
    }
    bench.pair(FLOW, OTHER);
    bench.pair(NEXT, OTHER);
    let marked = |mut packet: Vec<u8>| {
        packet[1] = 46 << 2;
        packet
    };
    let (plain, spoken) = (packet(ME, OTHER, 60), marked(packet(ME, OTHER, 61)));
    let said = bench.send(&[plain.clone(), spoken.clone(), plain.clone()]);
    let each = [(FLOW, &plain), (NEXT, &spoken), (FLOW, &plain)];
    let each = each.map(|(flow, packet)| (true, flow, vec![packet.clone()]));
    assert_eq!(said, each);
    // Whatever the other side marks, it may come by either.
    let back = [packet(OTHER, ME, 60), marked(packet(OTHER, ME, 60))];
    for flow in [FLOW, NEXT] {
        assert_eq!(bench.arrive(flow, &back), (back.to_vec(), vec![]));
    }
    // One is said with others: nothing that was said of it holds.
    let again = || panic!("it is known");
    let io = &mut bench.io;
    bench
        .devices
        .bind(io, (NEXT, 1400), (ID, 1 << 34), again)
        .unwrap();
    let said = bench.send(&[spoken.clone(), plain.clone()]);
    assert_eq!(said[0], (false, FLOW, vec![spoken.clone()]));
    assert_eq!(bench.arrive(NEXT, &back), (vec![], back.to_vec()));
    let again = || panic!("it is known");
    let bound = (ID, voice);
    let io = &mut bench.io;
    bench.devices.bind(io, (NEXT, 1400), bound, again).unwrap();
    bench.pair(NEXT, OTHER);
    assert_eq!(bench.send(std::slice::from_ref(&spoken))[0], each[1]);
    // One is said again, or gone: the other stays.
    let again = || panic!("it is known");
    let bound = (ID, voice);
    let io = &mut bench.io;
    bench.devices.bind(io, (NEXT, 1400), bound, again).unwrap();
    let said = bench.send(&[spoken.clone(), plain.clone()]);
    assert_eq!(said[0], (false, FLOW, vec![spoken.clone()]));
    assert_eq!(said[1], (true, FLOW, vec![plain.clone()]));
    bench.devices.unbind(&mut bench.io, NEXT);
    let said = bench.send(&[spoken, plain]);
    assert_eq!(
        said.iter().map(|said| said.0).collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn a_flow_writes_to_the_device_only_from_the_other_address_of_its_own_pairs() {
    let mut bench = bench();
    bench.pair(FLOW, OTHER);
    bench.pair(NEXT, THIRD);
    let good = packet(OTHER, ME, 60);
    let others = [
        packet(THIRD, ME, 60),
        packet(OTHER, THIRD, 60),
        packet(ME, OTHER, 60),
        b"\x45junk".to_vec(),
    ];
    let all = [&others[..2], std::slice::from_ref(&good), &others[2..]].concat();
    assert_eq!(bench.arrive(FLOW, &all), (vec![good], others.to_vec()));
    let moved = bench.devices.news(FLOW).unwrap();
    assert_eq!((moved.rx_packets, moved.rx_bytes), (1, 60));
}

#[test]
fn what_was_said_of_a_flow_ends_with_it_or_when_its_device_is_said_again() {
    let mut bench = bench();
    let out = packet(ME, OTHER, 60);
    let by_itself = |said: &[(bool, FlowId, Vec<Vec<u8>>)]| said[0].0;
    bench.pair(NEXT, OTHER);
    assert!(by_itself(&bench.send(std::slice::from_ref(&out))));
    let again = || panic!("it is known");
    let io = &mut bench.io;
    bench
        .devices
        .bind(io, (NEXT, 1400), (ID, u64::MAX), again)
        .unwrap();
    assert!(!by_itself(&bench.send(std::slice::from_ref(&out))));
    bench.pair(NEXT, OTHER);
    assert!(by_itself(&bench.send(std::slice::from_ref(&out))));
    bench.devices.unbind(&mut bench.io, NEXT);
    assert!(!by_itself(&bench.send(std::slice::from_ref(&out))));
    bench.devices.unbind(&mut bench.io, FLOW);
    assert!(bench.devices.keys.is_empty() && bench.devices.devices.is_empty());
    assert!(bench.send(&[]).is_empty());
    let pair = Pair::V4(ME, OTHER);
    assert!(!bench.devices.pair(&mut bench.io, FLOW, pair, bench.now));
    // Nobody holds the device any more.
    assert!(rustix::io::write(&bench.host, &out).is_err());
}

#[test]
fn who_speaks_of_anothers_device_opens_one_of_his_own() {
    let mut bench = bench();
    let (other_uid, third) = ((1, ID.1), FlowId(3));
    let no = || Err(io::ErrorKind::InvalidInput.into());
    let io = &mut bench.io;
    assert!(
        bench
            .devices
            .bind(io, (third, 1400), (other_uid, u64::MAX), no)
            .is_err()
    );
    let pair = Pair::V4(ME, OTHER);
    assert!(!bench.devices.pair(&mut bench.io, third, pair, bench.now));
}

#[test]
fn who_says_more_pairs_than_its_flows_share_loses_its_own_idle_ones_only() {
    let mut bench = bench();
    bench.pair(NEXT, OTHER);
    let own = [10, 8, 0, 1];
    bench.pair(FLOW, own);
    let all = [packet(ME, own, 60), packet(ME, OTHER, 60)];
    for n in 0..2 * known::PAIRS as u32 {
        bench.pair(FLOW, Ipv4Addr::from_bits(n).octets());
    }
    assert!(bench.io.counters.get("limit.device_pairs") >= known::PAIRS as u64);
    bench.now += Duration::from_secs(1);
    bench.pair(FLOW, THIRD);
    let said = bench.send(&all);
    assert_eq!(said[0], (false, FLOW, vec![all[0].clone()]));
    assert_eq!(said[1], (true, NEXT, vec![all[1].clone()]));
}

/// A packet of TCP between port 40000 here and 443 there.
fn tcp(out: bool, flags: u8) -> Vec<u8> {
    let (src, dst) = if out { (ME, OTHER) } else { (OTHER, ME) };
    let (near, far) = if out {
        (40_000_u16, 443_u16)
    } else {
        (443, 40_000)
    };
    let mut packet = packet(src, dst, 60);
    (packet[9], packet[20 + 13]) = (6, flags);
    packet[20..22].copy_from_slice(&near.to_be_bytes());
    packet[22..24].copy_from_slice(&far.to_be_bytes());
    packet
}

fn talk(out: bool) -> Talk {
    Talk {
        out,
        protocol: 6,
        ports: (40_000, 443),
        pair: Pair::V4(ME, OTHER),
    }
}

const ACK: u8 = 0x10;

#[test]
fn one_way_of_one_conversation_goes_by_itself_and_nothing_else_between_the_two() {
    let mut bench = bench();
    assert!(bench.talk(NEXT, talk(true)));
    let known = tcp(true, ACK);
    let (mut port, mut protocol, mut fragment) = (known.clone(), known.clone(), known.clone());
    port[23] += 1;
    protocol[9] = 17;
    fragment[6] = 0x20;
    let syn = tcp(true, 0x02);
    let others = [port, protocol, fragment, syn];
    let said = bench.send(&[std::slice::from_ref(&known), &others[..3]].concat());
    assert_eq!(said[0], (true, NEXT, vec![known.clone()]));
    assert_eq!(
        said[1..],
        others[..3]
            .iter()
            .map(|p| (false, FLOW, vec![p.clone()]))
            .collect::<Vec<_>>()
    );
    // The other way was not said.
    let back = tcp(false, ACK);
    assert_eq!(
        bench.arrive(NEXT, std::slice::from_ref(&back)),
        (vec![], vec![back.clone()])
    );
    assert!(bench.talk(NEXT, talk(false)));
    assert_eq!(
        bench.arrive(NEXT, std::slice::from_ref(&back)),
        (vec![back.clone()], vec![])
    );
    // Nor is it another flow's.
    assert_eq!(
        bench.arrive(FLOW, std::slice::from_ref(&back)),
        (vec![], vec![back])
    );
}

#[test]
fn what_ends_a_conversation_is_the_users_and_so_is_what_comes_behind_it() {
    for flags in [0x11, 0x04, 0x02] {
        let mut bench = bench();
        assert!(bench.talk(NEXT, talk(true)));
        let all = [tcp(true, ACK), tcp(true, flags), tcp(true, ACK)];
        let by_itself: Vec<bool> = bench.send(&all).iter().map(|said| said.0).collect();
        assert_eq!(by_itself, [true, false, false], "{flags:#x}");
    }
}

#[test]
fn a_conversation_that_goes_on_is_said_to_the_user_and_one_that_rests_is_forgotten() {
    let mut bench = bench();
    let all = [tcp(true, ACK)];
    assert!(bench.talk(NEXT, talk(true)));
    for _ in 0..5 {
        bench.now += SIGN - Duration::from_millis(1);
        assert!(bench.send(&all)[0].0);
        assert!(bench.devices.signs(NEXT).is_empty());
        bench.now += Duration::from_millis(1);
        assert!(bench.send(&all)[0].0);
        assert_eq!(bench.devices.signs(FLOW), [(NEXT, talk(true))]);
        bench.devices.told(NEXT, &talk(true), bench.now);
        assert!(bench.send(&all)[0].0);
        assert!(bench.devices.signs(NEXT).is_empty());
    }
    bench.now += FORGOTTEN;
    assert!(!bench.send(&all)[0].0);
    // Nor does it come back by itself.
    assert!(!bench.send(&all)[0].0);
    assert!(bench.devices.signs(NEXT).is_empty());
}

#[test]
fn a_conversation_of_which_the_user_cant_hear_goes_on_until_it_would_be_forgotten() {
    let mut bench = bench();
    let all = [tcp(true, ACK)];
    assert!(bench.talk(NEXT, talk(true)));
    let start = bench.now;
    bench.now += SIGN;
    // It is tried once a second, not with each packet.
    for second in 0..(FORGOTTEN - SIGN).as_secs() {
        bench.now = start + SIGN + Duration::from_secs(second);
        for _ in 0..3 {
            assert!(bench.send(&all)[0].0);
        }
        assert_eq!(bench.devices.signs(NEXT), [(NEXT, talk(true))]);
    }
    bench.now = start + FORGOTTEN;
    assert!(!bench.send(&all)[0].0);
}

#[test]
fn what_a_member_sends_in_the_name_of_another_changes_nothing_of_its_conversations() {
    let mut bench = bench();
    let back = [tcp(false, ACK)];
    for flags in [ACK, 0x11, 0x04, 0x02] {
        assert!(bench.talk(NEXT, talk(false)));
        let feigned = [tcp(false, flags)];
        let left = (vec![], feigned.to_vec());
        assert_eq!(bench.arrive(FLOW, &feigned), left, "{flags:#x}");
        assert_eq!(bench.arrive(NEXT, &back), (back.to_vec(), vec![]));
        // Nor does it keep one alive.
        bench.now += SIGN;
        assert_eq!(bench.arrive(FLOW, &feigned), left, "{flags:#x}");
        assert!(bench.devices.signs(NEXT).is_empty());
    }
}

#[test]
fn conversations_end_with_their_flow_or_when_its_device_is_said_again() {
    let mut bench = bench();
    let all = [tcp(true, ACK)];
    assert!(bench.talk(NEXT, talk(true)));
    assert!(bench.send(&all)[0].0);
    let (io, again) = (&mut bench.io, || panic!("it is known"));
    bench
        .devices
        .bind(io, (NEXT, 1400), (ID, u64::MAX), again)
        .unwrap();
    assert!(!bench.send(&all)[0].0);
    assert!(bench.talk(NEXT, talk(true)));
    assert!(bench.send(&all)[0].0);
    bench.devices.unbind(&mut bench.io, NEXT);
    assert!(!bench.send(&all)[0].0);
    assert!(!bench.talk(NEXT, talk(true)));
}

#[test]
fn conversations_of_a_flow_are_bounded_and_the_dead_take_no_place() {
    let mut bench = bench();
    assert!(bench.talk(NEXT, talk(true)));
    let of_port = |n: usize| Talk {
        ports: (n as u16, 1),
        ..talk(true)
    };
    for n in 0..known::TALKS {
        assert!(bench.talk(FLOW, of_port(n)));
    }
    let held = |bench: &mut Bench| bench.devices.known_of(FLOW).unwrap().talks();
    assert_eq!(held(&mut bench), known::TALKS + 1);
    // One more is not taken, and costs no other its place.
    assert!(bench.talk(FLOW, of_port(known::TALKS)));
    assert_eq!(held(&mut bench), known::TALKS + 1);
    assert_eq!(bench.io.counters.get("limit.device_talks"), 1);
    assert!(bench.send(&[tcp(true, ACK)])[0].0);
    bench.now += FORGOTTEN;
    assert!(bench.talk(FLOW, of_port(7)));
    assert_eq!(held(&mut bench), 1);
}

#[test]
fn an_offload_that_has_ended_stays_so_when_its_device_comes_back() {
    let (mut io, mut devices) = (Io::new().unwrap(), Devices::default());
    let said = Said {
        id: ID.1,
        tcp: true,
        udp: true,
        frames: false,
        code_points: u64::MAX,
    };
    let first = devices.as_it_was(ID.0, said);
    assert_eq!(first, said);
    for id in [ID.1, 8, 9] {
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let worn = Offloads {
            tcp: false,
            udp: true,
        };
        let open = || Ok(Some(Tun::new(end.into(), worn)));
        devices
            .bind(&mut io, (FLOW, 1400), ((ID.0, id), u64::MAX), open)
            .unwrap();
        devices.unbind(&mut io, FLOW);
    }
    let again = devices.as_it_was(ID.0, said);
    assert_eq!(again, Said { tcp: false, ..said });
    // Another user's, and one that was never here, are as they say.
    assert_eq!(devices.as_it_was(1, said), said);
    let new = Said { id: 10, ..said };
    assert_eq!(devices.as_it_was(ID.0, new), new);
    assert_eq!(devices.closed.len(), 3);
}

#[test]
fn what_is_no_tun_device_is_refused() {
    let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
    let said = Said {
        id: 7,
        tcp: true,
        udp: true,
        frames: false,
        code_points: u64::MAX,
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    for fd in [None, Some(a.into()), Some(null.into())] {
        assert!(open(said, fd).is_err());
    }
}
