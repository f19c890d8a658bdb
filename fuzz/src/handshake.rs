//! Handshake PDUs, to a client and to a server.

use std::time::Duration;

use layer::crypt::{Clock, Handshake, Outcome, TlsConfig};

use super::member::Layer;
use super::script::{Script, edited, write};

/// A list of acts on the way between a client and a server: PDUs that pass, are changed, lost, doubled or made up, and
/// time. Whoever has finished knows the other's true name.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let clock = Clock::new();
    clock.set(layer.at(Duration::ZERO).wall);
    let start = layer.at(Duration::ZERO).mono;
    let client = TlsConfig::member(&layer.member, &clock).unwrap();
    let server = TlsConfig::member(&layer.issuer, &clock).unwrap();
    let mut ends = [
        Handshake::client(&client, 7, 1400, start).unwrap(),
        Handshake::server(&server, 7, 1400, start).unwrap(),
    ];
    let peers = [layer.issuer.member(), layer.member.member()];
    let mut after = Duration::ZERO;
    let mut script = Script(bytes);
    for _ in 0..64 {
        let Some(act) = script.act() else { break };
        let (from, to) = (usize::from(act >> 7), usize::from(act >> 7 == 0));
        let now = start + after;
        match act & 7 {
            0 => {
                let edits = script.bytes();
                if let Some(pdu) = ends[from].poll(now) {
                    let _ = ends[to].handle(now, &mut edited(&pdu, edits));
                }
            }
            1 => {
                let mut pdu = script.bytes().to_vec();
                let _ = Handshake::session_of(&pdu);
                let _ = ends[to].handle(now, &mut pdu);
            }
            2 => drop(ends[from].poll(now)),
            3 => after += Duration::from_millis(script.short().into()),
            _ => {
                for _ in 0..64 {
                    let Some(pdu) = ends[from].poll(now) else {
                        break;
                    };
                    let _ = ends[to].handle(now, &mut pdu.clone());
                    let _ = ends[to].handle(now, &mut pdu.clone());
                }
            }
        }
        for (end, peer) in ends.iter_mut().zip(peers) {
            if let Some(Outcome::Done(secrets)) = end.outcome() {
                assert_eq!(secrets.peer().map(|cert| cert.member()), Some(peer));
            }
            let _ = (end.deadline(), end.confirmed(), end.finished());
        }
    }
}

/// One that works, one over a bad way, and PDUs that were made up before, during and after it.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let act = |act: u8, bytes: &[u8]| {
        let mut out = Vec::new();
        write(&mut out, &[act], bytes);
        out
    };
    let made_up = |level: u8| [&[0x11, level, 0, 0, 0, 7, 0, 0, 0, 1], &[0; 30][..]].concat();
    let works = vec![4, 0x84, 4, 0x84];
    let lossy = vec![2, 3, 0, 100, 4, 0x82, 3, 1, 0, 0x84, 4, 0x84];
    vec![
        ("works", works.clone()),
        ("lossy", lossy),
        ("changed", [act(0, &[3, 0, 40, 1]), works.clone()].concat()),
        (
            "answer-changed",
            [act(0, &[]), act(0x80, &[3, 0, 60, 1]), works.clone()].concat(),
        ),
        (
            "made-up-first",
            [act(1, &made_up(0)), works.clone()].concat(),
        ),
        (
            "made-up-sealed",
            [act(1, &made_up(1)), works.clone()].concat(),
        ),
        (
            "made-up-answer",
            [act(0, &[]), act(0x81, &made_up(0)), works.clone()].concat(),
        ),
        (
            "made-up-after",
            [works, act(0x81, &made_up(1)), vec![4, 0x84]].concat(),
        ),
        ("silence", vec![4, 3, 0xff, 0xff, 4]),
    ]
}
