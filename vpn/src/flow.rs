//! What the pump needs of a flow, and the flow that has it: the record socket as it was joined. A pump waits on all its
//! flows at once, so it has no use for one that waits by itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use libflow::port::{Joined, Received, RecordSocket};
use proto::record::Item;
use proto::{Batch, Code, FlowId, Reason};

/// A flow that the pump reads and writes without waiting; its descriptor says when there is something to do.
pub trait FlowPort: AsFd {
    /// Takes the SDUs of one record; `false` if none is there. An error says that the flow is down.
    fn try_read(&mut self, into: &mut Batch) -> Result<bool, Reason>;

    /// Sends a record.
    fn try_write(&mut self, record: &Batch) -> Sent;

    /// The largest SDU in bytes, as far as is known now.
    fn mtu(&self) -> u32;

    /// Its id on this host.
    fn id(&self) -> FlowId;
}

/// What became of a record that was to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it.
    Yes,
    /// The kernel holds as much as it takes.
    Full,
    /// The flow is down.
    Down(Reason),
}

/// A joined flow.
#[derive(Debug)]
pub struct Lane {
    socket: RecordSocket,
    id: FlowId,
    mtu: u32,
}

impl From<Joined> for Lane {
    fn from(joined: Joined) -> Self {
        Self {
            socket: joined.socket,
            id: joined.welcome.flow,
            mtu: usable(joined.welcome.mtu),
        }
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FlowPort for Lane {
    fn try_read(&mut self, into: &mut Batch) -> Result<bool, Reason> {
        loop {
            match self.socket.try_recv(into) {
                Ok(Received::Data) => return Ok(true),
                Ok(Received::Item(Item::Mtu(mtu))) => self.mtu = usable(mtu),
                Ok(Received::Item(Item::Down(reason)) | Received::Bad(reason)) => {
                    return Err(reason);
                }
                Ok(Received::Item(Item::Join(_) | Item::Welcome(_) | Item::Shut)) => {
                    return Err(Reason::new(
                        Code::PeerMisbehaved,
                        "a Join, Welcome or Shut came in the midst of the flow",
                    ));
                }
                Ok(Received::End) => {
                    return Err(Reason::new(
                        Code::Unreachable,
                        "the flow ended without a word",
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => {
                    return Err(Reason::new(
                        Code::Failed,
                        format!("reading the flow's socket failed: {e}"),
                    ));
                }
            }
        }
    }

    fn try_write(&mut self, record: &Batch) -> Sent {
        match self.socket.try_send(record) {
            Ok(()) => Sent::Yes,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(e) => Sent::Down(Reason::new(
                Code::Unreachable,
                format!("the flow's socket takes nothing more: {e}"),
            )),
        }
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn id(&self) -> FlowId {
        self.id
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // If the queue is full, the end of the file says as much.
        let _ = self.socket.try_send_item(
            &Item::Down(Reason::new(Code::Closed, "the VPN closed the flow")),
            None,
        );
    }
}

/// What a record can hold, if the flow can carry more.
fn usable(mtu: u32) -> u32 {
    mtu.min(Batch::MAX_PACKET as u32)
}
