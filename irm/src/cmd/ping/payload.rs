//! The SDU of a ping: `sequence u64, "irm ping"`, then bytes that follow from the sequence number.

/// Makes the SDU; `size` is at least [`LEAST`].
pub(super) fn payload(sequence: u64, size: usize) -> Vec<u8> {
    let mut sdu = Vec::with_capacity(size);
    sdu.extend_from_slice(&sequence.to_be_bytes());
    sdu.extend_from_slice(MARK);
    sdu.extend((LEAST..size).map(|at| filling(sequence, at)));
    sdu
}

/// The number of an SDU that came back whole; `None` if a byte of it was changed, added or lost.
pub(super) fn sequence(sdu: &[u8], size: usize) -> Option<u64> {
    let number = u64::from_be_bytes(*sdu.first_chunk()?);
    let whole = sdu.len() == size && sdu[8..].starts_with(MARK);
    let filled = || {
        sdu.iter()
            .enumerate()
            .skip(LEAST)
            .all(|(at, byte)| *byte == filling(number, at))
    };
    (whole && filled()).then_some(number)
}

fn filling(sequence: u64, at: usize) -> u8 {
    (sequence as u8).wrapping_mul(31).wrapping_add(at as u8)
}

const MARK: &[u8; 8] = b"irm ping";
const LEAST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::vector;
    use proptest::prelude::*;

    #[test]
    fn a_ping_has_the_bytes_of_the_document() {
        assert_eq!(payload(5, 24), vector("ping"));
        assert_eq!(sequence(&vector("ping"), 24), Some(5));
    }

    proptest! {
        #[test]
        fn what_comes_back_whole_has_its_number(number: u64, size in LEAST..3000) {
            prop_assert_eq!(sequence(&payload(number, size), size), Some(number));
        }

        #[test]
        fn a_changed_or_cut_sdu_is_noticed(number in 0u64..1000, size in LEAST + 64..500, at in 8usize..500, bit in 0u8..8) {
            let mut sdu = payload(number, size);
            let at = 8 + at % (size - 8);
            sdu[at] ^= 1 << bit;
            prop_assert_eq!(sequence(&sdu, size), None);
            prop_assert_eq!(sequence(&payload(number, size)[..at], size), None);
        }
    }
}
