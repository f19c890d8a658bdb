//! `irm daemon`, `irm wait` and `irm events`.

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
pub(crate) async fn events(c: &Context) -> Result<(), Reason> {
    let mut admin = c.admin().await?;
    let mut stream = answer(QUICK, admin.rpc.events(pb::EventsRequest {})).await?;
    loop {
        match stream.message().await {
            Ok(Some(event)) => print(&format!("{}\n", json::event(&event)))?,
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

/// Asks irmd to restart and waits until another life of it answers.
async fn restart(c: &Context) -> Result<(), Reason> {
    let mut admin = c.admin().await?;
    let before = life(&mut admin).await?;
    match answer(QUICK, admin.rpc.restart_daemon(pb::Empty {})).await {
        Ok(_) => {}
        // It may be gone before its answer is out; whether it comes back decides.
        Err(reason) if reason.code == Code::Unreachable => {}
        Err(reason) => return Err(reason),
    }
    drop(admin);
    let back = async {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Ok(mut admin) = Admin::connect(&c.run_dir).await
                && let Ok(now) = life(&mut admin).await
                && is_reborn(&before, &now)
            {
                return;
            }
        }
    };
    let late = |_| {
        let text = format!(
            "irmd has not come back for {}; see its log and start it",
            words(QUICK)
        );
        Reason::new(Code::TimedOut, text)
    };
    tokio::time::timeout(QUICK, back).await.map_err(late)?;
    c.out.done()
}

async fn life(admin: &mut Admin) -> Result<pb::DaemonInfo, Reason> {
    Ok(answer(QUICK, admin.rpc.status(pb::StatusRequest {}))
        .await?
        .daemon
        .unwrap_or_default())
}

/// It may keep its process id, but not the time that it has been up.
fn is_reborn(before: &pb::DaemonInfo, now: &pb::DaemonInfo) -> bool {
    now.pid != before.pid || now.uptime_ms < before.uptime_ms
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

const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

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
    fn the_timeout_goes_to_irmd_in_milliseconds() {
        assert_eq!(
            asked("irm wait ipcp a --timeout 1.5s").unwrap().timeout_ms,
            1500
        );
    }
}
