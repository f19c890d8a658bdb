//! Flows that must work since the network is quiet.

use std::collections::BTreeMap;
use std::time::Duration;

use super::acts::Act;
use super::programs::{MOST_AT_ONCE, PROBE_LASTS, Usage, name_of};
use super::run::Run;

impl Run<'_> {
    /// A few flows that must work.
    ///
    /// One stands within three round trips at most: to those that keep its name, for the handshake, and for the request; each
    /// of them to anybody. [`AT_MOST`] more is for what is done between, and for what is said twice. Then both sides write,
    /// the caller the sooner, and the last of that is on its way for half a round trip.
    pub(super) fn probe(&mut self) {
        let round_trip = self.world.longest_round_trip();
        self.world.patience = AT_MOST + round_trip * 3;
        let first = self.world.ledger.count();
        let before = self.world.drops();
        for _ in 0..4 {
            let from = self.plan.below(self.world.hosts.len());
            let reach: Vec<_> = self
                .world
                .reach(from)
                .into_iter()
                .filter(|to| *to != from)
                .collect();
            let Some(to) = self.plan.pick(&reach) else {
                continue;
            };
            if name_of(to).is_some_and(|name| self.world.hosts[to].names.contains(&name)) {
                self.world.act(Act::Open {
                    from,
                    to,
                    usage: Usage::Probe,
                });
            }
        }
        self.world
            .run(self.world.patience + PROBE_LASTS + round_trip);
        let tags = first..self.world.ledger.count();
        let mut drops = self.world.drops();
        for (what, n) in &mut drops {
            *n -= before.get(what).copied().unwrap_or_default().min(*n);
        }
        drops.retain(|_, n| *n > 0);
        let told = drops.clone();
        for tag in tags.clone().filter_map(|tag| u32::try_from(tag).ok()) {
            let missing = self.world.ledger.missing(tag);
            let lost = missing - self.excused(tag, missing, &mut drops);
            let ends = [0, 1].map(|side| self.world.end(tag, side));
            if lost > 0 || ends.contains(&None) {
                self.world.fail(format!(
                    "flow {tag} lost {missing} SDUs in a quiet network, or did not stand; what was dropped \
                     meanwhile: {told:?}"
                ));
            }
            let (side, program) = (self.plan.below(2), self.plan.permille(500));
            self.world.act(Act::Close { tag, side, program });
        }
        self.world.run(Duration::from_secs(2) + round_trip);
        let open = tags
            .filter_map(|tag| u32::try_from(tag).ok())
            .find(|t| (0..2).any(|side| self.world.end(*t, side).is_some()));
        if let Some(tag) = open {
            self.world.fail(format!(
                "flow {tag} was closed at one end, and the other still stands"
            ));
        }
    }

    /// How many of the missing SDUs of a flow are explained by drops that a new way explains (a measured cost changed, and
    /// agreement on ways doesn't end that): where it is shorter, what was sent on the longer one comes too late for an
    /// ordered flow; where it is narrower, what was sent before the writer heard of that no longer fits. Takes these drops off.
    fn excused(&self, tag: u32, missing: u64, drops: &mut BTreeMap<&'static str, u64>) -> u64 {
        if missing == 0 {
            return 0;
        }
        let mut take = |what: &str, most: u64| {
            let left = drops.get_mut(what);
            left.map_or(0, |left| {
                let taken = most.min(*left);
                *left -= taken;
                taken
            })
        };
        let ordered = self.world.ledger.get(tag).is_some_and(|f| f.qos.ordered);
        // Several SDUs may be in what one gap lacks. What was written last is overtaken by what asks whether it arrived. Of the
        // last SDU itself, if it is large, pieces may go the new way and overtake all that went the old one, its own begin
        // included: then it is torn, and however many SDUs that were, nothing comes behind them.
        let late = if ordered && take("drop.late", 1) > 0 {
            let last = self.world.ledger.cut_off(tag);
            let at_once = last.min(MOST_AT_ONCE as u64);
            let all = last > at_once && take("drop.torn", 1) > 0;
            self.world.ledger.overtaken(tag) + if all { last } else { at_once }
        } else {
            0
        };
        let shrank = (0..2).any(|side| {
            let end = self.world.end(tag, side);
            end.is_some_and(|(host, flow)| self.world.hosts[host].shrunk.contains(&flow))
        });
        let big = if shrank {
            take("drop.too_big", missing.saturating_sub(late))
        } else {
            0
        };
        late + big
    }
}

/// How long an allocation may take where the way takes no time.
const AT_MOST: Duration = Duration::from_secs(3);
