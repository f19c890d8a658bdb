//! shim-udp
fn main() {}
