//! `irm ping`: round-trip times to a name that echoes.

mod payload;
mod stats;

use std::time::{Duration, Instant};

use libflow::{Flow, FlowError};
use proto::{Code, Reason};
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::stats::{Answer, Stats};
use super::Context;
use super::flow::{open, other_end, stopped};
use crate::args::Ping;
use crate::out::print;

pub(crate) async fn run(c: &Context, args: Ping) -> Result<(), Reason> {
    // From here on a signal means: stop and say what was counted.
    let stop = stopped()?;
    let (_session, flow) = open(c, &args.name, &args.flow).await?;
    if args.size > flow.mtu() {
        let text = format!(
            "{} bytes don't fit: the flow carries at most {} (-s {})",
            args.size,
            flow.mtu(),
            flow.mtu()
        );
        return Err(Reason::new(Code::Usage, text));
    }
    let mut run = Run {
        flow: &flow,
        talk: !c.out.json,
        args: &args,
        stats: Stats::default(),
    };
    run.say(|| {
        format!(
            "PING {} ({}), {} bytes, flow {}, {}\n",
            args.name,
            other_end(&flow),
            args.size,
            flow.id(),
            flow.qos()
        )
    })?;
    let ended = tokio::select! {
        ended = run.exchange() => ended,
        () = stop => Ok(()),
    };
    let stats = run.stats;
    c.out
        .answer(stats.json(), || stats.text(args.name.as_str()))?;
    ended?;
    if stats.received == 0 && stats.sent > 0 {
        let text = format!(
            "{} did not answer any of {} pings; does irm echo serve that name?",
            args.name, stats.sent
        );
        return Err(Reason::new(Code::Failed, text));
    }
    Ok(())
}

struct Run<'a> {
    flow: &'a Flow,
    talk: bool,
    args: &'a Ping,
    stats: Stats,
}

impl Run<'_> {
    /// Sends and receives until the count is reached and answered, or the wait for the last answers is over.
    async fn exchange(&mut self) -> Result<(), Reason> {
        let mut buf = vec![0; self.flow.mtu() as usize];
        let mut tick = self.tick();
        // Armed when the last is sent.
        let mut last: Option<tokio::time::Instant> = None;
        loop {
            let sending = self.args.count.is_none_or(|count| self.stats.sent < count);
            if !sending && self.stats.complete() {
                return Ok(());
            }
            if !sending && last.is_none() {
                last = Some(tokio::time::Instant::now() + LINGER);
            }
            let over = last.unwrap_or_else(|| tokio::time::Instant::now() + LINGER);
            tokio::select! {
                biased;
                read = self.flow.read(&mut buf) => {
                    self.received(&buf[..read.map_err(Reason::from)?])?;
                    // Not by way of the timer, which counts whole milliseconds.
                    if self.args.flood && sending && self.stats.complete() {
                        self.send().await?;
                        tick.reset();
                    }
                }
                _ = tick.tick(), if sending => self.send().await?,
                () = tokio::time::sleep_until(over), if !sending => return Ok(()),
            }
        }
    }

    fn tick(&self) -> Interval {
        let between = if self.args.flood {
            FLOOD
        } else {
            self.args.interval.max(SHORTEST)
        };
        let mut tick = interval(between);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick
    }

    async fn send(&mut self) -> Result<(), Reason> {
        let size = self.args.size as usize;
        let sdu = payload::payload(self.stats.sent, size);
        self.stats.send(Instant::now());
        match self.flow.write(&sdu).await {
            Ok(()) => Ok(()),
            // The path's MTU shrank on the way; what does not fit counts as lost.
            Err(FlowError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn received(&mut self, sdu: &[u8]) -> Result<(), Reason> {
        let now = Instant::now();
        let Some(sequence) = payload::sequence(sdu, self.args.size as usize) else {
            self.stats.corrupt += 1;
            return self.say(|| format!("{} bytes that were not sent\n", sdu.len()));
        };
        match self.stats.answered(sequence, now) {
            Answer::Fresh(time) if !self.args.flood => {
                let ms = time.as_secs_f64() * 1e3;
                self.say(|| {
                    format!(
                        "{} bytes from {}: seq={sequence} time={ms:.3} ms\n",
                        sdu.len(),
                        self.args.name
                    )
                })
            }
            Answer::Duplicate if !self.args.flood => self.say(|| format!("seq={sequence} again\n")),
            Answer::Fresh(_) | Answer::Duplicate => Ok(()),
        }
    }

    fn say(&self, text: impl FnOnce() -> String) -> Result<(), Reason> {
        if self.talk { print(&text()) } else { Ok(()) }
    }
}

/// How long the last answers are waited for.
const LINGER: Duration = Duration::from_secs(2);
/// Between two of a flood when nothing comes back.
const FLOOD: Duration = Duration::from_millis(10);
/// A timer can't do less.
const SHORTEST: Duration = Duration::from_micros(100);
