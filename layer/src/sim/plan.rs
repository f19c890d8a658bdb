//! What will happen, drawn from the seed: the cables, and one chaos after another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::acts::Act;
use super::chance::Chance;
use super::net::Cable;

/// How the hosts are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// One behind the other.
    Line,
    /// In a circle.
    Ring,
    /// All to the first.
    Star,
    /// In rows and columns.
    Grid,
    /// A tree and some more cables.
    Random,
}

impl Scenario {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Line, "line"),
        (Self::Ring, "ring"),
        (Self::Star, "star"),
        (Self::Grid, "grid"),
        (Self::Random, "random"),
    ];

    pub(super) fn draw(chance: &mut Chance) -> Self {
        Self::ALL[chance.below(Self::ALL.len())].0
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::ALL
                .iter()
                .find(|(s, _)| s == self)
                .map_or("", |(_, word)| word),
        )
    }
}

impl FromStr for Scenario {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL
            .iter()
            .find(|(_, word)| *word == text)
            .map(|(s, _)| *s);
        known
            .ok_or_else(|| format!("{text:?} is no scenario; use line, ring, star, grid or random"))
    }
}

/// The cables of a layer of `n` hosts.
pub(super) fn cables(
    scenario: Scenario,
    n: usize,
    chance: &mut Chance,
) -> BTreeMap<(usize, usize), Cable> {
    let mut edges: BTreeSet<(usize, usize)> = match scenario {
        Scenario::Line => (1..n).map(|i| (i - 1, i)).collect(),
        Scenario::Ring => (1..n).map(|i| (i - 1, i)).chain([(0, n - 1)]).collect(),
        Scenario::Star => (1..n).map(|i| (0, i)).collect(),
        Scenario::Grid => grid(n),
        Scenario::Random => (1..n).map(|i| (chance.below(i), i)).collect(),
    };
    if scenario == Scenario::Random {
        for _ in 0..chance.between(0, n) {
            let (a, b) = (chance.below(n), chance.below(n));
            edges.extend((a != b).then_some((a.min(b), a.max(b))));
        }
    }
    // Some layers are hardly ever disturbed, some always.
    let (loss, jitter, attacked) = (
        chance.between(0, 300),
        chance.between(0, 15),
        chance.between(0, 30),
    );
    let cable = |chance: &mut Chance| Cable {
        up: true,
        mtu: MTUS[chance.below(MTUS.len())],
        delay: chance.millis(1, 25),
        jitter: Duration::from_millis(chance.between(0, jitter) as u64),
        loss: small(chance.between(0, loss)),
        doubled: small(chance.between(0, 50)),
        attacked: small(attacked),
    };
    edges
        .into_iter()
        .map(|edge| (edge, cable(chance)))
        .collect()
}

/// What happens within `time`: each act with its time.
pub(super) fn chaos(
    edges: &[(usize, usize)],
    n: usize,
    time: Duration,
    chance: &mut Chance,
) -> Vec<(Duration, Act)> {
    let span = u64::try_from(time.as_millis()).unwrap_or(0);
    let mut acts = Vec::new();
    for _ in 0..chance.between(3, 20) {
        let (from, to) = (chance.below(n), chance.below(n));
        acts.push((
            chance.millis(0, span),
            Act::Open {
                from,
                to,
                probe: false,
            },
        ));
    }
    for _ in 0..chance.between(0, 6) {
        let at = chance.millis(0, span);
        let back = at + chance.millis(50, 6000);
        let Some((a, b)) = chance.pick(edges) else {
            continue;
        };
        let host = chance.below(n);
        match chance.below(7) {
            0 | 1 => acts.extend([
                (at, Act::Cable(a, b, false)),
                (back, Act::Cable(a, b, true)),
            ]),
            2 => acts.extend([
                (at, Act::Partition(host, false)),
                (back, Act::Partition(host, true)),
            ]),
            3 | 4 => acts.extend([(at, Act::Crash(host)), (back, Act::Restart(host))]),
            5 => acts.push((at, Act::Death)),
            _ => acts.push((at, Act::Mtu(a, b, MTUS[chance.below(MTUS.len())]))),
        }
        if chance.permille(200) {
            acts.extend([
                (at, Act::Register(host, false)),
                (back, Act::Register(host, true)),
            ]);
        }
    }
    acts
}

fn grid(n: usize) -> BTreeSet<(usize, usize)> {
    let width = (1..=n).find(|w| w * w >= n).unwrap_or(1);
    let right = (0..n)
        .filter(|i| (i + 1) % width != 0 && i + 1 < n)
        .map(|i| (i, i + 1));
    let down = (0..n).filter(|i| i + width < n).map(|i| (i, i + width));
    right.chain(down).collect()
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The largest packets of cables: that of IPv6, of tunnels, of Ethernet less IP and UDP, of large frames.
const MTUS: [u32; 4] = [1280, 1400, 1472, 8972];
