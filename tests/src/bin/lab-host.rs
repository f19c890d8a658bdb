//! The small program that makes and enters network namespaces for the Lab and the demo.
//!
//! It must not start a thread before it has entered its namespaces: a user namespace can only be entered by a process
//! of one thread.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tests::host::main(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}
