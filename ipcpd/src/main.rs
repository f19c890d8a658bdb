//! ipcpd
fn main() {}
