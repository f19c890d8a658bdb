//! Packets on their way to one lower flow: control and data in queues of their own, each in as few batches as possible.

use std::collections::VecDeque;

use proto::{Batch, Framing};

/// The two queues of one lower flow.
#[derive(Debug)]
pub(super) struct TxQueue {
    framing: Framing,
    control: VecDeque<Batch>,
    data: VecDeque<Batch>,
}

/// Which of the two; control always goes first and is never starved by data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Control,
    Data,
}

impl TxQueue {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            framing,
            control: VecDeque::new(),
            data: VecDeque::new(),
        }
    }

    /// Room for a packet of `len` bytes behind those that wait; `None` if it is too long or too many wait.
    pub(super) fn slot(&mut self, class: Class, len: usize) -> Option<&mut [u8]> {
        let framing = self.framing;
        let queue = self.queue(class);
        if !queue.back().is_some_and(|b| b.fits(len)) {
            if queue.len() >= MAX_BATCHES {
                return None;
            }
            queue.push_back(Batch::new(framing));
        }
        queue.back_mut()?.push(len)
    }

    /// Takes back the packet that [`TxQueue::slot`] gave last.
    pub(super) fn undo(&mut self, class: Class) {
        if let Some(batch) = self.queue(class).back_mut() {
            batch.pop();
        }
    }

    /// The next batch of that class.
    pub(super) fn pop(&mut self, class: Class) -> Option<Batch> {
        let queue = self.queue(class);
        std::iter::from_fn(|| queue.pop_front()).find(|batch| !batch.is_empty())
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<Batch> {
        match class {
            Class::Control => &mut self.control,
            Class::Data => &mut self.data,
        }
    }
}

/// Of 64 KiB each. The runtime drains the machine after every input, so this many never wait in good order.
const MAX_BATCHES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_one_size_share_a_train_and_a_longer_one_begins_the_next() {
        let mut queue = TxQueue::new(Framing::Train);
        for len in [100, 100, 100, 120, 120] {
            assert_eq!(queue.slot(Class::Data, len).unwrap().len(), len);
        }
        let counts: Vec<_> = std::iter::from_fn(|| queue.pop(Class::Data))
            .map(|b| b.count())
            .collect();
        assert_eq!(counts, [3, 2]);
    }

    #[test]
    fn a_packet_that_was_taken_back_leaves_nothing() {
        let mut queue = TxQueue::new(Framing::Record);
        assert!(queue.slot(Class::Control, 10).is_some());
        queue.undo(Class::Control);
        assert!(queue.pop(Class::Control).is_none());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = TxQueue::new(Framing::Train);
        // Each longer than the one before, so that each needs a train of its own.
        let taken = (1..500)
            .take_while(|len| queue.slot(Class::Data, *len).is_some())
            .count();
        assert_eq!(taken, MAX_BATCHES);
        assert!(queue.slot(Class::Control, 1).is_some());
    }
}
