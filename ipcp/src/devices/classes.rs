//! What is known of one device, apart for each set of code points that its flows carry: between the same two there may be a flow for
//! each. It must not judge, nor read or write anything.

use ip::upper::dscp;
use proto::FlowId;
use proto::record::Talk;

use super::known::Known;

/// Sets of code points, each a bit (RFC 2474), and what may go by itself of the packets that have one of them.
#[derive(Debug)]
pub(super) struct Classes {
    sets: Vec<Set>,
    /// The set of each code point.
    of: [Option<u8>; POINTS],
}

#[derive(Debug)]
struct Set {
    points: u64,
    flows: usize,
    known: Known,
}

impl Classes {
    pub(super) fn new() -> Self {
        Self {
            sets: Vec::new(),
            of: [None; POINTS],
        }
    }

    /// A flow carries packets with these. `false`: there are too many others.
    pub(super) fn come(&mut self, points: u64) -> bool {
        if let Some(set) = self.sets.iter_mut().find(|set| set.points == points) {
            set.flows += 1;
            return true;
        }
        let fits = self.sets.len() < SETS;
        if fits {
            let (flows, known) = (1, Known::new());
            self.sets.push(Set {
                points,
                flows,
                known,
            });
            self.settle();
        }
        fits
    }

    /// One that did is gone, and what was said of it.
    pub(super) fn gone(&mut self, points: u64, flow: FlowId) {
        let Some(at) = self.at(points) else { return };
        let set = &mut self.sets[at];
        set.known.forget(flow);
        set.flows -= 1;
        if set.flows == 0 {
            self.sets.remove(at);
            self.settle();
        }
    }

    /// What is known of packets with the code point that this one has.
    pub(super) fn of_packet(&mut self, packet: &[u8]) -> Option<&mut Known> {
        let at = self.of[usize::from(dscp(packet)) % POINTS]?;
        self.sets.get_mut(usize::from(at)).map(|set| &mut set.known)
    }

    /// What is known of flows that carry these.
    pub(super) fn of_flow(&mut self, points: u64) -> Option<&mut Known> {
        let at = self.at(points)?;
        Some(&mut self.sets[at].known)
    }

    /// What the user is to hear of talks.
    pub(super) fn signs(&mut self) -> Vec<(FlowId, Talk)> {
        let signs = self.sets.iter_mut().flat_map(|set| set.known.signs());
        signs.collect()
    }

    fn at(&self, points: u64) -> Option<usize> {
        self.sets.iter().position(|set| set.points == points)
    }

    /// Of two sets that have a code point the smaller is meant for it.
    fn settle(&mut self) {
        self.of = std::array::from_fn(|point| {
            let sets = self.sets.iter().enumerate();
            let with = sets.filter(|(_, set)| set.points >> point & 1 == 1);
            let least = with.min_by_key(|(_, set)| set.points.count_ones());
            least.map(|(at, _)| at as u8)
        });
    }
}

const POINTS: usize = 64;
/// Sets of one device; a VPN has one for each class of service, and as many again while it changes its mind.
const SETS: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proto::record::Pair;

    use super::super::known::Way;
    use super::*;

    const VOICE: u64 = 1 << 46;
    const PAIR: Pair = Pair::V4([10, 7, 0, 1], [10, 7, 0, 2]);

    fn packet(point: u8) -> Vec<u8> {
        let mut out = vec![0x45, point << 2, 0, 40];
        out.resize(40, 0);
        out[12..20].copy_from_slice(&[10, 7, 0, 1, 10, 7, 0, 2]);
        out
    }

    fn goes(classes: &mut Classes, point: u8, now: Instant) -> Option<FlowId> {
        let packet = packet(point);
        let known = classes.of_packet(&packet)?;
        known.flow_of(Way::Out, &packet, now)
    }

    #[test]
    fn a_pair_has_a_flow_for_each_set_and_the_smallest_set_counts() {
        let (mut classes, now) = (Classes::new(), Instant::now());
        assert_eq!(goes(&mut classes, 0, now), None);
        for (n, points) in [(1, u64::MAX), (2, VOICE), (3, 0)] {
            assert!(classes.come(points));
            assert!(classes.of_flow(points).unwrap().pair(FlowId(n), PAIR, now));
        }
        assert_eq!(goes(&mut classes, 0, now), Some(FlowId(1)));
        assert_eq!(goes(&mut classes, 46, now), Some(FlowId(2)));
        // Another flow of the same set, for other members, keeps it.
        assert!(classes.come(VOICE));
        classes.gone(VOICE, FlowId(2));
        assert_eq!(goes(&mut classes, 46, now), None);
        classes.gone(VOICE, FlowId(4));
        assert_eq!(goes(&mut classes, 46, now), Some(FlowId(1)));
        classes.gone(u64::MAX, FlowId(1));
        assert_eq!(goes(&mut classes, 0, now), None);
        classes.gone(0, FlowId(3));
        assert!(classes.sets.is_empty());
    }

    #[test]
    fn sets_are_bounded_and_those_that_nobody_has_make_room() {
        let mut classes = Classes::new();
        for n in 0..SETS as u64 {
            assert!(classes.come(n));
        }
        assert!(!classes.come(99) && classes.come(0));
        classes.gone(99, FlowId(1));
        classes.gone(1, FlowId(1));
        assert!(classes.come(99));
    }
}
