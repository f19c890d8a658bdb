//! Flow and retransmission control, between two honest ends on a bad way and from a liar.

use std::time::Duration;

use layer::frct::{Controller, Frct, Params, Pdu, State};
use proto::QosSpec;

use super::member::Layer;
use super::script::{Script, edited, write};

/// First the kind of flow, then a list of acts on its two ends. Until a PDU was changed or made up, what a reliable flow delivers
/// is what was written, in order, and a lossy one leaves out but changes and swaps nothing.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let mut script = Script(bytes);
    let kind = script.byte();
    let mut ends = [0, 1].map(|n| Frct::new(layer.at(Duration::ZERO).mono, params(kind, n)));
    let reliable = params(kind, 0).qos.reliable;
    let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
    let mut read: [usize; 2] = [0, 0];
    let mut honest = true;
    let mut after = Duration::ZERO;
    let mut pdu = [0; 1500];
    for _ in 0..256 {
        let Some(act) = script.act() else { break };
        let (from, to) = (usize::from(act >> 7), usize::from(act >> 7 == 0));
        let now = layer.at(after).mono;
        match act & 15 {
            0 | 8 => {
                let mut sdu = script.bytes().to_vec();
                if act & 8 != 0 {
                    sdu.resize(sdu.len() * 20, 7);
                }
                if ends[from].write(now, &sdu).is_ok() {
                    sent[from].push(sdu);
                }
            }
            1 => {
                let edits = script.bytes();
                honest &= edits.len() < 4;
                if let Some(len) = ends[from].poll(now, &mut pdu) {
                    let _ = ends[to].receive(now, &edited(&pdu[..len], edits), act & 64 != 0);
                }
            }
            2 => {
                honest = false;
                let made_up = script.bytes();
                let _ = ends[to].receive(now, made_up, false);
                if let Ok(Pdu { ack: Some(ack), .. }) = Pdu::parse(made_up) {
                    assert!(ack.ranges(ack.largest.into()).count() <= 33);
                }
            }
            3 => drop(ends[from].poll(now, &mut pdu)),
            4 => after += Duration::from_millis(script.short().into()),
            5 => {
                for _ in 0..64 {
                    let Some(len) = ends[from].poll(now, &mut pdu) else {
                        break;
                    };
                    let _ = ends[to].receive(now, &pdu[..len], false);
                    let _ = ends[to].receive(now, &pdu[..len], false);
                }
            }
            6 => ends[from].set_payload(usize::from(script.short() % 1500)),
            7 => ends[from].shut(),
            9 => after = after.max(wake(&ends[from], &layer.at(after).mono) + after),
            _ => {}
        }
        for (end, other) in [(0, 1), (1, 0)] {
            while let Some(sdu) = ends[end].read() {
                let sdu = sdu.to_vec();
                let place = sent[other][read[end].min(sent[other].len())..]
                    .iter()
                    .position(|s| *s == sdu);
                if honest {
                    let place = place.expect("what was read was never written, or before");
                    assert!(place == 0 || !reliable, "an SDU was left out");
                }
                read[end] += 1 + place.unwrap_or(0);
            }
            let _ = (
                ends[end].deadline(),
                ends[end].stats(),
                ends[end].writable(),
            );
            if let State::Failed(failure) = ends[end].state() {
                assert!(!failure.to_string().is_empty());
            }
        }
    }
}

/// How long until an end wants to be polled.
fn wake(end: &Frct, now: &std::time::Instant) -> Duration {
    end.deadline()
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(*now))
}

fn params(kind: u8, number: u32) -> Params {
    let qos = match kind & 3 {
        0 => QosSpec::DATA,
        1 => QosSpec::BEST,
        2 => QosSpec::VOICE,
        _ => QosSpec {
            timeout_ms: 1000,
            ..QosSpec::DATA
        },
    };
    let controller = if kind & 4 == 0 {
        Controller::Cubic
    } else {
        Controller::Bbr
    };
    Params {
        controller,
        // The numbers of one end wrap soon.
        ..Params::new(qos, 200, number.wrapping_sub(3))
    }
}

/// Talks of each kind, losses that are mended, an end, and PDUs of a liar.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let said = |act: u8, text: &[u8]| {
        let mut out = Vec::new();
        write(&mut out, &[act], text);
        out
    };
    let long: Vec<u8> = (0..=255).collect();
    let wait = |ms: u16| [&[4][..], &ms.to_be_bytes()].concat();
    let exchange = vec![5, 0x85, 5, 0x85];
    let talk = |kind: u8| {
        [
            vec![kind],
            said(0, b"hello"),
            said(0x88, &long),
            exchange.clone(),
            wait(10),
            exchange.clone(),
        ]
        .concat()
    };
    let lost = |kind: u8| {
        [
            vec![kind],
            said(8, &long),
            vec![3, 3],
            exchange.clone(),
            wait(6),
            exchange.clone(),
            wait(400),
            exchange.clone(),
        ]
        .concat()
    };
    let ends = [
        vec![0],
        said(0, b"last"),
        vec![7, 0x87],
        exchange.clone(),
        vec![9],
        exchange.clone(),
    ]
    .concat();
    let cut = [
        vec![0],
        said(8, &long),
        exchange.clone(),
        vec![6, 0, 80, 9],
        exchange.clone(),
    ]
    .concat();
    let silent = [
        vec![3],
        exchange.clone(),
        vec![9, 5, 9, 3],
        wait(1000),
        vec![3],
    ]
    .concat();
    let changed = [
        vec![0],
        said(0, &long),
        said(1, &[3, 0, 1, 1]),
        exchange.clone(),
    ]
    .concat();
    let data = [
        vec![0],
        said(
            2,
            &[1, 5, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'x'],
        ),
        exchange.clone(),
    ]
    .concat();
    let ack = [
        vec![4],
        said(0, &long),
        vec![3],
        said(
            0x82,
            &[
                1, 2, 1, 0, 255, 255, 255, 253, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0,
                0, 0, 0, 0, 1, 0, 1,
            ],
        ),
        exchange.clone(),
    ]
    .concat();
    vec![
        ("talk-data", talk(0)),
        ("talk-best", talk(5)),
        ("talk-voice", talk(2)),
        ("lost-data", lost(4)),
        ("lost-best", lost(1)),
        ("ends", ends),
        ("cut", cut),
        ("silent", silent),
        ("changed", changed),
        ("data", data),
        ("ack", ack),
    ]
}
