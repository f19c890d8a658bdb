//! The memory that all flows under FRCT share for what waits in them: how many of them there may be, and which may keep how
//! much. It must not know what they keep.

use proto::Addr;
use rustc_hash::FxHashMap;

use super::limits::Bounds;
use crate::frct::Buffers;

/// What is shared, and who has how much of it.
#[derive(Debug)]
pub(super) struct Memory {
    /// Of what is shared beyond the least.
    left: usize,
    flows: usize,
    peers: FxHashMap<Addr, Share>,
}

/// What the flows with one member have.
#[derive(Debug, Default)]
struct Share {
    flows: usize,
    /// Beyond the least.
    bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            left: SHARED,
            flows: 0,
            peers: FxHashMap::default(),
        }
    }
}

impl Memory {
    /// Whether one more flow with that member may begin; if not, the word for what is used up.
    pub(super) fn room(&self, peer: Addr, bounds: &Bounds) -> Result<(), &'static str> {
        let with = self.peers.get(&peer).map_or(0, |share| share.flows);
        if self.flows >= bounds.memory {
            return Err("limit.memory");
        }
        if with >= bounds.memory_member {
            return Err("limit.memory_member");
        }
        Ok(())
    }

    /// The buffers of a flow that begins: [`LEAST`] each way in any case, [`FIRST`] as long as there is memory.
    pub(super) fn begin(&mut self, peer: Addr) -> Buffers {
        self.flows += 1;
        self.peers.entry(peer).or_default().flows += 1;
        let least = Buffers {
            send: LEAST,
            receive: LEAST,
        };
        let first = Buffers {
            send: FIRST,
            receive: FIRST,
        };
        self.grow(peer, least, first)
    }

    /// The buffers of a flow that has `held` and wants `wanted`: no less than before, at most [`MOST`] each way, and no more
    /// than leaves as much as all flows with that member have then, so that nobody takes what others need (the dynamic
    /// thresholds of Choudhury and Hahne, 1998). They are to be given back.
    pub(super) fn grow(&mut self, peer: Addr, held: Buffers, wanted: Buffers) -> Buffers {
        let share = self.peers.entry(peer).or_default();
        let left = &mut self.left;
        let mut step = |held: usize, wanted: usize| {
            let room = left.saturating_sub(share.bytes) / 2;
            let more = wanted.min(MOST).saturating_sub(held).min(room);
            *left -= more;
            share.bytes += more;
            held + more
        };
        Buffers {
            receive: step(held.receive, wanted.receive),
            send: step(held.send, wanted.send),
        }
    }

    /// A flow with that member that held these is gone.
    pub(super) fn give_back(&mut self, peer: Addr, held: Buffers) {
        let bytes = held.total().saturating_sub(2 * LEAST);
        self.left += bytes;
        self.flows -= 1;
        if let Some(share) = self.peers.get_mut(&peer) {
            share.flows -= 1;
            share.bytes -= bytes;
            if share.flows == 0 {
                self.peers.remove(&peer);
            }
        }
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

    const ALL: Buffers = Buffers {
        send: usize::MAX,
        receive: usize::MAX,
    };

    #[test]
    fn all_flows_together_keep_no_more_than_is_shared_and_each_has_its_least() {
        let mut memory = Memory::default();
        let mut flows: Vec<_> = (0..2000)
            .map(|n| {
                let peer = Addr(n % 40);
                (peer, memory.begin(peer))
            })
            .collect();
        assert!(flows[0].1.send == FIRST && flows[1999].1.send == LEAST);
        for (peer, flow) in &mut flows {
            *flow = memory.grow(*peer, *flow, ALL);
            assert!(flow.send >= LEAST && flow.receive >= LEAST);
        }
        let total: usize = flows.iter().map(|(_, f)| f.total() - 2 * LEAST).sum();
        assert!(total <= SHARED, "{total}");
        for (peer, held) in flows {
            memory.give_back(peer, held);
        }
        assert_eq!(
            (memory.left, memory.flows),
            (SHARED, 0),
            "all of it is back"
        );
        assert!(memory.peers.is_empty());
        let first = memory.begin(Addr(1));
        let grown = memory.grow(Addr(1), first, ALL);
        assert_eq!((grown.send, grown.receive), (MOST, MOST));
    }

    #[test]
    fn a_member_that_takes_all_it_gets_leaves_as_much_for_others() {
        let (mut memory, bounds) = (Memory::default(), Bounds::default());
        let greedy = Addr(1);
        while memory.room(greedy, &bounds).is_ok() {
            let held = memory.begin(greedy);
            memory.grow(greedy, held, ALL);
        }
        assert_eq!(memory.room(greedy, &bounds), Err("limit.memory_member"));
        assert!(memory.left >= SHARED / 2, "{}", memory.left);
        for other in 2..5 {
            assert_eq!(memory.room(Addr(other), &bounds), Ok(()));
            let held = memory.begin(Addr(other));
            let held = memory.grow(Addr(other), held, ALL);
            assert_eq!((held.send, held.receive), (MOST, MOST));
        }
    }

    #[test]
    fn there_are_so_many_flows_and_no_more() {
        let (mut memory, bounds) = (Memory::default(), Bounds::default());
        let taken = (0..).map(|n| Addr(n / 50));
        let taken = taken.take_while(|peer| {
            let room = memory.room(*peer, &bounds).is_ok();
            if room {
                memory.begin(*peer);
            }
            room
        });
        assert_eq!(taken.count(), bounds.memory);
        assert_eq!(memory.room(Addr(u64::MAX), &bounds), Err("limit.memory"));
    }
}
