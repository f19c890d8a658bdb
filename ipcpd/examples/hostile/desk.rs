//! What the hostile member is told to do, and what it says that it did.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What to do; nothing as long as nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Orders {
    /// The number of these orders; the report gives it back.
    pub(crate) number: u64,
    /// The plaintext to look for in all that can be read.
    pub(crate) needle: String,
    /// Of so many PDUs in transit one is altered: 1 is all of them, 0 none.
    pub(crate) alter: u64,
    /// With one of so many go old ones again: that very one, one from long ago, and one turned back to its source.
    pub(crate) replay: u64,
    /// With one of so many go others that are made up in the name of its source.
    pub(crate) forge: u64,
    /// How many handshakes of others to answer in the other's place.
    pub(crate) impersonate: u64,
    /// Whether records of others are told altered, made up, and again when they are old.
    pub(crate) records: bool,
    /// Whether requests to join go altered, too, and more than once.
    pub(crate) requests: bool,
    /// How many answers to joiners to alter.
    pub(crate) answers: u64,
}

/// What came of it: how often something was seen or done since the process began.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The number of the orders that it follows.
    pub(crate) number: u64,
    /// What was opened for this member, and how many of these held the needle.
    pub(crate) saw: u64,
    pub(crate) needles: u64,
    /// PDUs of others that it was to send on.
    pub(crate) forwarded: u64,
    pub(crate) altered: u64,
    pub(crate) replayed: u64,
    pub(crate) forged: u64,
    /// Handshakes that it answered in another's place, and those of them that ended with keys.
    pub(crate) impersonated: u64,
    pub(crate) shaken: u64,
    /// False or old records told, false requests, false answers.
    pub(crate) records: u64,
    pub(crate) requests: u64,
    pub(crate) answers: u64,
}

/// Where both lie.
pub(crate) struct Desk {
    /// What to do.
    pub(crate) orders: Orders,
    /// What was done.
    pub(crate) report: Report,
    dir: PathBuf,
    /// The orders as they were read.
    text: String,
    written: Report,
    looked: Option<Instant>,
}

impl Desk {
    /// The desk of the process that has this run directory.
    pub(crate) fn new(dir: &std::path::Path) -> Self {
        Self {
            orders: Orders::default(),
            report: Report::default(),
            dir: dir.to_owned(),
            text: String::new(),
            written: Report::default(),
            looked: None,
        }
    }

    /// Reads new orders and writes the report, now and then. Hellos alone bring it here several times a second.
    pub(crate) fn turn(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        self.looked = Some(Instant::now());
        // Without a file there are no orders.
        let text = fs::read_to_string(self.dir.join("hostile.json")).unwrap_or_default();
        if text != self.text {
            match serde_json::from_str(&text) {
                Ok(orders) => self.orders = orders,
                Err(error) => tracing::error!("can't read the orders: {error}"),
            }
            self.text = text;
        }
        self.report.number = self.orders.number;
        if self.report != self.written {
            self.written = self.report.clone();
            if let Err(error) = self.write() {
                tracing::error!("can't write the report: {error}");
            }
        }
    }

    /// Looks for the needle.
    pub(crate) fn saw(&mut self, bytes: &[u8]) {
        self.report.saw += 1;
        let needle = self.orders.needle.as_bytes();
        let found = !needle.is_empty() && bytes.windows(needle.len()).any(|w| w == needle);
        self.report.needles += u64::from(found);
    }

    /// Readers see the whole of it, or that before.
    fn write(&self) -> anyhow::Result<()> {
        let unfinished = self.dir.join("hostile-report.unfinished");
        fs::write(&unfinished, serde_json::to_vec(&self.report)?)?;
        fs::rename(unfinished, self.dir.join("hostile-report.json"))?;
        Ok(())
    }
}

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(50);
