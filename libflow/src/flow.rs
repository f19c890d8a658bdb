//! The async face of a flow.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::record::Peer;
use proto::{Batch, Code, FlowId, Framing, QosSpec, Reason};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::end::{End, Mode};
use crate::error::FlowError;
use crate::port::Joined;
use crate::session::Direct;

/// A bidirectional pipe of SDUs to a name.
///
/// All calls take `&self`, so that one task can read while another writes; two that read at once share the SDUs. Every
/// call is safe to cancel: an SDU is either handed out or still there, written or not.
///
/// Dropping it closes the flow in good order; [`Flow::close`] does so with a reason.
pub struct Flow {
    end: AsyncFd<End>,
    // Made when the kernel's queue was full for the first time: most flows never need to hear that it has room.
    room: OnceLock<AsyncFd<OwnedFd>>,
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
}

impl Flow {
    /// The next SDU into `buf`; its length. Waits until one is there, at most for the read timeout.
    pub async fn read(&self, buf: &mut [u8]) -> Result<usize, FlowError> {
        self.until_readable(|| self.end.get_ref().read(buf, Mode::Try))
            .await
    }

    /// All SDUs that lie ready in one record into `batch` (what it held is gone). Waits as [`Flow::read`] does.
    pub async fn read_batch(&self, batch: &mut Batch) -> Result<(), FlowError> {
        self.until_readable(|| {
            Ok(self
                .end
                .get_ref()
                .read_batch(batch, Mode::Try)?
                .then_some(()))
        })
        .await
    }

    /// As [`Flow::read_batch`], into a batch that is taken only when something is there: who waits holds no buffer.
    pub async fn next_batch(&self) -> Result<Batch, FlowError> {
        self.until_readable(|| {
            let mut batch = Batch::new(Framing::Record);
            let there = self.end.get_ref().read_batch(&mut batch, Mode::Try)?;
            Ok(there.then_some(batch))
        })
        .await
    }

    /// Writes one SDU of 1..=[`Flow::mtu`] bytes. Waits while the other side is slower, at most for the write timeout.
    pub async fn write(&self, sdu: &[u8]) -> Result<(), FlowError> {
        self.until_written(|| self.end.get_ref().write(sdu, Mode::Try))
            .await
    }

    /// Writes all SDUs of a batch (of [`proto::Framing::Record`]) with one system call; all of them or none.
    pub async fn write_batch(&self, batch: &Batch) -> Result<(), FlowError> {
        self.until_written(|| self.end.get_ref().write_batch(batch, Mode::Try))
            .await
    }

    /// Says that nothing more will be written: the other side gets what was written before, then [`FlowError::End`], and can
    /// still write. Only ordered flows can say so. Waits as [`Flow::write`] does.
    pub async fn shut(&self) -> Result<(), FlowError> {
        self.until_written(|| self.end.get_ref().shut()).await
    }

    /// The next SDU if one is there; `None` if not yet.
    pub fn try_read(&self, buf: &mut [u8]) -> Result<Option<usize>, FlowError> {
        self.end.get_ref().read(buf, Mode::Try)
    }

    /// Writes one SDU if the kernel takes it now; `false` if not.
    pub fn try_write(&self, sdu: &[u8]) -> Result<bool, FlowError> {
        self.end.get_ref().write(sdu, Mode::Try)
    }

    /// The largest SDU in bytes, as far as is known; it can change while the flow lives.
    pub fn mtu(&self) -> u32 {
        self.end.get_ref().mtu()
    }

    /// What the layer granted.
    pub fn qos(&self) -> QosSpec {
        self.end.get_ref().qos
    }

    /// Who is at the other end; `member` is the identity that the layer authenticated.
    pub fn peer(&self) -> &Peer {
        &self.end.get_ref().peer
    }

    /// The flow's id on this host.
    pub fn id(&self) -> FlowId {
        self.end.get_ref().flow
    }

    /// Bytes of SDUs read and written so far.
    pub fn traffic(&self) -> (u64, u64) {
        (self.end.get_ref().rx_bytes(), self.end.get_ref().tx_bytes())
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

    /// Ends the flow and tells the other side why; it can still read what was written before.
    pub fn close(self, reason: Reason) {
        self.end.get_ref().close_with(reason);
    }

    /// The same flow for a thread without a runtime.
    pub fn into_blocking(self) -> crate::blocking::Flow {
        crate::blocking::Flow::of(self.end.into_inner())
    }

    /// A flow out of its joined socket.
    pub(crate) fn of(joined: Joined, direct: Option<Direct>) -> Result<Self, FlowError> {
        Self::of_end(End::new(joined, direct))
    }

    pub(crate) fn of_end(end: End) -> Result<Self, FlowError> {
        let end = crate::watch(end, Interest::READABLE).map_err(|e| {
            FlowError::Daemon(Reason::new(
                Code::Failed,
                format!("can't wait on the flow's socket: {e}"),
            ))
        })?;
        Ok(Self {
            end,
            room: OnceLock::new(),
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
        })
    }

    pub(crate) fn end(&self) -> &End {
        self.end.get_ref()
    }

    async fn until_readable<T>(
        &self,
        mut step: impl FnMut() -> Result<Option<T>, FlowError>,
    ) -> Result<T, FlowError> {
        if self.end.get_ref().has_pending()
            && let Some(done) = step()?
        {
            return Ok(done);
        }
        let wait = async {
            loop {
                // The guard comes first: readiness that arrives after the attempt is then not cleared.
                let mut guard = self.end.readable().await.map_err(runtime_gone)?;
                match step()? {
                    Some(done) => return Ok(done),
                    None => guard.clear_ready(),
                }
            }
        };
        within(&self.read_timeout, "no SDU came", wait).await
    }

    async fn until_written(
        &self,
        mut step: impl FnMut() -> Result<bool, FlowError>,
    ) -> Result<(), FlowError> {
        if step()? {
            return Ok(());
        }
        let wait = async {
            loop {
                let mut guard = self.room()?.writable().await.map_err(runtime_gone)?;
                match step()? {
                    true => return Ok(()),
                    false => guard.clear_ready(),
                }
            }
        };
        within(&self.write_timeout, "the other side takes no more", wait).await
    }

    /// The socket again, registered for writing: epoll takes one registration a descriptor.
    fn room(&self) -> Result<&AsyncFd<OwnedFd>, FlowError> {
        if let Some(room) = self.room.get() {
            return Ok(room);
        }
        let fd = self.end.get_ref().as_fd().try_clone_to_owned();
        let made = fd
            .and_then(|fd| crate::watch(fd, Interest::WRITABLE))
            .map_err(runtime_gone)?;
        Ok(self.room.get_or_init(|| made))
    }
}

impl AsFd for Flow {
    /// To wait on with epoll or poll. SDUs that arrived in one record are handed out one by one: read until
    /// [`Flow::try_read`] gives `None` before waiting.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.get_ref().as_fd()
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

async fn within<T>(
    timeout: &AtomicU64,
    what: &str,
    wait: impl Future<Output = Result<T, FlowError>>,
) -> Result<T, FlowError> {
    match from_micros(timeout.load(Ordering::Relaxed)) {
        None => wait.await,
        Some(limit) => tokio::time::timeout(limit, wait)
            .await
            .unwrap_or_else(|_| Err(timed_out(what, limit))),
    }
}

pub(crate) fn timed_out(what: &str, limit: Duration) -> FlowError {
    FlowError::TimedOut(Reason::new(
        Code::TimedOut,
        format!("{what} within {limit:?}; try again or allow more time"),
    ))
}

fn runtime_gone(e: std::io::Error) -> FlowError {
    FlowError::Daemon(Reason::new(
        Code::Failed,
        format!("can't wait on the flow's socket: {e}"),
    ))
}

/// 0 stands for no limit; a limit of 0 is the shortest that there is.
pub(crate) fn to_micros(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |t| {
        u64::try_from(t.as_micros()).unwrap_or(u64::MAX).max(1)
    })
}

pub(crate) fn from_micros(micros: u64) -> Option<Duration> {
    (micros != 0).then(|| Duration::from_micros(micros))
}
