//! The two directions of one level's TLS stream: what is sent until it is acknowledged, what came in any order.

/// Bytes to send, kept until acknowledged.
#[derive(Default)]
pub(super) struct Outgoing {
    data: Vec<u8>,
    acked: usize,
    next: usize,
}

/// Bytes received. All are kept: that a retransmission differs from what came first tells of a forgery.
#[derive(Default)]
pub(super) struct Incoming {
    data: Vec<u8>,
    /// What is there, sorted and apart.
    ranges: Vec<(usize, usize)>,
    taken: usize,
}

/// What came of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// At least one byte was new.
    New,
    /// All were known: a retransmission.
    Known,
    /// They differ from what TLS has been given; nothing was kept.
    Conflict,
    /// They reach beyond what is buffered; nothing was kept.
    TooMuch,
}

impl Outgoing {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.data.extend(bytes);
    }

    /// The next bytes to send, at most `max`, with their offset.
    pub(super) fn take(&mut self, max: usize) -> Option<(usize, Vec<u8>)> {
        let at = self.next;
        let end = self.data.len().min(at + max);
        self.next = end;
        (end > at).then(|| (at, self.data[at..end].to_vec()))
    }

    /// Whether [`Outgoing::take`] has something.
    pub(super) fn pending(&self) -> bool {
        self.next < self.data.len()
    }

    /// Whether everything was acknowledged.
    pub(super) fn done(&self) -> bool {
        self.acked == self.data.len()
    }

    /// The end of what was sent, which no acknowledgement may exceed.
    pub(super) fn sent(&self) -> usize {
        self.next.max(self.acked)
    }

    /// Everything before `contiguous` has arrived; says whether that is news.
    pub(super) fn ack(&mut self, contiguous: usize) -> bool {
        let news = contiguous > self.acked && contiguous <= self.data.len();
        if news {
            self.acked = contiguous;
            self.next = self.next.max(contiguous);
        }
        news
    }

    /// Everything has arrived, as something else shows.
    pub(super) fn ack_all(&mut self) {
        self.ack(self.data.len());
    }

    /// Sends again what wasn't acknowledged.
    pub(super) fn rewind(&mut self) {
        self.next = self.acked;
    }
}

impl Incoming {
    /// The most bytes of one level: 64 KiB.
    pub(super) const MAX: usize = 64 * 1024;
    const MAX_RANGES: usize = 64;

    /// Keeps bytes at an offset. What was taken stands; what only waits yields to what comes later, so that a forgery
    /// that came first is healed by a retransmission.
    pub(super) fn insert(&mut self, offset: usize, bytes: &[u8]) -> Inserted {
        let end = offset.saturating_add(bytes.len());
        if end > Self::MAX {
            return Inserted::TooMuch;
        }
        let mut known = 0;
        for (a, b) in self
            .ranges
            .iter()
            .map(|(a, b)| (offset.max(*a), end.min(*b)))
            .filter(|(a, b)| a < b)
        {
            let differs = |(mine, theirs)| mine != theirs;
            let first = self.data[a..b]
                .iter()
                .zip(&bytes[a - offset..b - offset])
                .position(differs);
            match first {
                Some(at) if a + at < self.taken => return Inserted::Conflict,
                Some(_) => return self.insert_anew(offset, bytes),
                None => known += b - a,
            }
        }
        if known == bytes.len() {
            return Inserted::Known;
        }
        let (touching, mut apart): (Vec<_>, Vec<_>) = self
            .ranges
            .iter()
            .partition(|(a, b)| *a <= end && offset <= *b);
        let merged = touching
            .iter()
            .fold((offset, end), |(a, b), (c, d)| (a.min(*c), b.max(*d)));
        apart.push(merged);
        apart.sort_unstable();
        if apart.len() > Self::MAX_RANGES {
            return self.insert_anew(offset, bytes);
        }
        self.ranges = apart;
        self.data.resize(self.data.len().max(end), 0);
        self.data[offset..end].copy_from_slice(bytes);
        Inserted::New
    }

    /// Forgets all that waits, then inserts: with nothing but taken bytes left, that can't come back here.
    fn insert_anew(&mut self, offset: usize, bytes: &[u8]) -> Inserted {
        self.ranges
            .retain(|(start, _)| *start == 0 && self.taken > 0);
        self.ranges
            .iter_mut()
            .for_each(|(_, end)| *end = self.taken);
        self.data.truncate(self.taken);
        self.insert(offset, bytes)
    }

    /// How many bytes are there without a gap.
    pub(super) fn contiguous(&self) -> usize {
        self.ranges
            .first()
            .filter(|(start, _)| *start == 0)
            .map_or(0, |(_, end)| *end)
    }

    /// The bytes that follow those taken before, as far as there is no gap.
    pub(super) fn take(&mut self) -> &[u8] {
        let from = self.taken;
        self.taken = self.contiguous();
        &self.data[from..self.taken]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_in_any_order_become_the_stream(len in 1usize..600, cuts in prop::collection::vec((0usize..600, 1usize..90), 0..60)) {
            let stream: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let (mut incoming, mut got, mut seen) = (Incoming::default(), Vec::<u8>::new(), vec![false; len]);
            for (start, size) in cuts.into_iter().chain((0..len).step_by(80).map(|s| (s, 80))) {
                let (start, end) = (start.min(len), (start + size).min(len));
                let fresh = seen[start..end].iter().any(|s| !s);
                let verdict = incoming.insert(start, &stream[start..end]);
                prop_assert_eq!(verdict, if fresh { Inserted::New } else { Inserted::Known });
                seen[start..end].fill(true);
                prop_assert_eq!(incoming.contiguous(), seen.iter().take_while(|s| **s).count());
                got.extend(incoming.take());
            }
            prop_assert_eq!(got, stream);
        }
    }

    #[test]
    fn what_was_taken_stands_and_what_waits_yields() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.insert(0, b"begin"), Inserted::New);
        assert_eq!(incoming.take(), b"begin");
        assert_eq!(incoming.insert(10, b"forged"), Inserted::New);
        assert_eq!(incoming.insert(3, b"iX"), Inserted::Conflict);
        assert_eq!(incoming.insert(3, b"in and mo"), Inserted::New);
        assert_eq!(
            (incoming.contiguous(), incoming.take()),
            (12, &b" and mo"[..])
        );
        assert_eq!(incoming.insert(Incoming::MAX - 1, b"zz"), Inserted::TooMuch);
        assert_eq!(incoming.insert(usize::MAX, b"zz"), Inserted::TooMuch);
    }

    #[test]
    fn many_small_gaps_are_bounded() {
        let mut incoming = Incoming::default();
        for i in 0..10_000 {
            assert_eq!(incoming.insert(i * 2 + 1, b"x"), Inserted::New);
            assert!(incoming.ranges.len() <= Incoming::MAX_RANGES);
        }
        assert_eq!(incoming.insert(0, b"y"), Inserted::New);
        assert_eq!(incoming.take(), b"y");
    }

    #[test]
    fn outgoing_bytes_are_sent_until_acknowledged() {
        let mut out = Outgoing::default();
        out.push(b"hello world");
        assert_eq!(out.take(5), Some((0, b"hello".to_vec())));
        assert_eq!(out.take(50), Some((5, b" world".to_vec())));
        assert!(!out.pending() && !out.done());
        assert!(out.ack(5) && !out.ack(5) && !out.ack(12));
        out.rewind();
        assert_eq!(out.take(50), Some((5, b" world".to_vec())));
        out.ack_all();
        assert!(out.done() && out.take(9).is_none());
    }
}
