//! The contract of every IPC process: one pure machine, mutated once, then drained.

use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use proto::ipcp::{Allocated, Command, CommandId, Event};
use proto::{Batch, FlowId, Margin, Reason};
use zeroize::Zeroizing;

use crate::Unsealed;

/// A machine that makes one member of one layer.
///
/// The order of use: one [`handle`](Ipcp::handle), then [`poll`](Ipcp::poll) until it gives `None`, then wait for an
/// input or for [`deadline`](Ipcp::deadline). A bad packet is counted with a reason inside; no input is an error.
pub trait Ipcp {
    /// What the machine calls one of its lower ends: a `FlowId`, or a socket's key.
    type Lower: Copy + Eq + Hash + fmt::Debug;
    /// What it asks of its lower network besides sending, such as to dial.
    type Ask: fmt::Debug;
    /// What its lower network tells it besides packets, such as that a dialled flow stands.
    type Tell: fmt::Debug;

    /// Takes one input. `now` never goes backwards in its monotonic part.
    fn handle(&mut self, now: Now, input: Input<Self::Lower, Self::Tell>);

    /// The next thing to do; drained until `None` after each input.
    fn poll(&mut self) -> Option<Output<Self::Lower, Self::Ask>>;

    /// Whether a lower end takes packets from now on (each does at first). While it doesn't, [`poll`](Ipcp::poll) should
    /// give none for it: they wait in the machine's own queues, in the order of its own choice. What comes nevertheless may be
    /// dropped. Drained afterwards, as after an input.
    fn lower_room(&mut self, _now: Now, _lower: Self::Lower, _room: bool) {}

    /// Whether the runtime puts the seals on what is sent, after [`Output::Unsealed`]. `false`: this machine leaves none.
    fn leave_seals(&mut self, _leave: bool) -> bool {
        false
    }

    /// Whether what comes by a lower end is of somebody who was asked, or has shown who it is. Of all others together no more
    /// is read than of one that is known: whoever opens many lower ends must not keep the machine from those.
    fn knows(&self, _lower: Self::Lower) -> bool {
        true
    }

    /// What should lie around the next SDUs of a flow where they are written, so that they need not be copied on their way: a
    /// train with this margin goes as it is, if it can. None is always right.
    fn margin(&self, _flow: FlowId) -> Margin {
        Margin::NONE
    }

    /// How many bytes of what the user of a flow writes next should come now; `None`: all that there are. The rest does better to wait
    /// outside, if that is a fair queue: in the machine, what is of one member waits in the order of its coming.
    fn room(&self, _flow: FlowId) -> Option<usize> {
        None
    }

    /// When the machine wants [`Input::Timeout`] if nothing else happens before.
    fn deadline(&self) -> Option<Instant>;
}

/// The time, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timers.
    pub mono: Instant,
    /// For certificates and invitations only.
    pub wall: UnixTime,
}

/// Time since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub Duration);

impl UnixTime {
    /// Whole seconds.
    pub fn secs(self) -> u64 {
        self.0.as_secs()
    }
}

/// What can happen to a machine.
#[derive(Debug)]
pub enum Input<L, Tell> {
    /// irmd asks.
    Control(CommandId, Command),
    /// The user of a flow wrote these SDUs (a record, or a train with the margin that [`Ipcp::margin`] said).
    Upper(FlowId, Batch),
    /// The user of a flow closed it or died: why, as the other side's user shall hear it.
    UpperGone(FlowId, Reason),
    /// The user of a flow writes nothing more, and still reads.
    UpperShut(FlowId),
    /// The user of a flow doesn't read: what was given to it last is kept by the runtime, and so is a bounded number of
    /// what still comes.
    UpperFull(FlowId),
    /// It has taken all that was kept.
    UpperRoom(FlowId),
    /// These packets arrived (either framing), to be opened where they lie.
    Lower(L, Batch),
    /// The lower network says something.
    Tell(Tell),
    /// The deadline has come.
    Timeout,
}

/// What a machine wants done.
#[derive(Debug)]
pub enum Output<L, Ask> {
    /// Tell irmd.
    Control(Event),
    /// These SDUs came in for the user of a flow; as a record, or as they lie in what came, with some margin
    /// ([`Batch::into_record`]).
    Upper(FlowId, Batch),
    /// Leave the user of a flow unread from now on (`true`), or read it again: what it writes meanwhile stays with the
    /// kernel, which lets it wait. At most one record of each user that was read already still comes in.
    UpperPause(FlowId, bool),
    /// The other side of a flow writes nothing more; what came before it was given to the user.
    UpperShut(FlowId),
    /// The largest SDU of a flow has changed.
    UpperMtu(FlowId, u32),
    /// Make the data end of a flow, so that its user can join. Comes before the event that tells irmd of the flow.
    /// Accepted SDUs may follow at once: the runtime keeps a bounded number until the user has joined.
    UpperOpen(FlowId, proto::ipcp::User, Allocated),
    /// Close the data end of a flow with this reason; nothing follows for it.
    UpperClose(FlowId, Reason),
    /// Send these packets.
    Lower(L, Batch),
    /// Send these packets once their seals are put on, which any thread can do, and before anything that comes after them.
    Unsealed(L, Unsealed),
    /// Ask the lower network.
    Ask(Ask),
    /// Keep these bytes on disk under a file name (0600, written atomically, before any later output is carried out);
    /// empty bytes remove it. All of them are given back when the process starts.
    Save(&'static str, Zeroizing<Vec<u8>>),
    /// Nothing is left to be done: end the process.
    Exit,
}
