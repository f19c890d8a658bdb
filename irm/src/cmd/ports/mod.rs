//! TCP and UDP ports over flows: `irm forward`, `irm expose`, and what `irm proxy` shares with them.
//!
//! | module | holds |
//! |---|---|
//! | `forward`, `expose` | the two ends |
//! | `tcp` | a connection, over one reliable, ordered flow |
//! | `datagrams` | UDP, over one flow |
//! | `lanes` | such flows for many senders at one socket |
//! | `counts` | what is told at the end |

mod counts;
mod datagrams;
mod expose;
mod forward;
mod lanes;
mod tcp;

use std::fmt::Display;

use libflow::{AllocOptions, QosSpec};
use proto::{Code, Reason};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

pub(super) use counts::{Count, Counts};
pub(super) use expose::run as expose;
pub(super) use forward::run as forward;
pub(super) use lanes::{Lane, Lanes};
pub(super) use tcp::{Tcp, accept};

use super::Context;
use super::flow::asked;
use crate::args::{Ask, Bounds};
use crate::out::{print, remark};

/// What a flow is asked for, with the QoS that is usual for what it carries.
fn wanted(ask: &Ask, usual: QosSpec) -> AllocOptions {
    asked(ask.qos.unwrap_or(usual), &ask.way)
}

/// The same for bytes, which take a flow that loses nothing and keeps the order.
pub(super) fn wanted_for_tcp(ask: &Ask) -> Result<AllocOptions, Reason> {
    let wanted = wanted(ask, QosSpec::DATA);
    match carries_bytes(wanted.qos) {
        true => Ok(wanted),
        false => Err(Reason::new(
            Code::Usage,
            "TCP needs a reliable, ordered flow; leave --qos out, or say data,KEY=VALUE,…",
        )),
    }
}

/// The same for datagrams, where the QoS is not that of the connections beside them.
pub(super) fn wanted_for_udp(ask: &Ask) -> AllocOptions {
    wanted(ask, QosSpec::RAW)
}

fn carries_bytes(qos: QosSpec) -> bool {
    qos.reliable && qos.ordered
}

/// Says that the work begins: a line of JSON on stdout, or one for people on stderr.
pub(super) fn say_ready(c: &Context, json: &Value, text: &str) -> Result<(), Reason> {
    match c.out.json {
        true => print(&format!("{json}\n")),
        false => {
            remark(text);
            Ok(())
        }
    }
}

/// How many flows there may be at once: as many as were asked for, or as there are descriptors for.
pub(super) fn most(bounds: &Bounds) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let asked = bounds.most as usize;
    let room = current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let possible = (room.saturating_sub(OTHERS) / EACH).max(1);
    if possible < asked {
        remark(&format!(
            "{possible} flows at once, not {asked}: this process may have {room} open files"
        ));
    }
    asked.min(possible)
}

/// What clap has seen to already.
fn no_port() -> Reason {
    Reason::new(Code::Usage, "say which port, with --tcp or --udp")
}

/// A failure of the system's, as a reason that says what was to be done.
pub(super) fn failed(what: impl Display, error: &std::io::Error) -> Reason {
    use std::io::ErrorKind as K;
    let code = if matches!(error.kind(), K::PermissionDenied) {
        Code::Denied
    } else if matches!(error.kind(), K::AddrInUse) {
        Code::Conflict
    } else {
        Code::Failed
    };
    Reason::new(code, format!("can't {what}: {error}"))
}

/// Descriptors of a connection: itself, the socket of its flow, once more when that waits for room; and of a flow of
/// datagrams beside it.
const EACH: usize = 6;
/// Descriptors of everything else.
const OTHERS: usize = 64;
