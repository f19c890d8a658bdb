//! irmd
fn main() {}
