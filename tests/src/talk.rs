//! Two programs that talk over one flow all the time: what comes is checked, and that it goes on.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{Host, Process, until};

/// SDUs that are echoed over a raw flow of the layer `overlay`.
pub struct Talk {
    serve: Process,
    send: Process,
}

impl Talk {
    /// Begins to talk from one host to another.
    pub fn begin(from: &Host, to: &Host) -> anyhow::Result<Self> {
        let name = format!("talk-{}", to.name);
        let serve = ["serve", &name, "--layer", "overlay", "--text", TEXT];
        let serve = to.spawn_piped("lab-talk", serve)?;
        until(TEN, || to.irm(&format!("wait name {name} --timeout 1s")))?;
        let send = ["send", &name, "--layer", "overlay", "--text", TEXT];
        let send = from.spawn_piped("lab-talk", send)?;
        Ok(Self { serve, send })
    }

    /// Waits for fifty more echoes, at most ten seconds; `what` has happened before.
    pub fn goes_on(&self, what: &str) -> anyhow::Result<()> {
        let had = self.send.newest()["right"].as_u64().unwrap_or(0);
        until(TEN, || {
            let now = self.send.newest();
            let right = now["right"].as_u64();
            ensure!(right > Some(had + 50), "{what}: no echo any more: {now}");
            Ok(())
        })
    }

    /// Ends the one that began, or kills it; gives what the other has heard of that.
    pub fn heard_at_the_end(mut self, kills: bool) -> anyhow::Result<Value> {
        if kills {
            self.send.signal(Signal::SIGKILL)?;
            self.send.wait(TEN)?;
        } else {
            self.send.finish(TEN)?;
        }
        until(TEN, || {
            let newest = self.serve.newest();
            ensure!(newest["end"].is_string(), "it heard of no end: {newest}");
            Ok(newest)
        })
    }

    /// Ends it. It was one flow all the time, and brought nothing wrong or twice; gives what was counted.
    pub fn end(self) -> anyhow::Result<Value> {
        let said = self.send.finish(TEN)?;
        let last = said.lines().last().context("it said nothing")?;
        let said: Value = serde_json::from_str(last).context("it said no JSON")?;
        ensure!(said["end"] == "", "the flow has ended: {said}");
        ensure!(said["wrong"] == 0 && said["repeated"] == 0, "{said}");
        self.serve.finish(TEN)?;
        Ok(said)
    }
}

const TEN: Duration = Duration::from_secs(10);
const TEXT: &str = "talk";
