//! Which counters of a key have been seen: a sliding bitmap (RFC 6479).

use super::OpenError;

/// Remembers the newest [`ReplayWindow::SIZE`] counters; older ones are refused unseen.
///
/// The bitmap is a ring of words, so that advancing clears whole words and never shifts.
#[derive(Clone)]
pub struct ReplayWindow {
    /// One more than the highest counter that was marked.
    next: u64,
    words: [u64; WORDS],
}

impl ReplayWindow {
    /// How far behind the newest counter one may be.
    pub const SIZE: u64 = 8192;

    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self {
            next: 0,
            words: [0; WORDS],
        }
    }

    /// Whether a packet with this counter may be taken. Marks nothing: before a packet is authenticated, its counter is
    /// only a claim.
    pub fn check(&self, counter: u64) -> Result<(), OpenError> {
        if counter >= self.next {
            return Ok(());
        }
        // `next` is above `counter`, so the difference is at least 1: the newest has age 1.
        if self.next - counter > Self::SIZE {
            return Err(OpenError::TooOld);
        }
        let (word, bit) = place(counter);
        if self.words[word] & bit != 0 {
            Err(OpenError::Replayed)
        } else {
            Ok(())
        }
    }

    /// Marks a counter whose packet was authenticated; refuses what [`ReplayWindow::check`] refuses.
    pub fn mark(&mut self, counter: u64) -> Result<(), OpenError> {
        // The last number has no successor; no key lives to see it.
        let Some(after) = counter.checked_add(1) else {
            return Err(OpenError::Exhausted);
        };
        self.check(counter)?;
        if after > self.next {
            self.advance(after);
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
        Ok(())
    }

    /// Clears the words between the old newest counter and the new one.
    fn advance(&mut self, after: u64) {
        let old = self.next.checked_sub(1).map_or(0, |newest| newest / 64);
        let new = (after - 1) / 64;
        for word in (old + 1..=new).take(WORDS) {
            self.words[word as usize % WORDS] = 0;
        }
        self.next = after;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

fn place(counter: u64) -> (usize, u64) {
    // Only the remainder matters, so that cutting to usize before it would be wrong on 32 bits.
    (
        ((counter / 64) % WORDS as u64) as usize,
        1 << (counter % 64),
    )
}

/// One word more than the window, so that the word that is being filled never holds bits that still count.
const WORDS: usize = ReplayWindow::SIZE as usize / 64 + 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const W: u64 = ReplayWindow::SIZE;

    #[test]
    fn each_counter_is_taken_once_and_only_inside_the_window() {
        use OpenError::{Exhausted, Replayed, TooOld};
        // One window over the whole table, in order: number, counter, verdict.
        let table = [
            (1, 0, Ok(())),
            (2, 1, Ok(())),
            (3, 1, Err(Replayed)),
            (4, 9, Ok(())),
            (5, 8, Ok(())),
            (6, 7, Ok(())),
            (7, 7, Err(Replayed)),
            (8, W, Ok(())),
            (9, W - 1, Ok(())),
            (10, W - 1, Err(Replayed)),
            (11, W - 2, Ok(())),
            (12, 2, Ok(())),
            (13, 2, Err(Replayed)),
            (14, W + 16, Ok(())),
            (15, 3, Err(TooOld)),
            (16, W + 16, Err(Replayed)),
            (17, W * 4, Ok(())),
            (18, W * 4 - (W - 1), Ok(())),
            (19, 10, Err(TooOld)),
            (20, W * 4 - W, Err(TooOld)),
            (21, W * 4 - (W + 1), Err(TooOld)),
            (22, W * 4 - (W - 2), Ok(())),
            (23, W * 4 - (W - 2), Err(Replayed)),
            (24, W * 4 + 1 - W, Err(Replayed)),
            (25, 0, Err(TooOld)),
            (26, 1 << 40, Ok(())),
            (27, (1 << 40) - W, Err(TooOld)),
            (28, (1 << 40) - W + 1, Ok(())),
            (29, (1 << 40) + 63, Ok(())),
            (30, (1 << 40) + 64, Ok(())),
            (31, (1 << 40) + 63, Err(Replayed)),
            (32, u64::MAX - 1, Ok(())),
            (33, u64::MAX - 1, Err(Replayed)),
            (34, u64::MAX, Err(Exhausted)),
        ];
        let mut window = ReplayWindow::new();
        for (number, counter, verdict) in table {
            assert_eq!(
                window.mark(counter),
                verdict,
                "case {number}: counter {counter}"
            );
        }
    }

    #[test]
    fn a_full_window_backwards_is_taken_once() {
        let mut window = ReplayWindow::new();
        for counter in (1..=W).rev() {
            assert_eq!(window.mark(counter), Ok(()));
        }
        assert_eq!(window.mark(0), Err(OpenError::TooOld));
        for counter in 1..=W {
            assert_eq!(window.mark(counter), Err(OpenError::Replayed));
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_all_seen(steps in prop::collection::vec((0u64..3 * W, 0u8..20), 1..400)) {
            let mut window = ReplayWindow::new();
            let (mut seen, mut base) = (BTreeSet::new(), 0u64);
            for (counter, jump) in steps {
                base += if jump == 0 { W / 2 } else { 0 };
                let counter = base + counter;
                let newest = seen.last().copied().unwrap_or(0);
                let verdict = if seen.contains(&counter) && newest - counter < W {
                    Err(OpenError::Replayed)
                } else if counter < newest && newest - counter >= W {
                    Err(OpenError::TooOld)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.mark(counter), verdict);
                if verdict.is_ok() {
                    seen.insert(counter);
                }
            }
        }
    }
}
