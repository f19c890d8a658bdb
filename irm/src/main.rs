//! irm
fn main() {}
