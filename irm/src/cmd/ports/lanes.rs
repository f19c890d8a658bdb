//! Datagrams of many senders at one socket: a flow for each key, opened by its first datagram, closed by silence.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libflow::{Batch, Flow, Framing};
use proto::Reason;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::datagrams::{Datagrams, carry};
use super::{Count, Counts, failed};
use crate::out::remark;

/// The flows, each in a task of its own. Dropping it ends them.
pub(in super::super) struct Lanes<K> {
    open: HashMap<K, Rc<Waiting>>,
    tasks: JoinSet<K>,
    room: Arc<Semaphore>,
    idle: Duration,
    counts: Rc<Counts>,
}

/// The way back of one flow.
pub(in super::super) struct Lane {
    socket: Rc<UdpSocket>,
    to: SocketAddr,
    /// What stands before each datagram.
    header: Vec<u8>,
}

impl Lane {
    /// What comes is sent to an address, behind a header.
    pub(in super::super) fn new(socket: Rc<UdpSocket>, to: SocketAddr, header: Vec<u8>) -> Self {
        Self { socket, to, header }
    }
}

impl<K: Clone + Eq + Hash + 'static> Lanes<K> {
    /// None yet; as many at once as there is room, which others may share.
    pub(in super::super) fn new(room: Arc<Semaphore>, idle: Duration, counts: Rc<Counts>) -> Self {
        Self {
            open: HashMap::new(),
            tasks: JoinSet::new(),
            room,
            idle,
            counts,
        }
    }

    /// Hands each datagram of a socket to `take`, which puts it where it belongs. Ends with the socket.
    pub(in super::super) async fn each(
        &mut self,
        socket: &UdpSocket,
        mut take: impl FnMut(&mut Self, &[u8], SocketAddr),
    ) -> Result<(), Reason> {
        let mut space = vec![0; LARGEST];
        loop {
            tokio::select! {
                biased;
                // First, so that what comes for a flow that has just ended opens another.
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Ok(key) = ended {
                        self.open.remove(&key);
                    }
                }
                got = socket.recv_from(&mut space) => match got {
                    Ok((len, from)) => take(self, &space[..len], from),
                    // The answer to one that was sent before.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                        self.counts.add(Count::Undelivered, 1);
                    }
                    Err(error) => return Err(failed("take datagrams", &error)),
                },
            }
        }
    }

    /// Puts a datagram into the flow of its key. If there is none, `begin` says how to open one and where its datagrams go, or
    /// that there can't be one.
    pub(in super::super) fn put<F>(
        &mut self,
        key: K,
        datagram: &[u8],
        begin: impl FnOnce() -> Option<(F, Lane)>,
    ) where
        F: Future<Output = Result<Flow, Reason>> + 'static,
    {
        if let Some(waiting) = self.open.get(&key) {
            return waiting.put(datagram, &self.counts);
        }
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            return self.counts.add(Count::Busy, 1);
        };
        let Some((open, lane)) = begin() else {
            return self.counts.add(Count::Failed, 1);
        };
        let waiting = Rc::new(Waiting::default());
        waiting.put(datagram, &self.counts);
        self.open.insert(key.clone(), Rc::clone(&waiting));
        let (idle, counts) = (self.idle, Rc::clone(&self.counts));
        self.tasks.spawn_local(async move {
            let to = lane.to;
            if let Err(reason) = serve(open, lane, waiting, idle, &counts).await {
                remark(&format!("{to}: {reason}"));
            }
            drop(permit);
            key
        });
    }
}

async fn serve(
    open: impl Future<Output = Result<Flow, Reason>>,
    lane: Lane,
    waiting: Rc<Waiting>,
    idle: Duration,
    counts: &Counts,
) -> Result<(), Reason> {
    let flow = match open.await {
        Ok(flow) => flow,
        Err(reason) => {
            counts.add(Count::Failed, 1);
            remark(&format!("{}: {reason}", lane.to));
            // A sender that goes on does not ask again with every datagram.
            tokio::time::sleep(CALM).await;
            return Ok(());
        }
    };
    carry(flow, &Way { lane, waiting }, idle, counts).await
}

/// The datagrams that wait for their flow; as many as a record holds.
#[derive(Default)]
struct Waiting {
    batch: RefCell<Option<Batch>>,
    there: Notify,
    /// The most bytes of one that the flow carries; 0: not known yet.
    most: Cell<usize>,
}

impl Waiting {
    fn put(&self, datagram: &[u8], counts: &Counts) {
        let most = self.most.get();
        let what = if datagram.is_empty() {
            Count::Empty
        } else if datagram.len() > Batch::MAX_PACKET || (most > 0 && datagram.len() > most) {
            Count::TooLarge
        } else {
            let mut batch = self.batch.borrow_mut();
            let batch = batch.get_or_insert_with(|| Batch::new(Framing::Record));
            if let Some(room) = batch.push(datagram.len()) {
                room.copy_from_slice(datagram);
                return self.there.notify_one();
            }
            Count::Full
        };
        counts.add(what, 1);
    }
}

struct Way {
    lane: Lane,
    waiting: Rc<Waiting>,
}

impl Datagrams for Way {
    async fn take(&self, most: usize, _: &Counts) -> io::Result<Batch> {
        self.waiting.most.set(most);
        loop {
            if let Some(batch) = self.waiting.batch.take() {
                return Ok(batch);
            }
            self.waiting.there.notified().await;
        }
    }

    async fn give(&self, sdu: &[u8]) -> io::Result<()> {
        let Lane { socket, to, header } = &self.lane;
        if header.is_empty() {
            return socket.send_to(sdu, to).await.map(drop);
        }
        let whole = [header, sdu].concat();
        socket.send_to(&whole, to).await.map(drop)
    }
}

/// The largest datagram that there is.
const LARGEST: usize = 65_535;
const CALM: Duration = Duration::from_secs(1);
