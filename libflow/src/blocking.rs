//! The same without a runtime: every call blocks its thread, and reading and writing are plain system calls.
//!
//! The session with irmd runs on one small thread of its own.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::record::Peer;
use proto::{Batch, Code, FlowId, Label, Name, QosSpec, Reason};
use rustix::event::PollFlags;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::end::{End, Mode};
use crate::error::FlowError;
use crate::flow::{from_micros, timed_out, to_micros};
use crate::set::{HasEnd, Set};
use crate::{AllocOptions, Options};

/// A program's access to flows, for threads. See [`crate::Irm`].
#[derive(Debug, Clone)]
pub struct Irm {
    // Declared before the thread, so that the session ends while there is still a runtime.
    irm: crate::Irm,
    control: Arc<Control>,
}

impl Irm {
    /// Opens a session; see [`crate::Irm::connect`].
    pub fn connect(run_dir: Option<&Path>) -> Result<Self, FlowError> {
        Self::connect_with(Options {
            run_dir: run_dir.map(Path::to_owned),
            ..Options::default()
        })
    }

    /// Opens a session, with all there is to choose.
    pub fn connect_with(options: Options) -> Result<Self, FlowError> {
        let control = Arc::new(Control::start()?);
        let irm = control.run(crate::Irm::connect_with(options))?;
        Ok(Self { irm, control })
    }

    /// Allocates a flow to a name and returns when the other side has accepted.
    pub fn allocate(
        &self,
        name: impl AsRef<str>,
        options: AllocOptions,
    ) -> Result<Flow, FlowError> {
        Ok(self
            .control
            .run(self.irm.allocate(name, options))?
            .into_blocking())
    }

    /// Offers flows to a name; see [`crate::Irm::listen`].
    pub fn listen(&self, name: impl AsRef<str>, layers: &[Label]) -> Result<Listener, FlowError> {
        let listener = self.control.run(self.irm.listen(name, layers))?;
        Ok(Listener {
            listener,
            control: self.control.clone(),
        })
    }
}

/// Where flows to a name come in.
#[derive(Debug)]
pub struct Listener {
    listener: crate::Listener,
    control: Arc<Control>,
}

impl Listener {
    /// Waits for the next flow that somebody wants.
    pub fn accept(&mut self) -> Result<Incoming, FlowError> {
        let incoming = self.control.run(self.listener.accept())?;
        Ok(Incoming {
            incoming,
            control: self.control.clone(),
        })
    }
}

/// A flow that somebody wants. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    incoming: crate::Incoming,
    control: Arc<Control>,
}

impl Incoming {
    /// The name that was asked for.
    pub fn name(&self) -> &Name {
        self.incoming.name()
    }

    /// Who wants the flow.
    pub fn peer(&self) -> &Peer {
        self.incoming.peer()
    }

    /// What it asks.
    pub fn qos(&self) -> QosSpec {
        self.incoming.qos()
    }

    /// The largest SDU in bytes.
    pub fn mtu(&self) -> u32 {
        self.incoming.mtu()
    }

    /// Takes the flow; returns when it stands.
    pub fn accept(self) -> Result<Flow, FlowError> {
        Ok(self.control.run(self.incoming.accept())?.into_blocking())
    }

    /// Turns the flow down; the other side gets the reason.
    pub fn refuse(self, reason: Reason) {
        self.incoming.refuse(reason);
    }
}

/// A bidirectional pipe of SDUs to a name; see [`crate::Flow`]. Threads may share it: one can read while another writes.
pub struct Flow {
    end: End,
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
}

impl Flow {
    /// The next SDU into `buf`; its length. Waits until one is there, at most for the read timeout.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, FlowError> {
        self.until(&self.read_timeout, PollFlags::IN, |mode| {
            self.end.read(buf, mode)
        })
    }

    /// All SDUs that lie ready in one record into `batch` (what it held is gone).
    pub fn read_batch(&self, batch: &mut Batch) -> Result<(), FlowError> {
        self.until(&self.read_timeout, PollFlags::IN, |mode| {
            Ok(self.end.read_batch(batch, mode)?.then_some(()))
        })
    }

    /// Writes one SDU of 1..=[`Flow::mtu`] bytes. Waits while the other side is slower, at most for the write timeout.
    pub fn write(&self, sdu: &[u8]) -> Result<(), FlowError> {
        self.until(&self.write_timeout, PollFlags::OUT, |mode| {
            Ok(self.end.write(sdu, mode)?.then_some(()))
        })
    }

    /// Writes all SDUs of a batch with one system call; all of them or none.
    pub fn write_batch(&self, batch: &Batch) -> Result<(), FlowError> {
        self.until(&self.write_timeout, PollFlags::OUT, |mode| {
            Ok(self.end.write_batch(batch, mode)?.then_some(()))
        })
    }

    /// Says that nothing more will be written; see [`crate::Flow::shut`].
    pub fn shut(&self) -> Result<(), FlowError> {
        let deadline = from_micros(self.write_timeout.load(Ordering::Relaxed))
            .map(|limit| (Instant::now() + limit, limit));
        while !self.end.shut()? {
            let minute = Instant::now() + Duration::from_secs(60);
            let until = deadline.map_or(minute, |(at, _)| at);
            if !self.wait(PollFlags::OUT, until)?
                && let Some((_, limit)) = deadline
            {
                return Err(timed_out("the other side takes no more", limit));
            }
        }
        Ok(())
    }

    /// The next SDU if one is there; `None` if not yet.
    pub fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>, FlowError> {
        self.end.read(buf, Mode::Try)
    }

    /// Writes one SDU if the kernel takes it now; `false` if not.
    pub fn try_write(&self, sdu: &[u8]) -> Result<bool, FlowError> {
        self.end.write(sdu, Mode::Try)
    }

    /// The largest SDU in bytes, as far as is known; it can change while the flow lives.
    pub fn mtu(&self) -> u32 {
        self.end.mtu()
    }

    /// What the layer granted.
    pub fn qos(&self) -> QosSpec {
        self.end.qos
    }

    /// Who is at the other end; `member` is the identity that the layer authenticated.
    pub fn peer(&self) -> &Peer {
        &self.end.peer
    }

    /// The flow's id on this host.
    pub fn id(&self) -> FlowId {
        self.end.flow
    }

    /// Bytes of SDUs read and written so far.
    pub fn traffic(&self) -> (u64, u64) {
        (self.end.rx_bytes(), self.end.tx_bytes())
    }

    /// How long a read waits at most; `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.read_timeout
            .store(to_micros(timeout), Ordering::Relaxed);
    }

    /// How long a write waits at most; `None`: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.write_timeout
            .store(to_micros(timeout), Ordering::Relaxed);
    }

    /// Ends the flow and tells the other side why.
    pub fn close(self, reason: Reason) {
        self.end.close_with(reason);
    }

    /// The same flow for a task. Must be called in a tokio runtime.
    pub fn into_async(self) -> Result<crate::Flow, FlowError> {
        crate::Flow::of_end(self.end)
    }

    pub(crate) fn of(end: End) -> Self {
        Self {
            end,
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
        }
    }

    fn until<T>(
        &self,
        timeout: &AtomicU64,
        flags: PollFlags,
        mut step: impl FnMut(Mode) -> Result<Option<T>, FlowError>,
    ) -> Result<T, FlowError> {
        let Some(limit) = from_micros(timeout.load(Ordering::Relaxed)) else {
            loop {
                if let Some(done) = step(Mode::Block)? {
                    return Ok(done);
                }
                // Somebody made the descriptor non-blocking: wait for it here.
                self.wait(flags, Instant::now() + Duration::from_secs(60))?;
            }
        };
        let deadline = Instant::now() + limit;
        loop {
            if let Some(done) = step(Mode::Try)? {
                return Ok(done);
            }
            if !self.wait(flags, deadline)? {
                return Err(timed_out("nothing could be read or written", limit));
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<bool, FlowError> {
        self.end.socket.wait(flags, deadline).map_err(|e| {
            FlowError::Daemon(Reason::new(
                Code::Failed,
                format!("can't wait on the flow's socket: {e}"),
            ))
        })
    }
}

impl AsFd for Flow {
    /// To wait on with epoll or poll; see [`crate::Flow`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("id", &self.id())
            .field("peer", self.peer())
            .finish_non_exhaustive()
    }
}

impl HasEnd for Flow {
    fn end(&self) -> &End {
        &self.end
    }
}

/// Flows that are waited for together; see [`crate::FlowSet`].
#[derive(Debug)]
pub struct FlowSet(Set<Flow>);

impl FlowSet {
    /// An empty set.
    pub fn new() -> Result<Self, FlowError> {
        Ok(Self(Set::new()?))
    }

    /// Adds a flow; it is called by its id from now on.
    pub fn insert(&mut self, flow: Flow) -> Result<FlowId, FlowError> {
        self.0.insert(flow)
    }

    /// Takes a flow out again.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.0.remove(id)
    }

    /// One of its flows.
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.0.flows.get(&id)
    }

    /// Waits until [`Flow::try_read`] gives something on at least one flow, at most for `timeout`; which ones.
    pub fn readable(&self, timeout: Option<Duration>) -> Result<Vec<FlowId>, FlowError> {
        self.0.ready(timeout)
    }
}

/// The thread that the session with irmd runs on.
struct Control {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
}

impl Control {
    fn start() -> Result<Self, FlowError> {
        let failed = |e: std::io::Error| {
            FlowError::Daemon(Reason::new(
                Code::Failed,
                format!("can't start the thread that talks to irmd: {e}"),
            ))
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            // An error means that the other half is gone, which says the same.
            let _ = runtime.block_on(stopped);
        };
        std::thread::Builder::new()
            .name("irm-session".to_owned())
            .spawn(work)
            .map_err(failed)?;
        Ok(Self {
            handle,
            stop: Some(stop),
        })
    }

    /// Runs a control call on the calling thread; its IO is driven by the other.
    fn run<T>(&self, call: impl Future<Output = T>) -> T {
        self.handle.block_on(call)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}
