//! The simulator: many machines, a virtual clock, one seed. It must not touch a clock, a thread or the machine's insides:
//! it sees what irmd, programs and the lower network see.
//!
//! | file | holds |
//! |---|---|
//! | `scenario`, `topology` | what is to happen, as a file says; how hosts are connected |
//! | `plan` | what will happen where no file says it, drawn from the seed |
//! | `run`, `probe` | one run from its beginning to its end; flows that must work |
//! | `acts`, `programs`, `faults` | what administrators and bad luck do; what programs do with flows; what else goes wrong |
//! | `expelled` | members that were revoked, and what they must not get any more |
//! | `scale`, `prepare` | layers of thousands; members in the middle of their lives |
//! | `crowd` | such a layer in true time, for machines of other processes to join |
//! | `world`, `agenda` | inputs and outputs of machines; what is due when |
//! | `host` | one machine, its files, its irmd |
//! | `net`, `attack` | cables, lower flows, loss, and somebody who sends what he likes |
//! | `ledger` | every SDU, to be checked byte for byte |
//! | `names` | where names must be |
//! | `check` | what must hold once quiet, and at the end |
//! | `story` | a hash of all events, a trace, a picture |

mod acts;
mod agenda;
mod attack;
mod chance;
mod check;
mod crowd;
mod expelled;
mod faults;
mod host;
mod ledger;
mod names;
mod net;
mod plan;
mod prepare;
mod probe;
mod programs;
mod run;
mod scale;
mod scenario;
mod story;
#[cfg(test)]
mod tests;
mod topology;
mod world;

use std::time::Duration;

use proto::Label;

use chance::Chance;
pub use crowd::Crowd;
use run::{Run, Script};
pub use scale::{Phase, Scale, grow, stand};
pub use scenario::{Scenario, ScenarioError};
pub use story::Told;
pub use topology::Topology;
pub use world::Counts;

/// What to simulate. The same options give the same run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// How the hosts are connected; `None`: drawn.
    pub topology: Option<Topology>,
    /// How many there are, from 2 to 64, is drawn from these two, both included, and members are revoked, too; `None`: from 3
    /// to 12, of the simpler topologies, and nobody is revoked.
    pub members: Option<(usize, usize)>,
    /// Gets every event.
    pub trace: Option<fn(&Told<'_>)>,
}

/// What came of a run in which everything held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How the hosts were connected.
    pub topology: Topology,
    /// How many there were.
    pub members: usize,
    /// Over the order, time, kind and bytes of all events.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// What was done.
    pub counts: Counts,
    /// SDUs that were written and that arrived.
    pub sdus: (u64, u64),
    /// Packets that were sent, and those that the attacker made.
    pub packets: (u64, u64),
    /// How long all took to agree each time that the network had become quiet.
    pub convergence: Vec<Duration>,
    /// The virtual time of the run.
    pub lasted: Duration,
}

/// The first thing that did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When, in virtual time.
    pub at: Duration,
    /// What.
    pub what: String,
    /// Over all events until then.
    pub hash: u64,
    /// What led to it, as a mermaid sequence diagram.
    pub mermaid: String,
}

/// Runs one seed: everything is drawn from it.
pub fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let mut plan = Chance::new(options.seed, 0);
    let topology = Topology::draw(&mut plan, options.members.is_none());
    let topology = options.topology.unwrap_or(topology);
    let (least, most) = options.members.unwrap_or((3, 12));
    let members = plan.between(least, most).clamp(2, 64);
    let script = Script::Drawn {
        topology,
        members,
        revokes: options.members.is_some(),
    };
    Run::new(script, options.seed, options.trace, plan).play()
}

/// Runs a scenario with a seed, from which all follows that the scenario leaves open.
pub fn play(
    scenario: &Scenario,
    seed: u64,
    trace: Option<fn(&Told<'_>)>,
) -> Result<Report, Box<Failure>> {
    Run::new(Script::Told(scenario), seed, trace, Chance::new(seed, 0)).play()
}

fn label(text: String) -> Label {
    #[expect(
        clippy::expect_used,
        reason = "the names of the simulator are letters and digits"
    )]
    Label::new(text).expect("a label of letters and digits")
}
