//! The answer on stdout: a table for people or one JSON document for programs.

pub(crate) mod json;
pub(crate) mod table;

use std::io::{self, IsTerminal, Write};

use proto::{Code, Reason};
use serde_json::Value;

/// How answers are given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// In JSON.
    pub(crate) json: bool,
}

impl Out {
    /// Prints one answer; the text for people is made only if it is wanted, and printed only if it isn't empty.
    pub(crate) fn answer(self, json: Value, text: impl FnOnce() -> String) -> Result<(), Reason> {
        if self.json {
            return print(&format!("{json:#}\n"));
        }
        match text() {
            text if text.is_empty() || text.ends_with('\n') => print(&text),
            text => print(&format!("{text}\n")),
        }
    }

    /// The answer to what has nothing to say.
    pub(crate) fn done(self) -> Result<(), Reason> {
        self.answer(serde_json::json!({"ok": true}), String::new)
    }
}

/// Writes to stdout. A reader that left (`irm … | head`) ends the program quietly: it has what it wanted.
pub(crate) fn print(text: &str) -> Result<(), Reason> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Reason::new(
            Code::Failed,
            format!("can't write the answer: {e}"),
        )),
    }
}

/// Writes a remark to stderr; nobody to read it is no failure.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Emphasis on a terminal, the bare text elsewhere.
pub(crate) fn bold(text: &str) -> String {
    match io::stdout().is_terminal() {
        true => format!("\x1b[1m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}
