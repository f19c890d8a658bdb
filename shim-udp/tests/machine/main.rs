//! The rules of DESIGN §5, each as a sentence, on the machine with a virtual clock and wire.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "the whole of it is a test: what fails may panic"
)]

mod bench;
mod client;
mod flood;
mod place;
mod server;
