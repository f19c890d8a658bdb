//! `cargo demo`: three hosts in a line, flows to names through the one in the middle, and a VPN on top.

fn main() -> std::process::ExitCode {
    match tests::demo::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
