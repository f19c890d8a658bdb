//! Waits until something is as an administrator wants it.

use std::sync::Arc;
use std::time::Duration;

use proto::irm::WaitRequest;
use proto::{Code, Label, Reason};

use crate::daemon::Daemon;
use crate::{broker, status, vpns};

/// Returns when the thing has the state; fails with `TimedOut` and the state that it has instead.
pub(crate) async fn wait(daemon: &Arc<Daemon>, request: WaitRequest) -> Result<(), Reason> {
    let (kind, what, state) = (
        request.kind.as_str(),
        request.what.as_str(),
        request.state.as_str(),
    );
    let states: &[&str] = match kind {
        "ipcp" => &["up", "waiting", "enrolling", "down"],
        "name" => &["registered", "unregistered"],
        "flow" => &["allocated", "pending", "down"],
        "vpn" => &["up", "down"],
        _ => {
            return Err(Reason::new(
                Code::Usage,
                format!("{kind:?} is nothing to wait for; use ipcp, name, flow or vpn"),
            ));
        }
    };
    let state = if state.is_empty() {
        states.first().copied().unwrap_or_default()
    } else {
        state
    };
    if !states.contains(&state) {
        return Err(Reason::new(
            Code::Usage,
            format!(
                "{state:?} is no state of a {kind}; use {}",
                states.join(", ")
            ),
        ));
    }
    let timeout = broker::bounded(request.timeout_ms);
    let end = tokio::time::Instant::now() + timeout;
    loop {
        let now = states_of(daemon, kind, what);
        if now.iter().any(|s| s == state) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            let ms = timeout.as_millis();
            let text = now.first().map_or_else(
                || format!("there is no {kind} {what} yet, after {ms} ms; see `irm {kind} list`"),
                |is| format!("{kind} {what} is {is}, not {state}, after {ms} ms; see `irm status`"),
            );
            return Err(Reason::new(Code::TimedOut, text));
        }
        tokio::time::sleep(POLL.min(end.saturating_duration_since(tokio::time::Instant::now())))
            .await;
    }
}

fn states_of(daemon: &Arc<Daemon>, kind: &str, what: &str) -> Vec<String> {
    match kind {
        "ipcp" => {
            let ipcp = Label::new(what)
                .ok()
                .and_then(|name| daemon.ipcp(&name).ok());
            ipcp.map(|i| i.state().word().to_owned())
                .into_iter()
                .collect()
        }
        "name" => {
            let found = status::names(daemon).into_iter().find(|n| n.name == what);
            vec![found.map_or_else(|| "unregistered".to_owned(), |n| n.state)]
        }
        "flow" => {
            let flows = daemon.flows();
            let of = flows
                .iter()
                .filter(|(id, f)| id.to_string() == what || f.name.as_str() == what);
            let found: Vec<String> = of.map(|(id, f)| f.info(id).state).collect();
            if found.is_empty() {
                vec!["down".to_owned()]
            } else {
                found
            }
        }
        _ => {
            let found = vpns::all(daemon)
                .into_iter()
                .find(|v| v.spec.dev == what || v.spec.layer == what);
            vec![found.map_or_else(|| "down".to_owned(), |v| v.info().state)]
        }
    }
}

const POLL: Duration = Duration::from_millis(25);
