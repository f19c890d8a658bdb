//! vpn
fn main() {}
