//! The rules of DESIGN §5, each as a sentence, on the machine with a virtual clock and wire.

// The whole of it is a test: what fails may panic.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod bench;
mod client;
mod flood;
mod server;
