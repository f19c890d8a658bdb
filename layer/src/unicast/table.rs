//! All links of this member by their lower flows, and which of them have something to do: an input concerns one of them, of
//! which there may be thousands. It must not know what a link does.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Instant;

use proto::{Batch, FlowId};

use super::link::{Link, Unsealed};
use super::stats::Stats;

/// The links. Whoever changes one stirs it.
#[derive(Default)]
pub(super) struct Links {
    all: BTreeMap<FlowId, Link>,
    /// Those that control has to look at.
    stirred: Few,
    /// Those that may have packets to give.
    sends: Few,
    /// When each wants to be looked at, as it was when that was done last.
    wakes: BTreeMap<FlowId, Instant>,
}

impl Links {
    pub(super) fn insert(&mut self, lower: FlowId, link: Link) {
        self.stir(lower);
        self.all.insert(lower, link);
    }

    pub(super) fn remove(&mut self, lower: &FlowId) -> Option<Link> {
        self.wakes.remove(lower);
        self.all.remove(lower)
    }

    pub(super) fn get_mut(&mut self, lower: &FlowId) -> Option<&mut Link> {
        self.stir(*lower);
        self.all.get_mut(lower)
    }

    /// The same of one that this input has stirred already.
    pub(super) fn again(&mut self, lower: &FlowId) -> Option<&mut Link> {
        self.all.get_mut(lower)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        for list in [&mut self.stirred, &mut self.sends] {
            list.0.clear();
            list.0.extend(self.all.keys());
        }
        self.all.values_mut()
    }

    /// Those that were stirred since [`Links::settle`].
    pub(super) fn stirred(&self) -> Vec<FlowId> {
        self.stirred.0.clone()
    }

    /// Stirs those that wanted to be looked at by now.
    pub(super) fn wake(&mut self, now: Instant) {
        let due = self.wakes.iter().filter(|(_, at)| **at <= now);
        due.for_each(|(lower, _)| self.stirred.add(*lower));
    }

    /// Asks those that were stirred when they want to be looked at again.
    pub(super) fn ask(&mut self, now: Instant) {
        for lower in &self.stirred.0 {
            match self.all.get(lower).and_then(|link| link.wake_at(now)) {
                Some(at) => self.wakes.insert(*lower, at),
                None => self.wakes.remove(lower),
            };
        }
    }

    /// All that was to be done is done.
    pub(super) fn settle(&mut self) {
        self.stirred.0.clear();
    }

    /// When the first wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wakes.values().copied().min()
    }

    /// The next batch of control of any.
    pub(super) fn pop_control(&mut self) -> Option<(FlowId, Batch)> {
        let mut sends = self.sends.0.iter();
        sends.find_map(|lower| Some((*lower, self.all.get_mut(lower)?.pop_control()?)))
    }

    /// The next batch of flows' PDUs of any. To be asked when there is no control.
    pub(super) fn pop_data(
        &mut self,
        now: Instant,
        stats: &mut Stats,
    ) -> Option<(FlowId, Unsealed)> {
        let mut sends = self.sends.0.iter();
        let next =
            sends.find_map(|lower| Some((*lower, self.all.get_mut(lower)?.pop_data(now, stats)?)));
        if next.is_none() {
            self.sends.0.clear();
        }
        next
    }

    fn stir(&mut self, lower: FlowId) {
        self.stirred.add(lower);
        self.sends.add(lower);
    }
}

/// To look at a link doesn't change it.
impl Deref for Links {
    type Target = BTreeMap<FlowId, Link>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

/// A few links, each once, in their order.
#[derive(Default)]
struct Few(Vec<FlowId>);

impl Few {
    fn add(&mut self, lower: FlowId) {
        if let Err(at) = self.0.binary_search(&lower) {
            self.0.insert(at, lower);
        }
    }
}
