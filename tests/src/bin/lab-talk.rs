//! Two programs that talk over a flow in SDUs that both can check: what arrives is right, wrong, or came before.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use libflow::{AllocOptions, Batch, Flow, FlowError, Framing, Irm, Label, QosSpec};
use tokio::io::AsyncReadExt;

#[derive(Parser)]
#[command(about = "Talks over a flow and checks every SDU; ends with its stdin")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve a name: check what comes and send it back
    Serve {
        name: String,
        #[arg(long)]
        layer: Label,
        /// What every SDU begins with
        #[arg(long)]
        text: String,
    },
    /// Serve a name and count what comes; prints a line of JSON with the bytes so far every 100 ms
    Sink {
        name: String,
        #[arg(long)]
        layer: Label,
    },
    /// Serve a name and answer nobody who wants a flow
    Mute {
        name: String,
        #[arg(long)]
        layer: Label,
    },
    /// Send bytes to a name at a steady rate; prints a line of JSON with the reason when the flow ends
    Pour {
        name: String,
        #[arg(long)]
        layer: Label,
        #[arg(long, default_value = "raw")]
        qos: QosSpec,
        #[arg(long)]
        bytes_per_s: u64,
        /// Of one SDU
        #[arg(long, default_value_t = 1200)]
        size: usize,
    },
    /// Send SDUs to a name and check what comes back; prints a line of JSON every 100 ms
    Send {
        name: String,
        #[arg(long)]
        layer: Label,
        #[arg(long)]
        text: String,
        /// The only member that may be at the other end
        #[arg(long)]
        peer: Option<Label>,
        /// Milliseconds between two SDUs
        #[arg(long, default_value_t = 2)]
        interval_ms: u64,
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let irm = Irm::connect(None).await.context("can't reach irmd")?;
    match Args::parse().verb {
        Verb::Serve { name, layer, text } => {
            let tasks = tokio::task::LocalSet::new();
            tasks.run_until(serve(&irm, &name, layer, text)).await
        }
        Verb::Mute { name, layer } => mute(&irm, &name, layer).await,
        Verb::Sink { name, layer } => sink(&irm, &name, layer).await,
        Verb::Pour {
            name,
            layer,
            qos,
            bytes_per_s,
            size,
        } => {
            let options = AllocOptions {
                qos,
                layer: Some(layer),
                ..AllocOptions::default()
            };
            let flow = irm.allocate(&name, options).await?;
            tokio::select! {
                end = pour(&flow, bytes_per_s, size) => end,
                end = silence(&flow) => print(&serde_json::json!({"end": end.to_string()})),
                () = stdin_ends() => Ok(()),
            }
        }
        Verb::Send {
            name,
            layer,
            text,
            peer,
            interval_ms,
            timeout_ms,
        } => {
            let options = AllocOptions {
                qos: QosSpec::RAW,
                layer: Some(layer),
                peer,
                timeout: Duration::from_millis(timeout_ms),
                ..AllocOptions::default()
            };
            let flow = irm.allocate(&name, options).await?;
            send(&flow, &text, Duration::from_millis(interval_ms)).await
        }
    }
}

async fn serve(irm: &Irm, name: &str, layer: Label, text: String) -> anyhow::Result<()> {
    let mut listener = irm.listen(name, &[layer]).await?;
    print(&serde_json::json!({"serves": name}))?;
    let accept = async {
        loop {
            let flow = listener.accept().await?.accept().await?;
            let text = text.clone();
            tokio::task::spawn_local(async move {
                let tally = RefCell::new(Tally::default());
                let end = listen(&flow, &text, &tally, true).await;
                let mut json = tally.borrow().json(&end.to_string());
                json["closed"] = end.is_closed().into();
                print(&json)
            });
        }
    };
    tokio::select! {
        end = accept => end,
        () = stdin_ends() => Ok(()),
    }
}

/// Keeps all who ask waiting.
async fn mute(irm: &Irm, name: &str, layer: Label) -> anyhow::Result<()> {
    let mut listener = irm.listen(name, &[layer]).await?;
    print(&serde_json::json!({"serves": name}))?;
    let keep = async {
        let mut asked = Vec::new();
        loop {
            asked.push(listener.accept().await?);
        }
    };
    tokio::select! {
        end = keep => end,
        () = stdin_ends() => Ok(()),
    }
}

/// Counts what one flow brings.
async fn sink(irm: &Irm, name: &str, layer: Label) -> anyhow::Result<()> {
    let mut listener = irm.listen(name, &[layer]).await?;
    print(&serde_json::json!({"bytes": 0}))?;
    let flow = listener.accept().await?.accept().await?;
    let (mut batch, mut bytes) = (Batch::new(Framing::Record), 0_u64);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            read = flow.read_batch(&mut batch) => {
                read?;
                bytes += batch.iter().map(|sdu| sdu.len() as u64).sum::<u64>();
            }
            _ = tick.tick() => print(&serde_json::json!({"bytes": bytes}))?,
            () = stdin_ends() => return Ok(()),
        }
    }
}

/// Reads what nobody sends: the end of the flow shows there.
async fn silence(flow: &Flow) -> FlowError {
    let mut batch = Batch::new(Framing::Record);
    loop {
        if let Err(end) = flow.read_batch(&mut batch).await {
            return end;
        }
    }
}

/// Sends every 5 ms what is due since the last time, but no more than 50 ms hold.
async fn pour(flow: &Flow, bytes_per_s: u64, size: usize) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (sdu, mut last, mut due) = (vec![7; size], Instant::now(), 0.0);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let most = bytes_per_s as f64 * 0.05;
        due += now.duration_since(last).as_secs_f64() * bytes_per_s as f64;
        due = f64::min(due, most);
        last = now;
        let mut batch = Batch::new(Framing::Record);
        while due >= size as f64 {
            if !batch.fits(size) {
                flow.write_batch(&batch).await?;
                batch.clear();
            }
            if let Some(room) = batch.push(size) {
                room.copy_from_slice(&sdu);
            }
            due -= size as f64;
        }
        if !batch.is_empty() {
            flow.write_batch(&batch).await?;
        }
    }
}

async fn send(flow: &Flow, text: &str, interval: Duration) -> anyhow::Result<()> {
    let tally = RefCell::new(Tally::default());
    let speak = async {
        let mut tick = tokio::time::interval(interval);
        for number in 0u64.. {
            tick.tick().await;
            flow.write(&sdu(text, number)).await?;
            tally.borrow_mut().sent += 1;
        }
        Ok::<_, FlowError>(())
    };
    let show = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            let json = tally.borrow().json("");
            if let Err(error) = print(&json) {
                return error;
            }
        }
    };
    let end = tokio::select! {
        end = speak => end.err().map(|e| e.to_string()),
        end = listen(flow, text, &tally, false) => Some(end.to_string()),
        end = show => Some(end.to_string()),
        () = stdin_ends() => None,
    };
    let json = tally.borrow().json(&end.unwrap_or_default());
    print(&json)
}

/// Checks what comes until the flow ends.
async fn listen(flow: &Flow, text: &str, tally: &RefCell<Tally>, echo: bool) -> FlowError {
    let mut batch = Batch::new(Framing::Record);
    loop {
        if let Err(end) = flow.read_batch(&mut batch).await {
            return end;
        }
        for sdu in batch.iter() {
            tally.borrow_mut().take(text, sdu);
        }
        if !echo {
            continue;
        }
        if let Err(end) = flow.write_batch(&batch).await {
            return end;
        }
    }
}

/// What was said and heard.
#[derive(Default)]
struct Tally {
    sent: u64,
    right: HashSet<u64>,
    wrong: u64,
    repeated: u64,
    last: Option<Instant>,
    longest: Duration,
}

impl Tally {
    fn take(&mut self, text: &str, bytes: &[u8]) {
        let number = bytes.get(text.len()..).and_then(|b| b.first_chunk());
        match number.map(|n| u64::from_be_bytes(*n)) {
            Some(number) if bytes == sdu(text, number) => {
                self.repeated += u64::from(!self.right.insert(number));
                self.silence();
                self.last = Some(Instant::now());
            }
            _ => self.wrong += 1,
        }
    }

    fn silence(&mut self) {
        let silent = self.last.map(|at| at.elapsed()).unwrap_or_default();
        self.longest = self.longest.max(silent);
    }

    fn json(&self, end: &str) -> serde_json::Value {
        serde_json::json!({
            "sent": self.sent,
            "right": self.right.len(),
            "wrong": self.wrong,
            "repeated": self.repeated,
            "longest_silence_ms": self.longest.as_millis() as u64,
            "end": end,
        })
    }
}

/// The text, the number, and bytes that follow from it.
fn sdu(text: &str, number: u64) -> Vec<u8> {
    let mut sdu = [text.as_bytes(), &number.to_be_bytes()].concat();
    let mut state = number;
    sdu.extend((0..FILLER).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    }));
    sdu
}

async fn stdin_ends() {
    // Whatever comes, and an error too, is the end.
    let _ = tokio::io::stdin().read(&mut [0]).await;
}

fn print(json: &serde_json::Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{json}").context("can't print")
}

/// Bytes behind the number.
const FILLER: usize = 400;
