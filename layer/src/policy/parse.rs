//! How a policy is written down: one rule a line. It must not judge anybody.

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::glob::Glob;
use super::{Act, MAX_RULES, Policy, Rule, Service, Who};

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the policy: {}", self.line, self.why)
    }
}

impl std::error::Error for PolicyError {}

/// A word, and whether it stood in quotes.
type Word = (String, bool);

pub(super) fn policy(text: &str) -> Result<Policy, PolicyError> {
    let (mut rules, mut hybrid) = (Vec::new(), false);
    for (i, line) in text.lines().enumerate() {
        let at = |why: String| PolicyError { line: i + 1, why };
        let words = words(line).map_err(|why| at(why.to_owned()))?;
        if words.is_empty() {
            continue;
        }
        if is(&words, 0, "require") {
            if !is(&words, 1, "hybrid") || words.len() > 2 {
                let why = "what can be required is: require hybrid";
                return Err(at(why.to_owned()));
            }
            hybrid = true;
            continue;
        }
        if rules.len() >= MAX_RULES {
            return Err(at(format!(
                "there are more than {MAX_RULES} rules; take some together"
            )));
        }
        rules.push(rule(i + 1, &words).map_err(at)?);
    }
    if rules.is_empty() {
        let why = "there is no rule; where everything shall be denied, write: deny * * by any";
        return Err(PolicyError {
            line: text.lines().count().max(1),
            why: why.to_owned(),
        });
    }
    Ok(Policy { rules, hybrid })
}

/// Whether a word, as it stands, is the one at that place.
fn is(words: &[Word], at: usize, word: &str) -> bool {
    words
        .get(at)
        .is_some_and(|(w, quoted)| w == word && !quoted)
}

fn rule(line: usize, words: &[Word]) -> Result<Rule, String> {
    let mut rest = words.iter();
    let allows = match rest.next().map(|(w, _)| w.as_str()) {
        Some("allow") => true,
        Some("deny") => false,
        other => {
            let other = other.unwrap_or_default();
            return Err(format!(
                "a rule begins with allow or deny, or is require hybrid, and not with {other}"
            ));
        }
    };
    let acts = acts(rest.next().map_or("", |(w, _)| w.as_str()))?;
    let rest: Vec<&Word> = rest.collect();
    let by = rest
        .iter()
        .position(|(word, quoted)| word == "by" && !quoted);
    let by =
        by.ok_or("it says not by whom; end it with: by any, by member NAME or by group NAME")?;
    let (names, who) = (&rest[..by], &rest[by + 1..]);
    if names.is_empty() {
        return Err("it says not with which names; * stands for all".to_owned());
    }
    let who = whom("by", who)?;
    if acts.contains(&Act::Send) {
        return packets(line, allows, &acts, names, who);
    }
    if names.len() > MAX_PATTERNS || who.len() > MAX_PATTERNS {
        return Err(format!("it names more than {MAX_PATTERNS}; make two of it"));
    }
    let of_networks = acts.iter().filter(|a| Act::NETWORKS.contains(a)).count();
    let (names, networks) = match of_networks {
        0 => (names.iter().map(|(w, _)| Glob::new(w)).collect(), vec![]),
        all if all == acts.len() => (vec![], networks(names)?),
        _ => {
            let why =
                "offer and take are of networks, the other acts of names; make two rules of it";
            return Err(why.to_owned());
        }
    };
    Ok(Rule {
        line,
        allows,
        acts,
        names,
        networks,
        services: Vec::new(),
        to: Vec::new(),
        who,
    })
}

/// A rule about packets: what for, to whom, by whom.
fn packets(
    line: usize,
    allows: bool,
    acts: &[Act],
    words: &[&Word],
    who: Vec<Who>,
) -> Result<Rule, String> {
    if acts.len() > 1 {
        return Err("send is of packets, the other acts are not; make two rules of it".to_owned());
    }
    let to = words
        .iter()
        .position(|(word, quoted)| word == "to" && !quoted);
    let to = to.ok_or(
        "it says not to whom packets are sent; write as: allow send tcp/443 to group servers by any",
    )?;
    let services = words[..to].iter().map(|(word, _)| word.parse::<Service>());
    let services = services.collect::<Result<Vec<_>, _>>()?;
    if services.is_empty() {
        return Err("it says not which packets; * stands for all".to_owned());
    }
    let to = whom("to", &words[to + 1..])?;
    if services.len() > MAX_PATTERNS || to.len() > MAX_PATTERNS || who.len() > MAX_PATTERNS {
        return Err(format!("it names more than {MAX_PATTERNS}; make two of it"));
    }
    Ok(Rule {
        line,
        allows,
        acts: vec![Act::Send],
        names: Vec::new(),
        networks: Vec::new(),
        services,
        to,
        who,
    })
}

fn networks(words: &[&Word]) -> Result<Vec<IpNet>, String> {
    let mut networks = Vec::new();
    for (word, _) in words {
        let all = word == "*";
        let some = match all {
            true => vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            false => word.parse().into_iter().map(|n: IpNet| n.trunc()).collect(),
        };
        if some.is_empty() {
            return Err(format!(
                "{word:?} is no network; write one as 10.1.0.0/16, or * for all"
            ));
        }
        networks.extend(some);
    }
    Ok(networks)
}

fn acts(text: &str) -> Result<Vec<Act>, String> {
    if text == "*" {
        return Ok(Act::ALL.to_vec());
    }
    let act = |word: &str| {
        let mut all = Act::ALL.into_iter().chain(Act::NETWORKS).chain([Act::Send]);
        all.find(|act| act.word() == word).ok_or_else(|| {
            format!("{word:?} is no act; there are register, allocate, accept, with commas between, and *; and of networks offer, take; and of packets send")
        })
    };
    text.split(',').map(act).collect()
}

fn whom(behind: &str, words: &[&Word]) -> Result<Vec<Who>, String> {
    let mut who = Vec::new();
    let mut rest = words.iter();
    while let Some((word, _)) = rest.next() {
        let mut pattern = || {
            let pattern = rest.next().map(|(pattern, _)| pattern.clone());
            pattern.ok_or_else(|| format!("behind {word:?} a name is missing"))
        };
        who.push(match word.as_str() {
            "any" => Who::Any,
            "member" => Who::Member(Glob::new(&pattern()?)),
            "group" => Who::Group(Glob::new(&pattern()?)),
            other => {
                return Err(format!(
                    "behind {behind} stand any, member NAME or group NAME, not {other:?}"
                ));
            }
        });
    }
    if who.is_empty() {
        return Err(format!(
            "nobody stands behind {behind}; write any, member NAME or group NAME"
        ));
    }
    Ok(who)
}

/// Words are what stands between spaces, or between quotes, where `\` takes the meaning of the next character. What
/// follows a `#` is for people.
fn words(line: &str) -> Result<Vec<Word>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '#' => break,
            c if c.is_whitespace() => {}
            '"' => {
                let mut word = String::new();
                loop {
                    match rest.next().ok_or("a quote is not closed")? {
                        '"' => break,
                        '\\' => word.push(rest.next().ok_or("a quote is not closed")?),
                        c => word.push(c),
                    }
                }
                words.push((word, true));
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !matches!(c, '"' | '#'))
                {
                    word.push(c);
                }
                words.push((word, false));
            }
        }
    }
    Ok(words)
}

const MAX_PATTERNS: usize = 256;
