//! What will happen, drawn from the seed: the cables, and one chaos after another.

use std::collections::BTreeMap;
use std::time::Duration;

use super::acts::Act;
use super::chance::Chance;
use super::net::Cable;
use super::programs::Usage;
use super::topology::Topology;

/// The cables of a layer of `n` hosts.
pub(super) fn cables(
    topology: Topology,
    n: usize,
    chance: &mut Chance,
) -> BTreeMap<(usize, usize), Cable> {
    let edges = topology.edges(n, None, chance);
    // Some layers are hardly ever disturbed, some always.
    let (loss, jitter, attacked) = (
        chance.between(0, 300),
        chance.between(0, 15),
        chance.between(0, 30),
    );
    let cable = |chance: &mut Chance| Cable {
        mtu: MTUS[chance.below(MTUS.len())],
        delay: chance.millis(1, 25),
        jitter: Duration::from_millis(chance.between(0, jitter) as u64),
        loss: [small(chance.between(0, loss)); 2],
        doubled: small(chance.between(0, 50)),
        attacked: small(attacked),
        ..Cable::clean(Duration::ZERO, 0)
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
                usage: Usage::Drawn,
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

/// Now and then a member is revoked, and joins anew after some time.
pub(super) fn expulsion(n: usize, time: Duration, chance: &mut Chance) -> Vec<(Duration, Act)> {
    let span = u64::try_from(time.as_millis()).unwrap_or(0);
    if !chance.permille(300) {
        return Vec::new();
    }
    let host = chance.between(1, n - 1);
    let at = chance.millis(0, span);
    let back = at + chance.millis(500, 6000);
    vec![(at, Act::Expel(host)), (back, Act::Restart(host))]
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The largest packets of cables: that of IPv6, of tunnels, of Ethernet less IP and UDP, of large frames.
const MTUS: [u32; 4] = [1280, 1400, 1472, 8972];
