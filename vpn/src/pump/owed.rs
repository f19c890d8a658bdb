//! Taking pairs back that the layer's process was told of: at once, or as soon as it takes a word again, or by closing the flow.

use std::time::{Duration, Instant};

use proto::{Code, Reason};

use super::{Core, member, place};
use crate::class::Class;
use crate::flow::FlowPort;
use crate::prefix::PeerId;
use crate::session::Side;

impl<F: FlowPort> Core<F> {
    /// Has the layer's process forget the pairs of all flows of the member whose place this is.
    pub(super) fn forget_pairs(&mut self, id: PeerId, now: Instant) {
        for class in Class::ALL {
            self.forget_of(place(member(id), class), now);
        }
    }

    fn forget_of(&mut self, id: PeerId, now: Instant) {
        let Some(handle) = &self.handle else { return };
        let mut owes = false;
        for side in [Side::Dialled, Side::Accepted] {
            let flow = (self.peers.get_mut(id.0 as usize)).and_then(|p| p.session.flow_mut(side));
            let Some(flow) = flow else { continue };
            let (owed, handed) = (flow.owes().is_some(), flow.is_handed());
            flow.hand(handle, now);
            self.all.handed(handed, flow);
            if flow.owes().is_some() && !owed {
                self.owing.push((id, side));
                owes = true;
            }
        }
        if owes {
            self.wait_on(id);
            self.owing_due.get_or_insert(now + AGAIN);
        }
    }

    /// Says what is owed to the flows that take it now; who has taken nothing for long is closed, and its pairs with it.
    pub(super) fn forget_owed(&mut self, now: Instant) {
        if self.owing.is_empty() {
            return;
        }
        for (id, side) in std::mem::take(&mut self.owing) {
            let flow = (self.peers.get_mut(id.0 as usize)).and_then(|p| p.session.flow_mut(side));
            // Another flow may be there by now.
            let Some((flow, handle)) = flow
                .filter(|f| f.owes().is_some())
                .zip(self.handle.as_ref())
            else {
                continue;
            };
            flow.hand(handle, now);
            match flow.owes() {
                None => self.wait_on(id),
                Some(since) if now.saturating_duration_since(since) < LONGEST => {
                    self.owing.push((id, side));
                }
                Some(_) => {
                    let text = format!(
                        "the layer's process has read nothing for {} s, and is not to go on by what it was told before",
                        LONGEST.as_secs()
                    );
                    self.link_down(id, side, Reason::new(Code::TimedOut, text), now);
                }
            }
        }
        self.owing_due = (!self.owing.is_empty()).then(|| now + AGAIN);
    }
}

/// Between attempts, where the socket doesn't say that it has room.
const AGAIN: Duration = Duration::from_millis(100);
/// What stands for so long although it should not is ended with its flow.
const LONGEST: Duration = Duration::from_secs(2);
