//! One number for all records of a range of addresses: two members that hold the same there have the same number. It must
//! not be taken for a proof: whoever signs records can make two of its own add up to the same, and so keep a neighbour from
//! asking for the newer of the two; records of others it can't choose.

use proto::Addr;
use ring::digest::{Context, SHA256};

use super::super::record::{Kind, Version};

/// The sums of the records of each of 2¹⁰ ranges of addresses.
#[derive(Clone)]
pub(super) struct Sums(Box<[u64]>);

impl Sums {
    /// Ranges are never smaller than this part of all addresses.
    pub(super) const BITS: u32 = 10;

    /// How many leading bits of the address tell the ranges of a layer of that many members: about 16 in each.
    pub(super) fn bits(members: usize) -> u32 {
        (members / 16).next_power_of_two().ilog2().min(Self::BITS)
    }

    /// The first and the last address of a range.
    pub(super) fn range(i: u64, bits: u32) -> (u64, u64) {
        let rest = u64::MAX.checked_shr(bits).unwrap_or(0);
        let first = i.checked_shl(u64::BITS - bits).unwrap_or(0);
        (first, first | rest)
    }

    /// The sums of coarser ranges.
    pub(super) fn coarse(&self, bits: u32) -> Vec<u64> {
        let sum = |part: &[u64]| part.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one));
        self.0.chunks(self.0.len() >> bits).map(sum).collect()
    }

    pub(super) fn add(&mut self, origin: Addr, hash: u64) {
        let sum = self.at(origin);
        *sum = sum.wrapping_add(hash);
    }

    pub(super) fn take(&mut self, origin: Addr, hash: u64) {
        let sum = self.at(origin);
        *sum = sum.wrapping_sub(hash);
    }

    fn at(&mut self, origin: Addr) -> &mut u64 {
        let range = origin.0 >> (u64::BITS - Self::BITS);
        &mut self.0[usize::try_from(range).unwrap_or(0)]
    }
}

impl Default for Sums {
    fn default() -> Self {
        Self(vec![0; 1 << Self::BITS].into_boxed_slice())
    }
}

/// What a record adds to its range: the first 8 bytes of SHA-256(origin ‖ kind ‖ incarnation ‖ counter).
pub(super) fn hash(origin: Addr, kind: Kind, version: Version) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(&origin.0.to_be_bytes());
    context.update(&kind.to_wire().to_be_bytes());
    context.update(&version.incarnation.to_be_bytes());
    context.update(&version.counter.to_be_bytes());
    let digest = context.finish();
    let (head, _) = digest
        .as_ref()
        .split_first_chunk()
        .unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all_addresses_without_gaps() {
        for bits in 0..=Sums::BITS {
            let ranges: Vec<_> = (0..1 << bits).map(|i| Sums::range(i, bits)).collect();
            assert_eq!((ranges[0].0, ranges.last().unwrap().1), (0, u64::MAX));
            assert!(
                ranges.windows(2).all(|w| w[0].1 + 1 == w[1].0),
                "{bits} bits"
            );
        }
        assert_eq!(
            [0, 31, 32, 1000, 10_000, 16_384].map(Sums::bits),
            [0, 0, 1, 6, 10, 10]
        );
    }

    #[test]
    fn a_sum_is_that_of_what_was_added_and_not_taken() {
        let mut sums = Sums::default();
        sums.add(Addr(1), 5);
        sums.add(Addr(u64::MAX), u64::MAX);
        sums.add(Addr(1 << 63), 7);
        sums.take(Addr(1), 5);
        assert_eq!(sums.coarse(0), [6]);
        assert_eq!(sums.coarse(1), [0, 6]);
        assert_eq!(sums.coarse(2), [0, 0, 7, u64::MAX]);
    }

    /// The table of docs/protocol.md.
    #[test]
    fn the_hash_of_a_record_is_that_of_the_protocol() {
        let version = Version {
            incarnation: 2,
            counter: 3,
        };
        let hash = hash(Addr(1), Kind::LINKS, version);
        let table = crate::vectors::row("hash of a record of links");
        assert_eq!([hash.to_be_bytes().to_vec()], table);
    }
}
