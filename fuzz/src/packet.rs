//! IP packets from a peer or from a program of this host.

use std::time::Instant;

use ip::ends::Ends;
use ip::mss;
use ip::upper::{FIN, RST, Talk};
use proto::irm;
use vpn::filter::{Both, Filter, Passed, Rules, Way};
use vpn::fragment;
use vpn::icmp::{Problem, answer};
use vpn::prefix::PeerId;

use super::script::Script;

/// Two bytes of MTU, then a packet. Fragments and errors are packets themselves, and no error is answered.
pub fn run(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mtu = script.short();
    let packet = script.0;
    let ends = Ends::parse(packet);
    let problems = [
        Problem::TooBig(mtu.into()),
        Problem::NoRoute,
        Problem::Prohibited,
        Problem::PeerDown,
    ];
    for problem in problems {
        let Some(error) = answer(problem, packet) else {
            continue;
        };
        let (from, to) = (ends.unwrap(), Ends::parse(&error).unwrap());
        assert_eq!((to.src, to.dst), (from.dst, from.src));
        assert_eq!(answer(problem, &error), None, "an error is answered");
    }
    let mut lowered = packet.to_vec();
    mss::clamp(&mut lowered, mtu.into());
    assert_eq!(lowered.len(), packet.len());
    if let Ok(ends) = ends {
        let nothing = Both {
            sends: Some(Rules::default()),
            takes: Some(Rules::default()),
        };
        let (mut filter, now) = (Filter::default(), Instant::now());
        filter.set([(PeerId(0), nothing)].into());
        for way in [Way::Out, Way::In] {
            let passed = filter.pass(now, (PeerId(0), way), packet, &ends);
            assert!(passed.is_err(), "what is denied passes");
        }
        by_itself(packet, &ends, now);
    }
    if ends.is_ok() && fragment::allowed(packet) {
        for part in fragment::fragments(packet, mtu.into()) {
            assert!(part.len() <= mtu.into() && Ends::parse(&part).is_ok());
        }
    }
}

/// What may go by itself once its conversation was judged is what a filter that allows all lets go on.
fn by_itself(packet: &[u8], ends: &Ends, now: Instant) {
    let rule = irm::PassRule {
        allow: true,
        protocol: 0,
        low: 0,
        high: u16::MAX.into(),
    };
    let all = || Some(Rules::from(irm::Filter { rules: vec![rule] }));
    let mut filter = Filter::default();
    let both = Both {
        sends: all(),
        takes: all(),
    };
    filter.set([(PeerId(0), both)].into());
    let passed = filter.pass(now, (PeerId(0), Way::Out), packet, ends);
    if let Some(talk) = Talk::parse(packet) {
        let ends = talk.flags & (FIN | RST) != 0;
        let said = if ends { Passed::Alone } else { Passed::Going };
        assert_eq!(passed, Ok(said));
        assert_eq!(filter.conversations(), 1);
    }
}

/// Packets of both families, with options, with extension headers, fragments, and an error.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let v4 = |options: &[u8], flags: [u8; 2], protocol: u8, body: usize| {
        let header = 20 + options.len();
        let total = ((header + body) as u16).to_be_bytes();
        let mut out = vec![
            0,
            100,
            0x40 | (header / 4) as u8,
            0,
            total[0],
            total[1],
            0,
            7,
        ];
        out.extend([
            flags[0], flags[1], 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        out.extend(options);
        out.extend((0..body).map(|i| i as u8));
        out
    };
    let v6 = |next: u8, body: &[u8]| {
        let mut out = vec![5, 0, 0x60, 0, 0, 0, 0, body.len() as u8, next, 64];
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        out.extend(body);
        out
    };
    vec![
        ("v4", v4(&[], [0, 0], 17, 300)),
        ("v4-whole", v4(&[], [0x40, 0], 17, 300)),
        (
            "v4-options",
            v4(&[0x83, 3, 9, 7, 3, 4, 1, 0], [0, 0], 17, 300),
        ),
        ("v4-fragment", v4(&[], [0x20, 9], 17, 304)),
        ("v4-last-place", v4(&[], [0x1f, 0xff], 17, 304)),
        ("v4-icmp-error", v4(&[], [0, 0], 1, 30)),
        ("v6", v6(17, &[1; 40])),
        (
            "v6-hop-by-hop",
            v6(0, &[17, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
        ),
        (
            "v6-fragment",
            v6(44, &[17, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4]),
        ),
        ("v6-error", v6(58, &[2, 0, 0, 0, 0, 0, 5, 0])),
    ]
}
