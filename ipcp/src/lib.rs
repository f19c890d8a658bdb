//! The one runtime of every IPC process. It must not know what kind of layer it runs.
//!
//! It owns the sockets, the clock and chance, and drives a pure machine: everything that differs is in that
//! ([`layer::Ipcp`]) and in the way to its lower network ([`Lower`]).
//!
//! ```text
//!   irmd ── attach ──┐          ┌── upper ── record sockets ── users
//!                    ▼          ▼
//!                   run: handle, poll, deadline of the machine
//!                    ▲          ▲
//!         timers ────┘          └── lower ── flows (FlowLower) or sockets of a shim (udp)
//! ```
//!
//! One thread, one epoll. No task, channel or lock is on the way of a packet; the control stream has tasks of its own. Seals alone
//! may be put on by more threads, a turn's batches at once (`sealers`), where that is switched on or the cipher is slow.

mod attach;
mod config;
mod descriptors;
mod devices;
mod flow_lower;
mod io;
mod lower;
mod run;
pub mod sealers;
mod store;
pub mod telemetry;
pub mod udp;
mod upper;

pub use config::{Arguments, Config, block_on, seed};
pub use flow_lower::FlowLower;
pub use io::{Counters, Interest, Io, Key, Watch};
pub use libflow::Secret;
pub use lower::{In, Lower};
pub use run::run;
pub use store::Store;
