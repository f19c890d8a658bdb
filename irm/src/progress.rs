//! A sign of life on stderr while something takes its time.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Waits for `work`; on a terminal it shows `what` with the seconds passed, from the first second on.
pub(crate) async fn progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let start = Instant::now();
    let mut tick = interval_at(start + SECOND, SECOND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::pin!(work);
    let mut shown = false;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tick.tick() => {
                shown = true;
                show(&format!("\r{what} … {} s", start.elapsed().as_secs()));
            }
        }
    };
    if shown {
        show("\r\x1b[K");
    }
    done
}

fn show(text: &str) {
    let mut stderr = io::stderr();
    // Nobody to see it is no failure.
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

const SECOND: Duration = Duration::from_secs(1);
