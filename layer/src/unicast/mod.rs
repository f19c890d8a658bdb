//! The unicast machine: one member of a layer whose lower network is flows of other layers.
//!
//! This file owns the rooms and routes inputs to them; it must not hold logic of its own.

mod pdu;
mod stats;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use proto::ipcp::{Command, CommandId, Event};
use proto::{Code, FlowId, Label, Reason};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use crate::{FlowAsk, FlowTell, Input, Ipcp, Now, Output};
use stats::Stats;

/// One member of a unicast layer, as a pure machine.
pub struct Unicast {
    name: Label,
    rng: ChaCha20Rng,
    files: BTreeMap<String, Zeroizing<Vec<u8>>>,
    out: VecDeque<Output<FlowId, FlowAsk>>,
    stats: Stats,
}

impl Unicast {
    /// A machine that is no member of a layer yet. `name` becomes its member name; all its choices by chance come from
    /// `seed`; `files` is what [`Output::Save`] kept when it ran before.
    pub fn new(name: Label, seed: [u8; 32], files: BTreeMap<String, Zeroizing<Vec<u8>>>) -> Self {
        Self { name, rng: ChaCha20Rng::from_seed(seed), files, out: VecDeque::new(), stats: Stats::default() }
    }

    fn command(&mut self, _now: Now, id: CommandId, _command: Command) {
        let text = format!("{} is no member of a layer yet; bootstrap or enroll it first", self.name);
        self.out.push_back(Output::Control(Event::Done(id, Err(Reason::new(Code::Failed, text)))));
    }
}

impl Ipcp for Unicast {
    type Lower = FlowId;
    type Ask = FlowAsk;
    type Tell = FlowTell;

    fn handle(&mut self, now: Now, input: Input<FlowId, FlowTell>) {
        match input {
            Input::Control(id, command) => self.command(now, id, command),
            Input::Lower(..) => self.stats.count("drop.unknown_lower"),
            Input::Upper(..) => self.stats.count("drop.unknown_flow"),
            Input::UpperGone(_) | Input::Tell(_) | Input::Timeout => {}
        }
    }

    fn poll(&mut self) -> Option<Output<FlowId, FlowAsk>> {
        self.out.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
