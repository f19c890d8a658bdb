//! Frames of Ethernet from peers and from the host, in any order and at any time.

use std::time::{Duration, Instant};

use vpn::prefix::{Owner, PeerId};
use vpn::switch::{Head, Mac, Switch, To};

use super::script::{Script, write};

/// Each act is a byte of who (the host, one of three members, a member that is gone, or time that passes), and a frame.
pub fn run(bytes: &[u8]) {
    let (mut script, mut now) = (Script(bytes), Instant::now());
    let mut switch = Switch::new(now);
    let devices = [HOST, FIRST].into_iter();
    switch.set_fixed(devices.zip([Owner::Me, Owner::Peer(PeerId(0))]));
    while let Some(act) = script.act() {
        let id = PeerId(u32::from(act % 3));
        match act % 8 {
            0..3 => {
                let frame = script.bytes();
                let passed = switch.from_peer(now, id, frame);
                let Ok(head) = Head::parse(frame) else {
                    assert!(passed.is_err(), "a bad frame passes");
                    continue;
                };
                if passed.is_ok() {
                    assert!(frame.len() >= 14 && !head.from.is_group() && head.from != HOST);
                    assert!(id == PeerId(0) || head.from != FIRST, "a theft succeeds");
                }
            }
            3..6 => {
                let frame = script.bytes();
                let Ok(to) = switch.from_host(now, frame) else {
                    continue;
                };
                let head = Head::parse(frame).unwrap();
                assert!(frame.len() >= 14 && !head.from.is_group() && head.from != FIRST);
                if let To::Peer(_) = to {
                    assert!(!head.to.is_group() && head.to != HOST);
                }
                let _ = switch.may_flood(now, act & 1 == 1, usize::from(act));
            }
            6 => switch.forget(id),
            _ => now += Duration::from_millis(u64::from(script.short()) * 20),
        }
        let known = switch.known(now);
        assert!(known.values().sum::<usize>() <= Switch::MOST);
        assert!(known.values().all(|n| *n <= Switch::SHARE));
    }
}

/// Talks of a host and two members: ARP and its answer, tags, a move, a theft, and what is too short.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (second, all) = (Mac([2, 0, 0, 0, 0, 2]), Mac([0xff; 6]));
    let frame = |to: Mac, from: Mac, rest: &[u8]| [&to.0[..], &from.0, rest].concat();
    let arp = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let tag = [0x81, 0, 0, 7, 8, 0, 0x45];
    let talk = |all: &[(u8, Vec<u8>)]| {
        let mut out = Vec::new();
        for (act, frame) in all {
            match act % 8 {
                6 | 7 => out.extend([&[*act][..], frame].concat()),
                _ => write(&mut out, &[*act], frame),
            }
        }
        out
    };
    let (host, peer) = (3, 1);
    vec![
        (
            "arp",
            talk(&[
                (host, frame(all, HOST, &arp)),
                (peer, frame(HOST, second, &arp)),
                (host, frame(second, HOST, &arp)),
            ]),
        ),
        (
            "tags",
            talk(&[
                (peer, frame(all, second, &tag)),
                (host, frame(second, HOST, &tag)),
                (host, frame(second, HOST, &tag[..5])),
            ]),
        ),
        (
            "moves",
            talk(&[
                (peer, frame(all, second, &arp)),
                (2, frame(all, second, &arp)),
                (7, vec![0x40, 0]),
                (host, frame(second, HOST, &arp)),
                (8, vec![]),
                (14, vec![]),
            ]),
        ),
        (
            "theft",
            talk(&[
                (peer, frame(all, HOST, &arp)),
                (peer, frame(all, FIRST, &arp)),
                (0, frame(all, FIRST, &arp)),
            ]),
        ),
        (
            "control",
            talk(&[
                (peer, frame(Mac([1, 0x80, 0xc2, 0, 0, 0]), second, &arp)),
                (peer, frame(HOST, all, &arp)),
                (peer, frame(HOST, second, &[8])),
            ]),
        ),
    ]
}

const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FIRST: Mac = Mac([2, 0, 0, 0, 0, 0xf]);
