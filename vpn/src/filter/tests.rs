//! What passes a filter.

use std::net::IpAddr;
use std::time::Duration;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::rules::tests::rules;
use super::*;

const ME: [u8; 4] = [10, 7, 0, 1];
const PEER: [u8; 4] = [10, 7, 0, 2];
const ROUTER: [u8; 4] = [10, 7, 0, 9];
const ID: PeerId = PeerId(3);
const ALL: (bool, u32, u32, u32) = (true, 0, 0, 65_535);

#[derive(Clone, Copy)]
enum Flag {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

fn tcp(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16, flag: Flag) -> Vec<u8> {
    let step = PacketBuilder::ipv4(src, dst, 9).tcp(sport, dport, 1, 9);
    let step = match flag {
        Flag::Syn => step.syn(),
        Flag::SynAck => step.syn().ack(2),
        Flag::Ack => step.ack(2),
        Flag::Fin => step.fin().ack(2),
        Flag::Rst => step.rst(),
    };
    let mut out = Vec::new();
    step.write(&mut out, b"").unwrap();
    out
}

fn udp(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let step = PacketBuilder::ipv4(src, dst, 9).udp(sport, dport);
    step.write(&mut out, b"hello").unwrap();
    out
}

/// ICMP of this kind, with what is quoted.
fn icmp(src: [u8; 4], dst: [u8; 4], kind: u8, id: u16, quoted: &[u8]) -> Vec<u8> {
    let len = (28 + quoted.len()) as u16;
    let mut out = vec![0x45, 0];
    out.extend(len.to_be_bytes());
    out.extend([0, 1, 0, 0, 9, 1, 0, 0]);
    out.extend(src.iter().chain(&dst));
    out.extend([kind, 0, 0, 0]);
    out.extend(id.to_be_bytes());
    out.extend([0, 1]);
    out.extend(quoted);
    out
}

struct Bench {
    filter: Filter,
    now: Instant,
}

impl Bench {
    /// What this host may send, and what it may be sent.
    fn new(sends: Option<Rules>, takes: Option<Rules>) -> Self {
        let mut filter = Filter::default();
        filter.set(HashMap::from([(ID, Both { sends, takes })]));
        let now = Instant::now();
        Self { filter, now }
    }

    fn stopped(&mut self, way: Way, packet: &[u8]) -> Option<Stopped> {
        let ends = Ends::parse(packet).unwrap();
        self.filter.pass(self.now, (ID, way), packet, &ends).err()
    }

    fn pass(&mut self, way: Way, packet: &[u8]) -> bool {
        self.stopped(way, packet).is_none()
    }

    fn out(&mut self, packet: &[u8]) -> bool {
        self.pass(Way::Out, packet)
    }

    fn inward(&mut self, packet: &[u8]) -> bool {
        self.pass(Way::In, packet)
    }
}

fn web_only() -> Bench {
    let web = rules(&[(true, 6, 443, 443)]);
    Bench::new(Some(web), Some(Rules::default()))
}

#[test]
fn without_rules_everything_passes_and_nothing_is_kept() {
    let mut bench = Bench::new(None, None);
    assert!(bench.filter.is_open(ID));
    assert!(bench.inward(&udp(PEER, 1, ME, 2)) && bench.out(&udp(ME, 1, PEER, 2)));
    assert_eq!(bench.filter.conversations(), 0);
}

#[test]
fn one_way_is_allowed_with_its_answers_and_nothing_else() {
    let mut bench = web_only();
    assert!(!bench.filter.is_open(ID));
    assert!(
        !bench.inward(&tcp(PEER, 443, ME, 5000, Flag::SynAck)),
        "nobody asked"
    );
    assert!(bench.out(&tcp(ME, 5000, PEER, 443, Flag::Syn)));
    assert!(bench.inward(&tcp(PEER, 443, ME, 5000, Flag::SynAck)));
    assert!(bench.out(&tcp(ME, 5000, PEER, 443, Flag::Ack)));
    assert!(!bench.inward(&tcp(PEER, 443, ME, 5001, Flag::Ack)));
    assert!(!bench.inward(&tcp(PEER, 444, ME, 5000, Flag::Ack)));
    assert!(!bench.out(&tcp(ME, 5000, PEER, 80, Flag::Syn)));
    assert!(!bench.out(&udp(ME, 5000, PEER, 443)));
    assert!(!bench.out(&icmp(ME, PEER, 8, 7, b"")));
    // Under the name of the conversation it can't begin one of its own.
    assert!(!bench.inward(&tcp(PEER, 443, ME, 5000, Flag::Syn)));
    assert!(
        bench.inward(&tcp(PEER, 443, ME, 5000, Flag::Ack)),
        "the old one lives"
    );
}

#[test]
fn the_other_side_judges_the_same_packets_by_its_own_rules() {
    let web = rules(&[(true, 6, 443, 443)]);
    let mut bench = Bench::new(Some(Rules::default()), Some(web));
    assert!(!bench.out(&tcp(ME, 443, PEER, 5000, Flag::SynAck)));
    assert!(bench.inward(&tcp(PEER, 5000, ME, 443, Flag::Syn)));
    assert!(bench.out(&tcp(ME, 443, PEER, 5000, Flag::SynAck)));
    assert!(!bench.out(&tcp(ME, 443, PEER, 5000, Flag::Syn)));
    assert!(!bench.inward(&udp(PEER, 5000, ME, 443)));
}

#[test]
fn echoes_are_answered_only_if_asked_for() {
    let echo = rules(&[(true, 1, 0, 65_535)]);
    let mut bench = Bench::new(Some(echo), Some(Rules::default()));
    assert!(!bench.inward(&icmp(PEER, ME, 0, 7, b"")));
    assert!(bench.out(&icmp(ME, PEER, 8, 7, b"")));
    assert!(bench.inward(&icmp(PEER, ME, 0, 7, b"")));
    assert!(!bench.inward(&icmp(PEER, ME, 0, 8, b"")));
    assert!(!bench.inward(&icmp(PEER, ME, 8, 7, b"")), "it may not ask");
    assert!(bench.out(&icmp(ME, PEER, 8, 0, b"")) && bench.out(&icmp(ME, PEER, 8, 0, b"")));
    for asks in [8, 5] {
        assert!(
            !bench.inward(&icmp(PEER, ME, asks, 0, b"")),
            "{asks} by a number of 0"
        );
    }
    assert!(bench.inward(&icmp(PEER, ME, 0, 0, b"")));
    bench.now += Duration::from_secs(31);
    assert!(!bench.inward(&icmp(PEER, ME, 0, 7, b"")), "too late");
}

#[test]
fn errors_pass_that_are_about_a_conversation_also_from_routers_between_and_others_do_not() {
    let dns = rules(&[(true, 17, 53, 53)]);
    let mut bench = Bench::new(Some(dns), Some(Rules::default()));
    let asked = udp(ME, 5000, PEER, 53);
    assert!(!bench.inward(&icmp(ROUTER, ME, 3, 0, &asked)));
    assert!(bench.out(&asked));
    assert!(bench.inward(&icmp(PEER, ME, 3, 0, &asked)));
    assert!(bench.inward(&icmp(ROUTER, ME, 11, 0, &asked[..28])));
    assert!(
        !bench.inward(&icmp(PEER, ME, 3, 0, &asked[..22])),
        "it quotes too little"
    );
    assert!(!bench.inward(&icmp(PEER, ME, 3, 0, &udp(ME, 5001, PEER, 53))));
    assert!(
        !bench.inward(&icmp(PEER, ME, 3, 0, &udp(PEER, 53, ME, 5000))),
        "that was no question"
    );
    assert!(
        !bench.inward(&icmp(PEER, ME, 5, 0, &asked)),
        "a redirect is no error"
    );
    // And from this host, about what it was sent.
    let mut other = Bench::new(Some(Rules::default()), Some(rules(&[(true, 17, 53, 53)])));
    let question = udp(PEER, 5000, ME, 53);
    assert!(!other.out(&icmp(ME, PEER, 3, 0, &question)));
    assert!(other.inward(&question));
    assert!(other.out(&icmp(ME, PEER, 3, 0, &question)));
}

#[test]
fn later_fragments_pass_behind_their_first() {
    let mut bench = Bench::new(Some(rules(&[(true, 17, 53, 53)])), Some(Rules::default()));
    let piece = |id: u8, place: u16, to: u16| {
        let mut packet = udp(ME, 5000, PEER, to);
        packet[5] = id;
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet
    };
    assert!(!bench.out(&piece(1, 2, 53)));
    assert!(bench.out(&piece(1, 0x2000, 53)));
    assert!(bench.out(&piece(1, 0x2002, 53)) && bench.out(&piece(1, 4, 53)));
    assert!(!bench.out(&piece(2, 2, 53)));
    assert!(!bench.out(&piece(3, 0x2000, 54)) && !bench.out(&piece(3, 2, 54)));
}

/// A fragment of a packet of TCP (RFC 791): its number, its place in bytes, whether more follow, and what it holds.
fn v4_piece(id: u16, at: usize, more: bool, body: &[u8]) -> Vec<u8> {
    let place = (at / 8) as u16 | if more { 0x2000 } else { 0 };
    let mut out = vec![0x45, 0];
    out.extend((20 + body.len() as u16).to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(place.to_be_bytes());
    out.extend([9, 6, 0, 0]);
    out.extend(PEER.iter().chain(&ME));
    out.extend(body);
    out
}

/// The same of IPv6, behind headers that are not cut; `next`: what the body begins with.
fn v6_piece(next: u8, id: u16, at: usize, more: bool, body: &[u8]) -> Vec<u8> {
    let place = at as u16 | u16::from(more);
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((16 + body.len() as u16).to_be_bytes());
    out.extend([60, 9]);
    for end in [PEER, ME] {
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend(end);
    }
    out.extend([44, 0, 1, 4, 0, 0, 0, 0]);
    out.extend([next, 0]);
    out.extend(place.to_be_bytes());
    out.extend([0, 0]);
    out.extend(id.to_be_bytes());
    out.extend(body);
    out
}

/// The beginning of TCP from a port to another, with ACK.
fn segment(src: u16, dst: u16, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    out[..2].copy_from_slice(&src.to_be_bytes());
    out[2..4].copy_from_slice(&dst.to_be_bytes());
    if let Some(flags) = out.get_mut(13) {
        *flags = 0x10;
    }
    out
}

#[test]
fn no_later_fragment_passes_that_may_lie_over_ports_or_flags() {
    for v4 in [true, false] {
        let piece = |id, at, more, body: &[u8]| match v4 {
            true => v4_piece(id, at, more, body),
            false => v6_piece(TCP, id, at, more, body),
        };
        let takes = rules(&[(true, 6, 443, 443), (true, 17, 443, 443)]);
        let mut bench = Bench::new(Some(Rules::default()), Some(takes));
        assert!(bench.inward(&piece(7, 0, true, &segment(5000, 443, 24))));
        // Other flags: a connection that nobody has judged.
        let over = |more| piece(7, 8, more, &[0x22; 16]);
        for more in [true, false] {
            let stopped = bench.stopped(Way::In, &over(more));
            assert_eq!(stopped, Some(Stopped::Overlaps));
        }
        assert!(bench.inward(&piece(7, 24, true, &[0; 16])));
        assert!(bench.inward(&piece(7, 40, false, &[0; 16])));
        // Nor behind the short first fragment of another packet that bears the same number.
        let mut other = match v4 {
            true => v4_piece(8, 0, true, &segment(5000, 443, 8)),
            false => v6_piece(UDP, 8, 0, true, &segment(5000, 443, 8)),
        };
        if v4 {
            other[9] = UDP;
        }
        assert!(bench.inward(&other));
        assert!(!bench.inward(&piece(8, 8, false, &[0x22; 16])));
    }
}

#[test]
fn headers_that_are_cut_with_the_packet_are_not_passed() {
    let mut bench = Bench::new(Some(rules(&[ALL])), Some(rules(&[ALL])));
    // Options for the destination of 32 bytes, and TCP behind them, where a later fragment could lie over it.
    let mut body = vec![0; 32];
    body[..4].copy_from_slice(&[TCP, 3, 1, 28]);
    body.extend(segment(5000, 443, 24));
    assert!(!bench.inward(&v6_piece(60, 7, 0, true, &body)));
    assert!(
        bench.inward(&v6_piece(60, 7, 0, false, &body)),
        "it is whole"
    );
    // An error says what it is about far behind its beginning, and is never so long.
    let mut error = vec![1, 0, 0, 0, 0, 0, 0, 0];
    error.extend(v6_piece(TCP, 7, 0, false, &segment(5000, 443, 24)));
    assert!(bench.inward(&v6_piece(58, 7, 0, false, &error)));
    assert!(!bench.inward(&v6_piece(58, 7, 0, true, &error)));
}

#[test]
fn a_first_fragment_that_is_too_short_to_be_judged_does_not_pass() {
    let mut bench = Bench::new(Some(rules(&[ALL])), Some(rules(&[ALL])));
    for len in [0, 3, 4, 8, 13] {
        let tiny = segment(5000, 443, 24)[..len].to_vec();
        for packet in [
            v4_piece(7, 0, true, &tiny),
            v6_piece(TCP, 7, 0, true, &tiny),
        ] {
            assert!(!bench.inward(&packet), "{len}");
        }
        assert!(!bench.inward(&v4_piece(7, 8, false, &[0x22; 16])));
    }
    // One whose headers end only in the next.
    assert!(!bench.inward(&v6_piece(60, 7, 0, true, &[TCP, 3, 1, 28, 0, 0, 0, 0])));
    assert!(bench.inward(&v4_piece(7, 0, true, &segment(5000, 443, 16))));
}

#[test]
fn a_fragment_of_a_fragment_by_another_header_does_not_pass() {
    let mut bench = Bench::new(Some(rules(&[ALL])), Some(rules(&[ALL])));
    let mut inner = vec![TCP, 0, 0, 1, 0, 0, 0, 9];
    inner.extend(segment(5000, 443, 24));
    assert!(!bench.inward(&v6_piece(44, 7, 0, true, &inner)));
    inner[3] = 0;
    assert!(!bench.inward(&v6_piece(44, 7, 0, true, &inner)));
}

#[test]
fn who_floods_with_first_fragments_keeps_out_no_other_members() {
    let both = || Both {
        sends: Some(Rules::default()),
        takes: Some(rules(&[ALL])),
    };
    let mut bench = Bench::new(None, None);
    let floods = [ID, PeerId(6), PeerId(9), PeerId(12), PeerId(15)];
    let polite = PeerId(18);
    let all = floods.into_iter().chain([polite]);
    bench.filter.set(all.map(|id| (id, both())).collect());
    let mut from = |id, packet: &[u8]| {
        let ends = Ends::parse(packet).unwrap();
        bench
            .filter
            .pass(bench.now, (id, Way::In), packet, &ends)
            .is_ok()
    };
    for n in 0..2000 {
        for id in floods {
            assert!(from(id, &v4_piece(n, 0, true, &segment(5000, 443, 24))));
        }
        // A hundred of its own are under way at any time.
        if n >= 1000 {
            assert!(from(polite, &v4_piece(n, 0, true, &segment(5000, 443, 24))));
        }
        if n >= 1100 {
            assert!(from(polite, &v4_piece(n - 100, 24, false, &[0; 8])), "{n}");
        }
    }
    // Nor does it keep out its own.
    assert!(from(ID, &v4_piece(1999, 24, false, &[0; 8])));
}

#[test]
fn conversations_age_by_what_was_said() {
    let mut bench = web_only();
    let (ask, answer) = (
        tcp(ME, 5000, PEER, 443, Flag::Syn),
        tcp(PEER, 443, ME, 5000, Flag::Ack),
    );
    assert!(bench.out(&ask));
    bench.now += Duration::from_secs(61);
    assert!(!bench.inward(&answer), "nobody answered in time");
    assert!(bench.out(&ask) && bench.inward(&answer));
    bench.now += Duration::from_secs(7000);
    assert!(bench.inward(&answer), "what stands lives for two hours");
    // One side ends, then the other.
    assert!(bench.out(&tcp(ME, 5000, PEER, 443, Flag::Fin)));
    bench.now += Duration::from_secs(3600);
    assert!(bench.inward(&tcp(PEER, 443, ME, 5000, Flag::Fin)));
    bench.now += Duration::from_secs(19);
    assert!(bench.inward(&answer), "the last words come late");
    bench.now += Duration::from_secs(21);
    assert!(!bench.inward(&answer));
    // The same ports again.
    assert!(bench.out(&ask) && bench.inward(&answer));
    assert!(bench.inward(&tcp(PEER, 443, ME, 5000, Flag::Rst)));
    bench.now += Duration::from_secs(21);
    assert!(!bench.inward(&answer));
}

#[test]
fn other_rules_hold_for_what_stands() {
    let mut bench = web_only();
    let answer = tcp(PEER, 443, ME, 5000, Flag::Ack);
    let to_web = tcp(ME, 5000, PEER, 443, Flag::Ack);
    assert!(bench.out(&to_web) && bench.inward(&answer));
    let set = |bench: &mut Bench, web: &[(bool, u32, u32, u32)]| {
        let both = Both {
            sends: Some(rules(web)),
            takes: Some(Rules::default()),
        };
        bench.filter.set(HashMap::from([(ID, both)]));
    };
    set(&mut bench, &[(true, 6, 1, 1023)]);
    assert!(bench.inward(&answer), "it is still allowed");
    set(&mut bench, &[(true, 6, 80, 80)]);
    assert!(!bench.inward(&answer) && !bench.out(&to_web));
    assert_eq!(bench.filter.conversations(), 0);
    set(&mut bench, &[ALL]);
    assert!(!bench.inward(&answer), "nobody has said anything yet");
    assert!(bench.out(&to_web) && bench.inward(&answer), "it goes on");
}

#[test]
fn packets_go_on_unseen_only_where_those_behind_them_pass_as_well() {
    let mut bench = web_only();
    let passed = |bench: &mut Bench, way, packet: &[u8]| {
        let ends = Ends::parse(packet).unwrap();
        bench
            .filter
            .pass(bench.now, (ID, way), packet, &ends)
            .unwrap()
    };
    let out = |flag| tcp(ME, 5000, PEER, 443, flag);
    let back = |flag| tcp(PEER, 443, ME, 5000, flag);
    for (way, packet, said) in [
        (Way::Out, out(Flag::Syn), Passed::Going),
        (Way::In, back(Flag::SynAck), Passed::Going),
        (Way::Out, out(Flag::Ack), Passed::Going),
        (Way::Out, out(Flag::Fin), Passed::Alone),
        (Way::In, back(Flag::Ack), Passed::Going),
        (Way::In, back(Flag::Fin), Passed::Alone),
        // The last is not over before it has come.
        (Way::Out, out(Flag::Ack), Passed::Alone),
        (Way::In, back(Flag::Ack), Passed::Alone),
        (Way::Out, out(Flag::Syn), Passed::Going),
        (Way::In, back(Flag::Rst), Passed::Alone),
        (Way::Out, out(Flag::Ack), Passed::Alone),
    ] {
        assert_eq!(passed(&mut bench, way, &packet), said, "{way:?} {packet:?}");
    }
}

#[test]
fn a_conversation_lives_as_long_as_it_is_said_that_something_of_it_moves() {
    let mut bench = Bench::new(Some(rules(&[(true, 17, 53, 53)])), Some(Rules::default()));
    let (asks, answers) = (udp(ME, 5000, PEER, 53), udp(PEER, 53, ME, 5000));
    assert!(bench.out(&asks));
    let talk = |port| record::Talk {
        out: true,
        protocol: UDP,
        ports: (port, 53),
        pair: record::Pair::V4(ME, PEER),
    };
    assert!(!bench.filter.moves(bench.now, ID, &talk(5001)));
    for _ in 0..20 {
        bench.now += Duration::from_secs(20);
        assert!(bench.filter.moves(bench.now, ID, &talk(5000)));
    }
    assert!(bench.inward(&answers));
    bench.now += Duration::from_secs(181);
    assert!(!bench.filter.moves(bench.now, ID, &talk(5000)));
    assert!(!bench.inward(&answers));
}

#[test]
fn a_peer_has_a_share_of_the_table_and_no_more() {
    let takes = Some(rules(&[ALL]));
    let sends = Some(Rules::default());
    let mut bench = Bench::new(sends.clone(), takes.clone());
    let other = PeerId(6);
    let both = Both { sends, takes };
    let all = HashMap::from([(ID, both.clone()), (other, both)]);
    bench.filter.set(all);
    let from = |n: usize| udp([10, 8, (n >> 14) as u8, 1], (n & 0x3fff) as u16, ME, 9);
    for n in 0..Table::SHARE {
        assert!(bench.inward(&from(n)), "{n}");
    }
    let one_more = from(Table::SHARE);
    let ends = Ends::parse(&one_more).unwrap();
    let stopped = bench
        .filter
        .pass(bench.now, (ID, Way::In), &one_more, &ends);
    assert_eq!(stopped, Err(Stopped::Full));
    assert!(bench.inward(&from(5)), "those that stand go on");
    let another = bench
        .filter
        .pass(bench.now, (other, Way::In), &one_more, &ends);
    assert_eq!(another, Ok(Passed::Going));
    bench.now += Duration::from_secs(61);
    assert!(bench.inward(&one_more), "the dead make room");
    assert!(bench.filter.conversations() < 5);
}

proptest! {
    #[test]
    fn what_is_cut_on_its_way_passes_in_order(len in 20usize..9000, mtu in 300usize..2000, smaller in 68usize..300) {
        use crate::fragment::fragments;
        let mut bench = Bench::new(Some(Rules::default()), Some(rules(&[(true, 6, 443, 443)])));
        let whole = v4_piece(7, 0, false, &segment(5000, 443, len));
        let cut: Vec<_> = fragments(&whole, mtu).flat_map(|p| fragments(&p, smaller).collect::<Vec<_>>()).collect();
        for piece in cut {
            prop_assert!(bench.inward(&piece));
        }
    }

    #[test]
    fn no_packet_breaks_it_and_what_is_denied_both_ways_never_passes(first in prop_oneof![Just(0x45u8), Just(0x60)], rest in prop::collection::vec(any::<u8>(), 40..120), out: bool) {
        let mut packet = vec![first];
        packet.extend(rest);
        let any = IpAddr::from(ME);
        let ends = Ends { src: any, dst: any };
        let mut bench = Bench::new(Some(Rules::default()), Some(Rules::default()));
        let way = if out { Way::Out } else { Way::In };
        for _ in 0..2 {
            prop_assert!(bench.filter.pass(bench.now, (ID, way), &packet, &ends).is_err());
        }
    }
}
