//! The Internet checksum (RFC 1071).

/// A ones' complement sum that is not folded yet. Ranges of bytes are added in any order, each at an even place of what is summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// With the bytes added, of which the last is padded with a zero if their number is odd; at most 2^32 bytes in all.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Words of 32 bits keep the sum, since 2^16 is 1 modulo 2^16 - 1; so many lanes are what compilers make vectors of.
        let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
        let mut lanes = [0u64; LANES];
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, tail) = rest.as_chunks::<2>();
        let mut sum = self.0 + lanes.iter().sum::<u64>();
        for word in words {
            sum += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = tail {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// With one field of 16 bits added.
    #[must_use]
    pub fn field(self, value: u16) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// With one field of 16 bits taken out that was added before.
    #[must_use]
    pub fn without(self, value: u16) -> Self {
        self.field(!value)
    }

    /// The sum itself, as it lies in a packet.
    pub fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        // Folded into 16 bits just now.
        (sum as u16).to_ne_bytes()
    }

    /// What a checksum field holds: the complement of the sum.
    pub fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether bytes that were summed with their checksum are what was sent.
    pub fn is_right(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

const LANES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 §4.1 writes it down.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (sum as u16).to_be_bytes()
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_the_rfc(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).folded(), plain(&bytes));
        }

        #[test]
        fn parts_at_even_places_add_up(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let (a, b) = bytes.split_at((2 * cut).min(bytes.len() & !1));
            prop_assert_eq!(Sum::default().bytes(b).bytes(a).folded(), plain(&bytes));
        }

        #[test]
        fn a_field_is_two_bytes_and_can_be_taken_out(bytes: [u8; 8], field: u16) {
            let sum = Sum::default().bytes(&bytes);
            let more = sum.field(field);
            prop_assert_eq!(more, sum.bytes(&field.to_be_bytes()));
            // Zero has two faces in ones' complement.
            let zero = |sum: [u8; 2]| if sum == [0xff; 2] { [0; 2] } else { sum };
            prop_assert_eq!(zero(more.without(field).folded()), zero(sum.folded()));
        }
    }
}
