//! The VPN program.
fn main() {}
