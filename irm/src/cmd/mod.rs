//! What the commands do: one file a noun.

mod bind;
mod cat;
mod daemon;
mod echo;
mod flow;
mod ipcp;
mod layer;
mod name;
mod perf;
mod ping;
mod policy;
mod ports;
mod proxy;
mod pump;
mod vpn;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use libflow::RunDir;
use proto::Reason;
use proto::irm as pb;

use crate::args::{Cli, Noun};
use crate::client::{Admin, QUICK, answer};
use crate::out::{Out, json, table};

/// What every command gets.
pub(crate) struct Context {
    /// How to answer.
    pub(crate) out: Out,
    /// Where irmd lives.
    pub(crate) run_dir: PathBuf,
}

impl Context {
    /// Connects to irmd.
    pub(crate) async fn admin(&self) -> Result<Admin, Reason> {
        Admin::connect(&self.run_dir).await
    }
}

/// Does what was typed.
pub(crate) async fn run(cli: Cli) -> Result<(), Reason> {
    let context = Context {
        out: Out { json: cli.json },
        run_dir: RunDir::find(cli.run_dir.as_deref()).path().to_owned(),
    };
    let c = &context;
    match cli.noun.unwrap_or(Noun::Status) {
        Noun::Status => status(c).await,
        Noun::Ipcp(verb) => ipcp::run(c, verb).await,
        Noun::Layer(verb) => layer::run(c, verb).await,
        Noun::Policy(verb) => policy::run(c, verb).await,
        Noun::Name(verb) => name::run(c, verb).await,
        Noun::Bind(verb) => bind::bind(c, verb).await,
        Noun::Unbind(verb) => bind::unbind(c, verb).await,
        Noun::Vpn(verb) => vpn::run(c, verb).await,
        Noun::Wait(wait) => daemon::wait(c, wait).await,
        Noun::Events(args) => daemon::events(c, args.follow).await,
        Noun::Daemon(verb) => daemon::run(c, verb).await,
        Noun::Flow(verb) => flow::run(c, verb).await,
        Noun::Echo(args) => echo::run(c, args).await,
        Noun::Ping(args) => ping::run(c, args).await,
        Noun::Perf(args) => perf::run(c, args).await,
        Noun::Cat(args) => cat::run(c, args).await,
        Noun::Forward(args) => ports::forward(c, args).await,
        Noun::Expose(args) => ports::expose(c, args).await,
        Noun::Proxy(args) => proxy::run(c, args).await,
    }
}

async fn status(c: &Context) -> Result<(), Reason> {
    let mut admin = c.admin().await?;
    let reply = answer(QUICK, admin.rpc.status(pb::StatusRequest {})).await?;
    c.out
        .answer(json::status(&reply), || table::status(&reply, now()))
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Texts for a message.
fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

/// What docs/vectors.txt has for a name.
#[cfg(test)]
fn vector(name: &str) -> Vec<u8> {
    let file = include_str!("../../../docs/vectors.txt");
    let mut found = file.lines().filter_map(|line| line.split_once(" = "));
    let (_, text) = found.find(|(n, _)| *n == name).unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}
