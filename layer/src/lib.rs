//! Everything that makes a layer a layer. It must not touch a socket, a clock, a thread or chance.
//!
//! Time and randomness are arguments. The same machine runs under the runtime of crate `ipcp`, the simulator (feature
//! `sim`), a fuzzer and a test.
//!
//! ```text
//!            Control                       Upper flows (SDUs)
//!               │                               │
//!   enrol ── directory ── route ────────► fa (flow allocator)
//!               │            │                  │
//!               │            ▼                  ▼
//!               │          pff ◄─────────── dt (header, TTL, seal)
//!               ▼                               │
//!     channel (reliable, per association)       │
//!               │                               ▼
//!           association (crypt: handshake, keys, window)
//!                               │
//!                        Lower flows (PDUs)
//! ```

pub mod channel;
pub mod codel;
pub mod crypt;
pub mod decree;
pub mod dir;
pub mod frct;
#[doc(hidden)]
pub mod fuzzing;
mod ipcp;
mod lower;
pub mod mtu;
pub mod policy;
pub mod route;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod timers;
mod tokens;
mod unicast;
#[cfg(test)]
mod vectors;

pub use ipcp::{Input, Ipcp, Now, Output, UnixTime};
pub use lower::{FlowAsk, FlowTell, Via};
pub use timers::Timers;
#[cfg(any(test, feature = "sim"))]
pub use unicast::Standing;
#[cfg(any(test, feature = "hostile"))]
pub use unicast::{Meddler, Own, Sent};
pub use unicast::{Unicast, Unsealed};
