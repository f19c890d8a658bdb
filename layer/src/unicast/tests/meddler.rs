//! A hostile member between two others, by the hook that real programs are tested with.

use std::sync::{Arc, Mutex};

use proto::QosSpec;
use proto::wire::SignedRecord;

use super::super::Meddler;
use super::flows::{flow, line, read, register, write};
use super::*;
use crate::crypt::Identity;

#[derive(Default)]
struct Seen {
    frames: u64,
    needles: u64,
    forwarded: usize,
}

/// Of every four PDUs it alters one, doubles one, and sends an old one behind another.
struct Evil(Arc<Mutex<Seen>>, Vec<u8>);

impl Meddler for Evil {
    fn saw(&mut self, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        seen.frames += 1;
        seen.needles += u64::from(bytes.windows(NEEDLE.len()).any(|w| w == NEEDLE));
    }

    fn forwarded(&mut self, pdu: &[u8]) -> Vec<Vec<u8>> {
        let mut seen = self.0.lock().unwrap();
        seen.forwarded += 1;
        let old = std::mem::replace(&mut self.1, pdu.to_vec());
        let mut altered = pdu.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        match seen.forwarded % 4 {
            0 => vec![altered],
            1 => vec![pdu.to_vec(), pdu.to_vec()],
            2 => vec![pdu.to_vec(), old],
            _ => vec![pdu.to_vec()],
        }
    }

    fn records(&mut self, me: &Identity, records: &mut Vec<SignedRecord>) {
        let mut forged = records.clone();
        for record in &mut forged {
            record.signature = me.sign(&record.body).to_vec();
            // A version that nobody has, else it would not be looked at.
            let mut body = <proto::wire::Record as prost::Message>::decode(&*record.body).unwrap();
            body.counter += 1000;
            record.body = prost::Message::encode_to_vec(&body);
        }
        records.extend(forged);
    }
}

#[test]
fn a_member_in_between_reads_alters_repeats_and_forges_nothing() {
    let mut net = line();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let evil = Evil(seen.clone(), vec![2; 100]);
    net.node("b").machine.meddle(Box::new(evil));
    register(&mut net, "c", "server");
    net.seconds(1);
    flow(&mut net, "a", "c", "server", 5, QosSpec::RAW);
    let sdu = |i: u32| [NEEDLE, &i.to_be_bytes()].concat();
    let mut got = Vec::new();
    for i in 0..200 {
        write(&mut net, "a", 5, &[&sdu(i)]);
        got.extend(read(&mut net, "c", 5));
    }
    let mut once = got.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), got.len(), "an SDU came twice");
    assert!((0..200).map(sdu).filter(|s| got.contains(s)).count() == got.len());
    assert!((100..200).contains(&got.len()), "{}", got.len());
    let seen = seen.lock().unwrap();
    assert!(seen.frames > 200 && seen.forwarded >= 200);
    assert_eq!(seen.needles, 0);
    for (at, reasons) in [("c", ["forged", "replayed"]), ("a", ["record_forged"; 2])] {
        let status = status(&mut net, at);
        for reason in reasons {
            assert!(
                status.counters.get(&format!("drop.{reason}")) > Some(&0),
                "{at}: {reason}"
            );
        }
        assert_eq!(status.members.len(), 3);
        assert!(status.members.iter().all(|m| m.reachable));
        assert!(status.directory.iter().all(|e| e.member == "c"));
    }
}

const NEEDLE: &[u8] = b"the quick brown fox of strata";
