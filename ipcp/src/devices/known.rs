//! What a user has said may go by itself between its device and flows: pairs of addresses, and single ways of conversations. It must
//! not judge, nor read or write anything.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use ip::ends::Ends;
use ip::upper::{self, FIN, RST, SYN, opens};
use proto::FlowId;
use proto::record::{FORGOTTEN, Pair, SIGN, Talk};
use rustc_hash::FxHashMap;

/// What was said of one device.
#[derive(Debug)]
pub(super) struct Known {
    /// Whether each was idle since its flow's others were looked through last.
    pairs: Table<Pair, bool>,
    /// When the pairs of a flow that has its share were looked through.
    turned: FxHashMap<FlowId, Instant>,
    talks: Table<Talk, Spoken>,
    /// What the last packet of each way was of.
    last: [Option<Last>; 2],
    /// Talks of which something has moved, to be said to the user.
    signs: Vec<(FlowId, Talk)>,
    /// When what is forgotten was taken out.
    swept: Option<Instant>,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the device.
    Out,
    /// To it, from this flow.
    In(FlowId),
}

impl Way {
    fn place(self) -> usize {
        match self {
            Self::Out => 0,
            Self::In(_) => 1,
        }
    }

    /// Whether what was said of a flow is of such a packet. What another flow brings must change nothing either: its addresses
    /// may be feigned.
    fn admits(self, flow: FlowId) -> bool {
        match self {
            Self::Out => true,
            Self::In(by) => by == flow,
        }
    }
}

/// When the two last spoke of a talk, and when the user is to hear next that something of it moves.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    at: Instant,
    again: Instant,
}

impl Spoken {
    fn now(now: Instant) -> Self {
        Self {
            at: now,
            again: now + SIGN,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= FORGOTTEN
    }
}

#[derive(Debug, Clone, Copy)]
enum Last {
    Pair(Pair, FlowId),
    /// As long as it needs no sign.
    Talk(Talk, FlowId, Instant),
}

/// Keys that strangers choose, so hashed with what they can't know; each flow has a share of the places.
#[derive(Debug)]
struct Table<K, V> {
    all: HashMap<K, (FlowId, V)>,
    held: FxHashMap<FlowId, usize>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            pairs: Table::new(),
            turned: FxHashMap::default(),
            talks: Table::new(),
            last: [None; 2],
            signs: Vec::new(),
            swept: None,
        }
    }

    /// The flow that a packet goes to, or may come from, by itself.
    pub(super) fn flow_of(&mut self, way: Way, packet: &[u8], now: Instant) -> Option<FlowId> {
        let ends = Ends::parse(packet).ok()?;
        let pair = match way {
            Way::Out => Pair::new(ends.src, ends.dst),
            Way::In(_) => Pair::new(ends.dst, ends.src),
        }?;
        let last = self.last[way.place()];
        if let Some(Last::Pair(last, flow)) = last
            && last == pair
            && way.admits(flow)
        {
            return (!opens(packet)).then_some(flow);
        }
        let said = match self.talks.all.is_empty() {
            true => None,
            false => talk(way, pair, packet),
        };
        if let (Some(Last::Talk(last, flow, due)), Some((talk, false))) = (last, said)
            && last == talk
            && way.admits(flow)
            && now < due
        {
            return Some(flow);
        }
        if let Some((flow, idle)) = self.pairs.all.get_mut(&pair) {
            if !way.admits(*flow) {
                return None;
            }
            *idle = false;
            self.last[way.place()] = Some(Last::Pair(pair, *flow));
            return (!opens(packet)).then_some(*flow);
        }
        let (talk, turns) = said?;
        self.flow_of_talk(way, talk, turns, now)
    }

    fn flow_of_talk(&mut self, way: Way, talk: Talk, turns: bool, now: Instant) -> Option<FlowId> {
        let (flow, spoken) = self.talks.all.get_mut(&talk)?;
        let flow = *flow;
        if !way.admits(flow) {
            return None;
        }
        if turns || spoken.is_over(now) {
            // What ends one goes by the user, who says what of it still may.
            self.last = [None; 2];
            self.talks.remove(&talk);
            return None;
        }
        if now >= spoken.again {
            // If the user can't hear it now, that is not tried with each packet.
            spoken.again = now + RETRY;
            self.signs.push((flow, talk));
        }
        self.last[way.place()] = Some(Last::Talk(talk, flow, spoken.again));
        Some(flow)
    }

    /// The user was told that something of this moves.
    pub(super) fn told(&mut self, talk: &Talk, now: Instant) {
        let spoken = self.talks.all.get_mut(talk).map(|(_, spoken)| spoken);
        // What is over stays so, however late that was said.
        if let Some(spoken) = spoken.filter(|spoken| !spoken.is_over(now)) {
            *spoken = Spoken::now(now);
            self.last = [None; 2];
        }
    }

    /// Packets between these two go by themselves from now on. `false`: the flow has its share, and is using it.
    pub(super) fn pair(&mut self, flow: FlowId, pair: Pair, now: Instant) -> bool {
        if self.pairs.is_full(flow, &pair, PAIRS) {
            self.turn(flow, now);
        }
        let takes = !self.pairs.is_full(flow, &pair, PAIRS);
        if takes {
            self.last = [None; 2];
            self.pairs.insert(pair, flow, false);
        }
        takes
    }

    /// Forgets those pairs of a flow of which no packet was looked up since this was done last.
    fn turn(&mut self, flow: FlowId, now: Instant) {
        let since = |then| now.saturating_duration_since(then);
        let last = self.turned.get(&flow).copied();
        if last.is_some_and(|then| since(then) < RETRY) {
            return;
        }
        self.turned.insert(flow, now);
        // What goes on is looked up once more, and so is not idle.
        self.last = [None; 2];
        (self.pairs).keep(|_, other, idle| other != flow || !std::mem::replace(idle, true));
    }

    /// Packets of this go by themselves from now on. `false`: the flow has its share, and keeps what it has. Those that are new go
    /// by the user until others have ended; to forget the old would have the packets of all of them overtake each other.
    pub(super) fn talk(&mut self, flow: FlowId, talk: Talk, now: Instant) -> bool {
        self.last = [None; 2];
        let full = |known: &Self| known.talks.is_full(flow, &talk, TALKS);
        let pause = if full(self) { RETRY } else { FORGOTTEN };
        let since = |then| now.saturating_duration_since(then);
        if self.swept.is_none_or(|then| since(then) >= pause) {
            self.swept = Some(now);
            self.talks.keep(|_, _, spoken| !spoken.is_over(now));
        }
        let takes = !full(self);
        if takes {
            self.talks.insert(talk, flow, Spoken::now(now));
        }
        takes
    }

    /// Nothing that was said of a flow holds any more.
    pub(super) fn forget(&mut self, flow: FlowId) {
        self.last = [None; 2];
        self.pairs.forget(flow);
        self.turned.remove(&flow);
        self.talks.forget(flow);
        self.signs.retain(|(other, _)| *other != flow);
    }

    /// How many talks are kept.
    #[cfg(test)]
    pub(super) fn talks(&self) -> usize {
        self.talks.all.len()
    }

    /// What the user is to hear.
    pub(super) fn signs(&mut self) -> Vec<(FlowId, Talk)> {
        std::mem::take(&mut self.signs)
    }
}

impl<K: Hash + Eq + Copy, V> Table<K, V> {
    fn new() -> Self {
        Self {
            all: HashMap::new(),
            held: FxHashMap::default(),
        }
    }

    /// Whether a flow has its share, or all have all, without this.
    fn is_full(&self, flow: FlowId, key: &K, share: usize) -> bool {
        let held = self.held.get(&flow).copied().unwrap_or_default();
        held >= share && self.all.get(key).is_none_or(|(other, _)| *other != flow)
    }

    fn insert(&mut self, key: K, flow: FlowId, value: V) {
        self.remove(&key);
        self.all.insert(key, (flow, value));
        *self.held.entry(flow).or_default() += 1;
    }

    fn remove(&mut self, key: &K) {
        if let Some((flow, _)) = self.all.remove(key)
            && let Some(held) = self.held.get_mut(&flow)
        {
            *held -= 1;
        }
    }

    fn forget(&mut self, flow: FlowId) {
        if self.held.remove(&flow).is_some_and(|held| held > 0) {
            self.all.retain(|_, (other, _)| *other != flow);
        }
    }

    fn keep(&mut self, keep: impl Fn(&K, FlowId, &mut V) -> bool) {
        let held = &mut self.held;
        self.all.retain(|key, (flow, value)| {
            let keeps = keep(key, *flow, value);
            if !keeps && let Some(held) = held.get_mut(flow) {
                *held -= 1;
            }
            keeps
        });
    }
}

/// What a packet between two is of, and whether it opens or ends that.
fn talk(way: Way, pair: Pair, packet: &[u8]) -> Option<(Talk, bool)> {
    let talk = upper::Talk::parse(packet)?;
    let (out, ports) = match way {
        Way::Out => (true, (talk.src, talk.dst)),
        Way::In(_) => (false, (talk.dst, talk.src)),
    };
    let said = Talk {
        out,
        protocol: talk.protocol,
        ports,
        pair,
    };
    Some((said, talk.flags & (SYN | FIN | RST) != 0))
}

/// When a sign that the user could not hear is tried again, and when a flow that has its share is looked at for what is over or idle.
const RETRY: Duration = Duration::from_secs(1);
/// What one flow may have; when there are more pairs, its idle ones go. As many flows as a process has, so many shares.
pub(super) const PAIRS: usize = 1024;
/// Two of each conversation; when there are more, no other is taken.
pub(super) const TALKS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowId = FlowId(1);
    const NEXT: FlowId = FlowId(2);
    const ME: [u8; 4] = [10, 7, 0, 1];

    fn pair(n: usize) -> Pair {
        Pair::V4(ME, (n as u32).to_be_bytes())
    }

    fn packet(n: usize) -> Vec<u8> {
        let mut out = vec![0; 40];
        (out[0], out[3]) = (0x45, 40);
        out[12..16].copy_from_slice(&ME);
        out[16..20].copy_from_slice(&(n as u32).to_be_bytes());
        out
    }

    fn goes(known: &mut Known, n: usize, now: Instant) -> bool {
        known.flow_of(Way::Out, &packet(n), now).is_some()
    }

    #[test]
    fn pairs_beyond_a_flows_share_cost_only_its_idle_ones_their_places() {
        let (mut known, start) = (Known::new(), Instant::now());
        let other = PAIRS + 7;
        assert!(known.pair(NEXT, pair(other), start));
        for n in 0..PAIRS {
            assert!(known.pair(FLOW, pair(n), start));
        }
        // One that is said again takes no other place.
        assert!(known.pair(FLOW, pair(3), start));
        // Nothing is known to be idle yet. A stream goes on all the time, others now and then.
        assert!(!known.pair(FLOW, pair(PAIRS), start));
        let used = [1, 5, 900];
        for second in 1..4 {
            let now = start + second * RETRY;
            for n in used {
                assert!(goes(&mut known, n, now));
                assert!(goes(&mut known, n, now));
            }
            // Within the second new ones wait for the next turn.
            let new = PAIRS + second as usize;
            assert!(known.pair(FLOW, pair(new), now), "{second}");
            assert!(goes(&mut known, new, now));
        }
        let now = start + 4 * RETRY;
        assert!(used.iter().all(|n| goes(&mut known, *n, now)));
        assert!(!goes(&mut known, 2, now));
        assert!(goes(&mut known, other, now), "another flow's");
        assert_eq!(known.pairs.all.len(), used.len() + 3 + 1);
    }

    #[test]
    fn a_flow_that_uses_all_its_pairs_keeps_them_and_gets_no_more() {
        let (mut known, start) = (Known::new(), Instant::now());
        for n in 0..PAIRS {
            assert!(known.pair(FLOW, pair(n), start));
        }
        for round in 0..5 {
            let now = start + round * RETRY;
            assert!((0..PAIRS).all(|n| goes(&mut known, n, now)));
            for n in PAIRS..PAIRS + 9 {
                assert!(!known.pair(FLOW, pair(n), now));
            }
            assert_eq!(known.pairs.all.len(), PAIRS);
        }
        // All that a flow has is taken back, the idle too.
        known.forget(FLOW);
        assert!(!(0..PAIRS).any(|n| goes(&mut known, n, start)));
        assert!(known.pairs.all.is_empty() && known.turned.is_empty());
        assert!(known.pair(FLOW, pair(1), start));
    }

    #[test]
    fn a_stream_that_is_never_looked_up_in_between_is_not_idle() {
        let (mut known, start) = (Known::new(), Instant::now());
        for n in 0..PAIRS {
            assert!(known.pair(FLOW, pair(n), start));
        }
        for round in 0..5 {
            let now = start + round * RETRY;
            assert!(goes(&mut known, 7, now));
            known.pair(FLOW, pair(PAIRS + 1 + round as usize), now);
            assert!(goes(&mut known, 7, now));
        }
    }
}
