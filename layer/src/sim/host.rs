//! One host: a machine, the files that outlive it, and a stand-in for irmd and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::ipcp::{Command, CommandId};
use proto::irm::IpcpStatus;
use proto::{Addr, FlowId, Label, Name};
use zeroize::Zeroizing;

use crate::{Unicast, Unsealed};

/// One host.
pub(super) struct Host {
    pub(super) name: Label,
    pub(super) address: Addr,
    /// `None` while it is down.
    pub(super) machine: Option<Unicast>,
    /// Counts up at each start, so that what was meant for an earlier machine is known by it.
    pub(super) life: u32,
    pub(super) files: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// It has been a member once.
    pub(super) member: bool,
    /// It was revoked, and has not joined anew.
    pub(super) ghost: bool,
    pub(super) names: BTreeSet<Name>,
    /// Its clock differs from the true time by so many milliseconds.
    pub(super) skew: i64,
    /// What it takes for each packet, and until when it has work.
    pub(super) slow: Duration,
    busy: Duration,
    /// When its machine wants to be woken.
    pub(super) alarm: Option<Instant>,
    pub(super) pending: BTreeMap<CommandId, Pending>,
    /// Flows that were asked for or accepted: tag and side.
    pub(super) flows: BTreeMap<FlowId, (u32, usize)>,
    /// Data ends that are open, with the largest SDU.
    pub(super) open: BTreeMap<FlowId, u32>,
    /// Flows whose largest SDU became smaller: what was on its way then may be too big for the rest of it.
    pub(super) shrunk: BTreeSet<FlowId>,
    /// Closed from this side: what was on its way may still come out.
    pub(super) left: BTreeSet<FlowId>,
    pub(super) status: Option<Box<IpcpStatus>>,
    pub(super) exited: bool,
    /// What its machine has left to be sealed in this turn.
    pub(super) unsealed: Vec<(FlowId, Unsealed)>,
    commands: CommandId,
    last_flow: u64,
}

/// A command that waits for its answer.
pub(super) struct Pending {
    pub(super) what: What,
    pub(super) until: Duration,
}

/// What was asked, and what is to be done with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Become a member.
    Join,
    /// An invitation for that host.
    Invite(usize),
    /// An invitation for who is no host here.
    Url,
    /// An adjacency with that host.
    Connect(usize),
    /// The flow with that tag.
    Allocate(u32),
    /// How it is.
    Status,
    /// Anything that only has to be answered.
    Other,
    /// Anything that must not fail.
    Must,
}

impl Host {
    pub(super) fn new(name: Label, address: Addr, skew: i64) -> Self {
        Self {
            name,
            address,
            machine: None,
            life: 0,
            files: BTreeMap::new(),
            member: false,
            ghost: false,
            names: BTreeSet::new(),
            skew,
            slow: Duration::ZERO,
            busy: Duration::ZERO,
            alarm: None,
            pending: BTreeMap::new(),
            flows: BTreeMap::new(),
            open: BTreeMap::new(),
            shrunk: BTreeSet::new(),
            left: BTreeSet::new(),
            status: None,
            exited: false,
            unsealed: Vec::new(),
            commands: 0,
            last_flow: 0,
        }
    }

    pub(super) fn alive(&self) -> bool {
        self.machine.is_some() && !self.exited
    }

    /// What its clock shows at a true time.
    pub(super) fn clock(&self, time: Duration) -> Duration {
        let by = Duration::from_millis(self.skew.unsigned_abs());
        match self.skew {
            ..0 => time.saturating_sub(by),
            0.. => time + by,
        }
    }

    /// When a packet that arrives at `at` is looked at; `None`: too many wait already.
    pub(super) fn turn(&mut self, now: Duration, at: Duration) -> Option<Duration> {
        if self.slow.is_zero() {
            return Some(at.max(self.busy));
        }
        let begins = at.max(self.busy);
        if begins > now + BACKLOG {
            return None;
        }
        self.busy = begins + self.slow;
        Some(self.busy)
    }

    /// Numbers a command and notes that it waits.
    pub(super) fn note(&mut self, what: What, until: Duration) -> CommandId {
        self.commands += 1;
        self.pending.insert(self.commands, Pending { what, until });
        self.commands
    }

    /// A flow id that was never used on this host.
    pub(super) fn next_flow(&mut self) -> FlowId {
        self.last_flow += 1;
        FlowId(self.last_flow)
    }

    /// Loses its machine; files and names stay.
    pub(super) fn crash(&mut self) {
        self.machine = None;
        self.alarm = None;
        self.pending.clear();
        self.flows.clear();
        self.open.clear();
        self.left.clear();
    }
}

impl What {
    /// How long the answer to a command may take at most.
    pub(super) fn patience(command: &Command) -> Duration {
        match command {
            Command::Enroll(ask) => Duration::from_millis(ask.timeout_ms) + Duration::from_secs(5),
            Command::Allocate(ask) => {
                Duration::from_millis(ask.timeout_ms) + Duration::from_secs(1)
            }
            Command::Connect(_, timeout) => {
                timeout.unwrap_or(Duration::from_secs(10)) + Duration::from_secs(5)
            }
            Command::Bootstrap(_)
            | Command::Set(_)
            | Command::Policy(_)
            | Command::Offer(_)
            | Command::Register(_)
            | Command::Unregister(_)
            | Command::Respond(_)
            | Command::Dealloc(..)
            | Command::Disconnect(_)
            | Command::Invite(_)
            | Command::Authority(_)
            | Command::Status
            | Command::Shutdown => Duration::from_secs(1),
        }
    }
}

/// A host that takes longer than this for what waits loses what comes.
const BACKLOG: Duration = Duration::from_secs(1);
