//! What a change of the network costs a member of a layer of 10,000: `cargo bench -p layer --features sim --bench route`.

use std::collections::BTreeMap;

use divan::Bencher;
use layer::route::{Drawn, LinkState};
use proto::Addr;

fn main() {
    divan::main();
}

/// All ways from one member, over 10,000 members and 40,000 directed links.
#[divan::bench]
fn all_ways(bencher: Bencher<'_, '_>) {
    let torus = Torus::new();
    bencher.bench_local(|| torus.graph.routes(Addr(0)));
}

/// One link becomes cheaper or dearer, comes or goes, somewhere.
#[divan::bench(sample_count = 1000)]
fn one_change(bencher: Bencher<'_, '_>) {
    let mut torus = Torus::new();
    let (mut spf, mut fib) = torus.graph.routes(Addr(0));
    bencher.bench_local(|| {
        let dirty = torus.change();
        fib = torus.graph.reroute(&mut spf, &dirty);
    });
}

/// 100 × 100 members, each with four neighbours.
struct Torus {
    graph: Drawn,
    links: BTreeMap<u64, Vec<LinkState>>,
    state: u64,
    /// What is to be mended by the next change.
    broken: Option<(u64, Vec<LinkState>)>,
}

impl Torus {
    fn new() -> Self {
        let mut torus = Self {
            graph: Drawn::default(),
            links: (0..SIDE * SIDE).map(|a| (a, Vec::new())).collect(),
            state: 7,
            broken: None,
        };
        let at = |x: u64, y: u64| (x % SIDE) * SIDE + y % SIDE;
        for (x, y) in (0..SIDE).flat_map(|x| (0..SIDE).map(move |y| (x, y))) {
            for to in [at(x + 1, y), at(x, y + 1)] {
                let cost = torus.cost();
                torus.link(at(x, y), to, cost);
                torus.link(to, at(x, y), cost);
            }
        }
        let members = torus.links.iter();
        torus.graph = Drawn::new(members.map(|(a, l)| (addr(*a), l.clone())));
        torus
    }

    fn link(&mut self, from: u64, to: u64, cost: u32) {
        let link = LinkState {
            neighbour: addr(to),
            cost,
            mtu: 1400,
        };
        self.links.entry(from).or_default().push(link);
    }

    /// A link goes, or the one that went comes back with another cost.
    fn change(&mut self) -> Vec<u32> {
        if let Some((at, mut links)) = self.broken.take() {
            links[0].cost = self.cost();
            return self.graph.set(addr(at), links);
        }
        let at = self.chance() % (SIDE * SIDE);
        let links = self.links.get(&at).cloned().unwrap_or_default();
        self.broken = Some((at, links.clone()));
        self.graph.set(addr(at), links[1..].to_vec())
    }

    fn cost(&mut self) -> u32 {
        10 + (self.chance() % 40) as u32
    }

    fn chance(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.state >> 33
    }
}

/// Addresses are hashes: they lie anywhere. That of the first is 0.
fn addr(n: u64) -> Addr {
    Addr(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

const SIDE: u64 = 100;
