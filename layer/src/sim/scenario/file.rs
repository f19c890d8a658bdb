//! From the text of a scenario file to a scenario, or to what is wrong with it, and where.

use std::fmt;
use std::time::Duration;

use proto::QosSpec;
use serde::Deserialize;
use toml::Spanned;

use super::value::{Count, Percent, Shift, Time};
use super::{Bounds, Cables, Fault, Kind, Load, Scenario, When};
use crate::sim::expelled::WordOut;
use crate::sim::topology::Topology;

/// What is wrong with a scenario file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What.
    pub what: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for ScenarioError {}

/// The offset of what is wrong, and what.
type Wrong = (usize, String);

pub(super) fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    let file: Result<File, Wrong> = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        (at, e.message().replace('\n', " "))
    });
    file.and_then(File::read).map_err(|(offset, what)| {
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ScenarioError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what,
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    members: Spanned<usize>,
    topology: Spanned<String>,
    links: Option<usize>,
    #[serde(default = "one")]
    rounds: Spanned<usize>,
    lasts: Spanned<Time>,
    #[serde(default)]
    cable: CableTable,
    #[serde(default)]
    fault: Vec<Spanned<FaultTable>>,
    #[serde(default)]
    load: Vec<Spanned<LoadTable>>,
    #[serde(default)]
    bounds: BoundsTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CableTable {
    mtu: Option<Vec<u32>>,
    delay: Option<Time>,
    jitter: Option<Time>,
    loss: Option<Percent>,
    /// From the higher to the lower number, where that differs.
    loss_back: Option<Percent>,
    doubled: Option<Percent>,
    attacked: Option<Percent>,
    corrupted: Option<Percent>,
    reordered: Option<Percent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultTable {
    kind: Spanned<String>,
    at: Option<Time>,
    times: Option<usize>,
    lasts: Option<Time>,
    member: Option<Spanned<usize>>,
    cable: Option<Spanned<(usize, usize)>>,
    by: Option<Shift>,
    mtu: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadTable {
    qos: Spanned<String>,
    flows: usize,
    from: Option<Spanned<usize>>,
    to: Option<Spanned<usize>>,
    sdus: usize,
    pause: Time,
    size: Option<Count>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct BoundsTable {
    convergence: Option<Time>,
    revoked: Option<Time>,
    allocated: Option<Percent>,
    delivered: Option<Percent>,
}

impl File {
    fn read(self) -> Result<Scenario, Wrong> {
        let (at, members) = (self.members.span().start, *self.members.get_ref());
        if !(2..=MAX_MEMBERS).contains(&members) {
            return Err((at, format!("a layer has from 2 to {MAX_MEMBERS} members")));
        }
        let topology: Result<Topology, _> = self.topology.get_ref().parse();
        let topology = topology.map_err(|what| (self.topology.span().start, what))?;
        let rounds = *self.rounds.get_ref();
        if !(1..=100).contains(&rounds) {
            let what = "there are from 1 to 100 rounds".to_owned();
            return Err((self.rounds.span().start, what));
        }
        let lasts = self.lasts.get_ref().1;
        let fault = |table: Spanned<FaultTable>| {
            let at = table.span().start;
            fault(table.into_inner(), at, members, lasts)
        };
        let load = |table: Spanned<LoadTable>| load(table.into_inner(), members);
        Ok(Scenario {
            description: self.description,
            members,
            topology,
            links: self.links,
            cable: cable(&self.cable),
            rounds,
            lasts,
            faults: self
                .fault
                .into_iter()
                .map(fault)
                .collect::<Result<_, _>>()?,
            loads: self.load.into_iter().map(load).collect::<Result<_, _>>()?,
            bounds: Bounds {
                convergence: self.bounds.convergence.map_or(CONVERGENCE, |t| t.1),
                revoked: self.bounds.revoked.map_or(WordOut::PROMISED, |t| t.1),
                allocated: self.bounds.allocated.map_or(0, |p| p.0),
                delivered: self.bounds.delivered.map_or(0, |p| p.0),
            },
        })
    }
}

fn one() -> Spanned<usize> {
    Spanned::new(0..0, 1)
}

fn cable(table: &CableTable) -> Cables {
    let permille = |p: Option<Percent>| p.map_or(0, |p| p.0);
    let loss = permille(table.loss);
    let delay = table.delay.unwrap_or(Time(DELAY, DELAY));
    Cables {
        mtus: table.mtu.clone().unwrap_or_else(|| vec![1472]),
        delay: (delay.0, delay.1),
        jitter: table.jitter.map_or(Duration::ZERO, |t| t.1),
        loss: [loss, table.loss_back.map_or(loss, |p| p.0)],
        doubled: permille(table.doubled),
        attacked: permille(table.attacked),
        corrupted: permille(table.corrupted),
        reordered: permille(table.reordered),
    }
}

fn fault(table: FaultTable, at: usize, members: usize, round: Duration) -> Result<Fault, Wrong> {
    let wrong = |what: &str| Err((at, what.to_owned()));
    let when = match (table.at, table.times) {
        (Some(time), None) if time.1 <= round => When::At(time.1),
        (Some(_), None) => return wrong("it begins after the round has ended"),
        (None, Some(times)) => When::Times(times),
        _ => return wrong("a fault has either at = TIME or times = NUMBER"),
    };
    let lasts = table.lasts.unwrap_or(Time(LASTS, LASTS));
    if lasts.1 > LONGEST_FAULT {
        return wrong("a fault lasts for at most 60 s");
    }
    let word = table.kind.get_ref().as_str();
    let kind = match (word, table.by, table.mtu) {
        ("crash", None, None) => Kind::Crash,
        ("disk-loss", None, None) => Kind::DiskLoss,
        ("cut", None, None) => Kind::Cut,
        ("one-way", None, None) => Kind::OneWay,
        ("partition", None, None) => Kind::Partition,
        ("lie", None, None) => Kind::Lie,
        ("death", None, None) => Kind::Death,
        ("withdraw", None, None) => Kind::Withdraw,
        ("expel", None, None) => Kind::Expel,
        ("keepers", None, None) => Kind::Keepers,
        ("clock", Some(Shift(by)), None) => Kind::Clock(by),
        ("slow", Some(Shift(by @ 0..)), None) => {
            Kind::Slow(Duration::from_millis(by.unsigned_abs()))
        }
        ("mtu", None, Some(mtu @ 576..)) => Kind::Mtu(mtu),
        ("clock" | "slow", _, _) => {
            return wrong("clock and slow say by how much, and nothing else: by = TIME");
        }
        ("mtu", _, _) => return wrong("mtu says which, from 576: mtu = BYTES"),
        (
            "crash" | "disk-loss" | "cut" | "one-way" | "partition" | "lie" | "death" | "withdraw"
            | "expel" | "keepers",
            _,
            _,
        ) => {
            return wrong("only clock and slow have a by, and only mtu an mtu");
        }
        _ => {
            return Err((
                table.kind.span().start,
                format!("{word:?} is no fault; use {KINDS}"),
            ));
        }
    };
    let member = table.member.map(|m| host(&m, members)).transpose()?;
    if matches!(kind, Kind::DiskLoss | Kind::Expel) && member == Some(0) {
        return wrong("member 0 holds the authority of the layer; it must not be lost");
    }
    let cable = table.cable.map(|c| {
        let (a, b) = *c.get_ref();
        if a < members && b < members && a != b {
            Ok((a.min(b), a.max(b)))
        } else {
            Err((
                c.span().start,
                format!("a cable is between two of the hosts 0 to {}", members - 1),
            ))
        }
    });
    Ok(Fault {
        kind,
        when,
        lasts: (lasts.0, lasts.1),
        member,
        cable: cable.transpose()?,
    })
}

fn load(table: LoadTable, members: usize) -> Result<Load, Wrong> {
    let qos: Result<QosSpec, _> = table.qos.get_ref().parse();
    let qos = qos.map_err(|e| (table.qos.span().start, e.to_string()))?;
    let size = table.size.unwrap_or(Count(200, 200));
    Ok(Load {
        qos,
        flows: table.flows,
        from: table.from.map(|m| host(&m, members)).transpose()?,
        to: table.to.map(|m| host(&m, members)).transpose()?,
        sdus: table.sdus,
        pause: (table.pause.0, table.pause.1),
        size: (size.0, size.1),
    })
}

fn host(number: &Spanned<usize>, members: usize) -> Result<usize, Wrong> {
    let host = *number.get_ref();
    let known = (host < members).then_some(host);
    known.ok_or_else(|| {
        let what = format!("the hosts have the numbers 0 to {}", members - 1);
        (number.span().start, what)
    })
}

/// Faults end at most that long after they began.
pub(super) const LONGEST_FAULT: Duration = Duration::from_secs(60);
const MAX_MEMBERS: usize = 64;
/// As long as it takes to notice a dead neighbour to whom nothing is sent, or to give up a handshake that was begun in bad
/// times, and to dial again.
const CONVERGENCE: Duration = Duration::from_secs(60);
const DELAY: Duration = Duration::from_millis(5);
const LASTS: Duration = Duration::from_secs(2);
const KINDS: &str = "crash, disk-loss, cut, one-way, partition, clock, lie, slow, death, mtu, withdraw, expel or keepers";

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_column() {
        let head = "description = \"x\"\nmembers = 4\ntopology = \"ring\"\nlasts = \"5s\"\n";
        assert!(parse(head).is_ok());
        let cases = [
            ("[cable]\nlost = 1.0\n", "6:1: unknown field `lost`"),
            ("[cable]\ndelay = \"5 ms\"\n", "6:9: \"5 ms\" is no time"),
            ("[cable]\nloss = 101.0\n", "6:8: a percentage"),
            (
                "[[fault]]\nkind = \"crush\"\ntimes = 1\n",
                "6:8: \"crush\" is no fault",
            ),
            ("[[fault]]\nkind = \"crash\"\n", "5:1: a fault has either"),
            (
                "[[fault]]\nkind = \"crash\"\ntimes = 1\nmember = 4\n",
                "8:10: the hosts have",
            ),
            (
                "[[fault]]\nkind = \"clock\"\ntimes = 1\n",
                "5:1: clock and slow",
            ),
            (
                "[[load]]\nqos = \"fast\"\nflows = 1\nsdus = 1\npause = \"1s\"\n",
                "6:7: \"fast\" is no QoS",
            ),
        ];
        for (text, what) in cases {
            let got = wrong(&format!("{head}{text}"));
            assert!(got.starts_with(what), "{got} instead of {what}");
        }
        assert!(wrong("members = 1").starts_with("1:1: missing field"));
        let one = head.replace("members = 4", "members = 1");
        assert_eq!(wrong(&one), "2:11: a layer has from 2 to 64 members");
        assert!(
            wrong(&head.replace("ring", "circle")).starts_with("3:12: \"circle\" is no topology")
        );
    }

    #[test]
    fn times_and_counts_may_be_from_to() {
        let text = "description = \"x\"\nmembers = 4\ntopology = \"ring\"\nlasts = \"5s\"\n\
            [cable]\ndelay = [\"1ms\", \"2s\"]\nloss = 0.5\nloss_back = 100\n\
            [[fault]]\nkind = \"clock\"\nat = \"1s\"\nby = \"-10m\"\n\
            [[load]]\nqos = \"best\"\nflows = 1\nsdus = 1\npause = \"50us\"\nsize = [1, 9]\n";
        let scenario = parse(text).unwrap();
        assert_eq!(
            scenario.cable.delay,
            (Duration::from_millis(1), Duration::from_secs(2))
        );
        assert_eq!(scenario.cable.loss, [5, 1000]);
        assert_eq!(scenario.faults[0].kind, Kind::Clock(-600_000));
        assert_eq!(scenario.loads[0].size, (1, 9));
    }
}
