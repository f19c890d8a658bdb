//! The machine on real sockets, on loopback, against peers that know nothing but the seed.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the whole of it is a test: what fails may panic, and it does its own IO"
)]

mod flows;
mod host;
mod requests;
