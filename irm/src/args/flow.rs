//! `irm flow`, `echo`, `ping`, `perf` and `cat`.

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::{Label, Name, QosSpec};

use crate::duration::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum FlowVerb {
    /// Show the flows of this host
    #[command(after_help = "Example:\n  irm flow list --json")]
    List,
}

/// What every command takes that opens a flow.
#[derive(Debug, Clone, Args)]
pub(crate) struct FlowOptions {
    /// raw, best, data, video or voice, or KEY=VALUE,… with ordered, reliable, max-delay-ms, priority, timeout-ms
    #[arg(long, value_name = "QOS", default_value = "best")]
    pub(crate) qos: QosSpec,
    #[command(flatten)]
    pub(crate) way: Way,
}

/// To whom a flow may go, beside its name.
#[derive(Debug, Clone, Args)]
pub(crate) struct Way {
    /// Only over this layer [default: a program of this host, or any unicast layer]
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Option<Label>,
    /// Refuse any other member than this
    #[arg(long, value_name = "MEMBER")]
    pub(crate) peer: Option<Label>,
    /// How long a flow may take to stand
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Echo {
    /// The name to serve
    pub(crate) name: Name,
    /// Register it in this layer too; may be given several times
    #[arg(long = "layer", value_name = "LAYER")]
    pub(crate) layers: Vec<Label>,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// Who to ping
    pub(crate) name: Name,
    /// How many to send [default: until stopped]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Between two of them
    #[arg(short = 'i', long, value_name = "TIME", default_value = "1", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Bytes of each, at least 16
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=65_505))]
    pub(crate) size: u32,
    /// Flood: the next as soon as the answer is there, or after 10 ms
    #[arg(short = 'f', long, conflicts_with = "interval")]
    pub(crate) flood: bool,
    #[command(flatten)]
    pub(crate) flow: FlowOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// To whom; with --listen: the name to serve
    pub(crate) name: Name,
    /// Wait for one flow to the name, registered in --layer, instead of asking for one
    #[arg(long, conflicts_with_all = ["qos", "peer", "timeout"])]
    pub(crate) listen: bool,
    /// data, or KEY=VALUE,… on top of it
    #[arg(long, value_name = "QOS", default_value = "data", value_parser = reliable)]
    pub(crate) qos: QosSpec,
    #[command(flatten)]
    pub(crate) way: Way,
}

/// A QoS that loses nothing and keeps the order.
fn reliable(text: &str) -> Result<QosSpec, String> {
    let qos = text.parse::<QosSpec>().map_err(|e| e.to_string())?;
    if qos.reliable && qos.ordered {
        Ok(qos)
    } else {
        Err("what is cut in pieces needs a reliable, ordered flow; use data".to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Perf {
    /// Who to measure against; with --server: the name to serve
    pub(crate) name: Name,
    /// Serve measurements until stopped
    #[arg(long, conflicts_with_all = ["time", "size", "flows", "reverse"])]
    pub(crate) server: bool,
    /// How long to send
    #[arg(short = 't', long, value_name = "TIME", default_value = "10", value_parser = duration)]
    pub(crate) time: Duration,
    /// Bytes of each SDU, at least 16 [default: 1400, or what the flow takes if that is less]
    #[arg(short = 's', long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(16..=65_505))]
    pub(crate) size: Option<u32>,
    /// Over so many flows at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub(crate) flows: u16,
    /// The server sends
    #[arg(long)]
    pub(crate) reverse: bool,
    #[command(flatten)]
    pub(crate) flow: FlowOptions,
}
