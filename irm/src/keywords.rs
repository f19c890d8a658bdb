//! Ouroboros-style words: `irm i b t shim-udp n w1 l net ip 10.0.0.1` becomes
//! `irm ipcp bootstrap --type=shim-udp w1 --layer=net --ip=10.0.0.1`.
//!
//! One pure translation of the arguments before clap sees them. The keywords of a verb are its options and its
//! positional argument, read from clap's own description, so the two can't drift apart.

use std::ffi::OsString;

use clap::{Arg, Command};
use proto::{Code, Reason};

/// Rewrites `argv` (with the program's name first). What is no keyword style comes back as it was.
pub(crate) fn translate(argv: Vec<OsString>, root: &Command) -> Result<Vec<OsString>, Reason> {
    let Some(at) = next_word(&argv, 1) else {
        return Ok(argv);
    };
    let Some(noun) = resolve(&argv[at], root) else {
        return Ok(argv);
    };
    if !NOUNS.contains(&noun.get_name()) {
        return Ok(argv);
    }
    let Some(at) = next_word(&argv, at + 1) else {
        return Ok(argv);
    };
    let Some(verb) = resolve(&argv[at], noun) else {
        return Ok(argv);
    };
    let (head, rest) = argv.split_at(at + 1);
    let plain = |i: usize| rest.get(i).is_some_and(|a| !is_option(a));
    // A verb has one positional argument at most: two plain words in a row are keyword style.
    if !plain(0) || !plain(1) {
        return Ok(argv);
    }
    let words = Words {
        command: format!("irm {} {}", noun.get_name(), verb.get_name()),
        verb,
    };
    let mut out = head.to_vec();
    words.rewrite(rest, BINDS.contains(&noun.get_name()), &mut out)?;
    Ok(out)
}

struct Words<'a> {
    command: String,
    verb: &'a Command,
}

impl Words<'_> {
    /// Rewrites `rest`; `leads` says that the positional argument always comes first, without a keyword.
    fn rewrite(
        &self,
        rest: &[OsString],
        leads: bool,
        out: &mut Vec<OsString>,
    ) -> Result<(), Reason> {
        let end = rest.iter().position(|a| a == "--").unwrap_or(rest.len());
        let mut args = rest[..end].iter();
        // `register N layer L` and `register name N layer L` differ in the number of words.
        if (leads || self.plain_words(&rest[..end]) % 2 == 1)
            && let Some(first) = args.next()
        {
            out.push(first.clone());
        }
        while let Some(word) = args.next() {
            if is_option(word) {
                out.push(word.clone());
                if self.option_takes_next(word) {
                    out.extend(args.next().cloned());
                }
                continue;
            }
            let arg = self.keyword(word)?;
            if !arg.get_action().takes_values() {
                out.push(option(arg));
                continue;
            }
            let value = args
                .next()
                .ok_or_else(|| self.usage(format!("the keyword {word:?} lacks its value")))?;
            if arg.is_positional() {
                out.push(value.clone());
            } else {
                let mut joined = option(arg);
                joined.push("=");
                joined.push(value);
                out.push(joined);
            }
        }
        out.extend(rest[end..].iter().cloned());
        Ok(())
    }

    /// The words that are neither options nor their values.
    fn plain_words(&self, args: &[OsString]) -> usize {
        let (mut count, mut args) = (0, args.iter());
        while let Some(arg) = args.next() {
            match is_option(arg) {
                true if self.option_takes_next(arg) => drop(args.next()),
                true => {}
                false => count += 1,
            }
        }
        count
    }

    /// The argument that a keyword or an unambiguous prefix of one means.
    fn keyword(&self, word: &OsString) -> Result<&Arg, Reason> {
        let text = word.to_str().unwrap_or_default();
        let known: Vec<&Arg> = self
            .verb
            .get_arguments()
            .filter(|a| is_keyword(a))
            .collect();
        let mut found = known
            .iter()
            .filter(|a| !text.is_empty() && keyword_of(a).starts_with(text));
        match (
            known.iter().find(|a| keyword_of(a) == text),
            found.next(),
            found.next(),
        ) {
            (Some(exact), ..) => Ok(exact),
            (None, Some(only), None) => Ok(only),
            (None, Some(_), Some(_)) => {
                let all: Vec<&str> = known
                    .iter()
                    .map(|a| keyword_of(a))
                    .filter(|k| k.starts_with(text))
                    .collect();
                Err(self.usage(format!(
                    "the keyword {word:?} can mean {}; write more of it",
                    all.join(" or ")
                )))
            }
            (None, None, _) => {
                let all: Vec<&str> = known.iter().map(|a| keyword_of(a)).collect();
                Err(self.usage(format!("{word:?} is no keyword; use {}", all.join(", "))))
            }
        }
    }

    fn option_takes_next(&self, option: &OsString) -> bool {
        let Some(name) = option.to_str().and_then(|o| o.strip_prefix("--")) else {
            return false;
        };
        name == RUN_DIR
            || self
                .verb
                .get_arguments()
                .any(|a| a.get_long() == Some(name) && a.get_action().takes_values())
    }

    fn usage(&self, text: String) -> Reason {
        Reason::new(
            Code::Usage,
            format!("{}: {text} (see {} --help)", self.command, self.command),
        )
    }
}

/// The place of the first word from `at` on that is neither a global option nor its value; `None`: there is none, or
/// something that only clap understands comes before it.
fn next_word(argv: &[OsString], mut at: usize) -> Option<usize> {
    loop {
        let arg = argv.get(at)?;
        match arg.to_str() {
            Some("--json") => at += 1,
            Some("--run-dir") => at += 2,
            Some(text) if text.starts_with("--run-dir=") => at += 1,
            Some(text) if text.starts_with('-') => return None,
            Some(_) => return Some(at),
            None => return None,
        }
    }
}

/// The subcommand of this name, or the only one that begins so.
fn resolve<'a>(word: &OsString, of: &'a Command) -> Option<&'a Command> {
    let text = word.to_str().filter(|t| !t.is_empty())?;
    let mut found = of
        .get_subcommands()
        .filter(|c| c.get_name().starts_with(text));
    of.find_subcommand(text)
        .or_else(|| found.next().filter(|_| found.next().is_none()))
}

fn is_option(arg: &OsString) -> bool {
    arg.as_encoded_bytes().starts_with(b"-") && arg.len() > 1
}

/// A time-out has no keyword, so that `t` goes on meaning `type`; nor have the options that every command takes.
fn is_keyword(arg: &Arg) -> bool {
    !arg.is_global_set() && !arg.is_last_set() && !["timeout", "help"].contains(&keyword_of(arg))
}

fn keyword_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_else(|| arg.get_id().as_str())
}

fn option(arg: &Arg) -> OsString {
    format!("--{}", keyword_of(arg)).into()
}

const NOUNS: [&str; 4] = ["ipcp", "name", "bind", "unbind"];
const BINDS: [&str; 2] = ["bind", "unbind"];
const RUN_DIR: &str = "run-dir";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;
    use std::os::unix::ffi::OsStringExt;

    fn translated(line: &str) -> Result<String, Reason> {
        let argv = line.split(' ').map(OsString::from).collect();
        let out = translate(argv, &Cli::command())?;
        Ok(out
            .iter()
            .map(|a| a.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn keywords_become_options() {
        let table = [
            (
                "irm ipcp bootstrap type shim-udp name w1 layer net ip 10.0.0.1",
                "irm ipcp bootstrap --type=shim-udp w1 --layer=net --ip=10.0.0.1",
            ),
            (
                "irm i b t shim-udp n u1 l net ip 127.0.0.1",
                "irm i b --type=shim-udp u1 --layer=net --ip=127.0.0.1",
            ),
            (
                "irm ipcp create name w1 type normal",
                "irm ipcp create w1 --type=normal",
            ),
            (
                "irm ipcp create w1 type normal",
                "irm ipcp create w1 --type=normal",
            ),
            (
                "irm ipcp create name w1 --type unicast",
                "irm ipcp create w1 --type unicast",
            ),
            ("irm ipcp destroy name w1", "irm ipcp destroy w1"),
            ("irm i e n b invite -", "irm i e b --invite=-"),
            (
                "irm i e n b l ovl dst a --timeout 5s",
                "irm i e b --layer=ovl --dst=a --timeout 5s",
            ),
            ("irm i con n a d b", "irm i con a --dst=b"),
            (
                "irm --run-dir /x --json n r web l ovl l net",
                "irm --run-dir /x --json n r web --layer=ovl --layer=net",
            ),
            ("irm n r name layer l ovl", "irm n r layer --layer=ovl"),
            (
                "irm b prog /bin/x n web auto -- a name b",
                "irm b prog /bin/x --name=web --auto -- a name b",
            ),
            ("irm b proc 12 name web", "irm b proc 12 --name=web"),
            (
                "irm unbind process 12 n web",
                "irm unbind process 12 --name=web",
            ),
        ];
        for (from, to) in table {
            assert_eq!(translated(from).as_deref(), Ok(to), "{from}");
        }
    }

    #[test]
    fn options_stay_as_they_are() {
        for line in [
            "irm",
            "irm --json",
            "irm status",
            "irm ipcp",
            "irm ipcp list",
            "irm ipcp create name --type unicast",
            "irm ipcp create --type unicast name",
            "irm ipcp destroy type",
            "irm name register layer --layer ovl",
            "irm bind program name --name web",
            "irm --help ipcp create name w1",
            "irm ping name layer",
            "irm x y name z",
            "irm ipcp x name z",
        ] {
            assert_eq!(translated(line).as_deref(), Ok(line), "{line}");
        }
    }

    #[test]
    fn what_is_no_keyword_says_what_is() {
        let text = |line| translated(line).unwrap_err().text;
        assert!(text("irm ipcp create name w1 tipe unicast").contains("use name, type"));
        assert!(text("irm ipcp bootstrap n a l ovl p 10.0.0.0/8").contains("port or prefix"));
        assert!(text("irm bind process 12 name").contains("lacks its value"));
    }

    #[test]
    fn words_that_are_not_utf8_are_left_to_clap() {
        let argv = vec![
            "irm".into(),
            "name".into(),
            "create".into(),
            OsString::from_vec(vec![0xff]),
        ];
        assert_eq!(translate(argv.clone(), &Cli::command()), Ok(argv));
    }
}
