//! Flows to names: what a program links. It must not know addresses or IPC processes.
//!
//! It asks `irmd` for a name and gets a pipe of SDUs; a layer is no more to it than a word that the program may say.
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! [`blocking`] is the same without a runtime; [`FlowSet`] waits on many flows at once; [`port`] is the socket below.

pub mod blocking;
mod end;
mod error;
mod flow;
mod listener;
pub mod port;
mod run_dir;
mod secret;
mod session;
mod set;
mod watch;

pub use error::FlowError;
pub use flow::Flow;
pub use listener::{Incoming, Listener};
pub use proto::record::Peer;
pub use proto::{Batch, Code, FlowId, Framing, Label, Name, QosSpec, Reason};
pub use run_dir::{ADMIN_SOCKET, IRM_SOCKET, RunDir};
pub use secret::Secret;
pub use session::{AllocOptions, Irm, Options};
pub use set::FlowSet;
pub use watch::watch;
