//! Signed records on their way to a neighbour: those of others altered, made up and, when they are old, told again.

use layer::Own;
use prost::Message;
use proto::wire::{LinkState, Record, SignedRecord};

use crate::desk::Desk;

/// Records that have been replaced by newer ones since, or will be.
#[derive(Default)]
pub(crate) struct Records {
    old: Vec<SignedRecord>,
}

impl Records {
    /// Adds to what is told.
    pub(crate) fn pass(&mut self, desk: &mut Desk, own: &Own<'_>, records: &mut Vec<SignedRecord>) {
        if !desk.orders.records {
            return;
        }
        let me = own.identity.address().0;
        let mut lies = Vec::new();
        for record in records.iter() {
            let Ok(body) = Record::decode(record.body.as_slice()) else {
                continue;
            };
            if body.origin == me {
                continue;
            }
            lies.extend(lies_about(own, record, &body));
            if self.old.len() < KEPT {
                self.old.push(record.clone());
            }
        }
        lies.extend(self.old.iter().take(AGAIN).cloned());
        desk.report.records += lies.len() as u64;
        // Before the true ones, and behind them.
        let half = lies.split_off(lies.len() / 2);
        records.splice(..0, half);
        records.extend(lies);
    }
}

/// Another member without its links or with one that it does not have, told in each way that is left without its key.
fn lies_about(own: &Own<'_>, record: &SignedRecord, body: &Record) -> Vec<SignedRecord> {
    let newer = |change: &dyn Fn(&mut Record)| {
        let mut body = body.clone();
        body.counter += 1_000;
        change(&mut body);
        body.encode_to_vec()
    };
    let me = own.identity.address().0;
    let bodies = [
        newer(&|body| body.links.clear()),
        newer(&|body| {
            let (neighbour, cost, mtu) = (me, 1, 9000);
            body.links.push(LinkState {
                neighbour,
                cost,
                mtu,
            });
        }),
        newer(&|body| body.incarnation += 1),
    ];
    let mut lies = Vec::new();
    for body in bodies {
        let layer = own.identity.layer().as_str().as_bytes();
        let signed = [b"strata record v1", layer, &[0], &body].concat();
        let signature = own.identity.sign(&signed).to_vec();
        // With the true signature, with one of its own, and with its certificate too.
        lies.push(SignedRecord {
            body: body.clone(),
            ..record.clone()
        });
        lies.push(SignedRecord {
            body: body.clone(),
            signature: signature.clone(),
            ..record.clone()
        });
        lies.push(SignedRecord {
            body,
            signature,
            certificate: own.identity.cert().der().to_vec(),
            ..record.clone()
        });
    }
    lies
}

/// Records that are kept, and those of them that are told each time.
const KEPT: usize = 256;
const AGAIN: usize = 16;
