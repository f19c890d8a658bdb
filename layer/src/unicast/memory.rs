//! The memory that all flows under FRCT share for what waits in them: which of them may keep how much. It must not know what they
//! keep.

use crate::frct::Buffers;

/// What is shared, and what is left of it.
#[derive(Debug)]
pub(super) struct Memory {
    left: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { left: SHARED }
    }
}

impl Memory {
    /// The buffers of a flow that begins: [`LEAST`] each way in any case, [`FIRST`] as long as there is memory.
    pub(super) fn begin(&mut self) -> Buffers {
        let least = Buffers {
            send: LEAST,
            receive: LEAST,
        };
        let first = Buffers {
            send: FIRST,
            receive: FIRST,
        };
        self.grow(least, first)
    }

    /// The buffers of a flow that has `held` and wants `wanted`: no less than before, at most [`MOST`] each way, and no more
    /// than is left. They are to be given back.
    pub(super) fn grow(&mut self, held: Buffers, wanted: Buffers) -> Buffers {
        let mut step = |held: usize, wanted: usize| {
            let more = wanted.min(MOST).saturating_sub(held).min(self.left);
            self.left -= more;
            held + more
        };
        Buffers {
            receive: step(held.receive, wanted.receive),
            send: step(held.send, wanted.send),
        }
    }

    /// A flow that held these is gone.
    pub(super) fn give_back(&mut self, held: Buffers) {
        self.left += held.total().saturating_sub(2 * LEAST);
    }
}

/// What all flows share beyond what each has in any case, in bytes.
const SHARED: usize = 512 << 20;
/// The most of one flow, one way: 12 Gbit/s at 20 ms.
const MOST: usize = 32 << 20;
/// What a flow begins with, one way: less than the buffer of a socket below, so that a burst isn't lost there.
const FIRST: usize = 1 << 20;
/// What each has in any case, one way: an SDU of any size, and the window that both sides take for granted at first.
const LEAST: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_flows_together_keep_no_more_than_is_shared_and_each_has_its_least() {
        let mut memory = Memory::default();
        let all = Buffers {
            send: usize::MAX,
            receive: usize::MAX,
        };
        let mut flows: Vec<_> = (0..2000).map(|_| memory.begin()).collect();
        assert!(flows[0].send == FIRST && flows[1999].send == LEAST);
        for flow in &mut flows {
            *flow = memory.grow(*flow, all);
            assert!(flow.send >= LEAST && flow.receive >= LEAST);
        }
        let total: usize = flows.iter().map(|f| f.total() - 2 * LEAST).sum();
        assert!(total <= SHARED, "{total}");
        flows.drain(..).for_each(|held| memory.give_back(held));
        assert_eq!(memory.left, SHARED, "all of it is back");
        let first = memory.begin();
        let grown = memory.grow(first, all);
        assert_eq!((grown.send, grown.receive), (MOST, MOST));
    }
}
