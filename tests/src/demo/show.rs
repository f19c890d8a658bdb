//! What the demo prints: one line a step, with its time.

use std::io::{IsTerminal, Write};
use std::time::Instant;

pub(super) struct Show {
    tty: bool,
}

impl Show {
    pub(super) fn new() -> Self {
        Self {
            tty: std::io::stdout().is_terminal(),
        }
    }

    pub(super) fn title(&self, text: &str) {
        if self.tty {
            self.text(&format!("\x1b[1m{text}\x1b[0m"))
        } else {
            self.text(text)
        }
    }

    pub(super) fn text(&self, text: &str) {
        // The demo goes on when nobody listens.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }

    /// Does something and says how it went and how long it took.
    pub(super) fn step<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut out = std::io::stdout();
        let _ = write!(
            out,
            "{} {what} …",
            if self.tty { "\x1b[33m▸\x1b[0m" } else { ">" }
        )
        .and_then(|()| out.flush());
        let start = Instant::now();
        let done = work();
        let (mark, colour) = if done.is_ok() {
            ("✓", 32)
        } else {
            ("✗", 31)
        };
        let seconds = start.elapsed().as_secs_f64();
        let _ = match self.tty {
            true => writeln!(
                out,
                "\r\x1b[2K\x1b[{colour}m{mark}\x1b[0m {what} \x1b[2m{seconds:.2} s\x1b[0m"
            ),
            false => writeln!(out, " {mark} {seconds:.2} s"),
        };
        done
    }
}
