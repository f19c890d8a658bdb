//! Many flows, one wait.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use proto::{Code, FlowId, Reason};
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::end::End;
use crate::error::FlowError;
use crate::flow::Flow;

/// Flows that are waited for together. It owns them, so that SDUs which already lie in a flow are not forgotten.
#[derive(Debug)]
pub struct FlowSet {
    set: Set<Flow>,
    ready: AsyncFd<OwnedFd>,
}

impl FlowSet {
    /// An empty set. Must be made in a tokio runtime.
    pub fn new() -> Result<Self, FlowError> {
        let set = Set::new()?;
        let epoll = set.epoll.try_clone().map_err(failed)?;
        Ok(Self {
            set,
            ready: crate::watch(epoll, Interest::READABLE).map_err(failed)?,
        })
    }

    /// Adds a flow; it is called by its id from now on.
    pub fn insert(&mut self, flow: Flow) -> Result<FlowId, FlowError> {
        self.set.insert(flow)
    }

    /// Takes a flow out again.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.set.remove(id)
    }

    /// One of its flows.
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.set.flows.get(&id)
    }

    /// All its flows.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.set.flows.values()
    }

    /// Waits until [`Flow::try_read`] gives something, an SDU or an error, on at least one flow; which ones. Safe to cancel.
    pub async fn readable(&self) -> Result<Vec<FlowId>, FlowError> {
        loop {
            let mut guard = self.ready.readable().await.map_err(failed)?;
            let ready = self.set.ready(Some(Duration::ZERO))?;
            if !ready.is_empty() {
                return Ok(ready);
            }
            guard.clear_ready();
        }
    }
}

/// What the two faces of a set share.
#[derive(Debug)]
pub(crate) struct Set<F> {
    epoll: OwnedFd,
    pub(crate) flows: HashMap<FlowId, F>,
}

/// A flow of either face.
pub(crate) trait HasEnd {
    fn end(&self) -> &End;
}

impl HasEnd for Flow {
    fn end(&self) -> &End {
        Self::end(self)
    }
}

impl<F: HasEnd> Set<F> {
    pub(crate) fn new() -> Result<Self, FlowError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        Ok(Self {
            epoll,
            flows: HashMap::new(),
        })
    }

    pub(crate) fn insert(&mut self, flow: F) -> Result<FlowId, FlowError> {
        let id = flow.end().flow;
        let data = epoll::EventData::new_u64(id.0);
        epoll::add(&self.epoll, flow.end(), data, epoll::EventFlags::IN)
            .map_err(|e| failed(e.into()))?;
        self.flows.insert(id, flow);
        Ok(id)
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Option<F> {
        let flow = self.flows.remove(&id)?;
        // It may live on elsewhere. Can't fail: it was added.
        let _ = epoll::delete(&self.epoll, flow.end());
        Some(flow)
    }

    /// Those that can be read, waiting for at most `limit` for the first (`None`: for ever).
    pub(crate) fn ready(&self, limit: Option<Duration>) -> Result<Vec<FlowId>, FlowError> {
        let pending: Vec<_> = self
            .flows
            .iter()
            .filter(|(_, f)| f.end().has_pending())
            .map(|(id, _)| *id)
            .collect();
        let limit = if pending.is_empty() {
            limit
        } else {
            Some(Duration::ZERO)
        };
        let limit = limit.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut events = Vec::with_capacity(64);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            limit.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let mut ready = pending;
        for event in events {
            let id = FlowId({ event.data }.u64());
            if !ready.contains(&id) {
                ready.push(id);
            }
        }
        Ok(ready)
    }
}

fn failed(e: io::Error) -> FlowError {
    FlowError::Daemon(Reason::new(
        Code::Failed,
        format!("waiting on several flows failed: {e}"),
    ))
}
