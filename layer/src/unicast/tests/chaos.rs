//! Links and members that come and go at random: once it is quiet, all is as if nothing had been.

use proto::QosSpec;

use super::flows::{flow, read, register, write};
use super::*;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Pseudo-random numbers of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn pair(&mut self) -> (&'static str, &'static str) {
        let a = self.below(NAMES.len());
        let b = (a + 1 + self.below(NAMES.len() - 1)) % NAMES.len();
        (NAMES[a], NAMES[b])
    }
}

fn restart(net: &mut Net, name: &'static str) {
    let files = net.node(name).files.clone();
    net.boot(name, files);
    net.command(
        name,
        Command::Enroll(Enroll {
            entry: Entry::Rejoin,
            over: vec![label("net")],
            timeout_ms: 5_000,
        }),
    );
}

/// A ring of five with one link across.
fn ring(seed: u64) -> Net {
    let mut net = Net::new(&NAMES);
    bootstrap(&mut net, "a");
    for (i, name) in NAMES.into_iter().enumerate().skip(1) {
        join(&mut net, "a", name);
        net.command(
            name,
            Command::Connect(label(NAMES[(i + 1) % NAMES.len()]), None),
        );
    }
    let mut dice = seed as u32;
    net.tamper = Some(Box::new(move |_, _, pdu| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if dice >> 28 == 0 {
            pdu.clear();
        }
    }));
    net.seconds(3);
    net
}

/// Cuts, mends and restarts, then mends all.
fn upset(net: &mut Net, dice: &mut Dice) {
    let mut cut = Vec::new();
    for _ in 0..25 {
        match dice.below(4) {
            0 | 1 => {
                let (a, b) = dice.pair();
                net.cut(a, b);
                cut.push((a, b));
            }
            2 => {
                if let Some((a, b)) = cut.pop() {
                    net.mend(a, b);
                }
            }
            _ => restart(net, NAMES[dice.below(NAMES.len())]),
        }
        net.run(Duration::from_millis(100 + 100 * dice.below(30) as u64));
    }
    for (a, b) in cut {
        net.mend(a, b);
    }
    net.tamper = None;
}

#[test]
fn members_agree_once_it_is_quiet_and_nothing_is_left_over() {
    for seed in 1..=10 {
        let mut dice = Dice(seed);
        let mut net = ring(seed);
        upset(&mut net, &mut dice);
        net.seconds(15);
        for name in NAMES {
            let status = status(&mut net, name);
            assert_eq!(status.members.len(), 5, "seed {seed}: {name} knows too few");
            let lost: Vec<_> = status
                .members
                .iter()
                .filter(|m| !m.reachable)
                .map(|m| &m.name)
                .collect();
            assert!(
                lost.is_empty(),
                "seed {seed}: {name} does not reach {lost:?}"
            );
            assert_eq!(status.state, "up", "seed {seed}: {name}");
        }
        let (from, to) = dice.pair();
        register(&mut net, to, "server");
        net.seconds(1);
        let id = 1_000_000;
        flow(&mut net, from, to, "server", id, QosSpec::RAW);
        write(&mut net, from, id, &[b"here"]);
        assert_eq!(
            read(&mut net, to, id),
            [b"here".to_vec()],
            "seed {seed}: {from} to {to}"
        );
        net.seconds(40);
        for name in NAMES {
            let links = &net.node(name).machine.links;
            assert!(
                links.values().all(|l| l.up().is_some()),
                "seed {seed}: {name} keeps a link that is of no use"
            );
            assert!(
                links.len() <= 4,
                "seed {seed}: {name} has {} links",
                links.len()
            );
        }
        let links: usize = NAMES
            .iter()
            .map(|name| net.nodes[name].machine.links.len())
            .sum();
        assert_eq!(
            links,
            net.wires.len(),
            "seed {seed}: lower flows are left over"
        );
    }
}
