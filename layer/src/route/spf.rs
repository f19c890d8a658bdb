//! Shortest paths: all of them once (Dijkstra), then only what a change touches (Ramalingam and Reps, "An incremental
//! algorithm for a generalization of the shortest-path problem", J. Algorithms 21, 1996). It must not know of signatures
//! or time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use proto::Addr;
use rustc_hash::FxHashMap;

use super::fib::Fib;
use super::graph::{Compact, Edge, Graph, Links};
use super::names::{Names, Slot, room};

/// The shortest paths from one member to all others, kept up to date.
///
/// All ways of the same cost count: a member is reached over the first links of all of them. Every link costs at least 1,
/// so the next member on any of them is nearer, and members that know the same graph never send in a circle.
pub struct Spf {
    me: Addr,
    root: Option<Slot>,
    labels: Arc<Vec<Label>>,
    sets: Arc<Sets>,
    before: Before,
}

/// Who could be reached when that was last asked.
#[derive(Debug, Default)]
struct Before {
    /// Of members that may be reached now and were not, or the other way round: whether they were.
    reached: FxHashMap<Slot, bool>,
    /// Whether all others are as they were, and numbers stand for the same members.
    known: bool,
    forgotten: u64,
}

/// Who can be reached and could not before, and who could and can't now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// Those that can be reached now.
    pub come: Vec<Addr>,
    /// Those that can't be reached any longer.
    pub gone: Vec<Addr>,
}

impl Moves {
    /// Whether the same members can be reached as before.
    pub fn is_empty(&self) -> bool {
        self.come.is_empty() && self.gone.is_empty()
    }
}

/// How one member is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) cost: u32,
    pub(super) hops: u16,
    /// The largest PDU in bytes that all ways carry.
    pub(super) mtu: u16,
    /// The neighbours of the root that lie on the ways.
    pub(super) set: SetId,
}

impl Label {
    const FAR: Self = Self {
        cost: FAR,
        hops: u16::MAX,
        mtu: u16::MAX,
        set: NOBODY,
    };

    /// Whether this is a way to somebody else.
    pub(super) fn is_way(&self) -> bool {
        self.set != NOBODY
    }
}

impl Spf {
    /// Before anything is known.
    pub(crate) fn new(me: Addr) -> Self {
        Self {
            me,
            root: None,
            labels: Arc::default(),
            sets: Arc::default(),
            before: Before::default(),
        }
    }

    /// Finds all ways anew.
    pub(super) fn full(&mut self, graph: &impl Links) -> Fib {
        // What stays is allocated first: what goes after the search leaves no hole before it.
        let labels = far(graph.index());
        self.search_into(labels, &Compact::of(graph))
    }

    /// Finds all ways anew in what was put close together for that.
    pub(super) fn search(&mut self, graph: &Compact<'_>) -> Fib {
        self.search_into(far(graph.names()), graph)
    }

    fn search_into(&mut self, mut labels: Vec<Label>, graph: &Compact<'_>) -> Fib {
        let names = graph.names();
        let old = std::mem::take(&mut self.labels);
        let mut sets = Sets::default();
        self.root = names.find(self.me);
        if let Some(root) = self.root {
            dijkstra(graph, root, &mut labels, &mut sets);
        }
        for (slot, label) in (0..).zip(&labels) {
            let reached = old.get(slot as usize).is_some_and(Label::is_way);
            if reached != label.is_way() {
                self.before.reached.entry(slot).or_insert(reached);
            }
        }
        self.labels = Arc::new(labels);
        self.sets = Arc::new(sets);
        self.fib(names)
    }

    /// Finds the ways that change with the edges to and from some members.
    pub(super) fn update(&mut self, graph: &impl Links, dirty: &[Slot]) -> Fib {
        let names = graph.index();
        let most = names.slots() / 4 + FEW;
        let root = self.root.filter(|_| self.root == names.find(self.me));
        let Some(root) = root.filter(|_| dirty.len() <= most && self.sets.len() < MANY_SETS) else {
            return self.full(graph);
        };
        let labels = Arc::make_mut(&mut self.labels);
        room(labels, names.slots());
        labels.resize(names.slots(), Label::FAR);
        let mut change = Change {
            graph,
            root,
            labels,
            expected: FxHashMap::default(),
            queue: BinaryHeap::new(),
            touched: Vec::new(),
            reached: &mut self.before.reached,
        };
        for slot in dirty {
            change.look(*slot);
        }
        if !change.settle(most) {
            return self.full(graph);
        }
        change.relabel(Arc::make_mut(&mut self.sets), dirty);
        self.fib(names)
    }

    /// Who can be reached, compared with the last time that this was asked; `None`: nearly everybody may be another.
    pub(super) fn moves(&mut self, names: &Names) -> Option<Moves> {
        let before = std::mem::take(&mut self.before);
        self.before.known = true;
        self.before.forgotten = names.forgotten();
        let same = before.known && before.forgotten == names.forgotten();
        if !same {
            return None;
        }
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (slot, was) in before.reached {
            match (was, self.label(slot).is_some()) {
                (false, true) => come.push(names.addr(slot)),
                (true, false) => gone.push(names.addr(slot)),
                _ => {}
            }
        }
        (come.len() + gone.len() <= MANY_MOVES).then_some(Moves { come, gone })
    }

    /// The number of the member whose ways these are.
    pub(super) fn root(&self) -> Option<Slot> {
        self.root
    }

    /// How a member is reached.
    pub(super) fn label(&self, slot: Slot) -> Option<&Label> {
        self.labels
            .get(slot as usize)
            .filter(|label| label.is_way())
    }

    /// All members that are reached.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Label)> {
        let all = (0..).zip(self.labels.iter());
        all.filter(|(_, label)| label.is_way())
    }

    /// The neighbours in a set, the lowest address first.
    pub(super) fn ways(&self, set: SetId) -> &[Slot] {
        self.sets.get(set)
    }

    fn fib(&self, names: &Arc<Names>) -> Fib {
        Fib::new(names.clone(), self.labels.clone(), self.sets.clone())
    }
}

/// Everybody is far, and there is room for some who come.
fn far(names: &Names) -> Vec<Label> {
    let mut labels = Vec::new();
    room(&mut labels, names.slots());
    labels.resize(names.slots(), Label::FAR);
    labels
}

/// All ways from `root`; everybody must be far before.
fn dijkstra(graph: &impl Graph, root: Slot, labels: &mut [Label], sets: &mut Sets) {
    let names = graph.names();
    labels[root as usize] = ROOT;
    let mut queue = BinaryHeap::from([Reverse((0, root))]);
    while let Some(Reverse((cost, at))) = queue.pop() {
        let here = labels[at as usize];
        // A member is queued again whenever a better way to it is found; only the last one counts.
        if cost > here.cost {
            continue;
        }
        for said in graph.said(at).filter(|said| said.to != root) {
            if here.cost + said.there > labels[said.to as usize].cost {
                continue;
            }
            let Some(edge) = graph.confirmed(at, &said) else {
                continue;
            };
            let known = &mut labels[edge.to as usize];
            let found = Label {
                cost: here.cost + edge.there,
                ..*known
            };
            if found.cost < known.cost {
                *known = Label::FAR;
                known.cost = found.cost;
                queue.push(Reverse((found.cost, edge.to)));
            }
            if found.cost == known.cost {
                known.join(&here, at == root, edge.to, edge.mtu, names, sets);
            }
        }
    }
}

impl Label {
    /// Adds the ways through a member that is nearer.
    fn join(
        &mut self,
        through: &Self,
        first: bool,
        here: Slot,
        mtu: u16,
        names: &Names,
        sets: &mut Sets,
    ) {
        self.hops = self.hops.min(through.hops.saturating_add(1));
        self.mtu = self.mtu.min(through.mtu).min(mtu);
        let set = if first {
            sets.of_one(here)
        } else {
            through.set
        };
        self.set = sets.union(self.set, set, names);
    }
}

/// Costs from one member to all others, and nothing else: [`FAR`] where there is no way.
pub(super) fn costs(graph: &impl Graph, from: Slot) -> Vec<u32> {
    let mut costs = vec![FAR; graph.names().slots()];
    costs[from as usize] = 0;
    let mut queue = BinaryHeap::from([Reverse((0, from))]);
    while let Some(Reverse((cost, at))) = queue.pop() {
        if cost > costs[at as usize] {
            continue;
        }
        for edge in graph.edges(at) {
            let found = cost + edge.there;
            if found < costs[edge.to as usize] {
                costs[edge.to as usize] = found;
                queue.push(Reverse((found, edge.to)));
            }
        }
    }
    costs
}

/// One change of the graph on its way through the labels.
struct Change<'a, G> {
    graph: &'a G,
    root: Slot,
    labels: &'a mut [Label],
    /// What the neighbours make of the cost of a member, where that isn't what its label says.
    expected: FxHashMap<Slot, u32>,
    queue: BinaryHeap<Reverse<(u32, Slot)>>,
    /// Members whose cost has changed, some of them twice.
    touched: Vec<Slot>,
    /// Whether members that were looked at were reached before.
    reached: &'a mut FxHashMap<Slot, bool>,
}

impl<G: Graph> Change<'_, G> {
    /// Works out what a member costs by its neighbours.
    fn look(&mut self, at: Slot) {
        if at == self.root {
            return;
        }
        let through = |edge: Edge| self.labels[edge.to as usize].cost.saturating_add(edge.back);
        let least = self.graph.edges(at).map(through).min().unwrap_or(FAR);
        self.expect(at, least);
    }

    fn expect(&mut self, at: Slot, cost: u32) {
        let said = self.labels[at as usize].cost;
        if cost == said {
            self.expected.remove(&at);
        } else {
            self.expected.insert(at, cost);
            self.queue.push(Reverse((cost.min(said), at)));
        }
    }

    /// Lets all costs be what the neighbours make of them, from the root outwards; `false` once more than `most` changed.
    fn settle(&mut self, most: usize) -> bool {
        while let Some(Reverse((key, at))) = self.queue.pop() {
            let Some(cost) = self.expected.get(&at).copied() else {
                continue;
            };
            let said = self.labels[at as usize].cost;
            if key != cost.min(said) {
                continue;
            }
            self.note(at);
            self.touched.push(at);
            if self.touched.len() > most {
                return false;
            }
            if cost < said {
                self.fall(at, cost);
            } else {
                self.rise(at, said, cost);
            }
        }
        true
    }

    /// Notes whether a member is reached, before that changes.
    fn note(&mut self, at: Slot) {
        let reached = self.labels[at as usize].is_way();
        self.reached.entry(at).or_insert(reached);
    }

    /// A member has become nearer: so may have those behind it.
    fn fall(&mut self, at: Slot, cost: u32) {
        self.labels[at as usize].cost = cost;
        self.expected.remove(&at);
        let (graph, root) = (self.graph, self.root);
        for said in graph.said(at).filter(|said| said.to != root) {
            let found = cost + said.there;
            if found < self.expects(said.to) && graph.confirmed(at, &said).is_some() {
                self.expect(said.to, found);
            }
        }
    }

    /// A member is not as near as was said: nothing is known of it until its turn comes again, and those that were
    /// reached through it look for another way.
    fn rise(&mut self, at: Slot, said: u32, cost: u32) {
        self.labels[at as usize] = Label::FAR;
        self.expect(at, cost);
        let behind: Vec<Slot> = self
            .graph
            .said(at)
            .filter(|s| s.to != self.root && said + s.there == self.expects(s.to))
            .filter(|s| self.graph.confirmed(at, s).is_some())
            .map(|s| s.to)
            .collect();
        for to in behind {
            self.look(to);
        }
    }

    fn expects(&self, at: Slot) -> u32 {
        let said = self.labels[at as usize].cost;
        self.expected.get(&at).copied().unwrap_or(said)
    }

    /// Works out the rest of the labels, the nearest first, for all that have another cost and all behind them.
    fn relabel(&mut self, sets: &mut Sets, dirty: &[Slot]) {
        let touched = self.touched.iter().copied();
        let mut seeds: Vec<Slot> = touched.chain(dirty.iter().copied()).collect();
        for at in &self.touched {
            seeds.extend(self.graph.edges(*at).map(|edge| edge.to));
        }
        let mut queue: BinaryHeap<_> = seeds
            .into_iter()
            .map(|at| Reverse((self.labels[at as usize].cost, at)))
            .collect();
        let mut last = None;
        while let Some(Reverse((cost, at))) = queue.pop() {
            if at == self.root || last.replace(at) == Some(at) {
                continue;
            }
            let before = self.labels[at as usize];
            self.labels[at as usize] = self.relabelled(at, cost, sets);
            if self.labels[at as usize] == before || cost == FAR {
                continue;
            }
            for said in self.graph.said(at) {
                let behind = self.labels[said.to as usize].cost;
                let follows = behind == cost.saturating_add(said.there);
                if follows && self.graph.confirmed(at, &said).is_some() {
                    queue.push(Reverse((behind, said.to)));
                }
            }
        }
    }

    fn relabelled(&self, at: Slot, cost: u32, sets: &mut Sets) -> Label {
        let mut label = Label { cost, ..Label::FAR };
        if cost == FAR {
            return label;
        }
        for edge in self.graph.edges(at) {
            let through = self.labels[edge.to as usize];
            if through.cost.saturating_add(edge.back) == cost {
                let first = edge.to == self.root;
                label.join(&through, first, at, edge.mtu, self.graph.names(), sets);
            }
        }
        label
    }
}

/// A set of neighbours, by number.
pub(super) type SetId = u16;

/// Sets of neighbours: thousands of members are reached over the same few.
#[derive(Debug, Clone)]
pub(super) struct Sets {
    sets: Vec<Box<[Slot]>>,
    ids: FxHashMap<Box<[Slot]>, SetId>,
}

impl Sets {
    /// The neighbours in a set, the lowest address first.
    pub(super) fn get(&self, id: SetId) -> &[Slot] {
        self.sets.get(id as usize).map_or(&[], |set| set)
    }

    fn len(&self) -> usize {
        self.sets.len()
    }

    fn of_one(&mut self, slot: Slot) -> SetId {
        self.id(vec![slot])
    }

    /// The neighbours in either set, at most [`MAX_WAYS`], those with the lowest addresses.
    fn union(&mut self, a: SetId, b: SetId, names: &Names) -> SetId {
        if a == b || b == NOBODY {
            return a;
        }
        if a == NOBODY {
            return b;
        }
        let mut union = [self.get(a), self.get(b)].concat();
        union.sort_unstable_by_key(|slot| names.addr(*slot));
        union.dedup();
        union.truncate(MAX_WAYS);
        self.id(union)
    }

    fn id(&mut self, set: Vec<Slot>) -> SetId {
        if let Some(id) = self.ids.get(set.as_slice()) {
            return *id;
        }
        let Ok(id) = SetId::try_from(self.sets.len()) else {
            // Nobody has so many neighbours; were it so, some would be reached over one of the ways only.
            return self.ids.get(&set[..1]).copied().unwrap_or(NOBODY);
        };
        let set = set.into_boxed_slice();
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }
}

impl Default for Sets {
    fn default() -> Self {
        let nobody = Box::<[Slot]>::default();
        Self {
            sets: vec![nobody.clone()],
            ids: FxHashMap::from_iter([(nobody, NOBODY)]),
        }
    }
}

/// The most neighbours over which one member's packets are spread.
pub(super) const MAX_WAYS: usize = 8;
/// The cost of what can't be reached.
pub(super) const FAR: u32 = u32::MAX;
const ROOT: Label = Label {
    cost: 0,
    hops: 0,
    mtu: u16::MAX,
    set: NOBODY,
};
/// The set that is empty.
const NOBODY: SetId = 0;
/// Changes of so many members are always worth the incremental way.
const FEW: usize = 16;
/// So many members that may have come or gone are not told one by one.
const MANY_MOVES: usize = 64;
/// Sets that are no longer used are thrown away when there are so many.
const MANY_SETS: usize = 32_768;

#[cfg(test)]
mod tests;
