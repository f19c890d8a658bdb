//! PDUs of others in transit: altered, repeated, turned back, made up.

use std::collections::{BTreeMap, VecDeque};

use layer::{Own, Sent};

use crate::desk::Desk;

/// The memory of what has passed.
#[derive(Default)]
pub(crate) struct Packets {
    count: u64,
    chance: u64,
    /// By destination, what went there, the oldest first.
    old: BTreeMap<[u8; 8], VecDeque<Vec<u8>>>,
}

impl Packets {
    /// What is sent for one PDU.
    pub(crate) fn pass(&mut self, desk: &mut Desk, own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        if pdu.len() < SEALED {
            return vec![Sent::On(pdu.to_vec())];
        }
        self.count += 1;
        let due = |every: u64| every != 0 && self.count.is_multiple_of(every);
        let (alter, replay, forge) = (
            due(desk.orders.alter),
            due(desk.orders.replay),
            due(desk.orders.forge),
        );
        let mut sent = Vec::new();
        if forge {
            let forged = self.forged(own, pdu);
            desk.report.forged += forged.len() as u64;
            sent.extend(forged);
        }
        if alter {
            desk.report.altered += 1;
            sent.push(Sent::On(self.altered(pdu)));
        } else {
            sent.push(Sent::On(pdu.to_vec()));
        }
        if replay {
            let again = self.again(pdu);
            desk.report.replayed += again.len() as u64;
            sent.extend(again);
        }
        let old = self.old.entry(field(pdu, DST)).or_default();
        old.push_back(pdu.to_vec());
        if old.len() > KEPT {
            old.pop_front();
        }
        sent
    }

    /// With one bit changed, of all that the seal between the two ends covers.
    fn altered(&mut self, pdu: &[u8]) -> Vec<u8> {
        let mut altered = pdu.to_vec();
        let at = DST + self.below(pdu.len() - DST);
        altered[at] ^= 1 << self.below(8);
        altered
    }

    /// What has passed, again: this one, the oldest and a younger one that went there, and this one turned round.
    fn again(&mut self, pdu: &[u8]) -> Vec<Sent> {
        let mut again = vec![Sent::On(pdu.to_vec())];
        let past = self.old.get(&field(pdu, DST)).map_or(0, VecDeque::len);
        let any = if past == 0 { 0 } else { self.below(past) };
        let past = self.old.get(&field(pdu, DST)).into_iter();
        again.extend(past.flat_map(|past| {
            let some = [past.front(), past.get(any)].into_iter().flatten();
            some.map(|old| Sent::On(old.clone())).collect::<Vec<_>>()
        }));
        // Whoever is in the way can keep a handshake from ever ending: what is to be seen is that nothing else comes of it.
        if pdu[0] != ROUTED && !self.count.is_multiple_of(SPARED) {
            return again;
        }
        again.push(Sent::Back(turned(pdu)));
        // Turned round, with the endpoint that the source has.
        let there = self.old.get(&field(pdu, SRC)).and_then(VecDeque::back);
        let endpoint = there.filter(|there| pdu[0] == ROUTED && there[0] == ROUTED);
        again.extend(endpoint.map(|there| {
            let mut pdu = turned(pdu);
            pdu[ENDPOINT..ENDPOINT + 8].copy_from_slice(&field(there, ENDPOINT));
            Sent::Back(pdu)
        }));
        again
    }

    fn forged(&mut self, own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        let with = |at: usize, bytes: &[u8]| {
            let mut pdu = pdu.to_vec();
            pdu[at..at + bytes.len()].copy_from_slice(bytes);
            Sent::On(pdu)
        };
        let cut = Sent::On(pdu[..1 + self.below(pdu.len() - 1)].to_vec());
        let me = own.identity.address().0.to_be_bytes();
        if pdu[0] != ROUTED {
            // Another session, a made-up text, the name of this very member, and a piece.
            let text = vec![7; pdu.len() - FRAMES];
            let session = self.next().to_be_bytes();
            return vec![
                with(SESSION_OF_HANDSHAKE, &session[..4]),
                with(FRAMES, &text),
                with(SRC, &me),
                cut,
            ];
        }
        let counter = u64::from_be_bytes(field(pdu, COUNTER));
        let text = vec![7; pdu.len() - SEALED];
        let mut ahead = pdu.to_vec();
        ahead[COUNTER..SEALED].copy_from_slice(&(counter + 100_000).to_be_bytes());
        ahead[SEALED..].copy_from_slice(&text);
        // As between neighbours, in plain text, for the endpoint that the true one is for.
        let endpoint = &pdu[ENDPOINT..ENDPOINT + 8];
        let direct = [&[DIRECT, 0, pdu[2], 0][..], endpoint, LIE].concat();
        vec![
            Sent::On(ahead),
            with(SEALED, &text),
            with(COUNTER, &(counter + 1).to_be_bytes()),
            with(SESSION, &self.next().to_be_bytes()[..4]),
            with(SRC, &me),
            with(ENDPOINT, &self.next().to_be_bytes()),
            Sent::On(direct),
            cut,
        ]
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    /// Chance of a kind: a tester wants the same again.
    fn next(&mut self) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.chance
    }
}

/// As if the other side had sent it.
pub(crate) fn turned(pdu: &[u8]) -> Vec<u8> {
    [
        &pdu[..DST],
        &pdu[SRC..SRC + 8],
        &pdu[DST..SRC],
        &pdu[SRC + 8..],
    ]
    .concat()
}

fn field(pdu: &[u8], at: usize) -> [u8; 8] {
    let mut field = [0; 8];
    field.copy_from_slice(&pdu[at..at + 8]);
    field
}

/// The first byte of a direct PDU, a routed one and a routed handshake.
const DIRECT: u8 = 1;
const ROUTED: u8 = 2;
pub(crate) const HANDSHAKE: u8 = 5;
/// Where things lie in both that are routed.
const DST: usize = 4;
const SRC: usize = 12;
/// In a routed PDU.
const ENDPOINT: usize = 20;
const SESSION: usize = 28;
const COUNTER: usize = 32;
const SEALED: usize = 40;
/// In a routed handshake.
const SESSION_OF_HANDSHAKE: usize = 22;
const FRAMES: usize = 30;
/// What the neighbours of this member are told in the name of others.
const LIE: &[u8] = b"this was never said";
/// Of so many PDUs of handshakes one is turned back.
const SPARED: u64 = 4;
/// PDUs that are kept, to each destination.
const KEPT: usize = 2048;
