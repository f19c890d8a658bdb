//! The sockets of a shim as the runtime's way to a lower network.

use std::os::fd::OwnedFd;
use std::time::Instant;

use ipcp::udp::count_overflowed;
use ipcp::{In, Interest, Io, Key, Lower, Watch};
use layer::Input;
use proto::irm::IpcpStatus;
use proto::{Batch, FlowId};
use tokio::sync::mpsc;

use crate::sockets::{Heard, Sockets};
use crate::{Ask, Shim, SocketKey, Tell};

/// The sockets of a shim, to be given to [`ipcp::run`].
pub struct UdpLower {
    sockets: Sockets,
    /// The set of sockets is one descriptor of the runtime's.
    watch: Option<Watch>,
}

impl UdpLower {
    /// No socket yet.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            sockets: Sockets::new()?,
            watch: None,
        })
    }
}

impl Lower<Shim> for UdpLower {
    type Event = Tell;

    fn start(&mut self, io: &mut Io, events: mpsc::Sender<Tell>) -> anyhow::Result<()> {
        self.sockets.answer_to(events);
        self.watch = Some(io.watch(&self.sockets, Interest::READ)?);
        Ok(())
    }

    fn ask(&mut self, _io: &mut Io, ask: Ask) {
        self.sockets.carry_out(ask);
    }

    fn send(&mut self, _io: &mut Io, to: SocketKey, batch: Batch) {
        self.sockets.send(to, batch);
    }

    fn recv(&mut self, io: &mut Io, _key: Key) -> Option<In<Shim>> {
        match self.sockets.hear() {
            Ok(heard) => heard.map(input),
            Err(e) => {
                tracing::error!("can't wait on the shim's sockets: {e}");
                io.counters.add("udp.epoll_failed", 1);
                None
            }
        }
    }

    fn writable(&mut self, _io: &mut Io, _key: Key) {
        // The set of sockets is never waited on for writing; what waits for room is in it.
    }

    fn event(&mut self, _io: &mut Io, tell: Tell) -> Option<In<Shim>> {
        Some(Input::Tell(tell))
    }

    fn poll(&mut self, _io: &mut Io) -> Option<In<Shim>> {
        self.sockets.hear_more().map(input)
    }

    fn hand_over(&mut self, _io: &mut Io, flow: FlowId) -> Option<OwnedFd> {
        self.sockets.handed_over(flow)?.try_clone_to_owned().ok()
    }

    fn congested(&self) -> bool {
        self.sockets.congested_until().is_some()
    }

    fn deadline(&self) -> Option<Instant> {
        self.sockets.congested_until()
    }

    fn status(&self, status: &mut IpcpStatus) {
        for (word, n) in self.sockets.counters().iter() {
            *status.counters.entry(word.to_owned()).or_default() += n;
        }
        self.sockets.tell_offloads(status);
        count_overflowed(status, self.sockets.overflowed());
    }
}

fn input(heard: Heard) -> In<Shim> {
    match heard {
        Heard::Tell(tell) => Input::Tell(tell),
        Heard::Train(key, batch) => Input::Lower(key, batch),
    }
}
