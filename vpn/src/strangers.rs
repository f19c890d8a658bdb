//! Flows from members whom the layer has authenticated but of whom irmd has not told yet: a new member may use its VPN a
//! moment before its certificate has come here. What it sends waits in the kernel meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::Label;

use crate::class::Class;

/// Flows that wait for their member to become known. Dropping one closes it.
#[derive(Debug)]
pub struct Strangers<F> {
    waiting: VecDeque<(Label, Class, F, Instant)>,
}

impl<F> Strangers<F> {
    /// Flows that may wait at once; the oldest goes when another comes.
    pub const MOST: usize = 16;
    /// How long one may wait.
    pub const PATIENCE: Duration = Duration::from_secs(3);

    /// Keeps a flow of a class.
    pub fn keep(&mut self, now: Instant, member: Label, class: Class, flow: F) {
        // A member that dials again has given its earlier flow of that class up.
        let same = |other: &(Label, Class, F, Instant)| (&other.0, other.1) == (&member, class);
        self.waiting.retain(|other| !same(other));
        let until = now + Self::PATIENCE;
        self.waiting.push_back((member, class, flow, until));
        if self.waiting.len() > Self::MOST {
            self.waiting.pop_front();
        }
    }

    /// Gives all flows back, to be tried again.
    pub fn take(&mut self) -> impl Iterator<Item = (Label, Class, F, Instant)> + use<F> {
        std::mem::take(&mut self.waiting).into_iter()
    }

    /// Keeps a flow that was taken, for the rest of its time.
    pub fn put_back(&mut self, member: Label, class: Class, flow: F, until: Instant) {
        self.waiting.push_back((member, class, flow, until));
    }

    /// Closes the flows whose time is over.
    pub fn expire(&mut self, now: Instant) {
        self.waiting.retain(|(.., until)| *until > now);
    }

    /// When [`Strangers::expire`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(.., until)| *until).min()
    }
}

impl<F> Default for Strangers<F> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(n: usize) -> Label {
        Label::new(format!("m{n}")).unwrap()
    }

    #[test]
    fn few_wait_and_not_for_long() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        assert_eq!(strangers.deadline(), None);
        for n in 0..=Strangers::<usize>::MOST {
            strangers.keep(now, label(n), Class::Plain, n);
        }
        assert_eq!(
            strangers.take().map(|(_, _, n, _)| n).collect::<Vec<_>>(),
            (1..=Strangers::<usize>::MOST).collect::<Vec<_>>()
        );
        strangers.keep(now, label(1), Class::Plain, 1);
        let due = now + Strangers::<usize>::PATIENCE;
        assert_eq!(strangers.deadline(), Some(due));
        strangers.expire(due - Duration::from_millis(1));
        assert_eq!(strangers.deadline(), Some(due));
        strangers.expire(due);
        assert_eq!(strangers.deadline(), None);
    }

    #[test]
    fn the_last_flow_of_a_member_counts_of_each_class() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        strangers.keep(now, label(1), Class::Plain, 1);
        strangers.keep(now, label(2), Class::Plain, 2);
        strangers.keep(now, label(1), Class::Voice, 4);
        strangers.keep(now, label(1), Class::Plain, 3);
        assert_eq!(
            strangers.take().map(|(_, _, n, _)| n).collect::<Vec<_>>(),
            [2, 4, 3]
        );
    }

    #[test]
    fn what_is_put_back_has_only_the_rest_of_its_time() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        strangers.keep(now, label(1), Class::Plain, 1);
        for (member, class, flow, until) in strangers.take() {
            strangers.put_back(member, class, flow, until);
        }
        assert_eq!(strangers.deadline(), Some(now + Strangers::<i32>::PATIENCE));
    }
}
