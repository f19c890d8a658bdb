//! Frames of the reliable channel, between two honest ends on a bad way and from a liar.

use std::time::Duration;

use layer::channel::Channel;

use super::member::Layer;
use super::script::{Script, edited, write};

/// A list of acts on two channels. Until a frame was changed or made up, what is received is what was sent, in order.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let mut ends = [Channel::new(1, 100), Channel::new(2, 100)];
    let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
    let mut received: [usize; 2] = [0, 0];
    let mut honest = true;
    let mut after = Duration::ZERO;
    let mut script = Script(bytes);
    for _ in 0..256 {
        let Some(act) = script.act() else { break };
        let (from, to) = (usize::from(act >> 7), usize::from(act >> 7 == 0));
        let now = layer.at(after).mono;
        match act & 7 {
            0 => {
                let message = script.bytes();
                if ends[from].send(message).is_ok() {
                    sent[from].push(message.to_vec());
                }
            }
            1 => {
                let edits = script.bytes();
                honest &= edits.len() < 4;
                if let Some(frame) = ends[from].poll(now) {
                    let _ = ends[to].handle(now, &edited(&frame, edits));
                }
            }
            2 => {
                honest = false;
                let _ = ends[to].handle(now, script.bytes());
            }
            3 => drop(ends[from].poll(now)),
            4 => after += Duration::from_millis(script.short().into()),
            5 => {
                for _ in 0..64 {
                    let Some(frame) = ends[from].poll(now) else {
                        break;
                    };
                    let _ = ends[to].handle(now, &frame);
                    let _ = ends[to].handle(now, &frame);
                }
            }
            6 => ends[from].set_frame_size(usize::from(script.byte()).max(64)),
            _ => {}
        }
        while let Some(message) = ends[to].recv() {
            if honest {
                assert_eq!(
                    Some(&message),
                    sent[from].get(received[to]),
                    "not what was sent"
                );
            }
            received[to] += 1;
        }
        for end in &ends {
            let _ = (end.deadline(), end.is_idle(), end.dead());
        }
    }
}

/// A talk, a loss that is mended, a change, and frames of a liar.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let said = |act: u8, text: &[u8]| {
        let mut out = Vec::new();
        write(&mut out, &[act], text);
        out
    };
    let long: Vec<u8> = (0..=255).collect();
    let talk = [said(0, b"hello"), said(0x80, &long), vec![5, 0x85, 5, 0x85]].concat();
    let lost = [said(0, &long), vec![3, 3, 4, 8, 0, 5, 0x85, 4, 8, 0, 5]].concat();
    let changed = [said(0, &long), said(1, &[3, 0, 5, 1]), vec![5, 0x85]].concat();
    let cut = [said(0, &long), said(1, &[0, 0, 12, 0]), vec![6, 70, 5]].concat();
    let data = [
        said(
            2,
            &[
                0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4,
            ],
        ),
        vec![5],
    ]
    .concat();
    let ack = [
        said(0, b"x"),
        vec![3],
        said(0x82, &[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]),
        vec![5],
    ]
    .concat();
    let reset = [
        said(0, b"x"),
        vec![3],
        said(0x82, &[2, 0, 0, 0, 0, 0, 0, 1]),
        vec![5],
    ]
    .concat();
    vec![
        ("talk", talk),
        ("lost", lost),
        ("changed", changed),
        ("cut", cut),
        ("data", data),
        ("ack", ack),
        ("reset", reset),
    ]
}
