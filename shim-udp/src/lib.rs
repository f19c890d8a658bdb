//! The UDP shim: a layer that is an IP network, on the wire of docs/protocol.md. It must not trust what it hears.
//!
//! A shim layer is unauthenticated. Nor must it put a header on an SDU, or answer for a name that isn't registered here.
//! Its machine ([`Shim`]) touches no socket, clock or chance; the module [`sockets`] carries out what it asks.
//!
//! ```text
//!   client                               server
//!   cp ──── name ──────────────────────► lp          any datagram on lp is a request
//!   cp ◄─── name ─────────────────────── sp          the echo: allocated, as the client sees it
//!   cp ──── empty datagram or SDU ─────► sp          confirmed: irmd and the program hear of it
//!   cp ◄─── SDUs, empty keep-alives ───► sp          no header
//! ```

mod lower;
mod place;
mod resolve;
mod shim;
pub mod sockets;

pub use lower::UdpLower;
pub use shim::{Ask, Open, Reading, Shim, SocketKey, Tell, Unbound};
