//! Allocates many flows to one name through `libflow`, at once or one after the other, and says how long each took.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use futures_util::StreamExt;
use futures_util::future::join_all;
use libflow::{AllocOptions, Flow, Irm, Label, QosSpec};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

#[derive(Parser)]
#[command(about = "Allocates many flows to a name and prints how long it took, as JSON")]
struct Args {
    name: String,
    /// The layer; by default any
    #[arg(long)]
    layer: Option<Label>,
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// One after the other, each closed before the next
    #[arg(long)]
    in_turn: bool,
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
    /// So many users open a flow, use and close it, again and again, for so many seconds (with --count: how many users)
    #[arg(long, value_name = "SECONDS")]
    churn: Option<f64>,
    /// Of the users: so many milliseconds at most is a flow kept
    #[arg(long, default_value_t = 1000)]
    keep_ms: u64,
    /// No more than so many are asked for at a time; 0: all at once
    #[arg(long, default_value_t = 0)]
    at_once: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let irm = Irm::connect(None).await.context("can't reach irmd")?;
    if let Some(seconds) = args.churn {
        let users = Users::new(&irm, &args, Duration::from_secs_f64(seconds));
        return print(&users.run().await);
    }
    let begin = Instant::now();
    let took = if args.at_once > 0 {
        // Each is closed as soon as it stands.
        let asked = (0..args.count).map(|_| async { one(&irm, &args).await.map(|(took, _)| took) });
        futures_util::stream::iter(asked)
            .buffer_unordered(args.at_once)
            .collect()
            .await
    } else if args.in_turn {
        let mut took = Vec::new();
        for _ in 0..args.count {
            took.push(one(&irm, &args).await.map(|(took, _)| took));
        }
        took
    } else {
        // All are held until the last one stands.
        let all = join_all((0..args.count).map(|_| one(&irm, &args))).await;
        all.iter()
            .map(|r| match r {
                Ok((took, _)) => Ok(*took),
                Err(e) => Err(e.clone()),
            })
            .collect()
    };
    let seconds = begin.elapsed().as_secs_f64();
    let (good, failed) = sorted(took);
    print(&serde_json::json!({
        "allocated": good.len(),
        "failed": failed,
        "seconds": seconds,
        "p50_ms": at(&good, 0.5),
        "p99_ms": at(&good, 0.99),
        "slowest_ms": at(&good, 1.0),
    }))
}

/// How many milliseconds those took that came about, and why the others did not.
fn sorted(took: Vec<Result<Duration, String>>) -> (Vec<f64>, Vec<String>) {
    let (mut good, mut failed) = (Vec::new(), Vec::new());
    for one in took {
        match one {
            Ok(time) => good.push(time.as_secs_f64() * 1e3),
            Err(why) => failed.push(why),
        }
    }
    good.sort_by(f64::total_cmp);
    (good, failed)
}

fn at(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part) as usize;
    let place = place.min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0.0)
}

fn print(json: &serde_json::Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{json}").context("can't print")
}

/// Many users of one name that echoes: each opens a flow, raw or reliable, says something, hears it, waits and closes it.
struct Users<'a> {
    irm: &'a Irm,
    args: &'a Args,
    end: Instant,
    tally: RefCell<Tally>,
}

#[derive(Default)]
struct Tally {
    took: Vec<Result<Duration, String>>,
    echoed: u64,
    lost: u64,
    wrong: u64,
    open: usize,
    most_open: usize,
}

impl<'a> Users<'a> {
    fn new(irm: &'a Irm, args: &'a Args, time: Duration) -> Self {
        Self {
            irm,
            args,
            end: Instant::now() + time,
            tally: RefCell::default(),
        }
    }

    async fn run(self) -> serde_json::Value {
        let begin = Instant::now();
        join_all((0..self.args.count as u64).map(|user| self.user(user))).await;
        let tally = self.tally.into_inner();
        let (good, failed) = sorted(tally.took);
        serde_json::json!({
            "seconds": begin.elapsed().as_secs_f64(),
            "allocated": good.len(),
            "failed": failed.len(),
            "why": failed.iter().collect::<BTreeSet<_>>().iter().take(5).collect::<Vec<_>>(),
            "echoed": tally.echoed,
            "lost": tally.lost,
            "wrong": tally.wrong,
            "most_open": tally.most_open,
            "p50_ms": at(&good, 0.5),
            "p99_ms": at(&good, 0.99),
            "slowest_ms": at(&good, 1.0),
        })
    }

    async fn user(&self, user: u64) {
        let mut chance = ChaCha8Rng::seed_from_u64(user);
        // Not all at one moment.
        let first = chance.next_u64() % self.args.keep_ms.max(1);
        tokio::time::sleep(Duration::from_millis(first)).await;
        while Instant::now() < self.end {
            let qos = match chance.next_u64() % 2 {
                0 => QosSpec::RAW,
                _ => QosSpec::DATA,
            };
            let (took, flow) = match allocated(self.irm, self.args, qos).await {
                Ok((took, flow)) => (Ok(took), Some(flow)),
                Err(why) => (Err(why), None),
            };
            self.tally.borrow_mut().took.push(took);
            let Some(flow) = flow else { continue };
            self.opened(1);
            self.speak(&flow, &chance.next_u64().to_be_bytes()).await;
            let keep = chance.next_u64() % self.args.keep_ms.max(1);
            tokio::time::sleep(Duration::from_millis(keep)).await;
            drop(flow);
            self.opened(-1);
        }
    }

    fn opened(&self, n: isize) {
        let tally = &mut *self.tally.borrow_mut();
        tally.open = tally.open.saturating_add_signed(n);
        tally.most_open = tally.most_open.max(tally.open);
    }

    /// One SDU and its echo.
    async fn speak(&self, flow: &Flow, sdu: &[u8]) {
        let mut back = [0; 64];
        let heard = async {
            flow.write(sdu).await?;
            flow.read(&mut back).await
        };
        let heard = tokio::time::timeout(Duration::from_secs(5), heard).await;
        let tally = &mut *self.tally.borrow_mut();
        match heard {
            Ok(Ok(len)) if back[..len] == *sdu => tally.echoed += 1,
            Ok(Ok(_)) => tally.wrong += 1,
            Ok(Err(_)) | Err(_) => tally.lost += 1,
        }
    }
}

async fn one(irm: &Irm, args: &Args) -> Result<(Duration, Flow), String> {
    allocated(irm, args, QosSpec::RAW).await
}

async fn allocated(irm: &Irm, args: &Args, qos: QosSpec) -> Result<(Duration, Flow), String> {
    let options = AllocOptions {
        qos,
        layer: args.layer.clone(),
        timeout: Duration::from_millis(args.timeout_ms),
        ..AllocOptions::default()
    };
    let start = Instant::now();
    match irm.allocate(&args.name, options).await {
        Ok(flow) => Ok((start.elapsed(), flow)),
        Err(error) => Err(error.to_string()),
    }
}
