//! `irm perf`: throughput of flows, counted by the receiver. The words are in `wire`.

mod receive;
mod send;
mod wire;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use libflow::{Batch, Flow, Framing};
use proto::{Code, Reason};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use self::receive::Outcome;
use self::wire::{BadWord, Counted, DATA, Start, Word};
use super::Context;
use super::flow::{listen, opens, other_end, stopped};
use crate::args::Perf;
use crate::duration::millis;
use crate::out::{remark, table};

pub(crate) async fn run(c: &Context, args: Perf) -> Result<(), Reason> {
    if args.server {
        let layers: Vec<_> = args.flow.way.layer.into_iter().collect();
        return listen(c, &args.name, &layers, serve).await;
    }
    let stop = stopped()?;
    tokio::select! {
        done = measure(c, &args) => done,
        () = stop => Err(Reason::new(Code::Failed, "stopped before the measurement was over")),
    }
}

async fn measure(c: &Context, args: &Perf) -> Result<(), Reason> {
    let (_session, flows) = opens(c, &args.name, &args.flow, args.flows).await?;
    let mtu = flows.iter().map(Flow::mtu).min().unwrap_or_default();
    let size = args.size.unwrap_or_else(|| mtu.min(USUAL_SIZE));
    if size > mtu || (size as usize) < DATA {
        let text = format!("SDUs of {size} bytes don't fit: the flow carries {DATA} to {mtu} (-s)");
        return Err(Reason::new(Code::Usage, text));
    }
    let start = Start {
        reverse: args.reverse,
        size,
        millis: millis(args.time),
    };
    let other = flows.first().map(other_end).unwrap_or_default();
    let measured = all(flows, start, Rc::new(Meter::new(!c.out.json))).await?;
    c.out.answer(documents(&measured), || {
        let head = format!(
            "{} {} ({other}), {size} bytes each:\n",
            direction(args.reverse),
            args.name,
        );
        sentences(head, &measured)
    })
}

/// Measures all flows at once; what the receiver counted of each.
async fn all(flows: Vec<Flow>, start: Start, meter: Rc<Meter>) -> Result<Vec<Outcome>, Reason> {
    if !start.reverse {
        // Nobody sends before all are ready, so that all are measured at the same time.
        try_join_all(flows.iter().map(|flow| begin(flow, start))).await?;
    }
    // A task each: what a flow takes of its turn is nothing to the others.
    let local = LocalSet::new();
    let tasks: Vec<_> = flows
        .into_iter()
        .map(|flow| local.spawn_local(one(flow, start, meter.clone())))
        .collect();
    let ended = |e| Reason::new(Code::Failed, format!("a measurement ended by itself: {e}"));
    let wait = try_join_all(
        tasks
            .into_iter()
            .map(async |task| task.await.map_err(ended)?),
    );
    local.run_until(wait).await
}

async fn one(flow: Flow, start: Start, meter: Rc<Meter>) -> Result<Outcome, Reason> {
    if start.reverse {
        receive::receive(&flow, Some(&Word::Start(start)), &meter).await
    } else {
        send::send(&flow, start, &meter).await
    }
}

/// Says Start until the server is ready.
async fn begin(flow: &Flow, start: Start) -> Result<(), Reason> {
    let word = Word::Start(start).encode();
    let ask = async {
        loop {
            flow.write(&word).await?;
            match tokio::time::timeout(AGAIN, read_word(flow)).await {
                Ok(Ok(Some(Word::Ready))) => return Ok(()),
                Ok(Ok(Some(Word::Start(_)))) => return Err(bad_word(BadWord::Foreign)),
                Ok(Err(reason)) => return Err(reason),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    };
    let late = |_| {
        Reason::new(
            Code::TimedOut,
            "the other side does not answer; does irm perf --server serve that name?",
        )
    };
    tokio::time::timeout(START, ask).await.map_err(late)?
}

/// One measurement at the server.
async fn serve(flow: Flow) {
    let meter = Meter::new(false);
    let told = match start_of(&flow).await {
        Ok(start) if start.reverse => send::send(&flow, start, &meter).await,
        Ok(_) => receive::receive(&flow, None, &meter).await,
        Err(reason) => Err(reason),
    };
    match told {
        Ok((sent, counted)) => remark(&format!(
            "flow {} ({}): {}",
            flow.id(),
            other_end(&flow),
            sentence(sent, counted)
        )),
        Err(reason) => {
            // The client may be gone, and then nobody wants to know.
            let _ = flow.try_write(&Word::Refused(reason.text.clone()).encode());
            remark(&format!("flow {}: {reason}", flow.id()));
        }
    }
}

/// The client's wish; it is told that we are ready, unless we are the one to send.
async fn start_of(flow: &Flow) -> Result<Start, Reason> {
    let asked = async {
        loop {
            if let Some(Word::Start(start)) = read_word(flow).await? {
                return Ok::<_, Reason>(start);
            }
        }
    };
    let late = |_| Reason::new(Code::TimedOut, "the client did not say what it wants");
    let start = tokio::time::timeout(START, asked).await.map_err(late)??;
    if start.millis > LONGEST_MS {
        return Err(Reason::new(
            Code::Usage,
            "a measurement takes a day at most; use a shorter -t",
        ));
    }
    if start.reverse && (start.size > flow.mtu() || (start.size as usize) < DATA) {
        return Err(Reason::new(
            Code::Usage,
            format!(
                "this side can send SDUs of {DATA} to {} bytes; use -s",
                flow.mtu()
            ),
        ));
    }
    if !start.reverse {
        flow.write(&Word::Ready.encode()).await?;
    }
    Ok(start)
}

/// The next word that is not Data; `None` for Data.
async fn read_word(flow: &Flow) -> Result<Option<Word>, Reason> {
    let mut batch = Batch::new(Framing::Record);
    flow.read_batch(&mut batch).await?;
    for sdu in batch.iter() {
        match Word::decode(sdu) {
            Ok(Word::Data { .. }) => {}
            Ok(Word::Refused(text)) => return Err(refused(&text)),
            Ok(word) => return Ok(Some(word)),
            Err(bad) => return Err(bad_word(bad)),
        }
    }
    Ok(None)
}

/// The throughput of each second on stderr, for people; of all flows together.
struct Meter {
    talk: bool,
    since: Cell<Instant>,
    bytes: Cell<u64>,
}

impl Meter {
    fn new(talk: bool) -> Self {
        Self {
            talk,
            since: Cell::new(Instant::now()),
            bytes: Cell::new(0),
        }
    }

    fn count(&self, bytes: u64) {
        if !self.talk {
            return;
        }
        self.bytes.set(self.bytes.get() + bytes);
        let passed = self.since.get().elapsed();
        if passed >= Duration::from_secs(1) {
            remark(&format!(
                "{:.3} Gbit/s",
                gbit(self.bytes.take(), passed.as_secs_f64())
            ));
            self.since.set(Instant::now());
        }
    }
}

/// The JSON document: the sum, and each flow.
fn documents(measured: &[Outcome]) -> Value {
    let (sent, counted) = sum(measured);
    let mut all = document(sent, counted);
    all["flows"] = measured.iter().map(|(s, c)| document(*s, *c)).collect();
    all
}

/// All together, over the longest time that one of them took.
fn sum(measured: &[Outcome]) -> Outcome {
    let add = |(sent, a): Outcome, (more, b): &Outcome| {
        let both = Counted {
            bytes: a.bytes + b.bytes,
            sdus: a.sdus + b.sdus,
            reordered: a.reordered + b.reordered,
            nanos: a.nanos.max(b.nanos),
        };
        (sent + more, both)
    };
    measured.iter().fold(Outcome::default(), add)
}

/// The text for people: each flow, if there are several, and the sum.
fn sentences(mut text: String, measured: &[Outcome]) -> String {
    if measured.len() > 1 {
        for (n, (sent, counted)) in measured.iter().enumerate() {
            text += &format!("flow {}: {}\n", n + 1, sentence(*sent, *counted));
        }
        text += &format!("all {}: ", measured.len());
    }
    let (sent, counted) = sum(measured);
    text + &sentence(sent, counted)
}

/// Of one flow, or of their sum.
fn document(sent: u64, c: Counted) -> Value {
    let seconds = c.nanos as f64 / 1e9;
    json!({
        "bytes": c.bytes,
        "seconds": seconds,
        "sdus_sent": sent,
        "sdus_received": c.sdus,
        "sdus_lost": sent.saturating_sub(c.sdus),
        "sdus_reordered": c.reordered,
        "gbit_per_s": gbit(c.bytes, seconds),
        "sdus_per_s": per_second(c.sdus as f64, seconds),
    })
}

fn sentence(sent: u64, c: Counted) -> String {
    let seconds = c.nanos as f64 / 1e9;
    let lost = sent.saturating_sub(c.sdus);
    let percent = per_second(100.0 * lost as f64, sent as f64);
    format!(
        "{} in {seconds:.3} s: {:.3} Gbit/s, {:.0} SDU/s; {sent} sent, {} received, {percent:.3} % lost",
        table::bytes(c.bytes),
        gbit(c.bytes, seconds),
        per_second(c.sdus as f64, seconds),
        c.sdus,
    )
}

fn direction(reverse: bool) -> &'static str {
    if reverse { "received from" } else { "sent to" }
}

fn gbit(bytes: u64, seconds: f64) -> f64 {
    per_second(bytes as f64 * 8e-9, seconds)
}

/// A rate; none where no time passed.
fn per_second(n: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { n / seconds } else { 0.0 }
}

fn refused(text: &str) -> Reason {
    Reason::new(Code::Refused, format!("the other side refused: {text}"))
}

fn bad_word(bad: BadWord) -> Reason {
    let text = match bad {
        BadWord::Foreign => {
            "the other side is no irm perf --server; start one for that name".to_owned()
        }
        BadWord::Version(v) => {
            format!("the other side speaks version {v} of irm perf; use the same irm on both sides")
        }
        BadWord::Damaged => "the other side sent a damaged word; repeat the measurement".to_owned(),
    };
    Reason::new(Code::PeerMisbehaved, text)
}

/// SDUs of a measurement that says nothing else.
const USUAL_SIZE: u32 = 1400;
const AGAIN: Duration = Duration::from_millis(100);
const START: Duration = Duration::from_secs(5);
const LONGEST_MS: u64 = 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_counted_by_the_receiver() {
        let counted = Counted {
            bytes: 1_000_000_000,
            sdus: 714_285,
            reordered: 2,
            nanos: 2_000_000_000,
        };
        let json = document(800_000, counted);
        assert_eq!(
            (&json["bytes"], &json["seconds"], &json["gbit_per_s"]),
            (&json!(1_000_000_000), &json!(2.0), &json!(4.0))
        );
        assert_eq!(
            (
                &json["sdus_sent"],
                &json["sdus_received"],
                &json["sdus_per_s"]
            ),
            (&json!(800_000), &json!(714_285), &json!(357_142.5))
        );
    }

    #[test]
    fn flows_are_summed_over_the_longest_time() {
        let one = |bytes, nanos| {
            let counted = Counted {
                bytes,
                sdus: bytes / 1000,
                reordered: 1,
                nanos,
            };
            (bytes / 1000 + 10, counted)
        };
        let json = documents(&[
            one(1_000_000_000, 1_000_000_000),
            one(500_000_000, 2_000_000_000),
        ]);
        assert_eq!(
            (&json["bytes"], &json["seconds"], &json["gbit_per_s"]),
            (&json!(1_500_000_000), &json!(2.0), &json!(6.0))
        );
        assert_eq!(
            (&json["sdus_lost"], &json["sdus_reordered"]),
            (&json!(20), &json!(2))
        );
        assert_eq!(json["flows"][0]["gbit_per_s"], json!(8.0));
        assert_eq!(json["flows"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn nothing_received_is_no_rate() {
        let json = document(5, Counted::default());
        assert_eq!(
            (&json["gbit_per_s"], &json["sdus_lost"]),
            (&json!(0.0), &json!(5))
        );
    }
}
