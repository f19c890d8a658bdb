//! Shortest paths are those that an oracle finds, and the incremental way finds what the whole one does.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::dijkstra;
use petgraph::graph::DiGraph;
use proptest::prelude::*;

use super::*;
use crate::route::Hop;
use crate::route::graph::{Drawn, LinkState, MAX_COST, tidy};

type Members = BTreeMap<Addr, Vec<LinkState>>;

fn graph(members: &Members) -> Drawn {
    Drawn::new(members.iter().map(|(a, l)| (*a, l.clone())))
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

fn any_links() -> impl Strategy<Value = Vec<LinkState>> {
    let link = (0u64..18, 0u32..6, 1000u32..1010).prop_map(|(a, c, m)| link(a, c, m));
    prop::collection::vec(link, 0..12).prop_map(|mut links| {
        tidy(&mut links);
        links
    })
}

/// Up to 16 members that say anything of anybody, also of themselves and of members that don't exist.
fn any_members() -> impl Strategy<Value = Members> {
    prop::collection::btree_map((0u64..16).prop_map(Addr), any_links(), 1..16)
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

/// What everybody costs from everybody, by another's algorithm.
fn oracle(members: &Members) -> BTreeMap<(Addr, Addr), u64> {
    let mut oracle = DiGraph::<Addr, u64>::new();
    let index: BTreeMap<_, _> = members.keys().map(|a| (*a, oracle.add_node(*a))).collect();
    for ((a, b), (cost, _)) in real(members) {
        oracle.add_edge(index[&a], index[&b], u64::from(cost));
    }
    let mut costs = BTreeMap::new();
    for from in members.keys() {
        for (to, cost) in dijkstra(&oracle, index[from], None, |edge| *edge.weight()) {
            costs.insert((*from, oracle[to]), cost);
        }
    }
    costs
}

/// Every way that a packet may take through everybody's own table, whichever of equal ones each member chooses.
fn follow(tables: &BTreeMap<Addr, Fib>, from: Addr, to: Addr) -> Vec<Vec<Addr>> {
    let (mut open, mut done) = (vec![vec![from]], Vec::new());
    while let Some(way) = open.pop() {
        let at = *way.last().unwrap();
        if at == to {
            done.push(way);
            continue;
        }
        assert!(way.len() <= tables.len(), "a circle: {way:?}");
        let next: Vec<_> = tables[&at].ways(to).collect();
        assert!(!next.is_empty(), "a member on the way knows no further");
        open.extend(next.into_iter().map(|n| [&way[..], &[n]].concat()));
    }
    done
}

proptest! {
    #[test]
    fn costs_and_first_steps_are_those_that_an_oracle_finds(members in any_members()) {
        let (costs, links) = (oracle(&members), real(&members));
        for me in members.keys() {
            let (_, fib) = graph(&members).routes(*me);
            let expected: BTreeMap<_, _> =
                members.keys().filter(|a| *a != me).filter_map(|a| Some((*a, *costs.get(&(*me, *a))?))).collect();
            let found: BTreeMap<_, _> = fib.iter().map(|(a, hop)| (a, hop.cost)).collect();
            prop_assert_eq!(&found, &expected);
            for (to, cost) in expected {
                let on_the_way = |n: &Addr| {
                    let first = links.get(&(*me, *n)).map(|l| u64::from(l.0));
                    first.zip(costs.get(&(*n, to))).is_some_and(|(first, rest)| first + rest == cost)
                };
                let mut ways: Vec<_> = members.keys().copied().filter(on_the_way).collect();
                ways.truncate(MAX_WAYS);
                prop_assert_eq!(fib.ways(to).collect::<Vec<_>>(), ways);
            }
        }
    }

    #[test]
    fn packets_arrive_at_the_promised_cost_and_fit_whichever_way_they_take(members in any_members()) {
        let links = real(&members);
        let tables: BTreeMap<_, _> = members.keys().map(|me| (*me, graph(&members).routes(*me).1)).collect();
        for (me, fib) in &tables {
            for (to, hop) in fib.iter() {
                let ways = follow(&tables, *me, to);
                for way in &ways {
                    let steps: Vec<_> = way.windows(2).map(|w| links[&(w[0], w[1])]).collect();
                    prop_assert_eq!(steps.iter().map(|s| u64::from(s.0)).sum::<u64>(), hop.cost);
                    prop_assert!(steps.iter().all(|s| s.1 >= hop.mtu), "{:?} promised {}", steps, hop.mtu);
                    prop_assert_eq!(way.iter().collect::<BTreeSet<_>>().len(), way.len());
                }
                prop_assert_eq!(ways.iter().map(|w| w.len() - 1).min(), Some(hop.hops as usize));
            }
        }
    }

    #[test]
    fn whatever_changes_the_incremental_way_finds_what_the_whole_one_does(
        start in any_members(),
        me in (0u64..16).prop_map(Addr),
        changes in prop::collection::vec(
            prop::collection::vec(((0u64..16).prop_map(Addr), any_links(), 0u8..8), 1..4), 1..24),
    ) {
        let (mut drawn, mut spf) = (graph(&start), Spf::new(me));
        spf.full(&drawn);
        prop_assert_eq!(spf.moves(drawn.names()), None, "nothing was told before");
        for change in changes {
            let before = reached(&spf, &drawn);
            let mut dirty = Vec::new();
            for (member, links, what) in change {
                // Mostly a single link changes, now and then all of a member's, or the member goes.
                let mut said = drawn.names().find(member).map_or_else(Vec::new, |s| drawn.links(s).to_vec());
                dirty.extend(match (what, links.first()) {
                    (0, _) => drawn.forget(member),
                    (1, _) | (_, None) => drawn.set(member, links),
                    (2 | 3, Some(link)) => {
                        said.retain(|l| l.neighbour != link.neighbour);
                        drawn.set(member, said)
                    }
                    (_, Some(link)) => {
                        said.retain(|l| l.neighbour != link.neighbour);
                        said.push(*link);
                        drawn.set(member, said)
                    }
                });
            }
            prop_assert_eq!(spf.update(&drawn, &dirty), drawn.routes(me).1);
            let after = reached(&spf, &drawn);
            // Numbers that were given anew tell nothing.
            if let Some(moves) = spf.moves(drawn.names()) {
                let come: BTreeSet<_> = moves.come.into_iter().collect();
                let gone: BTreeSet<_> = moves.gone.into_iter().collect();
                prop_assert_eq!(come, after.difference(&before).copied().collect());
                prop_assert_eq!(gone, before.difference(&after).copied().collect());
            }
        }
    }
}

/// Who can be reached.
fn reached(spf: &Spf, drawn: &Drawn) -> BTreeSet<Addr> {
    spf.slots()
        .map(|(slot, _)| drawn.names().addr(slot))
        .collect()
}

/// A torus of `side` × `side` members with costs by chance.
fn torus(side: u64, chance: &mut impl FnMut() -> u64) -> Drawn {
    let at = |x: u64, y: u64| (x % side) * side + y % side;
    let mut members: Members = (0..side * side).map(|a| (Addr(a), Vec::new())).collect();
    for (x, y) in (0..side).flat_map(|x| (0..side).map(move |y| (x, y))) {
        for to in [at(x + 1, y), at(x, y + 1)] {
            let cost = 10 + (chance() % 40) as u32;
            members
                .get_mut(&Addr(at(x, y)))
                .unwrap()
                .push(link(to, cost, 1400));
            members
                .get_mut(&Addr(to))
                .unwrap()
                .push(link(at(x, y), cost, 1400));
        }
    }
    graph(&members)
}

#[test]
fn ten_thousand_members_are_few_bytes_each_and_a_change_touches_few_of_them() {
    let mut state = 7u64;
    let mut chance = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    let mut drawn = torus(100, &mut chance);
    let me = Addr(0);
    let mut spf = Spf::new(me);
    let fib = spf.full(&drawn);
    assert_eq!(fib.len(), 9_999);
    assert!(size_of::<Label>() <= 12);
    let mut work = Vec::new();
    for _ in 0..50 {
        let from = Addr(1 + chance() % 9_999);
        let mut links = drawn.links(drawn.names().find(from).unwrap()).to_vec();
        let which = chance() as usize % links.len();
        if chance() % 2 == 0 {
            links[which].cost = 10 + (chance() % 40) as u32;
        } else {
            links.remove(which);
        }
        let dirty = drawn.set(from, links);
        let before = spf.labels.clone();
        let fib = spf.update(&drawn, &dirty);
        let pairs = before.iter().zip(spf.labels.iter());
        work.push(pairs.filter(|(a, b)| a.cost != b.cost).count());
        assert_eq!(fib, drawn.routes(me).1);
    }
    work.sort_unstable();
    println!(
        "members whose cost changed with one link: median {}, most {}",
        work[25], work[49]
    );
}

#[test]
fn a_link_that_one_end_denies_is_none() {
    let members = members(&[(1, &[link(2, 1, 1400)]), (2, &[])]);
    assert!(graph(&members).routes(Addr(1)).1.is_empty());
}

#[test]
fn equal_ways_are_all_used_and_the_smallest_mtu_is_promised() {
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
    let (_, fib) = graph(&members).routes(Addr(1));
    assert_eq!(fib.next_hop(Addr(4)), Some(expected));
    assert_eq!(fib.ways(Addr(4)).collect::<Vec<_>>(), [Addr(2), Addr(3)]);
}

#[test]
fn the_largest_costs_do_not_overflow() {
    let far = u32::MAX;
    let members = members(&[
        (1, &[link(2, far, 1)]),
        (2, &[link(1, far, 1), link(3, far, 1)]),
        (3, &[link(2, far, 1)]),
    ]);
    let hop = graph(&members).routes(Addr(1)).1.next_hop(Addr(3)).unwrap();
    assert_eq!(hop.cost, 2 * u64::from(MAX_COST));
    let most = crate::route::MAX_MEMBERS as u64 - 1;
    assert!(most * u64::from(MAX_COST) < u64::from(FAR));
}
