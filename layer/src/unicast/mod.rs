//! The unicast machine: one member of a layer whose lower network is flows of other layers.
//!
//! This file owns the rooms and routes inputs to them; it must not hold logic of its own.
//!
//! | file | room |
//! |---|---|
//! | `member` | identity, names, files: who this is |
//! | `dial`, `links`, `link`, `table`, `leaving` | N-1 flows: whom to dial; hellos, which of two stays; one of them; which of them have something to do; planned ends |
//! | `shortcut` | links to members that this one has flows with |
//! | `session`, `running`, `gate` | handshakes over a link or routed; which of too many goes; how many are answered and begun |
//! | `peer`, `peers` | what two members share; with how many members, and who of them is doubted |
//! | `messages`, `critical` | control messages over the channels of links and of pairs |
//! | `issuers`, `renew`, `rollover`, `sealing` | members that issue; another certificate in time; another root; its key under a passphrase |
//! | `enrol`, `relay` | the joiner; the dialled member, those on the way to the issuer, and the issuer |
//! | `decrees`, `expel`, `clash` | what the layer's authority says to all; who is believed no more; one name given twice |
//! | `flood`, `damper`, `outbox`, `hold`, `routing` | signed records between neighbours, how often and when; what follows from them |
//! | `law` | the layer's policy, where it holds |
//! | `directory` | what members tell each other of names |
//! | `fa`, `closing`, `upkeep` | flow allocator; ends of flows; what happens to flows by themselves |
//! | `flow`, `by_peer`, `waiting` | the tables of flows; those that stand, by whom they are with; what waits for an answer |
//! | `cube`, `admission`, `limits` | what is granted; whether a link has room for it; every bound on what others may cause |
//! | `control`, `transfer`, `memory` | the flows under FRCT: whose turn it is; what each keeps; how much all may |
//! | `dt`, `envelope`, `pdu`, `out`, `codel` | the way of every packet; what it is put into; its headers; the queues of one link; when a queue stands |
//! | `status`, `stats` | what is told of all this |

mod admission;
mod by_peer;
mod clash;
mod closing;
mod control;
mod critical;
mod cube;
mod damper;
mod decrees;
mod dial;
mod directory;
mod dt;
mod enrol;
mod envelope;
mod expel;
mod fa;
mod flood;
mod flow;
mod forgotten;
mod gate;
mod hold;
#[cfg(any(test, feature = "hostile"))]
mod hostile;
mod hybrid;
mod issuers;
mod law;
mod leaving;
mod limits;
mod link;
mod links;
mod member;
mod memory;
mod messages;
mod offers;
mod out;
mod outbox;
mod pdu;
#[cfg(any(test, feature = "sim"))]
mod peek;
mod peer;
mod peers;
#[cfg(any(test, feature = "sim"))]
mod prepared;
mod relay;
mod renew;
mod rollover;
mod routing;
mod running;
mod sealing;
mod session;
mod shortcut;
mod stats;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod transfer;
mod upkeep;
mod waiting;
mod whole;

pub use pdu::decode_pdu;
#[cfg(any(test, feature = "sim"))]
pub use prepared::Standing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use proto::ipcp::{Answer, Command, CommandId, Congestion};
use proto::{Addr, Batch, EndpointId, FlowId, Label, Margin, Reason};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use crate::crypt::{Clock, Farewells};
use crate::{FlowAsk, FlowTell, Input, Ipcp, Now, Output};
use damper::Damper;
use dial::Dialling;
use enrol::Join;
use flow::Flows;
use gate::Gate;
use hold::Hold;
#[cfg(any(test, feature = "hostile"))]
pub use hostile::{Meddler, Own, Sent};
pub use link::Unsealed;
use member::Member;
use outbox::Outbox;
use peer::Peer;
use relay::Relays;
use shortcut::Shortcuts;
use stats::Stats;
use table::Links;

/// One member of a unicast layer, as a pure machine.
pub struct Unicast {
    name: Label,
    rng: ChaCha20Rng,
    files: BTreeMap<String, Zeroizing<Vec<u8>>>,
    clock: Clock,
    /// When this machine got its first input; hellos count from it.
    epoch: Option<Instant>,
    /// When it got its last.
    now: Option<Now>,
    me: Option<Member>,
    join: Option<Join>,
    relays: Relays,
    links: Links,
    /// The link that reaches each neighbour best.
    adjacent: BTreeMap<Addr, FlowId>,
    /// The last way that was looked up for a packet of others; forgotten when any way changes.
    way: Option<((Addr, Addr, EndpointId), dt::Path)>,
    /// The last source and neighbour of such a packet, and the member whose share it used; forgotten likewise.
    share: Option<(Addr, Addr, Addr)>,
    dialling: Dialling,
    shortcuts: Shortcuts,
    damper: Damper,
    outbox: Outbox,
    hold: Hold,
    gate: Gate,
    farewells: Farewells,
    peers: BTreeMap<Addr, Peer>,
    flows: Flows,
    /// Members with whom a fresh session is wanted.
    wants_session: BTreeSet<Addr>,
    /// Events, questions and files, in order.
    out: VecDeque<Output<FlowId, FlowAsk>>,
    signs: dt::Signs,
    /// Full records for users, and the flows that have one begun.
    uppers: VecDeque<(FlowId, Batch)>,
    upper_ready: BTreeSet<EndpointId>,
    /// Control has something to do beyond this packet.
    pump: bool,
    wake: Option<Instant>,
    /// So many flows that waited for room have a turn before what waits goes on.
    turns: usize,
    /// What comes now met a queue that stands: one of it is to be marked.
    mark: bool,
    /// Whoever runs this machine puts the seals of links on flows' PDUs.
    leaves_seals: bool,
    exit: Option<leaving::Exit>,
    state: proto::ipcp::State,
    warnings: BTreeMap<String, String>,
    /// What a link carries unless it is known better, in Mbit/s.
    rate_mbit: u32,
    /// Of flows that begin.
    congestion: Congestion,
    told: limits::Told,
    /// Somebody has asked for the status since the members changed last, and is told when they change again.
    asked: bool,
    bounds: limits::Bounds,
    forwarded: u64,
    stats: Stats,
    /// What passed through this member, as it could read it.
    #[cfg(test)]
    seen: Vec<Vec<u8>>,
    #[cfg(any(test, feature = "hostile"))]
    meddler: Option<Box<dyn Meddler>>,
    #[cfg(any(test, feature = "sim"))]
    pool: Option<crate::route::Pool>,
}

impl Unicast {
    /// A machine that is no member of a layer yet. `name` becomes its member name; all its choices by chance come from
    /// `seed`; `files` is what [`Output::Save`] kept when it ran before.
    pub fn new(name: Label, seed: [u8; 32], files: BTreeMap<String, Zeroizing<Vec<u8>>>) -> Self {
        Self {
            name,
            rng: ChaCha20Rng::from_seed(seed),
            files,
            clock: Clock::new(),
            epoch: None,
            now: None,
            me: None,
            join: None,
            relays: Relays::default(),
            links: Links::default(),
            adjacent: BTreeMap::new(),
            way: None,
            share: None,
            dialling: Dialling::default(),
            shortcuts: Shortcuts::default(),
            damper: Damper::default(),
            outbox: Outbox::default(),
            hold: Hold::default(),
            gate: Gate::default(),
            farewells: Farewells::new(&seed),
            peers: BTreeMap::new(),
            flows: Flows::default(),
            wants_session: BTreeSet::new(),
            out: VecDeque::new(),
            signs: dt::Signs::default(),
            turns: 0,
            uppers: VecDeque::new(),
            upper_ready: BTreeSet::new(),
            pump: false,
            wake: None,
            mark: false,
            leaves_seals: false,
            exit: None,
            state: proto::ipcp::State::Waiting,
            warnings: BTreeMap::new(),
            rate_mbit: admission::RATE_MBIT,
            congestion: Congestion::default(),
            told: limits::Told::default(),
            asked: false,
            bounds: limits::Bounds::default(),
            forwarded: 0,
            stats: Stats::default(),
            #[cfg(test)]
            seen: Vec::new(),
            #[cfg(any(test, feature = "hostile"))]
            meddler: None,
            #[cfg(any(test, feature = "sim"))]
            pool: None,
        }
    }

    /// Shares records with the other members of the layer in this process. To be said before this is a member.
    #[cfg(any(test, feature = "sim"))]
    pub fn share_records(&mut self, pool: crate::route::Pool) {
        self.pool = Some(pool);
    }

    fn command(&mut self, now: Now, id: CommandId, command: Command) {
        match command {
            Command::Bootstrap(ask) => self.bootstrap(now, id, ask),
            Command::Enroll(ask) => self.enroll(now, id, ask),
            Command::Set(settings) => self.set(now, id, settings),
            Command::Register(name) => self.register(now, id, name, true),
            Command::Unregister(name) => self.register(now, id, name, false),
            Command::Allocate(ask) => self.allocate(now, id, ask),
            Command::Respond(respond) => self.respond(now, id, respond),
            Command::Dealloc(flow, reason) => self.dealloc(now, id, flow, reason),
            Command::Connect(member, timeout) => self.connect(now, id, member, timeout),
            Command::Disconnect(member) => self.disconnect(now, id, &member),
            Command::Invite(ask) => self.invite(now, id, &ask),
            Command::Policy(check) => self.policy(id, &check),
            Command::Authority(act) => self.authority_act(now, id, act),
            Command::Offer(networks) => self.offer(now, id, networks),
            Command::Status => {
                self.asked = true;
                let status = self.status(now);
                self.done(id, Ok(Answer::Status(Box::new(status))));
            }
            Command::Shutdown => self.shutdown(now, id),
        }
    }

    fn set(&mut self, now: Now, id: CommandId, settings: proto::ipcp::Settings) {
        if settings.ip.is_some() {
            let text = "only a shim has an address of the host; leave --ip out";
            return self.done(id, Err(Reason::new(proto::Code::Usage, text)));
        }
        if settings.rate_mbit > 0 {
            self.rate_mbit = settings.rate_mbit;
        }
        self.congestion = settings.congestion.unwrap_or(self.congestion);
        if let Some(reach) = settings.reach {
            self.set_reach(now, reach);
        }
        self.set_over(now, settings.over);
        self.done(id, Ok(Answer::Ok));
    }

    /// Everything that control has to do now; afterwards the deadline holds.
    fn pump(&mut self, now: Now) {
        self.pump = false;
        for address in std::mem::take(&mut self.wants_session) {
            self.associate(now, address);
        }
        self.pump_directory(now);
        for lower in self.links.stirred() {
            self.pump_link_handshakes(now, lower);
            self.pump_digest(now, lower);
            self.pump_link_channel(now, lower);
        }
        let busy = self.peers.iter().filter(|(_, peer)| peer.is_busy());
        let busy: Vec<Addr> = busy.map(|(address, _)| *address).collect();
        for address in busy {
            self.pump_peer_handshakes(now, address);
            self.pump_peer_channel(now, address);
        }
        self.say_hellos(now);
        self.exit_in_time(now);
        self.wake = self.next_wake(now);
        if !self.pump {
            self.links.settle();
        }
    }

    fn tick(&mut self, now: Now) {
        self.tick_links(now);
        self.tick_enrol(now);
        self.tick_renewal(now);
        self.tick_routing(now);
        self.tick_flows(now);
        self.tick_shortcuts(now);
        self.tick_peers(now);
        self.tell_limits(now);
        self.pump = true;
    }

    fn next_wake(&mut self, now: Now) -> Option<Instant> {
        self.links.ask(now.mono);
        let peers = self.peers.iter().flat_map(|(address, p)| {
            p.handshakes
                .iter()
                .map(running::Running::deadline)
                .chain([self.peer_deadline(now, *address)])
                .flatten()
        });
        let rooms = [
            self.links.deadline(),
            self.dialling.deadline(),
            self.shortcuts.deadline(),
            self.join.as_ref().map(Join::deadline),
            self.relays.deadline(),
            self.flows.deadline(),
            self.me.as_ref().and_then(|me| me.routing.deadline()),
            self.me.as_ref().and_then(|me| me.dir.deadline()),
            self.me.as_ref().and_then(|me| me.renewal.deadline()),
            self.damper.deadline(),
            self.outbox.deadline(),
            self.hold.deadline(),
            self.exit.map(|exit| exit.deadline(now.mono)),
        ];
        peers.chain(rooms.into_iter().flatten()).min()
    }

    fn done(&mut self, id: CommandId, answer: Result<Answer, Reason>) {
        self.out
            .push_back(Output::Control(proto::ipcp::Event::Done(id, answer)));
    }
}

impl Ipcp for Unicast {
    type Lower = FlowId;
    type Ask = FlowAsk;
    type Tell = FlowTell;

    fn handle(&mut self, now: Now, input: Input<FlowId, FlowTell>) {
        let now = self.sane(now);
        self.epoch.get_or_insert(now.mono);
        self.now = Some(now);
        self.clock.set(now.wall);
        match input {
            Input::Upper(flow, batch) => self.upper(now, flow, batch),
            Input::Lower(lower, batch) => self.lower(now, lower, batch),
            Input::Control(id, command) => {
                self.command(now, id, command);
                self.pump = true;
            }
            Input::UpperGone(flow, reason) => self.upper_gone(now, flow, reason),
            Input::UpperShut(flow) => self.upper_shut(flow),
            Input::UpperFull(flow) => self.upper_full(now, flow, true),
            Input::UpperRoom(flow) => self.upper_full(now, flow, false),
            Input::Tell(tell) => {
                self.tell(now, tell);
                self.pump = true;
            }
            Input::Timeout => {}
        }
        // A busy data path must not keep the timers waiting.
        if self.wake.is_some_and(|at| at <= now.mono) {
            self.tick(now);
        }
        while let Some(endpoint) = self.flows.timers.due(now.mono) {
            self.flows.make_ready(endpoint);
        }
        self.pump_rounds(now);
    }

    fn poll(&mut self) -> Option<Output<FlowId, FlowAsk>> {
        loop {
            if let Some(output) = self.output() {
                return Some(output);
            }
            // Whoever fills the queue again at once must not keep them from it.
            if self.turns > 0 {
                self.turns -= 1;
                self.control_next(false);
                continue;
            }
            // Only now, so that what came in together is acknowledged together; what has priority before what waits.
            if self.control_next(true) {
                continue;
            }
            let data = self.output_data();
            if data.is_some() || !self.control_next(false) {
                return data;
            }
        }
    }

    fn leave_seals(&mut self, leave: bool) -> bool {
        self.leaves_seals = leave;
        true
    }

    fn lower_room(&mut self, now: Now, lower: FlowId, room: bool) {
        self.now = Some(now);
        if let Some(link) = self.links.get_mut(&lower) {
            link.tx.set_open(now.mono, room);
        }
        if room {
            self.turns = self.turns.max(self.flows.unblock());
        }
    }

    fn knows(&self, lower: FlowId) -> bool {
        let link = self.links.get(&lower);
        link.is_some_and(|l| l.dialled.is_some() || l.peer().is_some())
    }

    fn margin(&self, flow: FlowId) -> Margin {
        self.margin_of(flow)
    }

    fn room(&self, flow: FlowId) -> Option<usize> {
        self.room_of(flow)
    }

    fn deadline(&self) -> Option<Instant> {
        let flows = self.flows.timers.deadline();
        self.wake.into_iter().chain(flows).min()
    }
}

impl Unicast {
    /// The time, not earlier than the newest certificate begins that is believed here. A clock that was put back would keep out
    /// whoever has joined since.
    fn sane(&self, now: Now) -> Now {
        let Some(me) = &self.me else { return now };
        let known = me.routing.lsdb.newest_certificate();
        let known = known.max(me.identity.cert().not_before());
        Now {
            wall: now.wall.max(known),
            ..now
        }
    }

    /// The next of what there is to be done already, but flows' PDUs.
    fn output(&mut self) -> Option<Output<FlowId, FlowAsk>> {
        if let Some(output) = self.out.pop_front() {
            return Some(output);
        }
        let control = self.links.pop_control();
        control
            .map(|(lower, batch)| Output::Lower(lower, batch))
            .or_else(|| {
                self.uppers
                    .pop_front()
                    .map(|(flow, batch)| Output::Upper(flow, batch))
            })
            .or_else(|| self.upper_output())
    }

    fn output_data(&mut self) -> Option<Output<FlowId, FlowAsk>> {
        let (now, stats) = (self.now?.mono, &mut self.stats);
        let (lower, unsealed) = self.links.pop_data(now, stats)?;
        Some(if self.leaves_seals && unsealed.may_wait() {
            Output::Unsealed(lower, unsealed)
        } else {
            Output::Lower(lower, unsealed.seal())
        })
    }

    /// Does what control has to do, and what that gives rise to.
    fn pump_rounds(&mut self, now: Now) {
        let mut rounds = 0;
        while (self.pump || !self.wants_session.is_empty()) && rounds < MAX_ROUNDS {
            self.pump(now);
            rounds += 1;
        }
    }
}

/// Rounds of control after one input: each does what the one before gave rise to.
const MAX_ROUNDS: usize = 8;
