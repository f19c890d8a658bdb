//! Loop-free alternates (RFC 5286): neighbours that lead on to a member without coming back to us, for the time in which
//! a neighbour is lost and others don't know it yet. It must not choose one that might send a packet back.

use proto::Addr;
use rustc_hash::FxHashMap;

use super::fib::Repair;
use super::graph::{Compact, Edge, Graph, Links};
use super::names::Slot;
use super::spf::{FAR, Label, Spf, costs};

/// What other neighbours' ways cost, before anything was lost.
pub(super) struct Alternates<'a> {
    spf: &'a Spf,
    links: Vec<Edge>,
    candidates: Vec<Candidate>,
}

/// A neighbour that may lead on.
struct Candidate {
    slot: Slot,
    /// What it costs to get there.
    there: u32,
    /// What its ways cost.
    costs: Vec<u32>,
}

/// The neighbour to send to instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alternate {
    pub(super) via: Slot,
    /// Its way doesn't lead over the neighbour that is lost either, so it holds whether the link died or the neighbour.
    pub(super) protects_node: bool,
}

impl<'a> Alternates<'a> {
    /// Looks at the nearest neighbours, [`MAX_CANDIDATES`] of them, but for those that are lost.
    pub(super) fn new(graph: &impl Graph, spf: &'a Spf, lost: &[Slot]) -> Self {
        let mut links: Vec<Edge> = spf
            .root()
            .map_or_else(Vec::new, |root| graph.edges(root).collect());
        links.sort_unstable_by_key(|edge| (edge.there, graph.names().addr(edge.to)));
        let candidates = links
            .iter()
            .filter(|edge| !lost.contains(&edge.to))
            .take(MAX_CANDIDATES)
            .map(|edge| Candidate {
                slot: edge.to,
                there: edge.there,
                costs: costs(graph, edge.to),
            })
            .collect();
        Self {
            spf,
            links,
            candidates,
        }
    }

    /// The best neighbour for a member to whom all ways lead over lost ones: first one that protects from the death of
    /// the neighbour, then the cheapest.
    pub(super) fn best(&self, dst: Slot, lost: &[Slot]) -> Option<Alternate> {
        let ours = u64::from(self.spf.label(dst)?.cost);
        let root = self.spf.root()?;
        let fit = |candidate: &Candidate| {
            let cost = |to: Slot| candidate.costs.get(to as usize).copied().unwrap_or(FAR);
            let theirs = cost(dst);
            // Inequality 1: its way doesn't lead back over us.
            let free = theirs != FAR && u64::from(theirs) < u64::from(cost(root)) + ours;
            // Inequality 3: nor over whoever is lost.
            let round = |edge: &Edge| {
                let rest = ours.saturating_sub(edge.there.into());
                u64::from(theirs) < u64::from(cost(edge.to)) + rest
            };
            let mut dead = self.links.iter().filter(|edge| lost.contains(&edge.to));
            let protects_node = dead.all(round);
            let whole = u64::from(candidate.there) + u64::from(theirs);
            free.then_some((!protects_node, whole))
        };
        let candidates = self.candidates.iter().filter(|c| !lost.contains(&c.slot));
        let (rank, candidate) = candidates
            .filter_map(|candidate| Some((fit(candidate)?, candidate)))
            .min_by_key(|(rank, _)| *rank)?;
        Some(Alternate {
            via: candidate.slot,
            protects_node: !rank.0,
        })
    }
}

/// For each member to whom all ways lead over lost neighbours: over whom to send until everybody knows of the loss.
pub(super) fn repairs(graph: &impl Links, spf: &Spf, lost: &[Addr]) -> FxHashMap<Addr, Repair> {
    let names = graph.index();
    let lost: Vec<Slot> = lost.iter().filter_map(|addr| names.find(*addr)).collect();
    let struck = |label: &Label| {
        let ways = spf.ways(label.set);
        !ways.is_empty() && ways.iter().all(|way| lost.contains(way))
    };
    let struck: Vec<Slot> = spf
        .slots()
        .filter(|(_, label)| struck(label))
        .map(|(slot, _)| slot)
        .collect();
    if struck.is_empty() {
        return FxHashMap::default();
    }
    let graph = Compact::of(graph);
    let alternates = Alternates::new(&graph, spf, &lost);
    let mut theirs: FxHashMap<Slot, Spf> = FxHashMap::default();
    let mut repair = |dst: Slot| {
        let via = alternates.best(dst, &lost)?.via;
        let theirs = theirs.entry(via).or_insert_with(|| {
            let mut spf = Spf::new(names.addr(via));
            spf.search(&graph);
            spf
        });
        let link = alternates.links.iter().find(|edge| edge.to == via)?.mtu;
        let rest = theirs.label(dst).map_or(link, |label| label.mtu);
        let repair = Repair {
            via: names.addr(via),
            mtu: link.min(rest).into(),
        };
        Some((names.addr(dst), repair))
    };
    let repaired = struck.into_iter().filter_map(&mut repair);
    repaired.collect()
}

/// Over whom each member would be reached if the neighbour on its one way died, for people to see; nobody in a layer of more
/// than [`MOST_SHOWN`], where it would take longer than packets may wait.
pub(super) fn spares(graph: &impl Links, spf: &Spf) -> Vec<(Addr, Addr)> {
    let names = graph.index();
    if names.len() > MOST_SHOWN {
        return Vec::new();
    }
    let alternates = Alternates::new(&Compact::of(graph), spf, &[]);
    let spare = |(dst, label): (Slot, &Label)| match spf.ways(label.set) {
        [] => None,
        [only] => Some((
            names.addr(dst),
            names.addr(alternates.best(dst, &[*only])?.via),
        )),
        [_, second, ..] => Some((names.addr(dst), names.addr(*second))),
    };
    spf.slots().filter_map(spare).collect()
}

/// Of more neighbours only the nearest are looked at: each costs a search of the whole graph.
const MAX_CANDIDATES: usize = 16;
const MOST_SHOWN: usize = 2_000;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::route::graph::{Drawn, LinkState};

    /// Up to ten members with links that both ends name, with costs of their own each way.
    fn any_graph() -> impl Strategy<Value = Drawn> {
        prop::collection::vec((0u64..10, 0u64..10, 1u32..6, 1u32..6), 1..30).prop_map(|links| {
            let mut members: BTreeMap<u64, Vec<LinkState>> = BTreeMap::new();
            for (a, b, there, back) in links.into_iter().filter(|l| l.0 != l.1) {
                for (from, to, cost) in [(a, b, there), (b, a, back)] {
                    let links = members.entry(from).or_default();
                    if !links.iter().any(|l| l.neighbour == Addr(to)) {
                        links.push(LinkState {
                            neighbour: Addr(to),
                            cost,
                            mtu: 1200 + 50 * (cost + to as u32 % 3),
                        });
                    }
                }
            }
            Drawn::new(members.into_iter().map(|(a, l)| (Addr(a), l)))
        })
    }

    /// Everybody whom a packet may meet on its way.
    fn met(graph: &Drawn, from: Addr, to: Addr) -> BTreeSet<Addr> {
        let (mut met, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            if met.insert(at) && at != to {
                open.extend(graph.routes(at).1.ways(to));
            }
        }
        met
    }

    proptest! {
        #[test]
        fn an_alternate_never_sends_a_packet_back_and_is_found_if_there_is_one(graph in any_graph()) {
            let names = graph.names();
            for me in (0..10).map(Addr).filter(|a| names.find(*a).is_some()) {
                let (spf, fib) = graph.routes(me);
                let neighbours: Vec<Slot> = graph.edges(names.find(me).unwrap()).map(|e| e.to).collect();
                for dead in neighbours.iter().copied() {
                    let repairs = repairs(&graph, &spf, &[names.addr(dead)]);
                    let alternates = Alternates::new(&graph, &spf, &[dead]);
                    for (dst, _) in fib.iter() {
                        let only = fib.ways(dst).eq([names.addr(dead)]);
                        let others = || neighbours.iter().filter(|n| **n != dead).map(|n| names.addr(*n));
                        let free = |n: &Addr| !met(&graph, *n, dst).contains(&me);
                        prop_assert_eq!(
                            repairs.contains_key(&dst),
                            only && others().any(|n| free(&n)),
                            "{} to {} without {}", me, dst, names.addr(dead)
                        );
                        let Some(Repair { via, mtu }) = repairs.get(&dst) else { continue };
                        prop_assert!(free(via));
                        let link = graph.edges(names.find(me).unwrap()).find(|e| names.addr(e.to) == *via);
                        let rest = graph.routes(*via).1.next_hop(dst).map_or(u32::MAX, |hop| hop.mtu);
                        prop_assert_eq!(*mtu, rest.min(link.unwrap().mtu.into()));
                        let best = alternates.best(names.find(dst).unwrap(), &[dead]).unwrap();
                        let round = !met(&graph, *via, dst).contains(&names.addr(dead));
                        prop_assert_eq!(best.protects_node, round);
                    }
                }
            }
        }
    }
}
