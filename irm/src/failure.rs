//! How a failure is told: one line on stderr, and the exit code of its kind.

use std::io::Write;
use std::process::ExitCode;

use proto::{Code, Reason};
use serde_json::json;

/// Prints the failure and gives its exit code.
pub(crate) fn report(reason: &Reason, as_json: bool) -> ExitCode {
    // When stderr is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{}", line(reason, as_json));
    ExitCode::from(reason.code.exit_code())
}

/// What clap has to say as one line, or `None` for what isn't a failure (help, version), which it prints itself.
pub(crate) fn usage(error: &clap::Error) -> Option<Reason> {
    if !error.use_stderr() {
        return None;
    }
    let text = error.render().to_string();
    let told: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"))
        .filter(|l| !l.is_empty())
        .collect();
    let told = told.join(" ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    Some(Reason::new(Code::Usage, format!("{told}; see irm --help")))
}

fn line(reason: &Reason, as_json: bool) -> String {
    match as_json {
        true => json!({"error": {"code": reason.code.word(), "exit": reason.code.exit_code(), "text": reason.text}}).to_string(),
        false => format!("irm: {}", reason.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    #[test]
    fn a_failure_is_one_line_for_people_and_for_programs() {
        let reason = Reason::new(Code::NotFound, "no IPCP w1; see irm ipcp list");
        assert_eq!(line(&reason, false), "irm: no IPCP w1; see irm ipcp list");
        assert_eq!(
            line(&reason, true),
            r#"{"error":{"code":"not_found","exit":4,"text":"no IPCP w1; see irm ipcp list"}}"#
        );
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let said = |argv: &[&str]| usage(&Cli::try_parse_from(argv).unwrap_err());
        let missing = said(&["irm", "ipcp", "create"]).unwrap();
        assert_eq!(missing.code, Code::Usage);
        assert!(
            missing.text.contains("--type <TYPE>") && missing.text.contains("<NAME>"),
            "{missing}"
        );
        let long = said(&["irm", "name", "create", &"x".repeat(256)]).unwrap();
        assert!(long.text.contains("at most 255"), "{long}");
        assert!(said(&["irm", "--help"]).is_none());
    }
}
