//! The way to a lower network: how packets are sent and received, and how a machine's asks are carried out.

use std::os::fd::OwnedFd;
use std::time::Instant;

use layer::{Input, Ipcp};
use proto::ipcp::Settings;
use proto::{Batch, FlowId};
use tokio::sync::mpsc;

use crate::io::{Io, Key};

/// What a lower network says to a machine.
pub type In<M> = Input<<M as Ipcp>::Lower, <M as Ipcp>::Tell>;

/// A lower network. All calls return at once; what takes time runs as a task that [`Lower::start`] gave a way back to.
pub trait Lower<M: Ipcp> {
    /// What its tasks say.
    type Event: Send + 'static;

    /// Called once, in the runtime. `events` is bounded: tasks wait when the process is slower.
    fn start(&mut self, io: &mut Io, events: mpsc::Sender<Self::Event>) -> anyhow::Result<()>;

    /// Carries out what the machine asks.
    fn ask(&mut self, io: &mut Io, ask: M::Ask);

    /// Sends packets, or keeps a bounded number until the network takes them; what is dropped is counted in `io`.
    fn send(&mut self, io: &mut Io, to: M::Lower, batch: Batch);

    /// The lower end whose packets come by the descriptor of `key`; `None`: what comes there is the process's own affair.
    fn end(&self, _key: Key) -> Option<M::Lower> {
        None
    }

    /// Packets come by an end that the machine knows. Called again and again.
    fn known(&mut self, _end: M::Lower) {}

    /// Reads once from the descriptor of `key`, which is ready; `None` when nothing is left there. The runtime calls it
    /// at most 64 times before others get their turn.
    fn recv(&mut self, io: &mut Io, key: Key) -> Option<In<M>>;

    /// The descriptor of `key` can be written again.
    fn writable(&mut self, io: &mut Io, key: Key);

    /// One of its tasks says something.
    fn event(&mut self, io: &mut Io, event: Self::Event) -> Option<In<M>>;

    /// What it has to say by itself, such as that a time has come or that sending found a flow gone. Called until `None`
    /// after every step.
    fn poll(&mut self, _io: &mut Io) -> Option<In<M>> {
        None
    }

    /// When it wants [`Lower::poll`] to be called if nothing else happens before.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// A flow was opened for an IPC process: the descriptor to be handed to it, which is no longer read here.
    fn hand_over(&mut self, _io: &mut Io, _flow: FlowId) -> Option<OwnedFd> {
        None
    }

    /// A lower end that has filled since the last call (`false`) or has room again. Called until `None` after every batch
    /// that is sent and every [`Lower::writable`].
    fn room(&mut self) -> Option<(M::Lower, bool)> {
        None
    }

    /// Whether it keeps packets that could not be sent: users whose flows have no room in the machine are not read until it has sent
    /// them.
    fn congested(&self) -> bool {
        false
    }

    /// irmd changes settings while running; the machine gets them too, afterwards.
    fn set(&mut self, _io: &mut Io, _settings: &Settings) {}

    /// Adds its counters and settings to a status on its way to irmd.
    fn status(&self, _status: &mut proto::irm::IpcpStatus) {}
}
