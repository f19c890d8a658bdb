//! Every SDU that was written, so that whatever arrives can be checked byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use proto::{FlowId, QosSpec};

use super::programs::Usage;

/// All flows that were ever asked for, by their tag.
#[derive(Default)]
pub(super) struct Ledger {
    flows: BTreeMap<u32, Exchange>,
    pub(super) written: u64,
    pub(super) delivered: u64,
}

/// One flow: what each side has written and what has arrived there. Side 0 asked for it.
pub(super) struct Exchange {
    pub(super) qos: QosSpec,
    /// Host, life of its machine, and the flow's id there.
    pub(super) ends: [Option<(usize, u32, FlowId)>; 2],
    pub(super) usage: Usage,
    /// Lengths of what was written, by number.
    written: [Vec<u16>; 2],
    arrived: [BTreeSet<u32>; 2],
}

impl Exchange {
    /// The second end stands, maybe not for the first time: what an earlier one has written never reached anybody. Gives that.
    pub(super) fn begin_again(
        &mut self,
        end: (usize, u32, FlowId),
    ) -> Option<(usize, u32, FlowId)> {
        if self.arrived[0].is_empty() {
            self.written[1].clear();
        }
        self.ends[1].replace(end)
    }
}

impl Ledger {
    /// A new flow that the end given asks for.
    pub(super) fn open(&mut self, qos: QosSpec, from: (usize, u32, FlowId), usage: Usage) -> u32 {
        let tag = u32::try_from(self.flows.len()).unwrap_or(u32::MAX);
        let flow = Exchange {
            qos,
            ends: [Some(from), None],
            usage,
            written: Default::default(),
            arrived: Default::default(),
        };
        self.flows.insert(tag, flow);
        tag
    }

    pub(super) fn get(&self, tag: u32) -> Option<&Exchange> {
        self.flows.get(&tag)
    }

    pub(super) fn get_mut(&mut self, tag: u32) -> Option<&mut Exchange> {
        self.flows.get_mut(&tag)
    }

    pub(super) fn count(&self) -> usize {
        self.flows.len()
    }

    /// The next SDU that a side of a flow writes.
    pub(super) fn write(&mut self, tag: u32, side: usize, len: usize) -> Vec<u8> {
        let Some(flow) = self.flows.get_mut(&tag) else {
            return Vec::new();
        };
        let number = u32::try_from(flow.written[side].len()).unwrap_or(u32::MAX);
        let len = len.max(MIN_SDU);
        flow.written[side].push(u16::try_from(len).unwrap_or(u16::MAX));
        self.written += 1;
        sdu(tag, side, number, len)
    }

    /// Checks an SDU that came out at a side of a flow.
    pub(super) fn arrive(&mut self, tag: u32, side: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(flow) = self.flows.get_mut(&tag) else {
            return Err(format!("flow {tag} was never asked for"));
        };
        let Some((from_tag, from_side, number)) = header(bytes) else {
            return Err(format!(
                "{} bytes that nobody wrote came out of flow {tag}",
                bytes.len()
            ));
        };
        if (from_tag, from_side) != (tag, 1 - side) {
            return Err(format!(
                "an SDU of side {from_side} of flow {from_tag} came out at side {side} of flow {tag}"
            ));
        }
        let Some(len) = flow.written[from_side].get(number as usize) else {
            return Err(format!("SDU {number} of flow {tag} was never written"));
        };
        if bytes != sdu(tag, from_side, number, usize::from(*len)) {
            return Err(format!("SDU {number} of flow {tag} was changed on its way"));
        }
        let before = flow.arrived[side].last().copied();
        if !flow.arrived[side].insert(number) {
            return Err(format!("SDU {number} of flow {tag} came out twice"));
        }
        let next = before.map_or(0, |before| before + 1);
        if flow.qos.reliable && number != next {
            return Err(format!(
                "SDU {number} of the reliable flow {tag} came out, and not {next}"
            ));
        }
        if flow.qos.ordered && before.is_some_and(|before| before > number) {
            return Err(format!(
                "SDU {number} of the ordered flow {tag} came out after {before:?}"
            ));
        }
        self.delivered += 1;
        Ok(())
    }

    /// How many SDUs have not arrived although one that was written later has: an ordered flow drops them if they come.
    pub(super) fn overtaken(&self, tag: u32) -> u64 {
        let Some(flow) = self.flows.get(&tag) else {
            return 0;
        };
        let behind = |arrived: &BTreeSet<u32>| {
            let up_to = arrived.last().map_or(0, |last| u64::from(*last) + 1);
            up_to - arrived.len() as u64
        };
        flow.arrived.iter().map(behind).sum()
    }

    /// How many SDUs have not arrived, nor anything that was written later.
    pub(super) fn cut_off(&self, tag: u32) -> u64 {
        self.missing(tag) - self.overtaken(tag)
    }

    /// How many SDUs were written, by either side, and have not arrived.
    pub(super) fn missing(&self, tag: u32) -> u64 {
        let Some(flow) = self.flows.get(&tag) else {
            return 0;
        };
        (0..2)
            .map(|side| (flow.written[1 - side].len() - flow.arrived[side].len()) as u64)
            .sum()
    }

    /// How many SDUs a side has not got of those that the other has written.
    pub(super) fn missing_at(&self, tag: u32, side: usize) -> u64 {
        let flow = self.flows.get(&tag);
        flow.map_or(0, |flow| {
            (flow.written[1 - side].len() - flow.arrived[side].len()) as u64
        })
    }
}

/// Whether the bytes show an SDU that was not sealed.
pub(super) fn shows_plaintext(pdu: &[u8]) -> bool {
    pdu.windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// An SDU names its flow, side and number; the rest follows from them.
fn sdu(tag: u32, side: usize, number: u32, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.push(u8::from(side == 1));
    let mut state =
        u64::from(tag) << 33 ^ u64::from(number) << 1 ^ side as u64 ^ 0x9e37_79b9_7f4a_7c15;
    while out.len() < len {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_be_bytes());
    }
    out.truncate(len.max(MIN_SDU));
    out
}

fn header(bytes: &[u8]) -> Option<(u32, usize, u32)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (tag, rest) = rest.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    let side = usize::from(*rest.first().filter(|side| **side < 2)?);
    Some((u32::from_be_bytes(*tag), side, u32::from_be_bytes(*number)))
}

const MAGIC: &[u8] = b"SDU of a";
pub(super) const MIN_SDU: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            ledger.open(QosSpec::BEST, (0, 0, FlowId(1)), Usage::Drawn);
        }
        ledger
    }

    #[test]
    fn only_what_was_written_may_arrive_once_and_in_order() {
        let mut ledger = ledger();
        let sent: Vec<_> = (0..3).map(|i| ledger.write(1, 0, 20 + i)).collect();
        assert_eq!(ledger.arrive(1, 1, &sent[1]), Ok(()));
        assert!(ledger.arrive(1, 1, &sent[1]).unwrap_err().contains("twice"));
        assert!(
            ledger
                .arrive(1, 1, &sent[0])
                .unwrap_err()
                .contains("ordered")
        );
        assert!(
            ledger
                .arrive(1, 0, &sent[2])
                .unwrap_err()
                .contains("came out at side 0")
        );
        assert!(
            ledger
                .arrive(0, 1, &sent[2])
                .unwrap_err()
                .contains("came out at side 1 of flow 0")
        );
        let mut changed = sent[2].clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(
            ledger
                .arrive(1, 1, &changed)
                .unwrap_err()
                .contains("changed")
        );
        assert!(
            ledger
                .arrive(1, 1, b"anything")
                .unwrap_err()
                .contains("nobody wrote")
        );
        assert_eq!(
            (ledger.missing(1), ledger.overtaken(1)),
            (1, 0),
            "number 0 counts as arrived, late as it was"
        );
    }

    #[test]
    fn what_is_missing_was_overtaken_only_if_something_later_came() {
        let mut ledger = ledger();
        let sent: Vec<_> = (0..5).map(|_| ledger.write(1, 0, 20)).collect();
        assert_eq!((ledger.missing(1), ledger.overtaken(1)), (5, 0));
        ledger.arrive(1, 1, &sent[1]).unwrap();
        ledger.arrive(1, 1, &sent[3]).unwrap();
        assert_eq!((ledger.missing(1), ledger.overtaken(1)), (3, 2));
    }

    #[test]
    fn plaintext_is_seen_anywhere_in_a_pdu() {
        let mut ledger = ledger();
        let pdu = [vec![0x12; 16], ledger.write(0, 0, 40), vec![9; 16]].concat();
        assert!(shows_plaintext(&pdu));
        assert!(!shows_plaintext(&[0x12; 80]));
    }
}
