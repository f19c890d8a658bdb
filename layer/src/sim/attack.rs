//! Somebody on the cables who sees all and sends what he likes, but has no key.

use std::collections::BTreeMap;

use super::chance::Chance;
use super::net::End;

/// What he has seen, and how much he did.
#[derive(Default)]
pub(super) struct Attacker {
    /// A few packets that went to each end, to be sent again.
    seen: BTreeMap<End, Vec<Vec<u8>>>,
    pub(super) strikes: u64,
}

impl Attacker {
    /// Keeps some of what goes by.
    pub(super) fn watch(&mut self, to: End, pdu: &[u8], chance: &mut Chance) {
        let seen = self.seen.entry(to).or_default();
        if seen.len() < KEPT {
            seen.push(pdu.to_vec());
        } else if chance.permille(100) {
            let at = chance.below(KEPT);
            seen[at] = pdu.to_vec();
        }
    }

    /// A packet of his own for that end, made out of one that goes there.
    pub(super) fn strike(&mut self, to: End, pdu: &[u8], chance: &mut Chance) -> Vec<u8> {
        self.strikes += 1;
        let mut evil = pdu.to_vec();
        match chance.below(6) {
            0 => evil.truncate(chance.between(1, pdu.len())),
            1 => {
                let at = chance.below(evil.len());
                evil[at] ^= 1 << chance.below(8);
            }
            2 => {
                let seen = self.seen.get(&to).map_or(&[][..], Vec::as_slice);
                evil = seen.get(chance.below(seen.len())).cloned().unwrap_or(evil);
            }
            3 => {
                evil = vec![0; chance.between(1, 200)];
                chance.fill(&mut evil);
            }
            4 => {
                // The header of a true one with another counter, and anything behind it.
                let head = evil.len().min(8);
                chance.fill(&mut evil[head..]);
            }
            // A PDU that was never sealed: of any kind, and an SDU in it.
            _ => {
                evil = vec![0; 32];
                chance.fill(&mut evil);
                evil[0] = [1, 2, 3, 4, 5, 0x12][chance.below(6)];
                evil.extend_from_slice(b"plain text that nobody may get");
            }
        }
        evil
    }
}

/// Packets that are kept per end.
const KEPT: usize = 16;
