//! What programs that know only IP do, for tests and the demo: ping, HTTP, UDP. Nothing needs to be installed for it.

fn main() -> std::process::ExitCode {
    match tests::tool::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-tool: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
