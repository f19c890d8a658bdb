//! Who has which links, as everybody says for himself. It must not know of signatures, time or ways.

use std::cmp::Reverse;
use std::sync::Arc;

use proto::Addr;

use super::names::{Names, Slot};

/// What a member says of its link to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkState {
    /// The neighbour.
    pub neighbour: Addr,
    /// What the way over it costs, from here; 0 counts as 1, and more than [`MAX_COST`] as that.
    pub cost: u32,
    /// The largest PDU in bytes that it carries, from here.
    pub mtu: u32,
}

/// Something that knows members and their links.
pub(super) trait Links {
    /// The numbers of the members.
    fn index(&self) -> &Arc<Names>;
    /// What a member says of its links, as [`tidy`] leaves it; nothing if it is forgotten.
    fn links(&self, slot: Slot) -> &[LinkState];
}

/// Links by the numbers of members.
pub(super) trait Graph {
    /// The numbers of the members.
    fn names(&self) -> &Arc<Names>;
    /// The links of a member as it says them itself, to members that are known.
    fn said(&self, at: Slot) -> impl Iterator<Item = Said>;
    /// A link of a member with what its other end says of it; `None` if that names none.
    fn confirmed(&self, at: Slot, said: &Said) -> Option<Edge>;

    /// The links of a member that their other ends confirm.
    fn edges(&self, at: Slot) -> impl Iterator<Item = Edge> {
        self.said(at)
            .filter_map(move |said| self.confirmed(at, &said))
    }
}

impl<L: Links> Graph for L {
    fn names(&self) -> &Arc<Names> {
        self.index()
    }

    fn said(&self, at: Slot) -> impl Iterator<Item = Said> {
        self.links(at).iter().filter_map(move |link| {
            let to = self.index().find(link.neighbour).filter(|to| *to != at)?;
            Some(Said::new(to, link))
        })
    }

    fn confirmed(&self, at: Slot, said: &Said) -> Option<Edge> {
        let here = self.index().addr(at);
        let theirs = self.links(said.to);
        let back = theirs.binary_search_by_key(&here, |l| l.neighbour).ok()?;
        Some(said.edge(&Said::new(at, &theirs[back])))
    }
}

/// What all say at one time, close together: who looks at the whole of a large graph would else wait for memory at each step.
pub(super) struct Compact<'a> {
    names: &'a Arc<Names>,
    /// Where the links of each member begin, and where the last end.
    first: Vec<u32>,
    said: Vec<Said>,
}

impl<'a> Compact<'a> {
    pub(super) fn of(graph: &'a impl Links) -> Self {
        let names = graph.index();
        let mut first = Vec::with_capacity(names.slots() + 1);
        let mut said = Vec::new();
        for slot in 0..names.slots() as Slot {
            first.push(said.len() as u32);
            said.extend(graph.said(slot));
        }
        first.push(said.len() as u32);
        Self { names, first, said }
    }

    fn of_one(&self, at: Slot) -> &[Said] {
        let at = at as usize;
        &self.said[self.first[at] as usize..self.first[at + 1] as usize]
    }
}

impl Graph for Compact<'_> {
    fn names(&self) -> &Arc<Names> {
        self.names
    }

    fn said(&self, at: Slot) -> impl Iterator<Item = Said> {
        self.of_one(at).iter().copied()
    }

    fn confirmed(&self, at: Slot, said: &Said) -> Option<Edge> {
        let theirs = self.of_one(said.to);
        // They are in the order of addresses; of a few it costs less to look at each.
        let back = match theirs.len() {
            ..=MOST_IN_TURN => theirs.iter().position(|back| back.to == at)?,
            _ => {
                let here = self.names.addr(at);
                let addr = |back: &Said| self.names.addr(back.to);
                theirs.binary_search_by_key(&here, addr).ok()?
            }
        };
        Some(said.edge(&theirs[back]))
    }
}

/// A link that its near end names. To ask the other end costs more than most who look at a link need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) to: Slot,
    /// What it costs from here.
    pub(super) there: u32,
    mtu: u32,
}

impl Said {
    fn new(to: Slot, link: &LinkState) -> Self {
        Self {
            to,
            there: link.cost.clamp(1, MAX_COST),
            mtu: link.mtu,
        }
    }

    /// With what its other end says of it.
    fn edge(&self, back: &Self) -> Edge {
        Edge {
            to: self.to,
            there: self.there,
            back: back.there,
            mtu: u16::try_from(self.mtu.min(back.mtu)).unwrap_or(u16::MAX),
        }
    }
}

/// A link that both ends name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) to: Slot,
    /// What it costs from here.
    pub(super) there: u32,
    /// What it costs to here.
    pub(super) back: u32,
    /// The smaller of what both ends say, in bytes.
    pub(super) mtu: u16,
}

/// Sorts links by neighbour and keeps of several to one neighbour the cheapest, of those the largest.
pub fn tidy(links: &mut Vec<LinkState>) {
    links.sort_unstable_by_key(|l| (l.neighbour, l.cost, Reverse(l.mtu)));
    links.dedup_by_key(|l| l.neighbour);
}

/// The members whose edges may differ after `new` was said where `old` was: the neighbours that are named in another way.
pub(super) fn differing<'a>(
    old: &'a [LinkState],
    new: &'a [LinkState],
) -> impl Iterator<Item = Addr> + 'a {
    let lacks = |of: &'a [LinkState], link: &LinkState| {
        of.binary_search_by_key(&link.neighbour, |l| l.neighbour)
            .map_or(true, |i| of[i] != *link)
    };
    let gone = old.iter().filter(move |link| lacks(new, link));
    let come = new.iter().filter(move |link| lacks(old, link));
    gone.chain(come).map(|link| link.neighbour)
}

/// The most that a link costs, so that no way through 16,384 members costs 2³² or more.
pub const MAX_COST: u32 = 262_143;
/// Links that are looked through from the first on.
const MOST_IN_TURN: usize = 16;

/// A graph that nobody has signed, for tests and benchmarks.
#[cfg(any(test, feature = "sim"))]
#[derive(Debug, Clone, Default)]
pub struct Drawn {
    names: Arc<Names>,
    links: Vec<Vec<LinkState>>,
}

#[cfg(any(test, feature = "sim"))]
impl Drawn {
    /// The members and what they say of their links.
    pub fn new(members: impl IntoIterator<Item = (Addr, Vec<LinkState>)>) -> Self {
        let mut drawn = Self::default();
        for (addr, links) in members {
            drawn.set(addr, links);
        }
        drawn
    }

    /// Lets a member say what its links are; gives the numbers of the members to whom the ways may have changed.
    pub fn set(&mut self, addr: Addr, mut links: Vec<LinkState>) -> Vec<Slot> {
        tidy(&mut links);
        let slot = Arc::make_mut(&mut self.names).add(addr);
        self.links.resize(self.names.slots(), Vec::new());
        let old = std::mem::replace(&mut self.links[slot as usize], links);
        let new = &self.links[slot as usize];
        let heads = differing(&old, new).filter_map(|a| self.names.find(a));
        heads.chain([slot]).collect()
    }

    /// Lets a member be gone.
    pub fn forget(&mut self, addr: Addr) -> Vec<Slot> {
        let dirty = self.set(addr, Vec::new());
        Arc::make_mut(&mut self.names).remove(addr);
        dirty
    }

    /// All ways from a member, and what is needed to keep them up to date.
    pub fn routes(&self, me: Addr) -> (super::Spf, super::Fib) {
        let mut spf = super::Spf::new(me);
        let fib = spf.full(self);
        (spf, fib)
    }

    /// The ways after a change that [`Drawn::set`] or [`Drawn::forget`] gave these numbers for.
    pub fn reroute(&self, spf: &mut super::Spf, dirty: &[u32]) -> super::Fib {
        spf.update(self, dirty)
    }
}

#[cfg(any(test, feature = "sim"))]
impl Links for Drawn {
    fn index(&self) -> &Arc<Names> {
        &self.names
    }

    fn links(&self, slot: Slot) -> &[LinkState] {
        self.links.get(slot as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_close_together_says_the_same_of_few_links_and_of_many() {
        let link = |neighbour: u64, cost: u32| LinkState {
            neighbour: Addr(neighbour),
            cost,
            mtu: 1000 + cost,
        };
        // 0 names all of 1 to 60; of these every third doesn't name it, and each names the next.
        let hub = (1..=60).map(|to| link(to, to as u32)).collect();
        let rim = |at: u64| {
            let back = (!at.is_multiple_of(3)).then(|| link(0, 100 + at as u32));
            let links = back.into_iter().chain([link(at % 60 + 1, 1), link(99, 1)]);
            (Addr(at), links.collect())
        };
        let drawn = Drawn::new([(Addr(0), hub)].into_iter().chain((1..=60).map(rim)));
        let compact = Compact::of(&drawn);
        let edges = |graph: &dyn Fn(Slot) -> Vec<Edge>| -> Vec<_> {
            let all = (0..61).map(graph);
            let said = |e: &Edge| (e.to, e.there, e.back, e.mtu);
            all.map(|edges| edges.iter().map(said).collect::<Vec<_>>())
                .collect()
        };
        let near = edges(&|at| compact.edges(at).collect());
        assert_eq!(near, edges(&|at| drawn.edges(at).collect()));
        assert_eq!(near[0].len(), 40, "those that both ends name");
    }
}
