//! The sending side of a measurement.

use std::time::{Duration, Instant};

use libflow::{Batch, Flow, FlowError, Framing};
use proto::{Code, Reason};

use super::wire::{Counted, Start, Word};
use super::{Meter, read_word};

/// Sends Data as long as the start says, then End until the result is there. Gives the SDUs sent and the result.
pub(super) async fn send(
    flow: &Flow,
    start: Start,
    meter: &Meter,
) -> Result<(u64, Counted), Reason> {
    let mut batch = full_batch(start.size as usize);
    if batch.is_empty() {
        return Err(Reason::new(
            Code::Usage,
            format!("SDUs of {} bytes can't be sent", start.size),
        ));
    }
    let (begin, time) = (Instant::now(), Duration::from_millis(start.millis));
    let (mut sdus, bytes) = (0, batch.count() as u64 * u64::from(start.size));
    flow.set_write_timeout(Some(STUCK));
    loop {
        for (sdu, sequence) in batch.iter_mut().zip(sdus..) {
            Word::number(sdu, sequence);
        }
        flow.write_batch(&batch).await?;
        sdus += batch.count() as u64;
        meter.count(bytes);
        // A write that needs no waiting never lets others run: signals, and the other flows of a server.
        tokio::task::coop::consume_budget().await;
        if begin.elapsed() >= time {
            break;
        }
    }
    let result = result(flow, sdus).await?;
    // If it is lost the receiver ends with the flow.
    match flow.write(&Word::Done.encode()).await {
        Ok(()) | Err(FlowError::Down(_)) => Ok((sdus, result)),
        Err(error) => Err(error.into()),
    }
}

async fn result(flow: &Flow, sdus: u64) -> Result<Counted, Reason> {
    let end = Word::End { sdus }.encode();
    let ask = async {
        loop {
            flow.write(&end).await?;
            let wait = async {
                loop {
                    // Late answers to Start may still come.
                    if let Some(Word::Result(counted)) = read_word(flow).await? {
                        return Ok::<_, Reason>(counted);
                    }
                }
            };
            if let Ok(counted) = tokio::time::timeout(AGAIN, wait).await {
                return counted;
            }
        }
    };
    let late = |_| {
        Reason::new(
            Code::TimedOut,
            "the receiver did not say what it counted; did it end?",
        )
    };
    tokio::time::timeout(STUCK, ask).await.map_err(late)?
}

/// As many SDUs as one record holds.
fn full_batch(size: usize) -> Batch {
    let mut batch = Batch::new(Framing::Record);
    while let Some(sdu) = batch.push(size) {
        sdu.fill(0);
    }
    batch
}

/// When the other side takes nothing and says nothing.
const STUCK: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);
