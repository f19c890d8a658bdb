//! Sets of numbers as ranges, few and in order.

use std::collections::VecDeque;
use std::ops::Range;

/// Ranges that neither overlap nor touch, the least first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Ranges(VecDeque<Range<u64>>);

impl Ranges {
    /// Adds a range; at the upper end, as most are, in constant time.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.0.back_mut() {
            if last.end == range.start {
                last.end = range.end;
                return;
            }
            if last.end > range.start {
                self.merge(range);
                return;
            }
        }
        self.0.push_back(range);
    }

    fn merge(&mut self, mut range: Range<u64>) {
        let from = self.0.partition_point(|r| r.end < range.start);
        let to = self.0.partition_point(|r| r.start <= range.end);
        if from == to {
            self.0.insert(from, range);
            return;
        }
        range.start = range.start.min(self.0[from].start);
        range.end = range.end.max(self.0[to - 1].end);
        self.0[from] = range;
        self.0.drain(from + 1..to);
    }

    /// Takes a range out.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|r| r.end <= range.start);
        let to = self.0.partition_point(|r| r.start < range.end);
        if from == to {
            return;
        }
        let head = self.0[from].start..range.start;
        let tail = range.end..self.0[to - 1].end;
        self.0.drain(from..to);
        if !tail.is_empty() {
            self.0.insert(from, tail);
        }
        if !head.is_empty() {
            self.0.insert(from, head);
        }
    }

    /// What of a range isn't in the set, the least first.
    pub(super) fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let from = self.0.partition_point(|r| r.end <= range.start);
        let mut at = range.start;
        let end = range.end;
        let within = self.0.range(from..).take_while(move |r| r.start < end);
        within
            .cloned()
            .chain(std::iter::once(end..end))
            .map(move |r| {
                let gap = at..r.start;
                at = r.end;
                gap
            })
            .filter(|gap| !gap.is_empty())
    }

    /// Forgets all below `floor`.
    pub(super) fn forget_below(&mut self, floor: u64) {
        while let Some(first) = self.0.front_mut() {
            if first.end > floor {
                first.start = first.start.max(floor);
                return;
            }
            self.0.pop_front();
        }
    }

    /// Forgets the least ranges until there are `most`.
    pub(super) fn keep(&mut self, most: usize) {
        while self.0.len() > most {
            self.0.pop_front();
        }
    }

    /// Takes the least range if it begins at or before `at`; gives its end.
    pub(super) fn reach(&mut self, at: u64) -> Option<u64> {
        if self.0.front()?.start > at {
            return None;
        }
        self.0.pop_front().map(|r| r.end)
    }

    pub(super) fn first(&self) -> Option<&Range<u64>> {
        self.0.front()
    }

    pub(super) fn last(&self) -> Option<&Range<u64>> {
        self.0.back()
    }

    /// The greatest first.
    pub(super) fn descending(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().rev().cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_numbers(acts in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..9), 0..40), from in 0u64..60, len in 0u64..30) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (add, start, len) in acts {
                let range = start..start + len;
                if add {
                    ranges.insert(range.clone());
                    set.extend(range);
                } else {
                    ranges.remove(&range);
                    set.retain(|n| !range.contains(n));
                }
                let all: Vec<_> = ranges.0.iter().cloned().collect();
                prop_assert!(all.iter().all(|r| !r.is_empty()));
                prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(&all.into_iter().flatten().collect::<BTreeSet<_>>(), &set);
            }
            let gaps: Vec<u64> = ranges.gaps(from..from + len).flatten().collect();
            let missing: Vec<u64> = (from..from + len).filter(|n| !set.contains(n)).collect();
            prop_assert_eq!(gaps, missing);
            ranges.forget_below(from);
            prop_assert_eq!(ranges.0.into_iter().flatten().collect::<Vec<_>>(), set.range(from..).copied().collect::<Vec<_>>());
        }
    }
}
