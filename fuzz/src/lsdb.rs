//! Signed records from a neighbour.

use std::time::Duration;

use layer::route::{LinkState, Lsdb};
use prost::Message;
use proto::Addr;
use proto::wire::{Digest, SignedRecord};

use super::member::Layer;
use super::script::{Script, edited, write};

/// A list of acts on the database of `a`: true records of `b` with edits, records as they are, digests, time.
pub fn run(bytes: &[u8]) {
    let layer = Layer::get();
    let (issuer, member) = (&layer.issuer, &layer.member);
    let mut lsdb = Lsdb::new(issuer.address(), issuer.layer().clone(), 1);
    let mut theirs = Lsdb::new(member.address(), issuer.layer().clone(), 1);
    let mut script = Script(bytes);
    let mut after = Duration::ZERO;
    for _ in 0..64 {
        let Some(act) = script.act() else { break };
        let now = layer.at(after);
        match act {
            0 => {
                let links = script.bytes().iter().map(|b| LinkState {
                    neighbour: Addr(u64::from(*b)),
                    cost: u32::from(*b),
                    mtu: 1400,
                });
                let record = theirs.set_links(now, member, links.collect());
                let Some(mut record) = record else { continue };
                record.body = edited(&record.body, script.bytes());
                record.age = script.short().into();
                let _ = lsdb.insert(now, issuer, record);
            }
            1 => {
                if let Ok(record) = SignedRecord::decode(script.bytes()) {
                    assert!(
                        lsdb.insert(now, issuer, record).is_err(),
                        "a stranger is believed"
                    );
                }
            }
            2 => {
                if let Ok(digest) = Digest::decode(script.bytes()) {
                    let _ = lsdb.missing(now.mono, &digest);
                }
            }
            _ => {
                after += Duration::from_secs(script.short().into());
                let now = layer.at(after);
                let _ = (lsdb.tick(now, issuer), theirs.tick(now, member));
            }
        }
        assert!(lsdb.members().count() <= 2);
        let _ = (lsdb.routes(issuer.address()), lsdb.summary());
    }
}

/// A true record, a changed, an old and a forged one, and a digest of what another holds.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let links = |edits: &[u8], age: u16| {
        let mut out = Vec::new();
        write(&mut out, &[0], &[1, 2, 3]);
        write(&mut out, &[], edits);
        out.extend(age.to_be_bytes());
        out
    };
    let forged = SignedRecord {
        body: vec![8, 1],
        signature: vec![0; 64],
        certificate: vec![0x30, 0],
        age: 0,
        intermediates: vec![],
    };
    let mut stranger = Vec::new();
    write(&mut stranger, &[1], &forged.encode_to_vec());
    let mut later = links(&[], 0);
    later.extend([9, 0x0e, 0x10]);
    later.extend(links(&[], 0));
    let mut digest = links(&[], 0);
    write(&mut digest, &[2], &Digest::default().encode_to_vec());
    vec![
        ("links", links(&[], 0)),
        ("changed", links(&[3, 0, 2, 1], 0)),
        ("old", links(&[], 0xffff)),
        ("stranger", stranger),
        ("an-hour-later", later),
        ("digest", digest),
    ]
}
