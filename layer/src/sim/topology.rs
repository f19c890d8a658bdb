//! How hosts are connected.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::chance::Chance;

/// How the hosts are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One behind the other.
    Line,
    /// In a circle.
    Ring,
    /// All to the first.
    Star,
    /// In rows and columns.
    Grid,
    /// Each new host to some of those before it, any of them.
    Random,
    /// A binary tree.
    Tree,
    /// Cores, aggregations and edges of a k-ary fat tree (Al-Fares 2008); hosts that are left over hang on the edges.
    FatTree,
    /// Each new host to some of those before it, the likelier the more cables they have (Barabási and Albert 1999).
    PowerLaw,
}

/// Pairs of hosts, the lower number first.
pub(super) type Edges = BTreeSet<(usize, usize)>;

impl Topology {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Line, "line"),
        (Self::Ring, "ring"),
        (Self::Star, "star"),
        (Self::Grid, "grid"),
        (Self::Random, "random"),
        (Self::Tree, "tree"),
        (Self::FatTree, "fat-tree"),
        (Self::PowerLaw, "power-law"),
    ];
    /// So many at the beginning of [`Topology::ALL`] are drawn for small layers.
    const SMALL: usize = 5;

    pub(super) fn draw(chance: &mut Chance, small: bool) -> Self {
        let among = if small { Self::SMALL } else { Self::ALL.len() };
        Self::ALL[chance.below(among)].0
    }

    /// The cables of a layer of `n` hosts. `links`: how many each new host brings where that is free; `None`: drawn, or 2.
    pub(super) fn edges(self, n: usize, links: Option<usize>, chance: &mut Chance) -> Edges {
        match self {
            Self::Line => (1..n).map(|i| (i - 1, i)).collect(),
            Self::Ring => {
                let closing = (n > 2).then_some((0, n - 1));
                (1..n).map(|i| (i - 1, i)).chain(closing).collect()
            }
            Self::Star => (1..n).map(|i| (0, i)).collect(),
            Self::Tree => (1..n).map(|i| ((i - 1) / 2, i)).collect(),
            Self::Grid => grid(n),
            Self::Random => match links {
                Some(links) => attached(n, links, chance),
                None => sparse(n, chance),
            },
            Self::FatTree => fat_tree(n),
            Self::PowerLaw => power_law(n, links.unwrap_or(2), chance),
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(s, _)| s == self);
        f.write_str(word.map_or("", |(_, word)| word))
    }
}

impl FromStr for Topology {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, word)| *word == text);
        known.map(|(s, _)| *s).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|(_, word)| *word).collect();
            format!("{text:?} is no topology; use {}", words.join(", "))
        })
    }
}

fn edge(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

/// A tree and some more cables.
fn sparse(n: usize, chance: &mut Chance) -> Edges {
    let mut edges: Edges = (1..n).map(|i| (chance.below(i), i)).collect();
    for _ in 0..chance.between(0, n) {
        let (a, b) = (chance.below(n), chance.below(n));
        edges.extend((a != b).then_some(edge(a, b)));
    }
    edges
}

/// Each host gets `links` cables to hosts before it.
fn attached(n: usize, links: usize, chance: &mut Chance) -> Edges {
    let mut edges = Edges::new();
    for host in 1..n {
        let mut left = links.clamp(1, host);
        while left > 0 {
            let other = chance.below(host);
            left -= usize::from(edges.insert(edge(other, host)));
        }
    }
    edges
}

fn power_law(n: usize, links: usize, chance: &mut Chance) -> Edges {
    let mut edges = Edges::new();
    // Each end of each cable once: whom one draws here is drawn as often as it has cables.
    let mut ends = vec![0];
    for host in 1..n {
        let mut others = BTreeSet::new();
        while others.len() < links.clamp(1, host) {
            others.extend(chance.pick(&ends));
        }
        for other in others {
            edges.insert(edge(other, host));
            ends.extend([other, host]);
        }
    }
    edges
}

fn grid(n: usize) -> Edges {
    let width = (1..=n).find(|w| w * w >= n).unwrap_or(1);
    let right = (0..n).filter(|i| (i + 1) % width != 0 && i + 1 < n);
    let down = (0..n).filter(|i| i + width < n);
    right
        .map(|i| (i, i + 1))
        .chain(down.map(|i| (i, i + width)))
        .collect()
}

/// Numbers: first the (k/2)² cores, then for each of k pods its k/2 aggregations and its k/2 edges, then what is left over.
fn fat_tree(n: usize) -> Edges {
    let k = (2..).step_by(2).take_while(|k| 5 * k * k / 4 <= n).last();
    let Some(k) = k else {
        return (1..n).map(|i| (0, i)).collect();
    };
    let (half, cores, switches) = (k / 2, k * k / 4, 5 * k * k / 4);
    let (aggregation, below) = (
        |pod, i| cores + pod * k + i,
        |pod, i| cores + pod * k + half + i,
    );
    let mut edges = Edges::new();
    for pod in 0..k {
        for a in 0..half {
            edges.extend((0..half).map(|c| (a * half + c, aggregation(pod, a))));
            edges.extend((0..half).map(|e| (aggregation(pod, a), below(pod, e))));
        }
    }
    let hosts = (switches..n).enumerate();
    edges.extend(hosts.map(|(i, host)| (below(i % k, i / k % half), host)));
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(n: usize, edges: &Edges) -> usize {
        let (mut found, mut todo) = (BTreeSet::from([0]), vec![0]);
        while let Some(at) = todo.pop() {
            let others = edges.iter().filter_map(|(a, b)| match at {
                at if at == *a => Some(*b),
                at if at == *b => Some(*a),
                _ => None,
            });
            todo.extend(others.filter(|o| found.insert(*o)));
        }
        assert!(edges.iter().all(|(a, b)| a < b && *b < n));
        found.len()
    }

    #[test]
    fn every_topology_connects_all_its_hosts() {
        for (topology, word) in Topology::ALL {
            assert_eq!(word.parse(), Ok(topology));
            for n in [2, 3, 4, 5, 7, 20, 21, 64] {
                for links in [None, Some(1), Some(3)] {
                    let edges = topology.edges(n, links, &mut Chance::new(n as u64, 0));
                    assert_eq!(reached(n, &edges), n, "{topology} of {n}");
                }
            }
        }
    }

    #[test]
    fn a_fat_tree_has_as_many_ways_up_as_down() {
        let edges = Topology::FatTree.edges(20, None, &mut Chance::new(0, 0));
        let degree = |host| {
            edges
                .iter()
                .filter(|(a, b)| *a == host || *b == host)
                .count()
        };
        assert!((0..4).all(|core| degree(core) == 4));
        assert_eq!(edges.len(), 32);
    }

    #[test]
    fn a_power_law_has_few_hosts_with_many_cables() {
        let edges = Topology::PowerLaw.edges(1000, Some(2), &mut Chance::new(1, 0));
        let mut degrees = vec![0; 1000];
        edges.iter().for_each(|(a, b)| {
            degrees[*a] += 1;
            degrees[*b] += 1;
        });
        degrees.sort_unstable();
        assert!(degrees[500] <= 3 && degrees[999] > 30, "{degrees:?}");
    }
}
