//! The UDP shim as a program.

fn main() {}
