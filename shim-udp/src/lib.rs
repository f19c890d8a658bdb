//! The UDP shim: an IPC process whose layer is an IP network, on the wire of seed 002.
//!
//! This crate must not put a header on an SDU, must not answer for a name that isn't registered here, and must not trust
//! what it hears: a shim layer is unauthenticated. Its machine ([`Shim`]) touches no socket, clock or chance; the module
//! [`sockets`] carries out what it asks.
//!
//! ```text
//!   client                               server
//!   cp ──── name ──────────────────────► lp          any datagram on lp is a request
//!   cp ◄─── name ─────────────────────── sp          the echo: allocated, as the client sees it
//!   cp ──── empty datagram or SDU ─────► sp          confirmed: irmd and the program hear of it
//!   cp ◄─── SDUs, empty keep-alives ───► sp          no header
//! ```

mod lower;
mod resolve;
mod shim;
pub mod sockets;

pub use lower::UdpLower;
pub use shim::{Ask, Open, Reading, Shim, SocketKey, Tell, Unbound};
