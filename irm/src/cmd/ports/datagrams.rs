//! Datagrams over one flow: each is one SDU, and silence is the end.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use libflow::{Batch, Flow, FlowError, Framing};
use proto::{Code, Reason};
use tokio::net::UdpSocket;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::{Count, Counts};

/// Where datagrams come from and go to, beside the flow.
pub(super) trait Datagrams {
    /// Those that are there, of at most `most` bytes each, waiting for the first; what can't be carried is counted and dropped.
    async fn take(&self, most: usize, counts: &Counts) -> io::Result<Batch>;

    /// Passes one on; that the system does not take it is no end, as datagrams go.
    async fn give(&self, sdu: &[u8]) -> io::Result<()>;
}

/// Carries datagrams both ways until the flow is down, or nothing went for as long as `idle`.
pub(super) async fn carry(
    flow: Flow,
    side: &impl Datagrams,
    idle: Duration,
    counts: &Counts,
) -> Result<(), Reason> {
    counts.add(Count::Flows, 1);
    let held = Counted { flow, counts };
    let flow = &held.flow;
    let last = Cell::new(Instant::now());
    let done = tokio::select! {
        done = to_flow(side, flow, &last, counts) => done,
        done = from_flow(side, flow, &last, counts) => done,
        () = silence(&last, idle) => Ok(()),
    };
    match done {
        // The other side has ended it: by its own silence, mostly.
        Err(reason) if reason.code == Code::Closed => Ok(()),
        done => done,
    }
}

/// One that sends to one address, and hears from nobody else.
pub(super) struct Connected(pub(super) UdpSocket);

impl Datagrams for Connected {
    async fn take(&self, most: usize, counts: &Counts) -> io::Result<Batch> {
        loop {
            self.0.readable().await?;
            let mut batch = Batch::new(Framing::Record);
            // A byte more than fits tells which ones don't.
            let room = (most + 1).min(Batch::MAX_PACKET);
            while let Some(got) = batch.push_with(room, |space| self.0.try_recv(space)) {
                match got {
                    Ok(0) => counts.add(Count::Empty, 1),
                    Ok(len) if len > most => {
                        batch.pop();
                        counts.add(Count::TooLarge, 1);
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    // The answer to one that was sent before: nobody listens there, at the moment.
                    Err(_) => counts.add(Count::Undelivered, 1),
                }
            }
            if !batch.is_empty() {
                return Ok(batch);
            }
            consume_budget().await;
        }
    }

    async fn give(&self, sdu: &[u8]) -> io::Result<()> {
        self.0.send(sdu).await.map(drop)
    }
}

async fn to_flow(
    side: &impl Datagrams,
    flow: &Flow,
    last: &Cell<Instant>,
    counts: &Counts,
) -> Result<(), Reason> {
    loop {
        let most = (flow.mtu() as usize).min(Batch::MAX_PACKET);
        let batch = side.take(most, counts).await.map_err(broken)?;
        last.set(Instant::now());
        match flow.write_batch(&batch).await {
            Ok(()) => {}
            Err(FlowError::TooLarge { .. }) => one_by_one(&batch, flow, counts).await?,
            Err(error) => return Err(error.into()),
        }
        consume_budget().await;
    }
}

/// After the path has become narrower: those that fit.
async fn one_by_one(batch: &Batch, flow: &Flow, counts: &Counts) -> Result<(), Reason> {
    for sdu in batch.iter() {
        match flow.write(sdu).await {
            Ok(()) => {}
            Err(FlowError::TooLarge { .. }) => counts.add(Count::TooLarge, 1),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn from_flow(
    side: &impl Datagrams,
    flow: &Flow,
    last: &Cell<Instant>,
    counts: &Counts,
) -> Result<(), Reason> {
    loop {
        let batch = flow.next_batch().await?;
        last.set(Instant::now());
        for sdu in batch.iter() {
            if side.give(sdu).await.is_err() {
                counts.add(Count::Undelivered, 1);
            }
        }
        consume_budget().await;
    }
}

/// Returns when nothing has gone for as long as `idle`.
async fn silence(last: &Cell<Instant>, idle: Duration) {
    loop {
        let end = last.get() + idle;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

/// A flow whose bytes are counted when it is over, however that comes.
struct Counted<'a> {
    flow: Flow,
    counts: &'a Counts,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counts.add_traffic(&self.flow);
    }
}

fn broken(error: io::Error) -> Reason {
    Reason::new(Code::Failed, format!("can't take datagrams: {error}"))
}
