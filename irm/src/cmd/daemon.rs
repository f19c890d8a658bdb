//! `irm daemon`, `irm wait` and `irm events`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proto::irm as pb;
use proto::{Code, Reason};

use super::Context;
use crate::args::{DaemonVerb, Wait};
use crate::client::{self, Admin, GRACE, QUICK, answer};
use crate::duration::{millis, words};
use crate::out::{json, print};
use crate::progress::progress;

pub(crate) async fn run(c: &Context, verb: DaemonVerb) -> Result<(), Reason> {
    match verb {
        DaemonVerb::Restart => progress("restarting irmd", restart(c)).await,
    }
}

/// Waits until irmd has the state.
pub(crate) async fn wait(c: &Context, args: Wait) -> Result<(), Reason> {
    let request = wait_request(&args)?;
    let mut admin = c.admin().await?;
    let what = format!(
        "waiting for {} {} to be {}",
        request.kind, request.what, request.state
    );
    progress(&what, answer(args.timeout + GRACE, admin.rpc.wait(request))).await?;
    c.out.done()
}

/// Prints what happens, a line each, until irmd ends the stream or nobody reads.
pub(crate) async fn events(c: &Context, follow: bool) -> Result<(), Reason> {
    let mut admin = c.admin().await?;
    let request = pb::EventsRequest { past: !follow };
    let mut stream = answer(QUICK, admin.rpc.events(request)).await?;
    loop {
        match stream.message().await {
            Ok(Some(event)) => print(&format!("{}\n", json::event(&event)))?,
            Ok(None) if !follow => return Ok(()),
            Ok(None) => {
                return Err(Reason::new(
                    Code::Unreachable,
                    "irmd ended the events; it is restarting or gone",
                ));
            }
            Err(status) => return Err(client::reason(status)),
        }
    }
}

/// Asks irmd to restart, and waits until another life of it answers and has found the IPCPs that were up.
async fn restart(c: &Context) -> Result<(), Reason> {
    let mut admin = c.admin().await?;
    let before = Look::at(&mut admin).await?;
    match answer(QUICK, admin.rpc.restart_daemon(pb::Empty {})).await {
        Ok(_) => {}
        // It may be gone before its answer is out; whether it comes back decides.
        Err(reason) if reason.code == Code::Unreachable => {}
        Err(reason) => return Err(reason),
    }
    drop(admin);
    let late = |_| {
        let text = format!(
            "irmd has not come back for {}; see its log and start it",
            words(QUICK)
        );
        Reason::new(Code::TimedOut, text)
    };
    tokio::time::timeout(QUICK, until(c, |now| now.is_reborn_since(&before)))
        .await
        .map_err(late)?;
    // An IPCP that died meanwhile is restarted by irmd, which is no failure of this command.
    let _ = tokio::time::timeout(REATTACH, until(c, |now| now.has_all_of(&before))).await;
    c.out.done()
}

/// Looks again and again; an irmd that isn't there yet is no failure.
async fn until(c: &Context, good: impl Fn(&Look) -> bool) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Ok(mut admin) = Admin::connect(&c.run_dir).await
            && let Ok(now) = Look::at(&mut admin).await
            && good(&now)
        {
            return;
        }
    }
}

/// One look at irmd, which tells one life of it from the next: it may keep its process id, but not its age.
#[derive(Debug, Clone)]
struct Look {
    pid: u32,
    age: Duration,
    asked: Instant,
    told: Instant,
    /// The IPCPs that are up.
    up: BTreeSet<String>,
}

impl Look {
    async fn at(admin: &mut Admin) -> Result<Self, Reason> {
        let asked = Instant::now();
        let reply = answer(QUICK, admin.rpc.status(pb::StatusRequest {})).await?;
        let daemon = reply.daemon.unwrap_or_default();
        let up = reply
            .ipcps
            .into_iter()
            .filter(|i| i.state == "up")
            .map(|i| i.name)
            .collect();
        Ok(Self {
            pid: daemon.pid,
            age: Duration::from_millis(daemon.uptime_ms),
            asked,
            told: Instant::now(),
            up,
        })
    }

    /// Whether `self` saw a later life than `before`: the age that the earlier one has at least by now is not reached.
    fn is_reborn_since(&self, before: &Self) -> bool {
        let passed = self.asked.saturating_duration_since(before.told);
        self.pid != before.pid || self.age + ROUNDING < before.age + passed
    }

    fn has_all_of(&self, before: &Self) -> bool {
        before.up.is_subset(&self.up)
    }
}

fn wait_request(args: &Wait) -> Result<pb::WaitRequest, Reason> {
    let states = args.kind.states();
    let state = args.state.as_deref().unwrap_or(states[0]);
    if !states.contains(&state) {
        let text = format!(
            "{state:?} is no state of a {}; use {}",
            args.kind.word(),
            states.join(", ")
        );
        return Err(Reason::new(Code::Usage, text));
    }
    Ok(pb::WaitRequest {
        kind: args.kind.word().to_owned(),
        what: args.what.to_string(),
        state: state.to_owned(),
        timeout_ms: millis(args.timeout),
    })
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long IPCPs that live may take to find their new irmd.
const REATTACH: Duration = Duration::from_secs(5);
/// Ages are told in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Noun};
    use clap::Parser;

    fn parsed(line: &str) -> Wait {
        match Cli::try_parse_from(line.split(' ')).unwrap().noun {
            Some(Noun::Wait(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn asked(line: &str) -> Result<pb::WaitRequest, Reason> {
        wait_request(&parsed(line))
    }

    #[test]
    fn without_a_state_the_good_one_is_waited_for() {
        for (line, state) in [
            ("irm wait ipcp a", "up"),
            ("irm wait name n", "registered"),
            ("irm wait flow 3", "allocated"),
            ("irm wait vpn ovl", "up"),
            ("irm wait vpn ovl --state down", "down"),
        ] {
            assert_eq!(asked(line).unwrap().state, state, "{line}");
        }
    }

    #[test]
    fn a_state_of_something_else_is_refused() {
        let reason = asked("irm wait flow 3 --state enrolling").unwrap_err();
        assert_eq!(reason.code, Code::Usage);
        assert!(reason.text.contains("allocated, pending, down"), "{reason}");
    }

    #[test]
    fn a_restarted_irmd_is_younger_than_it_would_be() {
        let start = Instant::now();
        let look = |pid, age_ms, at_ms| {
            let at = start + Duration::from_millis(at_ms);
            Look {
                pid,
                age: Duration::from_millis(age_ms),
                asked: at,
                told: at + Duration::from_millis(3),
                up: BTreeSet::new(),
            }
        };
        let before = look(7, 50, 0);
        assert!(!look(7, 250, 200).is_reborn_since(&before), "the same life");
        assert!(
            look(7, 190, 200).is_reborn_since(&before),
            "restarted in place, and older than the first was"
        );
        assert!(
            look(8, 250, 200).is_reborn_since(&before),
            "another process"
        );
    }

    #[test]
    fn the_timeout_goes_to_irmd_in_milliseconds() {
        assert_eq!(
            asked("irm wait ipcp a --timeout 1.5s").unwrap().timeout_ms,
            1500
        );
    }
}
