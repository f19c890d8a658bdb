//! Shortest paths (Dijkstra) over what members say of their links. It must not know of signatures or time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proto::Addr;

use super::fib::{Fib, Hop};

/// What a member says of its link to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkState {
    /// The neighbour.
    pub neighbour: Addr,
    /// What the way over it costs, from here; 0 counts as 1.
    pub cost: u32,
    /// The largest PDU in bytes that it carries, from here.
    pub mtu: u32,
}

/// Who has which links, as everybody says for himself.
#[derive(Debug, Clone, Default)]
pub struct Graph<'a> {
    nodes: Vec<(Addr, &'a [LinkState])>,
}

impl<'a> Graph<'a> {
    /// A graph of members; the links of each are as [`tidy`] leaves them.
    pub fn new(members: impl IntoIterator<Item = (Addr, &'a [LinkState])>) -> Self {
        let mut nodes: Vec<_> = members.into_iter().collect();
        nodes.sort_unstable_by_key(|(addr, _)| *addr);
        Self { nodes }
    }

    /// The ways from `me` to everybody else. A link counts only if both its ends name it; it costs what its near end
    /// says and carries what the smaller end does. Of two ways that cost the same, the one with fewer hops wins, then the
    /// one over the neighbour with the lowest address. Every link costs at least 1, so that members that know the same
    /// graph never send in a circle.
    pub fn routes(&self, me: Addr) -> Fib {
        let Some(start) = self.index(me) else {
            return Fib::default();
        };
        let mut labels: Vec<Option<Hop>> = vec![None; self.nodes.len()];
        let mut settled = vec![false; self.nodes.len()];
        let mut queue = BinaryHeap::from([Reverse((0, 0, start))]);
        labels[start] = Some(Hop {
            via: me,
            cost: 0,
            mtu: u32::MAX,
            hops: 0,
        });
        while let Some(Reverse((_, _, at))) = queue.pop() {
            // A node is queued again whenever a better way to it is found; only the first time counts.
            let Some(label) = labels[at].filter(|_| !std::mem::replace(&mut settled[at], true))
            else {
                continue;
            };
            for (next, cost, mtu) in self.links(at) {
                let via = if at == start {
                    self.nodes[next].0
                } else {
                    label.via
                };
                let found = Hop {
                    via,
                    cost: label.cost + u64::from(cost),
                    mtu: label.mtu.min(mtu),
                    hops: label.hops + 1,
                };
                if labels[next]
                    .is_none_or(|known| (found.cost, found.hops) < (known.cost, known.hops))
                {
                    queue.push(Reverse((found.cost, found.hops, next)));
                }
                labels[next] = Some(better(labels[next], found));
            }
        }
        let reached = self
            .nodes
            .iter()
            .zip(labels)
            .filter_map(|((addr, _), label)| Some((*addr, label?)));
        Fib::new(reached.filter(|(addr, _)| *addr != me).collect())
    }

    /// The links of a node that their other ends confirm: (index, cost, MTU).
    fn links(&self, at: usize) -> impl Iterator<Item = (usize, u32, u32)> {
        let (here, links) = self.nodes[at];
        links
            .iter()
            .filter(move |link| link.neighbour != here)
            .filter_map(move |link| {
                let there = self.index(link.neighbour)?;
                let back = self.nodes[there].1;
                let back = back[back.binary_search_by_key(&here, |b| b.neighbour).ok()?];
                Some((there, link.cost.max(1), link.mtu.min(back.mtu)))
            })
    }

    fn index(&self, addr: Addr) -> Option<usize> {
        self.nodes.binary_search_by_key(&addr, |(a, _)| *a).ok()
    }
}

/// Sorts links by neighbour and keeps of several to one neighbour the cheapest, of those the largest.
pub fn tidy(links: &mut Vec<LinkState>) {
    links.sort_unstable_by_key(|l| (l.neighbour, l.cost, Reverse(l.mtu)));
    links.dedup_by_key(|l| l.neighbour);
}

/// The better of two ways to one node. Ways that cost the same over as many hops become one: over the neighbour with the
/// lowest address, and with the smallest MTU of them all, since members on the way may choose either.
fn better(known: Option<Hop>, found: Hop) -> Hop {
    let Some(known) = known else { return found };
    match (found.cost, found.hops).cmp(&(known.cost, known.hops)) {
        std::cmp::Ordering::Less => found,
        std::cmp::Ordering::Greater => known,
        std::cmp::Ordering::Equal => Hop {
            via: known.via.min(found.via),
            mtu: known.mtu.min(found.mtu),
            ..known
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use petgraph::algo::dijkstra;
    use petgraph::graph::DiGraph;
    use proptest::prelude::*;

    use super::*;

    type Members = BTreeMap<Addr, Vec<LinkState>>;

    fn graph(members: &Members) -> Graph<'_> {
        Graph::new(members.iter().map(|(a, l)| (*a, l.as_slice())))
    }

    fn link(to: u64, cost: u32, mtu: u32) -> LinkState {
        LinkState {
            neighbour: Addr(to),
            cost,
            mtu,
        }
    }

    fn members(nodes: &[(u64, &[LinkState])]) -> Members {
        nodes.iter().map(|(a, l)| (Addr(*a), l.to_vec())).collect()
    }

    /// Up to 16 members that say anything of anybody, also of themselves and of members that don't exist.
    fn any_members() -> impl Strategy<Value = Members> {
        let links = prop::collection::vec(
            (0u64..18, 0u32..6, 1000u32..1010).prop_map(|(a, c, m)| link(a, c, m)),
            0..12,
        );
        prop::collection::btree_map((0u64..16).prop_map(Addr), links, 1..16).prop_map(
            |mut members| {
                members.values_mut().for_each(tidy);
                members
            },
        )
    }

    /// The links that count: (from, to) → (cost, MTU).
    fn real(members: &Members) -> BTreeMap<(Addr, Addr), (u32, u32)> {
        let says = |a: Addr, b: Addr| members.get(&a)?.iter().find(|l| l.neighbour == b).copied();
        let pairs = members
            .keys()
            .flat_map(|a| members.keys().map(|b| (*a, *b)))
            .filter(|(a, b)| a != b);
        pairs
            .filter_map(|(a, b)| {
                says(a, b)
                    .zip(says(b, a))
                    .map(|(l, r)| ((a, b), (l.cost.max(1), l.mtu.min(r.mtu))))
            })
            .collect()
    }

    /// The way a packet takes through everybody's own table.
    fn follow(members: &Members, from: Addr, to: Addr) -> Option<Vec<Addr>> {
        let mut way = vec![from];
        while let Some(&at) = way.last().filter(|at| **at != to) {
            way.push(graph(members).routes(at).next_hop(to)?.via);
            assert!(way.len() <= members.len(), "a circle: {way:?}");
        }
        Some(way)
    }

    proptest! {
        #[test]
        fn costs_are_those_that_petgraph_finds(members in any_members()) {
            let mut oracle = DiGraph::<Addr, u64>::new();
            let index: BTreeMap<_, _> = members.keys().map(|a| (*a, oracle.add_node(*a))).collect();
            for ((a, b), (cost, _)) in real(&members) {
                oracle.add_edge(index[&a], index[&b], u64::from(cost));
            }
            for me in members.keys() {
                let costs = dijkstra(&oracle, index[me], None, |edge| *edge.weight());
                let far = members.keys().filter(|a| *a != me);
                let expected: BTreeMap<_, _> = far.filter_map(|a| Some((*a, *costs.get(&index[a])?))).collect();
                let found: BTreeMap<_, _> = graph(&members).routes(*me).iter().map(|(a, hop)| (a, hop.cost)).collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn packets_arrive_at_the_promised_cost_and_fit(members in any_members()) {
            let links = real(&members);
            for me in members.keys() {
                for (to, hop) in graph(&members).routes(*me).iter() {
                    let way = follow(&members, *me, to).expect("a member on the way knows no further");
                    let steps: Vec<_> = way.windows(2).map(|w| links[&(w[0], w[1])]).collect();
                    prop_assert_eq!(steps.iter().map(|s| u64::from(s.0)).sum::<u64>(), hop.cost);
                    prop_assert_eq!(steps.len(), hop.hops as usize);
                    prop_assert!(steps.iter().all(|s| s.1 >= hop.mtu), "{:?} promised {}", steps, hop.mtu);
                    prop_assert_eq!(way.iter().collect::<BTreeSet<_>>().len(), way.len());
                }
            }
        }
    }

    #[test]
    fn a_link_that_one_end_denies_is_none() {
        let members = members(&[(1, &[link(2, 1, 1400)]), (2, &[])]);
        assert!(graph(&members).routes(Addr(1)).is_empty());
    }

    #[test]
    fn of_equal_ways_the_lowest_neighbour_wins_and_the_smallest_mtu_is_promised() {
        let members = members(&[
            (1, &[link(2, 5, 1400), link(3, 5, 9000)]),
            (2, &[link(1, 5, 1400), link(4, 5, 1400)]),
            (3, &[link(1, 5, 9000), link(4, 5, 9000)]),
            (4, &[link(2, 5, 1400), link(3, 5, 9000)]),
        ]);
        let expected = Hop {
            via: Addr(2),
            cost: 10,
            mtu: 1400,
            hops: 2,
        };
        assert_eq!(
            graph(&members).routes(Addr(1)).next_hop(Addr(4)),
            Some(&expected)
        );
    }

    #[test]
    fn the_largest_costs_do_not_overflow() {
        let far = u32::MAX;
        let members = members(&[
            (1, &[link(2, far, 1)]),
            (2, &[link(1, far, 1), link(3, far, 1)]),
            (3, &[link(2, far, 1)]),
        ]);
        assert_eq!(
            graph(&members)
                .routes(Addr(1))
                .next_hop(Addr(3))
                .unwrap()
                .cost,
            2 * u64::from(far)
        );
    }
}
