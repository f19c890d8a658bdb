//! The receiving side of a measurement: it counts.

use std::time::{Duration, Instant};

use libflow::{Batch, Flow, FlowError, Framing};
use proto::{Code, Reason};

use super::Meter;
use super::wire::{Counted, Word};

/// What a receiver knows at the end: the SDUs that the sender says it sent, and its own count.
pub(super) type Outcome = (u64, Counted);

/// Counts Data, answers each Start before it and each End, and returns when the sender has the result. `first` is written again every 100 ms
/// until something is there.
pub(super) async fn receive(
    flow: &Flow,
    first: Option<&Word>,
    meter: &Meter,
) -> Result<Outcome, Reason> {
    let mut tally = Tally::default();
    let mut batch = Batch::new(Framing::Record);
    let begin = Instant::now();
    while !tally.done {
        if tally.is_new()
            && let Some(word) = first
        {
            flow.write(&word.encode()).await?;
        }
        flow.set_read_timeout(Some(tally.patience()));
        let before = tally.counted.bytes;
        match flow.read_batch(&mut batch).await {
            Ok(()) => tally.record(&batch, Instant::now())?,
            Err(FlowError::TimedOut(_)) if tally.is_new() && begin.elapsed() < SILENCE => {}
            // The result was told, and the sender asks no more: it has it.
            Err(FlowError::TimedOut(_) | FlowError::Down(_)) if tally.sent.is_some() => break,
            Err(FlowError::TimedOut(_)) => {
                return Err(Reason::new(
                    Code::TimedOut,
                    "the sender fell silent; did it end?",
                ));
            }
            Err(error) => return Err(error.into()),
        }
        meter.count(tally.counted.bytes - before);
        if std::mem::take(&mut tally.begun) && tally.is_new() && first.is_none() {
            flow.write(&Word::Ready.encode()).await?;
        }
        if std::mem::take(&mut tally.asked) {
            flow.write(&Word::Result(tally.counted).encode()).await?;
        }
    }
    Ok((tally.sent.unwrap_or_default(), tally.counted))
}

#[derive(Debug, Default)]
struct Tally {
    counted: Counted,
    first: Option<Instant>,
    next: u64,
    /// A Start was repeated: its sender may not have heard that all is ready.
    begun: bool,
    /// What the sender said in its End.
    sent: Option<u64>,
    /// An End waits for its answer.
    asked: bool,
    /// The sender has the result.
    done: bool,
}

impl Tally {
    /// Nothing has come yet.
    fn is_new(&self) -> bool {
        self.counted.sdus == 0 && self.sent.is_none()
    }

    /// How long the sender may be silent.
    fn patience(&self) -> Duration {
        match self.sent {
            _ if self.is_new() => AGAIN,
            Some(_) => LAST,
            None => SILENCE,
        }
    }

    /// Counts a record.
    fn record(&mut self, batch: &Batch, now: Instant) -> Result<(), Reason> {
        let mut data = false;
        for sdu in batch.iter() {
            match Word::decode(sdu) {
                Ok(Word::Data { sequence }) => {
                    data = true;
                    self.counted.sdus += 1;
                    self.counted.bytes += sdu.len() as u64;
                    self.counted.reordered += u64::from(sequence < self.next);
                    self.next = self.next.max(sequence.saturating_add(1));
                }
                Ok(Word::End { sdus }) => (self.sent, self.asked) = (Some(sdus), true),
                Ok(Word::Done) => self.done = true,
                Ok(Word::Refused(text)) => return Err(super::refused(&text)),
                Ok(Word::Start(_)) => self.begun = true,
                // A repetition that came late.
                Ok(Word::Ready | Word::Result(_)) => {}
                Err(bad) => return Err(super::bad_word(bad)),
            }
        }
        if data {
            let first = *self.first.get_or_insert(now);
            self.counted.nanos =
                u64::try_from(now.duration_since(first).as_nanos()).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

/// Between two repetitions of the first word.
const AGAIN: Duration = Duration::from_millis(100);
/// After the last answer to an End.
const LAST: Duration = Duration::from_millis(500);
/// After which a sender that said nothing is gone.
const SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::super::wire::Start;
    use super::*;

    fn batch(sdus: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::new(Framing::Record);
        for sdu in sdus {
            batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
        }
        batch
    }

    fn data(sequence: u64) -> Vec<u8> {
        let mut sdu = vec![0; 100];
        Word::number(&mut sdu, sequence);
        sdu
    }

    #[test]
    fn bytes_loss_and_order_are_counted_from_the_first_to_the_last() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        assert!(tally.is_new());
        tally
            .record(&batch(&[data(0), data(1), data(4), data(3)]), start)
            .unwrap();
        let later = start + Duration::from_millis(5);
        tally
            .record(&batch(&[data(5), Word::End { sdus: 7 }.encode()]), later)
            .unwrap();
        assert_eq!(
            tally.counted,
            Counted {
                bytes: 500,
                sdus: 5,
                reordered: 1,
                nanos: 5_000_000
            }
        );
        assert_eq!((tally.sent, tally.asked), (Some(7), true));
        // An End alone, much later, is no data.
        tally
            .record(
                &batch(&[Word::End { sdus: 7 }.encode()]),
                later + Duration::from_secs(1),
            )
            .unwrap();
        assert_eq!(tally.counted.nanos, 5_000_000);
        assert!(!tally.done);
        tally.record(&batch(&[Word::Done.encode()]), later).unwrap();
        assert!(tally.done);
    }

    #[test]
    fn a_start_that_comes_again_wants_its_answer_again() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let again = Word::Start(Start {
            reverse: false,
            size: 100,
            millis: 300,
        });
        tally.record(&batch(&[again.encode()]), start).unwrap();
        assert!(std::mem::take(&mut tally.begun) && tally.is_new());
        tally.record(&batch(&[data(0)]), start).unwrap();
        assert!(!tally.begun && !tally.is_new());
    }

    #[test]
    fn noise_ends_a_measurement_with_the_reason() {
        let reason = Tally::default()
            .record(&batch(&[b"hello".to_vec()]), Instant::now())
            .unwrap_err();
        assert_eq!(reason.code, Code::PeerMisbehaved);
    }
}
